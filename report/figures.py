"""Figures of both tasks, from plain data; the same data give the same bytes. All are readable in grey."""

from __future__ import annotations

import hashlib
import inspect
from pathlib import Path

import matplotlib
import matplotlib.style
import numpy as np
from matplotlib.figure import Figure  # without pyplot: no display, no global state
from PIL import Image

from engine.records import SUBSETS
from utils import atomic_path

# told apart by readers who see colours differently (Okabe and Ito 2008); grey tells by markers, lines and hatches
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#000000", "#F0E442")
LINES = ((0, ()), (0, (5, 2)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)), (0, (3, 1, 1, 1, 1, 1)), (0, (8, 2)))
MARKERS = "osD^vPX*<>hp"
HATCHES = ("", "//", "", "\\\\", "..", "xx")


def digest(draw, titled: list) -> str:
    """sha256 of what a figure is drawn from and of the code that draws; it is written into the figure."""
    return hashlib.sha256((repr(titled) + inspect.getsource(inspect.getmodule(draw))).encode()).hexdigest()


def is_current(draw, titled: list, path: str | Path) -> bool:
    """Whether the PNG at `path` is what `write_figure` would write."""
    try:
        with Image.open(path) as image:
            return image.text.get("Rows") == digest(draw, titled)
    except (OSError, AttributeError):  # no such file, or no PNG
        return False


def write_figure(draw, titled: list, path: str | Path) -> None:
    """Draw with one of the functions below and write a PNG that remembers what it was drawn from.

    Args:
        draw: such a function.
        titled: [title, data of the function].

    Raises:
        UserError: the file cannot be written.
    """
    with matplotlib.style.context("default"), atomic_path(path) as temporary:
        matplotlib.rcParams.update(
            {"hatch.linewidth": 0.6, "font.size": 10, "axes.spines.top": False, "axes.spines.right": False}
        )
        matplotlib.rcParams["text.parse_math"] = False  # a name with dollar signs is no formula
        title, data = titled
        figure = Figure(figsize=(10, 4.4), layout="constrained")
        draw(figure, data)
        figure.suptitle(title, x=0.01, ha="left", fontsize=11)
        figure.savefig(
            temporary, format="png", dpi=120, metadata={"Software": None, "Rows": digest(draw, titled)}
        )


def channel_bars(figure: Figure, data: list[dict]) -> None:
    """Top-1 by channel set, a bar a model with its interval.

    data: name, top1, low, high (each subset -> percent).
    """
    axis = figure.subplots()
    shown = [subset for subset in SUBSETS if any(subset in model["top1"] for model in data)]
    width = 0.84 / len(data)
    for rank, model in enumerate(data):
        here = [subset for subset in shown if subset in model["top1"]]
        x = np.array([shown.index(subset) for subset in here]) + (rank - (len(data) - 1) / 2) * width
        top1, low, high = (
            np.array([model[key][subset] for subset in here]) for key in ("top1", "low", "high")
        )
        axis.bar(
            x,
            top1,
            width,
            edgecolor="black",
            linewidth=0.6,
            zorder=2,
            label=model["name"],
            **_bar_style(rank),
        )
        axis.errorbar(
            x,
            top1,
            yerr=np.maximum([top1 - low, high - top1], 0),
            fmt="none",
            ecolor="black",
            elinewidth=0.9,
            capsize=min(2.5, 24 * width),
            zorder=3,
        )
    axis.set_xticks(range(len(shown)), shown)
    axis.set(
        xlabel="channels present at test time",
        ylabel="top-1 (%), 95 % interval over images",
        xlim=(-0.5, len(shown) - 0.5),
    )
    axis.set_ylim(bottom=0)
    axis.grid(axis="y", color="0.85", zorder=0)
    axis.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=min(4, len(data)), frameon=False, fontsize=9
    )


def subset_map(figure: Figure, data: list[dict]) -> None:
    """Models x channel sets as a map with numbers. data: name, top1 (subset -> percent), best first."""
    figure.set_size_inches(10, 1.4 + 0.3 * len(data))
    axis = figure.subplots()
    values = np.array([[model["top1"].get(subset, np.nan) for subset in SUBSETS] for model in data])
    image = axis.imshow(values, cmap="cividis", aspect="auto")
    middle = (np.nanmin(values) + np.nanmax(values)) / 2
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            axis.text(
                column,
                row,
                f"{value:.1f}",
                ha="center",
                va="center",
                fontsize=9,
                color="white" if value < middle else "black",
            )
    axis.set_xticks(range(len(SUBSETS)), SUBSETS)
    axis.set_yticks(range(len(data)), [model["name"] for model in data])
    axis.tick_params(length=0)
    figure.colorbar(image, ax=axis, label="top-1 (%)", pad=0.01)


