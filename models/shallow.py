"""Shallow networks: a stem, two to four hidden layers in parallel streams, a linear layer. Strict depth: see depth.py.

    y = relu(pool(conv(x) * sigmoid(conv3x3(x)))) * sigmoid(W mean(x))

Both gates read the layer's own input beside its convolution, so once `models.branched.fuse` has made one convolution of each
sum of branches, a layer is one weighted operation deep. The head's covariances have no weights (bilinear CNN, 1504.07889).
"""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.branched import BranchedConv2d, NormLinear


class ShallowLayer(nn.Module):
    """One hidden layer: convolution, gates, 2 x 2 max-pooling, ReLU.

    Pooling comes before the ReLU and the channel gate: it exchanges with both, and they then have a quarter of the pixels.

    Args:
        in_channels, out_channels, size, stride, branches: of the convolution.
        gates: multiply by a gate for each pixel and channel and by one for each channel, both read from the input.
        pool: halve the sides, rounding up.
        coarse_gates: where the layer pools, one gate for each pooled cell instead of each pixel: a quarter of the gates.
    """

    def __init__(self, in_channels: int, out_channels: int, size: int, stride: int = 1, branches: bool = True,
                 gates: bool = False, pool: bool = False, coarse_gates: bool = False):
        super().__init__()
        self.pool, self.coarse_gates = pool, pool and coarse_gates
        gate_stride = 2 * stride if self.coarse_gates else stride
        self.conv = BranchedConv2d(in_channels, out_channels, size, stride, branches)
        self.pixel_gate = BranchedConv2d(in_channels, out_channels, 3, gate_stride, branches=False) if gates else None
        self.channel_gate = nn.Linear(in_channels, out_channels) if gates else None

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) -> (B, O, H', W')."""
        y = self.conv(x)
        if self.coarse_gates:
            y = F.max_pool2d(y, 2, ceil_mode=True)
        if self.pixel_gate is not None:
            y = y * self.pixel_gate(x).sigmoid()
        if self.pool and not self.coarse_gates:
            y = F.max_pool2d(y, 2, ceil_mode=True)
        y = F.relu(y)
        return y if self.channel_gate is None else y * self.channel_gate(x.mean((2, 3))).sigmoid()[:, :, None, None]


def pooled(x: Tensor, second_order: int) -> Tensor:
    """Means of all channels, and signed square roots of the covariances of the first d = `second_order` of them.

    x (B, C, H, W) -> (B, C + d (d + 1) / 2), float32.
    """
    with torch.autocast(x.device.type, enabled=False):   # a covariance of bfloat16 products has few digits left
        x = x.flatten(2).float()                                                                 # (B, C, H W)
        mean = x.mean(2)
        second_order = min(second_order, x.shape[1])
        if not second_order:
            return mean
        centred = x[:, :second_order] - mean[:, :second_order, None]
        rows, columns = torch.triu_indices(second_order, second_order, device=x.device)
        covariance = (centred @ centred.mT / x.shape[2])[:, rows, columns]                       # (B, d (d + 1) / 2)
        # smooth at 0, where the square root's slope is infinite
        return torch.cat([mean, covariance * (covariance.abs() + 1e-4).rsqrt()], 1)


class ShallowNet(nn.Module):
    """Stem, parallel streams of hidden layers, pooling, linear layer: strict depth len(widths) + 2.

    Args:
        num_classes: size of the output layer.
        in_channels: of the images.
        width: multiplier of the numbers of channels.
        small_stem: 3x3 stride-1 first convolution (for images under about 64 px), else 7x7/2.
        widths: channels of the hidden layers.
        kernels: side of the hidden convolutions, odd, one stream for each; the streams meet in the head alone.
        stem_pool: pool after the stem too, for nets with few layers.
        branches, gates, coarse_gates: as in `ShallowLayer`; the stem has no gates.
        second_order: channels of each stream whose covariances the head sees, whatever the width; of a narrower
            layer, all; 0: means alone.
        pools: hidden layers that halve the sides of their maps, the first ones (default: all but the last).
        levels: the head sees the pooled output of every hidden layer, not of the last alone.
        dropout: share of the head's features that is dropped while training.

    Raises:
        ValueError: a value out of range or an even kernel.
    """

    def __init__(self, num_classes: int, in_channels: int = 3, width: float = 1.0, small_stem: bool = False,
                 widths: tuple[int, ...] = (128, 256, 512, 512), kernels: tuple[int, ...] = (5,), stem_pool: bool = False,
                 branches: bool = True, gates: bool = False, second_order: int = 0, pools: int | None = None,
                 levels: bool = False, coarse_gates: bool = False, dropout: float = 0.0):
        super().__init__()
        if not width > 0 or min(num_classes, in_channels, *widths) < 1 or second_order < 0 or not kernels \
                or not 0 <= dropout < 1:
            raise ValueError("num_classes, in_channels and widths must be at least 1, width above 0, second_order at least 0, "
                             "dropout at least 0 and below 1, and there must be a kernel")
        pools = len(widths) - 1 if pools is None else pools
        def scaled(channels):
            return max(1, round(channels * width))
        channels = [scaled(64), *map(scaled, widths)]
        self.second_order, self.levels = second_order, levels
        kernel, stride = (3, 1) if small_stem else (7, 2)
        self.stem = ShallowLayer(in_channels, channels[0], kernel, stride, branches, pool=stem_pool)
        self.streams = nn.ModuleList(nn.Sequential(*(
            ShallowLayer(before, after, size, 1, branches, gates, number < pools, coarse_gates)
            for number, (before, after) in enumerate(zip(channels, channels[1:])))) for size in kernels)
        orders = [min(second_order, count) for count in channels]   # of a level: its channels with covariances
        features = [count + d * (d + 1) // 2 for count, d in zip(channels, orders)]
        self.head = NormLinear(len(kernels) * (sum(features[1:]) if levels else features[-1]), num_classes,
                               dropout)

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        """x (B, C, H, W) -> the maps that the head pools, (B, O, H', W') each: the last of each stream, or with levels all."""
        x, seen = self.stem(x), []
        for stream in self.streams:
            maps = [x]
            for layer in stream:
                maps.append(layer(maps[-1]))
            seen += maps[1:] if self.levels else maps[-1:]
        return seen

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) -> logits (B, num_classes)."""
        return self.head(torch.cat([pooled(y, self.second_order) for y in self.feature_maps(x)], 1))


