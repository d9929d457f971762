"""Images of any number of channels: TIFF and .npy, 8 and 16 bits and float, in the same scripts as RGB."""

import io
import itertools

import numpy as np
import torch
from helpers import as_npy, as_tiff, prepare, read_json, read_jsonl, user_error, write_set
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from pytest import approx, fixture, mark, raises
from torch.testing import assert_close

from channelset import Channels
from data.batches import Batches
from data.cache import PixelCache
from data.dataset import open_data
from data.decode import decode, pixel_kind
from data.derive import sobel
from data.folds import make_folds, split_folds
from data.lists import read_lists
from engine.records import make_table, read_predictions, run_name, save_record, write_predictions
from grids.task1 import BANDS_CHANNELSET, BANDS_MEAN, BANDS_SLICED, CHANNELSET
from report.bands import BANDS as BANDS_DATA
from report.bands import accuracy_table, difference_table, is_other, make_charts, unseen_table
from report.build import collect
from report.results import load_settings
from tools.bands import join_folds

BANDS = {"B01": 443.0, "B02": 490.0, "B03": 560.0, "B04": 665.0, "NIR": None}
TEXT = "".join(f"{name} {'' if nm is None else nm}\n" for name, nm in BANDS.items())


def write_bands(root, make, ending="npy", count: int = 5):
    """3 classes of 6 train, 2 val and 2 test images of 8 x 10 px; make: array (H, W, C) uint16 -> bytes.

    Returns the arrays by path.
    """
    random, arrays = np.random.default_rng(0), {}

    def save(path, label, number):
        array = random.integers(0, 65536, (8, 10, count), dtype=np.uint16)
        array[:, :, label] //= 4 + number  # a band that tells the class
        path.write_bytes(make(array))
        arrays[path.relative_to(root).as_posix()] = array

    write_set(root, "images/c{label}/{number}." + ending, save, (6, 2, 2))
    (root / "bands.txt").write_text("".join(TEXT.splitlines(True)[:count]))
    return arrays


@mark.parametrize("photometric", ["rgb", "minisblack", "miniswhite"])
@mark.parametrize("compression", [None, "zlib"])
@mark.parametrize("bits", [8, 16])
def test_a_picture_in_a_tiff_is_read_as_stored_or_refused(bits, compression, photometric):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    if photometric != "rgb":
        pixels[:] = pixels[..., :1]
    right = 255 - pixels if photometric == "miniswhite" else pixels
    stored = (pixels if photometric == "rgb" else pixels[..., :1]).astype(f"u{bits // 8}") * (
        257 if bits > 8 else 1
    )
    opaque, answers = np.full_like(stored[..., :1], 2**bits - 1), []
    for image, order, apart in itertools.product((stored, np.dstack([stored, opaque])), "<>", (False, True)):
        how = {"planarconfig": "separate" if apart else "contig"} if image.shape[2] > 1 else {}
        more = {"extrasamples": ["unassalpha"]} if image.shape[2] in (2, 4) else {}
        image = (image.transpose(2, 0, 1) if apart else image) if how else image[..., 0]
        options = {"photometric": photometric, "compression": compression, "byteorder": order, **how, **more}
        try:
            answers.append(decode(as_tiff(np.ascontiguousarray(image), **options), 16))
        except ValueError:
            continue
    assert answers or (bits, photometric) == (16, "miniswhite")
    assert all((np.abs(answer.astype(int) - right) <= 1).all() for answer in answers)


@mark.parametrize("kind", ["u1", "u2"])
@mark.parametrize("photometric, count", [("rgb", 4), ("rgb", 5), ("minisblack", 2), ("minisblack", 5)])
@mark.parametrize("planes", ["contig", "separate"])
def test_channels_without_a_bands_txt_are_refused_not_dropped(kind, photometric, count, planes):
    image = np.zeros((8, 9, count) if planes == "contig" else (count, 8, 9), kind)
    more = ["unspecified"] * (count - (3 if photometric == "rgb" else 1))
    tiff = as_tiff(image, photometric=photometric, planarconfig=planes, extrasamples=more)
    stack = as_tiff(image.reshape(count, 8, 9), photometric="minisblack")
    for data in (tiff, stack, as_npy(image)):
        with raises(ValueError, match="name all channels in a bands.txt"):
            decode(data, 8)


@fixture
def bands(tmp_path):
    write_bands(tmp_path / "five", lambda array: as_tiff(array, planarconfig="contig"), "tif")
    return tmp_path / "five"


