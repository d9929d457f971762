"""Published image sets, made again from their originals."""

import csv
import gzip
import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np
import tifffile
from helpers import prepare, user_error
from PIL import Image
from pytest import fixture, mark, raises

from config import CONFIGS
from data import build as module
from data.build import MAKE, build, checksum, look, read_recipe, read_recipes
from data.folds import make_folds
from data.lists import read_lists
from storage.files import write_json

SPLITS = ["train"] * 3 + ["val"] + ["test"]
ORIGINALS = {"copy": "{head}{number:0>8}.jpg", "shrink": "{name}", "tiff": "{name}"}


def draw(kind: str, rng, quality: int = 95) -> bytes:
    """Draw an original of a set of this kind, with different colours in its quarters."""
    out = io.BytesIO()
    if kind == "tiff":
        pixels = rng.integers(0, 9000, (8, 8, 13), np.uint16)
        tifffile.imwrite(
            out, pixels, photometric="minisblack", planarconfig="contig", description="somewhere in Europe"
        )
    else:
        size = (84, 84) if kind == "copy" else (360, 320)
        picture = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8)).resize(size, Image.BICUBIC)
        picture.save(out, "JPEG", quality=quality)
    return out.getvalue()


def images_sha256(rows) -> str:
    """Return one checksum for all images: the sha256 of lines `<sha256>  <path>`, as `sha256sum` writes them."""
    return hashlib.sha256("".join(f"{row.sha256}  {row.path}\n" for row in rows).encode()).hexdigest()


def write_recipe(lists, facts: dict) -> None:
    """Write the recipe "tiny" of an existing set."""
    rows, make = [module.Row._fields], facts["make"]
    for split, part in lists.splits.items():
        for path, label in zip(part.paths, part.labels.tolist()):
            data = lists.read(path)
            size, means = ("", np.empty(0)) if make == "tiff" else look(data)
            means = means.round().astype(np.uint8).tobytes().hex()
            rows.append((path, label, split, checksum(data, make), size, means))
    module.RECIPES.mkdir()
    with gzip.open(module.RECIPES / "tiny.csv.gz", "wt", newline="") as file:
        csv.writer(file).writerows(rows)
    write_json(module.RECIPES / "tiny.json", {**facts, "lists_sha256": lists.digest})


@fixture
def tiny(tmp_path, monkeypatch):
    """Return a function: kind of set -> folder of the originals; the recipe "tiny" makes the set in `published`."""
    monkeypatch.setattr(module, "RECIPES", tmp_path / "recipes")

    def make(kind: str) -> Path:
        rng, published, originals = np.random.default_rng(0), tmp_path / "published", tmp_path / "originals"
        suffix, lists = "tif" if kind == "tiff" else "JPEG", {"train": [], "val": [], "test": []}
        for label, name in enumerate(("n00000007", "n00000009")):
            (published / "images" / name).mkdir(parents=True)
            (originals / "some" / name).mkdir(parents=True)
            for number, split in enumerate(SPLITS):
                file = f"{name}_{number}.{suffix}"
                original = f"{name}{number:08d}.jpg" if kind == "copy" else file
                data = draw(kind, rng)
                (originals / "some" / name / original).write_bytes(data)
                (published / "images" / name / file).write_bytes(MAKE[kind](data))
                lists[split].append(f"images/{name}/{file} {label}\n")
        facts = {
            "make": kind,
            "original": ORIGINALS[kind],
            "source": "drawn pictures.",
            "layout": "some/n7/n7_1",
        }
        for split, lines in lists.items():
            (published / f"{split}.txt").write_text("".join(lines))
        if kind == "tiff":
            facts["bands"] = [f"B{band:02d} {400 + band}" for band in range(13)]
            (published / "bands.txt").write_text("".join(f"{band}\n" for band in facts["bands"]))
        write_recipe(read_lists(published), facts)
        return originals

    return make


