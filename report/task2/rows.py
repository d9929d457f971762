"""Task 2's results file, `results/task2_classifiers.csv`: its columns, and its rows grouped by model."""
from __future__ import annotations

import statistics
from typing import NamedTuple

from report.comparisons import SETTING, by_setting
from report.results_file import METRICS, ResultsFile
from utils import UserError

ROLES = ("ours", "resnet34", "distilled", "baseline", "ablation")   # the order of lines in the file and in every table


def _order(row: dict) -> tuple:
    return (*(row[name] for name in SETTING), row["split"], ROLES.index(row["role"]), row["model"], row["seed"])


RESULTS = ResultsFile(
    columns={"tier": (str, ""), "dataset": (str, ""), "image_size": (int, "d"), "role": (str, ""), "model": (str, ""),
             "seed": (int, "d"), "split": (str, ""), **METRICS,
             "strict_depth": (int, "d"), "train_depth": (int, "d"), "params": (int, "d"), "macs": (int, "d"),
             "latency_ms_b1": (float, ".3f"), "latency_ms_b256": (float, ".2f"), "peak_mem_mb": (float, ".2f"),
             "train_s": (float, ".1f")},
    key=(*SETTING, "model", "seed", "split"), order=_order, roles=ROLES, may_be_empty=("latency_ms_b1", "latency_ms_b256"))


class Entry(NamedTuple):
    """One line of a table: a model with its rows, one a seed."""
    name: str
    role: str
    rows: list[dict]

    def values(self, column: str) -> list[float]:
        """The column's values over seeds, without empty cells."""
        return [row[column] for row in self.rows if row[column] is not None]

    def mean(self, column: str) -> float | None:
        values = self.values(column)
        return statistics.fmean(values) if values else None

    def same(self, column: str) -> int:
        """The column's value, which all seeds share.

        Raises:
            UserError: they do not.
        """
        values = set(self.values(column))
        if len(values) > 1:
            raise UserError(f"the seeds of model {self.name!r} differ in {column} ({', '.join(map(str, sorted(values)))}): "
                            "evaluate different networks under different names")
        return values.pop()


def settings(rows: list[dict], split: str) -> dict[tuple, list[Entry]]:
    """(tier, dataset, image_size) -> entries in the order of `ROLES`, from the rows of one split."""
    groups = {}
    for setting, members in by_setting(sorted(rows, key=_order), split).items():
        models: dict[tuple, list[dict]] = {}
        for row in members:
            models.setdefault((row["model"], row["role"]), []).append(row)
        groups[setting] = [Entry(name, role, lines) for (name, role), lines in models.items()]
    return groups


def best(entries: list[Entry], role: str) -> str | None:
    """The role's model with the highest mean top-1; with entries of the validation split the test images have no say in it."""
    return max((entry for entry in entries if entry.role == role), key=lambda entry: entry.mean("top1_pct"),
               default=Entry(None, role, [])).name
