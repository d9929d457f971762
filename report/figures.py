"""Draw figures, and define the types of their data.

Equal data give equal files. All figures are readable when they are printed in grey.
"""

from __future__ import annotations

import hashlib
import inspect
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import matplotlib
import matplotlib.style
import numpy as np
from matplotlib.figure import Figure  # without pyplot: no display, no global state
from matplotlib.lines import Line2D
from PIL import Image

from engine.records import SUBSETS
from storage.files import atomic_path

# colour-blind readers can distinguish these colours (Okabe and Ito 2008); in grey, markers and line styles differ
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#000000", "#F0E442")
LINES = ((0, ()), (0, (5, 2)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)), (0, (3, 1, 1, 1, 1, 1)), (0, (8, 2)))
MARKERS = "osD^vPX*<>hp"
HATCHES = ("", "//", "", "\\\\", "..", "xx")
STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "errorbar.capsize": 3,
    "font.size": 10,
    "grid.color": "0.88",
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
    "text.parse_math": False,  # a name with dollar signs is not a formula
}


# ---------------------------------------------------------------- data of figures


class Chart(NamedTuple):
    """A figure to draw: a function that draws it, its data and its title."""

    draw: Callable  # takes a matplotlib figure and the data
    data: object
    title: str

    @property
    def digest(self) -> str:
        """Return the sha256 of the data, the title and the drawing code; `write` saves it in the PNG."""
        code = inspect.getsource(inspect.getmodule(self.draw))
        return hashlib.sha256((repr([self.title, self.data]) + code).encode()).hexdigest()

    def is_current(self, path: str | Path) -> bool:
        """Check whether the PNG at `path` is up to date."""
        try:
            with Image.open(path) as image:
                return image.text.get("Rows") == self.digest
        except (OSError, AttributeError):  # no such file, or not a PNG
            return False

    def write(self, path: str | Path) -> None:
        """Draw the figure into a PNG file, which also stores the digest.

        Raises:
            UserError: the file cannot be written.
        """
        with matplotlib.style.context(["default", STYLE]), atomic_path(path) as temporary:
            figure = Figure(figsize=(10, 4.4), layout="constrained")
            self.draw(figure, self.data)
            figure.suptitle(self.title, x=0.01, ha="left", fontsize=11)
            metadata = {"Software": None, "Rows": self.digest}
            figure.savefig(temporary, format="png", dpi=120, metadata=metadata)


class SetScores(NamedTuple):
    """The top-1 of a model by channel set, in percent; the interval is optional."""

    name: str
    top1: dict[str, float]  # channel set -> top-1
    low: dict[str, float] = {}  # channel set -> lower end of the interval
    high: dict[str, float] = {}  # channel set -> upper end of the interval


class Cost(NamedTuple):
    """The top-1 and the cost of a model; a model without a name is drawn as a grey point."""

    name: str | None
    top1: float  # percent
    gflops: float
    latency: float | None = None  # ms for one image
    batch: float | None = None  # ms for 256 images together
    spread: float = 0  # standard deviation of top-1 over seeds, points


class Share(NamedTuple):
    """The accuracy of a model divided by the accuracy of a reference network, in percent, with its 95 % interval."""

    name: str
    share: float
    low: float  # lower end of the interval
    high: float  # upper end of the interval
    of: str = ""  # the reference network, or the preset whose strongest network is the reference
    depth: int = 0  # strict depth of the model
    stride: str = ""  # stride of the model's stem


class Series(NamedTuple):
    """A curve or a series of points."""

    name: str
    x: list
    y: list
    mark: float | None = None  # x position of a vertical line in the style of the curve
    apart: bool = False  # whether the points are drawn without lines between them
    labels: list[str] | None = None  # names of the points
    sizes: list[int] | None = (
        None  # number of seeds of each point; a point with several seeds is drawn larger
    )


def curve(name: str, history: list[dict], key: str) -> Series:
    """Make a curve by epoch of the value `key` in a log; older logs do not have every value."""
    lines = [line for line in history if key in line]
    return Series(name, [line["epoch"] for line in lines], [line[key] for line in lines])


class Panel(NamedTuple):
    """A panel of curves or points."""

    x: str  # label of the x axis
    y: str  # label of the y axis
    series: list[Series]
    title: str = ""
    log: bool = False  # whether the x axis is logarithmic


