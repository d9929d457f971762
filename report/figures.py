"""Figures of both tasks, from plain data; the same data give the same bytes. All are readable in grey."""
from __future__ import annotations

import hashlib
from pathlib import Path

import matplotlib
import matplotlib.style
import numpy as np
from matplotlib.figure import Figure   # without pyplot: no display, no global state
from PIL import Image

from records import SUBSETS
from utils import atomic_path

LINES = ((0, ()), (0, (5, 2)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)), (0, (3, 1, 1, 1, 1, 1)), (0, (8, 2)))
MARKERS = "osD^vPX*<>hp"
HATCHES = ("", "//", "", "\\\\", "..", "xx")


def digest(data) -> str:
    """sha256 of what a figure is drawn from; it is written into the figure."""
    return hashlib.sha256(repr(data).encode()).hexdigest()


def is_current(path: str | Path, data) -> bool:
    """Whether the PNG at `path` was drawn from exactly these data."""
    try:
        with Image.open(path) as image:
            return image.text.get("Rows") == digest(data)
    except (OSError, AttributeError):   # no such file, or no PNG
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
        matplotlib.rcParams.update({"hatch.linewidth": 0.6, "font.size": 10, "axes.spines.top": False,
                                    "axes.spines.right": False})
        title, data = titled
        figure = Figure(figsize=(10, 4.4), layout="constrained")
        draw(figure, data)
        figure.suptitle(title, x=0.01, ha="left", fontsize=11)
        figure.savefig(temporary, format="png", dpi=120, metadata={"Software": None, "Rows": digest(titled)})


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
        top1, low, high = (np.array([model[key][subset] for subset in here])
                           for key in ("top1", "low", "high"))
        axis.bar(x, top1, width, edgecolor="black", linewidth=0.6, zorder=2, label=model["name"],
                 **_bar_style(rank, len(data)))
        axis.errorbar(x, top1, yerr=np.maximum([top1 - low, high - top1], 0), fmt="none", ecolor="black",
                      elinewidth=0.9, capsize=min(2.5, 24 * width), zorder=3)
    axis.set_xticks(range(len(shown)), shown)
    axis.set(xlabel="channels present at test time", ylabel="top-1 (%), 95 % interval over images",
             xlim=(-0.5, len(shown) - 0.5))
    axis.set_ylim(bottom=0)
    axis.grid(axis="y", color="0.85", zorder=0)
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=min(4, len(data)), frameon=False,
                fontsize=9)


def subset_map(figure: Figure, data: list[dict]) -> None:
    """Models x channel sets as a map with numbers. data: name, top1 (subset -> percent), best first."""
    figure.set_size_inches(10, 1.4 + 0.3 * len(data))
    axis = figure.subplots()
    values = np.array([[model["top1"].get(subset, np.nan) for subset in SUBSETS] for model in data])
    image = axis.imshow(values, cmap="cividis", aspect="auto")
    middle = (np.nanmin(values) + np.nanmax(values)) / 2
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            axis.text(column, row, f"{value:.1f}", ha="center", va="center", fontsize=9,
                      color="white" if value < middle else "black")
    axis.set_xticks(range(len(SUBSETS)), SUBSETS)
    axis.set_yticks(range(len(data)), [model["name"] for model in data])
    axis.tick_params(length=0)
    figure.colorbar(image, ax=axis, label="top-1 (%)", pad=0.01)


def accuracy_against_cost(figure: Figure, data: list[dict]) -> None:
    """Mean of the seven sets against parameters and MACs.

    data: name, mean_pct, params, macs (mean over the sets).
    """
    data = [{**model, "params": model["params"] / 1e6, "macs": model["macs"] / 1e6} for model in data]
    _scatter(figure, data, "mean_pct", "top-1, mean of the seven sets (%)",
             {"params": "parameters to keep (millions)", "macs": "MACs, mean over the seven sets (millions)"})


def top1_against_cost(figure: Figure, data: list[dict]) -> None:
    """Top-1 against MACs and, where it was measured, latency.

    data: name (None: a grey point without one), top1 (percent), macs (millions), latency (ms).
    """
    labels = {"macs": "MACs (millions)", "latency": "latency of one image (ms)"}
    _scatter(figure, data, "top1", "top-1 (%)", {key: labels[key] for key in labels if key in data[0]})


