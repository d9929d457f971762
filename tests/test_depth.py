"""The depth counter: published networks, hand-written ones, and attempts to hide a layer from it."""

import copy

import numpy as np
import torch
import torch.nn.functional as F
from helpers import unchanged, value_error
from pytest import mark
from torch import library, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint
from torchvision.models import densenet121, resnet18, resnet34, vgg11
from torchvision.ops import DeformConv2d, SqueezeExcitation

from metrics.depth import count_depth
from models.resnet import ScaledResNet

SHAPE = (3, 32, 32)
W = torch.ones(3, 3, 1, 1)


class Net(nn.Module):
    """A network from a function of x and its own modules: `forward(net, x)`."""

    def __init__(self, forward, **modules):
        super().__init__()
        self.function = forward
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x):
        return self.function(self, x)


def conv(size: int = 1, channels: int = 3) -> nn.Conv2d:
    return nn.Conv2d(3, channels, size, padding=size // 2)


def strict(forward, **modules) -> int:
    return count_depth(Net(forward, **modules), SHAPE).strict


# ---------------------------------------------------------------- published networks


@mark.parametrize("build, expected", [(resnet18, 18), (resnet34, 34), (vgg11, 11), (densenet121, 121)])
def test_networks_with_their_depth_in_their_name(build, expected):
    with torch.device("meta"):
        depth = count_depth(build(), (3, 64, 64))
    assert depth[:2] == (expected, expected) and len(depth.path) == expected
    # the 1x1 convolutions beside a block are on no longest path
    shortcuts = 3 if build in (resnet18, resnet34) else 0
    assert depth.operations == expected + shortcuts and not any("downsample" in step for step in depth.path)


def test_resnet10_with_and_without_squeeze_and_excitation():
    net = ScaledResNet("resnet10", 5, width=0.25)
    assert count_depth(net, SHAPE).strict == 10
    for stage in (net.layer1, net.layer2, net.layer3, net.layer4):
        stage[0].bn2 = nn.Sequential(stage[0].bn2, SqueezeExcitation(stage[0].bn2.num_features, 4))
    assert count_depth(net, SHAPE).strict == 18  # the gate waits for the block's output: two more a block


def test_parnet_blocks_are_one_layer_each():
    def block(net, x):
        gate = net.squeeze(net.norm(x).mean((2, 3), keepdim=True)).sigmoid()
        return F.silu(net.three(x) + net.one(x) + net.norm(x) * gate)

    blocks = [Net(block, norm=nn.BatchNorm2d(3), squeeze=conv(), three=conv(3), one=conv()) for _ in range(4)]
    depth = count_depth(nn.Sequential(conv(3), *blocks, nn.Flatten(), nn.Linear(3 * 32 * 32, 2)), SHAPE)
    assert depth[:3] == (6, 6, 1 + 4 * 3 + 1)


class VanillaLayer(nn.Module):
    """A VanillaNet layer (2305.12972): in training two convolutions, then in both modes a depthwise one as
    activation.
    """

    def __init__(self, first):
        super().__init__()
        self.first, self.second, self.series = first, conv(), nn.Conv2d(3, 3, 7, padding=3, groups=3)

    def forward(self, x):
        x = self.first(x)
        return self.series(F.relu(self.second(x) if self.training else x))


def test_vanillanet_is_deeper_than_its_name():
    head = Net(lambda net, x: net.last(net.first(x) if net.training else x), first=conv(), last=conv())
    net = nn.Sequential(VanillaLayer(nn.Conv2d(3, 3, 4, 4)), *(VanillaLayer(conv()) for _ in range(4)), head)
    assert count_depth(net, SHAPE).strict == 11 and count_depth(net, SHAPE, training=True).strict == 17


class VisionTransformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.position = nn.Conv2d(3, 16, 8, 8), nn.Parameter(torch.zeros(16, 16))
        self.block = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
        self.head = nn.Linear(16, 2)

    def forward(self, x):
        return self.head(self.block(self.embed(x).flatten(2).mT + self.position).mean(1))


def test_a_transformer_block():
    depth = count_depth(VisionTransformer(), SHAPE)  # embedding, qkv, projection, two of the MLP, head
    assert depth[:3] == (6, 8, 6) and [step.split()[0] for step in depth.path] == [
        "embed",
        "block.self_attn.in_proj_weight",
        "block.self_attn.out_proj",
        "block.linear1",
        "block.linear2",
        "head",
    ]


def test_a_dense_residual_block_in_a_residual_block():
    def dense(net, x):
        features = [x]
        for layer in net.layers:
            features.append(layer(torch.cat(features, 1)))
        return x + 0.2 * features[-1]

    def block():
        return Net(dense, layers=nn.ModuleList(nn.Conv2d(3 * i, 3, 3, padding=1) for i in range(1, 6)))

    rrdb = Net(lambda net, x: x + 0.2 * net.blocks(x), blocks=nn.Sequential(block(), block(), block()))
    assert (
        count_depth(nn.Sequential(conv(3), rrdb, nn.Flatten(), nn.Linear(3 * 32 * 32, 2)), SHAPE).strict == 17
    )


# ---------------------------------------------------------------- what counts


@mark.parametrize(
    "forward",
    [
        conv(),
        lambda x: F.conv2d(x, W),
        lambda x: F.conv_transpose2d(x, W),
        # a fixed blur
        lambda x: F.avg_pool2d(F.conv2d(x, torch.ones(3, 1, 3, 3), groups=3), 2),
        lambda x: F.linear(x, torch.ones(5, 32)),
        lambda x: x @ torch.ones(32, 4),
        lambda x: torch.ones(4, 32) @ x,
        lambda x: x @ torch.ones(32),
        lambda x: torch.einsum("bchw,cd->bdhw", x, torch.ones(3, 3)),
        lambda x: torch.einsum("bchw,chw->b", x, torch.ones(3, 32, 32)),
        lambda x: torch.bmm(x[:, 0], torch.ones(2, 32, 4)),
        # bias and weight
        lambda x: torch.baddbmm(torch.ones(2, 32, 4), x[:, 0], torch.ones(2, 32, 4)),
        # multiply and sum
        lambda x: (x[:, None] * torch.ones(5, 3, 1, 1)).sum(2),
        lambda x: torch.addmv(torch.ones(32), x[0, 0], torch.ones(32)),
        # a global filter
        lambda x: torch.fft.irfft2(torch.fft.rfft2(x) * torch.ones(3, 32, 17, dtype=torch.cfloat)),
        lambda x: torch.cdist(x.flatten(1), torch.ones(5, 3072)),
        # the same distances by hand
        lambda x: (x.flatten(1)[:, None] - torch.ones(5, 3072)).abs().sum(2),
        lambda x: F.pairwise_distance(torch.ones(5, 1, 3072), x.flatten(1)),
        # weights that are whole numbers
        lambda x: (x[:, None] * torch.ones(5, 3, 1, 1, dtype=torch.int8)).sum(2),
        lambda x: torch._int_mm(x.flatten(0, 2).to(torch.int8), torch.ones(32, 8, dtype=torch.int8)),
        # a kernel that is made from the input, in another convolution
        lambda x: torch._C._nn.slow_conv3d(x[:, None], x[:1, :1, :1, :1, None], (1, 1, 1)),
        # tables of one column
        lambda x: torch.ones(9)[x.flatten(1).long()],
        lambda x: torch.ones(9).take(x.flatten(1).long()),
        lambda x: F.bilinear(x, x, torch.ones(4, 32, 32)),
        lambda x: F.embedding(x.flatten(1).long(), torch.ones(9, 4)),
        lambda x: DeformConv2d(3, 4, 3)(x, x.mean().expand(2, 18, 30, 30)),
    ],
)
def test_operations_with_a_weight(forward):
    assert strict(lambda net, x: net.last(x), last=forward) == 1
    assert strict(lambda net, x: net.last(net.first(x)), first=conv(3), last=forward) == 2


PLANE, FIRST = torch.ones(2, 1, 32, 32), torch.tensor([0])


@mark.parametrize(
    "forward",
    [
        nn.BatchNorm2d(3),
        lambda x: F.layer_norm(x, (32,), torch.ones(32)),
        lambda x: F.group_norm(x, 3, torch.ones(3)),
        lambda x: F.prelu(x, torch.ones(3)),
        lambda x: x * torch.ones(3, 1, 1),
        lambda x: x + torch.ones(3, 32, 32),
        lambda x: x - torch.ones(3, 32, 32),
        lambda x: x.mean((2, 3), keepdim=True) - torch.ones(32, 32),
        lambda x: torch.rsub(x, torch.ones(3, 1, 1).expand(3, 32, 32)),
        lambda x: x[:, torch.tensor([True, False, True])],
        lambda x: x * x.sigmoid(),
        lambda x: x * x.mean((2, 3), keepdim=True),
        lambda x: F.interpolate(x, scale_factor=2.0),
        lambda x: F.max_pool2d(x, 2),
        lambda x: torch.cat([x, torch.ones(2, 3, 32, 32)], 1),
        lambda x: x[:, [2, 0]],
        lambda x: x.flatten(2)[:, :, torch.zeros(9, 9, dtype=torch.long)],
        lambda x: F.dropout(x, 0.5),
        lambda x: torch.where(x > torch.ones(32, 32), x, torch.ones(32, 32)),
        lambda x: x.masked_fill(torch.ones(32, 32, dtype=torch.bool), 0.0),
        lambda x: torch.maximum(torch.minimum(torch.rsub(x - PLANE, PLANE), PLANE), PLANE),
        lambda x: x + torch.baddbmm(x[:, 0], PLANE[:, 0], PLANE[:, 0])[:, None],  # of two constants
        lambda x: x.masked_scatter(PLANE > 0, torch.ones(2, 3, 32, 32)),
        lambda x: x.index_add(1, FIRST, PLANE).index_copy(1, FIRST, PLANE),
        lambda x: x.select_scatter(PLANE[:, 0], 1, 0).slice_scatter(PLANE, 1, 1, 2),
        lambda x: x.index_put((FIRST,), PLANE[0, 0]).scatter_add(1, 0 * PLANE.long(), PLANE),
    ],
)
@mark.parametrize("training", [False, True])
def test_operations_without_one(forward, training):
    net = Net(lambda net, x: net.last(net.first(x)[:, :2]), first=forward, last=nn.Conv2d(2, 1, 1))
    assert count_depth(net, SHAPE, training)[:3] == (1, 1, 1)


def test_products_of_activations_count_in_the_stricter_depth_only():
    def covariance(net, x):
        features = net.a(x).flatten(2)
        return net.head((features @ features.mT).flatten(1))

    assert count_depth(Net(covariance, a=conv(), head=nn.Linear(9, 2)), SHAPE)[:3] == (2, 3, 2)

    def attend(net, x):
        q = net.a(x)
        return torch.einsum("bcij,bckj->bcik", q, q).softmax(-1) @ q

    def fused(net, x):
        q = net.a(x)
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return F.scaled_dot_product_attention(q, q, q)

    def biased(net, x):
        q = net.a(x)[:, 0]
        return torch.baddbmm(torch.ones(2, 32, 32), torch.baddbmm(torch.ones(2, 32, 32), q, q).softmax(-1), q)

    for forward in (
        attend,
        torch.inference_mode()(attend),
        lambda net, x: F.scaled_dot_product_attention(*[net.a(x)] * 3),
        fused,
        biased,
    ):
        assert count_depth(Net(forward, a=conv()), SHAPE)[:3] == (1, 3, 1)


def test_attention_to_learned_tokens_has_weights():
    keys = torch.ones(1, 3, 7, 32)
    assert strict(lambda net, x: F.scaled_dot_product_attention(x, keys, keys)) == 2


# ---------------------------------------------------------------- paths


def test_parallel_branches_take_the_longest():
    branches = {"a": conv(), "b": nn.Sequential(conv(), conv(), conv())}
    depth = count_depth(Net(lambda net, x: net.a(x) + net.b(x), **branches), SHAPE)
    assert (
        depth.strict == 3
        and depth.operations == 4
        and [step.split()[0] for step in depth.path] == ["b.0", "b.1", "b.2"]
    )
    assert strict(lambda net, x: torch.cat([net.a(x), net.b(x)]), **branches) == 3
    assert strict(lambda net, x: torch.stack([net.b(x), net.a(x)]).amax(0), **branches) == 3
    assert strict(lambda net, x: net.a(x), **branches) == 1  # the deep branch leads nowhere


def test_each_depth_takes_its_own_longest_branch():
    def gram(x):
        return x @ x.mT

    net = Net(lambda net, x: net.b(x) + gram(gram(gram(net.a(x)))), a=conv(), b=nn.Sequential(conv(), conv()))
    assert count_depth(net, SHAPE)[:2] == (2, 4)


def test_the_first_parameter_need_not_be_real():
    for dtype in (torch.complex64, torch.int64):
        net = nn.Sequential(nn.Identity(), conv())
        net[0].weight = nn.Parameter(torch.ones(2, dtype=dtype), requires_grad=False)
        assert count_depth(net, SHAPE).strict == 1
    assert count_depth(net.double(), SHAPE).strict == 1


def test_each_use_of_a_shared_weight_counts():
    assert strict(lambda net, x: net.a(net.a(net.a(x))), a=conv()) == 3
    assert strict(lambda net, x: net.a(x) + net.a(2 * x), a=conv()) == 1


def test_a_path_replaced_by_the_identity_is_gone():
    net = ScaledResNet("resnet10", 5, width=0.1)
    net.conv1, net.bn1 = nn.Identity(), nn.BatchNorm2d(3)
    net.layer1 = nn.Conv2d(3, 6, 1)
    assert count_depth(net, SHAPE).strict == 8


def test_a_kernel_made_from_the_input_passes_its_depth_on():
    def dynamic(net, x):
        weight = net.two(net.one(x.mean((0, 2, 3)))).view(3, 3, 1, 1)
        return F.conv2d(x, weight)

    assert strict(dynamic, one=nn.Linear(3, 4), two=nn.Linear(4, 9)) == 3

    def as_product(net, x):  # what tells a kernel from any other activation is the convolution
        return torch.bmm(net.two(net.one(x.mean((2, 3)))).view(2, 3, 3), x.flatten(2))

    assert count_depth(Net(as_product, one=nn.Linear(3, 4), two=nn.Linear(4, 9)), SHAPE)[:2] == (2, 3)
    # from a parameter: a function of weights is a weight
    generate = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 9))
    assert (
        strict(lambda net, x: F.conv2d(x, net.generate(torch.ones(4)).view(3, 3, 1, 1)), generate=generate)
        == 1
    )


