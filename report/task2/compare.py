"""From Task 2's results to comparisons: each model's share of ResNet-34's accuracy, and what changes it."""
from __future__ import annotations

import statistics
from functools import cache

import numpy as np

from grids.task2 import ABLATIONS, REFERENCE
from metrics.accuracy import confusion_matrix
from metrics.statistics import SeedVariance, paired_difference, paired_ratio, seed_variance
from models.resnet import LAYERS
from records import SETTING, SINGLE
from report.class_names import class_names
from report.compare import FEW, RESULT, Setting, adjusted
from utils import UserError

STRONGEST, SAME_STEM = "strongest", "same stem"   # the ResNet-34s that a model is compared with
RATIOS = (*SETTING, "split", "section", "model", "label", "stem", "width", "epochs", "augment",
          "weight_decay", "run",
          "strict_depth", "seeds", "top1_pct", "comparison", "denominator", "denominator_run",
          "denominator_seeds",
          "denominator_top1_pct", "ratio", "ci95_low", "ci95_high", "p_value", "p_holm")
VARIANTS = (*SETTING, "split", "group", "variant", "model", "run", "strict_depth", "macs", "seeds",
            "top1_pct", "top1_sd",
            "reference", "reference_run", *RESULT)
CONFUSIONS = 8   # how many the table shows


def correct(setting: Setting, entry: int) -> np.ndarray:
    """1 where right: (seeds, N)."""
    return np.array([setting.right(entry, SINGLE, seed) for seed in setting.seeds(entry)])


def top1(setting: Setting, entry: int) -> np.ndarray:
    """Percent, one for each seed: (seeds,)."""
    return 100 * correct(setting, entry).mean(1)


def model_variance(setting: Setting, entry: int) -> SeedVariance | None:
    """What training seeds do to a model's top-1; None where no model of its kind has several seeds.

    Pooled over the models of a kind that have several seeds: ResNets, which vary several times as much, and all
    others. Those of the task's other settings help where this one has fewer than `FEW` degrees of freedom.
    """
    return kind_variance(setting, is_resnet(setting, entry))


@cache
def kind_variance(setting: Setting, resnets: bool) -> SeedVariance | None:
    """`model_variance` of the ResNets, or of all others."""
    def several(place: Setting) -> list[np.ndarray]:
        return [correct(place, other) for other in dict.fromkeys(place.test["entry"])
                if is_resnet(place, other) == resnets and len(place.seeds(other)) > 1]
    own = seed_variance(several(setting))
    return own if own and own.freedom >= FEW else seed_variance(
        outcomes for place in (setting, *setting.others) for outcomes in several(place))


def is_resnet(setting: Setting, entry: int) -> bool:
    return setting.record(entry)["config"]["arch"] in LAYERS


def is_same(setting: Setting, entry: int, other: int) -> bool:
    """Whether the two are evaluations of the same trained networks."""
    return setting.trained(entry) == setting.trained(other)


def difference(setting: Setting, entry: int, other: int) -> dict:
    """Top-1 of entry - other in points, with interval and p; two evaluations of the same networks are compared
    seed by seed.
    """
    if is_same(setting, entry, other):
        seeds = sorted({*setting.seeds(entry)} & {*setting.seeds(other)})
        a, b = (np.array([setting.right(one, SINGLE, seed) for seed in seeds]) for one in (entry, other))
        variance, share = seed_variance([a - b]), 1 / len(a)
        if variance is None:   # of one seed: as if they had been trained apart
            variance, share = model_variance(setting, entry), 2
        return paired_difference(a, b, [(share, variance)] if variance else [])
    a, b = correct(setting, entry), correct(setting, other)
    return paired_difference(a, b, [(of_a + of_b, variance) for of_a, of_b, variance in _shares(setting, entry, other)])


def ratio(setting: Setting, entry: int, other: int) -> dict:
    """Mean top-1 of entry / other, with interval and p for a ratio of 1.

    Raises:
        UserError: other is right on too few images.
    """
    try:
        return paired_ratio(correct(setting, entry), correct(setting, other), _shares(setting, entry, other))
    except ValueError as error:
        name = setting.describe(other)
        raise UserError(f"{setting.describe(entry)} / {name}: {error}; train {name} longer, or evaluate it "
                        f"with another --section") from error


