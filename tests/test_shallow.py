"""The shallow networks: fusing is exact, depth is what is claimed, every parameter learns, any image size."""

import copy
from functools import cache, partial

import torch
import torch.nn.functional as F
from helpers import count_macs, unchanged, value_error
from pytest import approx, mark, raises
from torch import nn
from torch.nn.utils import parametrizations
from torch.testing import assert_close

from config import Task2Config
from metrics.cost import count_params, flop_counter_macs
from metrics.depth import count_depth
from metrics.receptive_field import receptive_field
from models.branched import BranchedConv2d, NormLinear, fuse
from models.resnet import ScaledResNet
from models.shallow import SHALLOW, ShallowNet, build_shallow, fit_stem, pooled, shallow_name
from models.shallow_baselines import (
    SHALLOW_BASELINES,
    DenseBlock,
    GraphLayer,
    ResidualInResidual,
    SelfAttention,
)
from models.task2 import build_classifier

NETWORKS = {**SHALLOW, **SHALLOW_BASELINES}


def randomise(model: nn.Module) -> nn.Module:
    """Statistics, scales and shifts as far from their start as training may bring them."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.3, 3)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return model


def small(name: str, **options) -> nn.Module:
    torch.manual_seed(0)
    build = SHALLOW_BASELINES.get(name) or partial(build_shallow, name)
    return build(7, **{"width": 0.125, **options})


def relative_error(got, expected) -> float:
    return ((got - expected).abs().max() / expected.abs().max()).item()


# ---------------------------------------------------------------- fusing


@mark.parametrize("reparam", [True, False])
@mark.parametrize("stride", [1, 2, 3])
@mark.parametrize("size", [1, 3, 5, 7])
@mark.parametrize("out_channels", [4, 6])  # 4: with the identity
def test_a_fused_convolution_is_the_sum_of_its_branches(size, stride, reparam, out_channels):
    conv = randomise(BranchedConv2d(4, out_channels, size, stride, reparam)).double().eval()
    plain = conv.fuse()
    assert type(plain) is nn.Conv2d and plain.kernel_size == (size, size)
    for shape in ((1, 1), (2, 3), (9, 9), (12, 7)):  # down to pictures that are all border
        x = torch.randn(2, 4, *shape, dtype=torch.float64)
        assert conv(x).shape == (2, out_channels, -(-shape[0] // stride), -(-shape[1] // stride))
        assert_close(plain(x), conv(x), rtol=0, atol=1e-11)


def test_each_branch_is_in_the_sum():
    """Fusing without a branch, or with it at another place, would not go unnoticed."""
    conv = randomise(BranchedConv2d(4, 4, 5)).eval()
    whole = conv.fuse().weight
    for norm in (conv.dense[0][1], conv.dense[1][1], conv.dense[2][1], conv.separable[3], conv.identity):
        weight = norm.weight.detach().clone()
        nn.init.zeros_(norm.weight)
        assert (conv.fuse().weight - whole).abs().max() > 0.01
        norm.weight.data.copy_(weight)


def test_the_sum_of_branches_and_the_input_of_the_head_start_at_their_scale():
    assert BranchedConv2d(64, 64, 5)(torch.randn(8, 64, 12, 12)).var().item() == approx(1, rel=0.1)
    for features in (20, 2000):
        lengths = NormLinear(features, 3, 0.0).norm(3 * torch.randn(64, features)).square().sum(1)
        assert lengths.mean().item() == approx(NormLinear.LENGTH**2, rel=0.01)


@mark.parametrize("arch", ["resnet10", "resnet34"])
def test_a_fused_resnet_is_the_same_function(arch):
    net = randomise(ScaledResNet(arch, 5, width=0.125)).double()
    fused, x = fuse(net), torch.randn(2, 3, 40, 33, dtype=torch.float64)
    assert (
        net.training
        and isinstance(net.bn1, nn.BatchNorm2d)
        and not any(isinstance(m, nn.BatchNorm2d) for m in fused.modules())
    )
    assert relative_error(fused(x), net.eval()(x)) < 1e-9
    assert count_depth(fused, (3, 32, 32))[:3] == count_depth(net, (3, 32, 32))[:3]


@mark.parametrize("name", NETWORKS)
def test_a_fused_network_is_the_same_function(name):
    net = randomise(small(name))
    before = copy.deepcopy(net.state_dict())
    fused = fuse(net)
    assert net.training and not any(module.training for module in fused.modules())
    assert not any(
        isinstance(m, (nn.modules.batchnorm._BatchNorm, BranchedConv2d, NormLinear)) for m in fused.modules()
    )
    net.eval()
    for shape in ((8, 8), (32, 32), (33, 47)):
        x = torch.randn(2, 3, *shape)
        assert relative_error(fused(x), net(x)) < 2e-5
    assert unchanged(net, before)
    assert relative_error(fuse(fused)(x), fused(x)) == 0
    nn.init.zeros_(next(fused.parameters()))  # nothing is shared with the original
    assert torch.equal(next(net.parameters()), before[next(iter(before))])


@mark.parametrize("normalise", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_layers_with_normalised_weights_are_fused_too(normalise):
    conv, head = BranchedConv2d(4, 4, 3), NormLinear(4, 3, 0.0)
    normalise(conv.dense[0][0]), normalise(head.linear)
    net, x = (
        randomise(nn.Sequential(conv, nn.AvgPool2d(9), nn.Flatten(), head)).eval(),
        torch.randn(2, 4, 9, 9),
    )
    before = torch.get_rng_state()
    fused = fuse(net)
    assert relative_error(fused(x), net(x)) < 1e-5 and torch.equal(torch.get_rng_state(), before)
    assert count_params(fused) == 4 * 4 * 9 + 4 + 4 * 3 + 3


def test_fusing_shares_what_was_shared():
    layer, x = randomise(BranchedConv2d(3, 3, 3)), torch.randn(2, 3, 9, 9)
    for net in (
        nn.Sequential(layer, nn.ReLU(), layer),
        nn.Sequential(nn.Sequential(layer), nn.Sequential(layer)),
    ):
        fused = fuse(net)
        assert count_params(fused) == 3 * 3 * 9 + 3 and count_depth(fused, (3, 9, 9)).strict == 2
        assert relative_error(fused(x), net.eval()(x)) < 1e-5


def test_a_layer_that_is_named_fuse_is_no_method():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fuse, self.none = BranchedConv2d(3, 3, 3), nn.Conv2d(3, 3, 1), None
            self.register_module("nothing", None)

        def forward(self, x):
            return self.fuse(self.conv(x))

    for net in (Block(), nn.Sequential(Block())):
        assert count_depth(fuse(net), (3, 9, 9))[:3] == (2, 2, 2)


def test_fusing_keeps_the_memory_format():
    net = small("reparam6-k5").to(memory_format=torch.channels_last)
    assert fuse(net).streams[0][0].conv.weight.is_contiguous(memory_format=torch.channels_last)


# ---------------------------------------------------------------- depth

DEPTHS = {  # strict, stricter, in training
    "plain6-k5": (6, 6, 6),
    "plain6-k3-5-7": (6, 6, 6),
    "reparam6-k5": (6, 6, 11),
    "covariance6-k5": (6, 7, 6),
    "gated6-k5": (6, 6, 6),
    "gated6-k3": (6, 6, 6),
    "gated6-k3-5-7": (6, 6, 6),
    "gated5-k5": (5, 5, 5),
    "gated4-k7": (4, 4, 4),
    "reparam-gated6-k5": (6, 6, 11),
    "rrdb": (17, 17, 17),
    "dense-block": (6, 6, 6),
    "attention": (6, 8, 6),
    "graph": (6, 8, 6),
}


@mark.parametrize("name", SHALLOW)
def test_a_name_says_kind_depth_and_kernel(name):
    assert shallow_name(SHALLOW[name]) == name
    assert f"{count_depth(fuse(small(name)), (3, 32, 32)).strict}-k" in name


@mark.parametrize("name", NETWORKS)
def test_depth_of_every_network(name):
    net = small(name)
    strict, stricter, _, path = count_depth(fuse(net), (3, 32, 32))
    assert (strict, stricter, count_depth(net, (3, 32, 32), training=True).strict) == DEPTHS[name]
    assert len(path) == strict


@mark.parametrize(
    "options",
    [
        {},
        {"gates": True, "covariance_channels": 8},
        {"gates": True, "pooled_gates": True},
        {"kernels": (1, 3)},
        {"stem_pool": True},
        {"num_pools": 1},
    ],
)
def test_two_layers_more_than_hidden_ones(options):
    for hidden in range(5):
        net = ShallowNet(5, width=0.25, widths=(32,) * hidden, **options)
        assert count_depth(fuse(net), (3, 32, 32)).strict == hidden + 2


def test_the_head_sees_what_it_is_told_to():
    """Of every level its means and the covariances of its first channels, or those of the last level
    alone.
    """
    for levels, features in ((False, 16 + 55), (True, (8 + 36) + (16 + 55) + (16 + 55))):
        net = ShallowNet(5, width=0.25, widths=(32, 64, 64), covariance_channels=10, multi_level_head=levels)
        assert net.head.linear.in_features == features
        assert count_depth(fuse(net), (3, 32, 32)).strict == 5
        net(torch.randn(2, 3, 32, 32)).sum().backward()
        assert all(p.grad is not None for p in net.parameters())


def test_dropout_is_of_the_heads_features_and_of_the_training_alone():
    net, x = ShallowNet(5, width=0.125, widths=(64,), dropout=0.5), torch.randn(2, 3, 16, 16)
    seen = []
    net.head.linear.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    net(x)
    assert 0 < (seen[0] == 0).sum() < seen[0].numel()
    net.eval()
    assert relative_error(fuse(net)(x), net(x)) < 1e-5 and (seen[1] == 0).sum() == 0


def test_pools_are_the_first_layers():
    for pools, side in ((None, 2), (3, 2), (1, 8), (0, 16)):
        net, seen = ShallowNet(5, width=0.125, num_pools=pools).eval(), []
        net.streams[0][-1].register_forward_hook(lambda _, __, y: seen.append(y.shape[-1]))
        net(torch.randn(1, 3, 32, 32))
        assert seen == [side]


def test_both_counters_of_macs_agree_on_fused_networks():
    for name in ("reparam6-k5", "gated4-k7"):
        net = fuse(small(name, covariance_channels=0))
        assert count_macs(net, (3, 32, 32)) == flop_counter_macs(net, torch.zeros(1, 3, 32, 32)) > 0


def test_branches_cost_nothing_after_fusing():
    assert (
        count_params(fuse(small("reparam6-k5")))
        == count_params(fuse(small("plain6-k5")))
        < count_params(small("reparam6-k5"))
    )


# ---------------------------------------------------------------- learning, shapes


@mark.parametrize("name", NETWORKS)
def test_gradient_reaches_every_parameter(name):
    net = small(name)
    F.cross_entropy(net(torch.randn(8, 3, 32, 32)), torch.arange(8) % 7).backward()
    assert [key for key, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@mark.parametrize("name", NETWORKS)
@mark.parametrize("stem", ["7x7s2", "3x3s1"])
def test_any_image_size_and_number_of_channels(name, stem):
    for channels, shape in ((1, (1, 1)), (3, (8, 20)), (13, (31, 17))):
        logits = small(name, in_channels=channels, stem=stem).eval()(torch.randn(2, channels, *shape))
        assert logits.shape == (2, 7) and logits.isfinite().all()


def test_autocast_leaves_the_covariances_in_float32():
    x = torch.randn(2, 8, 5, 5) + 100  # bfloat16 has no digits left for the variance
    with torch.autocast("cpu", torch.bfloat16):
        features = pooled(x, 8)
        logits = small("gated6-k5")(torch.randn(4, 3, 32, 32))
    assert features.dtype == torch.float32 and torch.equal(features, pooled(x, 8)) and logits.isfinite().all()


def test_covariances():
    x = torch.randn(3, 6, 4, 5, requires_grad=True)
    features = pooled(x, 4)
    assert features.shape == (3, 6 + 10) and torch.equal(features[:, :6], x.mean((2, 3)))
    covariance = torch.cov(x[1, :4].flatten(1), correction=0)[*torch.triu_indices(4, 4)]
    assert_close(features[1, 6:], covariance.sign() * covariance.abs().sqrt(), rtol=0.01, atol=0.005)
    # where the root's own slope is infinite
    pooled(torch.ones(2, 4, 3, 3) + 0 * x[:2, :4, :3, :3], 4).sum().backward()
    assert x.grad.isfinite().all()


def test_gates_multiply():
    net = ShallowNet(3, widths=(8,), gates=True).eval()
    layer, x = net.streams[0][0], torch.rand(2, 64, 6, 6)
    y = layer(x)
    of_channels = layer.channel_gate(x.mean((2, 3))).sigmoid()[:, :, None, None]
    expected = F.relu(layer.conv(x) * layer.pixel_gate(x).sigmoid()) * of_channels
    assert_close(y, expected)
    layer.pool = True  # pooled before ReLU and channel gate: the same as after them
    assert_close(layer(x), F.max_pool2d(expected, 2))


def test_one_kind_of_gate_alone():
    x = torch.rand(2, 64, 6, 6)
    for kind in ("pixel", "channel"):
        layer = ShallowNet(3, widths=(8,), gates=True, gate_kind=kind).eval().streams[0][0]
        gate = (
            layer.pixel_gate(x).sigmoid()
            if kind == "pixel"
            else layer.channel_gate(x.mean((2, 3))).sigmoid()[:, :, None, None]
        )
        assert_close(layer(x), F.relu(layer.conv(x) * gate))
        assert (layer.pixel_gate is None) == (kind == "channel") and (layer.channel_gate is None) == (
            kind == "pixel"
        )
    with value_error("pixel and channel also need gates=True"):
        ShallowNet(3, gate_kind="pixel")
    with value_error("gate_kind must be one of both, pixel, channel"):
        ShallowNet(3, gates=True, gate_kind="row")


@mark.parametrize("side", [6, 7])
def test_pooled_gates_multiply_what_is_pooled(side):
    net = ShallowNet(3, widths=(8, 8), gates=True, pooled_gates=True).eval()
    (pooling, last), x = net.streams[0], torch.rand(2, 64, side, side)
    gate = pooling.pixel_gate.dense[0][1](F.conv2d(x, pooling.pixel_gate.dense[0][0].weight, padding=1))[
        ..., ::2, ::2
    ]
    y = F.relu(F.max_pool2d(pooling.conv(x), 2, ceil_mode=True) * gate.sigmoid())
    assert_close(pooling(x), y * pooling.channel_gate(x.mean((2, 3))).sigmoid()[:, :, None, None])
    # a layer that does not pool has a gate a pixel
    assert last(y).shape[2:] == last.pixel_gate(y).shape[2:] == y.shape[2:]
    fine, coarse = (
        flop_counter_macs(
            ShallowNet(3, widths=(8,) * 2, gates=True, pooled_gates=flag), torch.zeros(1, 3, 32, 32)
        )
        for flag in (False, True)
    )
    assert fine - coarse == 64 * 8 * 9 * (16 * 16 - 8 * 8)  # of the layer that pools, a quarter of the gates


def test_attention_is_torchs():
    layer, x = SelfAttention(16).eval(), torch.randn(2, 16, 4, 6)
    theirs, tokens = nn.MultiheadAttention(16, 8, batch_first=True), layer.norm(x.flatten(2).mT)
    theirs.in_proj_weight, theirs.in_proj_bias = layer.qkv.weight, layer.qkv.bias
    theirs.out_proj = layer.projection
    expected = theirs(tokens, tokens, tokens)[0].mT.unflatten(2, (4, 6))
    assert_close(layer(x), x + expected, rtol=1e-4, atol=1e-5)
    assert SelfAttention(13).heads == 1


def test_a_graph_layer_by_hand():
    """Each position looks at the nine positions of its image with the most similar directions."""
    layer, x = randomise(GraphLayer(5)).eval(), torch.randn(2, 5, 3, 4)
    relative = torch.zeros(2, 5, 12)
    for image, nodes in enumerate(x.flatten(2).mT):
        for i, node in enumerate(nodes):
            nearest = F.cosine_similarity(nodes, node[None]).argsort(descending=True)[:9]
            relative[image, :, i] = (nodes[nearest] - node).amax(0)
    mixed = layer.mix(torch.cat([x, relative.view(2, 5, 3, 4)], 1))
    assert_close(layer(x), x + F.relu(mixed), rtol=1e-4, atol=1e-5)


def test_a_dense_block_by_hand():
    """Each convolution reads all outputs before it; a fifth of the last is added, and a fifth of the chain."""
    block, x = randomise(DenseBlock(4, 2, 3)).eval(), torch.randn(2, 4, 5, 5)
    a = F.leaky_relu(block.convs[0](x), 0.2)
    b = F.leaky_relu(block.convs[1](torch.cat([x, a], 1)), 0.2)
    expected = x + 0.2 * block.convs[2](torch.cat([x, a, b], 1))
    assert_close(block(x), expected)
    assert_close(ResidualInResidual(block)(x), x + 0.2 * expected)


# ---------------------------------------------------------------- any image size by itself


@cache
def measures(arch: str, side: int) -> tuple[float, int]:
    """Return the receptive field of a network as a share of its image, and the size of its last map."""
    config = Task2Config(device="cpu", preset="64px-half", image_size=side, arch=arch).resolve()
    net = build_classifier({**vars(config), "width": 0.125}, 3, 7).eval()
    maps = net.feature_maps(torch.zeros(1, 3, side, side))
    return receptive_field(net, side, images=1)["size_px"] / side, maps[0].shape[2]


@mark.parametrize("arch", ["gated6-k3", "plain6-k5", "gated5-k5"])
@mark.parametrize("size", [48, 64, 84, 96, 128, 180, 224])
def test_the_first_convolution_follows_the_image_size(arch, size):
    """The field is the same share of the image and the last map of the same size as at 64 px, within a factor of
    the square root of two (smaller images get no finer first convolution)."""
    (field, positions), (usual_field, usual_positions) = measures(arch, size), measures(arch, 64)
    assert field > 0.68 * usual_field
    assert 0.68 * usual_positions < positions <= 1.5 * usual_positions


def test_small_images_and_given_stems_stay_as_they_are():
    for size in (48, 64, 84):
        config = Task2Config(device="cpu", preset="64px-half", image_size=size).resolve()
        assert (config.stem, config.stem_pool) == ("7x7s2", None)
    given = Task2Config(device="cpu", preset="64px-half", image_size=224, stem_pool=False).resolve()
    assert (given.stem, given.stem_pool) == ("7x7s2", False)
    assert fit_stem("gated6-k3", 128) == ("7x7s2", True) and fit_stem("gated6-k3", 224) == ("11x11s4", True)
    assert fit_stem("gated4-k7", 64) == ("7x7s2", True) and fit_stem("gated4-k7", 128) == ("11x11s4", True)


def test_an_unknown_option_is_refused_with_its_name():
    with raises(TypeError, match="no option 'kernel_size'; known: .*kernels"):
        ShallowNet(5, kernel_size=3)
