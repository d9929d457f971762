"""The stem in other people's networks: the same function, any set, every part kept."""

import copy
import functools
import importlib
import pickle
import shutil
import sys
from collections import OrderedDict
from pathlib import Path

import torch
import torchvision
from helpers import unchanged, value_error
from pytest import importorskip, mark, raises, warns
from small_networks import COVARIANCE, HALF, OneConv, X, adapted, hidden, one_conv, outputs, small_net
from torch import nn
from torch.testing import assert_close

from channelset import (
    Channels,
    ChannelSetConv2d,
    adapt_first_conv,
    build_fill,
    channel_statistics,
    find_stem,
    fold_channels,
    present,
)
from utils import ROOT

NETWORKS = {  # name in torchvision -> (side of the images, options)
    "resnet18": (64, {}),
    "mobilenet_v3_small": (64, {}),
    "vgg11": (64, {}),
    "vit_b_32": (64, {"image_size": 64}),
    "googlenet": (96, {"transform_input": True, "init_weights": False}),
}


# what get_model makes of these has a hundred million weights, or takes images of 224 px alone
SMALLER = {
    "vgg11": lambda: nn.Sequential(
        OrderedDict(
            features=torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["A"]), head=nn.Flatten()
        )
    ),
    "vit_b_32": lambda image_size: torchvision.models.VisionTransformer(image_size, 32, 2, 4, 64, 128),
}


def make(name: str) -> tuple[nn.Module, int]:
    """Make the network, with BatchNorm statistics that differ from those at the start."""
    torch.manual_seed(0)
    size, options = NETWORKS[name]
    get = SMALLER.get(name, functools.partial(torchvision.models.get_model, name, weights=None))
    net = get(**options).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return net, size


def close(got, wanted) -> None:
    got, wanted = outputs(got), outputs(wanted)
    assert len(got) == len(wanted) > 0
    for mine, theirs in zip(got, wanted):
        assert mine.shape == theirs.shape
        scale = float(theirs.abs().max()) if theirs.numel() else 1.0
        assert_close(mine, theirs, rtol=0, atol=2e-4 * max(scale, 1e-3))


@mark.parametrize("name", NETWORKS)
def test_a_network_of_torchvision_in_one_line(name):
    plain, size = make(name)
    names = list(plain.state_dict())
    net = adapt_first_conv(copy.deepcopy(plain), "regression", covariance=COVARIANCE).eval()
    slot = next(path for path, module in net.named_modules() if isinstance(module, ChannelSetConv2d))
    assert set(net.state_dict()) - set(names) == {
        f"{slot}.{name}" for name in ("embedding", "fill.covariance", "_extra_state")
    }
    assert [key for key in net.state_dict() if key in names] == names
    x = torch.randn(2, 3, size, size)
    with torch.no_grad():
        close(net(x), plain(x))
        nn.init.normal_(find_stem(net).embedding, 0, 0.1)
        told = net(x[:, [0, 2]], channels=[0, 2])
        folded = fold_channels(net, [0, 2])
        close(folded(x[:, [0, 2]]), told)
        assert not any(isinstance(module, ChannelSetConv2d) for module in folded.modules())
        assert not folded._forward_pre_hooks and not folded._forward_hooks
        copied = pickle.loads(pickle.dumps(copy.deepcopy(net)))
        close(copied(x[:, [2, 0]], channels=[2, 0]), told)
        close(copied(hidden(x, HALF), mask=HALF), told)


timm_models = {
    "resnet50": 64,
    "convnext_tiny": 64,
    "efficientnet_b0": 64,
    "mobilenetv4_conv_small": 64,
    "vit_small_patch16_224": 224,
    "swin_tiny_patch4_window7_224": 224,
    "hrnet_w18_small": 64,
    "regnety_004": 64,
    "maxvit_rmlp_pico_rw_256": 256,
}


@mark.parametrize("name", timm_models)
def test_a_network_of_timm_in_one_line(name):
    timm = importorskip("timm")
    plain, x = timm.create_model(name).eval(), torch.randn(2, 3, timm_models[name], timm_models[name])
    net = adapt_first_conv(copy.deepcopy(plain), "regression", covariance=COVARIANCE)
    with torch.no_grad():
        close(net(x), plain(x))
        nn.init.normal_(find_stem(net).embedding, 0, 0.1)
        told = net(x[:, [0, 2]], channels=[0, 2])
        close(net(x, mask=HALF), told)
        close(fold_channels(net, [0, 2])(x[:, [0, 2]]), told)
        with present(net, channels=[0, 2]):
            close(net.forward_head(net.forward_features(x[:, [0, 2]])), told)
    assert net.default_cfg is plain.default_cfg or net.default_cfg == plain.default_cfg


