"""Run Task 1 on data of other channels than RGB, and keep what the report shows of it.

    python -m tools.bands data/eurosat-13band-469.zip --jobs 2         # thirteen bands; an hour on two cores
    python -m tools.bands data/eurosat-13band-469.zip --collect        # only gather what is evaluated
    python -m tools.bands rgb-sobel --grid task1-extra --folds 0       # ten minutes

Makes the lists of the folds, trains and evaluates the grid on each with experiments.py (finished runs are skipped),
and gathers in results/bands/NAME the predictions of each network for all images, each by the fold that did not train
on it, with all options, seeds, commits, hardware and data hashes in runs.json. --folds 0 takes the lists as they are.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

from data.folds import make_folds
from data.lists import find_dataset, read_lists
from engine.records import NEXT, RunFiles, load_records, note_checksums, read_predictions, write_predictions
from utils import ENDS_WITH_STDIN, ROOT, ArgumentParser, UserError, cli, within, write_json

PRESET = "48px-quarter"
SUBSETS = {"task1-bands": "every B02,B03,B04", "task1-extra": "every"}  # grid -> what is evaluated


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(prog="python -m tools.bands", description=__doc__)
    parser.add_argument("data", help="folder or zip with lists, images and bands.txt")
    parser.add_argument("--grid", choices=tuple(SUBSETS), default="task1-bands", help="which runs")
    parser.add_argument("--folds", type=within(0, 1000), default=5, metavar="K", help="folds; 0: none")
    parser.add_argument(
        "--seeds", nargs="+", type=within(0, 2**63 - 1), default=[0, 1, 2], metavar="N", help="seeds"
    )
    parser.add_argument("--jobs", type=within(1, 1000), default=2, help="trainings at once")
    parser.add_argument(
        "--work", default="runs/bands", metavar="FOLDER", help="where folds and evaluations lie"
    )
    parser.add_argument(
        "--options", default="", help="further options of every training, such as '--epochs 2'"
    )
    parser.add_argument(
        "--results",
        metavar="FOLDER",
        help="where the gathered results go (default: results/bands/NAME where that is there, else WORK/NAME/gathered)",
    )
    parser.add_argument("--collect", action="store_true", help="train and evaluate nothing")
    return parser


def run_folds(args, folds: list[Path]) -> None:
    """Train and evaluate the grid on every fold.

    Raises:
        UserError: a run failed.
    """
    cache, results = args.work / "cache", args.work / "results"
    for fold in folds:
        # it ends with this process, whatever ends that
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
                f"--cache {cache} --eval-every 60 {args.options}",
                "--eval-options",
                f"--cache {cache} --results {results} --split test --subsets '{SUBSETS[args.grid]}'",
            ],
            stdin=subprocess.PIPE,
            env={**os.environ, ENDS_WITH_STDIN: "1"},
        )
        if queue.wait():
            raise UserError(f"fold {fold} is not finished: its log says why; the same command goes on")


def collect(work: Path, folds: list[Path], target: Path) -> None:
    """Join the folds' predictions of each network and seed: one file each, and their records in runs.json.

    Raises:
        UserError: a fold is missing, or two records of one fold belong to the same network.
    """
    networks = defaultdict(dict)
    for name, record in load_records(work / "results", "task1").items():
        key = (
            record["model"],
            *(f"{k}={v}" for k, v in sorted(record["test"].items())),
            *(f"train_channels={v}" for v in [record["config"]["train_channels"]] if v != "all"),
            *(["weighted"] if record["config"].get("set_shares") else []),
        )
        place = networks[key, record["seed"]]
        if record["dataset"] in place:
            raise UserError(
                f"{work / 'results'} has two evaluations of {' '.join(key)} on "
                f"{record['dataset']}: remove one"
            )
        place[record["dataset"]] = record, RunFiles(work / "results", "task1", name).predictions
    runs = []
    for (key, seed), found in sorted(networks.items()):
        if set(found) != {fold.stem for fold in folds}:
            raise UserError(f"{' '.join(key)}, seed {seed}: {len(found)} of {len(folds)} folds are evaluated")
        parts = [read_predictions(found[fold.stem][1]) for fold in folds]
        columns = list(parts[0].by_column)
        name = "-".join(key).replace("=", "") + f"-s{seed}"
        write_predictions(
            target / "predictions" / f"{name}.csv.gz",
            [i for part in parts for i in part.images],
            np.concatenate([part.labels for part in parts]),
            {column: np.concatenate([part.by_column[column] for part in parts]) for column in columns},
        )
        first = found[folds[0].stem][0]
        runs.append(
            {
                "name": name,
                "model": first["model"],
                "label": first["label"],
                "seed": seed,
                "test": first["test"],
                "config": first["config"],
                "folds": [
                    {
                        key: found[fold.stem][0][key]
                        for key in ("dataset", "dataset_digest", "trained_with", "evaluated_with", "train_s")
                    }
                    for fold in folds
                ],
            }
        )
    write_json(target / "runs.json", runs)
    note_checksums(
        target / "runs.json",
        *(target / "predictions" / f"{run['name']}.csv.gz" for run in runs),
        folder=target,
    )
    print(f"wrote {target}: {len(runs)} networks, each on {len(folds)} folds")


def main(argv: list[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    source = find_dataset(args.data)
    lists, args.work = read_lists(source), Path(args.work) / source.stem
    folds = make_folds(lists, args.folds, args.work / "folds") if args.folds else [source]
    if not args.collect:
        run_folds(args, folds)
    published = ROOT / "results" / "bands" / lists.name
    target = Path(args.results or (published if published.is_dir() else args.work / "gathered"))
    collect(args.work, folds, target)
    if target.resolve() == published.resolve():
        print(NEXT)


if __name__ == "__main__":
    cli(main)
