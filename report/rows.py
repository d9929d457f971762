"""Task 1's results file, `results/task1_channels.csv`: its columns, reading, updating, grouping by model."""
from __future__ import annotations

import csv
import io
import math
import statistics
from pathlib import Path
from typing import NamedTuple

from utils import UserError, write_text

SUBSETS = ("RGB", "RG", "RB", "GB", "R", "G", "B")
ROLES = ("ours", "baseline", "specialist", "ablation")   # the order of lines in the file and in every table
SPECIALISTS = "specialists (one net a subset)"
COLUMNS = {   # name: (type, format); top-1 and its interval in percent, macro values in 0..1
    "tier": (str, ""), "dataset": (str, ""), "image_size": (int, "d"), "role": (str, ""), "model": (str, ""),
    "seed": (int, "d"), "subset": (str, ""), "split": (str, ""),
    "top1_pct": (float, ".2f"), "ci95_low": (float, ".2f"), "ci95_high": (float, ".2f"),
    "precision_macro": (float, ".4f"), "recall_macro": (float, ".4f"), "f1_macro": (float, ".4f"),
    "params": (int, "d"), "macs": (int, "d"), "latency_ms": (float, ".3f")}
UPPER = {name: 1 if name.endswith("macro") else 100 if name in ("top1_pct", "ci95_low", "ci95_high") else math.inf
         for name, (kind, _) in COLUMNS.items() if kind is not str}
MAY_BE_EMPTY = ("params", "macs", "latency_ms")
KEY = ("tier", "dataset", "image_size", "model", "seed", "subset", "split")


# ---------------------------------------------------------------- the file

def read_rows(path: str | Path) -> list[dict]:
    """The rows of `results/task1_channels.csv`, typed; an empty cost cell is None.

    Raises:
        UserError: no such file, another header, a malformed line or a repeated key; names file and line.
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            reader = csv.reader(file)
            if next(reader, None) != list(COLUMNS):
                raise UserError(f"{path}:1: the header is not {','.join(COLUMNS)}")
            rows = {}
            for cells in reader:
                row = _parse(cells, f"{path}:{reader.line_num}")
                if _key(row) in rows:
                    raise UserError(f"{path}:{reader.line_num}: a second row for {_key(row)}; delete one of the two")
                rows[_key(row)] = row
            return list(rows.values())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read {path}: {error}") from error


def upsert_rows(path: str | Path, rows: list[dict]) -> None:
    """Write `rows` into the file in place of rows with the same key; keep the others, sort, replace atomically.

    One program at a time: of two that write at the same moment, the later one wins.

    Raises:
        UserError: the file cannot be read or written, or a row has an unknown role or a value out of range.
        ValueError: a row's names are not those of `COLUMNS`.
    """
    merged = {_key(row): row for row in (read_rows(path) if Path(path).exists() else [])}
    for number, row in enumerate(rows, 1):
        if set(row) != set(COLUMNS):
            raise ValueError(f"row {number}: missing or unknown columns {sorted(set(row) ^ set(COLUMNS))}")
        row = _parse(_cells(row), f"row {number} for {path}")
        merged[_key(row)] = row
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(_cells(row) for row in sorted(merged.values(), key=_order))
    write_text(path, text.getvalue())


def run_name(row: dict) -> str:
    """What the record and the predictions of a row's evaluation are called, without ending: TIER-DATASET-SIZEpx-MODEL-sSEED."""
    return f"{row['tier']}-{row['dataset']}-{row['image_size']}px-{row['model']}-s{row['seed']}"


def _cells(row: dict) -> list[str]:
    return ["" if row[name] is None else format(row[name], spec) for name, (_, spec) in COLUMNS.items()]


def _parse(cells: list[str], where: str) -> dict:
    """Typed row from text cells, with every value checked."""
    if len(cells) != len(COLUMNS):
        raise UserError(f"{where}: {len(cells)} cells, expected {len(COLUMNS)}")
    row = {}
    for (name, (kind, _)), cell in zip(COLUMNS.items(), cells):
        if cell == "" and name in MAY_BE_EMPTY:
            row[name] = None
            continue
        try:
            row[name] = kind(cell)
        except ValueError:
            raise UserError(f"{where}: {name} is {cell!r}, expected {kind.__name__}") from None
        if kind is str and (not cell or "|" in cell or "\n" in cell):
            raise UserError(f"{where}: {name} is {cell!r}; it must be text without | or line breaks")
        if kind is not str and not (0 <= row[name] <= UPPER[name] and math.isfinite(row[name])):
            raise UserError(f"{where}: {name} is {cell}, outside 0..{UPPER[name]}")
    if row["role"] not in ROLES:
        raise UserError(f"{where}: unknown role {row['role']!r}, expected one of {', '.join(ROLES)}")
    return row


def _key(row: dict) -> tuple:
    return tuple(row[name] for name in KEY)


def _subset_order(subset: str) -> tuple:
    return SUBSETS.index(subset) if subset in SUBSETS else len(SUBSETS), -len(subset), subset


def _order(row: dict) -> tuple:
    return (row["tier"], row["dataset"], row["image_size"], row["split"], ROLES.index(row["role"]), row["model"],
            row["seed"], _subset_order(row["subset"]))


# ---------------------------------------------------------------- rows by model

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
