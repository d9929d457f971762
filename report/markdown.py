"""Write parts of the Markdown tables: captions, tables, cells.

A row is a dict from the heading of a column to the text of its cell.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Mapping, Sequence

from report.results import Setting

Row = dict[str, str]


def captioned(setting: Setting, text: str, rows: Sequence[Row]) -> str:
    """Write a table of test results with a caption, which begins with the data set, image size and preset.

    Return "" if there are no rows.
    """
    where = f"{setting.dataset}, {setting.image_size} px, preset {setting.preset}, test split."
    return f"**{where}** {text}\n\n{table_of(rows)}" if rows else ""


def table_of(rows: Sequence[Row]) -> str:
    """Write a Markdown table whose rows all have the same headings; return "" if there are no rows.

    Numbers are aligned right, the first column and columns of words left.
    """
    if not rows:
        return ""
    columns = zip(*(row.values() for row in rows))
    rule = ["---" if not i or _words(column) else "---:" for i, column in enumerate(columns)]
    lines = (rows[0], rule, *(row.values() for row in rows))
    return "\n".join("| " + " | ".join(map(literal, cells)) + " |" for cells in lines)


def _words(column: Iterable[str]) -> bool:
    """Check whether a column holds words: each cell begins with a letter or is a dash, but not all are dashes."""
    cells = [cell for cell in column if cell != "–"]
    return bool(cells) and all(cell[:1].isalpha() for cell in cells)


def literal(text: str) -> str:
    """Escape vertical bars and the start of HTML tags, so that Markdown shows the text unchanged."""
    return re.sub(r"(?<!\\)\|", r"\\|", text.replace("<", "&lt;"))


def difference(test: Mapping | None) -> str:
    """Write a difference with its interval, and an asterisk if it is significant, such as "+1.2 (0.3 to 2.1)*"."""
    return interval(test, "difference_points", sign="+") + star(test or {})


def interval(test: Mapping | None, name: str, unit: float = 1, sign: str = "") -> str:
    """Write the value `name` of a test and its interval, multiplied by `unit`, such as "1.2 (0.3 to 2.1)".

    With "+" as `sign`, a positive value gets a plus.
    """
    if test is None:
        return "–"
    value, low, high = (unit * test[key] for key in (name, "ci95_low", "ci95_high"))
    return f"{value:{sign}.1f} ({low:.1f} to {high:.1f})".replace("-", "−")


def star(test: Mapping) -> str:
    """Write an asterisk if the test is significant after Holm's correction."""
    return "*" if test.get("p_holm") is not None and test["p_holm"] < 0.05 else ""


def plus_minus(mean: float, sd: float | None) -> str:
    """Write a mean with its standard deviation, such as "1.2 ± 0.3"; without `sd`, write only the mean."""
    return f"{mean:.1f}" if sd is None else f"{mean:.1f} ± {sd:.1f}"


def mean_sd(values: Iterable[float]) -> str:
    """Write the mean of the values, and their standard deviation if there are several; write a dash without values."""
    values = list(values)
    if not values:
        return "–"
    return plus_minus(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def number(value: float | None, decimals: int, unit: float = 1) -> str:
    """Write a number in units of `unit`; write a dash for None."""
    return "–" if value is None else f"{value / unit:.{decimals}f}".replace("-", "−")
