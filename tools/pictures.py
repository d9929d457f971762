"""Draw test pictures with the answers of networks, for local use only.

    python -m tools.pictures                       # our network of Task 1 on each channel set
    python -m tools.pictures --preset 64px-half --model sliced
    python -m tools.pictures task2                 # ResNet-34, and the shallow network that is best on validation

The command writes PNG files into report/local, which git ignores, because the pictures belong to the data set. It uses
the first seed of each network.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data.class_names import class_names
from data.dataset import add_data_options, open_data
from engine.records import SINGLE, SUBSETS, Predictions
from grids.task1 import CHANNELSET
from report.compare import agreement, denominator, headline
from report.figures import Figure
from report.results import Setting, load_settings
from storage.files import atomic_path
from utils import ROOT, ArgumentParser, UserError, cli, within


def kinds_task1(labels: np.ndarray, answers: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Sort pictures into kinds. A kind says with which channel sets the network answers correctly.

    Return a dict from the name of a kind of pictures to an array (N,) of bool: whether each picture is of this kind.
    The arguments are as in `agreement`, with an answer for each channel set.
    """
    by_set = {name: answer == labels for name, answer in answers.items()}
    return {
        "needs colour": by_set["RGB"] & ~by_set["R"] & ~by_set["G"] & ~by_set["B"],
        "one channel is enough": np.logical_and.reduce([by_set[s] for s in SUBSETS]),
        "depends on the channel": by_set["RGB"] & (by_set["R"] ^ by_set["B"]),
        "colour misleads": ~by_set["RGB"] & by_set["R"] & by_set["G"] & by_set["B"],
    }


def answers_task1(setting: Setting, model: str | None) -> tuple[str, Predictions] | None:
    """Find the answers of a model; return its name and its predictions, with a column for each channel set.

    None as `model` means our network for any channel set. Return None if the setting has no results of the model.
    """
    entry = named(setting, model) if model else setting.find(CHANNELSET)
    found = [] if entry is None else setting.predictions(entry, "RGB")
    return (setting.describe(entry), found[0]) if found else None


def answers_task2(setting: Setting, model: str | None) -> tuple[str, Predictions] | None:
    """Find the answers of a model and of a ResNet-34; return the name of the model, and predictions with two columns.

    None as `model` means our shallow network that is best on validation. Return None if the setting lacks a network.
    """
    entry = named(setting, model) if model else headline(setting)[0]
    against = None if entry is None else denominator(setting, entry)
    if against in (None, entry):
        return None
    names = [setting.describe(network) for network in (entry, against)]
    one, other = (setting.predictions(network)[0] for network in (entry, against))
    if one.images != other.images:
        raise UserError(
            f"{names[0]} and {names[1]} were evaluated on different images: evaluate both networks again with "
            "eval_shallow.py"
        )
    answers = dict(zip(names, (one.by_column[SINGLE], other.by_column[SINGLE])))
    return names[0], Predictions(one.images, one.labels, answers)


def named(setting: Setting, model: str) -> int | None:
    """Find the first entry of the setting that has the name `model`; None if there is no such entry."""
    return next(iter(setting.test.loc[setting.test["model"] == model, "entry"].tolist()), None)


def choose(kinds: dict[str, np.ndarray], each: int) -> dict[str, list[int]]:
    """Choose up to `each` random images of each kind; return a dict from the kind to the numbers of the images.

    Raises:
        UserError: all kinds are empty.
    """
    if not any(members.any() for members in kinds.values()):
        raise UserError(
            f"no test image belongs to any of the kinds {', '.join(kinds)}: give another model with --model"
        )
    random = np.random.default_rng(0)
    return {
        kind: random.permutation(np.flatnonzero(members))[:each].tolist() for kind, members in kinds.items()
    }


def answer(column: str, text: str) -> str:
    """Return "COLUMN: TEXT", on two lines if the name of the column is long."""
    return f"{column}: {text}" if len(column) < 12 else f"{column}:\n{text}"


def draw(images: np.ndarray, predictions: Predictions, chosen: dict[str, list[int]], path: Path) -> None:
    """Draw a row of pictures for each kind, with the true class and the wrong answers below each picture.

    Args:
        images: (N, S, S, 3), uint8.
        predictions: answers for the same images.
        chosen: a dict from a kind to the numbers of the images to draw.
        path: PNG file to write.
    """
    columns = max(map(len, chosen.values()))
    names = class_names(predictions.images, predictions.labels)
    lines = 1 + sum(answer(column, "").count("\n") + 1 for column in predictions.by_column)
    figure = Figure(figsize=(2.3 * columns, (2 + 0.14 * lines) * len(chosen)), layout="constrained")
    axes = figure.subplots(len(chosen), columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for row, (kind, numbers) in enumerate(chosen.items()):
        axes[row, 0].set_title(kind, loc="left", fontsize=10, fontweight="bold")
        for axis, number in zip(axes[row], numbers):
            truth = int(predictions.labels[number])
            wrong = [
                answer(column, names[int(p[number])])
                for column, p in predictions.by_column.items()
                if p[number] != truth
            ]
            axis.imshow(images[number])
            axis.text(
                0.5,
                -0.03,
                "\n".join([f"true {names[truth]}", *wrong]),
                transform=axis.transAxes,
                ha="center",
                va="top",
                fontsize=7,
            )
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


TASKS = {
    "task1": (answers_task1, kinds_task1, "eval_channels.py"),
    "task2": (answers_task2, agreement, "eval_shallow.py"),
}


def main(argv: list[str] | None = None, root: Path = ROOT) -> None:
    parser = ArgumentParser(prog="python -m tools.pictures", description=__doc__)
    parser.add_argument("task", nargs="?", choices=TASKS, default="task1", help="task of the networks")
    parser.add_argument("--preset", help="preset of the results (default: first preset that has the model)")
    parser.add_argument(
        "--model",
        help=f"model of the results (default: {CHANNELSET.model}; for task2 the "
        f"shallow network that is best on validation)",
    )
    add_data_options(parser, "data set of the results, as in train_task1.py")
    parser.add_argument("--each", type=within(1, 1000), default=6, help="number of pictures of each kind")
    args = parser.parse_args(argv)
    find, kinds, script = TASKS[args.task]
    settings = load_settings(root, args.task)[1]
    presets = ", ".join(dict.fromkeys(setting.preset for setting in settings)) or "none"
    settings = [setting for setting in settings if args.preset in (None, setting.preset)]
    if args.preset and not settings:
        raise UserError(f"--preset {args.preset}: results/{args.task} has no such preset, only {presets}")
    for setting in settings:
        if found := find(setting, args.model):
            break
    else:
        wanted = f"model {args.model!r}" if args.model else "our network"
        raise UserError(
            f"no results of {wanted} (presets: {presets}): evaluate it with {script}, or give "
            "another model with --model"
        )
    model, predictions = found
    split = open_data(args.data, setting.image_size, args.cache).split("test")
    if split.paths != predictions.images:
        raise UserError(
            f"--data {args.data}: {model} was evaluated on other test images: give the data set of that evaluation"
        )
    name = f"{args.task}-{setting.preset}-{setting.dataset}-{args.model or 'default'}.png"
    target = root / "report" / "local" / name
    draw(
        split.images, predictions, choose(kinds(predictions.labels, predictions.by_column), args.each), target
    )
    print(f"wrote {target}; its pictures belong to the data set, so do not publish it")


if __name__ == "__main__":
    cli(main)