def top1_against_cost(figure: Figure, data: list[dict]) -> None:
    """Top-1 against MACs and, where it was measured, latency.

    data: name (None: a grey point without one), top1 (percent), flops (1e9), latency (ms).
    """
    labels = {"flops": "GFLOPs for one image", "latency": "latency of one image (ms)"}
    _scatter(figure, data, "top1", "top-1 (%)", {key: labels[key] for key in labels if key in data[0]})


def _scatter(figure: Figure, data: list[dict], y: str, y_label: str, panels: dict[str, str]) -> None:
    """A marker a model, one panel for each key of `panels` (key of x -> its label), logarithmic in x."""
    figure.set_size_inches(10, 4.8)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (key, label) in zip(axes, panels.items()):
        named = [model for model in data if model["name"]]
        for model in data:  # one without a name is there for comparison
            style = (
                _marker(named.index(model))
                if model["name"]
                else {"linestyle": "none", "marker": "o", "markersize": 5, "color": "0.75", "label": "_"}
            )
            axis.plot(model[key], model[y], **{"label": model["name"], **style})
        axis.set(xlabel=label, xscale="log")
        # no room for every digit
        if max(model[key] for model in data) > 10 * min(model[key] for model in data):
            axis.xaxis.set_minor_locator(matplotlib.ticker.LogLocator(subs=(2, 5)))
        axis.xaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
        axis.xaxis.set_minor_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
        axis.tick_params(axis="x", which="both", labelsize=8)
        axis.grid(color="0.88")
    axes[0].set_ylabel(y_label)
    _legend_below(figure, *axes[0].get_legend_handles_labels(), columns=5, fontsize=8)


def share_against_depth(figure: Figure, data: list[dict]) -> None:
    """Accuracy as a share of ResNet-34's by strict depth, models of one depth side by side in a band.

    data: name, depth, share, low, high (percent), in the order of depth.
    """
    figure.set_size_inches(10, 4.8)
    axis = figure.subplots()
    for rank, model in enumerate(data):
        error = [[model["share"] - model["low"]], [model["high"] - model["share"]]]
        axis.errorbar(
            rank,
            model["share"],
            yerr=error,
            ecolor="black",
            elinewidth=0.9,
            capsize=3,
            label=model["name"],
            zorder=3,
            **_marker(rank),
        )
    depths = [model["depth"] for model in data]
    for rank in range(1, len(data)):
        if depths[rank] != depths[rank - 1]:
            axis.axvline(rank - 0.5, color="0.8", linewidth=0.8)
    bands = {
        depth: np.mean([rank for rank, other in enumerate(depths) if other == depth]) for depth in depths
    }
    axis.set_xticks(list(bands.values()), [str(depth) for depth in bands])
    axis.tick_params(axis="x", length=0)
    for level, style in ((90, (0, (5, 2))), (100, "solid")):
        axis.axhline(level, color="black", linewidth=0.9, linestyle=style, zorder=2)
    axis.set(
        xlabel="strict depth", ylabel="top-1 in % of ResNet-34's, 95 % interval", xlim=(-0.6, len(data) - 0.4)
    )
    axis.grid(axis="y", color="0.88")
    _legend_below(figure, *_plain_legend(axis), columns=5, fontsize=8)


def _legend_below(figure: Figure, handles: list, labels: list[str], columns: int, fontsize: int) -> None:
    """A legend of at most `columns` columns, fewer where long labels would not fit a figure 10 inches
    wide.
    """
    fitting = 1080 // fontsize // max(map(len, labels))
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=max(1, min(columns, fitting)),
        frameon=False,
        fontsize=fontsize,
    )


def _plain_legend(axis) -> tuple[list, list]:
    """Handles and labels of error bars, the bars left out."""
    handles, labels = axis.get_legend_handles_labels()
    return [handle[0] for handle in handles], labels


def _marker(rank: int) -> dict:
    """Style of a model's marker: its shape tells it apart in grey."""
    return {
        "linestyle": "none",
        "marker": MARKERS[rank % len(MARKERS)],
        "markersize": 8,
        "markeredgecolor": "black",
        "color": PALETTE[rank % len(PALETTE)],
    }


