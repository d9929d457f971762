"""Parts of the Markdown tables of both tasks: captions, tables, cells."""
from __future__ import annotations

import statistics

def caption(setting: tuple, split: str, text: str) -> str:
    tier, dataset, image_size = setting
    return f"**{dataset}, {image_size} px, tier {tier}, {split} split.** {text}\n\n"


def table(header: list[str], lines: list[list[str]]) -> str:
    rule = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *lines))


def grouped(lines: list[dict], keys: tuple[str, ...]) -> dict[tuple, list[dict]]:
    groups: dict[tuple, list[dict]] = {}
    for line in lines:
        groups.setdefault(tuple(line[key] for key in keys), []).append(line)
    return groups


def difference(test: dict | None) -> str:
    """"+1.2 (0.3 – 2.1)*": difference, interval, significance."""
    if test is None:
        return "–"
    return f"{test['difference_points']:+.1f} ({test['ci95_low']:.1f} – {test['ci95_high']:.1f}){star(test)}"


def star(test: dict) -> str:
    """An asterisk where the test is significant after Holm's correction."""
    return "*" if test["p_holm"] is not None and test["p_holm"] < 0.05 else ""


def mean_sd(values: list[float]) -> str:
    return f"{statistics.fmean(values):.1f}" + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")


def millions(value: float | None, decimals: int) -> str:
    return "–" if value is None else f"{value / 1e6:.{decimals}f}"