def test_statistics_of_large_floats_lose_no_digits(tmp_path, cached):
    write_bands(tmp_path / "five", lambda a: as_npy(1e8 + 8 * (a % 5).astype(np.float32)))
    (tmp_path / "five/images/c1/2.npy").write_bytes(b"damaged")
    cache = cached(tmp_path / "five", max_failed_share=1)
    pixels = cache.split("train").images.astype(np.float64)
    assert len(pixels) == 17
    assert_allclose(cache.std, pixels.std((0, 1, 2)), rtol=1e-6)
    assert_allclose(cache.mean, pixels.mean((0, 1, 2)), rtol=1e-7)
    assert_allclose(cache.covariance, np.cov(pixels.reshape(-1, 5).T, bias=True), rtol=1e-6)


@mark.parametrize("value", [0.0, 0.1, 0.7, 273.15, -1e8])
@mark.parametrize("image_size", [7, 5])  # with and without resizing
def test_a_constant_channel_is_named(value, image_size, tmp_path):
    def make(array):
        pixels = array.astype(np.float32)
        pixels[:, :, 3] = value
        return as_npy(pixels)

    write_bands(tmp_path / "five", make)
    with user_error("channel B04 has the same value in every training pixel"):
        open_data(str(tmp_path / "five"), image_size, str(tmp_path / "cache"))


@mark.parametrize(
    "make, ending",
    [
        (lambda a: as_tiff(a, planarconfig="contig"), "tif"),
        (lambda a: as_tiff(a.transpose(2, 0, 1)), "tif"),
        (as_npy, "npy"),
        (lambda a: as_npy(np.ascontiguousarray(a.transpose(2, 0, 1)).astype(">u2")), "npy"),
    ],
)
def test_every_layout_gives_the_same_pixels(tmp_path, cached, make, ending):
    arrays = write_bands(tmp_path / "five", make, ending)
    cache = cached(tmp_path / "five")
    assert cache.channels.as_dict() == BANDS and cache.kind == np.uint16 and not any(cache.failures.values())
    train = cache.split("train")
    for path, image in zip(train.paths, train.images):
        assert (
            np.array_equal(image, arrays[path][:, 1:9]) or arrays[path].shape[1] != 8
        )  # cropped to the middle
    pixels = train.images.reshape(-1, 5).astype(np.float64)
    assert_allclose(cache.mean, pixels.mean(0), rtol=1e-6)
    assert_allclose(cache.covariance, np.cov(pixels.T, bias=True), rtol=1e-5)
    assert_allclose(cache.std, pixels.std(0), rtol=1e-6)


@mark.parametrize("kind, unit", [("uint8", 1), ("uint16", 257)])
def test_a_hard_edge_stays_in_the_range_of_the_pixels(kind, unit):
    """Bicubic interpolation goes below 0 and above the maximum there; as whole numbers these would begin anew."""
    picture = np.zeros((12, 12, 3), np.uint8)
    picture[:, 5:] = 255
    expected, file = Image.fromarray(picture).resize((9, 9), Image.Resampling.BICUBIC), io.BytesIO()
    np.save(file, picture.astype(kind) * unit)
    read = decode(file.getvalue(), 9, 3, kind)
    assert np.abs(read / unit - np.asarray(expected)).max() <= 1


def test_sixteen_bits_are_normalised_over_their_whole_range():
    images = np.array([0, 32767, 32768, 65535], np.uint16).reshape(1, 2, 2, 1)
    batches = Batches(images, np.zeros(1, np.int64), 2, [30000.0], [20000.0], (0,), torch.device("cpu"))
    expected = (torch.tensor([[0.0, 32767], [32768, 65535]]) - 30000) / 20000
    for got, _ in (
        next(batches.eval_batches(1)),
        batches.train_batch(
            {"indices": torch.tensor([0]), **batches.draw(1, "none", torch.Generator())}, "none"
        ),
    ):
        assert_close(got[0, 0], expected)


def test_float_pixels_and_the_kinds_that_go_into_them(tmp_path, cached):
    arrays = write_bands(tmp_path / "five", lambda a: as_npy(a.astype(np.float64) - 30000))
    cache = cached(tmp_path / "five")
    train = cache.split("train")
    assert train.images.dtype == np.float32
    assert_array_equal(train.images[0], arrays[train.paths[0]][:, 1:9].astype(np.float32) - 30000)
    assert [pixel_kind(as_npy(np.zeros((2, 2, 5), kind)), 5) for kind in ("u1", "u2", "i2", "f8", ">u2")] == [
        "uint8",
        "uint16",
        "int16",
        "float32",
        "uint16",
    ]