def test_a_weight_overwritten_by_the_input():
    def smuggle(net, x):
        net.b.weight.data.copy_(net.a(x).mean((0, 2, 3)).view(3, 1, 1, 1).expand(3, 3, 1, 1))
        return net.b(torch.ones(1, 3, 4, 4))

    assert strict(smuggle, a=conv(), b=conv()) == 2


def in_place_add(net, x):
    x = net.a(x)
    x += net.c(net.b(x))
    return net.d(x)


def through_a_view(net, x):
    buffer = torch.zeros(2, 6, 32, 32)
    flat = buffer.flatten(2)
    buffer[:, 3:] = net.c(net.b(net.a(x)))
    return flat * 1 @ torch.ones(1024, 2)


def overwritten(net, x):
    buffer = torch.zeros(2, 6, 32, 32)
    buffer[:, 3:] = net.c(net.b(net.a(x)))
    buffer[:, :3] = x
    return buffer.flatten(2) @ torch.ones(1024, 2)


def many_at_once(net, x):
    buffer = torch.zeros_like(x)
    torch._foreach_add_([buffer], [net.c(net.b(net.a(x)))])
    return net.d(buffer)


def into_out(net, x):
    return net.d(torch.add(net.c(net.b(net.a(x))), 1, out=torch.empty_like(x)))