class Confusion(NamedTuple):
    """A confusion matrix."""

    classes: list[str]
    shares: list[list[float]]  # (K, K): row = true class, column = predicted class, percent of the true class


# ---------------------------------------------------------------- drawing


def channel_bars(figure: Figure, data: list[SetScores]) -> None:
    """Draw top-1 by channel set, with a bar and an interval for each model."""
    axis = figure.subplots()
    subsets = [subset for subset in SUBSETS if any(subset in model.top1 for model in data)]
    width = 0.84 / len(data)
    for rank, model in enumerate(data):
        here = [subset for subset in subsets if subset in model.top1]
        x = np.array([subsets.index(subset) for subset in here]) + (rank - (len(data) - 1) / 2) * width
        top1, low, high = (
            np.array([values[subset] for subset in here]) for values in (model.top1, model.low, model.high)
        )
        axis.bar(
            x,
            top1,
            width,
            yerr=np.maximum([top1 - low, high - top1], 0),
            error_kw={"elinewidth": 0.9, "capsize": min(2.5, 24 * width), "zorder": 3},
            label=model.name,
            color=PALETTE[rank % len(PALETTE)],
            edgecolor="black",
            linewidth=0.6,
            hatch=HATCHES[rank % len(HATCHES)],  # in grey, hatches separate neighbours
            hatchcolor="white",
            zorder=2,
        )
    axis.set_xticks(range(len(subsets)), subsets)
    axis.set(
        xlabel="channels present at test time",
        ylabel="top-1 (%), 95 % interval over images",
        xlim=(-0.5, len(subsets) - 0.5),
    )
    axis.set_ylim(bottom=0)
    axis.grid(axis="y", color="0.85", zorder=0)
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=min(4, len(data)), fontsize=9)


def subset_map(figure: Figure, data: list[SetScores]) -> None:
    """Draw a table of top-1 with coloured cells: a row for each model, a column for each channel set."""
    figure.set_size_inches(10, 1.4 + 0.3 * len(data))
    axis = figure.subplots()
    values = np.array([[model.top1.get(subset, np.nan) for subset in SUBSETS] for model in data])
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
    axis.set_yticks(range(len(data)), [model.name for model in data])
    axis.tick_params(length=0)
    figure.colorbar(image, ax=axis, label="top-1 (%)", pad=0.01)


