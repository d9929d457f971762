"""Build a published image set from its public originals and check every image, see data/recipes/README.md."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import re
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from PIL import Image

from data.decode import PICTURES, check_array, read_array
from data.files import LARGEST_IMAGE
from data.lists import BANDS, LIST_FILES, read_lists
from data.source import open_source
from storage.files import atomic_path, home_path, read_json, write_text
from utils import ROOT, UserError, progress_bar

RECIPES = ROOT / "data" / "recipes"
# of 255; another way to resize, or another JPEG quality, changes the means of `look` by up to 2.7
TOLERANCE = 3


class Row(NamedTuple):
    """A line of a recipe, which describes one image. `size` and `quarters` are empty if the recipe writes TIFF."""

    path: str  # as in the lists
    label: int
    split: str
    sha256: str  # of the file, or of the pixels if the recipe writes TIFF
    size: str  # width x height, px
    quarters: str  # the means from `look`, rounded, in hexadecimal


@dataclass(frozen=True)
class Recipe:
    """A recipe that makes the image set `name`: `facts` from NAME.json, `rows` from NAME.csv.gz in the lists' order."""

    name: str
    facts: dict
    rows: list[Row]

    def original(self, path: str) -> str:
        """Return the name that the public data set gives to the image with the listed path `path`."""
        file = PurePosixPath(path)
        head, _, number = file.stem.rpartition("_")
        return self.facts["original"].format(name=file.name, head=head, number=number)

    def texts(self) -> dict[str, list[str]]:
        """Return a dict from file name to lines: the three lists, and bands.txt if the set has one."""
        lists = {
            file: [f"{row.path} {row.label}" for row in self.rows if row.split == split]
            for split, (file, *_) in LIST_FILES.items()
        }
        return lists | ({BANDS: self.facts["bands"]} if "bands" in self.facts else {})


# ---------------------------------------------------------------- one image


def copy(data: bytes) -> bytes:
    """Return the bytes of the original."""
    return data


def shrink(data: bytes) -> bytes:
    """Shrink the short side from 320 to 146 px (Lanczos, RGB) and write a JPEG of quality 74.

    Raises:
        ValueError: the short side is not 320 px.
    """
    with Image.open(io.BytesIO(data), formats=PICTURES) as image:
        short = min(image.size)
        if short != 320:
            raise ValueError(f"its short side is {short} px, not 320")
        size = [round(side * 146 / short) for side in image.size]
        small, out = image.convert("RGB").resize(size, Image.Resampling.LANCZOS), io.BytesIO()
    small.save(out, "JPEG", quality=74)
    return out.getvalue()


def rewrite(data: bytes) -> bytes:
    """Write the same pixels, 13 bands of 16 bits, as a TIFF without geographic tags.

    Raises:
        ValueError: the pixels have another type or number of bands.
    """
    import tifffile  # imported here, since the other sets do not need it

    pixels, out = check_array(read_array(data), 13, "uint16"), io.BytesIO()
    tifffile.imwrite(out, pixels, photometric="minisblack", planarconfig="contig", metadata=None)
    return out.getvalue()


MAKE: dict[str, Callable[[bytes], bytes]] = {"copy": copy, "shrink": shrink, "tiff": rewrite}


def checksum(data: bytes, make: str) -> str:
    """Return the sha256 of a file, or of its pixels if `make` is "tiff", so that headers may differ.

    The pixels are (H, W, C) and little-endian.
    """
    if make == "tiff":
        pixels = read_array(data)
        data = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    return hashlib.sha256(data).hexdigest()


def look(data: bytes) -> tuple[str, np.ndarray]:
    """Return the size and the mean colours of a picture, in any file format.

    Returns:
        size: width x height, px, such as "84x84".
        quarters: (12,) in 0..255: mean R, G and B of the upper left, upper right, lower left and lower right
            quarter.

    Raises:
        Exception: any error of Pillow for data that are not a picture.
    """
    with Image.open(io.BytesIO(data), formats=PICTURES) as image:
        pixels = np.asarray(image.convert("RGB"), np.float64)
    parts = [part for half in np.array_split(pixels, 2) for part in np.array_split(half, 2, axis=1)]
    return f"{pixels.shape[1]}x{pixels.shape[0]}", np.concatenate([part.mean((0, 1)) for part in parts])


# ---------------------------------------------------------------- recipes


def read_recipes() -> dict[str, dict]:
    """Return a dict from the name of each recipe to its facts."""
    return {path.stem: read_json(path) for path in sorted(RECIPES.glob("*.json"))}


def read_recipe(name: str) -> Recipe:
    """Read one recipe with its rows."""
    with gzip.open(RECIPES / f"{name}.csv.gz", "rt", encoding="utf-8", newline="") as file:
        rows = [Row(**{**line, "label": int(line["label"])}) for line in csv.DictReader(file)]
    return Recipe(name, read_recipes()[name], rows)


# ---------------------------------------------------------------- the set


