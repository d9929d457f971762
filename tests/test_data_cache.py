"""The pixel cache: right pixels and statistics, failures left out, never half finished."""

import io
import json
import shutil
import struct
import zipfile

import numpy as np
import pytest
from helpers import read_json, user_error
from numpy.testing import assert_allclose
from PIL import Image
from pytest import mark, raises

from data import cache as cache_module
from data.cache import PixelCache, moments, open_cache
from data.decode import decode, pixel_kind
from data.lists import read_lists
from utils import UserError


def damage(folder, number=1, label=1):
    """Cut a picture short; returns its listed path."""
    path = f"images/n0000000{label}/n0000000{label}_{number}.JPEG"
    data = (folder / path).read_bytes()
    (folder / path).write_bytes(data[: len(data) - 60])
    return path


def encode(image, **kwargs):
    data = io.BytesIO()
    image.save(data, **kwargs)
    return data.getvalue()


def test_pixels_labels_and_statistics(tiny_dataset, cached):
    cache = cached(tiny_dataset)
    train = cache.split("train")
    assert train.images.shape == (12, 8, 8, 3) and train.images.dtype == np.uint8
    for image, path in zip(train.images, train.paths):
        assert np.array_equal(image, decode((tiny_dataset / path).read_bytes(), 8))
    assert train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4 and train.labels.dtype == np.int64
    pixels = train.images.reshape(-1, 3) / 255
    assert_allclose(cache.mean, pixels.mean(0), rtol=1e-6)
    assert_allclose(cache.std, pixels.std(0), rtol=1e-6)
    assert_allclose(cache.covariance, np.cov(pixels.T, bias=True), rtol=1e-5)
    assert cache.num_classes == 3 and cache.failures == {"train": [], "val": [], "test": []}
    assert cache.digest == read_lists(tiny_dataset).digest and cache.folder.name.startswith("tiny-8px-")


def test_decode_scales_the_short_side_and_crops_the_centre():
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 16:44] = 200
    assert (decode(encode(Image.fromarray(wide), format="PNG"), 10) == 200).all()
    exact = np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)
    assert np.array_equal(decode(encode(Image.fromarray(exact), format="PNG"), 9), exact)
    assert decode(encode(Image.fromarray(exact), format="PNG"), 16).shape == (16, 16, 3)


@mark.parametrize("mode", ["L", "P", "CMYK", "RGBA", "1"])
def test_decode_makes_rgb(mode):
    image = Image.new("RGB", (8, 8), (255, 255, 255)).convert(mode)
    kind = "JPEG" if mode in ("L", "CMYK") else "PNG"
    assert (decode(encode(image, format=kind), 8) >= 254).all()


