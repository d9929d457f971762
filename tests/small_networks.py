"""Small networks, masks and fusions of BatchNorm that several tests of channelset share."""

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_conv_bn_weights

from channelset import adapt_first_conv, find_stem

COVARIANCE = torch.tensor([[1.0, 0.9, 0.8], [0.9, 1.0, 0.92], [0.8, 0.92, 1.0]])
MASK = torch.tensor([[True, False, True], [False, True, False]])


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
    net = adapt_first_conv(
        net, fill, **({"covariance": COVARIANCE} if fill == "regression" else {}), **options
    )
    with torch.no_grad():
        find_stem(net).embedding.normal_(0, 0.3)
    return net


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
