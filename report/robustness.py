"""What was broken on purpose, and what survived: the table of results/robustness.csv."""
from __future__ import annotations

import csv
from pathlib import Path

from report.content import NO_RESULTS, Content
from report.tables import table
from utils import UserError


def make_content(root: Path) -> Content:
    """Raises UserError where the file is malformed."""
    file = root / "results" / "robustness.csv"
    if not file.is_file():
        none = NO_RESULTS.format(command="make robust")
        return Content(0, {}, {}, {"robustness": none}, (), none)
    note, *lines = file.read_text(encoding="utf-8").splitlines()
    try:
        rows = [[row["what is tried"], row["tries"], row["survived"]] for row in csv.DictReader(lines)]
        tries, survived = (sum(int(row[i]) for row in rows) for i in (1, 2))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file} is damaged ({error}): make it again with `make robust`") from error
    text = (f"**{survived:,} of {tries:,} tries survived** ({note.removeprefix('# ')}): the outcome was right, or the "
            f"fault was named in one line.\n\n") + table(["what is tried", "tries", "survived"], rows)
    return Content(len(rows), {}, {}, {"robustness": text}, (), "")
