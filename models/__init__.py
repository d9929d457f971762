"""Models by name: a stem for any set of channels, and the networks it goes in front of."""
from __future__ import annotations

from torch import nn

from models.channel_net import ChannelNet
from models.channel_stem import ChannelSetConv2d
from models.dynamic import Dynamic, Omni
from models.fill import build_fill
from models.kernels import HyperNetwork, Templates, Tied, Wavelength
from models.resnet import LAYERS, ScaledResNet

# where the stem's kernel comes from; None: it is a parameter
KERNELS = {"free": None, "tied": Tied, "templates": Templates, "hypernet": HyperNetwork, "wavelength": Wavelength,
           "dynamic": Dynamic, "omni": Omni}


def build_channel_net(arch: str, channels: int, num_classes: int, fill: str = "linear", kernel: str = "free",
                      templates: int = 128, kernel_size: int | None = None, embedding: bool = True, width: float = 1.0,
                      small_stem: bool = False, mean=None, std=None, covariance=None) -> ChannelNet:
    """A ResNet whose first convolution takes any subset of `channels` known channels.

    Args:
        arch, num_classes, width, small_stem: as in `ScaledResNet`.
        fill, mean, std, covariance: as in `build_fill`.
        kernel: a key of `KERNELS`; templates: how many, for kernel "templates".
        kernel_size: of the first convolution, odd. Default: the backbone's.
        embedding: as in `ChannelSetConv2d`.

    Raises:
        ValueError: unknown fill rule or kernel, or a statistic that the rule needs is missing.
    """
    backbone = ScaledResNet(arch, num_classes, channels, width, small_stem)
    conv, backbone.conv1 = backbone.conv1, nn.Identity()
    rule = build_fill(fill, channels, mean, std, covariance)
    size = kernel_size or conv.kernel_size[0]
    if kernel not in KERNELS:
        raise ValueError(f"unknown kernel {kernel!r}; choose one of {', '.join(KERNELS)}")
    extra = {"count": templates} if kernel == "templates" else {}
    generator = KERNELS[kernel] and KERNELS[kernel](conv.out_channels, rule.rows, size, **extra)
    stem = ChannelSetConv2d(channels, conv.out_channels, size, conv.stride[0], size // 2, fill=rule, kernel=generator,
                            embedding=embedding)
    return ChannelNet(stem, backbone)
