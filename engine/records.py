"""What a run leaves in results/: records, predictions and a table. Written and read here alone.

    results/TASK/runs/NAME.json                 one evaluation: configuration, provenance, history, metrics
    results/TASK/predictions/NAME-test.csv.gz   a line a test image: path, true class, predicted classes
    results/task1/channels.csv                  all records of Task 1 as one table
    results/task2/classifiers.csv               those of Task 2

NAME is PRESET-DATASET-SIZEpx-MODEL-OPTIONS-sSEED; OPTIONS are eight letters that stand for all options.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from utils import UserError, atomic_path, one_at_a_time, write_json, write_text

SETTING = ("preset", "dataset", "image_size")  # results of one setting are compared with one another
SECTIONS = {  # what a model is in the tables, in their order
    "task1": ("ours", "baseline", "specialist", "ablation"),
    "task2": ("ours", "reference", "distilled", "baseline", "ablation"),
}
TABLES = {"task1": "channels.csv", "task2": "classifiers.csv"}
SUBSETS = ("RGB", "RG", "RB", "GB", "R", "G", "B")  # of the images' channels, in the order of every table
SINGLE = "predicted"  # the column of predictions of a task with one answer an image

METRICS = {
    "top1_pct": 2,
    "ci95_low": 2,
    "ci95_high": 2,
    "precision_macro": 4,
    "recall_macro": 4,
    "f1_macro": 4,
    "loss": 4,
}
COSTS = {
    "task1": {"params": 0, "macs": 0, "latency_ms": 3},
    "task2": {
        "strict_depth": 0,
        "train_depth": 0,
        "params": 0,
        "macs": 0,
        "latency_ms_b1": 3,
        "latency_ms_b256": 2,
        "peak_mem_mb": 2,
        "train_s": 1,
    },
}
NEXT = "next: python -m report.build"  # what to do with results: make the documents of them
MAY_MISS = ("latency", "loss")  # not measured with --repeats 0; not known of older records
# of the training, with a column of their own; the others stand in "options" where they are not usual
OPTIONS = {
    "task1": ("width", "epochs", "augment", "weight_decay"),
    "task2": ("stem", "stem_pool", "width", "epochs", "augment", "weight_decay"),
}
# how it was evaluated, if not as trained
TEST = {"task1": ("fill", "probe", "image_size"), "task2": ("image_size",)}
UNTOLD = {"arch", "kernels"}  # options that the model's name tells


def run_name(record: dict) -> str:
    """What the files of an evaluation are called, without folder and ending."""
    return (
        f"{record['preset']}-{record['dataset']}-{record['image_size']}px-{record['model']}-{record['digest']}"
        f"-s{record['seed']}"
    )


class RunFiles(NamedTuple):
    """Where the results of one evaluation lie; `folder`: results/."""

    folder: Path
    task: str
    name: str

    @property
    def record(self) -> Path:
        return self.folder / self.task / "runs" / f"{self.name}.json"

    @property
    def predictions(self) -> Path:
        return self.folder / self.task / "predictions" / f"{self.name}-test.csv.gz"

    @property
    def table(self) -> Path:
        return self.folder / self.task / TABLES[self.task]


# ---------------------------------------------------------------- records


def load_records(folder: str | Path, task: str) -> dict[str, dict]:
    """Name of a run -> its record, for all evaluations below results folder `folder`.

    Raises:
        UserError: a record is no JSON of that kind; names the file.
    """
    records = {}
    for path in sorted((Path(folder) / task / "runs").glob("*.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            if run_name(record) != path.stem or record["section"] not in SECTIONS[task]:
                raise ValueError(f"section {record['section']!r} of {run_name(record)}")
            records[path.stem] = record
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path} is no record of an evaluation ({error}): evaluate the model again or delete the file"
            ) from error
    return records


def write_record(files: RunFiles, record: dict) -> None:
    """Write the record, and the task's table anew with it, while other processes wait to do the same."""
    with one_at_a_time(files.folder / files.task):
        write_json(files.record, record)
        write_table(files.folder, files.task)


# ---------------------------------------------------------------- the table


def columns(task: str) -> dict[str, int | None]:
    """Columns of the task's table, in order -> decimals of a number, None for text and options."""
    subset = ["subset"] * (task == "task1")
    texts = [
        *SETTING,
        "section",
        "model",
        "label",
        *OPTIONS[task],
        "options",
        *(f"test_{key}" for key in TEST[task]),
        "seed",
        *subset,
        "split",
    ]
    return {**dict.fromkeys(texts), **METRICS, **COSTS[task], "hardware": None, "run": None}


