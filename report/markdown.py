"""Write parts of the Markdown tables: captions, tables, cells."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterable, Mapping

from report.results import Setting


def caption(setting: Setting, split: str, text: str) -> str:
    """Write the caption of a table; it begins with the setting: data set, image size and preset of the results."""
    return (
        f"**{setting.dataset}, {setting.image_size} px, preset {setting.preset}, {split} split.** {text}\n\n"
    )


def table(header: list[str], lines: Iterable[list[str]]) -> str:
    """Write a Markdown table; numbers are aligned right, the first column and columns of words left."""
    lines = list(lines)
    columns = zip(*lines) if lines else [()] * len(header)
    rule = ["---" if not i or _words(column) else "---:" for i, column in enumerate(columns)]
    return "\n".join("| " + " | ".join(map(literal, cells)) + " |" for cells in (header, rule, *lines))


def _words(column: Iterable[str]) -> bool:
    """Check whether a column holds words: each cell begins with a letter or is a dash, but not all are dashes."""
    cells = [cell for cell in column if cell != "–"]
    return bool(cells) and all(cell[:1].isalpha() for cell in cells)


def literal(text: str) -> str:
    """Escape vertical bars and the start of HTML tags, so that Markdown shows the text unchanged."""
    return re.sub(r"(?<!\\)\|", r"\\|", text.replace("<", "&lt;"))


def table_of(columns: Mapping[str, Callable], lines: Iterable) -> str:
    """Write a Markdown table with a line for each object in `lines`.

    `columns` maps the heading of a column to a function that makes the cell of an object.
    """
    return table(list(columns), [[cell(line) for cell in columns.values()] for line in lines])


def difference(test: Mapping | None) -> str:
    """Write a difference with its interval, and an asterisk if it is significant, such as "+1.2 (0.3 – 2.1)*"."""
    if test is None:
        return "–"
    sign = f"{test['difference_points']:+.1f}"[0]
    return sign.replace("-", "") + interval(test, "difference_points") + star(test)


def interval(test: Mapping, name: str, unit: float = 1, to: str = "–") -> str:
    """Write the value `name` of a test and its interval, both times `unit`, such as "1.2 (0.3 – 2.1)"."""
    value, low, high = (unit * test[key] for key in (name, "ci95_low", "ci95_high"))
    return f"{value:.1f} ({low:.1f} {to} {high:.1f})"


def star(test: Mapping) -> str:
    """Write an asterisk if the test is significant after Holm's correction."""
    return "*" if test["p_holm"] is not None and test["p_holm"] < 0.05 else ""


def plus_minus(mean: float, sd: float | None) -> str:
    """Write a mean with its standard deviation, such as "1.2 ± 0.3"; without `sd`, write only the mean."""
    return f"{mean:.1f}" if sd is None else f"{mean:.1f} ± {sd:.1f}"


def mean_sd(values: Iterable[float]) -> str:
    """Write the mean of the values; if there are several values, also write their standard deviation."""
    values = list(values)
    return plus_minus(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def number(value: float | None, decimals: int, unit: float = 1) -> str:
    """Write a number in units of `unit`; write a dash for None."""
    return "–" if value is None else f"{value / unit:.{decimals}f}"
