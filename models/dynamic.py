"""Kernels that depend on the image's content: the dynamic convolutions that others proposed, as stems.

    dynamic   W(x) = sum_k a_k(x) W_k                              DynConv (Chen et al. 2020, 1912.03458)
    omni      the same, times attention over the filter's positions, the input and the output channels
              ODConv (Li et al. 2022, openreview DmpCfq6Mg39)

The attention reads the mean of each channel of the filled image. One image has one kernel, so nothing folds.
"""
from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from channelset.kernels import Kernel


def convolve_per_image(x: Tensor, weight: Tensor, stride, padding, dilation) -> Tensor:
    """Convolution with a kernel of its own for each image: x (B, C, H, W), weight (B, O, C, k, k) -> (B, O,
    H', W'). Stride, padding and dilation: a number or one for each axis.

    As one batched matrix product over patches: a convolution with B groups, the usual way, is many times as
    slow on CPUs.
    """
    height, width = (1 + (side + 2 * p - d * (weight.shape[-1] - 1) - 1) // s for side, s, p, d in zip(
        x.shape[2:], _pair(stride), _pair(padding), _pair(dilation)))
    # (B, C k k, H' W')
    patches = F.unfold(x, weight.shape[-1], dilation, padding, stride)
    return torch.bmm(weight.flatten(2), patches).unflatten(2, (height, width))


class Dynamic(Kernel):
    """Softmax attention over `count` kernels, its temperature falling from 30 to 1 in the first
    `anneal_steps` steps.

    Args:
        count: K; 4 in the paper.
        anneal_steps: training steps until the temperature is 1 (the paper: ten epochs).
    """
    per_image = True

    def __init__(self, out_channels, rows, size, count: int = 4, hidden: int = 16, anneal_steps: int = 2000):
        super().__init__(out_channels, rows, size)
        # flat: channels_last takes 4 axes
        self.kernels = nn.Parameter(self.std * torch.randn(count, math.prod(self.shape)))
        self.trunk = self._trunk(rows, hidden)
        self.over_kernels = nn.Linear(hidden, count)
        self.step_down = 29 / anneal_steps
        self.register_buffer("temperature", torch.tensor(30.0))

    def _trunk(self, rows: int, hidden: int) -> nn.Module:
        return nn.Sequential(nn.Linear(rows, hidden), nn.ReLU())

    def convolve(self, x, stride, padding, dilation):
        if self.training:
            self.temperature.sub_(self.step_down).clamp_(min=1)
        return self._attend(x, self.trunk(x.mean((2, 3))), (stride, padding, dilation))

    def _mix(self, features: Tensor) -> Tensor:
        """Kernels of the images: (B, O, rows, k, k)."""
        attention = F.softmax(self.over_kernels(features).float() / self.temperature, dim=1)
        return (attention @ self.kernels).unflatten(1, self.shape)

    def _attend(self, x: Tensor, features: Tensor, conv: tuple) -> Tensor:
        return convolve_per_image(x, self._mix(features).to(x), *conv)


class Omni(Dynamic):
    """Attention over kernels, positions of the filter, input channels and output channels (the last three:
    sigmoids).

    The trunk has BatchNorm, as in the authors' code; training therefore needs batches of at least two images.
    """

    def __init__(self, out_channels, rows, size, count: int = 4, hidden: int = 16, anneal_steps: int = 2000):
        super().__init__(out_channels, rows, size, count, hidden, anneal_steps)
        self.over_positions, self.over_inputs = nn.Linear(hidden, size ** 2), nn.Linear(hidden, rows)
        self.over_outputs = nn.Linear(hidden, out_channels)

    def _trunk(self, rows, hidden):
        return nn.Sequential(nn.Linear(rows, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU())

    def _attend(self, x, features, conv):
        positions, inputs, outputs = (torch.sigmoid(layer(features).float() / self.temperature)
                                      for layer in (self.over_positions, self.over_inputs, self.over_outputs))
        side = math.isqrt(positions.shape[1])
        weight = self._mix(features) * positions.view(-1, 1, 1, side, side)
        y = convolve_per_image(x * inputs[:, :, None, None].to(x), weight.to(x), *conv)
        return y * outputs[:, :, None, None].to(y)
