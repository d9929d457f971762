"""Compare models for the tables: our models with specialists, baselines and ResNet-34, ablations with references.

A specialist is a network that was trained for one channel set. A setting is a group of results with the same preset,
data set and image size. An entry is the number of an evaluated network in a setting. A line is a dict that holds
a row of a table. See also report/results.py.
"""

from __future__ import annotations

import itertools
import operator
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import cache
from typing import NamedTuple

import numpy as np
import pandas as pd

from data.class_names import class_names
from engine.records import SETTING, SINGLE, SUBSETS, subset_order, to_csv
from grids import task1, task2
from metrics.accuracy import confusion_matrix
from metrics.statistics import holm
from report.results import Model, Runs, Setting, test_words
from utils import UserError

MEAN = "mean of 7"
SEVEN = "seven specialists"
STRONGEST, SAME_STEM = "strongest", "same stem"  # which ResNet-34 to compare with, see `denominator`

# Columns of the CSV files
RESULT = ("difference_points", "ci95_low", "ci95_high", "p_value", "p_holm")
COMPARED = ("model", "run", "other", "other_run")
STATS = (*SETTING, "split", *COMPARED, "subset", "seeds", "other_seeds", *RESULT)
VARIANTS = {
    task: (
        *SETTING,
        *("split", "group", "variant", "model", "run"),
        *measured,
        *("reference", "reference_run"),
        *RESULT,
    )
    for task, measured in (
        ("task1", ("seeds", *SUBSETS, "mean_pct", "mean_sd")),
        ("task2", ("strict_depth", "macs", "seeds", "top1_pct", "top1_sd")),
    )
}
TRAINING = ("section", "model", "label", "stem", "width", "epochs", "augment", "weight_decay")
RATIOS = (
    *SETTING,
    *("split", *TRAINING, "run", "strict_depth", "seeds", "top1_pct", "comparison"),
    *("denominator", "denominator_run", "denominator_seeds", "denominator_top1_pct"),
    *("ratio", *RESULT[1:]),
)
DECIMALS = {
    **dict.fromkeys((*SUBSETS, "mean_pct", "mean_sd", "top1_pct", "top1_sd", "denominator_top1_pct"), 2),
    **dict.fromkeys(("difference_points", "ci95_low", "ci95_high"), 2),
    **dict.fromkeys(("strict_depth", "macs", "seeds"), 0),
}
SHARES = {**DECIMALS, **dict.fromkeys(("ratio", "ci95_low", "ci95_high"), 4)}


def csv_of(
    settings: list[Setting], make: Callable, columns: tuple[str, ...], decimals: Mapping[str, int]
) -> str:
    """Write the lines of all settings as CSV text.

    Args:
        settings: the settings to show.
        make: function that returns the lines of a setting, without the columns that are the same for a setting.
        columns: columns of the CSV text.
        decimals: a dict from the name of a column to the number of decimals.
    """
    rows = [
        {**dict(zip(SETTING, setting.key)), "split": "test", **line}
        for setting in settings
        for line in make(setting)
    ]
    frame = pd.DataFrame(rows, columns=columns)
    return to_csv(frame, {name: decimals.get(name) for name in columns})


def adjusted(lines: list[dict], keys: tuple[str, ...]) -> list[dict]:
    """Return the lines with a new column "p_holm", the p value corrected over all comparisons.

    Lines with the same values in the columns `keys` show the same comparison, which counts once.
    """
    pair = operator.itemgetter(*keys)
    tested = {pair(line): line["p_value"] for line in lines if line["p_value"] is not None}
    corrected = dict(zip(tested, holm(list(tested.values()))))
    return [{**line, "p_holm": corrected.get(pair(line))} for line in lines]


# ---------------------------------------------------------------- Task 1: ours, specialists, baselines


