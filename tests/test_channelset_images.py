"""What callers say of their images and channels: statistics, names, kernels of new channels."""

import io

import torch
from helpers import assert_near, value_error
from pytest import approx, importorskip, mark
from small_networks import OneConv, at_stem_and_input, hidden, one_conv
from torch import nn
from torch.testing import assert_close

from channelset import (
    SENSORS,
    Channels,
    ChannelStatistics,
    adapt_first_conv,
    build_fill,
    channel_statistics,
    find_place,
    find_stem,
    fold_channels,
    sample_channels,
    sensor,
)
from channelset.sampling import HOW

RGB = {"R": 665.0, "G": 560.0, "B": 490.0}


def images_of(count: int = 400, channels: int = 4) -> torch.Tensor:
    """Correlated channels with means and deviations of their own: (N, C, 4, 4)."""
    mixing = torch.randn(channels, 2)
    pixels = mixing @ torch.randn(2, count * 16)
    pixels += 0.3 * torch.randn(channels, count * 16)
    scale = torch.linspace(0.5, 3, channels)[:, None]
    return (
        (scale * (pixels + torch.linspace(4, 9, channels)[:, None])).view(channels, count, 4, 4).movedim(1, 0)
    )


class Identity(OneConv):
    """Shows what the images are filled with."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1, bias=False)
        nn.init.eye_(self.conv.weight.data.view(channels, channels))


def error_of(net, x) -> float:
    """Mean squared error of the absent channels, in units of their variance, over all sets of three of four."""
    errors = []
    for absent in range(x.shape[1]):
        mask = torch.ones(len(x), x.shape[1], dtype=torch.bool)
        mask[:, absent] = False
        with torch.no_grad():
            errors.append((net(x, mask=mask) - x)[:, absent].square().mean() / x[:, absent].var())
    return float(torch.stack(errors).mean())


# ---------------------------------------------------------------- images that are not centred


@at_stem_and_input
def test_images_that_are_not_centred_are_filled_as_well_as_centred_ones(where):
    x = images_of()
    statistics = channel_statistics([x])
    centred = ((x - statistics.mean[:, None, None]) / statistics.std[:, None, None]).float()
    mean, covariance = {"mean": statistics.mean}, {"covariance": statistics.covariance}

    def network(**options):
        return adapt_first_conv(Identity(4), where=where, **options)

    best = error_of(network(statistics=statistics), centred)
    assert best < 0.5
    for net, images in (
        (network(statistics=statistics, normalised=False), x),
        (network(**covariance, **mean, std=torch.ones(4)), x),
        (network(**covariance, **mean, std=torch.full((4,), 10.0)), x / 10),
        (network(**covariance, **mean), (x / statistics.std[:, None, None]).float()),
    ):
        assert error_of(net, images) == approx(best, rel=1e-3)
        assert_close(net(images), Identity(4)(images), rtol=0, atol=0)
    assert error_of(network(**covariance), x) > 5 * best


@mark.parametrize("fill", ["zero", "rescale", "mean", "grey", "regression", "learned", "conditioned"])
def test_every_linear_rule_fills_around_the_mean(fill):
    x = images_of(8)
    statistics = channel_statistics([x])
    net = adapt_first_conv(Identity(4), fill, statistics=statistics, normalised=False)
    rule = find_stem(net).fill
    mask = torch.rand(len(x), 4) < 0.6
    mask[:, 0] |= ~mask.any(1)
    mean = statistics.mean.float()[:, None, None]
    around = torch.where(mask[:, :, None, None], x - mean, 0.0)
    matrix = rule(mask, around) if rule.per_image else rule(mask)
    expected = torch.einsum("bij,bjhw->bihw", matrix, around) + mean
    dirty = hidden(x, mask)
    with torch.no_grad():
        assert_near(net(dirty, mask=mask), expected, 1e-4)
        exact, every = x.double(), torch.tensor([True, False, True, False]).expand(len(x), 4)
        filled = net.double()(exact[:, [2, 0]], channels=[2, 0])
        assert_near(filled, net(exact, mask=every), 1e-4)


def test_the_intercept_folds_without_padding_and_is_exact_with_it():
    x = images_of(4)
    statistics = channel_statistics([x])
    for padding in (0, 1, "same"):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(4, 5, 3, padding=padding))
        net = adapt_first_conv(net, statistics=statistics, normalised=False)
        nn.init.normal_(net[0].embedding)
        mask = torch.tensor([[True, False, True, True]]).expand(4, 4)
        filled = net[0].fill.complete(x, mask)
        expected = nn.functional.conv2d(filled, net[0].weight, net[0].offset(mask / 3.0)[0], padding=padding)
        with torch.no_grad():
            assert_near(net(x, mask=mask), expected, 1e-4)
            two = net(x[:, [3, 0, 2]], channels=[3, 0, 2])
            assert_near(two, expected, 1e-4)
            if padding == 0:
                assert_close(fold_channels(net, [3, 0, 2])(x[:, [3, 0, 2]]), two, rtol=1e-4, atol=1e-3)
            else:
                with value_error("not centred add a constant plane"):
                    fold_channels(net, [3, 0, 2])
            assert_close(fold_channels(net)(x), net(x))  # nothing is absent


STD = torch.tensor([1.2, 1.9, 1.5])
STATISTICS = ChannelStatistics(torch.rand(3), STD, torch.diag(STD.square()))
IN_ORDER = "must be mean, std and covariance, in this order"


@mark.parametrize(
    "options, message",
    [
        ({"mean": "nonsense", "covariance": torch.eye(3)}, "mean='nonsense' are not numbers"),
        ({"mean": [1.0, 2.0], "covariance": torch.eye(3)}, r"mean has shape \(2,\), expected \(3,\)"),
        ({"fill": "mean", "covariance": torch.eye(3)}, "'mean' does not use covariance="),
        ({"fill": "zero", "std": torch.ones(3)}, "'zero' does not use std="),
        ({"fill": "mean", "ridge": 0.1}, "'mean' does not use ridge="),
        ({"fill": "luma_chroma", "mean": torch.ones(3)}, "needs images with a mean of zero"),
        ({"covariance": STATISTICS}, "are not numbers: only one element"),
        ({"statistics": STATISTICS, "std": torch.ones(3)}, "do not give these as well"),
        ({"statistics": torch.eye(3)}, "the result of channel_statistics"),
        ({"statistics": {"mean": 1}}, "the result of channel_statistics: mean, std and covariance"),
        ({"statistics": (STD, STATISTICS.mean, STATISTICS.covariance)}, IN_ORDER),
        ({"statistics": (STD, STATISTICS.mean, STATISTICS.covariance), "normalised": False}, IN_ORDER),
        ({"fill": "mean", "statistics": STATISTICS._replace(std=STD.square())}, IN_ORDER),
        ({"statistics": STATISTICS._replace(covariance=torch.eye(3))}, IN_ORDER),
        ({"statistics": (STATISTICS.mean, STATISTICS.covariance, STD)}, r"std has shape \(3, 3\)"),
        ({"normalised": False, "covariance": torch.eye(3)}, "normalised=False needs statistics="),
        ({"fill": "black", "statistics": STATISTICS, "normalised": False}, "in raw images black is zero"),
        ({"fill": "black", "mean": [1, 2, 3], "std": [1, 0, 1]}, "std 0 is not above zero"),
        (
            {"fill": "black", "std": [1, 1, 1]},
            "'black' needs mean and std of the channels: give mean= and std=",
        ),
        ({"fill": "wiener"}, "unknown fill rule 'wiener'"),
        ({"covariance": torch.ones(3, 3), "ridge": 0.0}, "ridge 0.0: a channel follows exactly"),
        (
            {"covariance": torch.eye(3), "channels": 3, "trained_on": ["R", "G"]},
            "trained_on= names 2 channels",
        ),
    ],
)
def test_what_the_rule_does_not_use_or_understand_is_refused(options, message):
    with value_error(message):
        adapt_first_conv(one_conv(), **options)


def test_statistics_are_accepted_whole_by_every_rule():
    for statistics in (STATISTICS, tuple(STATISTICS), STATISTICS._asdict()):
        for fill in ("regression", "mean", "zero", "black", "luma_chroma"):
            net = adapt_first_conv(one_conv(), fill, statistics=statistics)
            assert find_stem(net).normalisation["mean"] == approx(STATISTICS.mean.tolist())
    rounded = {
        "mean": [0.5, 0.4, 0.3],
        "std": [1.2, 1.9, 1.5],
        "covariance": (STATISTICS.covariance * 1.1).tolist(),
    }
    adapt_first_conv(one_conv(), statistics=rounded)
    net = adapt_first_conv(one_conv(), statistics=STATISTICS)
    expected = build_fill("regression", 3, covariance=STATISTICS.covariance, std=STATISTICS.std)
    assert torch.equal(net[0].fill.covariance, expected.covariance)


def test_a_covariance_of_rounded_numbers_still_predicts():
    """Twenty copies of two channels, in single precision: eigenvalues below zero."""
    pixels = (torch.randn(40, 2) @ torch.randn(2, 5000)).float()
    covariance = pixels @ pixels.T / 5000
    assert torch.linalg.eigvalsh(covariance)[0] < 0
    x = (pixels / pixels.std(1, correction=0, keepdim=True)).T.reshape(50, 100, 40).movedim(2, 1)[..., None]
    net = adapt_first_conv(Identity(40), covariance=covariance)
    for present in (3, 20, 37):
        mask = torch.zeros(50, 40, dtype=torch.bool)
        mask[:, :present] = True
        with torch.no_grad():
            assert (net(x, mask=mask) - x).square().mean() < 1e-3


# ---------------------------------------------------------------- kernels of new channels


def make_conv(channels: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(channels, 8, 3))


@mark.parametrize("init", ["wavelength", "repeat", "mean"])
@mark.parametrize("name", ["sentinel-2", "planetscope", "naip"])
def test_new_channels_keep_the_scale_of_the_response(init, name):
    plain, bands = make_conv(), sensor(name)
    x = torch.randn(2, 1, 8, 8)
    expected = plain(x.expand(2, 3, 8, 8))
    net = adapt_first_conv(make_conv(), "zero", channels=bands, trained_on=RGB, init=init)
    response = net(x.expand(2, len(bands), 8, 8))
    if init == "repeat":  # timm's, exact where old divides new
        assert 0.8 < response.std() / expected.std() < 1.25
    else:
        assert_near(response, expected)


def test_repeat_is_what_timm_does():
    weight = make_conv()[0].weight.detach()
    for new in (1, 2, 5, 13):
        got = adapt_first_conv(make_conv(), "zero", channels=new, init="repeat")[0].weight.detach()
        repeated = weight.repeat(1, -(-new // 3), 1, 1)[:, :new] * (3 / new)
        assert_close(got, weight.sum(1, keepdim=True) if new == 1 else repeated)


def test_lists_and_weights_say_what_new_channels_take():
    weight = make_conv()[0].weight.detach()
    net = adapt_first_conv(
        make_conv(),
        "mean",
        channels=["grey", "NIR", "none"],
        trained_on=RGB,
        init={"grey": [0, "G", 2], "NIR": {"R": 0.75, 1: 0.25}},
    )
    got = net[0].weight.detach()
    assert_close(got[:, 0], weight.sum(1))
    assert_close(got[:, 1], 0.75 * weight[:, 0] + 0.25 * weight[:, 1])
    assert not got[:, 2].any()
    for init, message in (
        ({"grey": {0, 1}}, "is a set"),
        ({"grey": {"R": "much"}}, "not all numbers"),
        ({"grey": [7]}, "known ids are 0 to 2"),
        ("random", "expected 'keep', 'wavelength', 'repeat', 'mean' or a mapping"),
        ("wavelength", "needs the wavelength of every channel"),
    ):
        with value_error(message):
            adapt_first_conv(make_conv(), "mean", channels=["grey", "NIR"], init=init)


# ---------------------------------------------------------------- names


def test_a_set_of_names_has_no_order():
    channels = Channels(["B02", "B03"])
    for wrong in ({"B02", "B03"}, frozenset([0, 1])):
        with value_error("a Python set has no order"):
            channels.ids(wrong)
        with value_error("a Python set has no order"):
            Channels(wrong)
    assert channels.ids(dict.fromkeys(["B03", "B02"])) == [1, 0]


def test_numbers_of_numpy_and_torch_name_wavelengths():
    numpy = importorskip("numpy")
    for values in (numpy.float32([490, 665.1]), torch.tensor([490, 665.1]), numpy.float64([490, 665.1])):
        channels = Channels(values)
        assert channels.names == ("490nm", "665.1nm") and channels.ids([numpy.float32(665)]) == [1]
    assert len(Channels([2345.671, 2345.672])) == 2
    with value_error(r"known ids are 0 to 1 \(665.0 is a wavelength\)"):
        channels.ids([665])
    for three in (numpy.int64(3), torch.tensor(3)):
        assert len(Channels(three)) == 3 and Channels(3).ids(three - 1) == [2]
    for wrong in (None, True, {"a": (500.0, -1.0)}, {"a": (500.0, 1.0, 2.0)}):
        with value_error("channel"):
            Channels(wrong)
    for wrong, message in (
        (torch.ones(2, 2).bool(), "is neither an id"),
        ("6.6.5nm", "no channel '6.6.5nm'"),
    ):
        with value_error(message):
            channels.ids(wrong)


def test_bands_of_one_sensor_name_those_of_another():
    sentinel, landsat = sensor("sentinel-2"), sensor("landsat-8")
    names = [sentinel.names[i] for i in sentinel.ids([654.6, 2200.7])]
    assert names == ["B04", "B12"]
    shared = landsat.chosen(range(1, 7))
    ids = sentinel.ids(shared.wavelengths)
    assert [sentinel.names[i] for i in ids] == ["B02", "B03", "B04", "B8A", "B11", "B12"]
    with value_error("no channel within 45 nm of 1700 nm"):
        sentinel.ids([1700.0])
    for name in SENSORS:
        bands = sensor(name)
        assert Channels(bands.as_dict()).as_dict() == bands.as_dict() and None not in bands.widths
        assert bands.ids(bands.wavelengths) == list(range(len(bands)))
    with value_error("no sensor 'spot'; there are hls"):
        sensor("spot")


# ---------------------------------------------------------------- statistics


def test_statistics_of_dicts_as_loaders_give_them():
    x = torch.rand(4, 3, 5, 5)
    expected = channel_statistics([x])
    for batch in ({"image": x, "label": 1}, {"pixel_values": x, "mask": 0}):
        assert torch.equal(channel_statistics([batch]).covariance, expected.covariance)
    assert torch.equal(channel_statistics([{"my images": x}], key="my images").mean, expected.mean)
    for batches, options, message in (
        ([{"my images": x}], {}, "keys my images: give the key"),
        ([x], {"key": "image"}, "not a dict but a Tensor"),
        ([{"image": x}], {"mask": "valid"}, "no such key"),
        (
            [({"image": x}, 1)],
            {},
            "are a dict, not an array: give the images alone.*batch.*for batch in loader",
        ),
        ([{"data": {"image": x}}], {"key": "data"}, "are a dict, not an array"),
        (["folder"], {}, "are a str, not an array"),
    ):
        with value_error(message):
            channel_statistics(batches, **options)


def test_missing_pixels_are_left_out():
    numpy = importorskip("numpy")
    x = torch.rand(4, 3, 5, 5).double()
    missing = torch.rand(4, 3, 5, 5) < 0.1
    kept = x.movedim(1, 0).flatten(1)[:, ~missing.any(1).flatten()]
    for batch, options in (
        (numpy.ma.MaskedArray(torch.where(missing, -9999.0, x).numpy(), missing.numpy()), {}),
        (torch.where(missing, -9999.0, x), {"nodata": -9999}),
        (torch.where(missing, torch.nan, x), {"nodata": float("nan")}),
        ({"image": torch.where(missing, torch.nan, x), "valid": ~missing}, {"mask": "valid"}),
        ((torch.where(missing, torch.nan, x), ~missing.any(1)), {"mask": lambda batch: batch[1]}),
        (torch.where(missing, torch.nan, x), {"mask": lambda batch: ~batch.isnan().any(1, keepdim=True)}),
    ):
        got = channel_statistics([batch], **options)
        assert_close(got.mean, kept.mean(1))
        assert_close(got.covariance, kept.cov(correction=0))
    assert_close(channel_statistics([numpy.ma.MaskedArray(x.numpy())]).mean, x.mean((0, 2, 3)))
    with value_error("mask of shape"):
        channel_statistics([x], mask=lambda batch: torch.ones(7, 7))
    with value_error("nodata="):
        channel_statistics([torch.full((1, 3, 2, 2), torch.nan)])
    for value in (-1.7976931348623157e308, 1e160):  # GDAL's missing pixel of 64 bits; its square is infinite
        with value_error("channel 1: pixels so large"):
            channel_statistics([x, torch.where(missing & (torch.arange(3)[:, None, None] == 1), value, x)])


def test_channels_that_stand_last_are_refused():
    x = torch.rand(2, 64, 64, 13)
    with value_error("channels last.*movedim"):
        channel_statistics([x], names=list(SENSORS["sentinel-2"]))
    for shape in ((2, 64, 64, 3), (48, 64, 4)):
        with value_error("channels last"):
            channel_statistics([torch.rand(shape)])
    assert len(channel_statistics([torch.rand(2, 3, 6, 5, 4)]).mean) == 3  # volumes


def test_names_of_the_statistics_are_those_of_all_channels():
    x = torch.rand(2, 3, 4, 4)
    with value_error("names= has 2 names, but the images have 3 channels"):
        channel_statistics([x], "RG")
    x[:, 2] = 1
    for names in ("RGB", RGB, Channels(RGB)):
        with value_error("channel B: the same value"):
            channel_statistics([x], names)


def test_statistics_come_back_from_a_file():
    file = io.BytesIO()
    torch.save(channel_statistics([torch.rand(4, 3, 5, 5)]), file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    assert isinstance(loaded, ChannelStatistics)
    adapt_first_conv(one_conv(), statistics=loaded)


def test_arrays_of_every_byte_order_and_stride():
    numpy = importorskip("numpy")
    x = numpy.random.default_rng(0).random((4, 3, 8, 8))
    valid, outliers = x[:, 0] < 0.9, x > 0.9
    expected = channel_statistics([torch.from_numpy(x)], mask=lambda _: torch.from_numpy(valid))
    turned = numpy.ascontiguousarray(x[:, ::-1, ::-1])[:, ::-1, ::-1]  # x with negative strides
    flipped = numpy.ascontiguousarray(valid[:, ::-1])[:, ::-1]
    for images in (x.astype(">f8"), turned):
        for mask in (valid, valid.astype(">f4"), flipped):
            found = channel_statistics([{"image": images, "valid": mask}], mask="valid")
            assert_close(found, expected)
    assert_close(
        channel_statistics([numpy.ma.MaskedArray(turned.astype(">f8"), outliers)]),
        channel_statistics([numpy.ma.MaskedArray(x, outliers)]),
    )
    covariance = expected.covariance.numpy()
    for matrix in (covariance.astype(">f8"), covariance[::-1, ::-1]):
        adapt_first_conv(one_conv(), covariance=matrix)
    net = adapt_first_conv(one_conv(), "mean")
    present, images = numpy.array([[True, False, False]] * 4)[:, ::-1], torch.from_numpy(x).float()
    assert torch.equal(net(images, mask=present), net(images, mask=present.copy()))
    for batch in (x + 1j * x, x.astype(object), x.astype(str)):
        with value_error("the images' pixels are not numbers"):
            channel_statistics([batch])
    with value_error("are not numbers: they are complex"):
        build_fill("regression", 3, covariance=covariance + 0j)


def test_statistics_of_images_of_many_sizes():
    sizes = ((5, 5), (7, 3), (2, 9))
    images = [torch.rand(3, *size).double() for size in sizes]
    valid = [torch.rand(size) < 0.8 for size in sizes]
    pixels = torch.cat([image.flatten(1) for image in images], 1)
    some = torch.cat([image[:, row] for image, row in zip(images, valid)], 1)
    for batch in ((images, [1, 2, 3]), (tuple(images), ()), {"image": images}):  # as detectors take them
        assert_close(channel_statistics([batch]).covariance, pixels.cov(correction=0))
    batch = {"image": images, "valid": valid}
    assert_close(channel_statistics([batch], mask="valid").covariance, some.cov(correction=0))
    with value_error("2 masks for 3 images"):
        channel_statistics([{"image": images, "valid": valid[:2]}], mask="valid")
    with value_error("all of them may be images, or only the first"):
        channel_statistics([images])


def test_one_row_of_drawn_sets_can_be_changed():
    for how in HOW:
        mask = sample_channels(4, 3, how)
        others = mask[1:].clone()
        mask[0] = ~mask[0]
        assert torch.equal(mask[1:], others)


def test_sets_are_drawn_on_the_cpu_whatever_the_default_device():
    for how in HOW:
        torch.manual_seed(0)
        expected = sample_channels(6, 5, how), sample_channels(6, 70, how, {(0, 1): 0.5})
        torch.manual_seed(0)
        with torch.device("meta"):
            drawn = sample_channels(6, 5, how), sample_channels(6, 70, how, {(0, 1): 0.5})
        assert all(torch.equal(a, b) for a, b in zip(drawn, expected))
    net, x = (
        adapt_first_conv(nn.Sequential(nn.Conv2d(20, 4, 3)), covariance=torch.eye(20)),
        torch.rand(2, 20, 9, 9),
    )
    mask = sample_channels(2, 20)
    with torch.no_grad():
        expected = net(x, mask=mask)
        with torch.device("meta"):  # stands for a GPU
            assert torch.equal(net(x, mask=mask.tolist()), expected)


def test_images_of_whole_numbers_are_not_filled():
    net = adapt_first_conv(Identity(3), "mean", where="input", channels=3)
    for channels, mask in ((None, [[True, False, True]]), ([0, 2], None)):
        x = torch.ones(1, 3 if mask else 2, 4, 4, dtype=torch.uint8)
        with value_error("convert them to float"):
            find_place(net).fill_images(x, channels, mask)


@mark.parametrize("channels", [6, 20])
@mark.parametrize("size, other", [(1e-30, 1), (1.0, 1), (3e3, 1), (1e6, 1), (1e30, 1), (1e-2, 1e6)])
def test_the_prediction_does_not_depend_on_the_units(channels, size, other):
    """Raw images have thousands of steps, or heights in metres beside reflectances."""
    mixed = torch.randn(channels, 3).double() @ torch.randn(3, 4000).double()
    pixels = mixed + 0.1 * torch.randn(channels, 4000).double()
    pixels = pixels * size
    pixels[-1] *= other
    images = pixels.view(channels, 1, 50, 80).movedim(0, 1)
    statistics = channel_statistics([images])
    net = adapt_first_conv(
        nn.Sequential(nn.Conv2d(channels, 2, 1)),
        statistics=statistics,
        normalised=False,
        example=images.float(),
    ).eval()
    for count in (2, channels - 2):
        ids = list(range(count))
        there, absent = statistics.covariance[:count, :count], statistics.covariance[count:, :count]
        exact = absent @ torch.linalg.inv(there)
        wrong = (net[0].fill.columns(ids)[count:].double() - exact) @ (
            pixels[:count] - statistics.mean[:count, None]
        )
        assert (wrong.square().mean(1).sqrt() < 1e-2 * statistics.std[count:]).all()
