"""Make the tables of speed and robustness from results/speed.csv and results/robustness.csv."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from report.markdown import Row, table_of
from utils import counted

NO_RESULTS = "No results yet: run `{command}`, then `python -m report.build`."


def make_tables(root: Path) -> dict[str, str]:
    """Make all tables of this file; return a dict from the name of a block in the texts to its Markdown."""
    results = root / "results"
    return {"robustness": robustness_table(results / "robustness.csv"), **speed_tables(results / "speed.csv")}


def robustness_table(file: Path) -> str:
    """Write a table of the faults that were made on purpose, and of how many tries survived."""
    if not file.is_file():
        return NO_RESULTS.format(command="make robust")
    note = file.read_text(encoding="utf-8").splitlines()[0]
    table = pd.read_csv(file, skiprows=1)[["what is tried", "tries", "survived"]]
    tries, survived = table["tries"].sum(), table["survived"].sum()
    return (
        f"**{survived:,} of {tries:,} tries survived** ({note.removeprefix('# ')}): the outcome was right, or the "
        f"fault was named in one line.\n\n{table_of(table.astype(str).to_dict('records'))}"
    )


def speed_tables(file: Path) -> dict[str, str]:
    """Make the tables of the speed of the pipeline and of the stem; return a dict from block to Markdown."""
    notes = {
        "speed": "Ratio: our value divided by the reference's. For images/s, more than 1 is better; for times, less.",
        "speed-stem": "Reference: a plain ResNet-18. A ratio below 1 is better.",
    }
    if not file.is_file():
        return dict.fromkeys(notes, NO_RESULTS.format(command="python -m tools.benchmark"))
    parts: dict[str, list[Row]] = {name: [] for name in notes}
    for row in pd.read_csv(file).fillna({"reference": "–"}).to_dict("records"):
        quartiles = "–" if pd.isna(row["ratio"]) else "{ratio:.3f} ({low:.3f} to {high:.3f})".format(**row)
        parts["speed-stem" if row["benchmark"] == "stem" else "speed"].append(
            {
                "case": row["case"],
                "measured": f"{row['value']:,.4g} {row['unit']}",
                "reference": row["reference"],
                "ratio (quartiles)": quartiles,
                "hardware": f"{row['hardware']}, {counted(row['threads'], 'thread')}",
            }
        )
    return {
        name: f"**Medians over pairs of measurements.** {note}\n\n{table_of(parts[name])}"
        for name, note in notes.items()
    }