@mark.parametrize(
    "data, kind, message",
    [
        (as_npy(np.zeros((8, 8, 4), np.uint16)), "uint16", r"an array of \(8, 8, 4\), expected 5 channels"),
        (
            as_npy(np.zeros((8, 8, 5), np.float32)),
            "uint16",
            "pixels are float32, but the first image has uint16",
        ),
        (as_npy(np.full((8, 8, 5), np.nan)), "float32", "320 pixels are NaN"),
        (as_npy(np.array([None, {}], object)), "uint16", "allow_pickle"),
        (as_npy(np.zeros((8, 8, 5)))[:-9], "float32", "."),
        (b"II*\0broken", "uint16", "."),
        (b"no image", "uint16", "expected 5 channels, which need a .npy or TIFF file"),
        (b"\x89PNG", "uint16", "expected 5 channels, which need a .npy or TIFF file; the file is a PNG"),
        (as_npy(np.zeros((8, 8, 5), bool)), "bool", "the pixels are bool; save them as whole numbers"),
    ],
)
def test_what_is_no_such_image_says_why(data, kind, message):
    with raises(Exception, match=message):
        decode(data, 8, 5, kind)


def test_rgb_is_the_case_of_three_channels(tiny_dataset, cached):
    plain = cached(tiny_dataset, "plain")
    (tiny_dataset / "bands.txt").write_text("R\nG 550\nB\n")
    named = cached(tiny_dataset, "named")
    assert plain.digest != named.digest and named.channels.wavelengths == (None, 550.0, None)
    assert np.array_equal(plain.split("train").images, named.split("train").images)


@mark.parametrize(
    "text, message",
    [
        ("", "bands.txt is empty"),
        ("B1 443\nB1 490", "bands.txt:2: 'B1 490'"),
        ("B1 x", "bands.txt:1"),
        ("B1 -4", "bands.txt:1"),
        ("B1 443 m", "bands.txt:1"),
        ("B,1", "bands.txt:1"),
    ],
)
def test_a_wrong_bands_file_names_the_line(bands, text, message):
    (bands / "bands.txt").write_text(text)
    with user_error(message):
        read_lists(bands)


def test_the_scripts_take_any_channels(bands, train, evaluate, read_rows):
    def train_bands(*options):
        train("--data", bands, "--epochs 1 --batch-size 8", *options)

    train_bands("--out run --set-shares", "B04,B03,B02:0.25 all:0.5")
    train_bands("--out rgb --channels 665nm,B03,B02")
    train_bands("--out unseen --train-channels all-NIR --fill luma_chroma")
    options = ("--data", bands, "--repeats 0 --split test")
    evaluate("run/model.pt", *options, "--subsets", "B04,B03,B02 NIR all all-B01")
    evaluate("rgb/model.pt", *options)
    rows = {(row["model"], row["subset"]) for row in read_rows("results/task1/channels.csv")}
    assert rows == {
        *(("channelset", subset) for subset in ("B02,B03,B04", "NIR", "all", "all-B01")),
        ("specialist", "B02,B03,B04"),
    }
    with user_error("no channel 'B8'; the channels are B01 443nm"):
        evaluate("run/model.pt", *options, "--subsets B8")
    with user_error("'R'"):
        train_bands("--channels R")


def test_many_channels_are_evaluated_on_some_sets_and_it_is_said(tmp_path, train, evaluate, stdout):
    write_bands(
        tmp_path / "many", lambda a: as_npy(np.repeat(a, 2, 2)[..., :7] + np.arange(7, dtype=np.uint16))
    )
    (tmp_path / "many/bands.txt").write_text("".join(f"X{i}\n" for i in range(7)))
    train("--data many --epochs 1 --batch-size 8 --out run")
    history = read_jsonl("run/metrics.jsonl")
    assert len(history[-1]["val_top1_pct"]) == 1 + 7 + 7 + 24
    stdout()
    evaluate("run/model.pt", "--data many --split val --repeats 0")
    assert "39 of the 127 sets" in stdout()


# ---------------------------------------------------------------- cross-validation


