"""Task 1's comparison of our models with the specialists and every baseline."""

from __future__ import annotations

from engine.records import SETTING, SUBSETS
from report.compare import RESULT, Setting, adjusted
from report.task1.lines import Line, lines_of

MEAN = "mean of 7"
COMPARED = ("model", "run", "other", "other_run")
STATS = (*SETTING, "split", *COMPARED, "subset", "seeds", "other_seeds", *RESULT)
VARIANTS = (
    *SETTING,
    "split",
    "group",
    "variant",
    "model",
    "run",
    "seeds",
    *SUBSETS,
    "mean_pct",
    "mean_sd",
    "reference",
    "reference_run",
    *RESULT,
)


def compare_models(setting: Setting) -> list[dict]:
    """Each of our models against the specialists and every baseline: lines of `STATS`, corrected over the setting."""
    lines, found = lines_of(setting, "test"), []
    others = [line for section in ("specialist", "baseline") for line in lines if line.section == section]
    for ours in (line for line in lines if line.section == "ours"):
        for other in others:
            for subset in (MEAN, *SUBSETS):
                columns = SUBSETS if subset == MEAN else (subset,)
                if {*columns} <= ours.entries.keys() & other.entries.keys():
                    result = setting.difference(ours.entries, other.entries, columns)
                    names = (ours.name, _run(setting, ours), other.name, _run(setting, other))
                    found += (
                        [
                            {
                                **dict(zip(SETTING, setting.key)),
                                "split": "test",
                                **dict(zip(COMPARED, names)),
                                "subset": subset,
                                **result,
                            }
                        ]
                        if result
                        else []
                    )
    return adjusted(found, ("run", "other_run", "subset"))


def _run(setting: Setting, line: Line) -> str:
    return "" if line.section == "specialist" else setting.run_name(next(iter(line.entries.values())))
