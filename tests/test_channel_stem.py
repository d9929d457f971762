"""The properties a stem for any set of channels must have."""

import copy
import itertools
import math

import torch
from helpers import assert_near, count_macs, value_error
from pytest import approx, mark
from small_networks import COVARIANCE, STATISTICS
from torch import nn
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from channelset import (
    FILLS,
    UNSEEN,
    ChannelSetConv2d,
    all_subsets,
    build_fill,
    find_stem,
    fold_channels,
    sample_channels,
)
from models.task1 import KERNELS, build_channel_net

FOLDING = [name for name in FILLS if name not in ("black", "conditioned")]


def make_stem(fill: str, kernel: str = "free", embedding: bool = True, **conv) -> ChannelSetConv2d:
    torch.manual_seed(0)
    rule, conv = build_fill(fill, 3, **STATISTICS), {"kernel_size": 5, "stride": 2, "padding": 2, **conv}
    extra = {"wavelengths": [0.5] * rule.rows} if kernel == "wavelength" and rule.rows != 3 else {}
    generator = KERNELS[kernel] and KERNELS[kernel](8, rule.rows, conv["kernel_size"], **extra)
    stem = ChannelSetConv2d(3, 8, **conv, fill=rule, kernel=generator, embedding=embedding)
    if embedding:
        nn.init.normal_(stem.embedding)
    if fill in ("learned", "conditioned"):
        nn.init.normal_(stem.fill.correction[2].weight)
    return stem


def mask_of(ids, batch: int) -> torch.Tensor:
    return torch.tensor([[c in ids for c in range(3)]]).expand(batch, 3)


@mark.parametrize(
    "fill, kernel",
    sorted(
        {
            *itertools.product(FILLS, ("free", "dynamic")),
            *itertools.product(("regression", "conditioned", "luma_chroma"), KERNELS),
        }
    ),
)
def test_folded_equals_two_step_forward_and_gradient(fill, kernel):
    stem, x = make_stem(fill, kernel).eval(), torch.randn(4, 3, 17, 12)
    for ids in all_subsets(3):
        results = []
        for mode in ("kernel", "mask"):
            stem.zero_grad()
            image = x.clone().requires_grad_()
            y = stem(image[:, ids], ids) if mode == "kernel" else stem(image, mask=mask_of(ids, 4))
            (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
            results.append([y, image.grad, *(p.grad for p in stem.parameters() if p.grad is not None)])
        assert len(results[0]) == len(results[1]) > 3
        for folded, two_step in zip(*results):
            assert_close(folded, two_step, rtol=1e-4, atol=2e-4)


@mark.parametrize("fill", FOLDING)
def test_fold_is_one_plain_conv_and_exports(fill):
    stem, x = make_stem(fill), torch.randn(2, 3, 16, 16)
    for ids in all_subsets(3):
        conv = stem.fold(ids)
        assert type(conv) is nn.Conv2d and conv.in_channels == len(ids)
        assert_near(conv(x[:, ids]), stem(x[:, ids], ids))
    if fill != "regression":  # all are of this type
        return
    graph = torch.export.export(stem.fold([0, 2]), (x[:, :2],)).graph
    assert [n.target for n in graph.nodes if n.op == "call_function"] == [torch.ops.aten.conv2d.default]


@mark.parametrize(
    "fill, kernel, reason",
    [
        ("black", "free", "black"),
        ("conditioned", "free", "fill rule depends"),
        ("zero", "dynamic", "kernel depends"),
        ("rescale", "omni", "kernel depends"),
    ],
)
def test_what_is_no_plain_convolution_refuses_to_fold(fill, kernel, reason):
    with value_error(reason):
        make_stem(fill, kernel).fold([0])


@mark.parametrize("fill", FILLS)
def test_permuting_channels_and_ids_together_changes_nothing(fill):
    stem, x = make_stem(fill), torch.randn(2, 3, 9, 9)
    assert_close(stem(x[:, [2, 0]], [2, 0]), stem(x[:, [0, 2]], [0, 2]))
    if fill != "grey":  # all other rules tell the channels apart
        assert not torch.allclose(stem(x[:, [2, 0]], [2, 0]), stem(x[:, [2, 0]], [0, 2]))


@mark.parametrize("garbage", [math.nan, math.inf, 1e30])
@mark.parametrize("fill", FILLS)
def test_pixels_of_absent_channels_have_no_influence(fill, garbage):
    stem, x = make_stem(fill), torch.randn(3, 3, 8, 8)
    mask = torch.tensor([[True, False, False], [True, True, False], [False, False, True]])
    dirty = torch.where(mask[:, :, None, None], x, garbage).requires_grad_()
    y, expected = stem(dirty, mask=mask), stem(x, mask=mask)
    assert torch.equal(y, expected)
    (slope,) = torch.autograd.grad(y.square().sum(), dirty, create_graph=True)
    assert not slope[~mask].any()
    (y.sum() + slope.square().sum()).backward()  # with a penalty of the gradient
    assert all(p.grad.isfinite().all() for p in (*stem.parameters(), dirty) if p.grad is not None)


def test_grey_image_gives_the_same_output_for_every_subset_under_mean_fill():
    stem = make_stem("mean", embedding=False)
    x = torch.randn(2, 1, 10, 10).expand(2, 3, 10, 10)
    full = stem(x)
    for ids in all_subsets(3):
        assert_near(stem(x[:, ids], ids), full)


@mark.parametrize(
    "fill", ["zero", "rescale", "mean", "regression", "learned", "conditioned", "black", "luma_chroma"]
)
def test_with_all_channels_it_is_the_conv_it_was_made_from(fill):
    conv, x = nn.Conv2d(3, 6, 7, 2, 3, bias=True), torch.randn(2, 3, 21, 30)
    stem = ChannelSetConv2d.from_conv2d(conv, build_fill(fill, 3, **STATISTICS))
    assert_near(stem(x), conv(x))


@mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(3, 4, 3, padding_mode="reflect"),
        nn.LazyConv2d(4, 3),
        nn.Conv1d(3, 4, 3),
        nn.ConvTranspose2d(3, 4, 3),
        nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)),
    ],
)
def test_from_conv2d_refuses_what_it_cannot_express(conv):
    with value_error("from_conv2d"):
        ChannelSetConv2d.from_conv2d(conv)


