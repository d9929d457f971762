"""What a data set may hold: regular files of bounded size, pixels of one kind, names with one meaning."""

import gzip
import io
import lzma
import os
import re
import resource
import shutil
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from data import decode as decode_module
from data import lists as lists_module
from data.cache import open_cache
from data.decode import decode
from data.derive import derive
from data.files import read_gzip
from data.lists import read_channels, read_lists
from data.prepare import main as prepare
from engine import records
from engine.records import write_predictions
from storage.checkpoint import load_checkpoint
from utils import UserError, cli


def as_npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def write_arrays(folder: Path, make, bands: str = "A\nB\nC\nD\n") -> Path:
    """3 classes of 4 train, 2 val and 2 test images; make: number of an image -> bytes of a .npy file."""
    lists = {"train": [], "val": [], "test": []}
    for number in range(24):
        split = ("train", "train", "val", "test")[number // 6]
        (folder / "images").mkdir(parents=True, exist_ok=True)
        (folder / f"images/{number}.npy").write_bytes(make(number))
        lists[split].append(f"images/{number}.npy {number % 3}\n")
    for split, lines in lists.items():
        (folder / f"{split}.txt").write_text("".join(lines))
    (folder / "bands.txt").write_text(bands)
    return folder


def pixels(number: int, kind=np.uint16) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (8, 9, 4)).astype(kind)


