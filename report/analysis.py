"""From Task 1's rows and predictions to comparisons: who differs from whom, by how much, and how sure that is."""
from __future__ import annotations

import csv
import gzip
import io
import statistics
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from grids import ABLATIONS, REFERENCE
from metrics import PairedBootstrap, holm
from report.rows import SPECIALISTS, SUBSETS
from utils import UserError

MEAN = "mean of 7"
SETTING = ("tier", "dataset", "image_size")
RESULT = ("difference_points", "ci95_low", "ci95_high", "p_value", "p_holm")
STATS_COLUMNS = (*SETTING, "split", "model", "other", "subset", "seeds", "other_seeds", *RESULT)
ABLATION_COLUMNS = (*SETTING, "split", "group", "variant", "model", "seeds", *SUBSETS, "mean_pct", "mean_sd", *RESULT)


class Predictions(NamedTuple):
    """Test predictions of one evaluated model."""
    images: list[str]
    labels: np.ndarray                  # (N,)
    by_subset: dict[str, np.ndarray]    # subset -> (N,)


@cache
def read_predictions(path: Path) -> Predictions:
    """A file that eval_channels.py wrote.

    Raises:
        UserError: missing or malformed.
    """
    try:
        with gzip.open(path, "rt", newline="") as file:
            header, *lines = csv.reader(file)
        columns = list(zip(*lines, strict=True))
        return Predictions(list(columns[0]), np.array(columns[1], int),
                           {name: np.array(column, int) for name, column in zip(header[2:], columns[2:], strict=True)})
    except (OSError, ValueError, EOFError, IndexError) as error:
        raise UserError(f"cannot read {path}: {error}; evaluate the model again with eval_channels.py") from error


class Models:
    """The test predictions of one setting's models, all seeds.

    Args:
        rows: rows of results/task1_channels.csv of one (tier, dataset, image_size), split test.
        folder: results/.
    """

    def __init__(self, rows: list[dict], folder: Path):
        self.files: dict[tuple[str, str], dict[int, Path]] = {}   # (model, subset) -> seed -> file
        self.trained = sorted({row["model"] for row in rows if row["role"] != "baseline" and "+" not in row["model"]})
        for row in rows:
            name = "-".join(str(row[key]) for key in ("tier", "dataset")) + f"-{row['image_size']}px-{row['model']}-s{row['seed']}"
            self.files.setdefault((row["model"], row["subset"]), {})[row["seed"]] = folder / "predictions" / f"{name}-test.csv.gz"

    def source(self, model: str, subset: str) -> dict[int, Path]:
        """Seed -> predictions file; {} in the model's name stands for the subset."""
        return self.files.get((model.format(subset), subset), {})

    def seeds(self, model: str, subsets=SUBSETS) -> list[int]:
        """Seeds that have every one of the subsets."""
        return sorted(set.intersection(*(set(self.source(model, subset)) for subset in subsets)))

    def correct(self, model: str, subset: str) -> np.ndarray:
        """1 where right: (seeds, N); for `MEAN` the sum over the seven subsets."""
        subsets = SUBSETS if subset == MEAN else (subset,)
        return np.array([sum(self._correct(self.source(model, s)[seed], s) for s in subsets)
                         for seed in self.seeds(model, subsets)])

    def _correct(self, path: Path, subset: str) -> np.ndarray:
        predictions = read_predictions(path)
        return (predictions.by_subset[subset] == predictions.labels).astype(int)

    def compare(self, model: str, other: str, subset: str) -> dict | None:
        """model - other on a subset or `MEAN`, with interval and p; None where one of them has no result there."""
        subsets = SUBSETS if subset == MEAN else (subset,)
        if not self.seeds(model, subsets) or not self.seeds(other, subsets):
            return None
        a, b = self.correct(model, subset), self.correct(other, subset)
        seed_sd = (self.seed_sd(model, subset), self.seed_sd(other, subset))
        return {"seeds": len(a), "other_seeds": len(b), **_bootstrap(a.shape[1]).compare(a, b, len(subsets), seed_sd)}

    def seed_sd(self, model: str, subset: str) -> float:
        """Standard deviation of top-1 over training seeds, points: pooled over models with several seeds, 0 without any.

        Pooled over the trained models of ours, the specialists and the ablations, because three seeds tell little about one
        model and a model with one seed varies as well; not over networks tested on sets they were not trained for. Where
        each set has a network of its own, the networks vary independently and their mean varies less.
        """
        if subset == MEAN and "{}" in model:
            return sum(self._pooled_sd(s) ** 2 for s in SUBSETS) ** 0.5 / len(SUBSETS)
        return self._pooled_sd(subset)

    @cache
    def _pooled_sd(self, subset: str) -> float:
        subsets = SUBSETS if subset == MEAN else (subset,)
        values = [100 * self.correct(model, subset).mean(1) / len(subsets) for model in self.trained
                  if len(self.seeds(model, subsets)) > 1]
        freedom = sum(len(v) - 1 for v in values)
        return float(sum(((v - v.mean()) ** 2).sum() for v in values) / freedom) ** 0.5 if freedom else 0.0


@cache
def _bootstrap(images: int) -> PairedBootstrap:
    return PairedBootstrap(images)


def by_setting(rows: list[dict], split: str = "test") -> dict[tuple, list[dict]]:
    """(tier, dataset, image_size) -> its rows of the split."""
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        if row["split"] == split:
            groups.setdefault(tuple(row[key] for key in SETTING), []).append(row)
    return groups


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
        table += _adjusted(lines)
    return table


def ablations(rows: list[dict], folder: Path) -> list[dict]:
    """Every variant of `grids.ABLATIONS` against the reference: rows of `ABLATION_COLUMNS`, Holm over each setting."""
    table = []
    for setting, members in by_setting(rows).items():
        models = Models(members, folder)
        lines = []
        for group, variants in ABLATIONS.items():
            known = [(variant, model) for variant, model in variants if models.seeds(model)]
            for variant, model in known if models.seeds(REFERENCE) and len(known) > 1 else ():
                seeds = models.seeds(model)
                top1 = {subset: 100 * models.correct(model, subset).mean(1) for subset in SUBSETS}   # (seeds,)
                means = np.mean(list(top1.values()), axis=0).tolist()
                result = models.compare(model, REFERENCE, MEAN) if model != REFERENCE else dict.fromkeys(RESULT[:-1])
                lines.append({**dict(zip(SETTING, setting)), "split": "test", "group": group, "variant": variant, "model": model,
                              **{subset: float(values.mean()) for subset, values in top1.items()},
                              "mean_pct": statistics.fmean(means), "mean_sd": statistics.stdev(means) if len(means) > 1 else None,
                              **result, "seeds": len(seeds)})
        table += _adjusted(lines)
    return table


def _adjusted(lines: list[dict]) -> list[dict]:
    """The lines with p_holm, over the distinct comparisons among them."""
    tested = {(line["model"], line.get("other"), line.get("subset")): line["p_value"] for line in lines if line["p_value"] is not None}
    corrected = dict(zip(tested, holm(list(tested.values()))) if tested else ())
    return [{**line, "p_holm": corrected.get((line["model"], line.get("other"), line.get("subset")))} for line in lines]


def to_csv(lines: list[dict], columns: tuple[str, ...]) -> str:
    """Text of a CSV file: points and percent with two decimals, p values with four significant digits, None empty."""
    def cell(name, value):
        if value is None:
            return ""
        return (f"{value:.4g}" if name.startswith("p_") else f"{value:.2f}") if isinstance(value, float) else str(value)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([cell(name, line[name]) for name in columns] for line in lines)
    return text.getvalue()
