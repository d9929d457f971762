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

from data.dataset import add_data_options, open_data
from engine.records import SINGLE, SUBSETS, Predictions
from grids.task1 import CHANNELSET
from report.class_names import class_names
from report.compare import agreement, denominator, headline
from report.figures import Figure
from report.results import Setting, load_settings
from storage.files import atomic_path
from utils import ROOT, ArgumentParser, UserError, cli, within


def kinds_task1(predictions: Predictions) -> dict[str, np.ndarray]:
    """Sort pictures into kinds. A kind says with which channel sets the network answers correctly.

    Return a dict from the name of a kind of pictures to an array (N,) of bool: whether each picture is of this kind.
    """
    by_set = {name: answers == predictions.labels for name, answers in predictions.by_column.items()}
    return {
        "needs colour": by_set["RGB"] & ~by_set["R"] & ~by_set["G"] & ~by_set["B"],
        "one channel is enough": np.logical_and.reduce([by_set[s] for s in SUBSETS]),
        "depends on the channel": by_set["RGB"] & (by_set["R"] ^ by_set["B"]),
        "colour misleads": ~by_set["RGB"] & by_set["R"] & by_set["G"] & by_set["B"],
    }


def find_task1(settings: list[Setting], model: str | None) -> tuple[Setting, str, Predictions]:
    """Find the first setting that has results of the model; return (setting, name of the model, predictions).

    The predictions have a column for each channel set. None as `model` means our network for any channel set.

    Raises:
        UserError: no setting has results of the model.
    """
    for setting in settings:
        entry = named(setting, model) if model else setting.find(CHANNELSET)
        if entry is not None and setting.predictions(entry, "RGB"):
            return setting, setting.describe(entry), setting.predictions(entry, "RGB")[0]
    raise UserError(missing(model or CHANNELSET.model, settings, "eval_channels.py"))


def find_task2(settings: list[Setting], model: str | None) -> tuple[Setting, str, Predictions]:
    """Find the first setting that has results of the model and of a ResNet-34; return a tuple as in `find_task1`.

    The predictions have a column for the model and a column for ResNet-34. None as `model` means our shallow network
    that is best on validation.
    """
    for setting in settings:
        entry = named(setting, model) if model else headline(setting)[0]
        against = None if entry is None else denominator(setting, entry)
        if against not in (None, entry):
            one, other = setting.predictions(entry)[0], setting.predictions(against)[0]
            if one.images != other.images:
                raise UserError(
                    f"{setting.describe(entry)} and {setting.describe(against)} were evaluated "
                    f"on different images: evaluate both networks again with eval_shallow.py"
                )
            answers = {
                setting.describe(network): p.by_column[SINGLE]
                for network, p in ((entry, one), (against, other))
            }
            return setting, setting.describe(entry), Predictions(one.images, one.labels, answers)
    raise UserError(missing(model or "a shallow network beside ResNet-34", settings, "eval_shallow.py"))


def named(setting: Setting, model: str) -> int | None:
    """Find the first entry of the setting that has the name `model`; None if there is no such entry."""
    entries = setting.test[setting.test["model"] == model]["entry"]
    return None if entries.empty else int(entries.iloc[0])


def missing(model: str, settings: list[Setting], script: str) -> str:
    return (
        f"no results of model {model!r} (presets: "
        f"{', '.join(setting.preset for setting in settings) or 'none'}): evaluate it with {script}, or "
        f"give another model with --model"
    )


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
    lines = 1 + sum(
        text.count("\n") + 1 for text in map(answer, predictions.by_column, predictions.by_column)
    )
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
    "task1": (find_task1, kinds_task1),
    "task2": (find_task2, lambda predictions: agreement(predictions.labels, predictions.by_column)),
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
    find, kinds = TASKS[args.task]
    settings = load_settings(root, args.task)[1]
    presets = ", ".join(dict.fromkeys(setting.preset for setting in settings)) or "none"
    settings = [setting for setting in settings if args.preset in (None, setting.preset)]
    if args.preset and not settings:
        raise UserError(f"--preset {args.preset}: results/{args.task} has no such preset, only {presets}")
    setting, model, predictions = find(settings, args.model)
    split = open_data(args.data, setting.image_size, args.cache).split("test")
    if split.paths != predictions.images:
        raise UserError(
            f"--data {args.data}: {model} was evaluated on other test images: give the data set of that evaluation"
        )
    target = (
        root
        / "report"
        / "local"
        / f"{args.task}-{setting.preset}-{setting.dataset}-{args.model or 'default'}.png"
    )
    draw(split.images, predictions, choose(kinds(predictions), args.each), target)
    print(f"wrote {target}; its pictures belong to the data set, so do not publish it")


if __name__ == "__main__":
    cli(main)
