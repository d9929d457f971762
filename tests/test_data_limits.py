"""What a data set may hold: regular files of bounded size, pixels of one kind, names with one meaning."""

import gzip
import io
import itertools
import os
import resource
import shutil
import zipfile
from pathlib import Path

import numpy as np
import tifffile
import torch
from helpers import as_npy, as_tiff, exits, prepare, user_error, value_error, write_set
from PIL import Image
from pytest import mark, raises

from data import decode as decode_module
from data import lists as lists_module
from data.dataset import open_data
from data.decode import decode
from data.derive import derive
from data.lists import read_lists
from engine import records
from engine.records import write_predictions
from storage.checkpoint import load_checkpoint
from utils import cli


def write_arrays(folder: Path, make, bands: str = "A\nB\nC\nD\n") -> Path:
    """Write a data set; make: number of an image -> bytes of a .npy file."""
    numbers = itertools.count()
    write_set(folder, "images/{label}-{number}.npy", lambda path, *_: path.write_bytes(make(next(numbers))))
    (folder / "bands.txt").write_text(bands)
    return folder


def pixels(number: int, kind=np.uint16) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (8, 9, 4)).astype(kind)


def attempt(function) -> tuple[str, int]:
    """Return the error that a function raises, and by how many kB the memory of this process grew at most."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with raises(Exception) as error:
        function()
    return f"{error.type.__name__} {error.value}", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before


# ---------------------------------------------------------------- regular files of bounded size


def test_a_pipe_or_a_device_is_named_at_once(tiny_dataset, tmp_path, forked, cached):
    names, folders = ("train.txt", "val.txt", "bands.txt", "images/n00000000/n00000000_1.JPEG"), []
    for kind in ("pipe", "device"):
        for number, name in enumerate(names):
            folder = tmp_path / f"{kind}{number}"
            path = shutil.copytree(tiny_dataset, folder) / name
            path.unlink(missing_ok=True)
            os.mkfifo(path) if kind == "pipe" else path.symlink_to("/dev/zero")
            folders.append(str(folder))
    for folder in folders:
        error, _ = forked(lambda: attempt(lambda: prepare("check", folder, "--decode --workers 1")))
        assert error.startswith("UserError") and "not a regular file" in error
    cache = cached(tmp_path / "pipe3", max_failed_share=0.5)
    assert [path for path, _ in cache.failures["train"]] == [names[3]]


def test_a_pipe_is_no_data_set(tmp_path):
    os.mkfifo(tmp_path / "set.zip")
    with user_error("a pipe, a device or similar; name a folder or a zip"):
        read_lists(tmp_path / "set.zip")


@mark.parametrize("as_zip", [False, True])
@mark.parametrize("name", ["train.txt", "val.txt", "bands.txt"])
def test_a_list_of_many_bytes_is_not_read(tiny_dataset, tmp_path, zipped, monkeypatch, as_zip, name):
    monkeypatch.setattr(lists_module, "LARGEST_LIST", 1000)
    with open(tiny_dataset / name, "ab") as file:
        file.truncate(5000)
    source = zipped(tiny_dataset, tmp_path / "tiny.zip") if as_zip else tiny_dataset
    with user_error(f"cannot read .*{name}.*5,000 bytes, more than the 1,000 that are allowed"):
        read_lists(source)


def test_usual_limits_are_far_above_usual_files():
    assert lists_module.LARGEST_LIST > 10**8 and decode_module.LARGEST_IMAGE > 10**9


@mark.parametrize("lie", [False, True])
def test_a_bomb_in_a_zip_is_not_unpacked(tiny_dataset, tmp_path, monkeypatch, forked, lie):
    """100 MB of zeros, which the zip may say are 100 bytes, under a limit of 16 MB."""
    bomb = "images/n00000000/n00000000_1.JPEG"
    with zipfile.ZipFile(tmp_path / "tiny.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for path in sorted(path for path in tiny_dataset.rglob("*") if path.is_file()):
            name = path.relative_to(tiny_dataset).as_posix()
            if name != bomb:
                archive.write(path, name)
        archive.writestr(bomb, bytes(100 << 20))
        if lie:
            archive.getinfo(bomb).file_size = 100
    monkeypatch.setattr(lists_module, "LARGEST_IMAGE", 1 << 24)
    lists = read_lists(tmp_path / "tiny.zip")
    why, grown = forked(lambda: attempt(lambda: lists.read(bomb)))
    assert ("BadZipFile" if lie else "104,857,600 bytes, more than") in why and grown < 50_000


def test_other_ways_to_pack_are_named(tiny_dataset, tmp_path):
    with zipfile.ZipFile(tmp_path / "tiny.zip", "w", zipfile.ZIP_BZIP2) as archive:
        for path in sorted(tiny_dataset.rglob("*")):
            archive.write(path, path.relative_to(tiny_dataset).as_posix())
    with user_error("train.txt in .*packed with another method than deflate; pack the zip again"):
        read_lists(tmp_path / "tiny.zip")


def test_a_tiff_of_many_pixels_is_not_decoded(monkeypatch):
    monkeypatch.setattr(decode_module, "LARGEST_IMAGE", 30_000)
    data = as_tiff(np.zeros((100, 100, 4), np.uint8), compression="zlib", photometric="minisblack")
    with value_error("40,000 bytes, more than the 30,000"):
        decode(data, 8, 4)


def test_predictions_that_are_cut_short_are_named(tmp_path):
    path = tmp_path / "run-test.csv.gz"
    write_predictions(path, ["a.png"] * 100, np.zeros(100, int), {"R": np.zeros(100, int)})
    for count in (1, 9, 20):
        path.write_bytes(path.read_bytes()[:-count])
        with user_error("cannot read .*run-test.csv.gz: .*; evaluate the model again"):
            records.read_predictions(path)


@mark.parametrize(
    "line", ["a,,1", "a,0,1.5", "a,0,-1", "a,0,1,2", "a,0," + "9" * 30, "a,x,1", "a,0", "a,0,nan", ""]
)
def test_predictions_hold_numbers_of_classes(tmp_path, line):
    path = tmp_path / "run-test.csv.gz"
    path.write_bytes(gzip.compress(f"image,label,R\n{line}\n".encode()))
    with user_error("cannot read .*run-test.csv.gz: .*; evaluate the model again"):
        records.read_predictions(path)


def test_predictions_keep_the_names_of_images(tmp_path):
    path, names = tmp_path / "run-test.csv.gz", ["001", "NA", "1e5"]
    write_predictions(path, names, np.zeros(3, int), {"R": np.zeros(3, int)})
    assert records.read_predictions(path).images == names


def test_a_checkpoint_is_not_packed(tmp_path):
    torch.save({"kind": "task1-model", "state": torch.zeros(1000)}, tmp_path / "model.pt")
    with zipfile.ZipFile(tmp_path / "model.pt") as old:
        with zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as new:
            for name in old.namelist():
                new.writestr(name, old.read(name))
    assert torch.load(tmp_path / "packed.pt")["kind"] == "task1-model"  # torch unpacks it without a limit
    with user_error("packed.pt is not a readable checkpoint"):
        load_checkpoint(tmp_path / "packed.pt", "task1-model")


def test_a_picture_of_many_pixels_is_named_by_derive_too(tiny_dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30)
    with user_error("cannot decode images/n00000000/n00000000_0.JPEG .DecompressionBombError"):
        derive(read_lists(tiny_dataset), "grey", tmp_path / "out")


# ---------------------------------------------------------------- pixels of one kind


@mark.parametrize(
    "first, second", [("uint16", "uint8"), ("float32", "uint8"), ("float32", "int16"), ("int32", "int16")]
)
def test_pixels_of_two_kinds_are_named(tmp_path, first, second, cached):
    folder = write_arrays(
        tmp_path / "set", lambda number: as_npy(pixels(number, second if number % 2 else first))
    )
    with user_error(f"pixels are {second}, but the first image has {first}: save all images as one type"):
        cached(folder)


def test_floats_of_two_sizes_are_of_one_kind(tmp_path, cached):
    folder = write_arrays(
        tmp_path / "set", lambda number: as_npy(pixels(number, ("f4", "f8", ">f4")[number % 3]))
    )
    cache = cached(folder)
    assert cache.kind == np.float32 and not any(cache.failures.values())


def test_a_picture_among_wider_pixels_is_named(tiny_dataset, cached):
    for path in sorted(tiny_dataset.rglob("*.JPEG"))[:-1]:
        path.write_bytes(as_npy(np.asarray(Image.open(path).convert("RGB")).astype(np.uint16) * 257))
    with user_error("n00000002_7.JPEG .ValueError: a picture has 8-bit pixels, .* has uint16"):
        cached(tiny_dataset)


@mark.parametrize("count", [1, 3])
@mark.parametrize("kind", [np.uint16, np.int16, np.float32])
def test_a_tiff_of_one_or_three_bands_keeps_its_values(tmp_path, count, kind, cached):
    """As a picture it would have 8 bits, and values of 0 to 3000 would become 0 to 12."""

    def make(number, kind=kind):
        array = np.random.default_rng(number).integers(0, 3000, (8, 8, count)).astype(kind)
        return as_tiff(array, photometric="rgb" if count == 3 else "minisblack")

    bands = "\n".join("ABC"[:count])
    folder = write_arrays(tmp_path / "set", make, bands)
    cache = cached(folder)
    train = cache.split("train")
    first = tifffile.imread(folder / train.paths[0]).reshape(8, 8, count)
    assert np.array_equal(train.images[0], first) and cache.kind.name != "uint8"
    prepare("check", folder, "--decode --workers 1")
    folder = write_arrays(tmp_path / "mixed", lambda n: make(n, kind if n else np.uint8), bands)
    with user_error(f"pixels are {np.dtype(kind)}, but the first image has uint8"):
        cached(folder)


def test_pictures_that_are_almost_black_in_eight_bits_are_named(tmp_path, stderr):
    """Values of 0 to 3000 in 16 bits: a picture keeps twelve greys, an array all of them."""

    def make(number):
        array = np.random.default_rng(number).integers(0, 3000, (8, 8, 3)).astype(np.uint16)
        return as_tiff(array, photometric="rgb")

    folder = write_arrays(tmp_path / "set", make, "R\nG\nB\n")
    for bands in (True, False):
        open_data(str(folder), 7, str(tmp_path / "cache"))
        assert ("channel G is almost black. If the files have more than 8 bits" in stderr()) != bands
        (folder / "bands.txt").unlink(missing_ok=True)


def test_three_bands_of_eight_bits_that_are_no_colours_are_read(tmp_path, cached):
    def make(number):
        return as_tiff(pixels(number, np.uint8)[..., :3], photometric="minisblack", planarconfig="contig")

    cache = cached(write_arrays(tmp_path / "set", make, "A\nB\nC\n"))
    assert not any(cache.failures.values())


def test_a_first_image_that_is_damaged_does_not_decide(tmp_path, cached):
    folder = write_arrays(tmp_path / "set", lambda number: as_npy(pixels(number)) if number else b"damaged")
    cache = cached(folder, max_failed_share=0.2)
    assert cache.kind == np.uint16 and len(cache.failures["train"]) == 1


@mark.parametrize("shape", [(4, 9, 4), (4, 4, 4)])
def test_a_shape_that_can_be_read_in_two_ways_is_named(shape):
    with value_error("whose 4 channels may be the first or the last axis; crop or pad the image"):
        decode(as_npy(np.zeros(shape, np.uint16)), 4, 4, "uint16")


def test_a_plane_has_one_channel():
    assert decode(as_npy(np.arange(4, dtype=np.uint8)[None]), 1, 1).shape == (1, 1, 1)
    with value_error(r"an array of \(4, 9\), expected 4 channels"):
        decode(as_npy(np.zeros((4, 9), np.uint8)), 4, 4)


@mark.parametrize(
    "kind, value",
    [("f8", 1e300), ("f4", 3e38), ("f4", -2e18), ("f8", np.inf), ("u8", 2**64 - 1), ("i8", -(2**63))],
)
def test_floats_too_large_for_statistics_are_left_out(tmp_path, kind, value, cached):
    def make(number):
        array = pixels(number, kind)
        array[3, 3, 1] = value if number == 2 else 0
        return as_npy(array)

    folder = write_arrays(tmp_path / "set", make)
    with user_error("images/0-2.npy .ValueError: (a pixel of|1 pixels are)"):
        cached(folder)
    cache = cached(folder, max_failed_share=0.1)
    assert np.isfinite(cache.covariance).all() and dict(cache.failures["train"]).keys() == {"images/0-2.npy"}


@mark.parametrize("kind, nodata", [(np.float32, "-9999"), (np.int16, "-32768"), (np.uint16, "65535")])
def test_missing_pixels_of_a_tiff_are_named(kind, nodata):
    """GDAL writes such files. As pixels, a few values of -9999 would decide the mean and the deviation."""
    tag = [(42113, "s", 0, nodata, True)]
    array = pixels(0, kind)
    whole = as_tiff(array, photometric="minisblack", planarconfig="contig", extratags=tag)
    assert decode(whole, 8, 4, np.dtype(kind).name).max() <= 255
    array[3, 3, 1] = array[5, 2, 0] = nodata
    holes = as_tiff(array, photometric="minisblack", planarconfig="contig", extratags=tag)
    with value_error(f"2 pixels are {nodata}, which means missing in this file"):
        decode(holes, 8, 4, np.dtype(kind).name)


def test_if_no_image_is_good_the_true_reason_is_named(tmp_path, cached):
    folder = write_arrays(tmp_path / "set", lambda _: as_npy(np.full((8, 8, 4), np.nan, np.float32)))
    with user_error("images/0-0.npy .ValueError: .*NaN"):
        cached(folder)


# ---------------------------------------------------------------- texts


@mark.parametrize("text", ["Größe 443\n".encode("latin-1"), "A\nB\n".encode("utf-16")])
@mark.parametrize(
    "parse, name", [(lists_module.parse_bands, "bands.txt"), (lists_module.parse_list, "val.txt")]
)
def test_a_text_in_another_encoding_is_named(parse, name, text):
    with user_error(f"{name} is not UTF-8 text .*save it again as UTF-8"):
        parse(text, name)


@mark.parametrize("digits", [21, 5000])
def test_a_label_of_many_digits_is_named(digits):
    with user_error("val.txt:1: label '9{20}' is not a whole number"):
        lists_module.parse_list(b"a.png " + b"9" * digits, "val.txt")


# ---------------------------------------------------------------- reasons


@mark.parametrize(
    "data, what",
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0", "a HEIC picture; save it again, as JPEG or PNG"),
        (b"\0\0\0\x1cftypavif\0\0\0\0", "an AVIF picture"),
        (b"\n<!DOCTYPE html><html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"", "empty"),
        (bytes(100), "empty"),
        (b"\x1b[2J no image", r"of an unknown kind that begins with b'\\x1b[2J no imag'"),
    ],
)
def test_a_file_of_another_kind_is_called_by_its_name(data, what):
    with value_error("cannot identify a picture: the file is") as caught:
        decode(data, 8)
    assert what.replace("\\\\", "\\") in str(caught.value)


def test_reasons_are_the_same_on_every_run(tiny_dataset, monkeypatch, cached):
    def fail(*_):
        raise OSError(f"cannot identify image file {io.BytesIO()!r}")

    monkeypatch.setattr(decode_module, "open_picture", fail)
    with user_error("(?s)^(?!.*0x[0-9a-f]{6}).*image file <_io.BytesIO>"):
        cached(tiny_dataset)


# ---------------------------------------------------------------- names


@mark.parametrize("name", ["\x1b[31mred", "a\x9b31m", "bell\x07", "two\tparts"])
def test_a_path_with_a_control_character_is_named_without_it(tiny_dataset, name):
    with open(tiny_dataset / "train.txt", "a") as file:
        file.write(f"images/{name}.JPEG 0\n")
    with user_error(r"train.txt:13: 'images/.*' holds a control character") as caught:
        read_lists(tiny_dataset)
    assert name not in str(caught.value)


def test_errors_show_control_characters_as_escapes(tmp_path, stderr):
    (tmp_path / "a\x1b[31m").mkdir()
    (tmp_path / "a\x1b[31m" / "\x1b[2J").touch()
    with exits(2):
        cli(lambda: prepare("check", tmp_path / "a\x1b[31m"))
    shown = stderr()
    assert "\x1b" not in shown and r"\x1b[2J" in shown


@mark.parametrize("name", ["ds:1", ".hidden", "ends.", "q?x", "a<b>", "two\nlines", "x" * 120])
def test_a_data_set_that_no_result_could_be_named_after_is_refused_at_once(tiny_dataset, name):
    folder = tiny_dataset.rename(tiny_dataset.with_name(name))
    with user_error("the data set's folder or zip '.* cannot name a file"):
        read_lists(folder)
    tiny_dataset.symlink_to(folder)  # the way out
    assert read_lists(tiny_dataset).name == "tiny"


def test_a_folder_above_has_its_own_name(tiny_dataset, monkeypatch):
    monkeypatch.chdir(tiny_dataset / "images")
    assert read_lists("..").name == "tiny"


@mark.parametrize(
    "line",
    ["all", "every", "All", "all-B", "1", "1e3", "nan", "NA", "null", "665nm", "665nm 490", "image", "label"],
)
def test_a_band_whose_name_means_something_else_is_refused(tmp_path, line):
    folder = write_arrays(tmp_path / "set", lambda number: as_npy(pixels(number)), f"A\nB\nC\n{line}\n")
    with user_error("bands.txt:4: the channel name '.*' already has a meaning"):
        read_lists(folder)


@mark.parametrize("line", ["665nm 665", "B8A 865", "8A", "VV/VH", "allium", "NIR"])
def test_a_band_whose_name_means_itself_is_taken(tmp_path, line):
    folder = write_arrays(tmp_path / "set", lambda number: as_npy(pixels(number)), f"A\nB\nC\n{line}\n")
    assert read_lists(folder).channels.names == ("A", "B", "C", line.split()[0])


def test_classes_of_one_name_are_called_by_the_folders_above(tiny_dataset, stdout):
    for label, place in enumerate(["airport/outdoor", "bazaar/outdoor", "bazaar/indoor"]):
        target = tiny_dataset / "images" / place
        target.parent.mkdir(exist_ok=True)
        (tiny_dataset / f"images/n0000000{label}").rename(target)
        for split in ("train", "val", "test"):
            file = tiny_dataset / f"{split}.txt"
            file.write_text(file.read_text().replace(f"images/n0000000{label}/", f"images/{place}/"))
    assert read_lists(tiny_dataset).class_names == ["airport/outdoor", "bazaar/outdoor", "bazaar/indoor"]
    prepare("check", tiny_dataset)
    assert "(airport/outdoor)" in stdout()


def test_lists_with_the_line_ends_of_an_old_mac(tiny_dataset):
    digest = read_lists(tiny_dataset).digest
    for split in ("train", "val", "test"):
        file = tiny_dataset / f"{split}.txt"
        file.write_bytes(file.read_bytes().replace(b"\n", b"\r"))
    assert read_lists(tiny_dataset).digest == digest


def test_two_pictures_do_not_become_one_array(tiny_dataset, tmp_path):
    first = tiny_dataset / "images/n00000000/n00000000_0.JPEG"
    first.with_suffix(".png").write_bytes(first.read_bytes())
    with open(tiny_dataset / "train.txt", "a") as file:
        file.write("images/n00000000/n00000000_0.png 0\n")
    with user_error("_0.png and another image would both become .*_0.npy"):
        derive(read_lists(tiny_dataset), "grey", tmp_path / "out")
