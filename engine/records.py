"""What a run leaves in results/: records, predictions and a table. Written and read here alone.

    results/TASK/runs/NAME.json                 one evaluation: configuration, provenance, history, metrics
    results/TASK/predictions/NAME-test.csv.gz   a line a test image: path, true class, predicted classes
    results/task1/channels.csv                  all records of Task 1 as one table
    results/task2/classifiers.csv               those of Task 2

Folds of a cross-validation are joined into one evaluation, with their provenance under "folds" (tools/bands.py).
NAME is PRESET-DATASET-SIZEpx-MODEL-OPTIONS-sSEED; OPTIONS are eight letters that stand for all options.

A record holds its own checksum and that of its predictions. What tools measure, such as speed.csv, has its checksum
in the file SHA256SUMS beside it. `check_results` compares all of them whenever the report is built.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from utils import UserError, atomic_path, check_label, check_name, one_at_a_time, write_json, write_text

SETTING = ("preset", "dataset", "image_size")  # results of one setting are compared with one another
SECTIONS = {  # what a model is in the tables, in their order
    "task1": ("ours", "baseline", "specialist", "ablation"),
    "task2": ("ours", "reference", "distilled", "baseline", "ablation"),
}
TABLES = {"task1": "channels.csv", "task2": "classifiers.csv"}
SUBSETS = ("RGB", "RG", "RB", "GB", "R", "G", "B")  # of the images' channels, in the order of every table
SUMS = "SHA256SUMS"  # as the program sha256sum writes and checks it
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
MAY_MISS = ("latency", "loss")  # not measured with --repeats 0; not in older records
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


def read_record(path: Path, task: str) -> dict:
    """One record. Records of older versions have no checksums.

    Raises:
        UserError: it is no JSON of that kind, or was changed since the evaluation wrote it; names the file.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if run_name(record) != path.stem or record["section"] not in SECTIONS[task]:
            raise ValueError(f"section {record['section']!r} of {run_name(record)}")
        if "checksums" in record and record["checksums"]["record"] != record_checksum(record):
            raise ValueError("it was changed since it was written")
        for key in ("model", "dataset"):
            check_name(record[key], key)
        check_label(record.get("label", record["model"]), "label")
        if not all(isinstance(line, dict) for line in record.get("history", ())):
            raise ValueError("its history is no list of epochs")
        return record
    except (OSError, ValueError, KeyError, TypeError, AttributeError, UserError) as error:
        raise UserError(
            f"{path} is no record of an evaluation ({error}): evaluate the model again or delete the file"
        ) from error


def load_records(folder: str | Path, task: str) -> dict[str, dict]:
    """Name of a run -> its record, for all evaluations below results folder `folder`.

    Raises:
        UserError: as `read_record`.
    """
    paths = sorted((Path(folder) / task / "runs").glob("*.json"))
    return {path.stem: read_record(path, task) for path in paths}


def record_checksum(record: dict) -> str:
    """sha256 of everything in a record but its checksums, in hexadecimal digits."""
    rest = {key: value for key, value in record.items() if key != "checksums"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def save_record(files: RunFiles, record: dict) -> None:
    """Write a record with its checksums; the predictions are there already."""
    record = json.loads(json.dumps(record))  # as it will be read
    predictions = file_checksum(files.predictions) if "test" in record["splits"] else None
    record["checksums"] = {"record": record_checksum(record), "predictions": predictions}
    write_json(files.record, record)


def write_record(files: RunFiles, record: dict) -> None:
    """Write the record, and the task's table anew with it, while other processes wait to do the same.

    Raises:
        UserError: another record is damaged; then this one is written, and the table is as it was.
    """
    with one_at_a_time(files.folder / files.task):
        save_record(files, record)
        try:
            write_table(files.folder, files.task)
        except UserError as error:
            raise UserError(f"{files.record} is written, but {files.table} is not: {error}") from error


# ---------------------------------------------------------------- damage


def check_results(folder: str | Path) -> None:
    """Compare what lies below results folder `folder` with its checksums, and the top-1 of each record with its
    predictions.

    Raises:
        UserError: names the first file that is damaged or missing, and what to do.
    """
    for task in SECTIONS:
        for name, record in load_records(folder, task).items():
            check_predictions(RunFiles(Path(folder), task, name), record)
    for sums in sorted(Path(folder).rglob(SUMS)):
        for name in read_sums(sums):
            check_file(sums.parent / name, sums.parent)


def check_file(path: Path, folder: Path) -> None:
    """Compare what a tool measured with its checksum in the SHA256SUMS of `folder`; a file that is not listed passes.

    Raises:
        UserError: it is missing, or was changed.
    """
    expected = read_sums(folder / SUMS).get(path.relative_to(folder).as_posix())
    if expected and not (path.is_file() and file_checksum(path) == expected):
        raise UserError(
            f"{path} is missing, or was changed since it was measured: restore it from git or measure again. "
            f"Its checksum is in {folder / SUMS}"
        )


def check_predictions(files: RunFiles, record: dict) -> None:
    """Compare the predictions on test with their checksum, and their top-1 with the record's.

    Raises:
        UserError: they differ, or the file is missing; names it.
    """
    if "test" not in record["splits"]:
        return
    predictions, found = read_predictions(files.predictions), file_checksum(files.predictions)
    if record.get("checksums", {}).get("predictions", found) != found:
        raise UserError(f"{files.predictions} was changed since it was written: evaluate the model again")
    for row in record["splits"]["test"]:
        column = row.get("subset", SINGLE)
        top1 = 100 * float(np.mean(predictions.by_column.get(column, np.nan) == predictions.labels))
        if not abs(top1 - row["top1_pct"]) < 1e-6:
            raise UserError(
                f"{files.record} has top-1 {row['top1_pct']} % in column {column}, its predictions "
                f"{files.predictions} have {top1:.2f} %: one of them is damaged; evaluate the model again"
            )


def file_checksum(path: Path) -> str:
    """sha256 of a file in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_sums(path: Path) -> dict[str, str]:
    """File's name -> sha256, of a file SHA256SUMS.

    Raises:
        UserError: it is damaged.
    """
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    parts = [line.split("  ", 1) for line in lines]
    if not all(len(part) == 2 and len(part[0]) == 64 for part in parts):
        raise UserError(f"{path} is damaged: restore it from git")
    return {name: value for value, name in parts}


def note_checksums(*paths: str | Path, folder: str | Path | None = None) -> None:
    """Put what a tool has just measured into the SHA256SUMS of `folder`, by default the files' own."""
    folder = Path(folder or Path(paths[0]).parent)
    with one_at_a_time(folder):
        sums = read_sums(folder / SUMS)
        for path in map(Path, paths):
            sums[path.relative_to(folder).as_posix()] = file_checksum(path)
        write_text(folder / SUMS, "".join(f"{value}  {name}\n" for name, value in sorted(sums.items())))


# ---------------------------------------------------------------- the table


def columns(task: str) -> dict[str, int | None]:
    """Columns of the task's table, in order -> decimals of a number, None for text and options."""
    subset = ["subset"] if task == "task1" else []
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
    test = [f"test_{key}" for key in TEST[task]]
    keys = [*SETTING, "split", "section", "model", *OPTIONS[task], *test, "options", "run"]
    if task == "task1":
        order["subset"] = order["subset"].map(subset_order)
        keys.append("subset")
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