def content(path: Path) -> dict[str, bytes]:
    """File name -> bytes, of a folder or a zip."""
    if path.is_dir():
        return {
            file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()
        }
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@mark.parametrize("packed", [False, True], ids=["folder", "zip"])
@mark.parametrize("kind", MAKE)
def test_a_set_is_made_exactly(tiny, tmp_path, zipped, stdout, kind, packed):
    """What else lies among the originals makes no difference."""
    source = tiny(kind)
    (source / "some" / "n00000007" / "n00000007_99.JPEG").write_bytes(b"an extra file")
    (source / "__MACOSX").mkdir()
    (source / "__MACOSX" / "n00000007_1.JPEG").write_bytes(b"")
    if packed:
        source = zipped(source, tmp_path / "originals.zip")
    prepare("build", "tiny", "--from", source, "--out", tmp_path / "a.zip", "--workers 1")
    assert "10 of 10 images are exactly the published images" in stdout()
    assert content(tmp_path / "a.zip") == content(tmp_path / "published")
    lists = read_lists(build("tiny", source, tmp_path / "b.zip"))
    assert lists.digest == read_lists(tmp_path / "published").digest
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert not list(tmp_path.glob("*.differences.txt"))


def test_pictures_shrink_as_those_of_imagewoof_146():
    """The recipe gave all 12,948 published files byte for byte; this is what made them."""
    data = draw("shrink", np.random.default_rng(0))
    expected, out = Image.open(io.BytesIO(data)).resize((164, 146), Image.Resampling.LANCZOS), io.BytesIO()
    expected.save(out, "JPEG", quality=74)
    assert MAKE["shrink"](data) == out.getvalue()


def refuse(tmp_path, source, match: str) -> str:
    """Check that building fails with this message and leaves no set; return its lines about single images."""
    with user_error(match):
        build("tiny", source, tmp_path / "out" / "tiny.zip")
    left = list((tmp_path / "out").iterdir()) if (tmp_path / "out").exists() else []
    assert [path.name for path in left] in ([], ["tiny.differences.txt"])
    return left[0].read_text() if left else ""


@mark.parametrize("packed", [False, True], ids=["folder", "zip"])
def test_missing_originals_and_other_layouts(tiny, tmp_path, zipped, packed):
    def given() -> Path:
        return zipped(source, tmp_path / "originals.zip") if packed else source

    source = tiny("copy")
    first = source / "some" / "n00000007" / "n0000000700000001.jpg"
    (source / "again").mkdir()
    (source / "again" / first.name).write_bytes(first.read_bytes())
    refuse(
        tmp_path, given(), f"1 originals are in .* more than once, such as .*{first.name} and .*{first.name}"
    )
    first.unlink()
    (source / "again" / first.name).rename(source / "again" / "renamed.jpg")
    refuse(
        tmp_path,
        given(),
        f"1 of 10 originals are not in .*: {first.name}. The source holds: again, some. tiny is made",
    )
    for file in source.rglob("*.jpg"):
        file.unlink()
    refuse(tmp_path, given(), "10 of 10 originals are not in .*drawn pictures. Files look like some/n7/n7_1")


def test_a_wrong_source_or_target(tiny, tmp_path):
    source, out = tiny("copy"), tmp_path / "there.zip"
    with user_error("no folder or zip at"):
        build("tiny", tmp_path / "nowhere", out)
    with user_error("ends in .zip"):
        build("tiny", source, tmp_path / "folder")
    out.write_bytes(b"mine")
    with user_error("there already"):
        build("tiny", source, out)
    assert out.read_bytes() == b"mine"
    with raises(SystemExit):
        prepare("build", "unknown", "--from", source)


@mark.parametrize("kind, first", [("copy", "n0000000700000001.jpg"), ("shrink", "n00000007_1.JPEG")])
def test_the_same_pictures_in_other_bytes_are_named_and_used(tiny, tmp_path, stdout, kind, first):
    source = tiny(kind)
    original = next(source.rglob(first))
    out = io.BytesIO()
    Image.open(original).save(out, "JPEG", quality=70)
    original.write_bytes(out.getvalue())
    made = build("tiny", source, tmp_path / "tiny.zip")
    assert "9 of 10 images are exactly the published images\n1 show the same" in stdout()
    lines = (tmp_path / "tiny.differences.txt").read_text().splitlines()
    assert len(lines) == 1 and lines[0].startswith("images/n00000007/n00000007_1.JPEG: the same picture")
    published, new = content(tmp_path / "published"), content(made)
    assert [name for name in published if published[name] != new[name]] == [
        "images/n00000007/n00000007_1.JPEG"
    ]


def flip(data: bytes) -> bytes:
    out = io.BytesIO()
    Image.open(io.BytesIO(data)).transpose(Image.FLIP_LEFT_RIGHT).save(out, "JPEG", quality=95)
    return out.getvalue()


