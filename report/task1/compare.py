"""From Task 1's results to comparisons: who differs from whom, by how much, and how sure that is."""
from __future__ import annotations

import statistics
from collections.abc import Mapping
from functools import cache

import numpy as np

from grids.run import Run
from grids.task1 import ABLATIONS, CHANNELSET
from metrics.statistics import SeedVariance, mean_variance, paired_difference, seed_variance
from records import SETTING, SUBSETS
from report.compare import FEW, RESULT, Setting, adjusted
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
    """1 where right: (seeds, N); for `MEAN` the mean over the seven subsets. Default: every seed."""
    subsets = SUBSETS if subset == MEAN else (subset,)
    return np.array([sum(setting.right(model[s], s, seed) for s in subsets) / len(subsets)
                     for seed in seeds or seeds_of(setting, model, subsets)])


def compare(setting: Setting, model: Model, other: Model, subset: str) -> dict | None:
    """model - other on a subset or `MEAN`, with interval and p; None where one of them has no result there.

    Two evaluations of the same trained networks are compared seed by seed.
    """
    subsets = SUBSETS if subset == MEAN else (subset,)
    seeds, other_seeds = seeds_of(setting, model, subsets), seeds_of(setting, other, subsets)
    same = all(setting.trained(model[s]) == setting.trained(other[s]) for s in subsets)
    if same:
        seeds = other_seeds = sorted(set(seeds) & set(other_seeds))
    if not seeds or not other_seeds:
        return None
    a, b = correct(setting, model, subset, seeds), correct(setting, other, subset, other_seeds)
    if same:
        variance = seed_variance([a - b]) or evaluation_variance(setting, subset)
        errors = [(1 / len(a), variance)] if variance else []
    else:
        shares: dict[SeedVariance, float] = {}   # models of one kind have one variance
        for one, count in ((model, len(a)), (other, len(b))):
            variance = model_variance(setting, one, subset)
            if variance:
                shares[variance] = shares.get(variance, 0) + 1 / count
        errors = [(share, variance) for variance, share in shares.items()]
    return {"seeds": len(a), "other_seeds": len(b), **paired_difference(a, b, errors)}


@cache
def evaluation_variance(setting: Setting, subset: str) -> SeedVariance | None:
    """Over seeds, of the difference that another way to evaluate makes: pooled over those with several seeds."""
    subsets, found = SUBSETS if subset == MEAN else (subset,), []
    every = [dict.fromkeys(SUBSETS, entry) for entry in sorted(set(setting.test["entry"]))]
    for model in every:
        for plain in every:
            if setting.record(plain["R"])["test"] or model == plain \
                    or setting.trained(model["R"]) != setting.trained(plain["R"]):
                continue
            seeds = sorted({*seeds_of(setting, model, subsets)} & {*seeds_of(setting, plain, subsets)})
            if len(seeds) > 1:
                found.append(correct(setting, model, subset, seeds) - correct(setting, plain, subset, seeds))
    return seed_variance(found)


def model_variance(setting: Setting, model: Model, subset: str) -> SeedVariance | None:
    """What training seeds do to a model's top-1; None where no model of its kind has several seeds.

    Pooled over the models of a kind that have several seeds, because a few seeds tell little about one model
    and a model with one seed varies as well. Kinds: networks for any set; the specialists for a set; each
    network that was trained without a sampler, by itself (on sets it was not trained for it varies in a way
    of its own). Where each set has a network of its own, their mean varies less: they are independent. The
    networks for any set stand for those without repetition, and those of the task's other settings help where
    this one has fewer than `FEW` degrees of freedom.
    """
    every = [dict.fromkeys(SUBSETS, entry) for entry in sorted(set(setting.test["entry"]))]
    if len(set(model.values())) > 1:   # a network for each set
        found = [_pooled(setting, [one for one in every if is_specialist(setting, one[s])], s)
                 for s in (SUBSETS if subset == MEAN else (subset,))]
        if None not in found:
            return mean_variance(found)
    elif not is_sampled(setting, next(iter(model.values())), tested_otherwise=True):
        own = _pooled(setting, [model], subset)
        if own:
            return own
    return sampled_variance(setting, subset)


@cache
def sampled_variance(setting: Setting, subset: str) -> SeedVariance | None:
    """`model_variance` of the networks for any set."""
    own = seed_variance(_several(setting, subset))
    return own if own and own.freedom >= FEW else seed_variance(
        outcomes for place in (setting, *setting.others) for outcomes in _several(place, subset))


def _several(setting: Setting, subset: str) -> list[np.ndarray]:
    """Outcomes of the networks for any set that have several seeds."""
    subsets = SUBSETS if subset == MEAN else (subset,)
    models = [dict.fromkeys(SUBSETS, entry) for entry in sorted(set(setting.test["entry"]))
              if is_sampled(setting, entry)]
    return [correct(setting, model, subset) for model in models if len(seeds_of(setting, model, subsets)) > 1]


def _pooled(setting: Setting, models: list[Model], subset: str) -> SeedVariance | None:
    subsets = SUBSETS if subset == MEAN else (subset,)
    return seed_variance(correct(setting, model, subset) for model in models
                         if len(seeds_of(setting, model, subsets)) > 1)


def is_specialist(setting: Setting, entry: int) -> bool:
    return setting.record(entry)["section"] == "specialist"


def is_sampled(setting: Setting, entry: int, tested_otherwise: bool = False) -> bool:
    """Whether the network was trained on sets of channels; `tested_otherwise`: even if it is not evaluated
    as trained.
    """
    record = setting.record(entry)
    return record["config"]["sampler"] != "none" and (tested_otherwise or not record["test"])


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
