"""Receptive fields: theoretical sizes against the recursion and known numbers, profiles against the kernel
itself.
"""

import copy
from functools import partial

import torch
import torch.nn.functional as F
from helpers import unchanged, value_error
from pytest import approx, mark
from torch import nn

from metrics.receptive_field import receptive_field
from models.branched import fuse
from models.resnet import ScaledResNet
from models.shallow import SHALLOW, ShallowNet, build_shallow
from models.shallow_baselines import SHALLOW_BASELINES


class Net(nn.Module):
    """Its maps are those of the given modules, all on the same image."""

    def __init__(self, *branches):
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def feature_maps(self, x):
        return [branch(x) for branch in self.branches]


def conv(size: int, stride: int = 1, dilation: int = 1, channels: tuple[int, int] = (1, 1)) -> nn.Conv2d:
    return nn.Conv2d(*channels, size, stride, dilation * (size // 2), dilation, bias=False)


def chain(*layers) -> nn.Sequential:
    """Convolutions with ReLU, and max-pooling, from (kind, size, stride) each."""
    return nn.Sequential(
        *(
            nn.Sequential(conv(size, stride), nn.ReLU())
            if kind == "conv"
            else nn.MaxPool2d(size, stride, padding=(size - 1) // 2, ceil_mode=True)
            for kind, size, stride in layers
        )
    )


def size_of(*branches, input_px: int = 20) -> int | None:
    for parameter in nn.ModuleList(branches).parameters():
        nn.init.uniform_(parameter, 0.1, 1)  # so that a gradient is never zero
    return receptive_field(Net(*branches), input_px, images=8, channels=1)["size_px"]


# ---------------------------------------------------------------- theoretical


@mark.parametrize(
    "layers",
    [
        [("conv", 1, 1)],
        [("conv", 7, 2)],
        [("conv", 7, 2), ("pool", 2, 2), ("conv", 5, 1)],
        [("pool", 3, 2), ("pool", 2, 2)],
        [("conv", 3, 1), ("pool", 2, 2)] * 4,
        [("conv", 11, 4), ("pool", 3, 2), ("conv", 5, 1), ("pool", 3, 2), ("conv", 3, 1)],
        [("conv", 1, 3), ("conv", 3, 1), ("conv", 1, 2), ("conv", 5, 1)],
    ],
)  # the last one has holes
def test_size_of_a_chain_is_the_recursions(layers):
    size, jump = 1, 1
    for _, side, stride in layers:
        size, jump = size + (side - 1) * jump, jump * stride
    assert size_of(chain(*layers)) == size


def test_size_without_padding():
    layers = [nn.Conv2d(1, 1, 5), nn.MaxPool2d(2), nn.Conv2d(1, 1, 3), nn.MaxPool2d(2)]
    assert size_of(nn.Sequential(*layers)) == 5 + 1 + 2 * 2 + 2 and size_of(*layers[:1], input_px=5) == 5


def test_size_does_not_depend_on_weights_dilation_holes_or_the_image():
    assert size_of(conv(3, dilation=20)) == 41 and size_of(conv(3, dilation=20), input_px=1) == 41
    layer = conv(5)
    nn.init.zeros_(layer.weight)
    layer.weight.data[0, 0, 2, 2] = 1  # the rest of the kernel is zero
    result = receptive_field(Net(layer), 9, channels=1)
    assert result["size_px"] == 5 and result["profile"] == [1.0] * 5


def test_the_larger_of_parallel_paths_counts():
    class Residual(nn.Sequential):
        def forward(self, x):
            return x + super().forward(x)

    assert size_of(Residual(conv(5), conv(3)), conv(3)) == 7  # two maps
    assert size_of(nn.Sequential(Residual(conv(5)), conv(1, 2), Residual(conv(3), conv(3)))) == 5 + 2 * 4


@mark.parametrize(
    "arch, stem, size", [("resnet18", "7x7s2", 435), ("resnet34", "7x7s2", 899), ("resnet18", "3x3s1", 109)]
)
def test_known_sizes_of_resnets(arch, stem, size):
    net = ScaledResNet(arch, 5, width=0.05, stem=stem)
    assert receptive_field(net, 32, images=1)["size_px"] == size


SIZES = {  # 7x7/2, then 5x5 at jumps of 2, 4, 8 and 16 px and 2x2 pooling at the first three of them
    **dict.fromkeys(("plain6-k5", "reparam6-k5", "gated6-k5", "reparam-gated6-k5"), 7 + 4 * 30 + 14),
    "gated6-k3": 7 + 2 * 30 + 14,
    **dict.fromkeys(("plain6-k3-5-7", "gated6-k3-5-7"), 7 + 6 * 30 + 14),
    "covariance6-k5": 7 + 4 * 22 + 6,
    "gated5-k5": 7 + 4 * 14 + 6,
    "gated4-k7": 7 + 2 + 6 * 12 + 4,
    "rrdb": 7 + 2 + 15 * 2 * 4,
    "dense-block": 7 + 2 + 4 * 2 * 4,
    "attention": None,
    "graph": None,
}


@mark.parametrize("name", SIZES)
def test_sizes_of_the_shallow_networks(name):
    build = SHALLOW_BASELINES.get(name) or partial(build_shallow, name)
    result = receptive_field(fuse(build(5, width=0.1)), 64, images=1)
    assert SIZES.keys() == {**SHALLOW, **SHALLOW_BASELINES}.keys() and result["size_px"] == SIZES[name]
    profile = torch.tensor(result["profile"])
    assert profile[0] >= 0 and (profile.diff() >= 0).all() and profile[-1] == 1 and 32 < len(profile) <= 64


def test_fusing_changes_no_receptive_field():
    net = build_shallow("gated5-k5", 5, width=0.125)
    before, after = (receptive_field(network, 64, images=2) for network in (net, fuse(net)))
    assert before["size_px"] == after["size_px"] and before["profile"] == approx(after["profile"], abs=1e-4)


def test_gates_of_pixels_are_seen_and_those_of_whole_channels_left_out():
    class Gated(nn.Module):
        def __init__(self, gate):
            super().__init__()
            self.conv, self.gate = conv(5), gate

        def forward(self, x):
            return self.conv(x) * self.gate(x)

    def conv7(x):
        return F.conv2d(x, torch.ones(2, 1, 7, 7).to(x), padding=3)

    options = {"widths": (8,), "kernels": (1,), "stem": "3x3s1"}
    assert receptive_field(ShallowNet(3, **options), 16)["size_px"] == 3
    gated = receptive_field(ShallowNet(3, gates=True, **options), 16)
    # nothing comes from afar
    assert gated["size_px"] == 5 and gated["profile"][1] < 1 and gated["profile"][2:] == [1.0] * 7
    for gate in (
        nn.AdaptiveAvgPool2d(1),
        lambda x: x.mean((2, 3), keepdim=True),
        lambda x: x.mean(dim=(-1, -2), keepdim=True),
    ):
        assert size_of(Gated(gate)) == 5
    # these join positions otherwise
    for gate in (lambda x: x.amax((2, 3), keepdim=True), lambda x: x.mean(2, keepdim=True)):
        assert size_of(Gated(gate)) is None
    # a mean over channels is no gate of the whole image
    assert size_of(Gated(lambda x: conv7(x).mean(1, keepdim=True))) == 7


# ---------------------------------------------------------------- effective


@mark.parametrize("size, stride, input_px", [(5, 1, 9), (5, 1, 12), (7, 2, 20), (3, 3, 17)])
def test_profile_of_a_convolution_is_its_kernels(size, stride, input_px):
    torch.manual_seed(1)
    layer = conv(size, stride, channels=(3, 1)).double()
    power = layer.weight.detach().square().sum((0, 1))
    middle = size // 2
    expected = [
        power[middle - r : middle + r + 1, middle - r : middle + r + 1].sum() / power.sum()
        for r in range(middle)
    ]
    profile = receptive_field(Net(layer), input_px, images=3)["profile"]
    centre = stride * (-(-input_px // stride) // 2)
    assert len(profile) == max(centre, input_px - 1 - centre) + 1  # the squares that hold the whole image
    assert profile == approx(torch.stack(expected).tolist() + [1.0] * (len(profile) - middle), abs=1e-12)
    assert profile[-1] == 1


def test_centre_between_pixels():
    net = Net(nn.Sequential(nn.AvgPool2d(2), conv(3)))  # size 6: squares of 2, 4 and 6 px
    power = net.branches[0][1].weight.detach()[0, 0].square()
    profile = receptive_field(net, 16, channels=1)["profile"]
    quarter = F.interpolate(power[None, None], scale_factor=2)[0, 0]
    expected = [(quarter[2 - r : 4 + r, 2 - r : 4 + r].sum() / quarter.sum()).item() for r in range(3)]
    assert profile[:3] == approx(expected, abs=1e-6) and expected[2] == 1


def test_profile_of_several_channels_and_maps_is_that_of_all_together():
    torch.manual_seed(2)
    layers = [conv(5, channels=(2, 400)).double() for _ in range(2)]
    layers[1].weight.data *= 0.5  # a quarter of the squares
    power = sum(layer.weight.detach().square().sum((0, 1)) for layer in layers)
    expected = [(power[2 - r : 3 + r, 2 - r : 3 + r].sum() / power.sum()).item() for r in range(3)]
    profile = receptive_field(Net(*layers), 5, images=50, channels=2)["profile"]
    assert profile == approx(expected, abs=0.01)  # over random upstream gradients


@mark.parametrize("stride", [1, 2])
def test_profile_ends_where_the_theoretical_field_does(stride):
    torch.manual_seed(3)
    net = ShallowNet(3, width=0.1, widths=(16, 16), kernels=(3,), stem="3x3s1" if stride == 1 else "7x7s2")
    result = receptive_field(net, 48)
    half = (result["size_px"] - 1) // 2
    assert result["profile"][half] == 1 and result["profile"][half - 1] < 1


def test_same_seed_same_profile_and_the_model_is_left_alone():
    net = ScaledResNet("resnet10", 5, width=0.1).train()
    net.layer1.eval()
    before = copy.deepcopy(net.state_dict())
    first, again, other = (receptive_field(net, 32, images=2, seed=seed) for seed in (0, 0, 1))
    assert first == again != other and first["size_px"] == other["size_px"] == 195 and first["input_px"] == 32
    assert (
        net.training
        and not net.layer1.training
        and all(p.requires_grad and p.grad is None for p in net.parameters())
    )
    assert unchanged(net, before)


def test_no_gradient_at_all_is_an_error():
    layer = conv(3)
    nn.init.zeros_(layer.weight)
    with value_error("no gradient"):
        receptive_field(Net(layer), 8, channels=1)
