"""Parts of the Markdown tables of both tasks: captions, tables, cells."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterable
from itertools import groupby

from report.compare import Setting


def caption(setting: Setting, split: str, text: str) -> str:
    return (
        f"**{setting.dataset}, {setting.image_size} px, preset {setting.preset}, {split} split.** {text}\n\n"
    )


def table(header: list[str], lines: Iterable[list[str]]) -> str:
    rule = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(map(literal, cells)) + " |" for cells in (header, rule, *lines))


def literal(text: str) -> str:
    """A text that Markdown shows as it is where it has a bar or the beginning of an HTML tag."""
    return re.sub(r"(?<!\\)\|", r"\\|", text.replace("<", "&lt;"))


def ablation_table(
    setting: Setting,
    lines: list[dict],
    header: list[str],
    cells: Callable[[dict], list[str]],
    text: str,
    seeds: str,
) -> str:
    """Variants by group, what was measured, the difference from the reference.

    Args:
        lines: of a task's `ablations` in one setting.
        header, cells: of what was measured; cells: line -> as many as the header has.
        text: of the caption, to where the difference is named.
        seeds: how the spread over seeds enters the interval.
    """
    rows = []
    for group, members in groupby(lines, key=lambda line: line["group"]):
        members = list(members)
        # the first of several for one run
        variants = {line["run"]: line["variant"] for line in reversed(members)}
        for line in members:
            compared = line["p_value"] is not None
            reference = variants.get(line["reference_run"], line["reference"])
            rows.append(
                [
                    group if line is members[0] else "",
                    line["variant"],
                    *cells(line),
                    difference(line) if compared else "",
                    reference if compared else "",
                ]
            )
    tests = len({(line["run"], line["reference_run"]) for line in lines if line["p_value"] is not None})
    return caption(
        setting,
        "test",
        f"{text}, with its 95 % interval over images and training seeds, {seeds} "
        f"An asterisk: p < 0.05 after Holm's correction over the {tests} variants.",
    ) + table(["what changes", "variant", *header, "difference", "from"], rows)


def difference(test: dict | None) -> str:
    """ "+1.2 (0.3 – 2.1)*": difference, interval, significance."""
    if test is None:
        return "–"
    return "+" * (f"{test['difference_points']:+.1f}"[0] == "+") + interval(test) + star(test)


def interval(test: dict, name: str = "difference_points", unit: float = 1) -> str:
    """ "1.2 (0.3 – 2.1)": a value with its interval, in units of 1 / `unit`."""
    value, low, high = (unit * test[key] for key in (name, "ci95_low", "ci95_high"))
    return f"{value:.1f} ({low:.1f} – {high:.1f})"


def star(test: dict) -> str:
    """An asterisk where the test is significant after Holm's correction."""
    return "*" if test["p_holm"] is not None and test["p_holm"] < 0.05 else ""


def plus_minus(mean: float, sd: float | None) -> str:
    return f"{mean:.1f}" + (f" ± {sd:.1f}" if sd is not None else "")


def mean_sd(values: Iterable[float]) -> str:
    values = list(values)
    return plus_minus(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def millions(value: float | None, decimals: int) -> str:
    return "–" if value is None else f"{value / 1e6:.{decimals}f}"
