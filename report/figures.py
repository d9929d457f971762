"""Draw figures, and define the types of their data.

Equal data give equal files. All figures are readable when they are printed in grey.
"""

from __future__ import annotations

import hashlib
import inspect
import itertools
import math
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

# Colour-blind readers can distinguish these colours (Okabe and Ito 2008; wine and grey replace yellow, which is too
# bright for lines). In grey, markers and line styles differ
PALETTE = ["#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#882255", "#000000", "#888888"]
SMALL = 9.6  # smallest font in points: figures are 10 inches wide and printed at 17 cm, so it has 6.5 points on paper
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
    "legend.fontsize": SMALL,
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
    """The top-1 of a model by channel set, in percent, with its 95 % intervals."""

    name: str
    top1: dict[str, tuple[float, float, float]]  # channel set -> (top-1, lower end, upper end)


class Cost(NamedTuple):
    """The top-1 and the cost of a model."""

    name: str
    top1: float  # percent
    low: float  # lower end of the 95 % interval
    high: float  # upper end of the 95 % interval
    gflops: float
    latency: float | None  # ms for one image, or None if it was not measured
    batch: float | None  # ms for 256 images together


class Share(NamedTuple):
    """The accuracy of a model divided by the accuracy of a reference network, in percent, with its 95 % interval."""

    name: str
    share: float
    low: float  # lower end of the interval
    high: float  # upper end of the interval
    depth: int  # strict depth of the model
    of: str  # the preset whose strongest network is the reference
    stride: str  # stride of the model's stem
    plain: bool  # whether the model has no gates


class Series(NamedTuple):
    """A curve or a series of points."""

    name: str
    x: list
    y: list
    low: list | None = None  # lower ends of the intervals of `y`
    high: list | None = None  # upper ends of the intervals of `y`
    mark: float | None = None  # x position of a vertical line in the style of the curve
    labels: list[str] | None = None  # names of the points
    sizes: list[int] | None = None  # number of seeds of each point; a point with one seed is small


def curve(name: str, history: list[dict], key: str) -> Series:
    """Make a curve by epoch of the value `key` in a log; older logs do not have every value."""
    lines = [line for line in history if key in line]
    return Series(name, [line["epoch"] for line in lines], [line[key] for line in lines])


def estimates(name: str, x: list, intervals: list[tuple], **more) -> Series:
    """Make a series of tuples (y, lower end, upper end), as `Setting.interval` returns them."""
    y, low, high = map(list, zip(*intervals))
    return Series(name, x, y, low, high, **more)


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
        bars(
            axis,
            [subsets.index(subset) + (rank - (len(data) - 1) / 2) * width for subset in here],
            [model.top1[subset] for subset in here],
            width,
            {"elinewidth": 0.9, "capsize": min(2.5, 24 * width)},
            label=model.name,
            color=PALETTE[rank % len(PALETTE)],
            hatch=HATCHES[rank % len(HATCHES)],  # in grey, hatches separate neighbours
            hatchcolor="white",
        )
    axis.set_xticks(range(len(subsets)), subsets)
    axis.set(
        xlabel="channels present at test time",
        ylabel="top-1 (%), 95 % interval",
        xlim=(-0.5, len(subsets) - 0.5),
    )
    axis.set_ylim(bottom=0)
    axis.grid(axis="y", color="0.85", zorder=0)
    _legend_below(figure, [axis])


def bars(axis, x, intervals: list[tuple[float, float, float]], width: float, error: dict, **style):
    """Draw bars with their intervals; return them as matplotlib's `bar` does.

    Args:
        x: positions of the bars.
        intervals: tuples (value, lower end, upper end).
        width: width of a bar.
        error, style: options of matplotlib for the intervals and for the bars.
    """
    values, low, high = np.transpose(intervals)
    return axis.bar(
        x,
        values,
        width,
        yerr=np.maximum([values - low, high - values], 0),
        error_kw={"zorder": 3, **error},
        edgecolor="black",
        linewidth=0.6,
        zorder=2,
        **style,
    )


