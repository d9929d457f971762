"""Lines of Task 1's tables: a model, or all specialists together."""

from __future__ import annotations

import statistics
from typing import NamedTuple

import pandas as pd

from engine.records import subset_order
from report.compare import Setting
from utils import UserError

SEVEN = "seven specialists"


class Line(NamedTuple):
    """A line of a table: a model, or all specialists together, each at its own subset."""

    name: str
    section: str
    rows: pd.DataFrame
    entries: dict[str, int]  # subset -> entry

    def values(self, column: str, *subsets: str) -> list[float]:
        """The column's values at the subsets, over seeds, without empty cells."""
        return self.rows.loc[self.rows["subset"].isin(subsets), column].dropna().tolist()

    def mean(self, column: str, *subsets: str) -> float | None:
        values = self.values(column, *subsets)
        return statistics.fmean(values) if values else None

    def seeds(self) -> str:
        """Number of seeds; "1–3" where the subsets differ in it."""
        counts = sorted({len(self.values("top1_pct", subset)) for subset in self.entries})
        return "–".join(str(count) for count in dict.fromkeys((counts[0], counts[-1])))

    def params(self) -> float | None:
        """Parameters of the net, or the sum over nets for the specialists."""
        means = [self.mean("params", subset) for subset in self.entries]
        return None if None in means else sum(means) if self.section == "specialist" else means[0]

    def told(self) -> list[str]:
        """Cells of what tells the line from others of its label: evaluation, epochs, augmentation."""
        row = self.rows.iloc[0]
        test = [f"{row['test_fill']} fill"] * pd.notna(row["test_fill"]) + [row["test_probe"]] * pd.notna(
            row["test_probe"]
        )
        return [", ".join(test) or "as trained", str(row["epochs"]), row["augment"]]


def lines_of(setting: Setting, split: str) -> list[Line]:
    """What is compared with one another, in the order of the tables.

    Raises:
        UserError: two specialists claim one subset and seed.
    """
    rows = setting.rows[(setting.rows["split"] == split) & (setting.rows["section"] != "ablation")]
    merged = rows["entry"].where(rows["section"] != "specialist", -1)
    lines = []
    for _, members in rows.groupby(merged, sort=False):
        section = members["section"].iloc[0]
        twice = members[members.duplicated(["subset", "seed"], keep=False)]
        if len(twice):
            raise UserError(
                f"specialists {' and '.join(twice['run'][:2])} both claim subset "
                f"{twice['subset'].iloc[0]}, seed {twice['seed'].iloc[0]}: keep each at its own "
                f"subset, in one architecture a setting"
            )
        entries = dict(zip(members["subset"], members["entry"]))
        name = members["label"].iloc[0]
        if section == "specialist":
            name = SEVEN if len(entries) > 1 else f"specialist for {', '.join(entries)} alone"
        lines.append(Line(name, section, members, {s: entries[s] for s in sorted(entries, key=subset_order)}))
    return lines
