"""Cross-validate Task 1 on a small data set of many bands, and keep what the report shows of it.

    python -m tools.bands data/eurosat-13band-469.zip --jobs 2         # about an hour on two cores
    python -m tools.bands data/eurosat-13band-469.zip --collect        # only gather what is evaluated

Makes the lists of the folds, trains and evaluates grid task1-bands on each with experiments.py (finished runs are
skipped), and gathers in results/bands the predictions of each network for all images, each by the fold that did
not train on it, with all options, seeds, commits, hardware and data hashes in runs.json.
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
from records import RunFiles, load_records, read_predictions, write_predictions
from report import build as report_build
from utils import ENDS_WITH_STDIN, ROOT, ArgumentParser, UserError, cli, within, write_json

GRID, PRESET, RGB_BANDS = "task1-bands", "48px-quarter", "B02,B03,B04"


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(prog="python -m tools.bands", description=__doc__)
    parser.add_argument("data", help="folder or zip with lists, images and bands.txt")
    parser.add_argument("--folds", type=within(2, 1000), default=5, metavar="K", help="folds")
    parser.add_argument("--seeds", nargs="+", type=within(0, 2**63 - 1), default=[0, 1, 2], metavar="N", help="seeds")
    parser.add_argument("--jobs", type=within(1, 1000), default=2, help="trainings at once")
    parser.add_argument("--work", default="runs/bands", metavar="FOLDER", help="where folds and evaluations lie")
    parser.add_argument("--options", default="", help="further options of every training, such as '--epochs 2'")
    parser.add_argument("--results", default=str(ROOT / "results" / "bands"), metavar="FOLDER",
                        help="where the gathered results go")
    parser.add_argument("--collect", action="store_true", help="train and evaluate nothing")
    return parser


def run_folds(args, folds: list[Path]) -> None:
    """Train and evaluate the grid on every fold.

    Raises:
        UserError: a run failed.
    """
    cache, results = Path(args.work) / "cache", Path(args.work) / "results"
    for fold in folds:
        # it ends with this process, whatever ends that
        queue = subprocess.Popen([
            sys.executable, str(ROOT / "experiments.py"), GRID, "--preset", PRESET, "--data", str(fold),
            "--seeds", *map(str, args.seeds), "--jobs", str(args.jobs), "--no-latency", "--no-report",
            "--options", f"--cache {cache} --eval-every 60 {args.options}", "--eval-options",
            f"--cache {cache} --results {results} --split test --subsets 'every {RGB_BANDS}'"],
            stdin=subprocess.PIPE, env={**os.environ, ENDS_WITH_STDIN: "1"})
        if queue.wait():
            raise UserError(f"fold {fold} is not finished: its log says why; the same command goes on")


def collect(work: Path, folds: list[Path], target: Path) -> None:
    """Join the folds' predictions of each network and seed: one file each, and their records in runs.json.

    Raises:
        UserError: a fold is missing, or two records of one fold belong to the same network.
    """
    networks = defaultdict(dict)
    for name, record in load_records(work / "results", "task1").items():
        key = (record["model"], *(f"{k}={v}" for k, v in sorted(record["test"].items())),
               *(f"train_channels={v}" for v in [record["config"]["train_channels"]] if v != "all"))
        place = networks[key, record["seed"]]
        if record["dataset"] in place:
            raise UserError(f"{work / 'results'} has two evaluations of {' '.join(key)} on "
                            f"{record['dataset']}: remove one")
        place[record["dataset"]] = record, RunFiles(work / "results", "task1", name).predictions
    runs = []
    for (key, seed), found in sorted(networks.items()):
        if set(found) != {fold.name for fold in folds}:
            raise UserError(f"{' '.join(key)}, seed {seed}: {len(found)} of {len(folds)} folds are evaluated")
        parts = [read_predictions(found[fold.name][1]) for fold in folds]
        columns = list(parts[0].by_column)
        name = "-".join(key).replace("=", "") + f"-s{seed}"
        write_predictions(target / "predictions" / f"{name}.csv.gz", [i for part in parts for i in part.images],
                          np.concatenate([part.labels for part in parts]),
                          {column: np.concatenate([part.by_column[column] for part in parts])
                           for column in columns})
        first = found[folds[0].name][0]
        runs.append({"name": name, "model": first["model"], "label": first["label"], "seed": seed,
                     "test": first["test"], "config": first["config"], "folds": [
                         {key: found[fold.name][0][key] for key in (
                             "dataset", "dataset_digest", "trained_with", "evaluated_with", "train_s")}
                         for fold in folds]})
    write_json(target / "runs.json", runs)
    print(f"wrote {target}: {len(runs)} networks, each on {len(folds)} folds")


def main(argv: list[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    folds = make_folds(read_lists(find_dataset(args.data)), args.folds, Path(args.work) / "folds")
    if not args.collect:
        run_folds(args, folds)
    target = Path(args.results)
    collect(Path(args.work), folds, target)
    if target == ROOT / "results" / "bands":
        report_build.main([])


if __name__ == "__main__":
    cli(main)
