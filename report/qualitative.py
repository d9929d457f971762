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
from report.figures import Chart
from storage.files import read_json
from utils import UserError

REBUILT = "coffee"  # this photograph is rebuilt, because its colours matter
RULES = {"zero": "zero", "rescale": "C/n", "mean": "mean", "regression": "regression"}
LABELS = {"gated6-k3": "ours (depth 6)", "resnet34": "ResNet-34"}


class Rebuilt(NamedTuple):
    """A picture that each fill rule rebuilt from each channel set."""

    sets: list[str]
    rows: dict[str, list[list]]  # fill rule -> list with a picture (H, W, 3) for each set
    answers: list[tuple[str, float]]  # for each set: (name of the class, probability in percent)


class RestsOn(NamedTuple):
    """A picture, and maps of its parts that support the answers of networks."""

    picture: list  # (H, W, 3)
    # for each network: (name, (name of the class, probability in percent), map (h, w) from 0 to 1)
    networks: list[tuple[str, tuple[str, float], list]]


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
        pictures = {
            name: _seen(Image.open(root / "report" / "photographs" / f"{name}.png").convert("RGB"))
            for name in content["pictures"]
        }
        figures = {
            "reconstructions": (
                reconstructions,
                _rebuilt(content["ours"], pictures[REBUILT]),
                "One photograph from each set of channels, filled by four rules",
            ),
            "kernels": (kernels, content["ours"]["kernels"], "Kernels that the stem generates for each set"),
            "activation": (
                activation,
                _rests_on(content["networks"], pictures),
                "What the answers rest on (Grad-CAM, last feature map)",
            ),
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file} is damaged or a picture is missing ({error}): make it again with python -m "
            f"tools.qualitative"
        ) from error
    return {f"qualitative_{name}.png": Chart(*figure) for name, figure in figures.items() if figure[1]}


def fill_picture(picture: np.ndarray, rule: str, ids: list[int], statistics: dict) -> np.ndarray:
    """Rebuild a picture (H, W, 3), uint8, from its channels `ids` by a fill rule; return the same shape and type.

    `statistics` is a dict with "mean", "std" and "covariance" of the channels.
    """
    mean, std = (np.array(statistics[key]) for key in ("mean", "std"))
    normalised = (picture / 255 - mean) / std
    matrix = build_fill(rule, 3, **{key: torch.tensor(value) for key, value in statistics.items()}).columns(
        ids
    )
    filled = (normalised[..., ids] @ matrix.numpy().T.astype(float)) * std + mean
    return np.round(255 * filled.clip(0, 1)).astype(np.uint8)


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


def _rests_on(networks: list[dict], pictures: dict[str, np.ndarray]) -> list[RestsOn]:
    """Return the parts that support the answers for each picture; return [] without networks."""
    labels = [LABELS.get(network["model"], network["model"]) for network in networks]
    return [
        RestsOn(
            picture.tolist(),
            [(label, each["answers"][name], each["maps"][name]) for label, each in zip(labels, networks)],
        )
        for name, picture in pictures.items()
        if networks
    ]


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
        axis.set_xlabel(f"{name}\n{share:.0f} %", fontsize=8)


def kernels(figure: Figure, data: dict[str, list]) -> None:
    """Draw the kernels of the stem, with a row for each channel set and a column for each filter.

    The red, green and blue of a patch show the slices of the filter for R, G and B. The value 0 and absent channels are
    grey. Each filter has one scale.

    Args:
        data: channel set -> kernels (filters, n, k, k).
    """
    filters = len(next(iter(data.values())))
    figure.set_size_inches(10, 6)
    axes = figure.subplots(len(data), filters)
    scale = [
        max(np.abs(kernel[number]).max() for kernel in map(np.array, data.values()))
        for number in range(filters)
    ]
    for row, (name, kernel) in zip(axes, data.items()):
        for number, axis in enumerate(row):
            slices = np.array(kernel[number])
            patch = np.full((*slices.shape[1:], 3), 0.5)
            for plane, channel in zip(slices, name):
                patch[..., "RGB".index(channel)] += plane / scale[number] / 2
            bare(axis).imshow(patch.clip(0, 1), interpolation="nearest")
        row[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=10)
    for number, axis in enumerate(axes[0]):
        axis.set_title(f"filter {number + 1}", fontsize=9)


def activation(figure: Figure, data: list[RestsOn]) -> None:
    """Draw the parts of pictures that support answers, with a row for each picture and a column for each network."""
    columns = 1 + len(data[0].networks)
    figure.set_size_inches(8.2, 2.5 * len(data))
    axes = figure.subplots(len(data), columns, squeeze=False)
    for row, rest in zip(axes, data):
        picture = np.array(rest.picture, dtype=np.uint8)
        bare(row[0]).imshow(picture)
        for axis, (_, (answer, share), rests_on) in zip(row[1:], rest.networks):
            bare(axis).imshow(picture)
            draw_support(axis, rests_on, picture)
            axis.set_xlabel(f"{answer}, {share:.0f} %", fontsize=10)
    for axis, (name, *_) in zip(axes[0, 1:], data[0].networks):
        axis.set_title(name, fontsize=11)


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