def _shares(setting: Setting, entry: int, other: int) -> list[tuple[float, float, SeedVariance]]:
    """Shares of each kind's seed variance in the means of the two: (of entry's, of other's, variance)."""
    shares: dict[SeedVariance, list[float]] = {}
    for place, one in enumerate((entry, other)):
        variance = model_variance(setting, one)
        if variance:
            shares.setdefault(variance, [0, 0])[place] += 1 / len(setting.seeds(one))
    return [(*of_each, variance) for variance, of_each in shares.items()]


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
        return theirs["epochs"] <= ours["epochs"] and (comparison == STRONGEST
                                                       or theirs["stem"] == ours["stem"])
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
            lines.append({
                **{name: row[name] for name in RATIOS if name in row.index and name not in RESULT},
                "run": setting.run_name(entry), "strict_depth": setting.same(entry, "strict_depth"),
                "seeds": len(setting.seeds(entry)), "top1_pct": float(top1(setting, entry).mean()),
                "comparison": comparison, "denominator": setting.describe(against),
                "denominator_run": setting.run_name(against),
                "denominator_seeds": len(setting.seeds(against)),
                "denominator_top1_pct": float(top1(setting, against).mean()),
                **ratio(setting, entry, against)})
        table += adjusted(lines, ("run", "denominator_run"))
    return table


def ablations(setting: Setting) -> list[dict]:
    """Every variant of `grids.task2.ABLATIONS` against its reference: lines of `VARIANTS`, corrected over
    the setting.
    """
    lines = []
    for group, variants in ABLATIONS.items():
        known = [(label, entry, *against) for label, run, *against in variants
                 if (entry := setting.find(run)) is not None]
        for label, entry, *against in known if len(known) > 1 else ():
            run = against[0] if against else REFERENCE
            reference, values = setting.find(run), top1(setting, entry).tolist()
            compared = reference not in (None, entry)
            lines.append({
                **dict(zip(SETTING, setting.key)), "split": "test", "group": group, "variant": label,
                "model": setting.describe(entry), "run": setting.run_name(entry),
                "strict_depth": setting.same(entry, "strict_depth"), "macs": setting.same(entry, "macs"),
                "seeds": len(values), "top1_pct": statistics.fmean(values),
                "top1_sd": statistics.stdev(values) if len(values) > 1 else None,
                "reference": str(run) if reference is None else setting.describe(reference),
                "reference_run": "" if reference is None else setting.run_name(reference),
                **(difference(setting, entry, reference) if compared else dict.fromkeys(RESULT[:-1]))})
    return adjusted(lines, ("run", "reference_run"))


def agreement(labels: np.ndarray, answers: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Kind of image -> whether each is one, from what two models answer: of the shape of their answers,
    (..., N).
    """
    (one, other), (p, q) = answers, answers.values()
    a, b = p == labels, q == labels
    return {"both right": a & b, f"only {one} right": a & ~b, f"only {other} right": b & ~a,
            "the same mistake": ~a & (p == q), "two mistakes": ~a & ~b & (p != q)}


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
    counts = np.array([sum(confusion_matrix(labels, of_seed, len(names)) for of_seed in of_model)
                       # (2, K, K)
                       for of_model in answers.swapaxes(0, 1)])
    rates = 100 * counts / counts.sum(2, keepdims=True)
    wrong = rates[0] * ~np.eye(len(names), dtype=bool)
    worst = [divmod(int(cell), len(names)) for cell in np.argsort(-wrong, axis=None,
                                                                  kind="stable")[:CONFUSIONS]
             if wrong.flat[cell]]
    return {"ours": one, "denominator": other, "seeds": len(pairs),
            "shares": {kind: 100 * float(images.mean()) for kind, images in kinds.items()},
            "confusions": [(names[i], names[j], float(rates[0, i, j]), float(rates[1, i, j]))
                           for i, j in worst]}