def unbound(net, x):
    return sum(net.d(torch.stack(net.c(net.b(net.a(x))).unbind(1), 1)).split(1, 1))


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return F.conv2d(F.conv2d(x, W), W)


@mark.parametrize(
    "forward",
    [
        in_place_add,
        through_a_view,
        overwritten,
        many_at_once,
        into_out,
        unbound,
        lambda net, x: net.b(net.a(Double.apply(x))),
        lambda net, x: net.d(checkpoint(lambda y: net.c(net.b(net.a(y))), x, use_reentrant=False)),
        lambda net, x: net.c(net.b(net.a(x))).detach().clone().relu_().permute(0, 2, 3, 1) @ torch.ones(3, 2),
    ],
)
def test_nothing_hides_four_layers(forward):
    assert strict(forward, **{name: conv() for name in "abcd"}) == 4


def test_inference_mode_and_frozen_weights_hide_nothing():
    net = nn.Sequential(conv(), nn.Flatten(), nn.Linear(3 * 32 * 32, 4), nn.Linear(4, 2))
    whole = Net(torch.inference_mode()(lambda self, x: self.net(x)), net=net.requires_grad_(False))
    assert count_depth(whole, SHAPE)[:3] == (3, 3, 3)


# ---------------------------------------------------------------- what cannot be counted, and side effects


