"""Run Task 1 on data with other channels than RGB, and store the results for the report.

    python -m tools.bands data/eurosat-13band-469.zip --jobs 2         # thirteen bands; an hour on two cores
    python -m tools.bands data/eurosat-13band-469.zip --collect        # only join finished evaluations
    python -m tools.bands rgb-sobel --grid task1-extra --folds 0       # ten minutes

A grid is a list of runs in grids/. A fold divides the images into training and test images; each image is a test image
in one fold. First the command writes image lists for the folds. Then experiments.py trains and evaluates the grid on
each fold. Finished runs are skipped. At the end the command joins the test predictions of all folds. Each network gets
a record in results/task1. The record's key "folds" holds commits, hardware and data hashes. With --folds 0 there are no
folds, and the lists of the data set are used unchanged.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections import defaultdict
from hashlib import sha256
from pathlib import Path

import numpy as np

from data.dataset import find_dataset
from data.folds import make_folds
from data.identity import LISTS_ONLY
from data.lists import name_of, read_lists
from engine.records import (
    NEXT,
    Predictions,
    RunFiles,
    check_predictions,
    load_records,
    read_predictions,
    run_name,
    save_record,
    write_table,
)
from metrics.accuracy import classification_metrics
from storage.locks import one_at_a_time
from utils import ENDS_WITH_STDIN, ROOT, ArgumentParser, UserError, cli, within

PRESET = "48px-quarter"
# keys of a fold's record that the joined record keeps
PROVENANCE = ("dataset", "dataset_digest", "images_digest", "trained_with", "evaluated_with", "train_s")
SUBSETS = {"task1-bands": "every B02,B03,B04", "task1-extra": "every"}  # grid -> value of --subsets


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(prog="python -m tools.bands", description=__doc__)
    parser.add_argument("data", help="folder or zip with lists, images and bands.txt")
    parser.add_argument("--grid", choices=tuple(SUBSETS), default="task1-bands", help="list of runs to train")
    parser.add_argument(
        "--folds", type=within(0, 1000), default=5, metavar="K", help="number of folds; 0: no folds"
    )
    parser.add_argument(
        "--seeds",
        nargs="+",
        type=within(0, 2**63 - 1),
        default=[0, 1, 2],
        metavar="N",
        help="seeds; every run is trained with each seed",
    )
    parser.add_argument(
        "--jobs", type=within(1, 1000), default=2, help="number of trainings at the same time"
    )
    parser.add_argument(
        "--work", default="runs/bands", metavar="FOLDER", help="folder for the folds and their evaluations"
    )
    parser.add_argument(
        "--options", default="", help="more options for every training, such as --options='--epochs 2'"
    )
    parser.add_argument(
        "--results",
        metavar="FOLDER",
        help="folder for the joined results (default: the repository's results/)",
    )
    parser.add_argument(
        "--collect", action="store_true", help="only join the folds; do not train or evaluate"
    )
    return parser


def run_folds(args, folds: list[Path]) -> None:
    """Train and evaluate the grid on every fold.

    Raises:
        UserError: a run failed.
    """
    cache, results = args.work / "cache", args.work / "results"
    for fold in folds:
        # the queue watches its stdin, so the queue ends with this process, even if this process is killed
        queue = subprocess.Popen(
            [
                sys.executable,
                str(ROOT / "experiments.py"),
                args.grid,
                "--preset",
                PRESET,
                "--data",
                str(fold),
                "--seeds",
                *map(str, args.seeds),
                "--jobs",
                str(args.jobs),
                "--no-latency",
                "--options",
                f"--cache {shlex.quote(str(cache))} --eval-every 60 {args.options}",
                "--eval-options",
                shlex.join(
                    [
                        *("--cache", str(cache), "--results", str(results)),
                        *("--split", "test"),
                        "--subsets",
                        SUBSETS[args.grid],
                    ]
                ),
            ],
            stdin=subprocess.PIPE,
            env={**os.environ, ENDS_WITH_STDIN: "1"},
        )
        if queue.wait():
            raise UserError(
                f"fold {fold} is not finished: read the reason above or in its log, then run the same command again to "
                f"continue"
            )


def join_folds(results: Path, folds: list[str], dataset: str) -> dict[str, tuple[dict, Predictions]]:
    """Join the evaluations of all folds into one record of the whole data set, for each network and seed.

    Args:
        results: folder with the records of the folds.
        folds: names of the data sets of the folds; each image is a test image in one fold.
        dataset: name of the whole data set.

    Returns:
        A dict from the name of a run to a tuple (record, predictions). The record's key "folds" describes each fold.

    Raises:
        UserError: there is no evaluation, a network lacks a fold, or a file of predictions is damaged.
    """
    parts: dict[str, dict] = defaultdict(dict)
    for name, record in load_records(results, "task1").items():
        files = RunFiles(results, "task1", name)
        check_predictions(files, record)
        predictions = read_predictions(files.predictions)
        parts[run_name({**record, "dataset": dataset})][record["dataset"]] = record, predictions
    if not parts:
        raise UserError(f"{results} holds no evaluation of a fold: run without --collect")
    for name, by_fold in parts.items():
        if set(by_fold) != set(folds):
            raise UserError(
                f"{name}: {len(by_fold)} of {len(folds)} folds are evaluated in {results}: run without --collect"
            )
    return {name: join([by_fold[fold] for fold in folds], dataset) for name, by_fold in parts.items()}


def join(parts: list[tuple[dict, Predictions]], dataset: str) -> tuple[dict, Predictions]:
    """Join the records and test predictions that a network has for the folds; costs come from the first fold."""
    records = [record for record, _ in parts]
    labels = np.concatenate([predictions.labels for _, predictions in parts])
    by_column = {
        column: np.concatenate([predictions.by_column[column] for _, predictions in parts])
        for column in parts[0][1].by_column
    }
    sizes = [len(predictions.labels) for _, predictions in parts]
    rows = []
    for row, *others in zip(*(record["splits"]["test"] for record in records), strict=True):
        metrics = classification_metrics(labels, by_column[row["subset"]], int(labels.max()) + 1)
        losses = [each.get("loss") for each in (row, *others)]
        loss = None if None in losses else float(np.average(losses, weights=sizes))
        rows.append({**row, **metrics, "loss": loss})
    record = {
        **records[0],
        "dataset": dataset,
        "dataset_digest": _joined_digest([record["dataset_digest"] for record in records]),
        "images_digest": _joined_digest([record.get("images_digest", LISTS_ONLY) for record in records]),
        "train_s": sum(record["train_s"] for record in records),
        "history": [],
        "folds": [{key: record.get(key, LISTS_ONLY) for key in PROVENANCE} for record in records],
        "splits": {"test": rows},
    }
    images = [image for _, predictions in parts for image in predictions.images]
    return record, Predictions(images, labels, by_column)


def _joined_digest(digests: list[str]) -> str:
    """Join the digests of all folds; return LISTS_ONLY if a fold has no digest of its images."""
    if LISTS_ONLY in digests:
        return LISTS_ONLY
    return sha256("".join(digests).encode()).hexdigest() if len(digests) > 1 else digests[0]


def main(argv: list[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    source = find_dataset(args.data)
    lists, args.work = read_lists(source), Path(args.work) / name_of(source)
    folds = make_folds(lists, args.folds, args.work / "folds") if args.folds else [source]
    if not args.collect:
        run_folds(args, folds)
    target = Path(args.results or ROOT / "results")
    joined = join_folds(args.work / "results", [name_of(fold) for fold in folds], lists.name)
    with one_at_a_time(target / "task1"):
        for name, (record, predictions) in joined.items():
            save_record(RunFiles(target, "task1", name), record, predictions)
        write_table(target, "task1")
    print(f"wrote {len(joined)} networks, each on {max(1, args.folds)} folds, to {target / 'task1'}")
    if not args.results:
        print(NEXT)


if __name__ == "__main__":
    cli(main)
