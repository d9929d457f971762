"""Define the experiments as data: lists of runs, and the runs that the tables and figures show.

A run is a training, or one way to evaluate a training. A grid is a list of runs; the most informative runs come first.
A run that only evaluates another run in a different way is not trained again. `python experiments.py GRID` trains and
evaluates a grid.

To add a row to a table, define a `Run` in task1.py or task2.py. Add it to a grid in GRIDS, and to MAIN_ROWS or
ABLATION_ROWS. A run in ABLATIONS that is in no grid belongs to the grid task1-ablations or task2-ablations. After its
evaluation, `python -m report.build` shows it.
"""

from __future__ import annotations

from grids import task1, task2
from grids.run import Run

GRIDS: dict[str, list[Run]] = {**task1.GRIDS, **task2.GRIDS}
NAMED = {**task1.NAMED, **task2.NAMED}  # name of a model in the report's texts -> runs of this model


def channels_of(grid: str) -> tuple[str, ...]:
    """Return the channel names of the data set that a grid needs."""
    return task1.SENTINEL_2 if grid == "task1-bands" else ("R", "G", "B")


def task_of(grid: str) -> str:
    """Return the task of a grid: "task1" or "task2"."""
    return "task1" if grid in task1.GRIDS else "task2"