def test_folds_test_each_image_once_and_spread_the_classes():
    labels = np.repeat([0, 1, 2], [23, 10, 41])
    parts = split_folds(labels, 5, "abc")
    assert sorted(np.concatenate([part["test"] for part in parts])) == list(range(74))
    for part in parts:
        assert sorted(np.concatenate(list(part.values()))) == list(range(74))
        counts = np.bincount(labels[part["test"]], minlength=3)
        assert all(abs(count - whole / 5) < 1 for count, whole in zip(counts, (23, 10, 41)))
    with user_error("class b has only 10 images"):
        split_folds(labels, 11, "abc")


def test_folds_are_data_sets(bands, tmp_path, stdout):
    prepare("folds", bands, "--folds 3 --out", tmp_path / "folds")
    out = stdout()
    assert out.count("ready:") == 3
    tested = []
    for fold in range(3):
        lists = read_lists(tmp_path / "folds" / f"five-fold{fold}")
        assert lists.channels.as_dict() == BANDS and lists.name == f"five-fold{fold}"
        tested += lists.splits["test"].paths
    assert len(tested) == len(set(tested)) == 30
    again = make_folds(read_lists(bands), 3, tmp_path / "folds")
    assert len(again) == 3
    with user_error("does not hold exactly these folds"):
        make_folds(read_lists(bands), 2, tmp_path / "folds")


@fixture
def publish_bands(publish):
    """publish_bands(run, wrong) publishes a run on four images, two seeds: set -> how many it has wrong."""
    labels = np.array([0, 0, 1, 1])

    def write(run, wrong: dict[str, int], dataset=BANDS_DATA, images="abcd", seeds=(0, 1)):
        channels = [name for name in wrong if not name.startswith("all")]
        for seed in seeds:
            more = {"channels": channels, "dataset_digest": "0" * 64}
            files = publish("task1", run, 50, (seed,), subsets=tuple(wrong), dataset=dataset, more=more)
            predicted = {name: np.where(np.arange(4) < n, 1 - labels, labels) for name, n in wrong.items()}
            write_predictions(files.predictions, list(images), labels, predicted)
            record = read_json(files.record)
            for row in record["splits"]["test"]:
                row["top1_pct"] = 100.0 - 25 * wrong[row["subset"]]
            save_record(files, record)

    return write


def only_bands(root):
    (setting,) = load_settings(root, "task1")[1]
    return setting


def test_tables_of_bands_by_hand(publish_bands, tmp_path):
    """Two networks, two seeds, four images, sets of three bands: the numbers in the tables are countable."""
    publish_bands(BANDS_CHANNELSET, {"all": 0, "all-B08": 1, "B01": 2, "B02": 2, "B08": 3})
    publish_bands(BANDS_SLICED, {"all": 1, "all-B08": 1, "B01": 3, "B02": 4, "B08": 4})
    setting = only_bands(tmp_path)
    assert setting.channels == ("B01", "B02", "B08") and is_other(setting)
    rows = [line.split(" | ") for line in accuracy_table(setting).splitlines()[4:]]
    assert rows[0][0] == "| channel-set stem (ours)" and rows[1][0] == "| sliced kernel"
    assert rows[0][2:4] == ["100.0 ± 0.0", "–"] and rows[0][4:7] == ["41.7 ± 0.0", "25.0", "75.0 ± 0.0"]
    assert rows[1][2] == "75.0 ± 0.0" and rows[1][5] == "0.0"
    assert "| sliced kernel | as trained | +25.0 (" in difference_table(setting)
    assert unseen_table(setting) == ""
    (ours, sliced) = make_charts(setting)["task1_bands_eurosat.png"].data[0].series
    assert ours.x == [1, 2, 3] and sliced.y == approx([100 / 12, 75, 75])


def test_bands_have_names_in_the_texts_and_no_tables_among_the_colours(publish_bands, publish, tmp_path):
    publish_bands(BANDS_CHANNELSET, {"all": 0, "B01": 2, "B02": 1})
    publish_bands(BANDS_SLICED, {"all": 1, "B01": 3, "B02": 3})
    publish("task1", CHANNELSET, 60)
    made = collect(tmp_path)
    assert made.numbers("top1 bands ours one") == "62.5" and made.numbers("top1 bands zero-fill all") == "–"
    assert made.numbers("gap bands ours sliced all").startswith("25.0 (")
    with user_error("top1 bands ours pairs.*wrong arguments"):
        made.numbers("top1 bands ours pairs")
    assert "eurosat" not in made.blocks["task1-detail"] and "| B01 |" not in made.blocks["task1-detail"]
    assert "EuroSAT" in made.blocks["task1-bands"]


