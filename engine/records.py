"""Read and write the results of a run in results/: records, predictions and a table.

    results/TASK/runs/NAME.json                 one evaluation: configuration, provenance, history, metrics
    results/TASK/predictions/NAME-test.csv.gz   one line for each test image: path, true class, predicted classes
    results/task1/channels.csv                  all records of Task 1 as one table
    results/task2/classifiers.csv               all records of Task 2 as one table

The folds of a cross-validation are one evaluation; "folds" in its record holds their provenance (tools/bands.py).
NAME is PRESET-DATASET-SIZEpx-MODEL-OPTIONS-sSEED; OPTIONS is a digest of all options in eight letters.

A record holds its own checksum and the checksum of its predictions. The checksums of the files that tools measure, such
as speed.csv, are in the file SHA256SUMS beside them. `check_results` compares all checksums at every build of the
report.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from storage.files import atomic_path, read_json, write_json, write_text
from storage.locks import one_at_a_time
from utils import UserError

SETTING = ("preset", "dataset", "image_size")  # results are compared only within one setting
SECTIONS = {  # sections of the tables, in order
    "task1": ("ours", "baseline", "specialist", "ablation"),
    "task2": ("ours", "reference", "distilled", "baseline", "ablation"),
}
TABLES = {"task1": "channels.csv", "task2": "classifiers.csv"}
SUBSETS = ("RGB", "RG", "RB", "GB", "R", "G", "B")  # channel sets in the order of every table
SUMS = "SHA256SUMS"  # in the format of the program sha256sum
SINGLE = "predicted"  # the column of predictions in Task 2, which has one answer for each image

METRICS = {  # columns with decimals; metrics.accuracy computes the values, `engine.trainer.predict` the loss
    "top1_pct": 2,
    "ci95_low": 2,
    "ci95_high": 2,
    "precision_macro": 4,
    "recall_macro": 4,
    "f1_macro": 4,
    "loss": 4,
}
COSTS = {  # columns of each task with decimals; metrics.cost and metrics.depth measure the values
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
LATENCY = {"task1": "latency_ms", "task2": "latency_ms_b1"}  # column with the latency of one image
NEXT = "next: python -m report.build"  # this command makes the documents from the results
MAY_MISS = ("latency", "loss")  # latency is not measured with --repeats 0; older records have no loss
# options of the training with a column for each; other options are in "options" if they differ from the default
OPTIONS = {
    "task1": ("width", "epochs", "augment", "weight_decay"),
    "task2": ("stem", "stem_pool", "width", "epochs", "augment", "weight_decay"),
}
# options of the evaluation with a column for each; it is empty if the model was evaluated as trained
TEST = {"task1": ("fill", "probe", "image_size"), "task2": ("image_size",)}
UNTOLD = {"arch", "kernels"}  # "options" leaves these out: the model's name contains them


def run_name(record: dict) -> str:
    """Return the name of an evaluation's files, without folder and ending."""
    return (
        f"{record['preset']}-{record['dataset']}-{record['image_size']}px-{record['model']}-{record['digest']}"
        f"-s{record['seed']}"
    )


class RunFiles(NamedTuple):
    """The paths of the results of one evaluation; `folder` is results/."""

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
    """Read one record. Records of older versions have no checksums.

    Raises:
        UserError: the file is not a record, or was changed after the evaluation wrote it; the message names it.
    """
    try:
        record = read_json(path)
        if run_name(record) != path.stem or record["section"] not in SECTIONS[task]:
            raise ValueError(f"section {record['section']!r} of {run_name(record)}")
        if "checksums" in record and record["checksums"]["record"] != record_checksum(record):
            raise ValueError("it was changed after it was written")
        return record
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is not a record of an evaluation ({error}): evaluate the model again or delete the file"
        ) from error


def load_records(folder: str | Path, task: str) -> dict[str, dict]:
    """Return a dict from the name of each run to its record, for all records below the results folder `folder`.

    Raises:
        UserError: see `read_record`.
    """
    paths = sorted((Path(folder) / task / "runs").glob("*.json"))
    return {path.stem: read_record(path, task) for path in paths}


