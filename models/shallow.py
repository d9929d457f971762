"""Build shallow networks: a stem, parallel streams of two to four hidden layers, and a linear layer.

A hidden layer with gates computes

    y = relu(pool(conv(x) * sigmoid(conv3x3(x)))) * sigmoid(W mean(x))

The two sigmoids are gates. Both gates read the input of the layer, in parallel to its convolution. With pooled gates,
the pooling comes first: pool(conv(x)) is multiplied by a gate that has stride 2.
`models.branched.fuse` replaces each sum of branches by one convolution. So a fused layer is one weighted operation
deep. The last layer can also read covariances of the channels, which have no weights (bilinear CNN, arXiv 1504.07889).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.branched import BranchedConv2d, NormLinear
from models.resnet import STEMS
from utils import option

GATE_KINDS = ("both", "pixel", "channel")


@dataclass
class ShallowOptions:
    """The options of a `ShallowNet` as a user types them.

    None means the value that belongs to the name of the network. If the name sets no value, the usual value is used.
    """

    stem_pool: bool | None = option(
        None,
        "max-pooling after the first convolution (default: by --arch; ResNets pool, but not with --stem 3x3s1)",
        usual=False,
    )
    widths: str | None = option(
        None,
        "channels of the hidden layers at width 1, such as 128,256,512 (default: by --arch)",
        usual=(128, 256, 512, 512),
    )
    kernels: str | None = option(
        None,
        "side of the hidden convolutions, odd, such as 5; several sides, such as 3,5,7, make parallel streams, one "
        "for each side, which meet in the last layer (default: by --arch)",
        usual=(5,),
    )
    reparam: bool | None = option(
        None, "train each convolution as a sum of branches (default: by --arch)", usual=False
    )
    gates: bool | None = option(
        None, "gates in the hidden layers; the stem has none (default: by --arch)", usual=False
    )
    gate_kind: str | None = option(
        None,
        "pixel: a gate for each pixel and channel; channel: a gate for each channel; or both kinds",
        choices=GATE_KINDS,
        usual="both",
    )
    pooled_gates: bool | None = option(
        None,
        "compute a gate for each pooled cell, not for each pixel before the pooling (default: by --arch)",
        usual=False,
    )
    covariance_channels: int | None = option(
        None,
        "number of channels of each stream whose covariances the last layer reads; --width does not scale this "
        "number; 0: the last layer reads only means (default: by --arch)",
        least=0,
        most=10**4,
        usual=0,
    )
    num_pools: int | None = option(
        None,
        "number of hidden layers, from the first, that halve the sides of their maps (default: all but the last)",
        least=0,
        most=16,
    )
    multi_level_head: bool | None = option(
        None, "the last layer reads the pooled output of every hidden layer (default: by --arch)", usual=False
    )
    dropout: float | None = option(
        None,
        "share of the last layer's inputs that training drops, at most 0.999 (default: 0)",
        least=0,
        most=0.999,
        usual=0.0,
    )


# the usual value of each option
SHALLOW_OPTIONS: dict[str, Any] = {field.name: field.metadata["usual"] for field in fields(ShallowOptions)}


class ShallowLayer(nn.Module):
    """A hidden layer that applies a convolution, gates, 2 x 2 max-pooling and a ReLU.

    The pooling could also follow the ReLU and the channel gate, with the same result. It comes first, so that they
    process only a quarter of the pixels.

    Args:
        in_channels, out_channels, size, stride, reparam: as in `BranchedConv2d`.
        gates: whether the output is multiplied by two gates, which read the input. The pixel gate has a value for each
            pixel and channel. The channel gate has a value for each channel.
        gate_kind: "both", or only the "pixel" or the "channel" gate.
        pool: whether the layer halves the sides of the map, rounding up.
        pooled_gates: whether a layer that pools computes a gate for each pooled cell, not for each pixel. Then there
            are a quarter as many gates.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        size: int,
        stride: int = 1,
        reparam: bool = False,
        gates: bool = False,
        pool: bool = False,
        pooled_gates: bool = False,
        gate_kind: str = "both",
    ):
        super().__init__()
        self.pool, self.pooled_gates = pool, pool and pooled_gates
        gate_stride = 2 * stride if self.pooled_gates else stride
        self.conv = BranchedConv2d(in_channels, out_channels, size, stride, reparam)
        self.pixel_gate = self.channel_gate = None
        if gates and gate_kind != "channel":
            self.pixel_gate = BranchedConv2d(in_channels, out_channels, 3, gate_stride, reparam=False)
        if gates and gate_kind != "pixel":
            self.channel_gate = nn.Linear(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to (B, O, H', W')."""
        y = self.conv(x)
        if self.pooled_gates:
            y = F.max_pool2d(y, 2, ceil_mode=True)
        if self.pixel_gate is not None:
            y = y * self.pixel_gate(x).sigmoid()
        if self.pool and not self.pooled_gates:
            y = F.max_pool2d(y, 2, ceil_mode=True)
        y = F.relu(y)
        if self.channel_gate is not None:
            y = y * self.channel_gate(x.mean((2, 3))).sigmoid()[:, :, None, None]
        return y


def pooled(x: Tensor, covariance_channels: int) -> Tensor:
    """Pool x (B, C, H, W) over its pixels to features (B, C + d (d + 1) / 2), float32.

    The first C features are the means of the channels. The other features are the covariances of the first d =
    `covariance_channels` channels with each other; each covariance is replaced by its signed square root.
    """
    # in bfloat16 a covariance would lose most of its digits
    with torch.autocast(x.device.type, enabled=False):
        x = x.flatten(2).float()  # (B, C, H W)
        mean = x.mean(2)
        covariance_channels = min(covariance_channels, x.shape[1])
        if not covariance_channels:
            return mean
        centred = x[:, :covariance_channels] - mean[:, :covariance_channels, None]
        rows, columns = torch.triu_indices(covariance_channels, covariance_channels, device=x.device)
        # (B, d (d + 1) / 2)
        covariance = (centred @ centred.mT / x.shape[2])[:, rows, columns]
        # smoothed near 0, where the slope of the square root is infinite
        return torch.cat([mean, covariance * (covariance.abs() + 1e-4).rsqrt()], 1)


class ShallowNet(nn.Module):
    """A network that has a stem, parallel streams of hidden layers, pooling and a linear layer.

    Its strict depth is len(widths) + 2.

    Args:
        num_classes: number of classes.
        in_channels: number of channels of the images.
        width: factor for the numbers of channels.
        stem: name of the first convolution, a key of `models.resnet.STEMS`.
        options: as in `ShallowOptions`, but widths and kernels are tuples of numbers. An option that is left out has
            its usual value.

    Raises:
        TypeError: an option is unknown.
        ValueError: the side of a kernel is even, or `gate_kind` is unknown or needs gates.
    """

    def __init__(
        self, num_classes: int, in_channels: int = 3, width: float = 1.0, stem: str = "7x7s2", **options: Any
    ):
        super().__init__()
        if unknown := options.keys() - SHALLOW_OPTIONS.keys():
            raise TypeError(f"ShallowNet has no option {min(unknown)!r}; known: {', '.join(SHALLOW_OPTIONS)}")
        chosen = SimpleNamespace(**SHALLOW_OPTIONS | options)
        if chosen.gate_kind not in GATE_KINDS or (chosen.gate_kind != "both" and not chosen.gates):
            raise ValueError(
                f"gate_kind must be one of {', '.join(GATE_KINDS)}; pixel and channel also need gates=True"
            )
        num_pools = len(chosen.widths) - 1 if chosen.num_pools is None else chosen.num_pools

        def scaled(channels):
            return max(1, round(channels * width))

        channels = [scaled(64), *map(scaled, chosen.widths)]
        self.covariance_channels, self.multi_level_head = chosen.covariance_channels, chosen.multi_level_head
        self.stem = ShallowLayer(
            in_channels, channels[0], *STEMS[stem], chosen.reparam, pool=chosen.stem_pool
        )
        self.streams = nn.ModuleList(
            nn.Sequential(
                *(
                    ShallowLayer(
                        before,
                        after,
                        size,
                        1,
                        chosen.reparam,
                        chosen.gates,
                        number < num_pools,
                        chosen.pooled_gates,
                        chosen.gate_kind,
                    )
                    for number, (before, after) in enumerate(zip(channels, channels[1:]))
                )
            )
            for size in chosen.kernels
        )
        # number of channels with covariances, for each level of the network
        orders = [min(self.covariance_channels, count) for count in channels]
        features = [count + d * (d + 1) // 2 for count, d in zip(channels, orders)]
        num_features = sum(features[1:]) if self.multi_level_head else features[-1]
        self.head = NormLinear(len(chosen.kernels) * num_features, num_classes, chosen.dropout)

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        """Return the feature maps, each (B, O, H', W'), that the head pools for the images x (B, C, H, W).

        The head pools the last map of each stream. A multi-level head pools the maps of all hidden layers.
        """
        x, pooled_maps = self.stem(x), []
        for stream in self.streams:
            maps = [x]
            for layer in stream:
                maps.append(layer(maps[-1]))
            pooled_maps += maps[1:] if self.multi_level_head else maps[-1:]
        return pooled_maps

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to logits (B, num_classes)."""
        return self.head(torch.cat([pooled(y, self.covariance_channels) for y in self.feature_maps(x)], 1))


# ---------------------------------------------------------------- networks by name, each tests one idea

# for each name of a network, see `shallow_name`: the options that differ from the usual values
SHALLOW: dict[str, dict] = {
    "plain6-k5": {},  # only four dense 5x5 convolutions; the reference of most ablations
    "plain6-k3-5-7": {"kernels": (3, 5, 7), "widths": (64, 128, 256, 256)},  # three narrower streams
    "reparam6-k5": {"reparam": True},  # computes the same function as plain6-k5, trains as a sum of branches
    # covariances of the last map; with fewer poolings this map has more positions to average over
    "covariance6-k5": {"covariance_channels": 64, "num_pools": 2},
    "gated6-k5": {"gates": True},
    # takes less than half the MACs of gated6-k5; no loss of accuracy is shown
    "gated6-k3": {"gates": True, "kernels": (3,), "pooled_gates": True},
    "gated6-k3-5-7": {"gates": True, "kernels": (3, 5, 7), "widths": (64, 128, 256, 256)},
    "gated5-k5": {"gates": True, "widths": (128, 256, 512)},
    "gated4-k7": {"gates": True, "widths": (256, 512), "kernels": (7,), "stem_pool": True},
    "reparam-gated6-k5": {"gates": True, "pooled_gates": True, "reparam": True},
}


def shallow_name(options: Mapping) -> str:
    """Return the name of a `ShallowNet` with these options, such as "gated6-k3".

    The name joins the special features ("plain" if there are none), the strict depth, "-k" and the kernel sides.
    """
    options = {**SHALLOW_OPTIONS, **options}
    names = {"reparam": "reparam", "covariance_channels": "covariance", "gates": "gated"}
    kind = "-".join(name for key, name in names.items() if options[key]) or "plain"
    return f"{kind}{len(options['widths']) + 2}-k{'-'.join(map(str, options['kernels']))}"


# First convolutions as (stem, whether pooling follows); each halves the maps once more than the convolution before it
HALVINGS = (("7x7s2", False), ("7x7s2", True), ("11x11s4", True))
DESIGNED_FOR = 64  # px, side of the images for which the networks in SHALLOW are made


def fit_stem(arch: str, image_size: int) -> tuple[str, bool]:
    """Choose the first convolution of a named network for images of this side; return (stem, whether pooling follows).

    Above 64 px, the first convolution halves the maps more often: log2(image_size / 64) more times, rounded. So the
    maps behind the stem keep their size, and the receptive field covers the same share of the image. Images under 64 px
    use the stem for 64 px: at 48 px, the last layer still has a map of 3 x 3.
    """
    start = int(SHALLOW[arch].get("stem_pool", False))
    more = max(0, round(math.log2(image_size / DESIGNED_FOR)))
    return HALVINGS[min(start + more, len(HALVINGS) - 1)]


def build_shallow(arch: str, num_classes: int, **options) -> ShallowNet:
    """Build the network that has the name `arch` in `SHALLOW`; `options` replace the options of that name.

    Raises:
        ValueError: see `ShallowNet`.
    """
    return ShallowNet(num_classes, **{**SHALLOW[arch], **options})
