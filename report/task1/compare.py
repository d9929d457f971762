"""From Task 1's results to comparisons: who differs from whom, by how much, and how sure that is."""
from __future__ import annotations

import math
import statistics
from collections.abc import Mapping

import numpy as np

from grids.run import Run
from grids.task1 import ABLATIONS, CHANNELSET
from metrics.statistics import pooled_variance
from records import SETTING, SUBSETS
from report.compare import RESULT, Setting, adjusted, bootstrap
from report.task1.lines import Line, lines_of

MEAN = "mean of 7"
COMPARED = ("model", "run", "other", "other_run")
STATS = (*SETTING, "split", *COMPARED, "subset", "seeds", "other_seeds", *RESULT)
VARIANTS = (*SETTING, "split", "group", "variant", "model", "run", "seeds", *SUBSETS, "mean_pct", "mean_sd",
            "reference",
            "reference_run", *RESULT)

Model = Mapping[str, int]   # channel set -> the entry that answers for it


def model_of(setting: Setting, run: Run | dict[str, Run]) -> Model | None:
    """What the results have of a run, or of a run for each channel set; None without test results on every
    set.
    """
    runs = run if isinstance(run, dict) else dict.fromkeys(SUBSETS, run)
    entries = {subset: setting.find(runs[subset]) for subset in SUBSETS}
    return entries if None not in entries.values() and seeds_of(setting, entries) else None


def seeds_of(setting: Setting, model: Model, subsets=SUBSETS) -> list[int]:
    """Seeds that have every one of the subsets."""
    return sorted(set.intersection(*(set(setting.seeds(model[subset], subset)) for subset in subsets)))


def correct(setting: Setting, model: Model, subset: str, seeds: list[int] | None = None) -> np.ndarray:
    """1 where right: (seeds, N); for `MEAN` the sum over the seven subsets. Default: every seed."""
    subsets = SUBSETS if subset == MEAN else (subset,)
    return np.array([sum(setting.right(model[s], s, seed) for s in subsets)
                     for seed in seeds or seeds_of(setting, model, subsets)])


def compare(setting: Setting, model: Model, other: Model, subset: str) -> dict | None:
    """model - other on a subset or `MEAN`, with interval and p; None where one of them has no result there.

    Two evaluations of the same trained networks share their seeds, so the spread over seeds is no part of
    their difference.
    """
    subsets = SUBSETS if subset == MEAN else (subset,)
    seeds, other_seeds = seeds_of(setting, model, subsets), seeds_of(setting, other, subsets)
    errors = []
    if all(setting.trained(model[s]) == setting.trained(other[s]) for s in subsets):
        seeds = other_seeds = sorted(set(seeds) & set(other_seeds))
    elif seeds and other_seeds:
        shares: dict[tuple, float] = {}   # models of one kind have one variance
        for one, count in ((model, len(seeds)), (other, len(other_seeds))):
            key = seed_variance(setting, one, subset)
            shares[key] = shares.get(key, 0) + 1 / count
        errors = [(variance * share, df) for (variance, df), share in shares.items() if variance]
    if not seeds or not other_seeds:
        return None
    a, b = correct(setting, model, subset, seeds), correct(setting, other, subset, other_seeds)
    return {"seeds": len(a), "other_seeds": len(b),
            **bootstrap(a.shape[1]).compare(a, b, len(subsets), errors)}


def seed_variance(setting: Setting, model: Model, subset: str) -> tuple[float, int | float]:
    """Variance of a model's top-1 over training seeds, points squared, and its degrees of freedom; 0 where
    unknown.

    Pooled over the models of a kind that have several seeds, because a few seeds tell little about one model
    and a model with one seed varies as well. Kinds: networks for any set; the specialists for a set; each
    network that was trained without a sampler, by itself (on sets it was not trained for it varies in a way
    of its own). Where each set
    has a network of its own, their mean varies less: they are treated as independent.
    """
    every = [dict.fromkeys(SUBSETS, entry) for entry in sorted(set(setting.test["entry"]))]
    if len(set(model.values())) > 1:   # a network for each set
        parts = [pooled(setting, [one for one in every if is_specialist(setting, one[s])], s)
                 for s in (SUBSETS if subset == MEAN else (subset,))]
        total = sum(variance for variance, _ in parts)
        if len(parts) > 1:
            freedom = total ** 2 / sum(v ** 2 / df for v, df in parts if v) if total else math.inf
            return total / len(SUBSETS) ** 2, freedom
        if total:
            return parts[0]
    entry = next(iter(model.values()))
    sampled = [one for one in every if is_sampled(setting, one["RGB"])]
    if len(set(model.values())) > 1 or is_sampled(setting, entry, tested_otherwise=True):
        return pooled(setting, sampled, subset)
    own = pooled(setting, [model], subset)
    return own if own[0] else pooled(setting, sampled, subset)


