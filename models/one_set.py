"""The network of one set of channels that a network of any set is: folded where it is a plain one."""
from __future__ import annotations

from torch import Tensor, nn

from channelset import find_stem, fold_channels
from models.late_fusion import LateFusion


def for_channels(net: nn.Module, channels=None) -> nn.Module:
    """A network of x (B, n, H, W) alone, the channels `channels` (None: all) of `net`: a plain one of its own
    weights, or where the stem is no plain convolution, `net` with its set fixed.
    """
    if isinstance(net, LateFusion):
        return net.for_channels(channels)
    return FixedChannels(net, channels) if find_stem(net).unfoldable else fold_channels(net, channels)


class FixedChannels(nn.Module):
    """`net` on one set of channels."""

    def __init__(self, net: nn.Module, channels=None):
        super().__init__()
        self.net, self.channels = net, channels

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x, channels=self.channels)
