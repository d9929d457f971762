"""Layers before the stem, images in another order, replicas and copies, statistics of another number of channels."""

import copy
import warnings

import torch
from helpers import value_error
from pytest import mark, warns
from small_networks import (
    COVARIANCE,
    HALF,
    MASK,
    OneConv,
    Patches,
    X,
    adapted,
    at_stem_and_input,
    hidden,
    small_net,
    statistics_of,
)
from torch import nn
from torch.nn.utils import prune
from torch.testing import assert_close

from channelset import adapt_first_conv, fold_channels, present


class Scaled(nn.Module):
    """It normalises its images itself."""

    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.tensor([1.0, 2.0, 3.0])[:, None, None])

    def forward(self, x):
        return x * self.scale


class Cut(nn.Module):
    """It does so one channel after another, which runs with two channels, too."""

    def forward(self, x):
        return torch.cat([x[:, :1], 2 * x[:, 1:2], 3 * x[:, 2:]], 1)


BEFORE = {
    "batch norm": lambda: nn.BatchNorm2d(3),
    "instance norm": lambda: nn.InstanceNorm2d(3, affine=True),
    "scale": Scaled,
    "one after another": Cut,
}


@mark.parametrize("name", BEFORE)
def test_an_example_finds_a_layer_that_needs_all_channels(name):
    plain = nn.Sequential(BEFORE[name](), nn.Conv2d(3, 4, 3)).eval()
    net = copy.deepcopy(plain)
    with value_error("needs images of all channels.*where='input'"):
        adapt_first_conv(net, "mean", example=X)
    assert type(net[1]) is nn.Conv2d and torch.equal(net(X), plain(X))
    adapt_first_conv(net, "mean", where="input", example=X)
    expected = net(X, mask=HALF)
    assert_close(net(X[:, [2, 0]], channels=[2, 0]), expected)
    assert_close(fold_channels(net, [2, 0])(X[:, [2, 0]]), expected)


def test_layers_that_take_any_channels_pass():
    net = nn.Sequential(nn.ReflectionPad2d(2), nn.Upsample(scale_factor=2), nn.Conv2d(3, 4, 3))
    adapt_first_conv(net, "mean", example=X)
    assert_close(net(X[:, [2, 0]], channels=[2, 0]), net(X, mask=HALF))
    adapt_first_conv(nn.Sequential(nn.Conv2d(1, 4, 3)), "mean", example=X[:, :1])


class Counts(OneConv):
    """It counts the channels of its images, and may change each, as Hugging Face's and Inception do."""

    def __init__(self, **attributes):
        super().__init__()
        vars(self).update(attributes)

    def forward(self, images):
        images = torch.stack(images) if isinstance(images, list) else images
        assert images.shape[1] == 3
        return self.conv(images * torch.tensor([1.0, 2.0, 3.0])[:, None, None])


def test_networks_that_get_all_channels_in_every_call_pass():
    for net, x in ((Counts(num_channels=3), X), (Counts(transform_input=True), X), (Counts(), list(X))):
        adapt_first_conv(net, "mean", example=x)
        some = [image[[2, 0]] for image in x] if isinstance(x, list) else x[:, [2, 0]]
        assert_close(net(some, channels=[2, 0]), net(x, mask=HALF))


class Masked(OneConv):
    """Its forward has an argument `mask` of its own."""

    def __init__(self):
        super().__init__()
        self.scaled = Scaled()

    def forward(self, x, mask=None):
        return self.conv(self.scaled(x))


def test_a_network_with_a_mask_of_its_own_takes_an_example():
    net = adapt_first_conv(Masked(), "mean", example=X)
    with present(net, mask=MASK):
        assert net(hidden(X, MASK)).isfinite().all()


@mark.parametrize(
    "layer",
    [
        nn.BatchNorm2d,
        nn.InstanceNorm2d,
        nn.LayerNorm,
        lambda n: nn.GroupNorm(1, n),
        lambda n: nn.ConvTranspose2d(n, 3, 1),
    ],
)
def test_a_norm_of_as_many_channels_is_a_warning(layer):
    with warns(UserWarning, match="layer 0 of Sequential takes 3 channels, as 1 does"):
        adapt_first_conv(nn.Sequential(layer(3), nn.Conv2d(3, 4, 3)), "mean")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        adapt_first_conv(nn.Sequential(nn.Conv2d(3, 4, 3), layer(4)), "mean")


