"""Draw the answers of networks for photographs, from results/qualitative.json and report/photographs.

tools/qualitative.py writes results/qualitative.json.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from channelset import build_fill
from engine.records import SUBSETS
from report.figures import SMALL, Chart
from storage.files import read_json
from utils import UserError

REBUILT = "coffee"  # this photograph is rebuilt, because its colours matter
RULES = {"zero": "zero", "rescale": "C/n", "mean": "mean", "regression": "regression"}


class Rebuilt(NamedTuple):
    """A picture that each fill rule rebuilt from each channel set."""

    sets: list[str]
    rows: dict[str, list[list]]  # fill rule -> list with a picture (H, W, 3) for each set
    answers: list[tuple[str, float]]  # for each set: (name of the class, probability in percent)


def make_charts(root: Path) -> dict[str, Chart]:
    """Make the figures; return a dict from the file name to the chart, which is empty without results.

    Raises:
        UserError: results/qualitative.json is damaged, or a picture is missing.
    """
    file = root / "results" / "qualitative.json"
    if not file.is_file():
        return {}
    try:
        content = read_json(file)
        picture = Image.open(root / "report" / "photographs" / f"{REBUILT}.png").convert("RGB")
        return {
            "qualitative_reconstructions.png": Chart(
                reconstructions,
                _rebuilt(content["ours"], _seen(picture)),
                "One photograph from each set of channels, filled by four rules",
            ),
            "qualitative_kernels.png": Chart(
                kernels,
                content["ours"]["kernels"],
                "Kernels that the stem generates for each set, a row for each channel",
            ),
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file} is damaged or a picture is missing ({error}): make it again with python -m "
            f"tools.qualitative"
        ) from error


def fill_picture(picture: np.ndarray, rule: str, ids: list[int], statistics: dict) -> np.ndarray:
    """Rebuild a picture (H, W, 3), uint8, from its channels `ids` by a fill rule; return the same shape and type.

    `statistics` is a dict with "mean", "std" and "covariance" of the channels.
    """
    mean, std = (np.array(statistics[key]) for key in ("mean", "std"))
    normalised = (picture / 255 - mean) / std
    filled = (normalised[..., ids] @ fill_matrix(rule, ids, statistics).T) * std + mean
    return np.round(255 * filled.clip(0, 1)).astype(np.uint8)


def fill_matrix(rule: str, ids: list[int], statistics: dict) -> np.ndarray:
    """Return the matrix P(S) (3, n) that predicts R, G and B, scaled to mean 0 and deviation 1, from the set `ids`.

    `statistics` is as in `fill_picture`.
    """
    fill = build_fill(rule, 3, **{key: torch.tensor(value) for key, value in statistics.items()})
    return fill.columns(ids).numpy().astype(float)


def _seen(picture: Image.Image) -> np.ndarray:
    """Cut out the part of a picture that evaluation uses, its middle seven eighths; return (H, W, 3), uint8."""
    left, top = picture.width // 16, picture.height // 16
    return np.array(picture.crop((left, top, picture.width - left, picture.height - top)))


def _rebuilt(ours: dict, picture: np.ndarray) -> Rebuilt:
    sets = {name: ["RGB".index(channel) for channel in name] for name in SUBSETS}
    rows = {
        label: [fill_picture(picture, rule, ids, ours["statistics"]).tolist() for ids in sets.values()]
        for rule, label in RULES.items()
    }
    return Rebuilt(list(sets), rows, [ours["answers"][REBUILT][name] for name in sets])


# ---------------------------------------------------------------- drawing


def reconstructions(figure: Figure, data: Rebuilt) -> None:
    """Draw the rebuilt pictures, with a row for each rule and a column for each set; write the answers below."""
    figure.set_size_inches(10, 6.6)
    axes = figure.subplots(len(data.rows), len(data.sets))
    for row, (rule, pictures) in zip(axes, data.rows.items()):
        for axis, picture in zip(row, pictures):
            bare(axis).imshow(np.array(picture, dtype=np.uint8))
        row[0].set_ylabel(rule, fontsize=10)
    for axis, name in zip(axes[0], data.sets):
        axis.set_title(name, fontsize=10)
    for axis, (name, share) in zip(axes[-1], data.answers):
        axis.set_xlabel(f"{name}\n{share:.0f} %", fontsize=SMALL)


def kernels(figure: Figure, data: dict[str, list]) -> None:
    """Draw the kernels of the stem: a column for each filter, a row for each channel of each set.

    White is a large positive weight, black a large negative weight, the middle grey is 0. Each filter has one scale.

    Args:
        data: channel set -> kernels (filters, n, k, k).
    """
    figure.set_size_inches(10, 6.2)
    axis, gap = figure.subplots(), 5
    sets = {name: np.array(kernel) for name, kernel in data.items()}
    scale = np.max([np.abs(kernel).max((1, 2, 3)) for kernel in sets.values()], axis=0)
    filters, _, side, _ = next(iter(sets.values())).shape
    bottom, ticks = 0, {}
    for name, kernel in sets.items():
        for plane, channel in enumerate(name):
            for number in range(filters):
                left = number * (side + gap)
                extent = (left, left + side, bottom + side, bottom)
                patch = kernel[number, plane] / scale[number]
                axis.imshow(patch, cmap="gray", vmin=-1, vmax=1, extent=extent, interpolation="nearest")
            ticks[bottom + side / 2] = f"{name}: {channel}" if len(name) > 1 else f"{name} alone"
            bottom += side + 1
        bottom += 2  # sets are apart
    bare(axis).set(xlim=(-1, left + side + 1), ylim=(bottom, -1))
    axis.set_yticks(list(ticks), list(ticks.values()), fontsize=SMALL)
    axis.set_xticks(
        [number * (side + gap) + side / 2 for number in range(filters)], range(1, filters + 1), fontsize=SMALL
    )
    axis.xaxis.tick_top()
    axis.tick_params(length=0)
    axis.set_title("filter", fontsize=SMALL)


def bare(axis: Axes) -> Axes:
    """Hide the frame and the ticks of an axis that shows a picture; return the axis."""
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    return axis


def draw_support(axis: Axes, support: list[list[float]], picture: np.ndarray) -> None:
    """Draw a map (h, w) over a picture (H, W, ...).

    The values of the map are from 0 to 1. They say how much each part of the picture supports an answer.
    """
    height, width = picture.shape[:2]
    axis.imshow(
        np.array(support),
        cmap="inferno",
        alpha=0.55,
        interpolation="bilinear",
        vmin=0,
        vmax=1,
        extent=(-0.5, width - 0.5, height - 0.5, -0.5),
    )
