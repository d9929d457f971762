"""The experiments as data: which runs there are (GRIDS), and which of them the tables and figures show.

A grid is a list of runs, best value first; one that only evaluates a training in another way needs no
training of its own. `python experiments.py GRID` trains and evaluates them.
"""

from __future__ import annotations

from grids import task1, task2
from grids.run import Run

GRIDS: dict[str, list[Run]] = {**task1.GRIDS, **task2.GRIDS}


def channels_of(grid: str) -> tuple[str, ...]:
    """Names of the channels of the data that the grid is for."""
    return task1.SENTINEL_2 if grid == "task1-bands" else ("R", "G", "B")


def task_of(grid: str) -> str:
    """The task that a grid is of."""
    return "task1" if grid in task1.GRIDS else "task2"