@mark.parametrize("name", ["tf_efficientnet_b0", "nf_resnet50", "resnetv2_50x1_bit"])
def test_timms_own_convolutions_are_refused(name):
    timm = importorskip("timm")
    with value_error("stem.* is not a plain convolution: timm.*computes something else"):
        adapt_first_conv(timm.create_model(name), "mean")


# ---------------------------------------------------------------- what becomes of the network


class Standardised(nn.Conv2d):
    """A subclass that computes something else, as others' weight standardisation does."""

    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return nn.functional.conv2d(x, weight, self.bias, self.stride, self.padding)


def patched(conv: nn.Conv2d) -> nn.Conv2d:
    """Replace what a convolution computes, as code for images without seams does."""
    conv._conv_forward = lambda x, weight, bias: x
    return conv


class Renamed(nn.Conv2d):
    """A subclass that computes the same."""


@mark.parametrize(
    "conv, reason",
    [
        (Standardised(3, 4, 3), "Standardised computes something else"),
        (nn.Conv2d(3, 6, 3, groups=3), "3 groups"),
        (nn.Conv2d(3, 4, 3, padding_mode="reflect"), "'reflect'"),
        (nn.LazyConv2d(4, 3), "lazy"),
        (patched(nn.Conv2d(3, 4, 3)), "its forward was replaced"),
        (
            nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)),
            "computes something else|parametrization",
        ),
    ],
)
def test_what_the_stem_cannot_stand_for_is_named_with_its_place(conv, reason):
    with value_error(f"body.0 is not a plain convolution.*({reason})"):
        adapt_first_conv(nn.ModuleDict({"body": nn.Sequential(conv)}), "mean", path="body.0")


def two_stems() -> nn.Module:
    """Return a network with two convolutions of the image, the first of them adapted."""
    net = nn.ModuleDict({"a": nn.Conv2d(3, 4, 3), "b": nn.Conv2d(3, 4, 3)})
    with warns(UserWarning, match="layer b"):
        return adapt_first_conv(net, "mean", path="a")


OWN_WEIGHTS = ("by_size", "luma_chroma", "learned", "conditioned")


@mark.parametrize(
    "net, options, message",
    [
        (nn.Linear(3, 4), {}, "Linear has no Conv2d"),
        (nn.Conv2d(3, 4, 3), {}, "itself the convolution"),
        (one_conv(), {"path": "1"}, "has no module '1'"),
        (one_conv(), {"channels": 13}, "3 input channels, 13 were named.*init="),
        (one_conv(), {"fill": "regression"}, "give covariance=.*fill='mean'"),
        (one_conv(), {"channels": ["R", "G", "G"]}, "'G' is named twice"),
        (one_conv(), {"statistics": (torch.zeros(3), None, COVARIANCE)}, "one of them is None"),
        (one_conv(), {"sample": True}, "True draws no sets"),
        (one_conv(), {"example": {}}, "example= must be floating-point images"),
        (one_conv(), {"example": torch.full((2, 3, 8, 8), torch.nan)}, "the example has pixels that are NaN"),
        (two_stems(), {"path": "b"}, "b would be a second stem besides a"),
        *[(adapted(one_conv(), fill), {}, f"{fill}' has weights of its own") for fill in OWN_WEIGHTS],
        (one_conv(), {"init": "random"}, "expected 'keep', 'wavelength'.* or a mapping"),
        (one_conv(), {"init": "wavelength"}, "needs the wavelength"),
        (nn.Sequential(nn.Linear(3, 4)), {"path": "0"}, "0 is not a plain convolution: this is a Linear"),
    ],
)
def test_what_cannot_be_adapted_is_one_clear_error(net, options, message):
    with value_error(message):
        adapt_first_conv(net, **{"fill": "mean", **options})


