"""Draw diagrams of the channel-set stem and of a gated layer. These figures show no data."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

from report.figures import SMALL

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "0.45"
CHANNEL = {"R": "#D55E00", "G": "#009E73", "B": "#0072B2"}


def module(figure: Figure, data) -> None:
    """Draw two ways to compute the same responses: fill and convolve with W, or convolve with the folded W P(S).

    S is the set of present channels, P(S) the fill rule and W the kernel of the stem.
    """
    figure.set_size_inches(10, 4.0)
    axis = _canvas(figure, 10, 4.0)
    axis.text(
        0.1, 3.72, "training: each image of a batch has a set of its own", fontsize=SMALL, weight="bold"
    )
    _planes(axis, 0.15, 2.35, "RB", "x$_S$: R and B")
    _arrow(axis, 1.55, 2.85, 2.25)
    _box(axis, 2.25, 2.45, 1.75, 0.8, "fill rule P(S)\nG from R and B", ORANGE)
    _arrow(axis, 4.0, 2.85, 4.6)
    _planes(axis, 4.6, 2.35, "RGB", "filled image P(S) x$_S$", predicted="G")
    _arrow(axis, 6.2, 2.85, 6.8)
    _box(axis, 6.8, 2.45, 1.35, 0.8, "convolution\nW: 3 channels", BLUE)
    axis.text(
        0.1, 1.72, "inference: the set is known, the kernel is folded once", fontsize=SMALL, weight="bold"
    )
    _planes(axis, 0.15, 0.35, "RB", "x$_S$: R and B")
    _arrow(axis, 1.55, 0.85, 4.45)
    _box(axis, 2.25, 1.12, 1.75, 0.42, "W P(S) = K(S)", ORANGE)
    axis.annotate("", (5.2, 1.27), (4.0, 1.33), arrowprops={"arrowstyle": "->", "color": GREY})
    _box(axis, 4.5, 0.45, 1.6, 0.8, "convolution\nK(S): 2 channels", BLUE)
    _arrow(axis, 6.1, 0.85, 8.35)
    axis.annotate("", (8.75, 2.1), (8.15, 2.8), arrowprops={"arrowstyle": "->", "color": GREY})
    axis.text(6.3, 1.02, "the same responses", fontsize=SMALL, style="italic", color=GREY)
    _box(axis, 8.35, 0.45, 1.5, 1.65, "+ mean of e$_c$\nBatchNorm\nbackbone\nhead", GREEN)
    axis.text(9.1, 0.2, "shared by all sets", fontsize=SMALL, ha="center", color=GREY)


def layer(figure: Figure, data) -> None:
    """Draw a gated layer with pooled gates. All branches read the same input, so the gates do not add to the depth.

    The ReLU commutes with the channel gate, which is positive.
    """
    figure.set_size_inches(10, 3.5)
    axis = _canvas(figure, 10, 3.5)
    _box(axis, 0.1, 1.35, 0.9, 0.7, "input x\ndepth d", GREY)
    for y, text, colour in (
        (2.5, "convolution k x k, BatchNorm, pooling", BLUE),
        (1.35, "pixel gate: convolution 3 x 3\nof stride 2, BatchNorm, sigmoid", ORANGE),
        (0.2, "channel gate: mean, linear layer, sigmoid", ORANGE),
    ):
        axis.plot([1.0, 1.3, 1.3, 1.6], [1.7, 1.7, y + 0.35, y + 0.35], color=GREY, linewidth=1.2)
        _box(axis, 1.6, y, 3.2, 0.7, text, colour)
        axis.text(4.95, y + 0.42, "depth d + 1", fontsize=SMALL, color=GREY)
        axis.plot([4.8, 6.1, 6.1], [y + 0.35, y + 0.35, 1.7], color=GREY, linewidth=1.2)
    _arrow(axis, 6.1, 1.7, 6.5)
    _box(axis, 6.5, 1.35, 1.25, 0.7, "product\nno weight", GREEN)
    _arrow(axis, 7.75, 1.7, 8.2)
    _box(axis, 8.2, 1.35, 1.6, 0.7, "ReLU\ndepth d + 1", GREY)
    axis.text(
        6.4,
        0.62,
        "stem 1 + four layers 4 + linear head 1 = strict depth 6;\n"
        "three weighted operations a layer: 14 in all",
        fontsize=SMALL,
        va="top",
    )


def _canvas(figure: Figure, width: float, height: float) -> Axes:
    axis = figure.subplots()
    axis.set(xlim=(0, width), ylim=(0, height), aspect="equal")
    axis.set_axis_off()
    return axis


def _box(axis: Axes, x: float, y: float, width: float, height: float, text: str, colour: str) -> None:
    axis.add_patch(
        FancyBboxPatch(
            (x, y),
            width,
            height,
            boxstyle="round,pad=0,rounding_size=0.08",
            facecolor="white",
            edgecolor=colour,
            linewidth=1.8,
        )
    )
    axis.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=SMALL, parse_math=True)


def _arrow(axis: Axes, start: float, y: float, end: float) -> None:
    axis.annotate("", (end, y), (start, y), arrowprops={"arrowstyle": "->", "color": GREY, "linewidth": 1.2})


def _planes(axis: Axes, x: float, y: float, channels: str, text: str, predicted: str = "") -> None:
    """Draw channels as cards that overlap; predicted channels are hatched."""
    for position, channel in enumerate(channels):
        is_predicted = channel in predicted
        axis.add_patch(
            Rectangle(
                (x + 0.24 * position, y + 0.12 * position),
                0.75,
                0.75,
                facecolor=CHANNEL[channel],
                edgecolor="white",
                alpha=0.35 if is_predicted else 0.85,
                hatch="///" if is_predicted else None,
            )
        )
        axis.text(
            x + 0.24 * position + 0.06,
            y + 0.12 * position + 0.06,
            channel,
            color="white",
            fontsize=SMALL,
            weight="bold",
        )
    axis.text(x, y - 0.2, text, fontsize=SMALL, color=GREY, parse_math=True)
