"""A network for any set of input channels: ChannelSetConv2d in front of an unchanged backbone."""
from __future__ import annotations

from torch import Tensor, nn

from models.channel_stem import ChannelSetConv2d


class ChannelNet(nn.Module):
    """A stem for any set of channels in front of an unchanged backbone.

        conv = resnet.conv1
        resnet.conv1 = nn.Identity()
        net = ChannelNet(ChannelSetConv2d.from_conv2d(conv, fill), resnet)
        logits = net(x_rg, channels=[0, 1])
    """

    def __init__(self, stem: ChannelSetConv2d, backbone: nn.Module):
        super().__init__()
        self.stem, self.backbone = stem, backbone

    def forward(self, x: Tensor, channels=None, mask: Tensor | None = None) -> Tensor:
        """x, channels, mask: as `ChannelSetConv2d.forward`. Returns what the backbone returns."""
        return self.backbone(self.stem(x, channels, mask))

    def folded(self, channels=None) -> nn.Sequential:
        """The plain network for one set of channels: x (B, n, H, W) in, no knowledge of sets left."""
        return nn.Sequential(self.stem.fold(channels), self.backbone).train(self.training)

    def for_channels(self, channels=None) -> nn.Module:
        """A network of x (B, n, H, W) alone: folded, or where that is impossible, this one with its set
        fixed.
        """
        return FixedChannels(self, channels) if self.stem.unfoldable else self.folded(channels)


class FixedChannels(nn.Module):
    """`net` on one set of channels."""

    def __init__(self, net: ChannelNet, channels=None):
        super().__init__()
        self.net, self.channels = net, channels

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x, self.channels)
