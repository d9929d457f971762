"""Test pictures with what the module predicts from each channel set: made locally, never committed.

    python -m report.pictures                       # tier and data set of the first results of the reference model
    python -m report.pictures --tier cpu --model sliced

Writes report/local/*.png, which git ignores: the pictures belong to the data set.
"""
from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from config import TrainConfig
from data.dataset import open_data
from grids import REFERENCE
from report.class_names import class_names
from report.comparisons import by_setting
from report.records import read_predictions
from report.task1.analysis import Models
from report.task1.content import load_rows
from report.task1.rows import SUBSETS
from utils import ROOT, ArgumentParser, UserError, atomic_path, cli

KINDS = {"needs colour": lambda right: right["RGB"] & ~right["R"] & ~right["G"] & ~right["B"],
         "one channel is enough": lambda right: np.logical_and.reduce([right[s] for s in SUBSETS]),
         "depends on the channel": lambda right: right["RGB"] & (right["R"] ^ right["B"]),
         "colour misleads": lambda right: ~right["RGB"] & right["R"] & right["G"] & right["B"]}


def choose(predictions, each: int, seed: int = 0) -> dict[str, list[int]]:
    """Kind -> numbers of up to `each` test images of it, drawn at random."""
    right = {subset: p == predictions.labels for subset, p in predictions.by_column.items()}
    random = np.random.default_rng(seed)
    return {kind: random.permutation(np.flatnonzero(test(right)))[:each].tolist() for kind, test in KINDS.items()}


def draw(images: np.ndarray, predictions, chosen: dict[str, list[int]], path: Path) -> None:
    """A row a kind: pictures (N, S, S, 3) uint8, below each the sets that are right and what the others say."""
    columns = max(map(len, chosen.values()))
    names = class_names(predictions.images, predictions.labels)
    figure = Figure(figsize=(2.3 * columns, 3.1 * len(chosen)), layout="constrained")
    axes = figure.subplots(len(chosen), columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for row, (kind, numbers) in enumerate(chosen.items()):
        axes[row, 0].set_title(kind, loc="left", fontsize=10, fontweight="bold")
        for axis, number in zip(axes[row], numbers):
            answers = {subset: int(p[number]) for subset, p in predictions.by_column.items()}
            truth = int(predictions.labels[number])
            wrong = [f"{subset}: {names[a]}" for subset, a in answers.items() if a != truth]
            axis.imshow(images[number])
            axis.text(0.5, -0.03, "\n".join([f"true {names[truth]}", *wrong]), transform=axis.transAxes, ha="center", va="top", fontsize=7)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def main(argv: list[str] | None = None, root: Path = ROOT) -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--tier", help="tier of the results (default: the first that has the model)")
    parser.add_argument("--model", default=REFERENCE, help="model of the results")
    parser.add_argument("--data", default="auto", help="the data the results were measured on, as in train_task1.py")
    parser.add_argument("--cache", help="folder for the decoded pixels (default: data/cache)")
    parser.add_argument("--each", type=int, default=6, help="pictures of each kind")
    args = parser.parse_args(argv)
    found = [(setting, path) for setting, rows in by_setting(load_rows(root)).items() if args.tier in (None, setting[0])
             for path in Models(rows, root / "results").source(args.model, "RGB").values()]
    if not found:
        raise UserError(f"no results of model {args.model!r}" + (f" in tier {args.tier!r}" if args.tier else "") +
                        ": evaluate it with eval_channels.py, or name another with --model")
    (tier, dataset, size), path = found[0]
    predictions = read_predictions(path)
    split = open_data(TrainConfig(data=args.data, cache=args.cache, image_size=size)).split("test")
    if split.paths != predictions.images:
        raise UserError(f"--data {args.data}: its test images are not those of {path.name}; name the data it was measured on")
    target = root / "report" / "local" / f"{tier}-{dataset}-{args.model}.png"
    draw(split.images, predictions, choose(predictions, args.each), target)
    print(f"wrote {target}; its pictures belong to the data set: do not publish it")


if __name__ == "__main__":
    cli(main)