def half(left, right, mode="RGB", size=(16, 8)) -> Image.Image:
    """Two plain halves."""
    image = Image.new(mode, size, left)
    image.paste(right, (size[0] // 2, 0, *size))
    return image


@mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_keeps_its_greys(kind):
    levels = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    decoded = decode(encode(Image.fromarray(levels), format=kind), 8)
    assert_allclose(decoded[..., 0], levels / 257, atol=0.51)


def test_twelve_bit_grey_keeps_its_greys():
    """Microscopes write such TIFFs. Two pixels are three bytes, which tifffile cannot write itself."""
    levels = np.linspace(0, 4095, 64).astype(np.uint16).reshape(8, 8)
    packed = np.packbits((levels[..., None] >> np.arange(11, -1, -1) & 1).astype(np.uint8)).reshape(8, 12)
    data = encode(Image.fromarray(packed), format="TIFF")
    for tag, kind, old, new in ((256, 4, 12, 8), (258, 3, 8, 12)):  # width and bits per pixel
        data = data.replace(struct.pack("<HHIH", tag, kind, 1, old), struct.pack("<HHIH", tag, kind, 1, new))
    assert_allclose(decode(data, 8)[..., 0], levels * (255 / 4095), atol=0.51)


@mark.parametrize("most", [300, 1023, 65535])
@mark.parametrize("plain", [False, True])
def test_a_pgm_of_more_than_eight_bits_keeps_its_greys(most, plain):
    levels = np.linspace(0, most, 64).astype(np.uint16).reshape(8, 8)
    pixels = " ".join(map(str, levels.ravel())).encode() if plain else levels.astype(">u2").tobytes()
    data = b"P%d 8 8 %d\n" % (2 if plain else 5, most) + pixels
    assert_allclose(decode(data, 8, 1)[..., 0], 255 / most * levels, atol=0.51)
    with raises((ValueError, OSError)):
        decode(data[:-40], 8, 1)


def test_what_is_transparent_shows_white():
    picture = Image.new("RGBA", (8, 8), (10, 20, 30, 255))
    picture.paste((10, 20, 30, 0), (0, 0, 8, 4))
    for image, kind in ((picture, "PNG"), (picture, "TIFF"), (picture.quantize(8), "PNG")):
        decoded = decode(encode(image, format=kind), 8).astype(int)
        assert (decoded[:3] >= 250).all() and abs(decoded[5:] - [10, 20, 30]).max() < 8
    grey = Image.merge("LA", [Image.new("L", (8, 8), 100), Image.new("L", (8, 8), 0)])
    assert (decode(encode(grey, format="PNG"), 8) == 255).all()
    opaque = Image.merge("LA", [Image.new("L", (8, 8), 100), Image.new("L", (8, 8), 255)])
    assert (decode(encode(opaque, format="PNG"), 8) == 100).all()
    for mode, colour in (("RGB", (10, 20, 30)), ("L", 100)):
        image = encode(Image.new(mode, (8, 8), colour), format="PNG", transparency=colour)
        assert (decode(image, 8, 3) == 255).all() and (decode(image, 8, 1) == 255).all()


@mark.parametrize("orientation, red_is", [(1, "left"), (3, "right"), (6, "top"), (8, "bottom")])
def test_pictures_stand_as_their_exif_says(orientation, red_is):
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = decode(
        encode(half((255, 0, 0), (0, 0, 255), size=(32, 32)), format="JPEG", exif=exif, quality=95), 32
    )
    place = {"left": decoded[:, 4], "right": decoded[:, -4], "top": decoded[4], "bottom": decoded[-4]}[red_is]
    assert (place[..., 0] > 200).all() and (place[..., 2] < 60).all()


# a TIFF of signed 8-bit pixels
SIGNED = encode(Image.new("L", (8, 8), 200), format="TIFF", tiffinfo={339: 2})


@mark.parametrize(
    "data, message",
    [
        (
            encode(half(0, 255, "L"), format="GIF", save_all=True, append_images=[half(255, 0, "L")]),
            "an animation",
        ),
        (
            encode(half(0, 255, "L"), format="TIFF", save_all=True, append_images=[half(255, 0, "L")]),
            "2 pictures",
        ),
        (encode(Image.fromarray(np.zeros((8, 8), np.float32)), format="TIFF"), "32-bit pixels"),
        (encode(Image.fromarray(np.zeros((8, 8), np.int32)), format="TIFF"), "32-bit pixels"),
        (encode(Image.new("I;16", (8, 8)), format="PNG", transparency=0), "transparent colour"),
        (SIGNED, "signed"),
        (encode(half((9, 9, 9, 90), (9, 9, 9, 254), "RGBA"), format="TIFF"), "seems to be another channel"),
        (encode(Image.new("RGBA", (8, 8), (9, 9, 9, 0)), format="TIFF"), "seems to be another channel"),
        (encode(Image.new("LA", (8, 8), (9, 200)), format="TIFF"), "seems to be another channel"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", "cannot identify"),
        (b"", "cannot identify"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "cannot identify"),
    ],
)
def test_what_has_no_one_picture_is_refused(data, message):
    with raises(Exception, match=message):
        decode(data, 8)


def test_signed_bands_keep_their_sign():
    kind = pixel_kind(SIGNED, 1, bands=True)
    assert (decode(SIGNED, 8, 1, kind, bands=True) == 200 - 256).all()


def test_decode_of_a_big_jpeg_keeps_detail():
    ramp = np.broadcast_to(np.linspace(0, 255, 512).astype(np.uint8)[None, :, None], (512, 512, 3))
    small = decode(encode(Image.fromarray(ramp.copy()), format="JPEG", quality=95), 32)
    assert small.shape == (32, 32, 3) and abs(small[:, :, 0].mean(0) - np.linspace(4, 251, 32)).max() < 3


def test_moments_are_exact():
    images = np.random.default_rng(0).integers(0, 256, (3, 40, 40, 3), np.uint8)
    pixels = images.reshape(-1, 3).astype(np.int64)
    sums, products = moments(images)
    assert np.array_equal(sums, pixels.sum(0)) and np.array_equal(products, pixels.T @ pixels)


def test_greyscale_has_equal_channels(tiny_dataset, cached):
    grey = cached(tiny_dataset).split("train").images[0]
    assert (grey[..., 0] == grey[..., 1]).all() and (grey[..., 0] == grey[..., 2]).all() and grey.std() > 0


def test_threads_zip_and_folder_agree(tiny_dataset, tmp_path, zipped, monkeypatch, cached):
    monkeypatch.setattr(cache_module, "CHUNK", 5)
    archive = zipped(tiny_dataset, tmp_path / "tiny.zip")
    one, two = cached(tiny_dataset, "one", workers=1), cached(archive, "two", workers=2)
    assert one.folder.name == two.folder.name
    for name in ("train.raw", "val.raw", "test.raw", "train.txt"):
        assert (one.folder / name).read_bytes() == (two.folder / name).read_bytes()
    assert one.images_digest == two.images_digest and np.array_equal(one.covariance, two.covariance)


def test_undecodable_are_named_and_left_out(tiny_dataset, stderr, cached):
    expected = cached(tiny_dataset, "whole").split("train")
    bad = damage(tiny_dataset)
    (tiny_dataset / "images/n00000002/n00000002_4.JPEG").write_bytes(b"not a picture")
    cache = cached(tiny_dataset, max_failed_share=0.2)
    train = cache.split("train")
    assert [path for path, _ in cache.failures["train"]] == [bad] and "truncated" in cache.failures["train"][
        0
    ][1]
    assert len(cache.failures["val"]) == 1 and len(cache.split("val").labels) == 5
    warning = stderr()
    assert "1 train images cannot be decoded" in warning and bad in warning
    kept = [row for row, path in enumerate(expected.paths) if path != bad]
    assert train.paths == [expected.paths[row] for row in kept]
    assert np.array_equal(train.images, expected.images[kept]) and np.array_equal(
        train.labels, expected.labels[kept]
    )
    assert train.images.reshape(11, -1).max(1).min() > 0  # never a black image
    assert_allclose(cache.mean, train.images.reshape(-1, 3).mean(0) / 255, rtol=1e-6)


def test_too_many_undecodable_stop_the_build(tiny_dataset, tmp_path, cached):
    bad = damage(tiny_dataset)
    with user_error(f"1 of 12 train images cannot be decoded.*{bad}.*--max-failed"):
        cached(tiny_dataset)
    assert not list((tmp_path / "cache").iterdir())
    assert cached(tiny_dataset, max_failed_share=1 / 12).failures["train"]


def test_leaving_out_every_image_is_no_advice(tiny_dataset, cached):
    for path in tiny_dataset.rglob("*.JPEG"):
        path.write_bytes(b"damaged")
    with user_error("12 of 12 train images cannot be decoded.* Replace them$"):
        cached(tiny_dataset)


def test_a_limit_of_zero_allows_a_set_without_failures(tiny_dataset, cached):
    assert cached(tiny_dataset, max_failed_share=0).num_classes == 3


def test_a_picture_in_two_splits_is_named_at_every_opening(tiny_dataset, stderr, cached):
    train, test = (f"images/n00000001/n00000001_{number}.JPEG" for number in (0, 7))
    shutil.copy(tiny_dataset / train, tiny_dataset / test)
    for _ in range(2):
        cached(tiny_dataset)
        assert f"spoils the test: test {test} = train {train}; remove" in stderr()


def test_images_that_are_gone_are_named_and_the_cache_stays(tiny_dataset, tmp_path):
    lists = read_lists(tiny_dataset)
    folder = open_cache(lists, 8, tmp_path / "cache", progress=False).folder
    shutil.rmtree(tiny_dataset)
    with user_error("12 of 12 train images cannot be decoded.*No such file"):
        open_cache(lists, 8, tmp_path / "cache", progress=False)
    assert PixelCache(folder).split("test").paths == lists.splits["test"].paths


def test_size_lists_and_format_make_different_caches(tiny_dataset, cached, monkeypatch):
    folders = {cached(tiny_dataset, size=size).folder for size in (6, 8)}
    lines = (tiny_dataset / "train.txt").read_text().splitlines(keepends=True)
    (tiny_dataset / "train.txt").write_text("".join(lines[:-1]))
    folders.add(cached(tiny_dataset).folder)
    monkeypatch.setattr(cache_module, "FORMAT", cache_module.FORMAT + 9)
    folders.add(cached(tiny_dataset).folder)
    assert len(folders) == 4


@mark.parametrize("name", ["train.raw", "train.txt", "meta.json"])
def test_a_damaged_cache_is_named_and_built_again(tiny_dataset, stderr, name, cached):
    folder = cached(tiny_dataset).folder
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[:-9])
    with user_error("damaged.*delete that folder"):
        PixelCache(folder)
    assert (cached(tiny_dataset).folder / name).read_bytes() == whole
    assert "damaged" in stderr()


@mark.parametrize("name, place", [("train.raw", 5), ("val.raw", -1), ("test.raw", 100), ("train.txt", 30)])
def test_one_changed_byte_is_found(tiny_dataset, name, place, cached):
    folder = cached(tiny_dataset).folder
    data = bytearray((folder / name).read_bytes())
    data[place] ^= 1
    (folder / name).write_bytes(data)
    with user_error(f"{name} was changed.*delete that folder"):
        PixelCache(folder)


@mark.parametrize(
    "key, value",
    [
        ("mean", [0.5, 0.5, 0.5]),
        ("class_names", ["a", "b", "c"]),
        ("images", {"train": 11, "val": 6, "test": 6}),
        ("failures", {}),
    ],
)
def test_a_changed_statistic_is_found(tiny_dataset, key, value, cached):
    folder = cached(tiny_dataset).folder
    meta = read_json(folder / "meta.json")
    (folder / "meta.json").write_text(json.dumps({**meta, key: value}))
    with user_error("meta.json was changed"):
        PixelCache(folder)


def test_what_was_left_out_is_said_again_and_read_when_it_is_mended(tiny_dataset, stderr, cached):
    whole = cached(tiny_dataset, "whole").split("train").images
    path = tiny_dataset / "images/n00000001/n00000001_1.JPEG"
    good = path.read_bytes()
    path.write_bytes(good[:50])
    cached(tiny_dataset, max_failed_share=0.5)
    stderr()
    cached(tiny_dataset, max_failed_share=0.5)
    assert "1 train images cannot be decoded" in stderr()
    # a smaller limit holds now, too
    with user_error("1 of 12 train images.*--max-failed"):
        cached(tiny_dataset)
    path.write_bytes(good)
    assert np.array_equal(cached(tiny_dataset).split("train").images, whole)
    assert "pictures of the data set changed" in stderr()


def test_a_member_of_a_zip_is_read_when_it_is_mended(tiny_dataset, tmp_path, zipped, cached):
    """The list of a zip holds the size and checksum of the whole member, also while the member is damaged."""
    path = zipped(tiny_dataset, tmp_path / "tiny.zip")
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("images/n00000001/n00000001_2.JPEG")
    place = info.header_offset + 30 + len(info.filename) + info.compress_size // 2
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
    failures = []
    for _ in range(2):
        cache = cached(path, max_failed_share=1)
        failures.append([image for image, _ in cache.failures["train"]])
        path.write_bytes(whole)
    assert failures == [[info.filename], []]


def test_no_room_is_said_before_starting(tiny_dataset, monkeypatch, cached):
    monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 90, 10))
    with user_error("the cache needs .* GB are free; free disk space"):
        cached(tiny_dataset)