# ---------------------------------------------------------------- by name: each is one idea, options combine them

def plain(num_classes: int, **options) -> ShallowNet:
    """Four dense 5x5 convolutions and nothing else: what the other members are measured against."""
    return ShallowNet(num_classes, **{"branches": False, **options})


def merged(num_classes: int, **options) -> ShallowNet:
    """The same function as `plain`, trained as a sum of branches."""
    return ShallowNet(num_classes, **options)


def covariance(num_classes: int, **options) -> ShallowNet:
    """`plain` with covariances of the last map, which has more positions for them."""
    return plain(num_classes, **{"second_order": 64, "pools": 2, **options})


def streams(num_classes: int, **options) -> ShallowNet:
    """`plain` as three narrower streams of 3x3, 5x5 and 7x7 convolutions."""
    return plain(num_classes, **{"kernels": (3, 5, 7), "widths": (64, 128, 256, 256), **options})


def gated(num_classes: int, **options) -> ShallowNet:
    """`plain` with gates."""
    return plain(num_classes, **{"gates": True, **options})


def gated_3x3(num_classes: int, **options) -> ShallowNet:
    """`gated` with smaller convolutions and gates of pooled cells: as accurate at less than half the MACs."""
    return gated(num_classes, **{"kernels": (3,), "coarse_gates": True, **options})


def merged_gated(num_classes: int, **options) -> ShallowNet:
    """`merged` with gates of pooled cells."""
    return merged(num_classes, **{"gates": True, "coarse_gates": True, **options})


def gated_streams(num_classes: int, **options) -> ShallowNet:
    """`streams` with gates."""
    return streams(num_classes, **{"gates": True, **options})


def gated5(num_classes: int, **options) -> ShallowNet:
    """`gated` with three hidden layers: strict depth 5."""
    return gated(num_classes, **{"widths": (128, 256, 512), **options})


def gated4(num_classes: int, **options) -> ShallowNet:
    """`gated` with two hidden layers of 7x7 convolutions: strict depth 4."""
    return gated(num_classes, **{"widths": (256, 512), "kernels": (7,), "stem_pool": True, **options})


SHALLOW = {builder.__name__.replace("_", "-"): builder for builder in (
    plain, merged, covariance, streams, gated, gated_3x3, merged_gated, gated_streams, gated5, gated4)}
