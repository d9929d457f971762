"""Published results as tables of rows, and what comparing their models needs: predictions, spread over
seeds.
"""
from __future__ import annotations

import dataclasses
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from config import CONFIGS, resolve_run, run_folder_name, training_key
from grids.run import Run
from metrics.statistics import holm
from records import SETTING, SINGLE, TABLES, Predictions, RunFiles, columns, load_records, make_table
from records import read_predictions, to_csv
from utils import UserError

FEW = 4   # degrees of freedom below which a setting's own seeds tell too little of their spread
RESULT = ("difference_points", "ci95_low", "ci95_high", "p_value", "p_holm")


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
        setting.others = [other for other in settings if other is not setting and other.dataset == setting.dataset]
    return text, settings


class Setting:
    """The results of one preset, data set and image size. An entry is a model with all of its seeds.

    Args:
        task: "task1" or "task2".
        key: (preset, dataset, image_size).
        rows: of the task's table.
        records: name of a run -> record.
        folder: results/.

    Attributes:
        rows: with a column "entry", a number.
        others: the task's other settings of these data, which tell what training seeds do where this one has
            one seed each.

    Raises:
        UserError: two records of one model and seed.
    """

    def __init__(self, task: str, key: tuple, rows: pd.DataFrame, records: dict[str, dict], folder: Path):
        self.task, self.key, self.folder = task, key, folder
        self.preset, self.dataset, self.image_size = key
        self.others: list[Setting] = []
        self.numbers: dict[tuple, int] = {}            # identity of an entry -> its number
        self.records: dict[tuple[int, int], dict] = {}   # (entry, seed) -> record
        entries = {}
        for name in dict.fromkeys(rows["run"]):
            record = records[name]
            entries[name] = self.numbers.setdefault(self._identity(record), len(self.numbers))
            other = self.records.setdefault((entries[name], record["seed"]), record)
            if other is not record:
                raise UserError(f"two records of one model and seed, {name} and another of "
                                f"{record['model']}: delete one")
        self.rows = rows.assign(entry=rows["run"].map(entries))

    def _identity(self, record: dict) -> tuple:
        key = training_key(record["config"], CONFIGS[self.task])
        return record["model"], key, tuple(sorted(record["test"].items()))

    # ------------------------------------------------------------ what is there

    @cached_property
    def test(self) -> pd.DataFrame:
        return self.rows[self.rows["split"] == "test"]

    @cached_property
    def compared(self) -> list[int]:
        """Entries of what is compared with one another, in the order of the tables; ablations have one of
        their own.
        """
        return list(dict.fromkeys(self.test.loc[self.test["section"] != "ablation", "entry"]))

    def of(self, entry: int, split: str = "test") -> pd.DataFrame:
        """An entry's rows."""
        return self.rows[(self.rows["entry"] == entry) & (self.rows["split"] == split)]

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
            raise UserError(f"the seeds of {self.describe(entry)} differ in {column} "
                            f"({', '.join(map(str, values))}): evaluate different networks under different "
                            f"names")
        return values[0]

    @cache
    def find(self, run: Run) -> int | None:
        """The entry of a run of the grids, None where it has no test results here."""
        trained = run.parts[0] if run.parts else run
        options = dict(trained.options)
        if run.teacher:
            teacher = resolve_run(self.task, run.teacher.options, self.preset, name=run.teacher.model)
            options["teacher"] = f"runs/{self.preset}/{run_folder_name(teacher)}/model.pt"
        config = dataclasses.asdict(resolve_run(self.task, options, self.preset))
        key = training_key(config, CONFIGS[self.task])
        entry = self.numbers.get((run.model, key, tuple(sorted(run.test.items()))))
        return entry if entry in set(self.test["entry"]) else None

    def trained(self, entry: int) -> tuple:
        """The same for two entries that evaluate the same trained networks, and for no others."""
        return training_key(self.record(entry)["config"], CONFIGS[self.task])

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
        for entry, column, seed, run in zip(self.test["entry"],
                                            self.test.get("subset", [SINGLE] * len(self.test)),
                                            self.test["seed"], self.test["run"]):
            files.setdefault((entry, column), {})[seed] = RunFiles(self.folder, self.task, run).predictions
        return files

    def seeds(self, entry: int, column: str = SINGLE) -> list[int]:
        """Seeds that have test predictions in the column."""
        return sorted(self._files.get((entry, column), {}))

    def predictions(self, entry: int, column: str = SINGLE) -> list[Predictions]:
        """One for each seed."""
        return [read_predictions(self._files[entry, column][seed]) for seed in self.seeds(entry, column)]

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
            raise UserError(f"{path} is of other images than the other predictions of its setting: evaluate "
                            f"it again")
        return (predictions.by_column[column] == predictions.labels).astype(int)


def adjusted(lines: list[dict], keys: tuple[str, ...]) -> list[dict]:
    """The lines with p_holm, over the distinct comparisons among them, which the columns `keys` tell
    apart.
    """
    def pair(line: dict) -> tuple:
        return tuple(line[key] for key in keys)
    tested = {pair(line): line["p_value"] for line in lines if line["p_value"] is not None}
    corrected = dict(zip(tested, holm(list(tested.values()))))
    return [{**line, "p_holm": corrected.get(pair(line))} for line in lines]


def csv_of(lines: dict[tuple, list[dict]], columns: tuple[str, ...], decimals: dict[str, int]) -> str:
    """Text of a CSV file of the lines of all settings; `decimals` of the numbers, see `records.to_csv`."""
    frame = pd.DataFrame([line for members in lines.values() for line in members], columns=columns)
    return to_csv(frame, {name: decimals.get(name) for name in columns})