def subset_map(figure: Figure, data: list[SetScores]) -> None:
    """Draw a table of top-1 with coloured cells: a row for each model, a column for each channel set."""
    figure.set_size_inches(10, 1.4 + 0.3 * len(data))
    axis = figure.subplots()
    values = np.array([[model.top1[subset][0] for subset in SUBSETS] for model in data])
    image = axis.imshow(values, cmap="cividis", aspect="auto")
    middle = (values.min() + values.max()) / 2
    for (row, column), value in np.ndenumerate(values):
        colour = "white" if value < middle else "black"
        axis.text(column, row, f"{value:.1f}", ha="center", va="center", fontsize=SMALL, color=colour)
    axis.set_xticks(range(len(SUBSETS)), SUBSETS)
    axis.set_yticks(range(len(data)), [model.name for model in data])
    axis.tick_params(length=0)
    figure.colorbar(image, ax=axis, label="top-1 (%)", pad=0.01)


def top1_against_cost(figure: Figure, data: list[Cost]) -> None:
    """Draw top-1 against operations and, if they were measured, against latencies, with a marker for each model."""
    labels = {"gflops": "GFLOPs for one image", "latency": "one image (ms)", "batch": "256 images (ms)"}
    panels = {
        key: label for key, label in labels.items() if all(getattr(model, key) is not None for model in data)
    }
    figure.set_size_inches(10, 4.2)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (key, label) in zip(axes, panels.items()):
        for rank, model in enumerate(data):
            style = _marker(rank) | {"label": model.name}
            _point(axis, getattr(model, key), model.top1, model.low, model.high, **style)
        axis.set(xlabel=label)
        _log_axis(axis, [getattr(model, key) for model in data])
        axis.margins(x=0.12)
        axis.grid()
    axes[0].set_ylabel("top-1 (%), 95 % interval")
    _legend_below(figure, axes[:1], columns=5)


def shares(figure: Figure, data: list[Share]) -> None:
    """Draw accuracy in percent of a reference network's accuracy; models of equal depth are side by side.

    Each preset (`of`) has a colour. Models without gates have other markers, and a stem of stride 1 has hollow markers.
    Names and values are beside the points.

    Args:
        data: shares, sorted by depth.
    """
    figure.set_size_inches(10, 4.4)
    axis = figure.subplots()
    presets, depths = list(dict.fromkeys(model.of for model in data)), [model.depth for model in data]
    for position, model in enumerate(data):
        rank, kind = presets.index(model.of), "plain" if model.plain else "gated"
        shape = rank + len(presets) if model.plain else rank
        style = _marker(shape, model.stride == "1", colour=rank)
        label = f"{model.of}, {kind}, stem of stride {model.stride}"
        _point(axis, position, model.share, model.low, model.high, label=label, **style)
        text = "\n".join(filter(None, [model.name, f"{model.share:.1f}"]))
        behind = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}  # no line crosses a text
        axis.annotate(
            text,
            (position, model.share),
            (7, 0),
            va="center",
            textcoords="offset points",
            fontsize=SMALL,
            bbox=behind,
            zorder=1.6,  # above the grid, below the points and their intervals
        )
    for position, (depth, after) in enumerate(itertools.pairwise(depths)):
        if depth != after:
            axis.axvline(position + 0.5, color="0.8", linewidth=0.8, zorder=1)
    for level, line in ((90, (0, (5, 2))), (100, "solid")):
        axis.axhline(level, color="black", linewidth=0.9, linestyle=line, zorder=1)
    middles = {d: np.mean([position for position, depth in enumerate(depths) if depth == d]) for d in depths}
    axis.set_xticks(list(middles.values()), [str(depth) for depth in middles])
    axis.tick_params(axis="x", length=0)
    axis.set_xlabel("strict depth")
    axis.grid(axis="y")
    axis.set(ylabel="top-1 in % of ResNet-34's, 95 % interval", xlim=(-0.6, len(data)))
    _legend_below(figure, [axis])