@mark.parametrize("size", [(7, 7), (32, 20), (65, 33)])
@mark.parametrize(
    "conv", [{}, {"stride": 1, "padding": 0}, {"kernel_size": 3, "stride": 3, "padding": 1, "dilation": 2}]
)
def test_output_size_is_conv2ds_for_any_height_and_width(size, conv):
    stem, x = make_stem("regression", **conv), torch.randn(1, 3, *size)
    plain = nn.Conv2d(3, 8, stem.kernel_size, stem.stride, stem.padding, stem.dilation)
    if min(size) > stem.dilation[0] * (stem.kernel_size[0] - 1) - 2 * stem.padding[0]:
        assert stem(x[:, :1], [2]).shape == stem(x, mask=mask_of([2], 1)).shape == plain(x).shape


def test_linear_fill_is_the_least_squares_regression():
    pixels = torch.randn(50_000, 3, dtype=torch.float64) @ torch.linalg.cholesky(COVARIANCE.double()).T
    covariance = pixels.T @ pixels / len(pixels)
    fill = build_fill("regression", 3, covariance=covariance, std=torch.ones(3))
    fitted = torch.linalg.lstsq(pixels[:, [0, 2]], pixels[:, [1]]).solution[:, 0]
    row = fill(torch.tensor([True, False, True]))[1].double()
    assert_close(row, torch.stack([fitted[0], torch.tensor(0.0), fitted[1]]), rtol=1e-3, atol=1e-4)


@mark.parametrize("fill", ["zero", "rescale", "mean", "regression", "learned"])
def test_present_rows_are_unit_vectors_and_absent_columns_zero(fill):
    rule = make_stem(fill).fill
    matrix = rule(torch.tensor([[True, False, True], [False, True, False]]))
    factor = 1.5 if fill == "rescale" else 1.0
    assert torch.equal(matrix[0, 0], torch.tensor([factor, 0, 0])) and torch.equal(
        matrix[0, :, 1], torch.zeros(3)
    )
    assert torch.equal(matrix[1][:, [0, 2]], torch.zeros(3, 2))


