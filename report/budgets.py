"""Compare the total costs of the models of Task 1 with their accuracy, in a figure and in a table of advice.

A model is one network for all channel sets, or several specialists, each for one channel set. The costs of a model are
summed over its networks. The training of a teacher counts, its parameters do not, because a user does not need it.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from data.build import read_recipe
from engine.records import SUBSETS
from grids import task1
from grids.run import Run
from report.figures import Panel, estimates
from report.markdown import mean_sd, table_of
from report.numbers import DATA, NARROW, NOTHING, Numbers
from report.results import Runs

BACKWARD = 3  # a training step costs about three times the forward pass


class Budget(NamedTuple):
    """Hold the accuracy of a model, and its costs in storage, training and inference."""

    top1: list[float]  # for each seed: top-1 in percent, mean of the seven channel sets
    interval: tuple[float, float, float]  # mean over seeds and 95 % interval, see `Setting.interval`
    params: float  # parameters in millions, sum over the networks
    training: float  # PFLOPs of the training, sum over the networks
    answer: float  # MFLOPs of an answer, mean of the seven channel sets
    epochs: float  # training epochs, sum over the networks
    answers: dict[int, float]  # number of present channels -> MFLOPs of an answer


@cache
def training_images() -> int:
    return sum(row.split == "train" for row in read_recipe(DATA).rows)


def budget(numbers: Numbers, runs: Runs) -> Budget | None:
    """Add up the costs of a model of the preset 48px-quarter; return None if the model has no results."""
    setting, model = numbers.find(NARROW, runs)
    if not model:
        return None
    flops = {subset: 2 * setting.mean({subset: entry}, "macs") for subset, entry in model.items()}
    trained: dict[int, tuple[float, int]] = {}  # number of a network -> (FLOPs for an image, epochs)
    for subset in SUBSETS:  # RGB comes first: a network for any set is trained at the cost of all channels
        epochs = setting.record(model[subset])["config"]["epochs"]
        trained.setdefault(model[subset], (flops[subset], epochs))
    # a late fusion trains several networks; its cost on all channels is the sum of their costs
    parts = len(runs.parts) or 1 if isinstance(runs, Run) else 1
    training = sum(BACKWARD * each * epochs * training_images() for each, epochs in trained.values()) / 1e15
    total_epochs = parts * sum(epochs for _, epochs in trained.values())
    if isinstance(runs, Run) and runs.teacher and (teacher := budget(numbers, runs.teacher)):
        # the teacher is trained too, and answers for each image of the student's training
        training += teacher.training * (1 + total_epochs / (BACKWARD * teacher.epochs))
        total_epochs += teacher.epochs
    by_size = {n: [flops[subset] for subset in SUBSETS if len(subset) == n] for n in (1, 2, 3)}
    return Budget(
        numbers.by_seed(NARROW, runs),
        setting.interval(model),
        setting.params(model) / 1e6,
        training,
        sum(flops.values()) / len(flops) / 1e6,
        total_epochs,
        {n: sum(values) / len(values) / 1e6 for n, values in by_size.items()},
    )


def make_panels(numbers: Numbers) -> list[Panel]:
    """Make three panels that show accuracy against parameters, training cost and the cost of an answer."""
    families = {
        family: [(text, costs) for text, runs in rows if (costs := budget(numbers, runs))]
        for family, rows in task1.BUDGETS.items()
    }
    panels = []
    for label, column in (
        ("parameters (million)", "params"),
        ("training (PFLOPs)", "training"),
        ("one answer (MFLOPs)", "answer"),
    ):
        series = [
            estimates(
                family,
                [getattr(costs, column) for _, costs in points],
                [costs.interval for _, costs in points],
                labels=[text for text, _ in points],
                sizes=[len(costs.top1) for _, costs in points],
            )
            for family, points in families.items()
            if points
        ]
        panels.append(Panel(label, "top-1, mean of the seven sets (%), 95 % interval", series, log=True))
    return panels if panels[0].series else []


def choice_table(numbers: Numbers) -> str:
    """Write a table of the methods that a user can choose, with accuracy, parameters and costs."""
    rows = []
    for label, runs, use in (
        ("seven specialists", task1.SPECIALISTS, "few sets, known in advance"),
        ("late fusion", task1.LATE_FUSION, "few channels, if an answer may cost more"),
        ("mean fill", task1.BY_FILL["mean"], "channels whose covariance is not known"),
        ("sliced kernel", task1.SLICED, "no case on RGB: below mean fill"),
        ("dynamic convolution", task1.GENERATED["dynamic"], "no case: below ours, and it does not fold"),
        ("hypernetwork", task1.GENERATED["hypernet"], "as ours, if single channels matter most"),
        ("ours", task1.CHANNELSET, "many sets, one network, export"),
    ):
        if costs := budget(numbers, runs):
            rows.append(
                {
                    "method": label,
                    "use it for": use,
                    "top-1": mean_sd(costs.top1),
                    "same answer (%)": numbers.agreeing(NARROW, runs),
                    "params (M)": f"{costs.params:.2f}",
                    "MFLOPs at n = 1 / 2 / 3": " / ".join(f"{costs.answers[n]:.1f}" for n in (1, 2, 3)),
                    "epochs in all": f"{costs.epochs:g}",
                }
            )
    return table_of(rows) or NOTHING
