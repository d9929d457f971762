"""Measure which pixels affect the centre unit of a network's last feature map, and how much each pixel counts.

    theoretical   side of the square of pixels that can change the unit for some weights
    effective     how the unit's squared gradient is spread over the image (Luo et al., arXiv 1701.04128)

The network must have a method `feature_maps(x)` that its forward method uses. For images x (B, C, H, W), the method
returns a list of the maps (B, O, H', W') that the head pools. The list has a map for each parallel stream.

Global average pooling (a mean over H and W, or adaptive average pooling to 1 x 1) is treated as a constant. So channel
gates that read this mean are ignored. Otherwise, a single gate would make every receptive field the whole image. Other
operations that join all positions, such as self-attention, are not ignored.
"""

from __future__ import annotations

import copy
from bisect import bisect_left
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from utils import generator

# px; if a unit depends on almost all pixels of an image of this length, its field counts as the whole image
LONGEST = 4096


def receptive_field(model: Any, input_px: int, images: int = 16, seed: int = 0, channels: int = 3) -> dict:
    """Measure the receptive field of the centre unit of each last feature map; return a dict.

    The last feature maps are the maps that `feature_maps` returns.

    Args:
        model: a network with a method `feature_maps`, on any device. It is not changed: copies in eval mode are
            measured. Kernels, strides and paddings must be the same along both axes.
        input_px: side of the images for the profile; `size_px` does not depend on `input_px`.
        images: number of images of normal noise; the squared gradients are averaged over these images.
        seed: seed of the images and of the random upstream gradients of the unit's channels.
        channels: number of channels of the images.

    Returns:
        size_px: theoretical side, the largest over all maps; None: the unit sees the whole image, however large the
            image is.
        input_px: the argument `input_px`.
        profile: a list. Value r is the share of the squared gradients of all maps that lies within r px of the unit's
            centre along both axes. These pixels form a square of side 2 r + 1, or 2 r + 2 if the centre lies between
            pixels. The last value is 1.

    Raises:
        ValueError: no gradient reaches the image.
    """
    model = copy.deepcopy(model).eval().requires_grad_(False)
    exact = copy.deepcopy(model).cpu().double()
    random = generator(seed, "receptive field")
    x = torch.randn(images, channels, input_px, input_px, generator=random)
    x = x.to(next(model.parameters(), x)).requires_grad_()  # (N, C, s, s)
    with _ConstantMeans():
        maps = model.feature_maps(x)
    sizes: list[int | None] = []
    rings, powers = [], []
    for number, y in enumerate(maps):
        row = y.shape[2] // 2
        middle = input_px * (row + 0.5) / y.shape[2] - 0.5
        size, centre = theoretical(exact, number, row, input_px, channels) or (None, middle)
        upstream = torch.randn(images, y.shape[1], generator=random).to(y)
        (gradient,) = torch.autograd.grad(y[:, :, row, row], x, upstream, retain_graph=True)
        distance = (torch.arange(input_px) - centre).abs()
        rings.append((torch.maximum(distance, distance[:, None]) - 0.5).ceil().long().flatten())
        powers.append(gradient.double().square().sum((0, 1)).cpu().flatten())
        sizes.append(size)
    shares = torch.bincount(torch.cat(rings), torch.cat(powers)).cumsum(0)
    if not shares[-1] > 0:
        raise ValueError("no gradient of the centre unit reaches the image")
    return {
        "size_px": None if None in sizes else max(filter(None, sizes)),
        "input_px": input_px,
        "profile": (shares / shares[-1]).tolist(),
    }


def theoretical(model: Any, number: int, row: int, input_px: int, channels: int) -> tuple[int, float] | None:
    """Return the size of a receptive field in px, and the position of its centre in px from the top; or None.

    None means that the field is the whole image. The size is the same for all units of a map. The centre is given for
    the unit in `row`.

    NaN passes every convolution, pooling, activation and sum, even a weight of zero. So rows of NaN show exactly which
    rows of the image affect a unit. A narrow strip of an image is enough, and cheap even for a field of a thousand
    pixels. The strip is made longer until its outer eighths do not affect the unit in its middle.

    Args:
        model: a network in eval mode, in float64 and on the CPU. (Convolutions in float32 may be computed in tiles,
            which spread a NaN.)
        number: index of the map.
        row: row of the unit in the map of an image with side `input_px`.
        channels: number of channels of the image.
    """
    length = max(64, 2 * input_px)
    sees = partial(_sees, model, number, channels, _narrowest(model, length, input_px, channels))
    while sees(length, None, slice(length // 8)) or sees(length, None, slice(length - length // 8, None)):
        length *= 2
        if length > LONGEST:
            return None
    above = bisect_left(range(length), True, key=lambda count: sees(length, None, slice(count + 1)))
    below, below_row = (
        bisect_left(
            range(length), True, key=lambda count: sees(length, unit, slice(length - 1 - count, None))
        )
        for unit in (None, row)
    )
    size = length - above - below
    return size, length - 1 - below_row - (size - 1) / 2


@torch.no_grad()
def _narrowest(model: Any, length: int, input_px: int, channels: int) -> int:
    """Return the smallest power of two that the model accepts as a width in px, but at most `input_px`."""
    width = 1
    while width < input_px:
        try:
            model.feature_maps(torch.zeros(1, channels, length, width, dtype=torch.float64))
            break
        except RuntimeError:  # a kernel or a pooling window is wider than the strip
            width = min(2 * width, input_px)
    return width


@torch.no_grad()
def _sees(
    model: Any, number: int, channels: int, width: int, length: int, unit: int | None, rows: slice
) -> bool:
    """Check whether NaN in the rows `rows` of a strip reaches the row `unit` of a map (None: the middle row)."""
    strip = torch.zeros(1, channels, length, width, dtype=torch.float64)
    strip[:, :, rows] = torch.nan
    with _ConstantMeans():
        y = model.feature_maps(strip)[number]
    return bool(y[:, :, y.shape[2] // 2 if unit is None else unit].isnan().any())


class _ConstantMeans(TorchFunctionMode):
    """Stop gradients and NaN at global average pooling, as a torch mode."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        return result.detach().nan_to_num() if _pools_globally(func, *args, **(kwargs or {})) else result


def _pools_globally(func, *args, dim=None, output_size=None, **_) -> bool:
    if func in (torch.mean, Tensor.mean):
        dim = args[1] if len(args) > 1 else dim
        return isinstance(dim, (tuple, list)) and args[0].ndim == 4 and {axis % 4 for axis in dim} >= {2, 3}
    if func is F.adaptive_avg_pool2d:
        size = args[1] if len(args) > 1 else output_size
        return size in (1, (1, 1), [1, 1])
    return False