def test_the_ridge_is_a_share_of_each_variance():
    rule = build_fill("regression", 2, std=[1, 1], covariance=[[4.0, 1.0], [1.0, 1.0]], ridge=0.5)
    assert rule.columns([0])[1].item() == approx(1 / (1.5 * 4))
    assert rule.columns([1])[0].item() == approx(1 / 1.5)


def test_conditioned_fill_reads_the_mask_and_each_channels_mean_and_deviation():
    rule, seen = build_fill("conditioned", 3, **STATISTICS), []
    rule.correction.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    mask = torch.tensor([[True, False, True], [True, True, True]])
    x = torch.randn(2, 3, 5, 4) * mask[..., None, None]
    rule.complete(x, mask)
    expected = torch.cat([mask, x.mean((2, 3)), x.std((2, 3), correction=0)], 1)
    assert_close(seen[0], expected)


def test_linear_fill_survives_duplicate_channels():
    fill = build_fill("regression", 3, covariance=torch.ones(3, 3), std=torch.ones(3))
    matrix = fill(torch.tensor([True, True, False]))
    assert_close(matrix[2], torch.tensor([0.5, 0.5, 0.0]), rtol=1e-3, atol=1e-3)


def test_rules_are_computed_in_float32_under_autocast():
    class Watched(FILLS["regression"]):
        def forward(self, mask):
            assert not torch.is_autocast_enabled("cpu")
            return super().forward(mask)

    stem = ChannelSetConv2d(3, 4, 3, fill=Watched(3, COVARIANCE))
    with torch.autocast("cpu", torch.bfloat16):
        two_step, folded = (
            stem(torch.ones(1, 3, 8, 8), mask=mask_of([0], 1)),
            stem(torch.ones(1, 1, 8, 8), [0]),
        )
    assert_close(two_step, folded, rtol=0.05, atol=0.05)


@mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@mark.parametrize("fill", FILLS)
def test_the_stem_works_in_other_floating_point_types(fill, dtype):
    stem, x = make_stem(fill), torch.randn(2, 3, 12, 12)
    expected = stem(x, mask=mask_of([0, 2], 2))
    stem = stem.to(dtype)
    for y in (stem(x.to(dtype), mask=mask_of([0, 2], 2)), stem(x[:, [0, 2]].to(dtype), [0, 2])):
        assert y.dtype == dtype
        assert_close(y.float(), expected, rtol=0.1, atol=0.1)


@mark.parametrize("channels", [3, 18])
@mark.parametrize("fill", ["zero", "grey", "mean", "black", "regression", "learned", "luma_chroma"])
def test_the_default_type_of_torch_changes_nothing(fill, channels):
    statistics = {"mean": torch.ones(channels), "std": torch.ones(channels)}
    rule = build_fill(fill, channels, covariance=torch.eye(channels) + 0.5, **statistics)
    made, x = ChannelSetConv2d(channels, 4, 3, fill=rule).eval(), torch.randn(2, channels, 5, 5)
    nn.init.normal_(made.embedding)

    def results():
        stem, random = copy.deepcopy(made), torch.Generator().manual_seed(0)  # a copy remembers no sets
        mask, ids = sample_channels(2, channels, generator=random), [2, 0, 1]
        return [mask, stem(x, mask=mask), stem(x[:, ids], ids), stem.fill(mask[0]), stem.fill.columns(ids)]

    expected = results()
    for dtype in (torch.float64, torch.bfloat16):
        torch.set_default_dtype(dtype)
        try:
            found = results()
        finally:
            torch.set_default_dtype(torch.float32)
        for one, other in zip(found, expected):
            assert torch.equal(one, other)


# ---------------------------------------------------------------- open set


def test_open_set_chroma_vanishes_with_one_channel():
    stem = make_stem("luma_chroma", embedding=False)
    x = torch.randn(2, 1, 8, 8)
    outputs = [stem(x, [i]) for i in (0, 1, 2, UNSEEN)]
    for output in outputs[1:]:
        assert_close(output, outputs[0])
    assert torch.equal(stem.fill(mask_of([1], 1))[0, 1:], torch.zeros(3, 3))