class Line(NamedTuple):
    """Describe a model that has a line in the tables of Task 1.

    All specialists together are also a model: each channel set (subset) has the entry of its specialist.
    """

    setting: Setting
    name: str
    section: str
    rows: pd.DataFrame  # rows of the table of results
    entries: Model  # subset -> entry

    def values(self, column: str, *subsets: str) -> list[float]:
        """Return the values of a column on these subsets, for all seeds, without empty cells."""
        cells = zip(self.rows["subset"], self.rows[column])
        return [value for subset, value in cells if subset in subsets and pd.notna(value)]

    def mean(self, column: str, *subsets: str) -> float | None:
        """Return the mean of `values`, or None if there are no values."""
        values = self.values(column, *subsets)
        return statistics.fmean(values) if values else None

    def seeds(self) -> str:
        return self.setting.seed_range(self.entries)

    def minutes(self) -> float:
        """Return the training time in minutes per seed, summed over the networks of the model."""
        seconds = [
            statistics.fmean(record["train_s"] for record in self.setting.records[entry].values())
            for entry in {*self.entries.values()}
        ]
        return sum(seconds) / 60

    @property
    def first(self) -> int:
        """Return the entry of the model's first network."""
        return next(iter(self.entries.values()))

    @property
    def how(self) -> dict[str, str]:
        """Return the cells of a table that say how the model was evaluated and trained."""
        row = self.rows.iloc[0]
        at_test = ", ".join(test_words(row)) or "as trained"
        augment = self.setting.augmentation(self.first)
        return {"at test": at_test, "epochs": str(row["epochs"]), "augment": augment}

    @property
    def recipe(self) -> list:
        """List the options that must be equal in a fair comparison of two models, except the width."""
        return [self.config["epochs"], self.setting.augmentation(self.first), self.config["stem_pool"]]

    @property
    def config(self) -> dict:
        """Return the options of the model's first network."""
        return self.setting.record(self.first)["config"]

    @property
    def run(self) -> str:
        """Return the name of the model's runs, or "" for the specialists, whose runs have several names."""
        return "" if self.section == "specialist" else self.setting.run_name(self.first)


def lines_of(setting: Setting) -> list[Line]:
    """List the models to compare, in the order of the tables.

    Raises:
        UserError: two specialists have the same subset and seed.
    """
    rows = setting.test[setting.test["section"] != "ablation"]
    merged = rows["entry"].where(rows["section"] != "specialist", -1)
    lines = []
    for _, members in rows.groupby(merged, sort=False):
        section = members["section"].iloc[0]
        twice = members[members.duplicated(["subset", "seed"], keep=False)]
        if len(twice):
            raise UserError(
                f"specialists {' and '.join(twice['run'][:2])} both have subset "
                f"{twice['subset'].iloc[0]}, seed {twice['seed'].iloc[0]}: keep only one of the two, "
                f"because a setting has one specialist for each subset"
            )
        entries = dict(zip(members["subset"], members["entry"]))
        name = members["label"].iloc[0]
        if section == "specialist":
            name = SEVEN if len(entries) > 1 else f"specialist for {', '.join(entries)} alone"
        ordered = {subset: entries[subset] for subset in sorted(entries, key=subset_order)}
        lines.append(Line(setting, name, section, members, ordered))
    return lines


@cache
def compare_models(setting: Setting) -> list[dict]:
    """Compare each of our models with the specialists and every baseline of the same recipe, of any width.

    Return lines with the columns `STATS`, "epochs" and "other at test". The p values are corrected over all lines.
    """
    by_section, compared = defaultdict(list), []
    for line in lines_of(setting):
        by_section[line.section].append(line)
    others = by_section["specialist"] + by_section["baseline"]
    for ours, other in itertools.product(by_section["ours"], others):
        if ours.recipe != other.recipe:
            continue
        for subset in (MEAN, *SUBSETS):
            columns = SUBSETS if subset == MEAN else (subset,)
            if not {*columns} <= ours.entries.keys() & other.entries.keys():
                continue
            if result := setting.difference(ours.entries, other.entries, columns):
                names = dict(zip(COMPARED, (ours.name, ours.run, other.name, other.run)))
                how = {"epochs": ours.how["epochs"], "other at test": other.how["at test"]}
                compared.append({**names, **how, "subset": subset, **result})
    return adjusted(compared, ("run", "other_run", "subset"))


# ---------------------------------------------------------------- Task 2: shares of ResNet-34's accuracy


