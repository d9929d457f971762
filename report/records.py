"""What an evaluation leaves in results/runs and results/predictions, read back."""
from __future__ import annotations

import csv
import gzip
import json
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils import UserError


def run_name(task: str, row: dict) -> str:
    """What the record and the predictions of a row's evaluation are called, without ending.

    TIER-DATASET-SIZEpx-MODEL-sSEED; before it "task2-" for task "task2".
    """
    name = f"{row['tier']}-{row['dataset']}-{row['image_size']}px-{row['model']}-s{row['seed']}"
    return name if task == "task1" else f"{task}-{name}"


def load_records(root: Path, task: str) -> dict[tuple, dict]:
    """(tier, dataset, image_size, model, seed) -> the record of that evaluation; one without a task is of Task 1.

    Raises:
        UserError: a record is no JSON of that kind; names the file.
    """
    records = {}
    for path in sorted((root / "results" / "runs").glob("*.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            if record.get("task", "task1") == task:
                records[tuple(record[key] for key in ("tier", "dataset", "image_size", "model", "seed"))] = record
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is no record of an evaluation ({error}): evaluate the model again or delete the file") from error
    return records


class Predictions(NamedTuple):
    """Test predictions of one evaluated model; a column is a channel set in Task 1, "predicted" in Task 2."""
    images: list[str]
    labels: np.ndarray                  # (N,)
    by_column: dict[str, np.ndarray]    # column -> (N,)


@cache
def read_predictions(path: Path) -> Predictions:
    """A file that an evaluation wrote.

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
        script = "eval_classifiers.py" if path.name.startswith("task2-") else "eval_channels.py"
        raise UserError(f"cannot read {path}: {error}; evaluate the model again with {script}") from error


class Predicted:
    """The test predictions of one setting's models, all seeds. A task's own class says where a row's are.

    Args:
        rows: rows of the task's results file, of one (tier, dataset, image_size), split test.
        folder: results/.
    """
    task: str

    def __init__(self, rows: list[dict], folder: Path):
        self.files: dict[tuple[str, str], dict[int, Path]] = {}   # (model, column) -> seed -> file
        for row in rows:
            path = folder / "predictions" / f"{run_name(self.task, row)}-test.csv.gz"
            self.files.setdefault((row["model"], self.column(row)), {})[row["seed"]] = path

    def column(self, row: dict) -> str:
        """The column of the predictions file that the row is of."""
        raise NotImplementedError

    @cache
    def right(self, path: Path, column: str) -> np.ndarray:
        """1 where the file's column is right, else 0: (N,).

        Raises:
            UserError: its images are not those of the setting's first file.
        """
        predictions = read_predictions(path)
        first = read_predictions(next(iter(next(iter(self.files.values())).values())))
        if predictions.images != first.images or (predictions.labels != first.labels).any():
            raise UserError(f"{path} is of other images than the other predictions of its setting: evaluate it again")
        return (predictions.by_column[column] == predictions.labels).astype(int)