def test_open_set_takes_channels_never_trained_on():
    stem = make_stem("luma_chroma")
    x = torch.randn(2, 5, 8, 8)
    y = stem(x, [0, UNSEEN, 1, UNSEEN, 2])
    order = [4, 1, 0, 3, 2]
    assert_close(stem(x[:, order], [2, UNSEEN, 0, UNSEEN, 1]), y)
    luma, chroma = stem.weight[:, 0], stem.weight[:, 1:]
    unseen = chroma.mean(1)  # the chroma kernel that an unseen channel takes
    expected = luma / 2 + unseen - (unseen + chroma[:, 0]) / 2
    assert_close(stem.kernel([UNSEEN, 0])[:, 0], expected)
    # an unseen channel takes the mean of the known channels' embeddings
    plain = nn.functional.conv2d(x[:, :2], stem.kernel([UNSEEN, 0]), None, stem.stride, stem.padding)
    mean = (stem.embedding.mean(0) + stem.embedding[0]) / 2
    assert_close(stem(x[:, :2], [UNSEEN, 0]), plain + mean[:, None, None])


def test_thirteen_channels():
    samples = torch.randn(200, 13) @ torch.randn(13, 13)
    for name in FOLDING:
        fill = build_fill(name, 13, covariance=samples.T.cov(), std=samples.std(0))
        stem, ids = ChannelSetConv2d(13, 4, 3, padding=1, fill=fill), [12, 3, 7]
        x, mask = torch.randn(2, 13, 8, 8), torch.zeros(2, 13, dtype=torch.bool)
        mask[:, ids] = True
        assert_close(stem(x[:, ids], ids), stem(x, mask=mask), rtol=1e-3, atol=1e-3)


def test_on_known_channels_luma_chroma_is_mean_fill():
    """With W_c = D_c + (A - sum D) / C the two generate the same kernel for every set."""
    luma_chroma = make_stem("luma_chroma", embedding=False)
    luma, chroma = luma_chroma.weight[:, :1], luma_chroma.weight[:, 1:]
    mean = make_stem("mean", embedding=False)
    with torch.no_grad():
        mean.weight.copy_(chroma + (luma - chroma.sum(1, keepdim=True)) / 3)
    for ids in all_subsets(3):
        assert_close(luma_chroma.kernel(ids), mean.kernel(ids), rtol=1e-4, atol=1e-6)


# ---------------------------------------------------------------- bad input


@mark.parametrize(
    "channels, message",
    [
        ([0, 3], "known ids are 0 to 2"),
        ([0, 0], "repeat"),
        ([], "at least one"),
        ([0], "x has 2 channels but the call names 1"),
        ([0, UNSEEN], "luma_chroma"),
        ([True, False], "True is a bool"),
        ([0.2, 1.7], "wavelength in nm"),
        ("RG", "no channel"),
        (None, "x has 2 channels but the stem has 3"),
    ],
)
def test_wrong_ids_are_one_clear_error(channels, message):
    with value_error(message):
        make_stem("regression")(torch.randn(1, 2, 8, 8), channels)


def test_an_unseen_channel_is_refused_where_all_channels_are_needed():
    """A kernel that depends on the image reads all channels, so it took the image for that of the last channel."""
    net = build_channel_net("resnet10", 3, 2, fill="luma_chroma", kernel="dynamic", width=0.1).eval()
    with value_error("unseen in training"):
        net(torch.randn(1, 1, 32, 32), channels=[UNSEEN])


def test_wrong_masks_are_one_clear_error():
    stem, x = make_stem("regression"), torch.randn(2, 3, 8, 8)
    for mask in (torch.ones(2, 3), torch.ones(2, 2, dtype=torch.bool), torch.ones(1, 3, dtype=torch.bool)):
        with value_error("bool"):
            stem(x, mask=mask)
    with value_error("without any channel"):
        stem(x, mask=torch.tensor([[True, True, True], [False, False, False]]))
    with value_error("not both"):
        stem(x, channels=[0, 1, 2], mask=mask_of([0], 2))


# ---------------------------------------------------------------- in a network