def top1_against_cost(figure: Figure, data: list[Cost]) -> None:
    """Draw top-1 against operations and, if they were measured, against latencies, with a marker for each model.

    The names are written beside the points. If some models have no name, the names are in a legend.
    """
    labels = {"gflops": "GFLOPs for one image", "latency": "one image (ms)", "batch": "256 images (ms)"}
    panels = {key: label for key, label in labels.items() if getattr(data[0], key) is not None}
    figure.set_size_inches(10, 4.8)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    named = [model for model in data if model.name]
    for axis, (key, label) in zip(axes, panels.items()):
        costs = [getattr(model, key) for model in data]
        for model, cost in zip(data, costs):  # a model without a name is only drawn for comparison
            if model.name:
                style = {"label": model.name, **_marker(named.index(model))}
            else:
                style = {"label": "_", "linestyle": "none", "marker": "o", "markersize": 5, "color": "0.75"}
            bars = {"ecolor": "0.4", "elinewidth": 0.9}
            axis.errorbar(cost, model.top1, yerr=model.spread or None, **bars, **style)
            if len(named) == len(data):
                right = cost < (min(costs) * max(costs)) ** 0.5
                ours = model.name.startswith("ours")  # the other names stand below the bars
                axis.annotate(
                    model.name,
                    (cost, model.top1 if ours else model.top1 - (model.spread or 0)),
                    xytext=(8 if right else -8, 5 if ours else -12),
                    ha="left" if right else "right",
                    textcoords="offset points",
                    fontsize=8,
                )
        axis.set(xlabel=label, xscale="log")
        if max(costs) > 10 * min(costs):  # not enough room for all tick labels
            axis.xaxis.set_minor_locator(matplotlib.ticker.LogLocator(subs=(2, 5)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter("{x:g}")
        axis.tick_params(axis="x", which="both", labelsize=8)
        axis.margins(x=0.12)
        axis.grid()
    axes[0].set_ylabel("top-1 (%)")
    if len(named) < len(data):
        _legend_below(figure, *_plain_legend(axes[0]), columns=5, fontsize=8)


def shares(figure: Figure, data: list[Share]) -> None:
    """Draw accuracy in percent of a reference network's accuracy; models of equal depth are side by side.

    With presets (`of`), each preset has a colour, a stem of stride 1 has hollow markers, and the names are beside the
    points. Without presets, each model has its own marker, and the names are in a legend below.

    Args:
        data: shares, sorted by depth.
    """
    axis = figure.subplots()
    presets, depths = list(dict.fromkeys(model.of for model in data)), [model.depth for model in data]
    by_preset = presets != [""]
    groups: dict[str, list[int]] = {}  # label in the legend -> positions of its models
    for position, model in enumerate(data):
        label = f"{model.of}, stem of stride {model.stride}" if by_preset else model.name
        groups.setdefault(label, []).append(position)
    for rank, (label, positions) in enumerate(groups.items()):
        first = data[positions[0]]
        style = _marker(presets.index(first.of), first.stride == "1") if by_preset else _marker(rank)
        share, low, high = np.array([data[position][1:4] for position in positions]).T
        bars = {"ecolor": "black", "elinewidth": 0.9, "zorder": 3}
        axis.errorbar(positions, share, yerr=[share - low, high - share], label=label, **bars, **style)
    for position, (depth, after) in enumerate(itertools.pairwise(depths)):
        if depth != after:
            axis.axvline(position + 0.5, color="0.8", linewidth=0.8)
    for level, line in ((90, (0, (5, 2))), (100, "solid")):
        axis.axhline(level, color="black", linewidth=0.9, linestyle=line, zorder=2)
    middles = {d: np.mean([position for position, depth in enumerate(depths) if depth == d]) for d in depths}
    axis.set_xticks(list(middles.values()), [str(depth) for depth in middles])
    axis.tick_params(axis="x", length=0)
    axis.set_xlabel("strict depth")
    axis.grid(axis="y")
    if by_preset:
        figure.set_size_inches(10, 5)
        axis.set(ylabel="top-1 in % of the strongest ResNet-34's, 95 % interval", xlim=(-0.6, len(data)))
        for position, model in enumerate(data):
            text, point = f"{model.name}\n{model.share:.1f}", (position, model.share)
            axis.annotate(text, point, xytext=(7, 3), textcoords="offset points", fontsize=8)
        axis.legend(*_plain_legend(axis), fontsize=9)
    else:
        figure.set_size_inches(10, 4.8)
        axis.set(ylabel="top-1 in % of ResNet-34's, 95 % interval", xlim=(-0.6, len(data) - 0.4))
        _legend_below(figure, *_plain_legend(axis), columns=5, fontsize=8)


def _legend_below(figure: Figure, handles: list, labels: list[str], columns: int, fontsize: int) -> None:
    """Draw a legend with at most `columns` columns below the figure.

    It has fewer columns if long labels do not fit a width of 10 inches.
    """
    fitting = 1080 // fontsize // max(map(len, labels))
    figure.legend(
        handles, labels, loc="outside lower center", ncols=max(1, min(columns, fitting)), fontsize=fontsize
    )


def _plain_legend(axis) -> tuple[list, list]:
    """Return the handles and the labels of a legend, in which a point has no error bar."""
    handles, labels = axis.get_legend_handles_labels()
    return [handle[0] for handle in handles], labels


def _marker(rank: int, hollow: bool = False) -> dict:
    """Return the style of the marker for the model number `rank`; in grey, the shape identifies the model."""
    colour = PALETTE[rank % len(PALETTE)]
    face, edge = ("white", colour) if hollow else (colour, "black")
    return {
        "linestyle": "none",
        "marker": MARKERS[rank % len(MARKERS)],
        "markersize": 8,
        "color": colour,
        "markerfacecolor": face,
        "markeredgecolor": edge,
    }


def lines(figure: Figure, data: list[Panel]) -> None:
    """Draw curves in one or more panels, at most three side by side."""
    columns = min(len(data), 3)
    rows = -(-len(data) // columns)
    figure.set_size_inches(10, 4.4 if rows == 1 else 3.4 * rows)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis, panel in zip(axes, data):
        for rank, series in enumerate(panel.series):
            marker = MARKERS[rank % len(MARKERS)] if len(series.x) < 12 else None
            style = {
                "linestyle": "none" if series.apart else LINES[rank % len(LINES)],
                "color": PALETTE[rank % len(PALETTE)],
            }
            axis.plot(series.x, series.y, marker=marker, label=series.name, **style)
            if series.mark is not None:
                axis.axvline(series.mark, linewidth=1, **style)
        axis.set(xlabel=panel.x, ylabel=panel.y, xscale="log" if panel.log else "linear")
        if panel.log:
            ticks = sorted({x for series in panel.series for x in series.x})
            axis.set_xticks(ticks, [f"{x:g}" for x in ticks])
            axis.minorticks_off()
        elif all(isinstance(x, int) for series in panel.series for x in series.x):
            axis.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True, min_n_ticks=1))
        axis.grid()
        if rows > 1:  # rows of panels may have different curves
            axis.legend(fontsize=7)
    if rows == 1:
        _legend_below(figure, *axes[0].get_legend_handles_labels(), columns=4, fontsize=9)


def budgets(figure: Figure, data: list[Panel]) -> None:
    """Draw accuracy against costs, with a panel for each cost. The points have numbers, and a legend explains them.

    A series of a panel is a family of models. Only the second family has filled markers.
    """
    figure.set_size_inches(10, 4.6)
    *axes, key = figure.subplots(1, len(data) + 1, width_ratios=[*[1] * len(data), 0.85])
    for axis, panel in zip(axes, data):
        number = itertools.count(1)
        for rank, series in enumerate(panel.series):
            for x, y, seeds in zip(series.x, series.y, series.sizes):
                style = _marker(rank, hollow=rank != 1) | {"markersize": 5 if seeds == 1 else 8}
                axis.plot(x, y, **style)
                axis.annotate(
                    str(next(number)),
                    (x, y),
                    xytext=((-5, 5), (5, -11), (0, -14))[rank],
                    ha=("right", "left", "center")[rank],
                    textcoords="offset points",
                    fontsize=8,
                    color=style["color"],
                )
        axis.set(xlabel=panel.x, xscale="log")
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
        axis.margins(x=0.2, y=0.08)
        axis.grid()
        axis.sharey(axes[0])
        axis.tick_params(labelleft=axis is axes[0])
    axes[0].set_ylabel(data[0].y)
    key.axis("off")
    number, handles, texts = itertools.count(1), [], []
    for rank, series in enumerate(data[0].series):
        handles.append(Line2D([], [], **_marker(rank, hollow=rank != 1)))
        texts.append("\n".join([series.name, *(f"{next(number):2}  {name}" for name in series.labels)]))
    key.legend(handles, texts, loc="center left", fontsize=8, borderaxespad=0, labelspacing=1.2)


def labelled_points(figure: Figure, data: list[Panel]) -> None:
    """Draw points and write their names beside them; each series has one point."""
    axes = figure.subplots(1, len(data), squeeze=False)[0]
    for axis, panel in zip(axes, data):
        for rank, (name, (x,), (y,), *_) in enumerate(panel.series):
            axis.plot(x, y, **_marker(rank))
            axis.annotate(name, (x, y), xytext=(7, 5), textcoords="offset points", fontsize=9)
        axis.set(xlabel=panel.x, ylabel=panel.y)
        axis.set_title(panel.title, fontsize=10)
        axis.margins(x=0.22, y=0.12)
        axis.grid()


def confusion(figure: Figure, data: Confusion) -> None:
    """Draw a confusion matrix in grey: row = true class, column = predicted class; black means 100 %."""
    figure.set_size_inches(8.6, 7.4)
    axis = figure.subplots()
    image = axis.imshow(np.array(data.shares), vmin=0, vmax=100, cmap="gray_r")
    for ticks in (axis.set_xticks, axis.set_yticks):
        ticks(range(len(data.classes)), data.classes, fontsize=6)
    axis.tick_params(axis="x", rotation=90)
    axis.set(xlabel="predicted class", ylabel="true class")
    figure.colorbar(image, ax=axis, label="images of 100 of the true class")
