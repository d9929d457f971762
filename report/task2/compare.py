"""Task 2's comparisons with ResNet-34: each model's share of its accuracy, and where both go wrong."""

from __future__ import annotations

import numpy as np

from engine.records import SETTING, SINGLE
from metrics.accuracy import confusion_matrix
from report.class_names import class_names
from report.compare import RESULT, Setting, adjusted

STRONGEST, SAME_STEM = "strongest", "same stem"  # the ResNet-34s that a model is compared with
RATIOS = (
    *SETTING,
    "split",
    "section",
    "model",
    "label",
    "stem",
    "width",
    "epochs",
    "augment",
    "weight_decay",
    "run",
    "strict_depth",
    "seeds",
    "top1_pct",
    "comparison",
    "denominator",
    "denominator_run",
    "denominator_seeds",
    "denominator_top1_pct",
    "ratio",
    "ci95_low",
    "ci95_high",
    "p_value",
    "p_holm",
)
VARIANTS = (
    *SETTING,
    "split",
    "group",
    "variant",
    "model",
    "run",
    "strict_depth",
    "macs",
    "seeds",
    "top1_pct",
    "top1_sd",
    "reference",
    "reference_run",
    *RESULT,
)
CONFUSIONS = 8  # how many the table shows


def best(setting: Setting, entries: list[int]) -> int | None:
    """The entry with the highest mean top-1 on validation, over the seeds that all of them have (where there are
    none, over all of each): the test images have no say in it.
    """
    val = setting.rows[(setting.rows["split"] == "val") & setting.rows["entry"].isin(entries)]
    by_entry = val.pivot_table(index="entry", columns="seed", values="top1_pct", sort=False)
    common = by_entry.dropna(axis=1)
    means = (common if len(common.columns) else by_entry).mean(axis=1)
    return int(means.idxmax()) if len(means) else None


def in_section(setting: Setting, section: str) -> list[int]:
    """Entries of a section that have test results."""
    return list(dict.fromkeys(setting.test.loc[setting.test["section"] == section, "entry"]))


def denominator(setting: Setting, entry: int | None, comparison: str = STRONGEST) -> int | None:
    """The ResNet-34 with the highest mean validation top-1 of those trained for no more epochs than the entry
    (None: of all); None where there is none.

    Args:
        comparison: STRONGEST, or SAME_STEM: of those with the entry's first convolution.
    """

    def fits(other: int) -> bool:
        if entry is None:
            return True
        ours, theirs = setting.of(entry).iloc[0], setting.of(other).iloc[0]
        return theirs["epochs"] <= ours["epochs"] and (
            comparison == STRONGEST or theirs["stem"] == ours["stem"]
        )

    return best(setting, [other for other in in_section(setting, "reference") if fits(other)])


def headline(setting: Setting) -> tuple[int | None, int | None]:
    """The two networks that are compared in detail: ours with the highest mean validation top-1, and its
    denominator.
    """
    ours = best(setting, in_section(setting, "ours"))
    return ours, denominator(setting, ours)


def ratios(setting: Setting) -> list[dict]:
    """Every model but the ablations against its denominators: lines of `RATIOS`, corrected over each
    comparison.

    A model without a denominator has no line, nor has a denominator against itself. Most ablations are
    shorter trainings, which have references of their own.
    """
    table = []
    for comparison in (STRONGEST, SAME_STEM):
        lines = []
        for entry in setting.compared:
            against, row = denominator(setting, entry, comparison), setting.of(entry).iloc[0]
            if against in (None, entry):
                continue
            lines.append(
                {
                    **{name: row[name] for name in RATIOS if name in row.index and name not in RESULT},
                    "run": setting.run_name(entry),
                    "strict_depth": setting.same(entry, "strict_depth"),
                    "seeds": len(setting.seeds(setting.alone(entry))),
                    "top1_pct": float(np.mean(setting.top1(setting.alone(entry)))),
                    "comparison": comparison,
                    "denominator": setting.describe(against),
                    "denominator_run": setting.run_name(against),
                    "denominator_seeds": len(setting.seeds(setting.alone(against))),
                    "denominator_top1_pct": float(np.mean(setting.top1(setting.alone(against)))),
                    **setting.ratio(setting.alone(entry), setting.alone(against)),
                }
            )
        table += adjusted(lines, ("run", "denominator_run"))
    return table


def agreement(labels: np.ndarray, answers: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Kind of image -> whether each is one, from what two models answer: of the shape of their answers,
    (..., N).
    """
    (one, other), (p, q) = answers, answers.values()
    a, b = p == labels, q == labels
    return {
        "both right": a & b,
        f"only {one} right": a & ~b,
        f"only {other} right": b & ~a,
        "the same mistake": ~a & (p == q),
        "two mistakes": ~a & ~b & (p != q),
    }


def mistakes(setting: Setting) -> dict | None:
    """Where the two networks of `headline` go wrong, means over the seeds that both have; None without both.

    `shares`: kind of image -> percent; `confusions`: (true class, taken for, ours, denominator), in percent
    of the class, the commonest ones of ours.
    """
    ours, against = headline(setting)
    if ours is None or against is None:
        return None
    pairs = list(zip(setting.predictions(ours), setting.predictions(against)))
    labels = pairs[0][0].labels
    # (seeds, 2, N)
    answers = np.array([[p.by_column[SINGLE] for p in pair] for pair in pairs])
    one, other = setting.describe(ours), setting.describe(against)
    kinds = agreement(labels, {one: answers[:, 0], other: answers[:, 1]})
    names = list(class_names(pairs[0][0].images, labels).values())
    counts = np.array(
        [
            sum(confusion_matrix(labels, of_seed, len(names)) for of_seed in of_model)
            # (2, K, K)
            for of_model in answers.swapaxes(0, 1)
        ]
    )
    rates = 100 * counts / counts.sum(2, keepdims=True)
    wrong = rates[0] * ~np.eye(len(names), dtype=bool)
    worst = [
        divmod(int(cell), len(names))
        for cell in np.argsort(-wrong, axis=None, kind="stable")[:CONFUSIONS]
        if wrong.flat[cell]
    ]
    return {
        "ours": one,
        "denominator": other,
        "seeds": len(pairs),
        "shares": {kind: 100 * float(images.mean()) for kind, images in kinds.items()},
        "confusions": [(names[i], names[j], float(rates[0, i, j]), float(rates[1, i, j])) for i, j in worst],
    }