def best(setting: Setting, entries: list[int]) -> int | None:
    """Find the entry with the highest mean top-1 on validation; return None if no entry has validation results.

    Each round removes the worst entry, until one is left. The mean of a round is over the seeds that all remaining
    entries have; if they have no seed in common, it is over all seeds. So a bad entry with few seeds does not reduce
    the seeds for the comparison of the better entries. Test images are not used.
    """
    return _best(setting, tuple(entries))


@cache
def _best(setting: Setting, entries: tuple[int, ...]) -> int | None:
    val = setting.rows[(setting.rows["split"] == "val") & setting.rows["entry"].isin(entries)]
    by_entry = val.pivot_table(index="entry", columns="seed", values="top1_pct", sort=False)
    while len(by_entry) > 1:
        common = by_entry.dropna(axis=1)
        means = (common if len(common.columns) else by_entry).mean(axis=1)
        by_entry = by_entry.drop(means[::-1].idxmin())
    return int(by_entry.index[0]) if len(by_entry) else None


def in_section(setting: Setting, section: str) -> list[int]:
    """List the entries of a section that have test results."""
    return list(dict.fromkeys(setting.test.loc[setting.test["section"] == section, "entry"]))


@cache
def denominator(setting: Setting, entry: int | None, comparison: str = STRONGEST) -> int | None:
    """Find the ResNet-34 to compare a network with; return its entry, or None if there is no ResNet-34 to compare with.

    The tables divide the accuracy of the network by the accuracy of this ResNet-34. Of all ResNet-34s that are not left
    out, it has the highest mean top-1 on validation.

    Args:
        entry: entry of the network. A ResNet-34 that trained for more epochs is left out. None: no ResNet-34 is left
            out.
        comparison: SAME_STEM also leaves out each ResNet-34 with a different first convolution; STRONGEST does not.
    """

    def fits(other: int) -> bool:
        if entry is None:
            return True
        ours, theirs = setting.row(entry), setting.row(other)
        return theirs["epochs"] <= ours["epochs"] and (
            comparison == STRONGEST or theirs["stem"] == ours["stem"]
        )

    return best(setting, [other for other in in_section(setting, "reference") if fits(other)])


def headline(setting: Setting) -> tuple[int | None, int | None]:
    """Find the two entries to compare in detail: our best network on validation, and a ResNet-34 (`denominator`)."""
    ours = best(setting, in_section(setting, "ours"))
    return ours, denominator(setting, ours)


@cache
def ratios(setting: Setting) -> list[dict]:
    """Divide the top-1 of every model by the top-1 of its denominator; return lines with the columns `RATIOS`.

    A model has a line for each comparison (STRONGEST, SAME_STEM). Holm's correction is over the lines of a comparison.
    A model without a denominator has no line, and a denominator is not divided by itself. Ablations are left out.
    Most of them are shorter trainings, which are compared with other references.
    """
    table = []
    for comparison in (STRONGEST, SAME_STEM):
        lines = []
        for entry in setting.compared:
            against, row = denominator(setting, entry, comparison), setting.row(entry)
            if against in (None, entry):
                continue
            ours, theirs = setting.alone(entry), setting.alone(against)
            lines.append(
                {
                    **row[list(TRAINING)],
                    "run": setting.run_name(entry),
                    "strict_depth": setting.same(entry, "strict_depth"),
                    "seeds": len(setting.seeds(ours)),
                    "top1_pct": float(np.mean(setting.top1(ours))),
                    "comparison": comparison,
                    "denominator": setting.describe(against),
                    "denominator_run": setting.run_name(against),
                    "denominator_seeds": len(setting.seeds(theirs)),
                    "denominator_top1_pct": float(np.mean(setting.top1(theirs))),
                    **setting.ratio(ours, theirs),
                }
            )
        table += adjusted(lines, ("run", "denominator_run"))
    return table


# ---------------------------------------------------------------- Task 2: mistakes


