"""Build the ResNets of torchvision (He et al., arXiv 1512.03385) in any width, also with a stem for small images."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models.resnet import BasicBlock, ResNet

# first convolutions of ResNets and shallow networks, by name: (side of the kernel in pixels, stride)
STEMS = {"7x7s2": (7, 2), "3x3s1": (3, 1), "7x7s1": (7, 1), "11x11s4": (11, 4)}
LAYERS = {"resnet10": [1, 1, 1, 1], "resnet18": [2, 2, 2, 2], "resnet34": [3, 4, 6, 3]}


class Subsampled(nn.Sequential):
    """A chain of modules that reads only every `stride`-th pixel.

    `Subsampled(2, Conv2d(C, O, 1), BatchNorm2d(O))` computes the same function as a 1 x 1 convolution with stride 2 and
    a BatchNorm. This class avoids a bug that PyTorch's 1 x 1 convolution with a stride has in training. On a processor
    with AVX2 but without AVX-512, PyTorch writes outside its memory if C is not a multiple of eight. The process dies,
    or other data is overwritten. (The bug is in oneDNN, jit_1x1 backward weights, channels_last, as used by PyTorch
    2.11.)

    Args:
        stride: stride along both axes.
        modules: as in `nn.Sequential`.
    """

    def __init__(self, stride: int, *modules: nn.Module):
        super().__init__(*modules)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Apply the modules to x (B, C, H, W) with ceil(H / stride) x ceil(W / stride) of its pixels."""
        return super().forward(x[:, :, :: self.stride, :: self.stride] if self.stride > 1 else x)


def stem_pools(stem: str, stem_pool: bool | None) -> bool:
    """Check whether max-pooling follows the first convolution; None: yes, but not with the stem "3x3s1"."""
    return stem != "3x3s1" if stem_pool is None else stem_pool


class ScaledResNet(ResNet):
    """A ResNet of basic blocks whose layers have `width` times 64, 128, 256 and 512 channels.

    Args:
        arch: resnet10, resnet18 or resnet34.
        num_classes: number of classes.
        in_channels: number of channels of the images.
        width: factor for the numbers of channels; 1.0 gives the network of the paper.
        stem: name of the first convolution, a key of `STEMS`; "3x3s1" is for images under about 64 px.
        stem_pool: whether max-pooling follows the first convolution; None: see `stem_pools`.
    """

    def __init__(
        self,
        arch: str,
        num_classes: int,
        in_channels: int = 3,
        width: float = 1.0,
        stem: str = "7x7s2",
        stem_pool: bool | None = None,
    ):
        self.width = width
        super().__init__(BasicBlock, LAYERS[arch], num_classes=num_classes)
        base = self.scaled(64)
        kernel, stride = STEMS[stem]
        self.conv1 = nn.Conv2d(in_channels, base, kernel, stride, kernel // 2, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.bn1 = nn.BatchNorm2d(base)
        if not stem_pools(stem, stem_pool):
            self.maxpool = nn.Identity()
        self.fc = nn.Linear(self.scaled(512), num_classes)

    def scaled(self, planes: int) -> int:
        return max(1, round(planes * self.width))

    def _make_layer(self, block, planes, blocks, stride=1, dilate=False):
        if planes == 64:  # the parent class has just set `inplanes` to the full width
            self.inplanes = self.scaled(64)
        layer = super()._make_layer(block, self.scaled(planes), blocks, stride, dilate)
        if layer[0].downsample is not None:
            conv, norm = layer[0].downsample
            layer[0].downsample = Subsampled(stride, conv, norm)
            conv.stride = (1, 1)
        return layer

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        """Return a list that holds the last feature map (B, O, H', W') of the images x (B, C, H, W)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return [self.layer4(self.layer3(self.layer2(self.layer1(x))))]

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to logits (B, num_classes)."""
        return self.fc(self.avgpool(self.feature_maps(x)[0]).flatten(1))

    def fuse(self) -> ScaledResNet:
        """Merge each BatchNorm into the convolution before it; return this network, which must be in eval mode."""
        for module in list(self.modules()):
            for conv, norm in (("conv1", "bn1"), ("conv2", "bn2"), ("0", "1")):  # 0 and 1: in a shortcut
                if isinstance(getattr(module, norm, None), nn.BatchNorm2d):
                    setattr(module, conv, fuse_conv_bn_eval(getattr(module, conv), getattr(module, norm)))
                    setattr(module, norm, nn.Identity())
        return self