def test_folds_are_joined_into_a_record_that_tables_read(publish_bands, tmp_path):
    folds = ["five-fold0", "five-fold1"]
    with user_error("results holds no evaluation of a fold: run without --collect"):
        join_folds(tmp_path / "results", folds, "five")
    for fold, images, wrong in zip(folds, ("abcd", "efgh"), (1, 3)):
        publish_bands(BANDS_CHANNELSET, {"all": wrong, "B01": 2}, dataset=fold, images=images)
    joined = join_folds(tmp_path / "results", folds, "five")
    assert len(joined) == 2  # seeds
    for name, (record, predictions) in joined.items():
        assert name == run_name(record) and record["dataset"] == "five" and record["train_s"] == 120
        assert [fold["dataset"] for fold in record["folds"]] == folds
        assert predictions.images == list("abcdefgh") and set(record["splits"]) == {"test"}
        whole, one = record["splits"]["test"]
        assert (whole["subset"], whole["top1_pct"], one["top1_pct"]) == ("all", 50, 50)
        assert (predictions.by_column["all"] == predictions.labels).sum() == 4
        assert whole["f1_macro"] == approx((1 / 3 + 3 / 5) / 2) and whole["macs"] == 30_000_000
    assert len(make_table({name: record for name, (record, _) in joined.items()}, "task1")) == 4
    with user_error("five-.*: 2 of 3 folds are evaluated"):
        join_folds(tmp_path / "results", [*folds, "five-fold2"], "five")
    damaged = next((tmp_path / "results/task1/predictions").glob("*-five-fold0-*"))
    whole = read_predictions(damaged)
    write_predictions(damaged, whole.images[::-1], *whole[1:])
    read_predictions.cache_clear()
    with user_error("five-fold0-.*csv.gz was changed after it was written"):
        join_folds(tmp_path / "results", folds, "five")


def test_tables_of_bands_without_our_network(publish_bands, tmp_path):
    publish_bands(BANDS_MEAN, {"B01": 1})
    publish_bands(BANDS_SLICED, {"all": 1, "B01": 3}, seeds=(0,))
    setting = only_bands(tmp_path)
    table = accuracy_table(setting)
    assert "4 tiles" in table and "over 1–2 seeds" in table and "| 25.0 |" in table
    assert difference_table(setting) == ""  # nothing to subtract from


def test_channels_survive_the_way_to_the_network_and_back(bands, cached):
    cache = cached(bands)
    again = PixelCache(cache.folder)
    assert Channels(again.channels.as_dict()).as_dict() == BANDS
    assert again.channels.chosen([4, 0]).names == ("NIR", "B01")


def test_a_fourth_channel_is_derived_and_rgb_stays(tiny_dataset, tmp_path, cached):
    plain = cached(tiny_dataset, "plain").split("train").images
    for channel, expected in (
        ("grey", lambda x: x @ [0.299, 0.587, 0.114]),
        ("nir", lambda x: 3 * x[..., 1] - 2 * x[..., 0]),
    ):
        prepare("derive", tiny_dataset, "--channel", channel, "--out", tmp_path / channel)
        lists = read_lists(tmp_path / channel)
        assert lists.channels.names == ("R", "G", "B", channel)
        image = np.load(tmp_path / channel / lists.splits["train"].paths[0]).astype(float)
        assert_allclose(image[..., 3], np.clip(expected(image[..., :3]), 0, 255), atol=0.51)
        pixels = cached(tmp_path / channel).split("train").images
        assert np.abs(pixels[..., :3].astype(int) - plain).max() <= 1  # resampled in float, not in 8 bits
    (tiny_dataset / "bands.txt").write_text("R 665\nG 560\nB\n")
    prepare("derive", tiny_dataset, "--channel nir --out", tmp_path / "waves")
    assert read_lists(tmp_path / "waves").channels.wavelengths == (665, 560, None, None)
    with user_error("is there already"):
        prepare("derive", tiny_dataset, "--channel grey --out", tmp_path / "grey")
    (tiny_dataset / "bands.txt").write_text("NIR\nR\nG\n")
    with user_error("has the channels NIR, R, G; a fourth channel is computed from R, G and B"):
        prepare("derive", tiny_dataset, "--channel grey --out", tmp_path / "other")
    ramp = np.tile(np.arange(8.0)[None, :, None] * 10, (8, 1, 3))
    assert_allclose(sobel(ramp)[:, 1:-1], 20, atol=1e-9)
