"""Build other shallow designs to compare with: dense residual blocks, self-attention and graph layers.

Each design has a small stem and one special block. The docstring of a block names its paper. metrics/depth.py counts
the strict depths, and the tests check these depths.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.branched import BranchedConv2d
from models.resnet import STEMS

conv_bn = partial(BranchedConv2d, reparam=False)  # a plain convolution with BatchNorm


class ConvPool(nn.Sequential):
    """A convolution with BatchNorm, then a ReLU, then 2 x 2 max-pooling that rounds the sides of the map up."""

    def __init__(self, in_channels: int, out_channels: int, size: int, stride: int = 1):
        super().__init__(
            conv_bn(in_channels, out_channels, size, stride), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)
        )


class DenseBlock(nn.Module):
    """The residual dense block of ESRGAN (arXiv 1809.00219), to which BatchNorm is added.

    Each convolution reads the outputs of all convolutions before it.
    """

    def __init__(self, channels: int, growth: int, convs: int):
        super().__init__()
        self.convs = nn.ModuleList(
            conv_bn(channels + i * growth, growth if i < convs - 1 else channels, 3) for i in range(convs)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to the same shape."""
        features = [x]
        for conv in self.convs[:-1]:
            features.append(F.leaky_relu(conv(torch.cat(features, 1)), 0.2))
        return x + 0.2 * self.convs[-1](torch.cat(features, 1))


class ResidualInResidual(nn.Sequential):
    """A chain of dense blocks that has a residual connection around it: the RRDB of ESRGAN."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.2 * super().forward(x)


class SelfAttention(nn.Module):
    """A layer that applies multi-head self-attention over all positions (arXiv 1706.03762).

    The layer normalises its input, computes the attention, and adds the result to the input.

    The layer has no position embedding, so it takes any image size. The convolutions before the layer encode positions
    by their zero padding.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.heads = math.gcd(channels, 8)  # fewer if 8 does not divide the number of channels
        self.norm = nn.LayerNorm(channels)
        self.qkv, self.projection = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to the same shape."""
        tokens = self.norm(x.flatten(2).mT)  # (B, N, C)
        # (B, heads, N, d) each
        q, k, v = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)  # (B, N, C)
        return x + self.projection(mixed).mT.unflatten(2, x.shape[2:])


class GraphLayer(nn.Module):
    """A layer that applies the max-relative graph convolution of ViG (arXiv 2206.00272).

    Its output is x_i + relu(W [x_i, max_j (x_j - x_i)]). The neighbours j of a position i are the nine positions with
    the most similar features.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.mix = conv_bn(2 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to the same shape."""
        nodes = x.flatten(2).mT  # (B, N, C)
        unit = F.normalize(nodes, dim=2)
        nearest = (unit @ unit.mT).topk(min(9, nodes.shape[1]), dim=2).indices  # (B, N, k)
        images = torch.arange(len(x), device=x.device)[:, None, None]
        relative = (nodes[images, nearest] - nodes[:, :, None]).amax(2)  # (B, N, C)
        return x + F.relu(self.mix(torch.cat([x, relative.mT.unflatten(2, x.shape[2:])], 1)))


class BlockNet(nn.Sequential):
    """A network that applies convolutions, special blocks, global average pooling and a linear layer.

    It maps images x (B, C, H, W) to logits (B, num_classes). The first convolution is the one that `stem` names, a key
    of `STEMS`. The other convolutions are 5 x 5. Pooling follows each convolution except the last. If there is only one
    convolution, pooling follows it.

    Args:
        widths: numbers of output channels of the convolutions, before `width` scales them.
        blocks: a function that maps a number of channels to a list of special blocks.
        num_classes, in_channels, width, stem: as in `models.shallow.ShallowNet`.
    """

    def __init__(
        self,
        widths: tuple[int, ...],
        blocks: Callable[[int], list[nn.Module]],
        num_classes: int,
        in_channels: int = 3,
        width: float = 1.0,
        stem: str = "7x7s2",
    ):
        channels = [max(1, round(planes * width)) for planes in widths]
        layers: list[nn.Module] = [ConvPool(in_channels, channels[0], *STEMS[stem])]
        layers += [ConvPool(before, after, 5) for before, after in zip(channels[:-2], channels[1:-1])]
        if len(channels) > 1:
            layers += [conv_bn(channels[-2], channels[-1], 5), nn.ReLU()]
        layers += blocks(channels[-1])
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels[-1], num_classes))

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        """Return a list that holds the last feature map (B, O, H', W') of the images x (B, C, H, W)."""
        return [nn.Sequential(*list(self)[:-3])(x)]


def _dense(channels: int, convs: int) -> DenseBlock:
    return DenseBlock(channels, max(1, channels // 2), convs)


# A function for each name of a network, which builds the network from the other arguments of `BlockNet`. The network
# needs a method `feature_maps`, see metrics/receptive_field.py
SHALLOW_BASELINES = {
    "rrdb": partial(BlockNet, (64,), lambda n: [ResidualInResidual(*(_dense(n, 5) for _ in range(3)))]),
    "dense-block": partial(BlockNet, (128,), lambda n: [_dense(n, 4)]),  # six layers, twice as wide as "rrdb"
    "attention": partial(BlockNet, (64, 256, 512), lambda n: [SelfAttention(n)]),
    "graph": partial(BlockNet, (64, 256, 512), lambda n: [GraphLayer(n), GraphLayer(n)]),
}
