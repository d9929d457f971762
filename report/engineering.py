"""Speed and robustness: the tables of results/speed.csv and results/robustness.csv."""

from __future__ import annotations

import csv
from pathlib import Path

from report.content import NO_RESULTS, Content
from report.tables import table
from utils import UserError


def make_content(root: Path) -> Content:
    """Raises UserError where a file is malformed."""
    tables = {
        "robustness": robustness_table(root / "results" / "robustness.csv"),
        **speed_tables(root / "results" / "speed.csv"),
    }
    return Content(0, {}, {}, tables, (), "", [])


def robustness_table(file: Path) -> str:
    """What was broken on purpose, and what survived."""
    if not file.is_file():
        return NO_RESULTS.format(command="make robust")
    note, *lines = file.read_text(encoding="utf-8").splitlines()
    try:
        rows = [[row["what is tried"], row["tries"], row["survived"]] for row in csv.DictReader(lines)]
        tries, survived = (sum(int(row[i]) for row in rows) for i in (1, 2))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file} is damaged ({error}): make it again with `make robust`") from error
    return (
        f"**{survived:,} of {tries:,} tries survived** ({note.removeprefix('# ')}): the outcome was right, or the "
        f"fault was named in one line.\n\n"
    ) + table(["what is tried", "tries", "survived"], rows)


def speed_tables(file: Path) -> dict[str, str]:
    """Name of a block -> what was measured: the pipeline, and the stem."""
    names = ("speed", "speed-stem")
    if not file.is_file():
        return dict.fromkeys(names, NO_RESULTS.format(command="python -m tools.benchmark"))
    try:
        with open(file, encoding="utf-8", newline="") as lines:
            rows = list(csv.DictReader(lines))
        made = {
            name: [
                [
                    row["case"],
                    f"{float(row['value']):,.4g} {row['unit']}",
                    row["reference"] or "–",
                    _ratio(row),
                    f"{row['hardware']}, {row['threads']} thread{'s' * (row['threads'] != '1')}",
                ]
                for row in rows
                if (row["benchmark"] == "stem") == (name == "speed-stem")
            ]
            for name in names
        }
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{file} is damaged ({error}): make it again with python -m tools.benchmark"
        ) from error
    header = ["case", "measured", "against", "ratio (quartiles)", "hardware"]
    note = {
        "speed": "In speed (images/s) a ratio above 1 is better, in time (ms) one below.",
        "speed-stem": "Time against a plain ResNet-18 of as many channels; below 1 is faster.",
    }
    return {
        name: f"**Medians over alternating pairs.** {note[name]}\n\n" + table(header, lines)
        for name, lines in made.items()
    }


def _ratio(row: dict) -> str:
    if not row["ratio"]:
        return "–"
    return f"{float(row['ratio']):.3f} ({float(row['low']):.3f} – {float(row['high']):.3f})"
