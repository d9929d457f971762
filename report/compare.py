"""Published results, and how sure a difference between two models of them is.

An entry is one evaluated network with all of its seeds. A model answers for columns of predictions, in Task 1 one for
each channel set, in Task 2 one: {column: entry}. Seven specialists are a model of seven entries.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from config import CONFIGS, identity, resolve_run
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
    to_csv,
)
from grids.run import Run
from metrics.statistics import (
    SeedVariance,
    holm,
    mean_variance,
    paired_difference,
    paired_ratio,
    seed_variance,
)
from models.resnet import LAYERS
from utils import UserError

FEW = 4  # degrees of freedom below which a setting's own seeds tell too little of their spread
RESULT = ("difference_points", "ci95_low", "ci95_high", "p_value", "p_holm")

Model = Mapping[str, int]
Runs = Run | Mapping[str, Run]  # a run, or one for each channel set


def load_settings(root: Path, task: str) -> tuple[dict[str, str], list[Setting]]:
    """The table of a task's results, as file -> text, and the results, a setting each.

    Those of the "demo" data set are for tests: they have no setting.
    """
    records = load_records(root / "results", task)
    table = make_table(records, task)
    text = {f"results/{task}/{TABLES[task]}": to_csv(table, columns(task))} if records else {}
    shown = table[table["dataset"] != "demo"].groupby(list(SETTING), sort=False)
    settings = [Setting(task, key, rows, records, root / "results") for key, rows in shown]
    for setting in settings:
        setting.others = [
            other for other in settings if other is not setting and other.dataset == setting.dataset
        ]
    return text, settings


class Setting:
    """The results of one preset, data set and image size.

    Args:
        task: "task1" or "task2".
        key: (preset, dataset, image_size).
        rows: of the task's table.
        records: name of a run -> record.
        folder: results/.

    Attributes:
        columns: of predictions, all of which a model answers for.
        rows: with a column "entry", a number.
        others: the task's other settings of these data, which tell what training seeds do where this one has
            one seed each.

    Raises:
        UserError: two records of one model and seed.
    """

    def __init__(self, task: str, key: tuple, rows: pd.DataFrame, records: dict[str, dict], folder: Path):
        self.task, self.key, self.folder = task, key, folder
        self.preset, self.dataset, self.image_size = key
        self.columns = SUBSETS if task == "task1" else (SINGLE,)
        self.others: list[Setting] = []
        self.numbers: dict[tuple, int] = {}  # identity of an entry -> its number
        self.records: dict[tuple[int, int], dict] = {}  # (entry, seed) -> record
        entries = {}
        for name in dict.fromkeys(rows["run"]):
            record = records[name]
            key = (
                record["model"],
                identity(CONFIGS[task].of(record["config"])),
                tuple(sorted(record["test"].items())),
            )
            entries[name] = self.numbers.setdefault(key, len(self.numbers))
            if self.records.setdefault((entries[name], record["seed"]), record) is not record:
                raise UserError(
                    f"two records of one model and seed, {name} and another of {record['model']}: delete one"
                )
        self.rows = rows.assign(entry=rows["run"].map(entries))

    # ------------------------------------------------------------ what is there

    @cached_property
    def test(self) -> pd.DataFrame:
        return self.rows[self.rows["split"] == "test"]

    @cached_property
    def compared(self) -> list[int]:
        """Entries of what is compared with one another, in the order of the tables: all but the ablations."""
        return list(dict.fromkeys(self.test.loc[self.test["section"] != "ablation", "entry"]))

    def of(self, entry: int, split: str = "test", column: str = SINGLE) -> pd.DataFrame:
        """An entry's rows; in Task 1 those of all sets, or of one."""
        rows = self.rows[(self.rows["entry"] == entry) & (self.rows["split"] == split)]
        return rows if column == SINGLE else rows[rows["subset"] == column]

    def mean(self, model: Model, name: str, split: str = "test") -> float | None:
        """Mean over seeds and columns of what a table's column `name` has; None where a value is missing."""
        values = [self.of(entry, split, column)[name] for column, entry in model.items()]
        missing = any(one.empty or one.isna().any() for one in values)
        return None if missing else statistics.fmean(one.mean() for one in values)

    def record(self, entry: int) -> dict:
        """The record of an entry's first seed."""
        return self.records[entry, min(seed for number, seed in self.records if number == entry)]

    def same(self, entry: int, column: str):
        """The column's value, which all seeds share.

        Raises:
            UserError: they do not.
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
        """The entry of a run of the grids, None where it has no test results here."""
        key = identity(resolve_run(self.task, run, self.preset))
        entry = self.numbers.get((run.model, key, tuple(sorted(run.test.items()))))
        return entry if entry in set(self.test["entry"]) else None

    def alone(self, entry: int) -> Model:
        """One network that answers for every column."""
        return dict.fromkeys(self.columns, entry)

    def model(self, runs: Runs) -> Model | None:
        """What the results have of a run, or of a run for each channel set; None without test results on all."""
        runs = runs if isinstance(runs, Mapping) else dict.fromkeys(self.columns, runs)
        found = {column: self.find(runs[column]) for column in self.columns}
        return found if None not in found.values() and self.seeds(found) else None

    def trained(self, entry: int) -> tuple:
        """The same for two entries that evaluate the same trained networks, and for no others."""
        return identity(CONFIGS[self.task].of(self.record(entry)["config"]))

    def run_name(self, entry: int) -> str:
        """What the files of the entry's runs are called, without the seed."""
        return self.of(entry)["run"].iloc[0].rpartition("-s")[0]

    def describe(self, entry: int) -> str:
        """The label, and in brackets the options by which entries of one label differ."""
        row = self.rows[self.rows["entry"] == entry].iloc[0]
        told = [f"x{row['width']:g}"] * (self.task == "task2") + [f"{row['epochs']} epochs", row["augment"]]
        told += [f"decay {row['weight_decay']:g}"] * (self.task == "task2")
        if pd.notna(row.get("test_fill")):
            told.append(f"{row['test_fill']} fill at test")
        if pd.notna(row.get("test_probe")):
            told.append(row["test_probe"])
        return f"{row['label']} ({', '.join(told)})"

    # ------------------------------------------------------------ predictions

    @cached_property
    def _files(self) -> dict[tuple[int, str], dict[int, Path]]:
        """(entry, column of predictions) -> seed -> file."""
        files: dict[tuple[int, str], dict[int, Path]] = {}
        for entry, column, seed, run in zip(
            self.test["entry"],
            self.test.get("subset", [SINGLE] * len(self.test)),
            self.test["seed"],
            self.test["run"],
        ):
            files.setdefault((entry, column), {})[seed] = RunFiles(self.folder, self.task, run).predictions
        return files

    def predictions(self, entry: int, column: str = SINGLE) -> list[Predictions]:
        """One for each seed."""
        return [read_predictions(file) for _, file in sorted(self._files.get((entry, column), {}).items())]

    def seeds(self, model: Model, columns=None) -> list[int]:
        """Seeds that have test predictions in every one of the columns."""
        return sorted(
            set.intersection(
                *({*self._files.get((model[column], column), {})} for column in columns or self.columns)
            )
        )

    @cache
    def right(self, entry: int, column: str, seed: int) -> np.ndarray:
        """1 where the prediction is right, else 0: (N,).

        Raises:
            UserError: the images are not those of the setting's first file.
        """
        path = self._files[entry, column][seed]
        predictions = read_predictions(path)
        first = read_predictions(next(iter(next(iter(self._files.values())).values())))
        if predictions.images != first.images or (predictions.labels != first.labels).any():
            raise UserError(
                f"{path} is of other images than the other predictions of its setting: evaluate it again"
            )
        return (predictions.by_column[column] == predictions.labels).astype(int)

    def correct(self, model: Model, columns=None, seeds: list[int] | None = None) -> np.ndarray:
        """1 where right, of several columns the mean: (seeds, N). Default: all columns, every seed."""
        columns = columns or self.columns
        return np.array(
            [
                sum(self.right(model[column], column, seed) for column in columns) / len(columns)
                for seed in seeds or self.seeds(model, columns)
            ]
        )

    def top1(self, model: Model, columns=None) -> list[float]:
        """Percent, one for each seed."""
        return (100 * self.correct(model, columns).mean(1)).tolist()

    # ------------------------------------------------------------ how much seeds matter

    def kind(self, entry: int) -> str:
        """Networks of one kind vary alike over training seeds: their variances are pooled."""
        record = self.record(entry)
        if self.task == "task2":
            return "ResNet" if record["config"]["arch"] in LAYERS else "shallow"
        if record["section"] == "specialist":
            return "specialist"
        if record["config"]["sampler"] == "none":
            return "plain"
        return "tested otherwise" if record["test"] else "any set"

    @cache
    def pooled(self, kind: str, columns: tuple[str, ...]) -> SeedVariance | None:
        """Over seeds, of the models of a kind that have several; None where none has.

        Those of the task's other settings help where this one has fewer than `FEW` degrees of freedom.
        """

        def several(place: Setting) -> list[np.ndarray]:
            models = [
                place.alone(entry) for entry in sorted({*place.test["entry"]}) if place.kind(entry) == kind
            ]
            return [place.correct(model, columns) for model in models if len(place.seeds(model, columns)) > 1]

        own = seed_variance(several(self))
        if kind == "specialist" or own and own.freedom >= FEW:
            return own
        return seed_variance(outcomes for place in (self, *self.others) for outcomes in several(place))

    def variance(self, model: Model, columns: tuple[str, ...]) -> SeedVariance | None:
        """What training seeds do to a model's top-1; None where no model of its kind has several seeds.

        A few seeds tell little about one model, and a model with one seed varies as well: so kinds are pooled. Where
        each set has a network of its own, their mean varies less: they are independent. A plain network varies on
        sets that it was not trained for in a way of its own. The networks for any set stand for what has no
        repetition.
        """
        if len({*model.values()}) > 1:
            parts = [self.pooled("specialist", (column,)) for column in columns]
            if None not in parts:
                return mean_variance(parts)
        kind = self.kind(next(iter(model.values())))
        if kind in ("plain", "specialist"):
            seeds = self.seeds(model, columns)
            own = seed_variance([self.correct(model, columns)]) if len(seeds) > 1 else None
            if own:
                return own
        return self.pooled(kind if self.task == "task2" else "any set", columns)

    @cache
    def evaluation_variance(self, columns: tuple[str, ...]) -> SeedVariance | None:
        """Over seeds, of the difference that another way to evaluate makes: pooled over those with several seeds."""
        entries, found = sorted({*self.test["entry"]}), []
        for entry in entries:
            for plain in entries:
                if (
                    entry != plain
                    and not self.record(plain)["test"]
                    and self.trained(entry) == self.trained(plain)
                ):
                    one, other = self.alone(entry), self.alone(plain)
                    seeds = sorted({*self.seeds(one, columns)} & {*self.seeds(other, columns)})
                    if len(seeds) > 1:
                        found.append(self.correct(one, columns, seeds) - self.correct(other, columns, seeds))
        return seed_variance(found)

    # ------------------------------------------------------------ comparisons

    def difference(self, model: Model, other: Model, columns=None) -> dict | None:
        """model - other in points, with interval and p; None where one of them has no result there.

        Two evaluations of the same trained networks are compared seed by seed.
        """
        columns = tuple(columns or self.columns)
        ours, theirs = self.seeds(model, columns), self.seeds(other, columns)
        same = all(self.trained(model[column]) == self.trained(other[column]) for column in columns)
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
        else:  # as if they had been trained apart
            variance = self.task == "task2" and self.variance(model, columns)
            errors = [(2, variance)] if variance else []
        return {"seeds": len(a), "other_seeds": len(b), **paired_difference(a, b, errors)}

    def ratio(self, model: Model, other: Model) -> dict:
        """Mean top-1 of model / other, with interval and p for a ratio of 1.

        Raises:
            UserError: other is right on too few images.
        """
        try:
            return paired_ratio(
                self.correct(model), self.correct(other), self._shares(model, other, self.columns)
            )
        except ValueError as error:
            ours, name = (self.describe(next(iter(one.values()))) for one in (model, other))
            raise UserError(
                f"{ours} / {name}: {error}; train {name} longer, or evaluate it with another --section"
            ) from error

    def _shares(self, model: Model, other: Model, columns: tuple) -> list[tuple[float, float, SeedVariance]]:
        """Shares of each kind's variance over seeds in the means of the two: (of model's, of other's, variance)."""
        shares: dict[SeedVariance, list[float]] = {}
        for place, one in enumerate((model, other)):
            if variance := self.variance(one, columns):
                shares.setdefault(variance, [0, 0])[place] += 1 / len(self.seeds(one, columns))
        return [(*of_each, variance) for variance, of_each in shares.items()]