def attempt(function) -> tuple[str, int]:
    """Return the error that a function raises, and by how many kB the memory of this process grew at most."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(Exception) as error:
        function()
    return f"{error.type.__name__} {error.value}", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before


# ---------------------------------------------------------------- regular files of bounded size


def test_a_pipe_or_a_device_is_named_at_once(tiny_dataset, tmp_path, forked):
    names, folders = ("train.txt", "val.txt", "bands.txt", "images/n00000000/n00000000_1.JPEG"), []
    for kind in ("pipe", "device"):
        for number, name in enumerate(names):
            folder = tmp_path / f"{kind}{number}"
            path = shutil.copytree(tiny_dataset, folder) / name
            path.unlink(missing_ok=True)
            os.mkfifo(path) if kind == "pipe" else path.symlink_to("/dev/zero")
            folders.append(str(folder))
    for folder in folders:
        error, _ = forked(lambda: attempt(lambda: prepare(["check", folder, "--decode", "--workers", "1"])))
        assert error.startswith("UserError") and "not a regular file" in error
    cache = open_cache(
        read_lists(tmp_path / "pipe3"), 8, tmp_path / "cache", max_failed_share=0.5, progress=False
    )
    assert [path for path, _ in cache.failures["train"]] == [names[3]]


def test_a_pipe_is_no_data_set(tmp_path):
    os.mkfifo(tmp_path / "set.zip")
    with pytest.raises(UserError, match="a pipe, a device or similar; name a folder or a zip"):
        read_lists(tmp_path / "set.zip")


@pytest.mark.parametrize("as_zip", [False, True])
@pytest.mark.parametrize("name", ["train.txt", "val.txt", "bands.txt"])
def test_a_list_of_many_bytes_is_not_read(tiny_dataset, tmp_path, zipped, monkeypatch, as_zip, name):
    monkeypatch.setattr(lists_module, "LARGEST_LIST", 1000)
    monkeypatch.setattr(lists_module, "LARGEST_BANDS", 1000)
    with open(tiny_dataset / name, "ab") as file:
        file.truncate(5000)
    source = zipped(tiny_dataset, tmp_path / "tiny.zip") if as_zip else tiny_dataset
    with pytest.raises(
        UserError, match=f"cannot read .*{name}.*5,000 bytes, more than the 1,000 that are allowed"
    ):
        read_lists(source)


def test_usual_limits_are_far_above_usual_files():
    assert lists_module.LARGEST_LIST > 10**8 and decode_module.LARGEST_IMAGE > 10**9


@pytest.mark.parametrize("lie", [False, True])
def test_a_bomb_in_a_zip_is_not_unpacked(tiny_dataset, tmp_path, monkeypatch, forked, lie):
    """200 MB of zeros, which the zip may say are 100 bytes, under a limit of 16 MB."""
    bomb, block = "images/n00000000/n00000000_1.JPEG", bytes(1 << 20)
    with zipfile.ZipFile(tmp_path / "tiny.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(path for path in tiny_dataset.rglob("*") if path.is_file()):
            name = path.relative_to(tiny_dataset).as_posix()
            if name != bomb:
                archive.write(path, name)
        with archive.open(bomb, "w") as file:
            for _ in range(200):
                file.write(block)
        if lie:
            archive.getinfo(bomb).file_size = 100
    monkeypatch.setattr(decode_module, "LARGEST_IMAGE", 1 << 24)
    reader = decode_module.ImageReader(read_lists(tmp_path / "tiny.zip"))
    why, grown = forked(lambda: attempt(lambda: reader.read(bomb)))
    assert ("BadZipFile" if lie else "209,715,200 bytes, more than") in why and grown < 50_000


def test_other_ways_to_pack_are_named(tiny_dataset, tmp_path):
    with zipfile.ZipFile(tmp_path / "tiny.zip", "w", zipfile.ZIP_BZIP2) as archive:
        for path in sorted(tiny_dataset.rglob("*")):
            archive.write(path, path.relative_to(tiny_dataset).as_posix())
    with pytest.raises(
        UserError, match="train.txt in .*packed with another method than deflate; pack the zip again"
    ):
        read_lists(tmp_path / "tiny.zip")


def test_a_tiff_of_many_pixels_is_not_decoded(monkeypatch):
    monkeypatch.setattr(decode_module, "LARGEST_IMAGE", 30_000)
    file = io.BytesIO()
    tifffile.imwrite(file, np.zeros((100, 100, 4), np.uint8), compression="zlib", photometric="minisblack")
    with pytest.raises(ValueError, match="40,000 bytes, more than the 30,000"):
        decode(file.getvalue(), 8, 4)


def tiff(channels: int, payload: bytes, method: int = 8, tile: int | None = None) -> bytes:
    """Make a TIFF of 8 x 8 pixels whose strip, or whose tiles of `tile` pixels a side, are all the same `payload`."""
    tags = {256: 8, 257: 8, 258: 8, 259: method, 262: 2 if channels == 3 else 1, 277: channels, 284: 1}
    tags |= {322: tile, 323: tile} if tile else {278: 8}
    place = 8 + 2 + 12 * (len(tags) + 2) + 4
    tags |= {324: place, 325: len(payload)} if tile else {273: place, 279: len(payload)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + payload


@pytest.mark.parametrize("method, pack", [(8, zlib.compress), (32946, zlib.compress), (34925, lzma.compress)])
@pytest.mark.parametrize("tile", [None, 16])
def test_a_part_of_a_tiff_unpacks_to_what_its_header_says(method, pack, tile):
    pixels = np.random.default_rng(0).integers(0, 256, (tile or 8, tile or 8, 4), np.uint8)
    read = decode(tiff(4, pack(pixels.tobytes()), method, tile), 8, 4)
    assert np.array_equal(read, pixels[:8, :8])
    with pytest.raises(ValueError, match=f"to more than the {pixels.size:,} bytes that the header says"):
        decode(tiff(4, pack(pixels.tobytes() + b"!"), method, tile), 8, 4)


@pytest.mark.parametrize(
    "channels, tile, why",
    [(4, None, "to more than the 256"), (4, 16384, "more than"), (3, 16384, "tiles of")],
)
def test_a_bomb_in_a_tiff_is_not_unpacked(monkeypatch, forked, channels, tile, why):
    """200 MB of zeros in a picture of 8 x 8 pixels."""
    data = tiff(channels, zlib.compress(bytes(200 << 20)), tile=tile)
    monkeypatch.setattr(decode_module, "LARGEST_IMAGE", 1 << 29)
    reason, grown = forked(lambda: attempt(lambda: decode(data, 8, channels)))
    assert reason.startswith("ValueError") and why in reason and grown < 50_000


@pytest.mark.parametrize("method", [6, 7, 34712, 50001])
def test_a_tiff_of_packed_pictures_is_named(method):
    """Such a picture has a size of its own, which the header of the TIFF does not bound."""
    with pytest.raises(ValueError, match=f"a TIFF with compression {method}; save it with deflate"):
        decode(tiff(4, bytes(256), method), 8, 4)


def test_a_gzip_file_is_unpacked_up_to_its_limit(tmp_path):
    path = tmp_path / "table.gz"
    path.write_bytes(gzip.compress(b"a" * 1000))
    assert read_gzip(path, 1000) == b"a" * 1000
    with pytest.raises(ValueError, match="unpacks to more than the 999 bytes"):
        read_gzip(path, 999)
    for damaged in (path.read_bytes()[:-1], path.read_bytes() * 2):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="truncated, or something follows"):
            read_gzip(path, 1000)


def test_predictions_are_unpacked_up_to_their_limit(tmp_path, monkeypatch):
    path = tmp_path / "run-test.csv.gz"
    write_predictions(path, ["a.png"] * 100, np.zeros(100, int), {"R": np.zeros(100, int)})
    monkeypatch.setattr(records, "LARGEST_TABLE", 500)
    with pytest.raises(UserError, match="run-test.csv.gz: it unpacks to more than the 500 bytes"):
        records.read_predictions(path)


@pytest.mark.parametrize(
    "line", ["a,,1", "a,0,1.5", "a,0,-1", "a,0,1,2", "a,0," + "9" * 30, "a,x,1", "a,0", "a,0,nan", ""]
)
def test_predictions_hold_numbers_of_classes(tmp_path, line):
    path = tmp_path / "run-test.csv.gz"
    path.write_bytes(gzip.compress(f"image,label,R\n{line}\n".encode()))
    with pytest.raises(UserError, match="cannot read .*run-test.csv.gz: .*; evaluate the model again"):
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
    with pytest.raises(UserError, match="packed.pt is not a readable checkpoint"):
        load_checkpoint(tmp_path / "packed.pt", "task1-model")


def test_a_picture_of_many_pixels_is_named_by_derive_too(tiny_dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30)
    with pytest.raises(
        UserError, match="cannot decode images/n00000000/n00000000_0.JPEG .DecompressionBombError"
    ):
        derive(read_lists(tiny_dataset), "grey", tmp_path / "out")


# ---------------------------------------------------------------- pixels of one kind


@pytest.mark.parametrize(
    "first, second", [("uint16", "uint8"), ("float32", "uint8"), ("float32", "int16"), ("int32", "int16")]
)
def test_pixels_of_two_kinds_are_named(tmp_path, first, second):
    folder = write_arrays(
        tmp_path / "set", lambda number: as_npy(pixels(number, second if number % 2 else first))
    )
    with pytest.raises(
        UserError, match=f"pixels are {second}, but the first image has {first}: save all images as one type"
    ):
        open_cache(read_lists(folder), 8, tmp_path / "cache", progress=False)


def test_floats_of_two_sizes_are_of_one_kind(tmp_path):
    folder = write_arrays(
        tmp_path / "set", lambda number: as_npy(pixels(number, ("f4", "f8", ">f4")[number % 3]))
    )
    cache = open_cache(read_lists(folder), 8, tmp_path / "cache", progress=False)
    assert cache.kind == np.float32 and not any(cache.failures.values())


def test_a_picture_among_wider_pixels_is_named(tmp_path, tiny_dataset):
    for path in sorted(tiny_dataset.rglob("*.JPEG"))[:-1]:
        path.write_bytes(as_npy(np.asarray(Image.open(path).convert("RGB")).astype(np.uint16) * 257))
    with pytest.raises(
        UserError, match="n00000002_7.JPEG .ValueError: a picture has 8-bit pixels, .* has uint16"
    ):
        open_cache(read_lists(tiny_dataset), 8, tmp_path / "cache", progress=False)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("kind", [np.uint16, np.int16, np.float32])
def test_a_tiff_of_one_or_three_bands_keeps_its_values(tmp_path, count, kind):
    """As a picture it would have 8 bits, and values of 0 to 3000 would become 0 to 12."""

    def as_tiff(number, kind=kind):
        array = np.random.default_rng(number).integers(0, 3000, (8, 8, count)).astype(kind)
        file = io.BytesIO()
        tifffile.imwrite(file, array, photometric="rgb" if count == 3 else "minisblack")
        return file.getvalue()

    folder = write_arrays(tmp_path / "set", as_tiff, "\n".join("ABC"[:count]))
    lists = read_lists(folder)
    cache = open_cache(lists, 8, tmp_path / "cache", progress=False)
    first = tifffile.imread(folder / lists.splits["train"].paths[0]).reshape(8, 8, count)
    assert np.array_equal(cache.split("train").images[0], first) and cache.kind.name != "uint8"
    prepare(["check", str(folder), "--decode", "--workers", "1"])
    folder = write_arrays(
        tmp_path / "mixed",
        lambda number: as_tiff(number, kind if number else np.uint8),
        "\n".join("ABC"[:count]),
    )
    with pytest.raises(UserError, match=f"pixels are {np.dtype(kind)}, but the first image has uint8"):
        open_cache(read_lists(folder), 8, tmp_path / "cache", progress=False)


def test_three_bands_of_eight_bits_that_are_no_colours_are_read(tmp_path):
    def as_tiff(number):
        file = io.BytesIO()
        tifffile.imwrite(
            file, pixels(number, np.uint8)[..., :3], photometric="minisblack", planarconfig="contig"
        )
        return file.getvalue()

    lists = read_lists(write_arrays(tmp_path / "set", as_tiff, "A\nB\nC\n"))
    assert not any(open_cache(lists, 8, tmp_path / "cache", progress=False).failures.values())


def test_a_first_image_that_is_damaged_does_not_decide(tmp_path):
    folder = write_arrays(tmp_path / "set", lambda number: as_npy(pixels(number)) if number else b"damaged")
    cache = open_cache(read_lists(folder), 8, tmp_path / "cache", max_failed_share=0.2, progress=False)
    assert cache.kind == np.uint16 and len(cache.failures["train"]) == 1


@pytest.mark.parametrize("shape", [(4, 9, 4), (4, 4, 4)])
def test_a_shape_that_can_be_read_in_two_ways_is_named(shape):
    with pytest.raises(
        ValueError, match="whose 4 channels may be the first or the last axis; crop or pad the image"
    ):
        decode(as_npy(np.zeros(shape, np.uint16)), 4, 4, "uint16")


def test_a_plane_has_one_channel():
    assert decode(as_npy(np.arange(4, dtype=np.uint8)[None]), 1, 1).shape == (1, 1, 1)
    with pytest.raises(ValueError, match=r"an array of \(4, 9\), expected 4 channels"):
        decode(as_npy(np.zeros((4, 9), np.uint8)), 4, 4)


@pytest.mark.parametrize(
    "kind, value",
    [("f8", 1e300), ("f4", 3e38), ("f4", -2e18), ("f8", np.inf), ("u8", 2**64 - 1), ("i8", -(2**63))],
)
def test_floats_too_large_for_statistics_are_left_out(tmp_path, kind, value):
    def make(number):
        array = pixels(number, kind)
        array[3, 3, 1] = value if number == 5 else 0
        return as_npy(array)

    folder = write_arrays(tmp_path / "set", make)
    with pytest.raises(UserError, match="images/5.npy .ValueError: (a pixel of|1 pixels are)"):
        open_cache(read_lists(folder), 8, tmp_path / "cache", progress=False)
    cache = open_cache(read_lists(folder), 8, tmp_path / "cache", max_failed_share=0.1, progress=False)
    assert np.isfinite(cache.covariance).all() and [path for path, _ in cache.failures["train"]] == [
        "images/5.npy"
    ]


# ---------------------------------------------------------------- texts


@pytest.mark.parametrize("text", ["Größe 443\n".encode("latin-1"), "A\nB\n".encode("utf-16")])
@pytest.mark.parametrize(
    "parse, name", [(lists_module.parse_bands, "bands.txt"), (lists_module.parse_list, "val.txt")]
)
def test_a_text_in_another_encoding_is_named(parse, name, text):
    with pytest.raises(UserError, match=f"{name} is not UTF-8 text .*save it again as UTF-8"):
        parse(text, name)


@pytest.mark.parametrize("digits", [21, 5000])
def test_a_label_of_many_digits_is_named(digits):
    with pytest.raises(UserError, match="val.txt:1: label 9{20} is out of range"):
        lists_module.parse_list(b"a.png " + b"9" * digits, "val.txt")


# ---------------------------------------------------------------- reasons


@pytest.mark.parametrize(
    "data, what",
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0", "a HEIC picture; save it again, as JPEG or PNG"),
        (b"\0\0\0\x1cftypavif\0\0\0\0", "an AVIF picture"),
        (b"\0\0\0\x18ftypmp42", "a video"),
        (b"\xff\x0a\xfa\x7f", "a JPEG XL picture"),
        (b"\0\0\0\x0cjP  \r\n", "a JPEG 2000 picture"),
        (b"8BPS\0\1", "a Photoshop document"),
        (b"%PDF-1.7", "a PDF document"),
        (b"\n<!DOCTYPE html><html>", "a web page"),
        (b"<svg xmlns=''/>", "SVG"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"PK\x03\x04", "a zip archive"),
        (b"", "empty"),
        (bytes(100), "empty"),
        (b"\x1b[2J no image", r"of an unknown kind that begins with b'\\x1b[2J no '"),
    ],
)
def test_a_file_of_another_kind_is_called_by_its_name(data, what):
    with pytest.raises(ValueError, match="cannot identify a picture: the file is") as caught:
        decode(data, 8)
    assert what.replace("\\\\", "\\") in str(caught.value)


def test_reasons_are_the_same_on_every_run(tiny_dataset, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(f"cannot identify image file {io.BytesIO()!r}")

    monkeypatch.setattr(decode_module, "open_picture", fail)
    with pytest.raises(UserError) as caught:
        open_cache(read_lists(tiny_dataset), 8, tmp_path / "cache", progress=False)
    assert "image file <_io.BytesIO>" in str(caught.value) and not re.search(
        "0x[0-9a-f]{6}", str(caught.value)
    )


# ---------------------------------------------------------------- names


@pytest.mark.parametrize("name", ["\x1b[31mred", "a\x9b31m", "bell\x07", "two\tparts"])
def test_a_path_with_a_control_character_is_named_without_it(tiny_dataset, name):
    with open(tiny_dataset / "train.txt", "a") as file:
        file.write(f"images/{name}.JPEG 0\n")
    with pytest.raises(UserError, match=r"train.txt:13: 'images/.*' holds a control character") as caught:
        read_lists(tiny_dataset)
    assert name not in str(caught.value)


def test_errors_show_control_characters_as_escapes(tmp_path, capsys):
    (tmp_path / "a\x1b[31m").mkdir()
    (tmp_path / "a\x1b[31m" / "\x1b[2J").touch()
    with pytest.raises(SystemExit) as stop:
        cli(lambda: prepare(["check", str(tmp_path / "a\x1b[31m")]))
    shown = capsys.readouterr().err
    assert stop.value.code == 2 and "\x1b" not in shown and r"\x1b[2J" in shown


@pytest.mark.parametrize("name", ["ds:1", ".hidden", "ends.", "q?x", "a<b>", "two\nlines", "x" * 120])
def test_a_data_set_that_no_result_could_be_named_after_is_refused_at_once(tiny_dataset, name):
    folder = tiny_dataset.rename(tiny_dataset.with_name(name))
    with pytest.raises(UserError, match="the data set's folder or zip '.* cannot name a file"):
        read_lists(folder)
    tiny_dataset.symlink_to(folder)  # the way out
    assert read_lists(tiny_dataset).name == "tiny"


def test_a_folder_above_has_its_own_name(tiny_dataset, monkeypatch):
    monkeypatch.chdir(tiny_dataset / "images")
    assert read_lists("..").name == "tiny"


@pytest.mark.parametrize(
    "line",
    ["all", "every", "All", "all-B", "1", "1e3", "nan", "NA", "null", "665nm", "665nm 490", "image", "label"],
)
def test_a_band_whose_name_means_something_else_is_refused(tmp_path, line):
    folder = write_arrays(tmp_path / "set", lambda number: as_npy(pixels(number)), f"A\nB\nC\n{line}\n")
    for read in (read_lists, read_channels):
        with pytest.raises(UserError, match="bands.txt:4: the channel name '.*' already has a meaning"):
            read(folder)


@pytest.mark.parametrize("line", ["665nm 665", "B8A 865", "8A", "VV/VH", "allium", "NIR"])
def test_a_band_whose_name_means_itself_is_taken(tmp_path, line):
    folder = write_arrays(tmp_path / "set", lambda number: as_npy(pixels(number)), f"A\nB\nC\n{line}\n")
    assert read_lists(folder).channels.names == ("A", "B", "C", line.split()[0])


def test_classes_of_one_name_are_called_by_the_folders_above(tiny_dataset, capsys):
    for label, place in enumerate(["airport/outdoor", "bazaar/outdoor", "bazaar/indoor"]):
        target = tiny_dataset / "images" / place
        target.parent.mkdir(exist_ok=True)
        (tiny_dataset / f"images/n0000000{label}").rename(target)
        for split in ("train", "val", "test"):
            file = tiny_dataset / f"{split}.txt"
            file.write_text(file.read_text().replace(f"images/n0000000{label}/", f"images/{place}/"))
    assert read_lists(tiny_dataset).class_names == ["airport/outdoor", "bazaar/outdoor", "bazaar/indoor"]
    prepare(["check", str(tiny_dataset)])
    assert "(airport/outdoor)" in capsys.readouterr().out


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
    with pytest.raises(UserError, match="_0.png and another image would both become .*_0.npy"):
        derive(read_lists(tiny_dataset), "grey", tmp_path / "out")
