"""Kernel generators: modules that compute the full kernel W of a stem, if W is not simply a parameter.

A generator gives W (O, rows, k, k), which usually has one slice for each channel. S is the set of channels that an
image has. The fill rule is a matrix P(S) that predicts all channels from the present channels. The stem convolves the
image with the kernel K(S) = W P(S).

The stems of other papers on varying channels differ only in W. All of them use the fill rule `rescale`, which takes the
slices of the present channels. In the formulas, c is an input channel and o an output channel:

    free        W itself is the parameter
    tied        W[o, c] = g[o, c] w[o]: one spatial filter for each output channel
    templates   W[:, c] = sum_t a[c, t] B[:, t]     TemplateMixing of CHAMMI; few templates give low rank
    hypernet    W[:, c] = MLP(z[c]), z learned      HyperNet of CHAMMI (arXiv 2310.19224)
    wavelength  W[:, c] = MLP(Fourier(lambda[c]))   wavelength-conditioned generator, after DOFA (arXiv 2403.15356)

CHAMMI's Depthwise stem averages the responses of the filters of the present channels. It equals `free` with the fill
rule `rescale`, up to the constant C, the number of channels.

To add a generator, write a class of `Kernel` here and name it in `KERNELS` in models/task1.py.

The dynamic convolutions of other papers have kernels that depend on the image's content:

    dynamic   W(x) = sum_k a_k(x) W_k                              DynConv (Chen et al. 2020, arXiv 1912.03458)
    omni      as dynamic, times attention over positions in the filter, input channels and output channels
              ODConv (Li et al. 2022, openreview DmpCfq6Mg39)

The attention reads the mean of each channel of the filled image. So the kernel depends on the image, and the stem
cannot be folded into a plain convolution.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from metrics.cost import flop_counter_macs

# micrometres: the red, green and blue bands of Sentinel-2, which DOFA uses for RGB
RGB_WAVELENGTHS = (0.665, 0.560, 0.490)
COUNT, HIDDEN = 4, 16  # kernels of a dynamic convolution, as in the paper; hidden features of its attention


class Kernel(nn.Module):
    """The base class of the generators.

    Args:
        out_channels, rows, size: the shape (O, rows, k, k) of W.

    Attributes:
        per_image: True if W depends on the image. Then the stem cannot be folded into a plain convolution.
    """

    per_image = False

    def __init__(self, out_channels: int, rows: int, size: int):
        super().__init__()
        self.shape = (out_channels, rows, size, size)
        self.std = math.sqrt(2 / (out_channels * size**2))  # He, fan-out, as in torchvision's ResNet

    def forward(self) -> Tensor:
        """Return W: (O, rows of P(S), k, k)."""
        raise NotImplementedError

    def convolve(self, x: Tensor, stride: int, padding: int, dilation: int) -> Tensor:
        """Convolve the filled image x (B, rows, H, W) with W; return the responses (B, O, H', W')."""
        return F.conv2d(x, self(), None, stride, padding, dilation)

    def macs(self) -> int:
        """Return the number of multiply-accumulates that generate W once.

        This method leaves out elementwise products. A kernel with such products must count them.
        """
        return flop_counter_macs(self)


class Tied(Kernel):
    """A kernel W that is one spatial filter for each output channel, times a gain for each input channel.

    Filters and gains start with the same norm. So a training step of the filters moves W as much as a step of the
    gains.
    """

    def __init__(self, out_channels, rows, size):
        super().__init__(out_channels, rows, size)
        spatial = self.std * torch.randn(out_channels, 1, size, size)
        gain = 1 + 0.5 * torch.randn(out_channels, rows, 1, 1)
        balance = (gain.norm() / spatial.norm()).sqrt()
        self.filter, self.gain = nn.Parameter(balance * spatial), nn.Parameter(gain / balance)

    def forward(self):
        return self.gain * self.filter

    def macs(self):
        return math.prod(self.shape)  # an elementwise product, which the counter leaves out


class Templates(Kernel):
    """A kernel W that mixes `count` templates, which all channels share.

    W starts at the scale of a plain kernel. Its slices start orthogonal if there are at least as many templates as
    slices.
    """

    def __init__(self, out_channels, rows, size, count: int = 128):
        super().__init__(out_channels, rows, size)
        self.templates = nn.Parameter(self.std * torch.randn(out_channels, count, size, size))
        coefficients = nn.init.orthogonal_(torch.empty(rows, count))
        self.coefficients = nn.Parameter(coefficients * max(1, rows / count) ** 0.5)

    def forward(self):
        return torch.einsum("rt,othw->orhw", self.coefficients, self.templates)


class _Generated(Kernel):
    """A kernel W[:, c] = network(descriptor of c) that starts as large as a plain kernel and learns as fast.

    At the start, the biases of the network are zero. So W does not change if its weights are scaled up and its output
    is scaled down by a fixed gain. This scale is chosen so that a gradient step at the common learning rate moves W as
    far as it moves a plain kernel. Without it, a step would move W many times as far. The last layer has no bias: a
    bias would add the same kernel to all channels.
    """

    descriptors: Tensor  # (rows, features)

    def _finish(self, sizes: list[int]) -> None:
        """Make the network that reads sizes[0] features and has hidden layers of sizes[1:]."""
        hidden = [(nn.Linear(before, after), nn.ReLU()) for before, after in zip(sizes, sizes[1:])]
        last = nn.Linear(sizes[-1], self.shape[0] * self.shape[2] ** 2, bias=False)
        network = self.network = nn.Sequential(*(layer for pair in hidden for layer in pair), last)
        self.register_buffer("gain", torch.tensor(1.0))
        for layer in network:
            if isinstance(layer, nn.Linear) and layer.bias is not None:
                nn.init.zeros_(layer.bias)
        with torch.no_grad():
            network[-1].weight.mul_(self.std / network(self.descriptors).std())
        weights = [p for p in self.parameters() if p.ndim > 1]
        direction, before = torch.randn(self.shape), self()
        gradients = torch.autograd.grad((before * direction).sum(), weights)
        with torch.no_grad():
            step = 1e-3 * self.std / max(g.abs().max() for g in gradients)
            for weight, gradient in zip(weights, gradients):
                weight.add_(gradient, alpha=step.item())
            speed = ((self() - before).norm() / (step * direction.norm())).item()
            for weight, gradient in zip(weights, gradients):
                weight.sub_(gradient, alpha=step.item()).mul_(speed**0.5)
            self.gain.mul_(speed ** (-0.5 * len(weights)))

    def forward(self):
        out_channels, rows, size, _ = self.shape
        kernels = self.gain * self.network(self.descriptors)
        return kernels.view(rows, out_channels, size, size).transpose(0, 1)


class HyperNetwork(_Generated):
    """A network that generates the kernel of each channel from a learned vector (HyperNet of CHAMMI)."""

    def __init__(self, out_channels, rows, size):
        super().__init__(out_channels, rows, size)
        self.descriptors = nn.Parameter(torch.randn(rows, 128))
        self._finish([128, 256])


class Wavelength(_Generated):
    """A network with two hidden layers that generates a channel's kernel from sines and cosines of its wavelength.

    Args:
        wavelengths: (rows,) in micrometres; the default is red, green and blue.

    Raises:
        ValueError: the number of wavelengths is not the number of channels.
    """

    def __init__(self, out_channels, rows, size, wavelengths=None):
        super().__init__(out_channels, rows, size)
        wavelengths = RGB_WAVELENGTHS if wavelengths is None and rows == 3 else wavelengths
        if wavelengths is None or len(wavelengths) != rows:
            raise ValueError(f"kernel 'wavelength' needs one wavelength for each of {rows} channels")
        angles = 1000 * torch.tensor(wavelengths)[:, None] / 10_000 ** (torch.arange(64) / 64)
        self.register_buffer("descriptors", torch.cat([angles.sin(), angles.cos()], dim=1), persistent=False)
        self._finish([128, 256, 256])


def convolve_per_image(x: Tensor, weight: Tensor, stride, padding, dilation) -> Tensor:
    """Convolve each image with a separate kernel; return the responses (B, O, H', W').

    The function computes one batched matrix product over patches. The usual way, a convolution with B groups, is many
    times slower on CPUs.

    Args:
        x: images (B, C, H, W).
        weight: kernels (B, O, C, k, k), one for each image.
        stride, padding, dilation: a number, or a number for each axis.
    """
    size = weight.shape[-1]
    s, p, d = (_pair(value)[0] for value in (stride, padding, dilation))
    height = 1 + (x.shape[2] + 2 * p - d * (size - 1) - 1) // s
    patches = F.unfold(x, size, dilation, padding, stride)  # (B, C k k, H' W')
    return torch.bmm(weight.flatten(2), patches).unflatten(2, (height, -1))


class Dynamic(Kernel):
    """A weighted sum of `COUNT` kernels; a softmax attention computes the weights from the image.

    The temperature of the softmax falls from 30 to 1 in the first `anneal_steps` steps.

    Args:
        anneal_steps: training steps until the temperature is 1 (ten epochs in the paper).
    """

    per_image = True

    def __init__(self, out_channels, rows, size, anneal_steps: int = 2000):
        super().__init__(out_channels, rows, size)
        # flat, because channels_last needs exactly 4 axes
        self.kernels = nn.Parameter(self.std * torch.randn(COUNT, math.prod(self.shape)))
        self.trunk = self._trunk(rows)
        self.over_kernels = nn.Linear(HIDDEN, COUNT)
        self.step_down = 29 / anneal_steps
        self.register_buffer("temperature", torch.tensor(30.0))

    def _trunk(self, rows: int) -> nn.Module:
        return nn.Sequential(nn.Linear(rows, HIDDEN), nn.ReLU())

    def convolve(self, x, stride, padding, dilation):
        if self.training:
            self.temperature.sub_(self.step_down).clamp_(min=1)
        return self._attend(x, self.trunk(x.mean((2, 3))), (stride, padding, dilation))

    def _mix(self, features: Tensor) -> Tensor:
        """Return the kernels (B, O, rows, k, k), one for each image."""
        attention = F.softmax(self.over_kernels(features).float() / self.temperature, dim=1)
        return (attention @ self.kernels).unflatten(1, self.shape)

    def _attend(self, x: Tensor, features: Tensor, conv: tuple) -> Tensor:
        return convolve_per_image(x, self._mix(features).to(x), *conv)


class Omni(Dynamic):
    """A `Dynamic` kernel that has three more attentions: over positions in the filter, input and output channels.

    These three attentions are sigmoids. The trunk has BatchNorm, as in the authors' code. So training needs batches of
    at least two images.
    """

    def __init__(self, out_channels, rows, size):
        super().__init__(out_channels, rows, size)
        self.over_positions, self.over_inputs = nn.Linear(HIDDEN, size**2), nn.Linear(HIDDEN, rows)
        self.over_outputs = nn.Linear(HIDDEN, out_channels)

    def _trunk(self, rows):
        return nn.Sequential(nn.Linear(rows, HIDDEN, bias=False), nn.BatchNorm1d(HIDDEN), nn.ReLU())

    def _attend(self, x, features, conv):
        positions, inputs, outputs = (
            torch.sigmoid(layer(features).float() / self.temperature)
            for layer in (self.over_positions, self.over_inputs, self.over_outputs)
        )
        side = math.isqrt(positions.shape[1])
        weight = self._mix(features) * positions.view(-1, 1, 1, side, side)
        y = convolve_per_image(x * inputs[:, :, None, None].to(x), weight.to(x), *conv)
        return y * outputs[:, :, None, None].to(y)