def agreement(labels: np.ndarray, answers: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Sort images into kinds, which say which of two models is right.

    Args:
        labels: (N,).
        answers: a dict from the names of the two models to their predictions (..., N).

    Returns: a dict from a kind of image to an array (..., N) of bool: whether each image is of this kind.
    """
    (one, other), (p, q) = answers, answers.values()
    a, b = p == labels, q == labels
    return {
        "both right": a & b,
        f"only {one} right": a & ~b,
        f"only {other} right": b & ~a,
        "the same mistake": ~a & (p == q),
        "different mistakes": ~a & ~b & (p != q),
    }


def confusion_rates(setting: Setting, entry: int, seeds: int | None = None) -> tuple[list[str], np.ndarray]:
    """Return the names of the classes and the confusion matrix (K, K), in percent of the true class.

    Args:
        seeds: number of seeds to use, the lowest seeds first; None: use all seeds.
    """
    predictions = setting.predictions(entry)[:seeds]
    classes = list(class_names(predictions[0].images, predictions[0].labels).values())
    counts = sum(confusion_matrix(p.labels, p.by_column[SINGLE], len(classes)) for p in predictions)
    return classes, 100 * counts / counts.sum(1, keepdims=True)


# ---------------------------------------------------------------- ablations of both tasks


@cache
def ablations(setting: Setting) -> list[dict]:
    """Compare every variant with its reference; return lines with the columns `VARIANTS`.

    The p values are corrected over all lines. A group is left out if it has a single variant or no difference. In Task
    1, a variant that equals an earlier variant of its group is left out, too.
    """
    lines = []
    for group, variants in (task1 if setting.task == "task1" else task2).ABLATIONS.items():
        members, seen = [], set()
        for label, run, against in variants:
            model, reference = setting.model(run), setting.model(against)
            if not model:
                continue
            pair = _identity(setting, model), reference and _identity(setting, reference)
            # a variant is repeated if its pair (model, reference) came before. A variant that is its own reference is
            # also repeated if its model came before
            repeated = seen & {pair, pair[:1] if pair[0] == pair[1] else None}
            seen |= {pair, pair[:1]}
            if repeated and setting.task == "task1":
                continue
            result = setting.difference(model, reference) if reference and model != reference else None
            values, first = setting.top1(model), next(iter(model.values()))
            mean, sd = statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None
            costs = ("strict_depth", "macs") if setting.task == "task2" else ()
            members.append(
                {
                    "group": group,
                    "variant": label,
                    **dict(zip(("model", "run"), _title(setting, run, model))),
                    **{each: float(np.mean(setting.top1(model, (each,)))) for each in setting.columns},
                    **{cost: setting.same(first, cost) for cost in costs},
                    "seeds": len(values),
                    "mean_pct": mean,
                    "mean_sd": sd,
                    "top1_pct": mean,
                    "top1_sd": sd,
                    **dict(zip(("reference", "reference_run"), _title(setting, against, reference))),
                    **{key: result and result[key] for key in RESULT[:-1]},
                }
            )
        if len(members) > 1 and any(line["difference_points"] is not None for line in members):
            lines += members
    return adjusted(lines, ("run", "reference_run"))


def _title(setting: Setting, run: Runs, model: Model | None) -> tuple[str, str]:
    """Return the name of a model and the names of its runs; of seven networks, only RGB and R are named."""
    if model is None:
        return str(run["R"] if isinstance(run, Mapping) else run), ""
    entries = dict.fromkeys([model["RGB"], model["R"]] if isinstance(run, Mapping) else model.values())
    return setting.describe([*entries][-1]), " ".join(setting.run_name(entry) for entry in entries)


def _identity(setting: Setting, model: Model) -> tuple:
    """Return a key. Two models have the same key only if their networks and their evaluations are the same."""
    keys = [setting.keys[entry] for entry in model.values()]
    return tuple((key.trained, tuple(pair for pair in key.test if pair[0] != "subsets")) for key in keys)


CSV_FILES: dict[str, dict[str, tuple]] = {  # task -> file -> arguments of `csv_of`
    "task1": {
        "stats.csv": (compare_models, STATS, DECIMALS),
        "ablations.csv": (ablations, VARIANTS["task1"], DECIMALS),
    },
    "task2": {
        "ratios.csv": (ratios, RATIOS, SHARES),
        "ablations.csv": (ablations, VARIANTS["task2"], DECIMALS),
    },
}
