"""Small networks, images, masks and fusions of BatchNorm that several tests of channelset share."""

import pytest
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_conv_bn_weights

from channelset import adapt_first_conv, find_stem

COVARIANCE = torch.tensor([[1.0, 0.9, 0.8], [0.9, 1.0, 0.92], [0.8, 0.92, 1.0]])
STATISTICS = {"mean": torch.tensor([0.5, 0.4, 0.3]), "std": torch.tensor([0.3, 0.25, 0.2])}
STATISTICS["covariance"] = COVARIANCE * torch.outer(STATISTICS["std"], STATISTICS["std"])
MASK = torch.tensor([[True, False, True], [False, True, False]])
HALF = torch.tensor([[True, False, True]] * 2)  # as channels=[0, 2]
X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))

at_stem_and_input = pytest.mark.parametrize("where", ["stem", "input"])


def hidden(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the images with NaN in their absent channels."""
    return torch.where(mask[:, :, None, None], x, torch.nan)


DIRTY = hidden(X, MASK)


def one_conv() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3))


def statistics_of(fill: str) -> dict:
    """Return the statistics that a fill rule needs."""
    if fill == "black":
        return {"mean": [0.1, 0.2, 0.3], "std": [1.0, 2.0, 1.0]}
    needs = fill in ("regression", "by_size", "learned", "conditioned")
    return {"covariance": COVARIANCE} if needs else {}


def small_net(channels: int = 3, bias: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(channels, 6, 3, padding=1, bias=bias),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6 * 64, 2),
    )
    nn.init.uniform_(net[1].running_var, 0.5, 1.5)
    nn.init.normal_(net[1].running_mean)
    nn.init.normal_(net[1].weight)
    return net.eval()


def adapted(net: nn.Module, fill: str = "regression", **options) -> nn.Module:
    """Return an adapted network whose embedding is no longer zero."""
    net = adapt_first_conv(net, fill, **statistics_of(fill), **options)
    with torch.no_grad():
        find_stem(net).embedding.normal_(0, 0.3)
    return net.eval()


def outputs(value) -> list[torch.Tensor]:
    """List the tensors that a network returns; for a detector, those before boxes are sorted out."""
    if isinstance(value, torch.Tensor):
        return [value]
    return [
        tensor for part in (value.values() if isinstance(value, dict) else value) for tensor in outputs(part)
    ]


class OneConv(nn.Module):
    """A network that others change: one convolution."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.conv(x)


class Around(nn.Module):
    """A network around another network."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, *args, **kwargs):
        return self.net(*args, **kwargs)


class Residual(nn.Module):
    """A second layer reads the images, as in residual units, RepVGG and UNETR."""

    def __init__(self, conv=nn.Conv2d, channels: int = 3):
        super().__init__()
        self.conv, self.skip = conv(channels, 6, 3, padding=1), conv(channels, 6, 1)

    def forward(self, x):
        return self.conv(x) + self.skip(x)


class Patches(nn.Module):
    """The images go into a linear layer."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(3 * 16, 5)

    def forward(self, x):
        return self.embed(x.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).flatten(3))


def fuse_of_torch(conv, norm):
    return fuse_conv_bn_eval(conv, norm)


def fuse_in_place(conv, norm):
    """As detectors do it."""
    conv.weight, conv.bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    return conv.requires_grad_(False)


def fuse_data(conv, norm):
    weight, bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    conv.weight.data = weight.data
    if conv.bias is None:
        conv.register_parameter("bias", nn.Parameter(bias.data))
    else:
        conv.bias.data = bias.data
    return conv