@mark.parametrize("fill", FOLDING)
def test_folded_network_equals_the_network_of_sets(fill):
    net = build_channel_net("resnet10", 3, 5, fill, width=0.125, **STATISTICS).eval()
    nn.init.normal_(find_stem(net).embedding)
    x = torch.randn(3, 3, 33, 40)
    for ids in all_subsets(3):
        assert_close(fold_channels(net, ids)(x[:, ids]), net(x, mask=mask_of(ids, 3)), rtol=1e-3, atol=1e-4)


@mark.parametrize("embedding", [False, True])
def test_macs_of_folded_kernel_and_generation_match_the_flop_counter(embedding):
    net = build_channel_net("resnet10", 3, 5, "regression", width=0.25, embedding=embedding, **STATISTICS)
    net.eval()
    for ids in all_subsets(3):
        x = torch.randn(1, len(ids), 32, 32)
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            net(x, channels=ids)
        counted = counter.get_total_flops() // 2
        ours = count_macs(fold_channels(net, ids), tuple(x.shape[1:])) + find_stem(net).generation_macs(
            len(ids)
        )
        if len(ids) == 3:  # W is taken as it is
            assert counted == count_macs(fold_channels(net, ids), tuple(x.shape[1:]))
        else:
            assert counted == ours


# ---------------------------------------------------------------- numerics


def test_single_precision_is_enough_for_sets_of_thirteen_bands():
    """Bands as correlated as those of a satellite (condition 1e4): the fill, the kernel and the output in float32
    against the inverse in float64."""
    spectrum = torch.logspace(0.9, -3.1, 13, dtype=torch.float64)
    basis = torch.linalg.qr(torch.randn(13, 13, dtype=torch.float64))[0]
    covariance = basis @ torch.diag(spectrum) @ basis.T
    correlation = covariance / torch.outer(covariance.diagonal().sqrt(), covariance.diagonal().sqrt())
    fill = build_fill("regression", 13, covariance=correlation)
    stem = ChannelSetConv2d(13, 4, 3, padding=1, fill=fill)
    exact = correlation + 1e-6 * torch.eye(13, dtype=torch.float64)
    x = (torch.linalg.cholesky(exact) @ torch.randn(13, 64, dtype=torch.float64)).view(1, 13, 8, 8)
    worst = 0.0
    for number in range(1, 2**13, 21):
        ids = [i for i in range(13) if number >> i & 1]
        absent = [i for i in range(13) if i not in ids]
        wanted = torch.zeros(13, len(ids), dtype=torch.float64)
        wanted[ids, range(len(ids))] = 1
        if absent:
            wanted[absent] = torch.linalg.solve(exact[ids][:, ids], exact[ids][:, absent]).T
        got = fill.columns(ids).double()
        worst = max(worst, float((got - wanted).abs().max() / wanted.abs().max()))
        if number % 210 == 1:
            kernel = torch.einsum("ojhw,jn->onhw", stem.weight.detach().double(), wanted)
            y = nn.functional.conv2d(x[:, ids], kernel, padding=1)
            for output in (stem(x[:, ids].float(), ids), stem.fold(ids)(x[:, ids].float())):
                assert (output.double() - y).abs().max() < 1e-3 * y.abs().max()
    assert worst < 2e-3


@mark.parametrize("value", [0.0, 1e-30, 1e30, 3e38])
def test_extreme_pixels_stay_finite_in_the_fill(value):
    stem = make_stem("regression")
    mask = torch.tensor([[True, False, True]])
    assert (
        stem.fill(mask).isfinite().all()
        and stem(torch.full((1, 3, 8, 8), value / 1e6), mask=mask).isfinite().all()
    )


def test_a_seed_gives_the_same_bits_on_a_cpu():
    def run() -> torch.Tensor:
        torch.manual_seed(3)
        stem = ChannelSetConv2d(3, 8, 3, fill=build_fill("regression", 3, **STATISTICS))
        x, mask = torch.randn(4, 3, 9, 9), torch.rand(4, 3) < 0.7
        y = stem(x, mask=mask | (mask.sum(1, keepdim=True) == 0))
        y.square().sum().backward()
        return torch.cat([y.flatten().detach(), stem.weight.grad.flatten()])

    assert torch.equal(run(), run())
