"""Test pictures with what networks say of them: made locally, never committed.

    python -m report.pictures                       # the module of Task 1, from each channel set
    python -m report.pictures --tier cpu --model sliced
    python -m report.pictures task2                 # the best shallow network on validation beside ResNet-34

Writes report/local/*.png, which git ignores: the pictures belong to the data set. Of several seeds, the first.
"""
from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import report.task1.analysis
import report.task1.content
import report.task2.analysis
import report.task2.content
from config import TrainConfig
from data.dataset import open_data
from grids import REFERENCE
from report.class_names import class_names
from report.comparisons import by_setting
from report.records import Predictions, load_records, read_predictions
from report.task1.rows import SUBSETS
from report.task2.rows import best, settings
from utils import ROOT, ArgumentParser, UserError, atomic_path, cli


def kinds_task1(predictions: Predictions) -> dict[str, np.ndarray]:
    """Kind of picture -> whether each is one: (N,), from a column a channel set."""
    by_set = {name: answers == predictions.labels for name, answers in predictions.by_column.items()}
    return {"needs colour": by_set["RGB"] & ~by_set["R"] & ~by_set["G"] & ~by_set["B"],
            "one channel is enough": np.logical_and.reduce([by_set[s] for s in SUBSETS]),
            "depends on the channel": by_set["RGB"] & (by_set["R"] ^ by_set["B"]),
            "colour misleads": ~by_set["RGB"] & by_set["R"] & by_set["G"] & by_set["B"]}


def kinds_task2(predictions: Predictions) -> dict[str, np.ndarray]:
    """As `kinds_task1`, from the columns of two networks."""
    return report.task2.analysis.agreement(predictions.labels, predictions.by_column)


def find_task1(root: Path, tier: str | None, model: str | None) -> tuple[tuple, Predictions]:
    """The setting of the first results of the model, and a column for each channel set.

    Raises:
        UserError: there are none.
    """
    model = model or REFERENCE
    for setting, rows in by_setting(report.task1.content.load_rows(root)).items():
        files = report.task1.analysis.Models(rows, root / "results").source(model, "RGB")
        if tier in (None, setting[0]) and files:
            return (*setting, model), read_predictions(files[min(files)])
    raise UserError(missing(model, tier, "eval_channels.py"))


def find_task2(root: Path, tier: str | None, model: str | None) -> tuple[tuple, Predictions]:
    """As `find_task1`, a column for the model (default: ours, the best on validation) and one for ResNet-34."""
    rows = report.task2.content.load_rows(root)
    trained = report.task2.analysis.trainings(load_records(root, "task2"))
    for setting, members in by_setting(rows).items():
        models = report.task2.analysis.Models(members, root / "results")
        name = model or best(settings(rows, "val").get(setting, []), "ours")
        against = report.task2.analysis.denominator(rows, trained, setting, name)
        if tier in (None, setting[0]) and name in models and against not in (None, name):
            one, other = models.predictions(name)[0], models.predictions(against)[0]
            if one.images != other.images:
                raise UserError(f"{name} and {against} were evaluated on other images: evaluate them again with eval_classifiers.py")
            answers = {network: p.by_column[report.task2.analysis.COLUMN] for network, p in ((name, one), (against, other))}
            return (*setting, name), Predictions(one.images, one.labels, answers)
    raise UserError(missing(model or "a shallow network beside ResNet-34", tier, "eval_classifiers.py"))


def missing(model: str, tier: str | None, script: str) -> str:
    return (f"no results of model {model!r}" + (f" in tier {tier!r}" if tier else "")
            + f": evaluate it with {script}, or name another with --model")


def choose(kinds: dict[str, np.ndarray], each: int, seed: int = 0) -> dict[str, list[int]]:
    """Kind -> numbers of up to `each` test images of it, drawn at random."""
    random = np.random.default_rng(seed)
    return {kind: random.permutation(np.flatnonzero(members))[:each].tolist() for kind, members in kinds.items()}


def answer(column: str, text: str) -> str:
    """What a column says, on two lines where its name is long."""
    return f"{column}: {text}" if len(column) < 12 else f"{column}:\n{text}"


def draw(images: np.ndarray, predictions: Predictions, chosen: dict[str, list[int]], path: Path) -> None:
    """A row a kind: pictures (N, S, S, 3) uint8, below each its class and the answers that are wrong."""
    columns = max(map(len, chosen.values()))
    names = class_names(predictions.images, predictions.labels)
    lines = 1 + sum(text.count("\n") + 1 for text in map(answer, predictions.by_column, predictions.by_column))
    figure = Figure(figsize=(2.3 * columns, (2 + 0.14 * lines) * len(chosen)), layout="constrained")
    axes = figure.subplots(len(chosen), columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for row, (kind, numbers) in enumerate(chosen.items()):
        axes[row, 0].set_title(kind, loc="left", fontsize=10, fontweight="bold")
        for axis, number in zip(axes[row], numbers):
            truth = int(predictions.labels[number])
            wrong = [answer(column, names[int(p[number])]) for column, p in predictions.by_column.items() if p[number] != truth]
            axis.imshow(images[number])
            axis.text(0.5, -0.03, "\n".join([f"true {names[truth]}", *wrong]), transform=axis.transAxes, ha="center", va="top", fontsize=7)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


TASKS = {"task1": (find_task1, kinds_task1), "task2": (find_task2, kinds_task2)}


def main(argv: list[str] | None = None, root: Path = ROOT) -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("task", nargs="?", choices=TASKS, default="task1", help="whose networks")
    parser.add_argument("--tier", help="tier of the results (default: the first that has the model)")
    parser.add_argument("--model", help=f"model of the results (default: {REFERENCE}; for task2 the best shallow network on validation)")
    parser.add_argument("--data", default="auto", help="the data the results were measured on, as in train_task1.py")
    parser.add_argument("--cache", help="folder for the decoded pixels (default: data/cache)")
    parser.add_argument("--each", type=int, default=6, help="pictures of each kind")
    args = parser.parse_args(argv)
    find, kinds = TASKS[args.task]
    (tier, dataset, size, model), predictions = find(root, args.tier, args.model)
    split = open_data(TrainConfig(data=args.data, cache=args.cache, image_size=size)).split("test")
    if split.paths != predictions.images:
        raise UserError(f"--data {args.data}: its test images are not those that {model} was measured on; name those data")
    target = root / "report" / "local" / f"{args.task}-{tier}-{dataset}-{model}.png"
    draw(split.images, predictions, choose(kinds(predictions), args.each), target)
    print(f"wrote {target}; its pictures belong to the data set: do not publish it")


if __name__ == "__main__":
    cli(main)