@mark.parametrize(
    "conv",
    [
        nn.Conv2d(3, 4, (3, 5), (2, 1), (1, 2)),
        nn.Conv2d(3, 4, 3, padding="same"),
        nn.Conv2d(3, 4, 5, dilation=(2, 1)),
        Renamed(3, 4, 3),
        nn.Conv2d(3, 4, 3).double(),
        nn.Conv2d(3, 4, 3, bias=False).bfloat16(),
        nn.Conv2d(3, 4, 3).requires_grad_(False).eval(),
    ],
)
def test_every_form_type_and_mode_is_kept(conv):
    stem = ChannelSetConv2d.from_conv2d(conv, build_fill("regression", 3, covariance=COVARIANCE))
    x = torch.randn(2, 3, 12, 17, dtype=conv.weight.dtype)
    assert_close(stem(x), conv(x), rtol=1e-3, atol=2e-2 if x.dtype == torch.bfloat16 else 1e-5)
    assert stem(x).dtype == x.dtype and stem.training == conv.training
    assert {p.requires_grad for p in stem.parameters()} == {conv.weight.requires_grad}
    folded = stem.fold([0, 2])
    assert folded.weight.dtype == x.dtype
    assert [p.requires_grad for p in folded.parameters()] == [conv.weight.requires_grad] * 2
    stem.weight.requires_grad_(False)  # the embedding still trains, unless all was frozen
    assert [p.requires_grad for p in stem.fold([0, 2]).parameters()] == [conv.weight.requires_grad] * 2
    assert_close(folded(x[:, [0, 2]]), stem(x[:, [0, 2]], [0, 2]), rtol=1e-2, atol=2e-2)


@mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_conversion_leaves_the_covariance_as_it_is(dtype):
    samples = torch.randn(500, 13) @ torch.randn(13, 13)
    fill = build_fill("regression", 13, covariance=samples.T.cov())
    mask, exact = torch.rand(40, 13) < 0.5, fill.covariance.clone()
    before = fill(mask)
    stem = ChannelSetConv2d(13, 4, 3, fill=fill).to(dtype)
    assert stem.weight.dtype == dtype and stem.fill.covariance.dtype == torch.float32
    assert torch.equal(stem.fill.covariance, exact) and torch.equal(stem.fill(mask), before)


def test_a_folded_network_shares_nothing_with_the_one_it_was():
    net = adapted(small_net())
    before = copy.deepcopy(net.state_dict())
    folded = fold_channels(net.train(), [0]).half()
    assert folded.training and folded[0].weight.dtype == torch.float16
    for parameter in folded.parameters():
        parameter.data.zero_()
    assert unchanged(net, before)
    assert {p.dtype for p in net.parameters()} == {torch.float32}


def test_a_set_is_forgotten_after_the_call_and_after_an_error():
    net, x = adapted(small_net()), X
    full = net(x)
    net(x[:, :1], channels=[0])
    assert_close(net(x), full)
    for wrong in (
        {"channels": [0]},
        {"channels": [0, 7]},
        {"channels": [0], "mask": torch.ones(2, 3).bool()},
    ):
        with raises(ValueError):
            net(x, **wrong)
        assert_close(net(x), full)
    with present(net, channels=[1]):
        one = net(x[:, [1]])
        assert_close(net(x[:, [0]], channels=[0]), net(x[:, [0]], channels=[0]))
        assert_close(net(x[:, [1]]), one)  # the call's own set did not stay
        with raises(RuntimeError), present(net, channels=[2]):
            raise RuntimeError
        assert_close(net(x[:, [1]]), one)
    assert_close(net(x), full)
    for both in ({}, {"channels": [0], "mask": torch.ones(2, 3).bool()}):
        with value_error("give `channels`"), present(net, **both):
            pass
    with value_error("0 parts"), present(nn.Linear(1, 1), channels=[0]):
        pass


def test_a_network_with_arguments_of_these_names_keeps_them():
    class Own(OneConv):
        def forward(self, x, mask=None):
            return self.conv(x) if mask is None else self.conv(x) * mask

    net = adapted(Own())
    assert_close(net(X, mask=0.5), 0.5 * net(X))
    with present(net, channels=[0]):
        assert net(X[:, :1]).shape == (2, 4, 6, 6)


def test_memory_format_stays_that_of_the_images():
    stem = adapted(one_conv())[0]
    for layout in (torch.contiguous_format, torch.channels_last):
        x = X[:, :2].contiguous(memory_format=layout)
        assert stem(x, [0, 2]).is_contiguous(memory_format=layout)
    assert stem.kernel([0, 2]).is_contiguous()


# ---------------------------------------------------------------- names, wavelengths, more channels


