"""Task 1's results file, `results/task1_channels.csv`: its columns, and its rows grouped by model."""
from __future__ import annotations

import statistics
from typing import NamedTuple

from report.results_file import METRICS, ResultsFile
from utils import UserError

SUBSETS = ("RGB", "RG", "RB", "GB", "R", "G", "B")
ROLES = ("ours", "baseline", "specialist", "ablation")   # the order of lines in the file and in every table
SPECIALISTS = "specialists (one net a subset)"


def _subset_order(subset: str) -> tuple:
    return SUBSETS.index(subset) if subset in SUBSETS else len(SUBSETS), -len(subset), subset


def _order(row: dict) -> tuple:
    return (row["tier"], row["dataset"], row["image_size"], row["split"], ROLES.index(row["role"]), row["model"],
            row["seed"], _subset_order(row["subset"]))


RESULTS = ResultsFile(
    columns={"tier": (str, ""), "dataset": (str, ""), "image_size": (int, "d"), "role": (str, ""), "model": (str, ""),
             "seed": (int, "d"), "subset": (str, ""), "split": (str, ""), **METRICS,
             "params": (int, "d"), "macs": (int, "d"), "latency_ms": (float, ".3f")},
    key=("tier", "dataset", "image_size", "model", "seed", "subset", "split"), order=_order, roles=ROLES,
    may_be_empty=("params", "macs", "latency_ms"))


class Entry(NamedTuple):
    """One line of a table: a model with its rows, or all specialists together, each at its own subset."""
    name: str
    role: str
    rows: list[dict]

    def values(self, column: str, *subsets: str) -> list[float]:
        """The column's values at the subsets, over seeds, without empty cells."""
        return [row[column] for row in self.rows if row["subset"] in subsets and row[column] is not None]

    def mean(self, column: str, *subsets: str) -> float | None:
        values = self.values(column, *subsets)
        return statistics.fmean(values) if values else None

    def subsets(self) -> list[str]:
        return sorted({row["subset"] for row in self.rows}, key=_subset_order)

    def seeds(self) -> str:
        """Number of seeds; "1–3" where the subsets differ in it."""
        counts = sorted({len(self.values("top1_pct", subset)) for subset in self.subsets()})
        return "–".join(str(count) for count in dict.fromkeys((counts[0], counts[-1])))

    def params(self) -> float | None:
        """Parameters of the net, or the sum over nets for the specialists."""
        means = [self.mean("params", subset) for subset in self.subsets()]
        return None if None in means else sum(means) if self.role == "specialist" else means[0]

    def by_seed(self) -> list[dict[str, float]]:
        """Top-1 per seed: subset -> percent."""
        seeds: dict[int, dict] = {}
        for row in self.rows:
            seeds.setdefault(row["seed"], {})[row["subset"]] = row["top1_pct"]
        return list(seeds.values())


def settings(rows: list[dict], split: str) -> dict[tuple, list[Entry]]:
    """(tier, dataset, image_size) -> entries in the order of `ROLES`, from the rows of one split.

    Raises:
        UserError: two specialist nets claim one subset and seed.
    """
    groups: dict[tuple, dict[tuple, list]] = {}
    for row in sorted((row for row in rows if row["split"] == split), key=_order):
        name = SPECIALISTS if row["role"] == "specialist" else row["model"]
        setting = groups.setdefault((row["tier"], row["dataset"], row["image_size"]), {})
        members = setting.setdefault((name, row["role"]), [])
        for other in members:
            if (other["subset"], other["seed"]) == (row["subset"], row["seed"]):
                raise UserError(f"specialists {other['model']} and {row['model']} both claim subset {row['subset']}, "
                                f"seed {row['seed']}: keep each at its own subset, in one architecture a setting")
        members.append(row)
    return {key: [Entry(name, role, members) for (name, role), members in setting.items()]
            for key, setting in groups.items()}