def record_checksum(record: dict) -> str:
    """Return the sha256 of a record without its checksums, in hexadecimal digits."""
    rest = {key: value for key, value in record.items() if key != "checksums"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def save_record(files: RunFiles, record: dict, predictions: Sequence | None = None) -> None:
    """Write a record with its checksums.

    Args:
        predictions: paths, labels and answers on test for `write_predictions`. None: the record has no test, or its
            predictions are already written.
    """
    if predictions:
        write_predictions(files.predictions, *predictions)
    record = json.loads(json.dumps(record))  # exactly the values that a reader will get
    checksum = file_checksum(files.predictions) if "test" in record["splits"] else None
    record["checksums"] = {"record": record_checksum(record), "predictions": checksum}
    write_json(files.record, record)


def write_record(files: RunFiles, record: dict, predictions: Sequence | None = None) -> None:
    """Write the record and its predictions, see `save_record`, and write the table of the task again.

    Only one process at a time does this. So a record and its predictions are always of one evaluation.

    Raises:
        UserError: another record is damaged. Then this record is written, but the table is unchanged.
    """
    with one_at_a_time(files.folder / files.task):
        save_record(files, record, predictions)
        try:
            write_table(files.folder, files.task)
        except UserError as error:
            raise UserError(f"{files.record} is written, but {files.table} is not: {error}") from error


# ---------------------------------------------------------------- damage


def check_results(folder: str | Path) -> None:
    """Compare all files below the results folder `folder` with their checksums.

    Also compare the top-1 of each record with its predictions.

    Raises:
        UserError: a file is damaged or missing; the message names the first such file and says what to do.
    """
    for task in SECTIONS:
        for name, record in load_records(folder, task).items():
            check_predictions(RunFiles(Path(folder), task, name), record)
    for sums in sorted(Path(folder).rglob(SUMS)):
        for name in read_sums(sums):
            check_file(sums.parent / name, sums.parent)


def check_file(path: Path, folder: Path) -> None:
    """Compare a file that a tool measured with its checksum in the SHA256SUMS of `folder`.

    A file that is not listed there passes.

    Raises:
        UserError: the file is missing, or was changed.
    """
    expected = read_sums(folder / SUMS).get(path.relative_to(folder).as_posix())
    if expected and not (path.is_file() and file_checksum(path) == expected):
        raise UserError(
            f"{path} is missing, or was changed after it was measured: restore it from git or measure again. "
            f"Its checksum is in {folder / SUMS}"
        )


def check_predictions(files: RunFiles, record: dict) -> None:
    """Compare the predictions on test with their checksum, and their top-1 with the record.

    Raises:
        UserError: they differ, or the file of the predictions is missing; the message names the file.
    """
    if "test" not in record["splits"]:
        return
    predictions, checksum = read_predictions(files.predictions), file_checksum(files.predictions)
    if record.get("checksums", {}).get("predictions", checksum) != checksum:
        raise UserError(f"{files.predictions} was changed after it was written: evaluate the model again")
    for row in record["splits"]["test"]:
        column = row.get("subset", SINGLE)
        top1 = 100 * float(np.mean(predictions.by_column.get(column, np.nan) == predictions.labels))
        if not abs(top1 - row["top1_pct"]) < 1e-6:
            raise UserError(
                f"{files.record} has top-1 {row['top1_pct']} % in column {column}, but its predictions "
                f"{files.predictions} have {top1:.2f} %: one of the two files is damaged; evaluate the model again"
            )


def file_checksum(path: Path) -> str:
    """Return the sha256 of a file in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_sums(path: Path) -> dict[str, str]:
    """Read a file SHA256SUMS; return a dict from the name of each file to its sha256.

    Raises:
        UserError: the file is damaged.
    """
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    try:
        return {name: value for value, name in (line.split("  ", 1) for line in lines)}
    except ValueError:
        raise UserError(f"{path} is damaged: restore it from git") from None


def note_checksums(*paths: str | Path, folder: str | Path | None = None) -> None:
    """Write the checksums of files with measurements, such as speed.csv, to the SHA256SUMS of `folder`.

    Without `folder`, it is the folder of the files.
    """
    folder = Path(folder or Path(paths[0]).parent)
    with one_at_a_time(folder):
        sums = read_sums(folder / SUMS)
        for path in map(Path, paths):
            sums[path.relative_to(folder).as_posix()] = file_checksum(path)
        write_text(folder / SUMS, "".join(f"{value}  {name}\n" for name, value in sorted(sums.items())))


# ---------------------------------------------------------------- the table


def columns(task: str) -> dict[str, int | None]:
    """Return a dict from the columns of the task's table, in order, to decimals, or to None for text and options."""
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
    after = dict.fromkeys(("hardware", "latency_hardware", "run"))
    return {**dict.fromkeys(texts), **METRICS, **COSTS[task], **after}


def make_table(records: dict[str, dict], task: str) -> pd.DataFrame:
    """Return the task's table: a row for each record, split and channel set, in the columns of `columns`.

    "hardware" is the machine of the training, "latency_hardware" the machine that measured the latency.

    Raises:
        UserError: a record has no value of a column that needs one; the message names the record.
    """
    decimals, rows = columns(task), []
    for name, record in records.items():
        others = record["options"].keys() - {*OPTIONS[task], *UNTOLD}
        common = {
            **record["config"],
            **record,
            "options": " ".join(f"{key}={record['options'][key]}" for key in sorted(others)),
            **{f"test_{key}": value for key, value in record["test"].items()},
            "hardware": record["trained_with"]["hardware"],
            "run": name,
        }
        timer = record.get("timed_with", record["evaluated_with"])["hardware"]
        for split, lines in record["splits"].items():
            for line in lines:
                timed = {"latency_hardware": timer} if line.get(LATENCY[task]) else {}
                row = {**common, **timed, "split": split, **line}
                rows.append({column: row.get(column) for column in decimals})
    table = pd.DataFrame(rows, columns=list(decimals))
    for name, digits in decimals.items():
        if digits is not None:
            table[name] = table[name].astype(float).round(digits)
            lacking = table["run"][table[name].isna()]
            if len(lacking) and not name.startswith(MAY_MISS):
                raise UserError(f"the record {lacking.iloc[0]} has no {name}: evaluate the model again")
    test = [f"test_{key}" for key in TEST[task]]
    keys = [*SETTING, "split", "section", "model", *OPTIONS[task], *test, "options", "run", "subset"]
    ranks = {"section": SECTIONS[task].index, "subset": subset_order}
    return table.sort_values(
        [key for key in keys if key in table],
        key=lambda column: column.map(ranks[column.name]) if column.name in ranks else column,
        kind="stable",
        na_position="first",
        ignore_index=True,
    )


def subset_order(subset: str) -> tuple:
    """Return the sort key of a channel set: the sets of `SUBSETS` first, then the largest sets."""
    return SUBSETS.index(subset) if subset in SUBSETS else len(SUBSETS), -len(subset), subset


def write_table(folder: str | Path, task: str) -> None:
    """Write the task's table of all records below the results folder `folder`."""
    table = make_table(load_records(folder, task), task)
    write_text(Path(folder) / task / TABLES[task], to_csv(table, columns(task)))


def to_csv(table: pd.DataFrame, decimals: dict[str, int | None]) -> str:
    """Return the table as the text of a CSV file.

    A number has the decimals of its column, a p value four significant digits. An unknown value is empty.
    """
    text = table[list(decimals)].astype(object)
    for name, digits in decimals.items():
        form = f".{digits}f" if digits is not None else ".4g" if name.startswith("p_") else ""
        if form:
            text[name] = text[name].map(lambda value: format(value, form), na_action="ignore")
    return text.to_csv(index=False, lineterminator="\n")


# ---------------------------------------------------------------- predictions


class Predictions(NamedTuple):
    """The classes that a model predicts on test. A column is a channel set in Task 1, and "predicted" in Task 2."""

    images: list[str]
    labels: np.ndarray  # (N,)
    by_column: dict[str, np.ndarray]  # the predictions (N,) of each column


def write_predictions(path: Path, images: list[str], labels, predictions: dict) -> None:
    """Write a line for each image: path, true class, and the predicted class of each column.

    Paired tests of two models read this file.
    """
    table = pd.DataFrame({"image": images, "label": labels, **predictions})
    text = table.to_csv(index=False, lineterminator="\n")
    with atomic_path(path) as temporary:
        # without the time, equal rows give equal bytes
        temporary.write_bytes(gzip.compress(text.encode(), mtime=0))


@cache
def read_predictions(path: Path) -> Predictions:
    """Read a file that `write_predictions` wrote.

    Raises:
        UserError: the file is missing or malformed.
    """
    try:
        table = pd.read_csv(path, compression="gzip", dtype={"image": str}, keep_default_na=False)
        images, labels, *answers = table.columns
        classes = table[[labels, *answers]]
        # a line with too many cells makes pandas use the first as an index; an empty cell makes it use floats
        if not isinstance(table.index, pd.RangeIndex) or any(kind.kind != "i" for kind in classes.dtypes):
            raise ValueError("a line does not hold a path and class numbers")
        if (classes < 0).any(axis=None):
            raise ValueError("the number of a class is negative")
        by_column = {name: table[name].to_numpy(int) for name in answers}
        return Predictions(table[images].astype(str).tolist(), table[labels].to_numpy(int), by_column)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise UserError(f"cannot read {path}: {error}; evaluate the model again") from error
