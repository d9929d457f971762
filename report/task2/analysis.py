"""From Task 2's rows and predictions to comparisons: each model's share of ResNet-34's accuracy, and what changes it."""
from __future__ import annotations

import statistics
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from grids import TASK2_ABLATIONS, TASK2_REFERENCE
from metrics import confusion_matrix
from report.class_names import class_names
from report.comparisons import RESULT, SETTING, adjusted, bootstrap, by_setting, pooled_variance
from report.records import Predicted, Predictions, read_predictions
from report.task2.rows import Entry, best, settings
from utils import UserError

COLUMN = "predicted"
STRONGEST, SAME_STEM = "strongest", "same stem"   # the ResNet-34s that a model is compared with
RATIO_COLUMNS = (*SETTING, "split", "role", "model", "strict_depth", "epochs", "seeds", "top1_pct", "comparison",
                 "denominator", "denominator_seeds", "denominator_top1_pct", "ratio", "ci95_low", "ci95_high", "p_value", "p_holm")
CONFUSIONS = 8   # how many the table shows
RATIO_DECIMALS = {"ratio": 4, "ci95_low": 4, "ci95_high": 4}
ABLATION_COLUMNS = (*SETTING, "split", "group", "variant", "model", "strict_depth", "macs", "seeds", "top1_pct", "top1_sd",
                    "reference", *RESULT)


class Models(Predicted):
    """Of Task 2: one column."""
    task = "task2"

    def column(self, row: dict) -> str:
        return COLUMN

    def __contains__(self, model: str) -> bool:
        return (model, COLUMN) in self.files

    def predictions(self, model: str) -> list[Predictions]:
        """One for each seed."""
        return [read_predictions(path) for _, path in sorted(self.files[model, COLUMN].items())]

    def correct(self, model: str) -> np.ndarray:
        """1 where right: (seeds, N)."""
        return np.array([self.right(path, COLUMN) for _, path in sorted(self.files[model, COLUMN].items())])

    def top1(self, model: str) -> np.ndarray:
        """Percent, one for each seed: (seeds,)."""
        return 100 * self.correct(model).mean(1)

    @cached_property
    def seed_variance(self) -> tuple[float, int | float]:
        """Variance of a model's top-1 over training seeds, points squared, and its degrees of freedom; 0 where unknown.

        Pooled over all models that have several seeds, because a few seeds tell little about one model and a model with one
        seed varies as well.
        """
        return pooled_variance([self.top1(model) for model, _ in self.files])

    def difference(self, model: str, other: str) -> dict:
        """Top-1 of model - other in points, with interval and p."""
        a, b = self.correct(model), self.correct(other)
        variance, df = self.seed_variance
        errors = [(variance * (1 / len(a) + 1 / len(b)), df)] if variance else []
        return bootstrap(a.shape[1]).compare(a, b, seed_errors=errors)

    def ratio(self, model: str, other: str) -> dict:
        """Mean top-1 of model / other, with interval and p for a ratio of 1.

        Raises:
            UserError: other is right on so few images that some resamples have none.
        """
        a, b = self.correct(model), self.correct(other)
        variance, df = self.seed_variance
        errors = [(variance / len(a), variance / len(b), df)] if variance else []
        try:
            return bootstrap(a.shape[1]).ratio(a, b, errors)
        except ValueError as error:
            raise UserError(f"{model} / {other}: {error}; train {other} longer, or evaluate it with another --role") from error


class Training(NamedTuple):
    """What decides which ResNet-34 a model is compared with."""
    epochs: int = 0
    small_stem: bool = False


def trainings(records: dict[tuple, dict]) -> dict[tuple, Training]:
    """(tier, dataset, image_size, model) -> its training, from the records of the evaluations."""
    return {key[:-1]: Training(record["config"]["epochs"], bool(record["config"].get("small_stem")))
            for key, record in records.items() if "config" in record}


def denominator(rows: list[dict], trained: dict[tuple, Training], setting: tuple, model: str | None,
                comparison: str = STRONGEST) -> str | None:
    """The ResNet-34 with the highest mean validation top-1 of those trained for no more epochs than the model (None: of all);
    None where there is none with test results too.

    Args:
        trained: of `trainings`.
        comparison: STRONGEST, or SAME_STEM: of those with the model's first convolution, 3x3 stride 1 or 7x7 stride 2.
    """
    tested, own = {row["model"] for row in by_setting(rows).get(setting, [])}, trained.get((*setting, model), Training())
    def fits(other: Training) -> bool:
        return other.epochs <= own.epochs and (comparison == STRONGEST or other.small_stem == own.small_stem)
    return best([entry for entry in settings(rows, "val").get(setting, []) if entry.name in tested and (
        model is None or fits(trained.get((*setting, entry.name), Training())))], "resnet34")


def headline(rows: list[dict], trained: dict[tuple, Training], setting: tuple) -> tuple[str | None, str | None]:
    """The two networks that are compared in detail: ours with the highest mean validation top-1, and its denominator."""
    ours = best(settings(rows, "val").get(setting, []), "ours")
    return ours, denominator(rows, trained, setting, ours)