def lines(figure: Figure, data: dict) -> None:
    """Curves in one or more panels. data: panels: [{x, y (axis labels), log, series: [{name, x, y, mark, apart}]}].

    log: logarithmic in x. mark: x of a vertical line in the curve's style. apart: nothing is known between the points.
    """
    columns = data.get("columns", len(data["panels"]))
    rows = -(-len(data["panels"]) // columns)
    figure.set_size_inches(10, 4.4 if rows == 1 else 3.4 * rows)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis, panel in zip(axes, data["panels"]):
        for rank, series in enumerate(panel["series"]):
            marker = MARKERS[rank % len(MARKERS)] if len(series["x"]) < 12 else None
            style = {
                "linestyle": "none" if series.get("apart") else LINES[rank % len(LINES)],
                "color": PALETTE[rank % len(PALETTE)],
            }
            axis.plot(series["x"], series["y"], marker=marker, label=series["name"], **style)
            if "mark" in series:
                axis.axvline(series["mark"], linewidth=1, **style)
        axis.set(xlabel=panel["x"], ylabel=panel["y"], xscale="log" if panel.get("log") else "linear")
        if panel.get("log"):
            ticks = sorted({x for series in panel["series"] for x in series["x"]})
            axis.set_xticks(ticks, [f"{x:g}" for x in ticks])
            axis.minorticks_off()
        elif all(isinstance(x, int) for series in panel["series"] for x in series["x"]):
            axis.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True, min_n_ticks=1))
        axis.grid(color="0.88")
        if rows > 1:  # a row of panels may have lines of its own
            axis.legend(frameon=False, fontsize=8)
    if rows == 1:
        _legend_below(figure, *axes[0].get_legend_handles_labels(), columns=4, fontsize=9)


def labelled_points(figure: Figure, data: dict) -> None:
    """Points with their names beside them. data: panels: [{title, x, y (axis labels), points: [{name, x, y}]}]."""
    axes = figure.subplots(1, len(data["panels"]), squeeze=False)[0]
    for axis, panel in zip(axes, data["panels"]):
        for rank, point in enumerate(panel["points"]):
            axis.plot(point["x"], point["y"], **_marker(rank))
            axis.annotate(
                point["name"], (point["x"], point["y"]), xytext=(7, 5), textcoords="offset points", fontsize=9
            )
        axis.set(xlabel=panel["x"], ylabel=panel["y"])
        axis.set_title(panel["title"], fontsize=10)
        axis.margins(x=0.22, y=0.12)
        axis.grid(color="0.88")


def shares(figure: Figure, data: list[dict]) -> None:
    """Accuracy as a share of other networks', with intervals.

    data: name, shares: name of the other network -> (share, low, high), percent.
    """
    axis = figure.subplots()
    others = list(dict.fromkeys(other for model in data for other in model["shares"]))
    for rank, other in enumerate(others):
        known = [(x, model["shares"][other]) for x, model in enumerate(data) if other in model["shares"]]
        x = np.array([x for x, _ in known]) + 0.14 * (rank - (len(others) - 1) / 2)
        share, low, high = np.array([values for _, values in known]).T
        axis.errorbar(
            x,
            share,
            yerr=[share - low, high - share],
            ecolor="black",
            elinewidth=0.9,
            capsize=3,
            label=other,
            zorder=3,
            **_marker(rank),
        )
        for place, value in zip(x, share):
            axis.annotate(
                f"{value:.1f}", (place, value), xytext=(8, -3), textcoords="offset points", fontsize=8
            )
    for level, style in ((90, (0, (5, 2))), (100, "solid")):
        axis.axhline(level, color="black", linewidth=0.9, linestyle=style, zorder=2)
    axis.set_xticks(range(len(data)), [model["name"] for model in data])
    axis.set(ylabel="top-1 in %, 95 % interval", xlim=(-0.6, len(data) - 0.4))
    axis.grid(axis="y", color="0.88")
    axis.legend(*_plain_legend(axis), frameon=False, fontsize=9)


def confusion(figure: Figure, data: dict) -> None:
    """Confusion matrix. data: classes, shares (K, K): percent of the true class; black: all of it."""
    _class_map(
        figure,
        data["classes"],
        np.array(data["shares"]),
        "images of 100 of the true class",
        vmin=0,
        vmax=100,
        cmap="gray_r",
    )


def _class_map(figure: Figure, classes: list[str], values: np.ndarray, label: str, **scale) -> None:
    """Values (K, K) as a grey map: row = true class, column = predicted class."""
    figure.set_size_inches(8.6, 7.4)
    axis = figure.subplots()
    image = axis.imshow(values, **scale)
    for ticks in (axis.set_xticks, axis.set_yticks):
        ticks(range(len(classes)), classes, fontsize=6)
    axis.tick_params(axis="x", rotation=90)
    axis.set(xlabel="predicted class", ylabel="true class")
    figure.colorbar(image, ax=axis, label=label)


def _bar_style(rank: int) -> dict:
    """Colours, and hatches that keep neighbours apart in grey."""
    return {
        "color": PALETTE[rank % len(PALETTE)],
        "hatch": HATCHES[rank % len(HATCHES)],
        "hatchcolor": "white",
    }