def enlarge(data: bytes) -> bytes:
    image, out = Image.open(io.BytesIO(data)), io.BytesIO()
    image.resize([2 * side for side in image.size]).save(out, "JPEG", quality=95)
    return out.getvalue()


def one_off(data: bytes) -> bytes:
    pixels, out = tifffile.imread(io.BytesIO(data)), io.BytesIO()
    pixels[3, 4, 5] += 1
    tifffile.imwrite(out, pixels, photometric="minisblack", planarconfig="contig")
    return out.getvalue()


def fewer_bands(data: bytes) -> bytes:
    out = io.BytesIO()
    pixels = tifffile.imread(io.BytesIO(data))[..., :12]
    tifffile.imwrite(out, pixels, photometric="minisblack", planarconfig="contig")
    return out.getvalue()


@mark.parametrize(
    "kind, spoil, reason",
    [
        ("copy", flip, "another picture: the mean colour of a quarter is off"),
        ("copy", enlarge, "another picture: 168x168 px, not 84x84"),
        ("copy", lambda data: data[:200], "cannot be used"),
        ("shrink", flip, "another picture: the mean colour of a quarter is off"),
        ("shrink", enlarge, "cannot be used .ValueError: its short side is 640 px, not 320"),
        ("shrink", lambda data: data[: len(data) // 2], "cannot be used"),
        ("shrink", lambda data: b"", "cannot be used"),
        ("tiff", one_off, "different pixels"),
        ("tiff", fewer_bands, "cannot be used .ValueError: an array of .8, 8, 12., expected 13 channels"),
        ("tiff", lambda data: data[:300], "cannot be used"),
    ],
)
def test_other_pictures_are_refused_and_named(tiny, tmp_path, zipped, kind, spoil, reason):
    source = tiny(kind)
    for file in sorted((source / "some" / "n00000009").iterdir())[:2]:
        file.write_bytes(spoil(file.read_bytes()))
    text = refuse(tmp_path, source, f"2 of 10 images differ from those of tiny: .*n00000009_0.*{reason}")
    assert len(text.splitlines()) == 2 and "n00000009_1" in text
    assert refuse(tmp_path, zipped(source, tmp_path / "bad.zip"), "2 of 10 images") == text


def test_a_picture_under_another_name_is_refused(tiny, tmp_path):
    source = tiny("copy")
    a, b = sorted((source / "some" / "n00000007").iterdir())[:2]
    first = a.read_bytes()
    a.write_bytes(b.read_bytes())
    b.write_bytes(first)
    assert len(refuse(tmp_path, source, "2 of 10 images differ from those of tiny").splitlines()) == 2


# ---------------------------------------------------------------- the recipes of the results


FIRST = {  # set -> the original of its first image
    "eurosat-13band-469": "AnnualCrop_1601.tif",
    "imagewoof-146": "ILSVRC2012_val_00000907.JPEG",
    "mini-imagenet-50": "n0153282900001000.jpg",
}


@mark.parametrize("name", sorted(read_recipes()))
def test_recipes_are_whole_and_those_of_the_results(tmp_path, published, name):
    """The lists that a recipe makes have the checksum that each record names."""
    recipe, digests = read_recipe(name), set()
    assert recipe.original(recipe.rows[0].path) == FIRST[name]
    assert images_sha256(recipe.rows) == recipe.facts["images_sha256"]
    with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:  # lists alone: the images are empty
        for row in recipe.rows:
            archive.writestr(zipfile.ZipInfo(row.path), b"")
        for member, lines in recipe.texts().items():
            archive.writestr(member, "\n".join(lines))
    lists = read_lists(tmp_path / f"{name}.zip")
    assert lists.digest == recipe.facts["lists_sha256"]
    assert lists.class_names == list(recipe.facts["classes"])
    for task in CONFIGS:
        for record in published(task).values():
            if record["dataset"] == name:
                parts = record.get("folds", [record])
                digests |= {(part["dataset"], part["dataset_digest"]) for part in parts}
    expected = {(name, lists.digest)}
    if any("fold" in part for part, _ in digests):
        folds = make_folds(lists, 5, tmp_path / "folds")
        expected = {(fold.name, read_lists(fold).digest) for fold in folds}
    assert digests == expected or not digests and name == "imagewoof-146"