def ratios(rows: list[dict], records: dict[tuple, dict], folder: Path) -> list[dict]:
    """Every model but the ablations against its denominators: rows of `RATIO_COLUMNS`, Holm over each setting and comparison;
    a model without a denominator has no row, nor has a denominator against itself.

    Most ablations are shorter trainings, which have references of their own.
    """
    table, trained = [], trainings(records)
    for setting, entries in settings(rows, "test").items():
        models, kept = Models(by_setting(rows)[setting], folder), [entry for entry in entries if entry.role != "ablation"]
        for comparison in (STRONGEST, SAME_STEM):
            lines = []
            for entry in kept:
                against = denominator(rows, trained, setting, entry.name, comparison)
                if against in (None, entry.name):
                    continue
                lines.append({
                    **dict(zip(SETTING, setting)), "split": "test", "role": entry.role, "model": entry.name,
                    "strict_depth": entry.same("strict_depth"), "epochs": trained.get((*setting, entry.name), Training()).epochs,
                    "seeds": len(entry.rows), "top1_pct": float(models.top1(entry.name).mean()), "comparison": comparison,
                    "denominator": against, "denominator_seeds": len(models.top1(against)),
                    "denominator_top1_pct": float(models.top1(against).mean()), **models.ratio(entry.name, against)})
            table += adjusted(lines)
    return table


def ablations(rows: list[dict], folder: Path) -> list[dict]:
    """Every variant of `grids.TASK2_ABLATIONS` against its reference: rows of `ABLATION_COLUMNS`, Holm over each setting."""
    table = []
    for setting, entries in settings(rows, "test").items():
        models, by_name = Models(by_setting(rows)[setting], folder), {entry.name: entry for entry in entries}
        lines = []
        for group, variants in TASK2_ABLATIONS.items():
            known = [variant for variant in variants if variant[1] in models]
            for label, model, *against in known if len(known) > 1 else ():
                reference = against[0] if against else TASK2_REFERENCE
                compared = model != reference and reference in models
                lines.append({**dict(zip(SETTING, setting)), "split": "test", "group": group, "variant": label,
                              **_measured(by_name[model], models), "reference": reference,
                              **(models.difference(model, reference) if compared else dict.fromkeys(RESULT[:-1]))})
        table += adjusted(lines)
    return table


def agreement(labels: np.ndarray, answers: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Kind of image -> whether each is one, from what two models answer: of the shape of their answers, (..., N)."""
    (one, other), (p, q) = answers, answers.values()
    a, b = p == labels, q == labels
    return {"both right": a & b, f"only {one} right": a & ~b, f"only {other} right": b & ~a, "the same mistake": ~a & (p == q),
            "two mistakes": ~a & ~b & (p != q)}


def mistakes(rows: list[dict], trained: dict[tuple, Training], folder: Path) -> dict[tuple, dict]:
    """Setting -> where the two networks of `headline` go wrong; means over the seeds that both have.

    `shares`: kind of image -> percent; `confusions`: (true class, taken for, ours, denominator), in percent of the class, the
    commonest ones of ours.
    """
    found = {}
    for setting, members in by_setting(rows).items():
        models, (ours, against) = Models(members, folder), headline(rows, trained, setting)
        if ours not in models or against is None:
            continue
        pairs = list(zip(models.predictions(ours), models.predictions(against)))
        labels = pairs[0][0].labels
        answers = np.array([[p.by_column[COLUMN] for p in pair] for pair in pairs])                      # (seeds, 2, N)
        kinds = agreement(labels, {ours: answers[:, 0], against: answers[:, 1]})
        names = list(class_names(pairs[0][0].images, labels).values())
        counts = np.array([sum(confusion_matrix(labels, of_seed, len(names)) for of_seed in of_model)
                           for of_model in answers.swapaxes(0, 1)])                                      # (2, K, K)
        rates = 100 * counts / counts.sum(2, keepdims=True)
        wrong = rates[0] * ~np.eye(len(names), dtype=bool)
        worst = [divmod(int(cell), len(names)) for cell in np.argsort(-wrong, axis=None, kind="stable")[:CONFUSIONS] if wrong.flat[cell]]
        found[setting] = {"ours": ours, "denominator": against, "seeds": len(pairs),
                          "shares": {kind: 100 * float(images.mean()) for kind, images in kinds.items()},
                          "confusions": [(names[i], names[j], float(rates[0, i, j]), float(rates[1, i, j])) for i, j in worst]}
    return found


def _measured(entry: Entry, models: Models) -> dict:
    top1 = models.top1(entry.name).tolist()
    return {"model": entry.name, "strict_depth": entry.same("strict_depth"), "macs": entry.same("macs"), "seeds": len(top1),
            "top1_pct": statistics.fmean(top1), "top1_sd": statistics.stdev(top1) if len(top1) > 1 else None}
