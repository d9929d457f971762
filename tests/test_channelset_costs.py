"""What sets cost: nothing where all channels are there, and each set's coefficients once."""

import copy

import torch
from helpers import assert_near
from pytest import mark
from small_networks import hidden
from torch import nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from channelset import ChannelSetConv2d, build_fill
from channelset import fill as fills


class Count(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.__name__)
        return func(*args, **(kwargs or {}))


def covariance_of(channels: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    spectra = torch.randn(channels, 6, generator=random, dtype=torch.float64)
    return spectra @ spectra.T + 0.05 * torch.eye(channels)


def make_stem(fill: str, channels: int, **options) -> ChannelSetConv2d:
    torch.manual_seed(0)
    rule = build_fill(
        fill,
        channels,
        covariance=covariance_of(channels),
        mean=torch.ones(channels),
        std=torch.ones(channels),
    )
    stem = ChannelSetConv2d(channels, 8, 3, padding=1, fill=rule, **options)
    nn.init.normal_(stem.embedding)
    return stem


def operations(work) -> list[str]:
    with Count() as count, torch.no_grad():
        work()
    return [name for name in count.names if not name.startswith(("detach", "alias", "view", "t."))]


@mark.parametrize("channels", [3, 13, 224])
@mark.parametrize("fill", ["zero", "rescale", "mean", "regression", "black"])
def test_all_channels_cost_at_most_three_operations_more(fill, channels):
    stem, x = make_stem(fill, channels, bias=True), torch.randn(2, channels, 8, 8)
    plain = nn.Conv2d(channels, 8, 3, padding=1)
    for mode in (stem.train(), stem.eval()):
        more = len(operations(lambda mode=mode: mode(x))) - len(operations(lambda: plain(x)))
        assert more <= 3
    mask = torch.ones(2, channels, dtype=torch.bool)
    with torch.no_grad():
        assert_close(stem(x, mask=mask), stem(x), rtol=0, atol=0)
    assert len(operations(lambda: stem(x, mask=mask))) <= 3 + len(operations(lambda: stem(x)))


@mark.parametrize("channels", [5, 13, 40])
def test_a_set_is_computed_once_in_eval_mode(channels):
    stem, x = make_stem("regression", channels).eval(), torch.randn(2, channels, 8, 8)
    ids = list(range(0, channels, 2))
    first, again = (operations(lambda: stem(x[:, ids], ids)) for _ in range(2))
    assert len(again) < len(first) - 5
    train = copy.deepcopy(stem).train()
    assert_close(train(x[:, ids], ids), stem(x[:, ids], ids), rtol=0, atol=0)
    assert not train.fill.cache and not copy.deepcopy(stem).fill.cache
    with torch.no_grad():
        stem.fill.covariance.copy_(torch.eye(channels))  # another covariance, as a loaded one
    expected = make_stem("regression", channels).eval()
    expected.fill.covariance.copy_(torch.eye(channels))
    assert_close(stem(x[:, ids], ids), expected(x[:, ids], ids), rtol=0, atol=0)
    with torch.inference_mode():
        stem(x[:, :1], [0])
    stem(x[:, :1], [0]).sum().backward()  # what was remembered there is of use here
    for i in range(600):
        stem.fill.columns([i % channels, (i * 7 + 1 + i % channels) % channels or channels - 1][: 1 + i % 2])
    assert len(stem.fill.cache) <= fills.CACHED


@mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@mark.parametrize("channels", [17, 40, 224])
def test_many_channels_are_solved_as_exactly_as_few_are_swept(channels, layout):
    stem = make_stem("regression", channels)
    mask = torch.rand(6, channels) < torch.rand(6, 1)
    mask[:, 0] |= ~mask.any(1)
    exact, eye = stem.fill.covariance.double(), torch.eye(channels, dtype=torch.float64)
    wanted = torch.zeros(6, channels, channels, dtype=torch.float64)
    for row, matrix in zip(mask, wanted):
        here, away = row.nonzero()[:, 0], (~row).nonzero()[:, 0]
        matrix[here[:, None], here] = eye[: len(here), : len(here)]
        matrix[away[:, None], here] = torch.linalg.solve(exact[here][:, here], exact[here][:, away]).T
    got = stem.fill(mask).double()
    assert (got - wanted).abs().max() < 1e-5 * wanted.abs().max()
    x = torch.randn(6, channels, 8, 6).contiguous(memory_format=layout)
    dirty = hidden(x, mask).contiguous(memory_format=layout)
    filled = stem.fill.complete(dirty, mask)
    expected = torch.einsum("bij,bjhw->bihw", wanted, torch.where(mask[:, :, None, None], x, 0.0).double())
    assert_near(filled.double(), expected, 1e-4)
    learns = dirty.clone().requires_grad_()
    assert_near(stem.fill.complete(learns, mask), filled, 1e-4)
    ids = mask[0].nonzero()[:, 0].tolist()
    assert_near(stem.fill.columns(ids).double(), wanted[0][:, ids])


@mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_large_images_of_many_channels_are_convolved_set_by_set(layout):
    stem = make_stem("regression", 20, bias=True).eval()
    x = torch.randn(5, 20, 16, 12).contiguous(memory_format=layout)
    mask = torch.rand(5, 20) < 0.5
    mask[3] = mask[1]
    dirty = hidden(x, mask).contiguous(memory_format=layout)
    expected = stem(x, mask=mask)  # with gradients it is filled
    with torch.no_grad():
        assert_close(stem(dirty, mask=mask), expected, rtol=1e-3, atol=1e-4)
        assert stem(dirty, mask=mask).is_contiguous(memory_format=layout)
        assert operations(lambda: stem(dirty, mask=mask)).count("convolution.default") == 4


@mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_many_channels_train_under_autocast(layout):
    stem, mask = make_stem("regression", 20), torch.arange(20).expand(2, -1) % 2 == 0
    x = torch.randn(2, 20, 8, 8).contiguous(memory_format=layout)
    expected = stem(x, mask=mask)
    with torch.autocast("cpu", torch.bfloat16):
        y = stem(x, mask=mask)
    y.sum().backward()
    assert (y.float() - expected).norm() < 0.02 * expected.norm()


@mark.parametrize("fill", ["by_size", "learned", "conditioned"])
def test_the_rules_made_of_the_regression_agree_for_many_channels(fill):
    stem, x = make_stem(fill, 20).eval(), torch.randn(2, 20, 8, 8)
    if fill != "by_size":
        nn.init.normal_(stem.fill.correction[2].weight, 0, 0.1)
    ids = [3, 17, 5]
    mask = torch.zeros(2, 20, dtype=torch.bool)
    mask[:, ids] = True
    with torch.no_grad():
        assert_close(stem(x[:, ids], ids), stem(x, mask=mask), rtol=1e-3, atol=1e-3)
