"""Read published results, and compute how certain a difference between two models is.

A record is the result of one evaluation with one seed. An entry is an evaluated network with all of its seeds. Each
entry has a number. A file of predictions has columns: in Task 1 a column for each channel set, in Task 2 a single
column. A model is a dict from each column to the entry whose predictions it takes. So one network for all channel sets
is a model with a single entry. A specialist is a network that was trained for one channel set. Seven specialists are a
model of seven entries.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from functools import cache, cached_property
from itertools import permutations
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from config import CONFIGS, identity, resolve_run
from data.identity import LISTS_ONLY
from data.lists import RGB
from engine.records import (
    SETTING,
    SINGLE,
    SUBSETS,
    TABLES,
    Predictions,
    RunFiles,
    columns,
    load_records,
    make_table,
    read_predictions,
    run_name,
    to_csv,
)
from grids.run import Run
from metrics.statistics import SeedVariance, mean_variance, paired_difference, paired_ratio, seed_variance
from models.resnet import LAYERS
from utils import UserError

FEW = 4  # with fewer degrees of freedom, the seeds of a setting cannot estimate the seed variance well

Model = Mapping[str, int]
Runs = Run | Mapping[str, Run]  # a run, or a dict from a channel set to a run


def load_settings(root: Path, task: str) -> tuple[dict[str, str], list[Setting]]:
    """Read the results of a task; return the table of all results and a list of settings.

    The table is a dict from the path of its file to its text; it is empty without results. Results of the "demo" data
    set are for tests and have no setting.

    Raises:
        UserError: a record is malformed, or two records are of different data sets with the same name.
    """
    records = load_records(root / "results", task)
    check_data(records)
    table = make_table(records, task)
    text = {f"results/{task}/{TABLES[task]}": to_csv(table, columns(task))} if records else {}
    groups = table[table["dataset"] != "demo"].groupby(list(SETTING), sort=False)
    settings = [Setting(task, key, rows, records, root / "results") for key, rows in groups]
    for setting in settings:
        setting.others = [
            other for other in settings if other is not setting and other.dataset == setting.dataset
        ]
    return text, settings


def check_data(records: dict[str, dict]) -> None:
    """Check that all records of a data set are from the same lists and images.

    Old records do not describe their images. Then only the lists are compared.

    Raises:
        UserError: two records are of different data sets with the same name.
    """
    known: dict[tuple[str, str], tuple[str, str]] = {}  # (data set, kind of digest) -> (digest, first record)
    for name, record in records.items():
        for kind in ("dataset_digest", "images_digest"):
            value, dataset = record.get(kind, LISTS_ONLY), record["dataset"]
            if value == LISTS_ONLY or dataset == "demo":
                continue
            digest, first = known.setdefault((dataset, kind), (value, name))
            if digest != value:
                raise UserError(
                    f"the records {first} and {name} are of different data sets that are both called {dataset!r}: "
                    f"delete the records of one data set, or rename it and train again"
                )


def prediction_columns(task: str, rows: pd.DataFrame) -> tuple[str, ...]:
    """Return the columns of predictions that the rows describe.

    Task 2 has a single column. For RGB data, the columns of Task 1 are the seven sets of colours. For other data, they
    are all channel sets in the rows.
    """
    if task == "task2":
        return (SINGLE,)
    subsets = tuple(dict.fromkeys(rows["subset"]))
    return SUBSETS if {*subsets} <= {*SUBSETS} else subsets


def test_words(row: pd.Series, note: str = "") -> list[str]:
    """List the ways in which the evaluation in a row of Task 1 differs from the training, such as ["mean fill"].

    `note` is written after a fill rule.
    """
    words = {"test_fill": f"{row['test_fill']} fill{note}", "test_probe": row["test_probe"]}
    return [text for column, text in words.items() if pd.notna(row[column])]


def predictions_of_sets(setting: Setting, model: Model) -> np.ndarray:
    """Return the predicted classes of the test images for the seven sets: (sets, seeds, images)."""
    return np.array(
        [[one.by_column[column] for one in setting.predictions(model[column], column)] for column in SUBSETS]
    )


class Key(NamedTuple):
    """Hold the facts that are equal for all seeds of an entry, and differ between entries."""

    model: str
    trained: tuple  # identity of the training; two ways to evaluate the same networks have the same identity
    test: tuple  # sorted options of the evaluation


class Setting:
    """Hold a group of results with the same preset, data set and image size.

    Args:
        task: "task1" or "task2".
        key: (preset, dataset, image_size).
        rows: rows of the table of results that belong to this group.
        records: a dict from the name of a run to its record.
        folder: the folder results/.

    Attributes:
        columns: columns of predictions, such as the channel sets; a model has an entry for each column.
        channels: names of the channels of the data.
        rows: the rows, with a new column "entry" for the number of the entry.
        test: the rows of the test split.
        keys: the `Key` of each entry.
        records: a dict from an entry to a dict from a seed to its record.
        files: a dict from (entry, column of predictions) to a dict from seed to the file of the test predictions.
        others: other settings of the task with the same data. They help to estimate the seed variance when this setting
            has too few seeds.

    Raises:
        UserError: two records have the same model and seed.
    """

    def __init__(self, task: str, key: tuple, rows: pd.DataFrame, records: dict[str, dict], folder: Path):
        self.task, self.key, self.folder = task, key, folder
        self.preset, self.dataset, self.image_size = key
        self.channels = tuple(records[rows["run"].iloc[0]].get("channels") or RGB.names)
        self.columns = prediction_columns(task, rows)
        self.others: list[Setting] = []
        self.numbers: dict[Key, int] = {}  # key of an entry -> its number
        self.records: dict[int, dict[int, dict]] = {}
        entries = {}
        for name in dict.fromkeys(rows["run"]):
            record = records[name]
            trained = identity(CONFIGS[task].of(record["config"]))
            facts = Key(record["model"], trained, tuple(sorted(record["test"].items())))
            entries[name] = self.numbers.setdefault(facts, len(self.numbers))
            by_seed = self.records.setdefault(entries[name], {})
            if by_seed.setdefault(record["seed"], record) is not record:
                twin = run_name(by_seed[record["seed"]])
                raise UserError(
                    f"the records {twin} and {name} have the same model and seed: delete one record"
                )
        self.keys = list(self.numbers)
        self.rows = rows.assign(entry=rows["run"].map(entries))
        self.test = self.rows[self.rows["split"] == "test"]
        # (entry, column of predictions) -> seed -> file
        self.files: dict[tuple[int, str], dict[int, Path]] = {}
        for row in self.test.to_dict("records"):
            file = RunFiles(folder, task, row["run"]).predictions
            self.files.setdefault((row["entry"], row.get("subset", SINGLE)), {})[row["seed"]] = file

    # ------------------------------------------------------------ entries and models

    @cached_property
    def compared(self) -> list[int]:
        """List the entries to compare, in the order of the tables: all entries except the ablations."""
        return list(dict.fromkeys(self.test.loc[self.test["section"] != "ablation", "entry"]))

    @cached_property
    def places(self) -> dict[tuple, np.ndarray]:
        """Return a dict from (entry, split), in Task 1 also from (entry, split, channel set), to places in `rows`."""
        keys = [["entry", "split"], *([["entry", "split", "subset"]] if self.task == "task1" else [])]
        return {key: places for names in keys for key, places in self.rows.groupby(names).indices.items()}

    def place(self, entry: int, split: str, column: str) -> np.ndarray:
        key = (entry, split) if column == SINGLE else (entry, split, column)
        return self.places.get(key, np.empty(0, int))

    @cache
    def of(self, entry: int, split: str = "test", column: str = SINGLE) -> pd.DataFrame:
        """Return the rows of an entry for a split; if `column` is a channel set, return only the rows of this set."""
        return self.rows.iloc[self.place(entry, split, column)]

    def mean(self, model: Model | int, name: str, split: str = "test") -> float | None:
        """Average the value `name` of a model over its seeds and its columns of predictions.

        Return None if a column of predictions has no value. `model` may also be the number of an entry. Then this
        network answers every column.
        """
        model = model if isinstance(model, Mapping) else self.alone(model)
        cells = self.rows[name]
        values = [cells.iloc[self.place(entry, split, column)].dropna() for column, entry in model.items()]
        return None if any(one.empty for one in values) else statistics.fmean(one.mean() for one in values)

    def params(self, model: Model) -> float:
        """Sum the parameters over the networks of a model; of each network, the first test row counts."""
        return sum(self.row(entry)["params"] for entry in {*model.values()})

    @cache
    def row(self, entry: int) -> pd.Series:
        """Return the first test row of an entry."""
        return self.of(entry).iloc[0]

    def record(self, entry: int) -> dict:
        """Return the record of an entry's first seed."""
        by_seed = self.records[entry]
        return by_seed[min(by_seed)]

    def same(self, entry: int, column: str):
        """Return the value of a column that must be the same for all seeds of an entry.

        Raises:
            UserError: the seeds have different values.
        """
        values = sorted(set(self.of(entry)[column]))
        if len(values) > 1:
            raise UserError(
                f"the seeds of {self.describe(entry)} differ in {column} "
                f"({', '.join(map(str, values))}): evaluate different networks under different "
                f"names"
            )
        return values[0]

    @cache
    def find(self, run: Run) -> int | None:
        """Find the entry of a run that grids/ lists; return None if the run has no test results in this setting."""
        try:
            trained = identity(resolve_run(self.task, run, self.preset, self.channels))
        except UserError:  # the run is for data with other channels, or for the other task
            return None
        entry = self.numbers.get(Key(run.model, trained, tuple(sorted(run.test.items()))))
        return entry if entry in set(self.test["entry"]) else None

    def alone(self, entry: int) -> Model:
        """Make a model with the same network for every column."""
        return dict.fromkeys(self.columns, entry)

    def model(self, runs: Runs) -> Model | None:
        """Find the model that belongs to a run, or to a run for each channel set; return None if results are missing.

        Every run needs test results. For RGB data, at least one seed must have results on all seven sets. For other
        data, results on any set are enough.
        """
        if isinstance(runs, Run):
            runs = dict.fromkeys(self.columns, runs)
        model = {column: self.find(runs[column]) for column in self.columns if column in runs}
        if len(model) < len(self.columns) or None in model.values():
            return None
        return model if self.columns not in (SUBSETS, (SINGLE,)) or self.seeds(model) else None

    def run_name(self, entry: int) -> str:
        """Return the name of an entry's files, without the seed."""
        return self.row(entry)["run"].rpartition("-s")[0]

    def augmentation(self, entry: int) -> str:
        """Return the augmentation of an entry, with MixUp or CutMix if the training had one of them."""
        config = self.record(entry)["config"]
        mix = config.get("mix", "none")  # older records do not have it
        return config["augment"] if mix == "none" else f"{config['augment']}, {mix}"

    def describe(self, entry: int) -> str:
        """Return the label of an entry and, in brackets, the options that distinguish entries with the same label."""
        row = self.row(entry)
        length = [f"{row['epochs']} epochs", self.augmentation(entry)]
        if self.task == "task2":
            words = [f"x{row['width']:g}", *length, f"decay {row['weight_decay']:g}"]
        else:
            words = [*length, *test_words(row, " at test")]
        return f"{row['label']} ({', '.join(words)})"

    # ------------------------------------------------------------ predictions

    def predictions(self, entry: int, column: str = SINGLE) -> list[Predictions]:
        """Return a list with the test predictions of an entry for each seed."""
        return [read_predictions(file) for _, file in sorted(self.files.get((entry, column), {}).items())]

    def seeds(self, model: Model, columns=None) -> list[int]:
        """List the seeds that have test predictions in all of the columns; None as `columns` means all columns."""
        columns = self.columns if columns is None else columns
        files = [self.files.get((model[column], column), {}) for column in columns]
        return sorted(set.intersection(*map(set, files))) if files else []

    def seed_range(self, model: Model) -> str:
        """Write the number of seeds, or a range such as "1–3" if the columns have different numbers."""
        counts = sorted(len(self.seeds(model, (column,))) for column in model)
        return "–".join(str(count) for count in dict.fromkeys((counts[0], counts[-1])))

    @cache
    def right(self, entry: int, column: str, seed: int) -> np.ndarray:
        """Return an array (N,) with 1 for each image whose prediction is right, and 0 for all other images.

        Raises:
            UserError: the images differ from the images of the other predictions in this setting.
        """
        path = self.files[entry, column][seed]
        predictions = read_predictions(path)
        first = read_predictions(next(iter(next(iter(self.files.values())).values())))
        if predictions.images != first.images or (predictions.labels != first.labels).any():
            raise UserError(
                f"{path} has other images than the other predictions of its setting: evaluate it again"
            )
        return (predictions.by_column[column] == predictions.labels).astype(int)

    def correct(self, model: Model, columns=None, seeds: list[int] | None = None) -> np.ndarray:
        """Average `right` over the columns of predictions; return an array (seeds, N).

        Args:
            columns: columns of predictions; None: all columns.
            seeds: seeds to use; None: all seeds that have predictions for these columns.
        """
        columns = self.columns if columns is None else columns
        seeds = self.seeds(model, columns) if seeds is None else seeds
        return np.array(
            [np.mean([self.right(model[column], column, seed) for column in columns], 0) for seed in seeds]
        )

    def top1(self, model: Model, columns=None, seeds: list[int] | None = None) -> list[float]:
        """Return top-1 in percent for each seed; for the arguments see `correct`."""
        return [100 * float(right.mean()) for right in self.correct(model, columns, seeds)]

    # ------------------------------------------------------------ how much seeds matter

    def kind(self, entry: int) -> str:
        """Return the kind of a network.

        We assume that networks of the same kind vary equally from seed to seed. So their seed variances are averaged.
        """
        record = self.record(entry)
        if self.task == "task2":
            return "ResNet" if record["config"]["arch"] in LAYERS else "shallow"
        # with many channels, every network is tested on sets that were rare in training
        if self.columns != SUBSETS:
            return "any set" if record["config"]["train_channels"] == "all" else "some channels"
        if record["section"] == "specialist":
            return "specialist"
        if record["config"]["sampler"] == "none":
            return "plain"
        return "tested otherwise" if record["test"] else "any set"

    @cache
    def pooled(self, kind: str, columns: tuple[str, ...]) -> SeedVariance | None:
        """Pool the seed variance over the models of a kind that have several seeds.

        If this setting has fewer than `FEW` degrees of freedom, the models of other settings of the task are added.
        Return None if no model has several seeds.
        """

        def pool(settings: list[Setting]) -> SeedVariance | None:
            outcomes = []
            for setting in settings:
                for entry in sorted({*setting.test["entry"]}):
                    model = setting.alone(entry)
                    if setting.kind(entry) == kind and len(setting.seeds(model, columns)) > 1:
                        outcomes.append(setting.correct(model, columns))
            return seed_variance(outcomes)

        variance = pool([self])
        if kind == "specialist" or variance and variance.freedom >= FEW:
            return variance
        return pool([self, *self.others])

    def variance(self, model: Model, columns: tuple[str, ...]) -> SeedVariance | None:
        """Estimate the variance of a model's top-1 over training seeds; return None if too few seeds are repeated.

        A few seeds say little about a single model. So the variance is pooled: in Task 2 over the models of a kind, in
        Task 1 over the networks for any channel set. Task 1 has two exceptions. Seven specialists are independent
        networks, so the variance of their mean is smaller. A plain network may vary more, on sets that it was not
        trained for. So if the seeds of this network vary more than the pooled networks, only its seeds count.
        """
        if len({*model.values()}) > 1:
            parts = [self.pooled("specialist", (column,)) for column in columns]
            if None not in parts:
                return mean_variance(parts)
        kind = self.kind(next(iter(model.values())))
        pooled = self.pooled(kind if self.task == "task2" else "any set", columns)
        own = seed_variance([self.correct(model, columns)]) if kind in ("plain", "specialist") else None
        return max(filter(None, (pooled, own)), key=lambda found: found.excess, default=None)

    @cache
    def evaluation_variance(self, columns: tuple[str, ...]) -> SeedVariance | None:
        """Estimate how a difference in top-1 varies over seeds if the same networks are evaluated in two ways.

        The variance is pooled over models. Return None if no model has several seeds.
        """
        differences = []
        for entry, plain in permutations(sorted({*self.test["entry"]}), 2):
            if not self.keys[plain].test and self.keys[entry].trained == self.keys[plain].trained:
                one, other = self.alone(entry), self.alone(plain)
                seeds = sorted({*self.seeds(one, columns)} & {*self.seeds(other, columns)})
                if len(seeds) > 1:
                    differences.append(
                        self.correct(one, columns, seeds) - self.correct(other, columns, seeds)
                    )
        return seed_variance(differences)

    # ------------------------------------------------------------ comparisons

    def interval(self, model: Model, columns=None) -> tuple[float, float, float]:
        """Return (mean top-1, lower end, upper end) in percent; the 95 % interval is over images and seeds."""
        columns = self.columns if columns is None else tuple(columns)
        correct, variance = self.correct(model, columns), self.variance(model, columns)
        result = paired_difference(
            correct, np.zeros_like(correct), [(1 / len(correct), variance)] if variance else []
        )
        return result["difference_points"], result["ci95_low"], result["ci95_high"]

    def difference(self, model: Model, other: Model, columns=None) -> dict | None:
        """Subtract the top-1 of `other` from the top-1 of `model`; return None if a model has no results.

        The result is the dict of `paired_difference`, with the numbers of seeds of both models as "seeds" and
        "other_seeds". Two evaluations of the same trained networks are compared seed by seed.
        """
        columns = self.columns if columns is None else tuple(columns)
        ours, theirs = self.seeds(model, columns), self.seeds(other, columns)
        same = all(self.keys[model[column]].trained == self.keys[other[column]].trained for column in columns)
        if same:
            ours = theirs = sorted({*ours} & {*theirs})
        if not ours or not theirs:
            return None
        a, b = self.correct(model, columns, ours), self.correct(other, columns, theirs)
        if not same:
            errors = [(of_a + of_b, variance) for of_a, of_b, variance in self._shares(model, other, columns)]
        elif variance := seed_variance([a - b]) or (
            self.task == "task1" and self.evaluation_variance(columns)
        ):
            errors = [(1 / len(a), variance)]
        else:  # use the variance of two separate trainings
            variance = self.task == "task2" and self.variance(model, columns)
            errors = [(2, variance)] if variance else []
        return {"seeds": len(a), "other_seeds": len(b), **paired_difference(a, b, errors)}

    def ratio(self, model: Model, other: Model, null: float = 1) -> dict:
        """Divide the mean top-1 of `model` by the mean top-1 of `other`; return the dict of `paired_ratio`.

        The p value tests whether the true ratio is `null`.

        Raises:
            UserError: `other` is right on too few images.
        """
        try:
            return paired_ratio(
                self.correct(model), self.correct(other), self._shares(model, other, self.columns), null
            )
        except ValueError as error:
            ours, name = (self.describe(next(iter(one.values()))) for one in (model, other))
            raise UserError(
                f"{ours} / {name}: {error}; train {name} longer, or evaluate it with another --section"
            ) from error

    def _shares(self, model: Model, other: Model, columns: tuple) -> list[tuple[float, float, SeedVariance]]:
        """Return a tuple (share for `model`, share for `other`, variance) for each seed variance.

        The share is the factor of the seed variance in the variance of a model's mean.
        """
        shares: dict[SeedVariance, list[float]] = {}
        for index, one in enumerate((model, other)):
            if variance := self.variance(one, columns):
                shares.setdefault(variance, [0, 0])[index] += 1 / len(self.seeds(one, columns))
        return [(*of_each, variance) for variance, of_each in shares.items()]
