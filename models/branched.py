"""Convolutions that train as a sum of parallel branches and are evaluated as one equivalent convolution.

These papers train parallel kernels of several sizes, each with BatchNorm: ACNet (arXiv 1908.03930), RepVGG
(arXiv 2101.03697), DBB (arXiv 2103.13425).
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.resnet import Subsampled


def fuse(model: nn.Module) -> nn.Module:
    """Return a copy of `model` in eval mode that computes the same function with fewer operations.

    Every module that has a method `fuse` is replaced by the result of this method. A module that is in several places
    is fused once, so its weights stay shared.
    """
    model = copy.deepcopy(model).eval()
    fused: dict[nn.Module, nn.Module] = {}

    def replaced(module: nn.Module) -> nn.Module:
        # looked up in the class: many networks have a layer that is named "fuse"
        method = getattr(type(module), "fuse", None)
        if module not in fused:
            fused[module] = method(module) if method else module
        return fused[module]

    for module in list(model.modules()):
        for name, child in module._modules.items():
            if child is not None:
                module._modules[name] = replaced(child)
    return replaced(model)


def affine(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Return the scale and the shift that a BatchNorm applies in eval mode, each with shape (C,) and type float64."""
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    return scale, norm.bias.double() - norm.running_mean.double() * scale


def with_weights(layer, weight: Tensor, bias: Tensor, like: Tensor):
    """Set the weight and the bias of a layer, with the type of `like`; return the layer in eval mode.

    The layer is new, because a copy of a layer with weight normalisation would compute its weight again.
    """
    layer.weight, layer.bias = nn.Parameter(weight.to(like)), nn.Parameter(bias.to(like))
    return layer.eval()


class BranchedConv2d(nn.Module):
    """A convolution with a bias and zero padding of size // 2 that trains as a sum of branches.

    These are the branches:

        a k x k convolution
        smaller convolutions of 3 x 3 and 1 x 1
        a depthwise k x k convolution, then a 1 x 1 convolution
        the identity, if input and output have the same shape

    Each branch has a BatchNorm, and all branches are centred on the same pixel. The depthwise convolution comes before
    the 1 x 1 convolution. In the reverse order, a BatchNorm's shift would come before the zero padding. Then no single
    convolution would give the same values at the borders.

    Args:
        in_channels, out_channels, stride: as in nn.Conv2d.
        size: side k of the kernel, odd.
        reparam: True uses all branches; False uses only the k x k convolution.

    Raises:
        ValueError: `size` is even.
    """

    def __init__(self, in_channels: int, out_channels: int, size: int, stride: int = 1, reparam: bool = True):
        super().__init__()
        if size % 2 == 0:
            raise ValueError(
                f"kernel size {size}: must be odd, so that all branches are centred on one pixel"
            )
        self.stride = stride
        sizes = [size] + [small for small in (3, 1) if reparam and small < size]
        self.dense = nn.ModuleList(
            Subsampled(
                stride if k == 1 else 1,
                nn.Conv2d(in_channels, out_channels, k, 1 if k == 1 else stride, k // 2, bias=False),
                nn.BatchNorm2d(out_channels),
            )
            for k in sizes
        )
        self.separable = (
            nn.Sequential(
                nn.Conv2d(in_channels, in_channels, size, stride, size // 2, groups=in_channels, bias=False),
                nn.BatchNorm2d(in_channels),
                nn.Conv2d(in_channels, out_channels, 1, bias=False),
                nn.BatchNorm2d(out_channels),
            )
            if reparam and size > 1
            else None
        )
        same = in_channels == out_channels and stride == 1
        self.identity = nn.BatchNorm2d(out_channels) if reparam and same else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise the kernels as He et al. do, so that the sum of the branches starts with unit variance."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        branches = self.branches()
        for branch in branches:
            norm = branch if branch is self.identity else branch[-1]
            nn.init.constant_(norm.weight, len(branches) ** -0.5)

    def branches(self) -> list[nn.Module]:
        """Return the branches; each branch ends with a BatchNorm."""
        return [branch for branch in (*self.dense, self.separable, self.identity) if branch is not None]

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to an output (B, O, ceil(H / stride), ceil(W / stride))."""
        return sum(branch(x) for branch in self.branches())

    @torch.no_grad()
    def fuse(self) -> nn.Conv2d:
        """Return a plain convolution that computes the same function in eval mode, also at the borders."""
        dense = self.dense[0][0]
        size = dense.kernel_size[0]
        kernel, bias = torch.zeros_like(dense.weight, dtype=torch.float64), 0
        for conv, norm in self.dense:
            scale, shift = affine(norm)
            margin = (size - conv.kernel_size[0]) // 2
            kernel += F.pad(conv.weight.double() * scale[:, None, None, None], [margin] * 4)
            bias = bias + shift
        if self.separable is not None:
            depthwise, inner, pointwise, outer = self.separable
            (inner_scale, inner_shift), (scale, shift) = affine(inner), affine(outer)
            mixing = pointwise.weight.double()[:, :, 0, 0] * scale[:, None]  # (O, C)
            kernel += mixing[:, :, None, None] * (
                depthwise.weight.double()[:, 0] * inner_scale[:, None, None]
            )
            bias = bias + mixing @ inner_shift + shift
        if self.identity is not None:
            scale, shift = affine(self.identity)
            kernel[:, :, size // 2, size // 2] += scale.diag()
            bias = bias + shift
        fused = nn.Conv2d(dense.in_channels, dense.out_channels, size, self.stride, size // 2, device="meta")
        return with_weights(fused, kernel, bias, dense.weight)


class NormLinear(nn.Module):
    """A BatchNorm and then a linear layer, which map x (B, C) to outputs (B, K).

    In training, a share `dropout` of the normalised features is dropped. A step of gradient descent changes the outputs
    in proportion to the squared length of the layer's input. With thousands of features of unit variance, the training
    would diverge. So the squared length starts at LENGTH ** 2 for any number of features.
    """

    LENGTH = 4.0

    def __init__(self, in_features: int, out_features: int, dropout: float):
        super().__init__()
        self.norm = nn.BatchNorm1d(in_features)
        self.linear = nn.Linear(in_features, out_features)
        self.dropout = dropout
        nn.init.constant_(self.norm.weight, self.LENGTH * in_features**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(F.dropout(self.norm(x), self.dropout, self.training))

    @torch.no_grad()
    def fuse(self) -> nn.Linear:
        (scale, shift), weight = affine(self.norm), self.linear.weight.double()
        bias = self.linear.bias.double() + weight @ shift
        linear = nn.Linear(self.linear.in_features, self.linear.out_features, device="meta")
        return with_weights(linear, weight * scale, bias, self.linear.weight)