def ablations(setting: Setting, groups: Mapping[str, list], usual: Run) -> list[dict]:
    """Every variant of a grid's `ABLATIONS` against its reference (default: `usual`), corrected over the setting.

    A group with one variant is left out, and a variant that is another one at this preset.
    """
    lines = []
    for group, variants in groups.items():
        known, seen = [], set()
        for label, run, *against in variants:
            against = against[0] if against else usual
            model, reference = setting.model(run), setting.model(against)
            if model:
                pair = _identity(setting, model), reference and _identity(setting, reference)
                # not twice, nor a network again that is compared with nothing
                if not seen & {pair, pair[:1] if pair[0] == pair[1] else None} or setting.task == "task2":
                    known.append((label, run, model, against, reference))
                seen |= {pair, pair[:1]}
        for label, run, model, against, reference in known if len(known) > 1 else ():
            result = setting.difference(model, reference) if reference and model != reference else None
            values, first = setting.top1(model), next(iter(model.values()))
            mean, sd = statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None
            by_set = {column: float(np.mean(setting.top1(model, (column,)))) for column in setting.columns}
            costs = {
                key: setting.same(first, key) for key in ("strict_depth", "macs") if setting.task == "task2"
            }
            lines.append(
                {
                    **dict(zip(SETTING, setting.key)),
                    "split": "test",
                    "group": group,
                    "variant": label,
                    **dict(zip(("model", "run"), _title(setting, run, model))),
                    **by_set,
                    **costs,
                    "seeds": len(values),
                    "mean_pct": mean,
                    "mean_sd": sd,
                    "top1_pct": mean,
                    "top1_sd": sd,
                    **dict(zip(("reference", "reference_run"), _title(setting, against, reference))),
                    **{key: (result or {}).get(key) for key in RESULT[:-1]},
                }
            )
    return adjusted(lines, ("run", "reference_run"))