class Spectrum(OneConv):
    """The absent channels are in the imaginary part of its output."""

    def forward(self, x):
        rest = x.nan_to_num().mean(1, keepdim=True)[..., 2:, 2:]
        return torch.complex(self.conv(x), rest.expand(-1, 4, -1, -1))


def test_an_example_looks_at_imaginary_parts():
    with value_error("pixels of absent channels have an influence"):
        adapt_first_conv(Spectrum(), "mean", example=X)


class Reordered(OneConv):
    """It turns the order of its images, as networks do that sort or shuffle them."""

    def forward(self, x):
        return self.conv(x.flip(0)).flip(0)


@mark.parametrize("images", [2, 3, 4, 7])
@mark.parametrize("channels", [2, 3, 4, 9])
def test_an_example_finds_that_images_are_reordered(images, channels):
    net, x = Reordered(), torch.randn(images, channels, 8, 8)
    net.conv = nn.Conv2d(channels, 4, 3)
    with value_error("pixels of absent channels have an influence"):
        adapt_first_conv(copy.deepcopy(net), "mean", example=x)
    adapt_first_conv(net, "mean", where="input", example=x)


def test_an_example_with_another_axis_of_channels_is_one_clear_error():
    for x in (torch.randn(2, 5, 3, 8, 8), torch.randn(2, 8, 8, 3)):
        with value_error(r"has the shape .*, but the first axis must have 3 channels"):
            adapt_first_conv(Patches(), "mean", where="input", channels="RGB", example=x)


def test_statistics_of_other_channels_than_the_convolution_has():
    net = nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(12, 4, 3))
    for example in (None, X):
        with value_error("1 takes 12 channels, but the statistics have 3.*where='input'"):
            adapt_first_conv(net, covariance=COVARIANCE, example=example)
    adapt_first_conv(net, covariance=COVARIANCE, where="input", example=X)


def test_images_of_whole_numbers_are_one_clear_error_with_a_mask():
    for where, message in (("stem", "convert them to float"), ("input", "these have floating-point numbers")):
        net = adapt_first_conv(small_net(), "mean", where=where)
        with value_error(message):
            net((9 * X).to(torch.uint8), mask=MASK)


def replica(net):
    """Copy a network as nn.DataParallel does for each GPU: its parameters are plain tensors."""
    copies = {module: module._replicate_for_data_parallel() for module in net.modules()}
    for module, other in copies.items():
        for name, part in module._modules.items():
            other._modules[name] = copies.get(part)
        for name, value in module._parameters.items():
            setattr(other, name, None if value is None else value.clone())
    return copies[net]


@mark.parametrize("fill", ["zero", "mean", "regression", "learned", "conditioned"])
@at_stem_and_input
def test_a_replica_of_data_parallel_computes_the_same(fill, where):
    net = adapt_first_conv(small_net(), fill, where=where, **statistics_of(fill))
    other = replica(net)
    for x, how in ((X, {}), (X, {"mask": MASK}), (X[:, [2, 0]], {"channels": [2, 0]})):
        assert_close(other(x, **how), net(x, **how))
    assert_close(other(X, mask=MASK | True), net(X))


LATER = {
    "spectral norm": nn.utils.spectral_norm,
    "weight norm": nn.utils.weight_norm,
    "pruning": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
}


@mark.parametrize("name", LATER)
@at_stem_and_input
@mark.filterwarnings("ignore:.*weight_norm")
def test_a_network_folds_after_a_call_with_computed_weights(name, where):
    net = adapted(small_net()) if where == "stem" else adapt_first_conv(small_net(), "mean", where="input")
    LATER[name](net[4])
    net.eval()
    expected = net(X, mask=HALF)  # its weights are now results, which torch does not copy
    assert_close(fold_channels(net, [2, 0])(X[:, [2, 0]]), expected)
