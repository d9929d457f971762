"""Parts of the Markdown tables of both tasks: captions, tables, cells."""
from __future__ import annotations

import statistics
from typing import Callable

from report.comparisons import SETTING


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


def ablation_tables(lines: list[dict], header: list[str], cells: Callable[[dict], list[str]], text: str, seeds: str) -> str:
    """A table for each setting: variants by group, what was measured, the difference from the reference.

    Args:
        lines: of a task's `ablations`.
        header, cells: of what was measured; cells: line -> as many as the header has.
        text: of the caption, to where the difference is named.
        seeds: how the spread over seeds enters the interval.
    """
    tables = []
    for setting, members in grouped(lines, SETTING).items():
        rows, group = [], None
        for line in members:
            compared = line["p_value"] is not None
            rows.append([line["group"] if line["group"] != group else "", line["variant"], *cells(line),
                         difference(line) if compared else "", line["reference"] if compared else ""])
            group = line["group"]
        tests = len({(line["model"], line["reference"]) for line in members if line["p_value"] is not None})
        tables.append(caption(setting, "test", f"{text}, with its 95 % interval: paired bootstrap over images, {seeds} "
                              f"An asterisk: p < 0.05 after Holm's correction over the {tests} variants.")
                      + table(["what changes", "variant", *header, "difference", "from"], rows))
    return "\n\n".join(tables)


def difference(test: dict | None) -> str:
    """"+1.2 (0.3 – 2.1)*": difference, interval, significance."""
    if test is None:
        return "–"
    return f"{test['difference_points']:+.1f} ({test['ci95_low']:.1f} – {test['ci95_high']:.1f}){star(test)}"


def star(test: dict) -> str:
    """An asterisk where the test is significant after Holm's correction."""
    return "*" if test["p_holm"] is not None and test["p_holm"] < 0.05 else ""


def plus_minus(mean: float, sd: float | None) -> str:
    return f"{mean:.1f}" + (f" ± {sd:.1f}" if sd is not None else "")


def mean_sd(values: list[float]) -> str:
    return plus_minus(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def millions(value: float | None, decimals: int) -> str:
    return "–" if value is None else f"{value / 1e6:.{decimals}f}"