def test_channels_by_name_index_and_wavelength_in_any_order():
    net, x = adapted(one_conv(), channels={"B04": 665, "B03": 560.0, "B02": 490}), X
    expected = net(x[:, [2, 0]], channels=[2, 0])
    for said in (
        ["B02", "B04"],
        "B02,B04",
        [490.0, 664.5],
        ["490nm", "B04"],
        torch.tensor([2, 0]),
        (2, "665 nm"),
    ):
        assert_close(net(x[:, [2, 0]], channels=said), expected)
    for said, message in (
        (["B05"], "no channel 'B05'; the channels are B04 665nm"),
        ([705.0], "nearest is B04"),
        ([True, False], "bool"),
        ([0, 0], "repeat a channel: 'B04'"),
        ([], "at least one"),
        ([None], "neither an id, a name nor"),
        ([3], "known ids are 0 to 2"),
    ):
        with value_error(message):
            net(x[:, : len(said)], channels=said)


@mark.parametrize("where", ["stem", "input"])
def test_a_generator_of_channels_is_read_once(where):
    net, x = adapt_first_conv(small_net(), "mean", where=where), X[:, [2, 0]]
    expected = net(x, channels=[2, 0])
    assert_close(net(x, channels=(i for i in [2, 0])), expected)
    with present(net, channels=map(int, "20")):
        assert_close(net(x), expected)
        assert_close(net(x), expected)
    assert_close(fold_channels(net, iter([2, 0]))(x), expected)


def test_letters_name_channels():
    channels = Channels("RGB")
    assert channels.names == tuple("RGB") and Channels("red, green").names == ("red", "green")
    assert channels.ids("BR") == [2, 0] and channels.ids(["G"]) == [1] and channels.ids(2) == [2]
    with value_error("no channel 'r'"):
        channels.ids("rg")


@mark.parametrize("channels", [[], 0, ["R", 1.5], [True], ["R", ""], {"R": -5.0}, {"R": float("nan")}])
def test_wrong_names_are_one_clear_error(channels):
    with value_error("channel"):
        Channels(channels)


@mark.parametrize("fill", ["zero", "mean", "regression"])
def test_three_channels_become_thirteen_and_rgb_stays_exact(fill):
    plain, x = small_net(), torch.randn(2, 13, 8, 8)
    names = [f"B{i:02}" for i in range(13)]
    samples = torch.randn(300, 13) @ torch.randn(13, 13)
    net = adapt_first_conv(
        copy.deepcopy(plain),
        fill,
        channels=names,
        covariance=samples.T.cov() if fill == "regression" else None,
        init={"B04": 0, "B03": 1, "B02": 2},
    )
    expected = plain(x[:, [4, 3, 2]])
    assert_close(net(x[:, [4, 3, 2]], channels=["B04", "B03", "B02"]), expected, rtol=1e-3, atol=1e-4)
    assert_close(net(x), expected, rtol=1e-3, atol=1e-4)
    net(x).sum().backward()
    assert find_stem(net).weight.grad.transpose(0, 1).flatten(1).norm(dim=1).min() > 0  # the new ones learn


def test_an_adapted_network_takes_more_channels_and_keeps_what_it_learned():
    net, x = adapted(small_net(), "mean", channels="RGB"), torch.randn(2, 4, 8, 8)
    expected = net(x[:, :3]).detach()
    net = adapt_first_conv(net, "mean", channels=["R", "G", "B", "NIR"], init={c: c for c in "RGB"})
    assert_close(net(x[:, :3], channels="R,G,B"), expected, rtol=1e-3, atol=1e-4)
    assert net(x).shape == (2, 2) and len(net._forward_pre_hooks) == 1


def test_a_new_band_takes_the_kernel_at_its_wavelength():
    conv = nn.Conv2d(2, 4, 3)
    net = adapt_first_conv(nn.Sequential(conv), "zero", channels={"a": 500, "b": 600})
    stem = adapt_first_conv(
        net, "zero", channels={"a": 500, "c": 525, "b": 600, "d": 900}, init="wavelength"
    )[0]
    a, b = conv.weight.detach().unbind(1)
    expected = torch.stack([a / 1.75, 0.75 * a / 1.75 + 0.25 * b / 2.25, b / 2.25, b / 2.25], 1)
    assert_close(stem.weight.detach(), expected)


# ---------------------------------------------------------------- statistics