@library.custom_op("tests::hides_a_convolution", mutates_args=())
def hides_a_convolution(x: torch.Tensor) -> torch.Tensor:
    return F.conv2d(x, W)


@mark.parametrize(
    "forward, message",
    [
        (lambda net, x: x * net.a(x).mean().item(), "turns a tensor that depends on the input into a"),
        (lambda net, x: net.a(x) if x.sum() > 0 else x, "turns a tensor that depends on the input into a"),
        (lambda net, x: torch.ones(2, 5), "does not depend on the input"),
        (lambda net, x: net.a(x) if x.mean().tolist() > 0 else x, "turns a tensor that depends on the input"),
        (lambda net, x: x + torch.from_numpy(net.a(x).numpy()), "turns a tensor that depends on the input"),
        (lambda net, x: x + torch.tensor(np.asarray(net.a(x))), "turns a tensor that depends on the input"),
        (lambda net, x: net.lstm(x[:, 0])[0], "weights in one operation"),
        (lambda net, x: net.a(x) if len(torch.where(x > 0)[0]) else x, "shape depends on the values"),
        (lambda net, x: net.a(x) if len(x[x > 0]) else x, "shape depends on the values"),
        (lambda net, x: net.a(x) if len(x.masked_select(x > 0)) else x, "shape depends on the values"),
        (lambda net, x: net.a(x) if len(x.unique()) > 9 else x, "shape depends on the values"),
        (lambda net, x: torch.sparse.mm(torch.eye(32).to_sparse(), x[0, 0]), "layout torch.sparse_coo"),
        (lambda net, x: torch.cond(x.sum() > 0, lambda y: y + 1, lambda y: y * 2, (x,)), "may hide weights"),
        (lambda net, x: hides_a_convolution(x), "hides_a_convolution.default may hide weights"),
        (lambda net, x: torch.inference_mode()(hides_a_convolution)(x), "may hide weights"),
    ],
)
def test_what_cannot_be_followed_is_an_error(forward, message):
    with value_error(message):
        strict(forward, a=conv(), lstm=nn.LSTM(32, 2))


def test_counting_leaves_the_model_alone():
    net = nn.Sequential(conv(), nn.BatchNorm2d(3), nn.BatchNorm2d(3)).train()
    net[1].eval()
    before = copy.deepcopy(net.state_dict())
    fast = torch.backends.mha.get_fastpath_enabled()
    count_depth(net, SHAPE, training=True)
    assert unchanged(net, before)
    assert net.training and not net[1].training and net[2].training
    assert torch.backends.mha.get_fastpath_enabled() == fast