def _legend_below(figure, axes, columns: int = 4) -> None:
    """Draw a legend of all axes below the figure. A label stands there once, and a point has no error bar.

    The legend has at most `columns` columns, or fewer if long labels do not fit.
    """
    drawn = [pair for axis in axes for pair in zip(*axis.get_legend_handles_labels())]
    handles = {label: handle[0] for handle, label in drawn}
    fitting = int(1080 / SMALL / max(map(len, handles)))
    ncols = max(1, min(columns, fitting))
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=ncols)


def _marker(rank: int, hollow: bool = False, colour: int | None = None) -> dict:
    """Return the style of the marker for the model number `rank`; in grey, the shape identifies the model.

    `colour` is the number of the colour; None: `rank`.
    """
    colour = PALETTE[(rank if colour is None else colour) % len(PALETTE)]
    face, edge = ("white", colour) if hollow else (colour, "black")
    return {
        "linestyle": "none",
        "marker": MARKERS[rank % len(MARKERS)],
        "markersize": 8,
        "color": colour,
        "markerfacecolor": face,
        "markeredgecolor": edge,
    }


def _point(axis, x, y, low, high, **style) -> None:
    """Draw points, or a curve, with the intervals from `low` to `high`; without intervals, `low` is None."""
    bars = None if low is None else np.abs(np.reshape([np.subtract(y, low), np.subtract(high, y)], (2, -1)))
    axis.errorbar(x, y, yerr=bars, **{"ecolor": "0.35", "elinewidth": 0.9, "capsize": 2.5, **style})


def _log_axis(axis, x: list[float]) -> None:
    """Make the x axis logarithmic, with round ticks that have room for their labels."""
    span = max(x) / min(x)
    steps = (1,) if span > 50 else (1, 2, 5) if span > 5 else (1, 1.5, 2, 3, 4, 5, 7)
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=steps))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())


def lines(figure: Figure, data: list[Panel]) -> None:
    """Draw curves or points, with at most three panels in a row.

    A row has one legend below it. A name has the same colour, line and marker in all panels of the row.
    """
    rows = [data[first : first + 3] for first in range(0, len(data), 3)]
    figure.set_size_inches(10, 4.4 if len(rows) == 1 else 3.1 * len(rows))
    for part, panels in zip(figure.subfigures(len(rows), 1, squeeze=False).flat, rows):
        names = list(dict.fromkeys(line.name for panel in panels for line in panel.series))
        axes = part.subplots(1, len(panels), squeeze=False)[0]
        for axis, panel in zip(axes, panels):
            _curves(axis, panel, names)
        _legend_below(part, axes)


def _curves(axis, panel: Panel, names: list[str]) -> None:
    """Draw the curves of a panel; the position of a curve's name in `names` decides its style."""
    for series in panel.series:
        rank = names.index(series.name)
        style = {
            "linestyle": LINES[rank % len(LINES)],
            "color": PALETTE[rank % len(PALETTE)],
            "marker": MARKERS[rank % len(MARKERS)],
            "markersize": 5,
            "markevery": math.ceil(len(series.x) / 15),  # at most 15 markers
            "ecolor": PALETTE[rank % len(PALETTE)],
            "label": series.name,
        }
        _point(axis, series.x, series.y, series.low, series.high, **style)
        if series.mark is not None:
            axis.axvline(series.mark, linewidth=1, linestyle=style["linestyle"], color=style["color"])
    axis.set(xlabel=panel.x, ylabel=panel.y)
    axis.set_title(panel.title, fontsize=SMALL)
    if panel.log:
        _log_axis(axis, [x for series in panel.series for x in series.x])
    elif all(isinstance(x, int) for series in panel.series for x in series.x):
        axis.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True, min_n_ticks=1))
    axis.grid()