def _title(setting: Setting, run: Runs, model: Model | None) -> tuple[str, str]:
    """What a model is called, and the name of its runs; of seven networks those for RGB and R."""
    if model is None:
        return str(run["R"] if isinstance(run, Mapping) else run), ""
    shown = dict.fromkeys([model["RGB"], model["R"]] if isinstance(run, Mapping) else model.values())
    return setting.describe([*shown][-1]), " ".join(setting.run_name(entry) for entry in shown)


def _identity(setting: Setting, model: Model) -> tuple:
    """The same for two models that are the same networks, evaluated alike."""
    tests = [
        {key: value for key, value in setting.record(entry)["test"].items() if key != "subsets"}
        for entry in model.values()
    ]
    return tuple(
        (setting.trained(entry), tuple(sorted(test.items()))) for entry, test in zip(model.values(), tests)
    )


def adjusted(lines: list[dict], keys: tuple[str, ...]) -> list[dict]:
    """The lines with p_holm, over the distinct comparisons among them, which the columns `keys` tell apart."""

    def pair(line: dict) -> tuple:
        return tuple(line[key] for key in keys)

    tested = {pair(line): line["p_value"] for line in lines if line["p_value"] is not None}
    corrected = dict(zip(tested, holm(list(tested.values()))))
    return [{**line, "p_holm": corrected.get(pair(line))} for line in lines]


def csv_of(lines: dict[tuple, list[dict]], columns: tuple[str, ...], decimals: dict[str, int]) -> str:
    """Text of a CSV file of the lines of all settings; `decimals` of the numbers, see `records.to_csv`."""
    frame = pd.DataFrame([line for members in lines.values() for line in members], columns=columns)
    return to_csv(frame, {name: decimals.get(name) for name in columns})