def find_originals(source: Path, recipe: Recipe) -> tuple[object, dict[str, str]]:
    """Find the originals by their file names, in any folder of `source`.

    Returns:
        the opened source, and a dict from each listed path to the path of its original in the source.

    Raises:
        UserError: originals are missing or exist more than once; the message names some.
    """
    tree, wanted = open_source(source), {recipe.original(row.path): [] for row in recipe.rows}
    for path in tree.walk():
        name = path.rpartition("/")[2]
        if name in wanted:
            wanted[name].append(path)
    missing = [name for name, places in wanted.items() if not places]
    if missing:
        raise UserError(
            f"{len(missing):,} of {len(wanted):,} originals are not in {source}: {', '.join(missing[:3])}. "
            f"The source holds: {', '.join(tree.top()[:6]) or 'nothing'}. {recipe.name} is made from: "
            f"{recipe.facts['source']} Files look like {recipe.facts['layout']}"
        )
    twice = [places for places in wanted.values() if len(places) > 1]
    if twice:
        raise UserError(
            f"{len(twice):,} originals are in {source} more than once, such as {' and '.join(twice[0][:2])}; "
            f"name the folder of one release with --from"
        )
    return tree, {row.path: wanted[recipe.original(row.path)][0] for row in recipe.rows}


def make_image(read: Callable[[], bytes], row: Row, make: str) -> tuple[bytes, str, bool]:
    """Make one image from the original that `read` returns, and compare it with the published image.

    Returns:
        the file, how it differs from the published file ("" if it does not), and whether it may be used.
    """
    try:
        image = MAKE[make](read())
        if checksum(image, make) == row.sha256:
            return image, "", True
        if make == "tiff":
            return image, "different pixels", False
        size, means = look(image)
    except Exception as error:  # damaged files raise many types of errors; all are reported
        reason = re.sub(r" <_io.BytesIO[^>]*>", "", f"{type(error).__name__}: {error}")
        return b"", f"cannot be used ({reason})", False
    if size != row.size:
        return image, f"another picture: {size} px, not {row.size}", False
    off = np.abs(means - np.frombuffer(bytes.fromhex(row.quarters), np.uint8)).max()
    if off > TOLERANCE:
        return image, f"another picture: the mean colour of a quarter is off by {off:.1f} of 255", False
    return (
        image,
        f"the same picture in different bytes: mean colours are off by {off:.1f} of 255 at most",
        True,
    )


def build(name: str, source: str | Path, out: str | Path, workers: int = 1) -> Path:
    """Make the published set `name` from a folder or zip of its originals. Write it to the zip `out`.

    A text file beside `out` names the images whose bytes differ from the published images. The set is still made if
    these images show the published pictures (`TOLERANCE`).

    Raises:
        UserError: an original is missing, damaged or another picture, or `out` exists or cannot be written. Then
            only the text file with the names is written.
    """
    recipe, source, out = read_recipe(name), home_path(source), Path(out)
    if out.suffix != ".zip":
        raise UserError(f"--out {out}: name a file that ends in .zip")
    if out.exists():
        raise UserError(f"{out} is there already: name another file with --out, or delete it")
    tree, places = find_originals(source, recipe)
    report, differing, unusable = out.with_suffix(".differences.txt"), [], []

    def make(row: Row) -> tuple[bytes, str, bool]:
        return make_image(lambda: tree.read(places[row.path], LARGEST_IMAGE), row, recipe.facts["make"])

    with atomic_path(out) as temporary, ThreadPoolExecutor(workers) as pool:
        results = progress_bar(pool.map(make, recipe.rows), name, len(recipe.rows), unit=" images")
        with zipfile.ZipFile(temporary, "w") as archive:
            for row, (image, difference, usable) in zip(recipe.rows, results):
                # ZipInfo has no date, so that equal sets give equal zips
                archive.writestr(zipfile.ZipInfo(row.path), image)
                if difference:
                    differing.append(f"{row.path}: {difference}")
                if not usable:
                    unusable.append(differing[-1])
            for member, lines in recipe.texts().items():
                archive.writestr(zipfile.ZipInfo(member), "".join(f"{line}\n" for line in lines))
        report.unlink(missing_ok=True)  # written by an earlier try
        if differing:
            write_text(report, "".join(f"{line}\n" for line in differing))
        if unusable:
            raise UserError(
                f"{len(unusable):,} of {len(recipe.rows):,} images differ from those of {name}: "
                f"{'; '.join(unusable[:3])}. All are named in {report}. Get the originals again: "
                f"{recipe.facts['source']}"
            )
        if read_lists(temporary, out.stem).digest != recipe.facts["lists_sha256"]:
            raise UserError(f"the lists of {RECIPES / name}.csv.gz were changed: restore that file from git")
    equal = len(recipe.rows) - len(differing)
    print(f"{equal:,} of {len(recipe.rows):,} images are exactly the published images")
    if differing:
        print(f"{len(differing):,} show the same picture in different bytes: see {report}")
    return out
