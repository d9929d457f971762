"""From Task 1's rows and predictions to comparisons: who differs from whom, by how much, and how sure that is."""
from __future__ import annotations

import math
import statistics
from functools import cache
from pathlib import Path

import numpy as np

from grids import ABLATIONS, GRIDS, REFERENCE
from report.comparisons import RESULT, SETTING, adjusted, bootstrap, by_setting, pooled_variance
from report.records import Predicted
from report.task1.rows import SPECIALISTS, SUBSETS

MEAN = "mean of 7"
STATS_COLUMNS = (*SETTING, "split", "model", "other", "subset", "seeds", "other_seeds", *RESULT)
ABLATION_COLUMNS = (*SETTING, "split", "group", "variant", "model", "seeds", *SUBSETS, "mean_pct", "mean_sd", "reference", *RESULT)
PLAIN = {name for grid in GRIDS.values() for name, options in grid.items() if "--sampler none" in options} | {"late-fusion"}


class Models(Predicted):
    """Of Task 1: a column is a channel set."""
    task = "task1"

    def column(self, row: dict) -> str:
        return row["subset"]

    def source(self, model: str, subset: str) -> dict[int, Path]:
        """Seed -> predictions file; {} in the model's name stands for the subset."""
        return self.files.get((model.format(subset), subset), {})

    def seeds(self, model: str, subsets=SUBSETS) -> list[int]:
        """Seeds that have every one of the subsets."""
        return sorted(set.intersection(*(set(self.source(model, subset)) for subset in subsets)))

    def correct(self, model: str, subset: str, seeds: list[int] | None = None) -> np.ndarray:
        """1 where right: (seeds, N); for `MEAN` the sum over the seven subsets. Default: every seed."""
        subsets = SUBSETS if subset == MEAN else (subset,)
        return np.array([sum(self.right(self.source(model, s)[seed], s) for s in subsets)
                         for seed in seeds or self.seeds(model, subsets)])

    def compare(self, model: str, other: str, subset: str) -> dict | None:
        """model - other on a subset or `MEAN`, with interval and p; None where one of them has no result there.

        Two evaluations of the same trained networks share their seeds, so the spread over seeds is no part of their difference.
        """
        subsets = SUBSETS if subset == MEAN else (subset,)
        seeds, other_seeds = self.seeds(model, subsets), self.seeds(other, subsets)
        errors = []
        if model.split("+")[0] == other.split("+")[0]:
            seeds = other_seeds = sorted(set(seeds) & set(other_seeds))
        elif seeds and other_seeds:
            shares: dict[tuple, float] = {}   # models of one kind have one variance
            for name, count in ((model, len(seeds)), (other, len(other_seeds))):
                key = self._seed_variance(name, subset)
                shares[key] = shares.get(key, 0) + 1 / count
            errors = [(variance * share, df) for (variance, df), share in shares.items() if variance]
        if not seeds or not other_seeds:
            return None
        a, b = self.correct(model, subset, seeds), self.correct(other, subset, other_seeds)
        return {"seeds": len(a), "other_seeds": len(b), **bootstrap(a.shape[1]).compare(a, b, len(subsets), errors)}

    def _seed_variance(self, model: str, subset: str) -> tuple[float, int | float]:
        """Variance of a model's top-1 over training seeds, points squared, and its degrees of freedom; 0 where unknown.

        Pooled over the models of a kind that have several seeds, because a few seeds tell little about one model and a model
        with one seed varies as well. Kinds: networks for any set; the specialists for a set; each network that was trained
        without a sampler, by itself (on sets it was not trained for it varies in a way of its own). Where each set has a
        network of its own, their mean varies less: they are treated as independent.
        """
        if subset == MEAN and "{}" in model:
            parts = [self._pooled(self._members(model.format(s), s), s) for s in SUBSETS]
            total = sum(variance for variance, _ in parts)
            freedom = total ** 2 / sum(variance ** 2 / df for variance, df in parts if variance) if total else math.inf
            return total / len(SUBSETS) ** 2, freedom
        name = model.format(subset)
        own = self._pooled(self._members(name, subset), subset)
        return own if own[0] else self._pooled(self._members(REFERENCE, subset), subset)

    def _members(self, model: str, subset: str) -> tuple[str, ...]:
        """The models whose spread over seeds tells of this one's."""
        base = model.split("+")[0]
        names = dict.fromkeys(name for name, _ in self.files if "+" not in name)
        if base.startswith("specialist"):
            return tuple(name for name in names if name.startswith("specialist") and (name, subset) in self.files)
        if base in PLAIN:
            return (model,)
        return tuple(name for name in names if name not in PLAIN and not name.startswith("specialist"))

    @cache
    def _pooled(self, members: tuple[str, ...], subset: str) -> tuple[float, int | float]:
        subsets = SUBSETS if subset == MEAN else (subset,)
        return pooled_variance([100 * self.correct(model, subset).mean(1) / len(subsets) for model in members
                                if len(self.seeds(model, subsets)) > 1])


def compare_models(rows: list[dict], folder: Path) -> list[dict]:
    """Each of our models against the specialists and every baseline: rows of `STATS_COLUMNS`, Holm over each setting."""
    table = []
    for setting, members in by_setting(rows).items():
        models = Models(members, folder)
        named = {role: list(dict.fromkeys(row["model"] for row in members if row["role"] == role)) for role in ("ours", "baseline")}
        lines = [{**dict(zip(SETTING, setting)), "split": "test", "model": ours, "other": SPECIALISTS if "{}" in other else other,
                  "subset": subset, **result}
                 for ours in named["ours"] for other in ("specialist-{}", *named["baseline"]) for subset in (MEAN, *SUBSETS)
                 if (result := models.compare(ours, other, subset))]
        table += adjusted(lines)
    return table


def ablations(rows: list[dict], folder: Path) -> list[dict]:
    """Every variant of `grids.ABLATIONS` against its reference: rows of `ABLATION_COLUMNS`, Holm over each setting."""
    table = []
    for setting, members in by_setting(rows).items():
        models = Models(members, folder)
        lines = []
        for group, variants in ABLATIONS.items():
            known = [variant for variant in variants if models.seeds(variant[1])]
            for label, model, *against in known if len(known) > 1 else ():
                reference = against[0] if against else REFERENCE
                result = models.compare(model, reference, MEAN) if model != reference else None
                top1 = {subset: 100 * models.correct(model, subset, models.seeds(model)).mean(1) for subset in SUBSETS}   # (seeds,)
                means = np.mean(list(top1.values()), axis=0).tolist()
                lines.append({**dict(zip(SETTING, setting)), "split": "test", "group": group, "variant": label, "model": model,
                              **{subset: float(values.mean()) for subset, values in top1.items()},
                              "mean_pct": statistics.fmean(means), "mean_sd": statistics.stdev(means) if len(means) > 1 else None,
                              **(result or dict.fromkeys(RESULT[:-1])), "seeds": len(means), "reference": reference})
        table += adjusted(lines)
    return table
