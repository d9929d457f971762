"""Late fusion: one network a channel, predictions averaged over the channels that are there."""
from __future__ import annotations

import torch
from torch import Tensor, nn


class LateFusion(nn.Module):
    """Mean of the softmax outputs of single-channel networks.

    Args:
        networks: one a channel in the order of the ids, each takes (B, 1, H, W).
    """

    def __init__(self, networks: list[nn.Module]):
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def for_channels(self, channels=None) -> nn.Module:
        """A network of the channels `channels` alone: x (B, n, H, W) -> class probabilities (B, K)."""
        ids = range(len(self.networks)) if channels is None else channels
        return _Average([self.networks[i] for i in ids])


class _Average(nn.Module):
    def __init__(self, networks: list[nn.Module]):
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([net(x[:, i:i + 1]).softmax(1) for i, net in enumerate(self.networks)]).mean(0)