def _scatter(figure: Figure, data: list[dict], y: str, y_label: str, panels: dict[str, str]) -> None:
    """A marker a model, one panel for each key of `panels` (key of x -> its label), logarithmic in x."""
    figure.set_size_inches(10, 4.8)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (key, label) in zip(axes, panels.items()):
        named = [model for model in data if model["name"]]
        for model in data:   # one without a name is there for comparison
            style = _marker(named.index(model), len(named)) if model["name"] else \
                {"linestyle": "none", "marker": "o", "markersize": 5, "color": "0.75", "label": "_"}
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
        axis.errorbar(rank, model["share"], yerr=error, ecolor="black", elinewidth=0.9, capsize=3,
                      label=model["name"], zorder=3,
                      **_marker(rank, len(data)))
    depths = [model["depth"] for model in data]
    for rank in range(1, len(data)):
        if depths[rank] != depths[rank - 1]:
            axis.axvline(rank - 0.5, color="0.8", linewidth=0.8)
    bands = {depth: np.mean([rank for rank, other in enumerate(depths) if other == depth])
             for depth in depths}
    axis.set_xticks(list(bands.values()), [str(depth) for depth in bands])
    axis.tick_params(axis="x", length=0)
    for level, style in ((90, (0, (5, 2))), (100, "solid")):
        axis.axhline(level, color="black", linewidth=0.9, linestyle=style, zorder=2)
    axis.set(xlabel="strict depth", ylabel="top-1 in % of ResNet-34's, 95 % interval",
             xlim=(-0.6, len(data) - 0.4))
    axis.grid(axis="y", color="0.88")
    _legend_below(figure, *_plain_legend(axis), columns=5, fontsize=8)


def _legend_below(figure: Figure, handles: list, labels: list[str], columns: int, fontsize: int) -> None:
    """A legend of at most `columns` columns, fewer where long labels would not fit a figure 10 inches
    wide.
    """
    fitting = 1080 // fontsize // max(map(len, labels))
    figure.legend(handles, labels, loc="outside lower center", ncols=max(1, min(columns, fitting)),
                  frameon=False, fontsize=fontsize)


def _plain_legend(axis) -> tuple[list, list]:
    """Handles and labels of error bars, the bars left out."""
    handles, labels = axis.get_legend_handles_labels()
    return [handle[0] for handle in handles], labels


def _marker(rank: int, count: int) -> dict:
    """Style of a model's marker: its shape tells it apart in grey."""
    return {"linestyle": "none", "marker": MARKERS[rank % len(MARKERS)], "markersize": 8,
            "markeredgecolor": "black",
            "color": matplotlib.colormaps["cividis"](rank / max(1, count - 1))}


def lines(figure: Figure, data: dict) -> None:
    """Curves in one or more panels. data: panels: [{x, y (axis labels), log, series: [{name, x, y, mark}]}].

    log: logarithmic in x. mark: x of a vertical line in the curve's style.
    """
    axes = figure.subplots(1, len(data["panels"]), squeeze=False)[0]
    for axis, panel in zip(axes, data["panels"]):
        for rank, series in enumerate(panel["series"]):
            marker = MARKERS[rank % len(MARKERS)] if len(series["x"]) < 12 else None
            style = {"linestyle": LINES[rank % len(LINES)],
                     "color": matplotlib.colormaps["cividis"](0.85 * rank / max(1, len(panel["series"]) - 1))}
            axis.plot(series["x"], series["y"], marker=marker, label=series["name"], **style)
            if "mark" in series:
                axis.axvline(series["mark"], linewidth=1, **style)
        axis.set(xlabel=panel["x"], ylabel=panel["y"], xscale="log" if panel.get("log") else "linear")
        if panel.get("log"):
            ticks = sorted({x for series in panel["series"] for x in series["x"]})
            axis.set_xticks(ticks, [f"{x:g}" for x in ticks])
            axis.minorticks_off()
        elif all(isinstance(x, int) for series in panel["series"] for x in series["x"]):
            axis.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
        axis.grid(color="0.88")
    _legend_below(figure, *axes[0].get_legend_handles_labels(), columns=4, fontsize=9)