def budgets(figure: Figure, data: list[Panel]) -> None:
    """Draw accuracy against costs, with a panel for each cost. The points have numbers, and a legend explains them.

    A series of a panel is a family of models. Only the second family has filled markers. Points of equal cost whose
    intervals overlap are drawn side by side.
    """
    figure.set_size_inches(10, 4.4)
    *axes, key = figure.subplots(1, len(data) + 1, width_ratios=[*[1] * len(data), 0.95])
    for axis, panel in zip(axes, data):
        points = [
            (rank, *point)
            for rank, series in enumerate(panel.series)
            for point in zip(series.x, series.y, series.low, series.high, series.sizes)
        ]
        costs = [x for _, x, *_ in points]
        for number, (point, (x, end)) in enumerate(zip(points, _places(points)), start=1):
            rank, _, y, low, high, seeds = point
            style = _marker(rank, hollow=rank != 1) | {"markersize": 5 if seeds == 1 else 8}
            _point(axis, x, y, low, high, **style | {"ecolor": style["color"]})
            text = {"ha": "center", "va": "center", "fontsize": SMALL, "color": style["color"]}
            axis.text(x, end, str(number), **text)
        axis.set(xlabel=panel.x)
        _log_axis(axis, costs)
        axis.margins(x=0.14, y=0.08)
        axis.grid()
        axis.sharey(axes[0])
        axis.tick_params(labelleft=axis is axes[0])
    axes[0].set_ylabel(data[0].y)
    key.axis("off")
    number, handles, texts = itertools.count(1), [], []
    for rank, series in enumerate(data[0].series):
        handles.append(Line2D([], [], **_marker(rank, hollow=rank != 1)))
        texts.append("\n".join([series.name, *(f"{next(number):2}  {name}" for name in series.labels)]))
    key.legend(handles, texts, loc="center left", borderaxespad=0, labelspacing=1.2)


def _places(points: list[tuple]) -> list[tuple[float, float]]:
    """Return for each point where it is drawn on the x axis, and the height of its number.

    Points of equal cost whose intervals overlap are moved apart by half of a marker. A number stands at that end of the
    interval where it covers fewer intervals and numbers.

    Args:
        points: tuples (family, cost, y, lower end, upper end, number of seeds).
    """
    _, costs, _, lows, highs, _ = zip(*points)
    step = 0.035 * max(np.log(max(costs) / min(costs)), 0.1)  # about half of a marker
    height = 0.05 * (max(highs) - min(lows))  # of a number
    steps, ends = [], []
    for _, cost, y, low, high, _ in points:
        same = [
            other
            for _, x, other, bottom, top, _ in points
            if abs(np.log(x / cost)) < 0.05 and bottom < high and low < top
        ]
        steps.append(np.log(cost) / step + sorted(same).index(y) - (len(same) - 1) / 2)
    for here, low, high in zip(steps, lows, highs):

        def covers(end: float, here=here) -> int:
            bars = [
                x != here and abs(x - here) < 2 and bottom - height < end < top + height
                for x, bottom, top in zip(steps, lows, highs)
            ]
            return sum(bars) + sum(abs(x - here) < 3.5 and abs(y - end) < height for x, y in zip(steps, ends))

        ends.append(min(high + 0.55 * height, low - 0.55 * height, key=covers))
    return [(float(np.exp(x * step)), y) for x, y in zip(steps, ends)]


def confusion(figure: Figure, data: Confusion) -> None:
    """Draw a confusion matrix in grey: row = true class, column = predicted class; black means 100 %."""
    figure.set_size_inches(10, 9.4)
    axis = figure.subplots()
    image = axis.imshow(np.array(data.shares), vmin=0, vmax=100, cmap="gray_r")
    for ticks in (axis.set_xticks, axis.set_yticks):
        ticks(range(len(data.classes)), data.classes, fontsize=SMALL)
    axis.tick_params(axis="x", rotation=90)
    axis.set(xlabel="predicted class", ylabel="true class")
    figure.colorbar(image, ax=axis, label="images of the true class (%)")
