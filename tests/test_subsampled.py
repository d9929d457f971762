"""A strided 1 x 1 convolution that takes its pixels first is the strided one."""

import torch
from pytest import mark
from torch import nn

from models.branched import BranchedConv2d
from models.resnet import ScaledResNet, Subsampled


@mark.parametrize("size", [8, 9])
def test_the_same_function_and_gradients(size):
    strided = nn.Conv2d(3, 5, 1, 2).double()
    plain = nn.Conv2d(3, 5, 1).double()
    plain.load_state_dict(strided.state_dict())
    x = torch.randn(4, 3, size, size, dtype=torch.float64)
    y, z = strided(x), Subsampled(2, plain)(x)
    assert torch.equal(y, z)
    for loss in (y, z):
        loss.square().sum().backward()
    assert torch.allclose(strided.weight.grad, plain.weight.grad)


@mark.parametrize(
    "make", [lambda: BranchedConv2d(3, 5, 7, 2), lambda: ScaledResNet("resnet10", 3, width=0.05)]
)
def test_no_strided_pointwise_convolution_of_few_channels_is_left(make):
    """Which PyTorch's training on processors with AVX2 alone would not survive."""
    net = make()
    for module in net.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1):
            assert module.stride == (1, 1)
    x = torch.randn(4, 3, 16, 16).to(memory_format=torch.channels_last)
    for _ in range(3):
        net(x).square().sum().backward()
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)


def test_torchvisions_weights_fit():
    from torchvision.models import resnet18

    net, other = ScaledResNet("resnet18", 10), resnet18(num_classes=10)
    net.load_state_dict(other.state_dict())
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(net.eval()(x), other.eval()(x), atol=1e-5)