def kernels(figure: Figure, data: dict) -> None:
    """Generated kernels: a row a channel set, a column an output filter, its input channels side by side.

    data: subset -> (filters, n, k, k). Every filter has one grey scale over all sets: white positive, black
        negative.
    """
    filters, gap = len(next(iter(data.values()))), 1
    size = len(next(iter(data.values()))[0][0])
    figure.set_size_inches(10, 6.2)
    axes = figure.subplots(len(data), filters)
    scale = [max(np.abs(kernel[f]).max() for kernel in map(np.array, data.values())) for f in range(filters)]
    for row, (subset, kernel) in enumerate(data.items()):
        for column in range(filters):
            canvas = np.full((size, 3 * size + 2 * gap), np.nan)
            for plane, channel in zip(kernel[column], subset):
                start = "RGB".index(channel) * (size + gap)
                canvas[:, start:start + size] = plane
            axis = axes[row, column]
            axis.imshow(canvas, cmap="gray", vmin=-scale[column], vmax=scale[column])
            axis.set_xticks([]), axis.set_yticks([])
            axis.spines[:].set_visible(False)
            if column == 0:
                axis.set_ylabel(subset, rotation=0, ha="right", va="center")
            if row == 0:
                axis.set_title(f"filter {column}", fontsize=9)
    figure.supxlabel("each cell: the filter's slices for R, G, B; empty where the channel is absent",
                     fontsize=9)


def class_bars(figure: Figure, data: dict) -> None:
    """Recall lost by class when one channel is left of three.

    data: classes, series: [{name, drop}], first decides the order.
    """
    _class_bars(figure, data["classes"], [(series["name"], series["drop"]) for series in data["series"]],
                "recall with RGB − mean of R, G, B (points)")


def class_differences(figure: Figure, data: dict) -> None:
    """Difference of two models' recall by class.

    data: classes, name (of the difference), difference (points).
    """
    _class_bars(figure, data["classes"], [(data["name"], data["difference"])],
                "difference of recall (points)")


def _class_bars(figure: Figure, classes: list[str], series: list[tuple], label: str) -> None:
    """Bars for the first of the series (name, values by class), which decides the order, and markers for the
    others.
    """
    figure.set_size_inches(10, 4.6)
    axis = figure.subplots()
    order = np.argsort(series[0][1])[::-1]
    axis.bar(range(len(order)), np.array(series[0][1])[order], color="0.75", edgecolor="black",
             linewidth=0.5, label=series[0][0])
    for rank, (name, values) in enumerate(series[1:]):
        axis.plot(range(len(order)), np.array(values)[order], MARKERS[rank], color="black",
                  markerfacecolor="white", label=name)
    axis.set_xticks(range(len(order)), np.array(classes)[order], rotation=90, fontsize=7)
    axis.set(ylabel=label, xlim=(-0.8, len(order) - 0.2))
    axis.axhline(0, color="black", linewidth=0.8)
    axis.grid(axis="y", color="0.88")
    axis.legend(frameon=False)


def confusion_change(figure: Figure, data: dict) -> None:
    """Change of the confusion matrix, in images of 100 of the true class: white more, black fewer.

    data: classes, change (K, K).
    """
    change = np.array(data["change"])
    limit = np.abs(change).max()
    _class_map(figure, data["classes"], change, "change, images of 100 of the true class", vmin=-limit,
               vmax=limit, cmap="gray")


def confusion(figure: Figure, data: dict) -> None:
    """Confusion matrix. data: classes, shares (K, K): percent of the true class; black: all of it."""
    _class_map(figure, data["classes"], np.array(data["shares"]), "images of 100 of the true class", vmin=0,
               vmax=100, cmap="gray_r")


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


def _bar_style(rank: int, count: int) -> dict:
    """Lightness rises from the first to the last model; hatches keep neighbours apart in grey."""
    colour = matplotlib.colormaps["cividis"](0.15 + 0.8 * rank / max(1, count - 1))
    return {"color": colour, "hatch": HATCHES[rank % len(HATCHES)],
            "hatchcolor": "white" if np.mean(colour[:3]) < 0.45 else "black"}