def make_table(records: dict[str, dict], task: str) -> pd.DataFrame:
    """A row for each record, split and channel set, in the columns of `columns`.

    Raises:
        UserError: a record misses a value, or has one out of range; names the record.
    """
    rows = []
    for name, record in records.items():
        try:
            config, test = record["config"], record["test"]
            told = {
                key: value for key, value in record["options"].items() if key not in {*OPTIONS[task], *UNTOLD}
            }
            known = {
                **{key: record[key] for key in (*SETTING, "section", "model", "label", "seed")},
                **{key: config[key] for key in OPTIONS[task]},
                "options": " ".join(f"{key}={value}" for key, value in sorted(told.items())),
                **{f"test_{key}": test.get(key) for key in TEST[task]},
                "hardware": record["trained_with"]["hardware"],
                "run": name,
            }
            rows += [
                {**known, "split": split, **line}
                for split, lines in record["splits"].items()
                for line in lines
            ]
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"the record {name} has no {error}: evaluate the model again or delete it"
            ) from error
    decimals = columns(task)
    table = pd.DataFrame(rows, columns=list(decimals))
    for name, digits in decimals.items():
        if digits is not None:
            table[name] = table[name].astype(float).round(digits)
            top = 1 if name.endswith("_macro") else np.inf if name not in METRICS or name == "loss" else 100
            wrong = table[~(table[name].between(0, top) | (table[name].isna() & name.startswith(MAY_MISS)))]
            if len(wrong):
                raise UserError(
                    f"the record {wrong['run'].iloc[0]} has {name} {wrong[name].iloc[0]}, outside 0..{top}"
                )
    order = table.assign(section=table["section"].map(SECTIONS[task].index), label="")
    if task == "task1":
        order["subset"] = order["subset"].map(subset_order)
    test = [f"test_{key}" for key in TEST[task]]
    keys = [
        *SETTING,
        "split",
        "section",
        "model",
        *OPTIONS[task],
        *test,
        "options",
        "run",
        *["subset"] * (task == "task1"),
    ]
    order = order.sort_values(keys, kind="stable", na_position="first")
    return table.loc[order.index].reset_index(drop=True)


def subset_order(subset: str) -> tuple:
    """What channel sets are sorted by: the known ones first, then the largest."""
    return SUBSETS.index(subset) if subset in SUBSETS else len(SUBSETS), -len(subset), subset


def write_table(folder: str | Path, task: str) -> None:
    """Make the task's table of all records below results folder `folder`."""
    table = make_table(load_records(folder, task), task)
    write_text(Path(folder) / task / TABLES[task], to_csv(table, columns(task)))


def to_csv(table: pd.DataFrame, decimals: dict[str, int | None]) -> str:
    """Text of a CSV file: numbers with their decimals, p values with four significant digits, empty where
    unknown.
    """
    text = table[list(decimals)].astype(object).where(table[list(decimals)].notna(), None)
    for name, digits in decimals.items():
        if digits is not None:
            text[name] = [None if value is None else f"{value:.{digits}f}" for value in text[name]]
        elif name.startswith("p_"):
            text[name] = [None if value is None else f"{value:.4g}" for value in text[name]]
    return text.to_csv(index=False, lineterminator="\n")


# ---------------------------------------------------------------- predictions


class Predictions(NamedTuple):
    """Test predictions of one evaluated model; a column is a channel set in Task 1, "predicted" in Task 2."""

    images: list[str]
    labels: np.ndarray  # (N,)
    by_column: dict[str, np.ndarray]  # column -> (N,)


def write_predictions(path: Path, images: list[str], labels, predictions: dict) -> None:
    """One line an image: its path, its true class, the class predicted in each column; for paired tests."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "label", *predictions])
    writer.writerows(zip(images, labels.tolist(), *(p.tolist() for p in predictions.values())))
    with atomic_path(path) as temporary:
        temporary.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))  # same rows, same bytes


@cache
def read_predictions(path: Path) -> Predictions:
    """A file that `write_predictions` wrote.

    Raises:
        UserError: missing or malformed.
    """
    try:
        table = pd.read_csv(path, compression="gzip")
        images, labels, *answers = table.columns
        by_column = {name: table[name].to_numpy(int) for name in answers}
        return Predictions(table[images].astype(str).tolist(), table[labels].to_numpy(int), by_column)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"cannot read {path}: {error}; evaluate the model again") from error
