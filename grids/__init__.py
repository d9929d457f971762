"""The experiments as data: the runs (GRIDS), and which of them the tables and figures show.

A grid is a list of runs, the most informative first. A run that only re-evaluates another run is not trained
again. `python experiments.py GRID` trains and evaluates a grid.
"""

from __future__ import annotations

from grids import task1, task2
from grids.run import Run

GRIDS: dict[str, list[Run]] = {**task1.GRIDS, **task2.GRIDS}
NAMED = {**task1.NAMED, **task2.NAMED}  # name in the report's texts -> the model's runs


def channels_of(grid: str) -> tuple[str, ...]:
    """Return the channel names of the data that the grid is for."""
    return task1.SENTINEL_2 if grid == "task1-bands" else ("R", "G", "B")


def task_of(grid: str) -> str:
    """Return the task of a grid: "task1" or "task2"."""
    return "task1" if grid in task1.GRIDS else "task2"
