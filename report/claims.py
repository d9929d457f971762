"""Check that the texts in report/text describe each interval correctly.

The sentences are written by hand, so they must be read again when the results change. A field says what its sentence
claims:

    {{ gap ... }}                  the interval of the difference lies above 0
    {{ gap ... | unclear }}        0 is in the interval: the sentence must say that a difference is not shown
    {{ ratio ... | above 90 }}     the interval lies above 90 %; also `below 100` and `unclear 100`
    {{ ratio ... }}                nothing
"""

from __future__ import annotations

import re

from report.numbers import Numbers
from utils import UserError

FIELD = re.compile(r"\{\{\s*(\w+)\s([^|}]*)(?:\|([^}]*))?\}\}")


def verdict(low: float, high: float, bound: float) -> str:
    """Return "above" or "below" if the interval (`low`, `high`) is above or below `bound`; else "unclear"."""
    return "above" if low > bound else "below" if high < bound else "unclear"


def broken_claims(text: str, numbers: Numbers, name: str) -> list[str]:
    """List the claims of a text that the results do not support; each message names file and line.

    Args:
        text: a text with fields.
        numbers: the numbers of the results.
        name: file of the text, for the messages.

    Raises:
        UserError: a claim is not among the claims at the top of this file, or its function has no interval.
    """
    messages = []
    for field in FIELD.finditer(text):
        function, words, claim = field[1], field[2].split(), (field[3] or "").split()
        if not claim and function != "gap":
            continue
        place = f"{name}:{text.count(chr(10), 0, field.start()) + 1}"
        if function not in ("gap", "ratio"):
            raise UserError(
                f"{place}: {function} has no interval and so no claim: remove `| {' '.join(claim)}`"
            )
        claimed, *bound = claim or ["above"]
        if function == "gap":
            bound = bound or ["0"]
        if claimed not in ("above", "below", "unclear") or len(bound) != 1 or not bound[0].isdigit():
            raise UserError(
                f"{place}: the claim {' '.join(claim)!r} is unknown: write above, below or unclear, and a number"
            )
        test = (numbers.difference if function == "gap" else numbers.share)(*words)
        if test is None:  # without results the text shows a dash
            continue
        low, high = ((100 if function == "ratio" else 1) * test[key] for key in ("ci95_low", "ci95_high"))
        if (actual := verdict(low, high, float(bound[0]))) != claimed:
            messages.append(
                f"{place}: the text claims {claimed} {bound[0]}, but the interval {low:.2f} to {high:.2f} of "
                f"`{function} {' '.join(words)}` is {actual}: change the sentence, then its claim (report/claims.py)"
            )
    return messages
