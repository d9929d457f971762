"""A task's results file: a CSV file with typed columns, one line a key, every value checked."""
from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from utils import UserError, write_text

METRICS = {   # name: (type, format); top-1 and its interval in percent, macro values in 0..1
    "top1_pct": (float, ".2f"), "ci95_low": (float, ".2f"), "ci95_high": (float, ".2f"),
    "precision_macro": (float, ".4f"), "recall_macro": (float, ".4f"), "f1_macro": (float, ".4f")}


@dataclass(frozen=True)
class ResultsFile:
    """What the lines of a results file are.

    Args:
        columns: name -> (type, format), in the file's order; "role" is one of them.
        key: columns that tell a line from all others.
        order: line -> what the lines are sorted by.
        roles: values of the column "role".
        may_be_empty: number columns that may have an empty cell, None in the row.
    """
    columns: dict[str, tuple[type, str]]
    key: tuple[str, ...]
    order: Callable[[dict], tuple]
    roles: tuple[str, ...]
    may_be_empty: tuple[str, ...]

    def read(self, path: str | Path) -> list[dict]:
        """The rows of the file at `path`, typed.

        Raises:
            UserError: no such file, another header, a malformed line or a repeated key; names file and line.
        """
        try:
            with open(path, encoding="utf-8", newline="") as file:
                reader = csv.reader(file)
                if next(reader, None) != list(self.columns):
                    raise UserError(f"{path}:1: the header is not {','.join(self.columns)}")
                rows = {}
                for cells in reader:
                    row = self._parse(cells, f"{path}:{reader.line_num}")
                    if self._key(row) in rows:
                        raise UserError(f"{path}:{reader.line_num}: a second row for {self._key(row)}; delete one of the two")
                    rows[self._key(row)] = row
                return list(rows.values())
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"cannot read {path}: {error}") from error

    def upsert(self, path: str | Path, rows: list[dict]) -> None:
        """Write `rows` into the file in place of rows with the same key; keep the others, sort, replace atomically.

        One program at a time: of two that write at the same moment, the later one wins.

        Raises:
            UserError: the file cannot be read or written, or a row has an unknown role or a value out of range.
            ValueError: a row's names are not those of the columns.
        """
        merged = {self._key(row): row for row in (self.read(path) if Path(path).exists() else [])}
        for number, row in enumerate(rows, 1):
            if set(row) != set(self.columns):
                raise ValueError(f"row {number}: missing or unknown columns {sorted(set(row) ^ set(self.columns))}")
            row = self._parse(self._cells(row), f"row {number} for {path}")
            merged[self._key(row)] = row
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(self._cells(row) for row in sorted(merged.values(), key=self.order))
        write_text(path, text.getvalue())

    def _cells(self, row: dict) -> list[str]:
        return ["" if row[name] is None else format(row[name], spec) for name, (_, spec) in self.columns.items()]

    def _parse(self, cells: list[str], where: str) -> dict:
        """Typed row from text cells, with every value checked."""
        if len(cells) != len(self.columns):
            raise UserError(f"{where}: {len(cells)} cells, expected {len(self.columns)}")
        row = {}
        for (name, (kind, _)), cell in zip(self.columns.items(), cells):
            if cell == "" and name in self.may_be_empty:
                row[name] = None
                continue
            try:
                row[name] = kind(cell)
            except ValueError:
                raise UserError(f"{where}: {name} is {cell!r}, expected {kind.__name__}") from None
            if kind is str and (not cell or "|" in cell or "\n" in cell):
                raise UserError(f"{where}: {name} is {cell!r}; it must be text without | or line breaks")
            if kind is not str and not (0 <= row[name] <= _upper(name) and math.isfinite(row[name])):
                raise UserError(f"{where}: {name} is {cell}, outside 0..{_upper(name)}")
        if row["role"] not in self.roles:
            raise UserError(f"{where}: unknown role {row['role']!r}, expected one of {', '.join(self.roles)}")
        return row

    def _key(self, row: dict) -> tuple:
        return tuple(row[name] for name in self.key)


def _upper(column: str) -> float:
    """The largest value that a column of numbers may have."""
    if column not in METRICS:
        return math.inf
    return 1 if column.endswith("macro") else 100
