"""A 1 x 1 convolution with a stride, which takes the pixels it needs first: the same function."""
from __future__ import annotations

from torch import Tensor, nn


class Subsampled(nn.Sequential):
    """Modules behind every `stride`-th pixel: `Subsampled(2, Conv2d(C, O, 1), BatchNorm2d(O))` is what a 1 x 1
    convolution of stride 2 and a BatchNorm are.

    PyTorch's own strided one writes beyond its memory while it trains on a processor that has AVX2 and not AVX-512,
    where eight does not divide C (oneDNN, jit_1x1 backward weights, channels_last; seen in PyTorch 2.11): the process
    dies, or something else is overwritten.

    Args:
        stride: along both axes.
        modules: as in `nn.Sequential`.
    """

    def __init__(self, stride: int, *modules: nn.Module):
        super().__init__(*modules)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) -> of ceil(H / stride) x ceil(W / stride) pixels."""
        return super().forward(x[:, :, ::self.stride, ::self.stride] if self.stride > 1 else x)