def test_statistics_are_those_of_all_pixels_at_once():
    batches = [1000 + torch.randn(n, 3, 5, 7) @ torch.randn(7, 7) for n in (4, 1, 9)]
    pixels = torch.cat(batches).double().movedim(1, 0).flatten(1)
    for form in (
        batches,
        [(batch, None) for batch in batches],
        [image for batch in batches for image in batch],
    ):
        statistics = channel_statistics(form)
        assert_close(statistics.mean, pixels.mean(1))
        assert_close(statistics.covariance, pixels.cov(correction=0), rtol=1e-9, atol=0)
        assert_close(statistics.std, pixels.std(1, correction=0))


@mark.parametrize(
    "change, message",
    [
        (lambda x: x[:, 1].fill_(12), "channel B10: the same value"),
        (lambda x: x[0, 2].fill_(torch.nan), "channel B8A: pixels that are NaN"),
        (lambda x: x[:0], "no image"),
    ],
)
def test_a_band_that_says_nothing_is_named(change, message):
    x = torch.rand(4, 3, 5, 5)
    changed = change(x)
    with value_error(message):
        channel_statistics([x if len(changed) else changed], ["B01", "B10", "B8A"])


@mark.parametrize(
    "change, message",
    [
        (lambda c: c[1].zero_() is c or c[:, 1].zero_(), "channel B10: a variance not above zero"),
        (lambda c: c[2].fill_(torch.nan), "B8A: the covariance is NaN"),
        (lambda c: c[0, 1].fill_(torch.nan), "B01: the covariance is NaN"),
        (lambda c: c[0, 1].neg_(), "not symmetric"),
        (lambda c: c[0, 1].fill_(2) is c or c[1, 0].fill_(2), "not positive semidefinite"),
    ],
)
def test_what_is_no_covariance_is_named(change, message):
    covariance = COVARIANCE.clone()
    change(covariance)
    with value_error(message):
        adapt_first_conv(one_conv(), channels=["B01", "B10", "B8A"], covariance=covariance)


# ---------------------------------------------------------------- quantised


@mark.filterwarnings("ignore")
def test_the_folded_network_is_quantised_to_eight_bits():
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    folded, x = fold_channels(adapted(small_net()), [0, 2]), X[:, [0, 2]]
    prepared = prepare_fx(folded, get_default_qconfig_mapping("x86"), (x,))
    prepared(x)
    with torch.no_grad():
        quantised, exact = convert_fx(prepared)(x), folded(x)
    assert (quantised - exact).abs().max() < 0.1 * exact.abs().max()


# ---------------------------------------------------------------- the package by itself


def test_the_folder_can_be_copied_and_needs_torch_alone(tmp_path, forked):
    shutil.copytree(ROOT / "channelset", tmp_path / "vendored" / "channelset")
    (tmp_path / "vendored" / "__init__.py").touch()
    (tmp_path / "utils.py").write_text("raise ImportError('not this one')")
    kept = {*sys.stdlib_module_names, "torch", "numpy"}  # PyTorch imports numpy

    def imported() -> list[str]:
        """Check that the copy works where PyTorch alone is imported; return the modules that its import adds."""
        for name in list(sys.modules):  # the import of a compiler takes long
            if name.split(".")[0] not in kept or name.startswith(("torch._dynamo", "torch._inductor")):
                del sys.modules[name]
        sys.modules["torchvision"] = sys.modules["numpy.random"] = None
        sys.path[:] = [str(tmp_path), *(path for path in sys.path if Path(path or ".").resolve() != ROOT)]
        before = set(sys.modules)
        copied = importlib.import_module("vendored.channelset")
        new = set(sys.modules) - before
        net = copied.adapt_first_conv(nn.Sequential(nn.Conv2d(3, 4, 3)), fill="mean")
        assert net(torch.ones(1, 2, 8, 8), channels=[0, 2]).shape == (1, 4, 6, 6)
        return sorted(new)

    new = forked(imported)
    assert "vendored.channelset.stem" in new and all(name.startswith("vendored") for name in new), new


@mark.parametrize("value", [0.1, 273.15])
def test_a_channel_that_resizing_alone_changes_is_constant(value):
    x = torch.randn(8, 3, 9, 11)
    x[:, 1] = value
    x = nn.functional.interpolate(x, (7, 7), mode="bilinear", antialias=True)
    with value_error("channel 1: the same value in every pixel"):
        channel_statistics([x])
    assert channel_statistics([1e9 + x.double().mul(10)[:, [0, 2]]]).std.min() > 1  # 64 bits tell more