@mark.parametrize(
    "error, expected",
    [(OSError(28, "No space left on device"), UserError), (KeyboardInterrupt(), KeyboardInterrupt)],
)
def test_an_interrupted_build_leaves_nothing(tiny_dataset, tmp_path, monkeypatch, error, expected, cached):
    def stop(*_):
        raise error

    monkeypatch.setattr(cache_module, "write_text", stop)
    with raises(expected):
        cached(tiny_dataset)
    assert not list((tmp_path / "cache").iterdir())


@mark.parametrize("text", ["[" * 10**5, "9" * 5000, "[]", "null"], ids=["deep", "long", "list", "null"])
def test_a_description_that_cannot_be_read_is_damage(tiny_dataset, text, cached):
    folder = cached(tiny_dataset).folder
    (folder / "meta.json").write_text(text)
    with user_error("is damaged .*delete that folder"):
        PixelCache(folder)


def test_nothing_of_a_changed_description_is_used(tiny_dataset, monkeypatch, cached):
    """A number of channels of 10^30 would be counted for ever."""
    folder = cached(tiny_dataset).folder
    meta = read_json(folder / "meta.json")
    (folder / "meta.json").write_text(json.dumps({**meta, "channels": 5}))
    monkeypatch.setattr("data.cache.Channels", lambda value: pytest.fail("used before it was compared"))
    with user_error("meta.json was changed"):
        PixelCache(folder)