def is_specialist(setting: Setting, entry: int) -> bool:
    return setting.record(entry)["section"] == "specialist"


def is_sampled(setting: Setting, entry: int, tested_otherwise: bool = False) -> bool:
    """Whether the network was trained on sets of channels; `tested_otherwise`: even if it is not evaluated
    as trained.
    """
    record = setting.record(entry)
    return record["config"]["sampler"] != "none" and (tested_otherwise or not record["test"])


def pooled(setting: Setting, models: list[Model], subset: str) -> tuple[float, int | float]:
    """`pooled_variance` of the models' top-1 on a subset or `MEAN`."""
    subsets = SUBSETS if subset == MEAN else (subset,)
    return pooled_variance([100 * correct(setting, model, subset).mean(1) / len(subsets) for model in models
                            if len(seeds_of(setting, model, subsets)) > 1])


def compare_models(setting: Setting) -> list[dict]:
    """Each of our models against the specialists and every baseline: lines of `STATS`, corrected over the
    setting.
    """
    lines = lines_of(setting, "test")
    specialists = [line for line in lines if line.section == "specialist"]
    others = specialists + [line for line in lines if line.section == "baseline"]
    found = [{**dict(zip(SETTING, setting.key)), "split": "test", **names(setting, ours, other),
              "subset": subset,
              **result}
             for ours in lines if ours.section == "ours" for other in others for subset in (MEAN, *SUBSETS)
             if has(ours, subset) and has(other, subset)
             if (result := compare(setting, ours.entries, other.entries, subset))]
    return adjusted(found, ("run", "other_run", "subset"))


def has(line: Line, subset: str) -> bool:
    return line.entries.keys() >= set(SUBSETS if subset == MEAN else (subset,))


def names(setting: Setting, line: Line, other: Line) -> dict[str, str]:
    """How the two models of a comparison are called: `COMPARED`."""
    runs = ["" if one.section == "specialist" else setting.run_name(next(iter(one.entries.values())))
            for one in (line, other)]
    return dict(zip(COMPARED, (line.name, runs[0], other.name, runs[1])))


def ablations(setting: Setting) -> list[dict]:
    """Every variant of `grids.task1.ABLATIONS` against its reference: lines of `VARIANTS`, corrected over the
    setting.

    A group with one variant is left out, and a variant that is another one at this preset.
    """
    lines = []
    for group, variants in ABLATIONS.items():
        known, seen = [], set()
        for label, run, *against in variants:
            against = against[0] if against else CHANNELSET
            model, reference = model_of(setting, run), model_of(setting, against)
            if model:
                pair = identity(setting, model), reference and identity(setting, reference)
                # not twice, nor a network again that is compared with nothing
                if not seen & {pair, pair[:1] if pair[0] == pair[1] else None}:
                    known.append((label, run, model, against, reference))
                seen |= {pair, pair[:1]}
        for label, run, model, against, reference in known if len(known) > 1 else ():
            result = compare(setting, model, reference, MEAN) if reference and model != reference else None
            top1 = {subset: 100 * correct(setting, model, subset, seeds_of(setting, model)).mean(1)
                    # (seeds,) each
                    for subset in SUBSETS}
            means = np.mean(list(top1.values()), axis=0).tolist()
            lines.append({
                **dict(zip(SETTING, setting.key)), "split": "test", "group": group, "variant": label,
                **dict(zip(("model", "run"), title(setting, run, model))),
                **{subset: float(values.mean()) for subset, values in top1.items()}, "seeds": len(means),
                "mean_pct": statistics.fmean(means),
                "mean_sd": statistics.stdev(means) if len(means) > 1 else None,
                **dict(zip(("reference", "reference_run"), title(setting, against, reference))),
                **{key: (result or {}).get(key) for key in RESULT[:-1]}})
    return adjusted(lines, ("run", "reference_run"))


def title(setting: Setting, run: Run | dict[str, Run], model: Model | None) -> tuple[str, str]:
    """What a model is called, and the name of its runs; of seven networks those for RGB and R."""
    first = run["R"] if isinstance(run, dict) else run
    if model is None:
        return str(first), ""
    shown = dict.fromkeys([model["R"]] if not isinstance(run, dict) else [model["RGB"], model["R"]])
    return setting.describe(model["R"]), " ".join(setting.run_name(entry) for entry in shown)


def identity(setting: Setting, model: Model) -> tuple:
    """The same for two models that are the same networks, evaluated alike."""
    tests = [{key: value for key, value in setting.record(model[s])["test"].items() if key != "subsets"}
             for s in SUBSETS]
    return tuple((setting.trained(model[s]), tuple(sorted(test.items()))) for s, test in zip(SUBSETS, tests))
