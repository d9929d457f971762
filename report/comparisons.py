"""What the comparisons of both tasks share: settings, spread over seeds, correction for many tests, CSV text."""
from __future__ import annotations

import csv
import io
import math
from functools import cache

import numpy as np

from metrics import PairedBootstrap, holm

SETTING = ("tier", "dataset", "image_size")
RESULT = ("difference_points", "ci95_low", "ci95_high", "p_value", "p_holm")


def by_setting(rows: list[dict], split: str = "test") -> dict[tuple, list[dict]]:
    """(tier, dataset, image_size) -> its rows of the split."""
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        if row["split"] == split:
            groups.setdefault(tuple(row[key] for key in SETTING), []).append(row)
    return groups


@cache
def bootstrap(images: int) -> PairedBootstrap:
    return PairedBootstrap(images)


def pooled_variance(top1: list[np.ndarray]) -> tuple[float, int | float]:
    """Variance over seeds within models and its degrees of freedom, from each model's top-1 (seeds,); 0 where unknown."""
    values = [v for v in top1 if len(v) > 1]
    freedom = sum(len(v) - 1 for v in values)
    return (float(sum(((v - v.mean()) ** 2).sum() for v in values)) / freedom, freedom) if freedom else (0.0, math.inf)


def adjusted(lines: list[dict]) -> list[dict]:
    """The lines with p_holm, over the distinct comparisons among them."""
    def pair(line: dict) -> tuple:
        return line["model"], line.get("other", line.get("reference")), line.get("subset")
    tested = {pair(line): line["p_value"] for line in lines if line["p_value"] is not None}
    corrected = dict(zip(tested, holm(list(tested.values()))))
    return [{**line, "p_holm": corrected.get(pair(line))} for line in lines]


def to_csv(lines: list[dict], columns: tuple[str, ...], decimals: dict[str, int] | None = None) -> str:
    """Text of a CSV file: numbers with two decimals or those of `decimals`, p values four significant digits, None empty."""
    def cell(name, value):
        if value is None:
            return ""
        if not isinstance(value, float):
            return str(value)
        return f"{value:.4g}" if name.startswith("p_") else f"{value:.{(decimals or {}).get(name, 2)}f}"
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([cell(name, line[name]) for name in columns] for line in lines)
    return text.getvalue()
