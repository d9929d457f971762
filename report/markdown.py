"""Write parts of the Markdown tables: captions, tables, cells."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterable, Mapping

from report.results import Setting


def caption(setting: Setting, split: str, text: str) -> str:
    """Write a table's caption, which begins with the setting of its results."""
    return (
        f"**{setting.dataset}, {setting.image_size} px, preset {setting.preset}, {split} split.** {text}\n\n"
    )


def table(header: list[str], lines: Iterable[list[str]]) -> str:
    """Write a Markdown table: numbers stand at the right, the first column and words at the left."""
    lines = list(lines)
    columns = zip(*lines) if lines else [()] * len(header)
    rule = ["---" if not i or _words(column) else "---:" for i, column in enumerate(columns)]
    return "\n".join("| " + " | ".join(map(literal, cells)) + " |" for cells in (header, rule, *lines))


def _words(column: Iterable[str]) -> bool:
    """Check whether each cell begins with a letter or is a dash, and not all are dashes."""
    cells = [cell for cell in column if cell != "–"]
    return bool(cells) and all(cell[:1].isalpha() for cell in cells)


def literal(text: str) -> str:
    """Escape bars and the start of HTML tags, so that Markdown shows the text unchanged."""
    return re.sub(r"(?<!\\)\|", r"\\|", text.replace("<", "&lt;"))


def table_of(columns: Mapping[str, Callable], lines: Iterable) -> str:
    """Write a Markdown table of any objects; columns: heading -> function that writes a line's cell."""
    return table(list(columns), [[cell(line) for cell in columns.values()] for line in lines])


def difference(test: Mapping | None) -> str:
    """Write a difference with its interval and significance: "+1.2 (0.3 – 2.1)*"."""
    if test is None:
        return "–"
    sign = f"{test['difference_points']:+.1f}"[0]
    return sign.replace("-", "") + interval(test, "difference_points") + star(test)


def interval(test: Mapping, name: str, unit: float = 1, to: str = "–") -> str:
    """Write the value `name` with its interval, times `unit`: "1.2 (0.3 – 2.1)"."""
    value, low, high = (unit * test[key] for key in (name, "ci95_low", "ci95_high"))
    return f"{value:.1f} ({low:.1f} {to} {high:.1f})"


def star(test: Mapping) -> str:
    """Write an asterisk if the test is significant after Holm's correction."""
    return "*" if test["p_holm"] is not None and test["p_holm"] < 0.05 else ""


def plus_minus(mean: float, sd: float | None) -> str:
    """Write a mean with its standard deviation, if given: "1.2 ± 0.3"."""
    return f"{mean:.1f}" if sd is None else f"{mean:.1f} ± {sd:.1f}"


def mean_sd(values: Iterable[float]) -> str:
    """Write the mean of the values, with the standard deviation if there are several."""
    values = list(values)
    return plus_minus(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def number(value: float | None, decimals: int, unit: float = 1) -> str:
    """Write a number in units of `unit`; a dash for None."""
    return "–" if value is None else f"{value / unit:.{decimals}f}"
