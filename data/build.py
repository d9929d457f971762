"""Builds a published image set from its public originals and checks every image: see data/recipes/README.md."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import re
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from PIL import Image

from data.decode import PICTURES, ImageReader, check_array, read_array
from data.files import LARGEST_IMAGE
from data.lists import BANDS, LIST_FILES, ImageLists, read_lists
from data.source import open_source
from utils import ROOT, UserError, atomic_path, progress_bar, write_text

RECIPES = ROOT / "data" / "recipes"
TOLERANCE = 3  # of 255: other resizers and JPEG qualities move a quarter's mean colour by up to 2.7


class Row(NamedTuple):
    """One image of a set. Where the recipe writes TIFF, `size` and `quarters` are empty."""

    path: str  # as the lists have it
    label: int
    split: str
    sha256: str  # of the file; of the pixels where the recipe writes TIFF
    size: str  # width x height, px
    quarters: str  # the means that `look` gives, rounded, in hexadecimal


@dataclass(frozen=True)
class Recipe:
    """How to make the image set `name`: `facts` from NAME.json and `rows`, in the order of the lists, from
    NAME.csv.gz.
    """

    name: str
    facts: dict
    rows: list[Row]

    def original(self, path: str) -> str:
        """Name of the public file that the listed image is made from."""
        file = PurePosixPath(path)
        head, _, number = file.stem.rpartition("_")
        return self.facts["original"].format(name=file.name, head=head, number=number)

    def texts(self) -> dict[str, list[str]]:
        """File name -> lines of the three lists, and of bands.txt where the set has one."""
        lists = {
            file: [f"{row.path} {row.label}" for row in self.rows if row.split == split]
            for split, (file, *_) in LIST_FILES.items()
        }
        return lists | ({BANDS: self.facts["bands"]} if "bands" in self.facts else {})


# ---------------------------------------------------------------- one image


def copy(data: bytes) -> bytes:
    return data


def shrink(data: bytes) -> bytes:
    """Short side 320 px to 146 px, as RGB, Lanczos; JPEG of quality 74.

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
    """The same pixels, 13 bands of 16 bits, as a TIFF without geographic tags.

    Raises:
        ValueError: pixels of another kind or number of bands.
    """
    import tifffile  # here: the other sets do not need it

    pixels, out = check_array(read_array(data), 13, "uint16"), io.BytesIO()
    tifffile.imwrite(out, pixels, photometric="minisblack", planarconfig="contig", metadata=None)
    return out.getvalue()


MAKE: dict[str, Callable[[bytes], bytes]] = {"copy": copy, "shrink": shrink, "tiff": rewrite}


def checksum(data: bytes, make: str) -> str:
    """sha256 of a file; for `make` "tiff" of its pixels, (H, W, C) little-endian, so its header may differ."""
    if make == "tiff":
        pixels = read_array(data)
        data = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    return hashlib.sha256(data).hexdigest()


def look(data: bytes) -> tuple[str, np.ndarray]:
    """What a picture looks like, whatever its file format: its size, such as "84x84", and its colours.

    Returns:
        size: width x height, px.
        quarters: mean R, G and B of the upper left, upper right, lower left and lower right quarter, (12,) of 0
            to 255.

    Raises:
        Exception: whatever Pillow raises for data that are no picture.
    """
    with Image.open(io.BytesIO(data), formats=PICTURES) as image:
        pixels = np.asarray(image.convert("RGB"), np.float64)
    parts = [part for half in np.array_split(pixels, 2) for part in np.array_split(half, 2, axis=1)]
    return f"{pixels.shape[1]}x{pixels.shape[0]}", np.concatenate([part.mean((0, 1)) for part in parts])


# ---------------------------------------------------------------- recipes


def read_recipes() -> dict[str, dict]:
    """Name -> facts of each recipe."""
    return {
        path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(RECIPES.glob("*.json"))
    }


def read_recipe(name: str) -> Recipe:
    with gzip.open(RECIPES / f"{name}.csv.gz", "rt", encoding="utf-8", newline="") as file:
        rows = [Row(**{**line, "label": int(line["label"])}) for line in csv.DictReader(file)]
    return Recipe(name, read_recipes()[name], rows)


def write_recipe(lists: ImageLists, facts: dict, name: str) -> Recipe:
    """Write the recipe of a set that is there: NAME.csv.gz, and NAME.json with `facts` and the checksums."""
    reader, rows, make = ImageReader(lists), [], facts["make"]
    for split, part in lists.splits.items():
        for path, label in zip(part.paths, part.labels.tolist()):
            data = reader.read(path)
            size, means = ("", np.empty(0)) if make == "tiff" else look(data)
            means = means.round().astype(np.uint8).tobytes().hex()
            rows.append(Row(path, label, split, checksum(data, make), size, means))
    with atomic_path(RECIPES / f"{name}.csv.gz") as temporary:
        with open(temporary, "wb") as raw, gzip.GzipFile("", "wb", mtime=0, fileobj=raw) as packed:
            with io.TextIOWrapper(packed, encoding="utf-8", newline="") as file:
                table = csv.writer(file, lineterminator="\n")
                table.writerows([Row._fields, *rows])
    facts = {**facts, "lists_sha256": lists.digest, "images_sha256": images_sha256(rows)}
    write_text(RECIPES / f"{name}.json", json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    return Recipe(name, facts, rows)


def images_sha256(rows: list[Row]) -> str:
    """One checksum of all images: sha256 of the lines `<sha256>  <path>`, as `sha256sum` writes them."""
    return hashlib.sha256("".join(f"{row.sha256}  {row.path}\n" for row in rows).encode()).hexdigest()


# ---------------------------------------------------------------- the set


def find_originals(source: Path, recipe: Recipe) -> tuple[object, dict[str, str]]:
    """Look for the originals by file name, in any folder of `source`.

    Returns:
        the opened source, and for each listed path the place of its original there.

    Raises:
        UserError: an original is missing or is there more than once; naming some.
    """
    tree, wanted = open_source(source), {recipe.original(row.path): [] for row in recipe.rows}
    for place in tree.walk():
        name = place.rpartition("/")[2]
        if name in wanted:
            wanted[name].append(place)
    missing = [name for name, places in wanted.items() if not places]
    if missing:
        raise UserError(
            f"{len(missing):,} of {len(wanted):,} originals are not in {source}: {', '.join(missing[:3])}. "
            f"It holds: {', '.join(tree.top()[:6]) or 'nothing'}. {recipe.name} is made from: "
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
    """Make one image from the original that `read` gives, and compare it with the published image.

    Returns:
        the file, how it differs from the published file ("" if it does not), and whether it may be used.
    """
    try:
        image = MAKE[make](read())
        if checksum(image, make) == row.sha256:
            return image, "", True
        if make == "tiff":
            return image, "other pixels", False
        size, means = look(image)
    except Exception as error:  # damaged files raise many types, and each is reported
        reason = re.sub(r" <_io.BytesIO[^>]*>", "", f"{type(error).__name__}: {error}")
        return b"", f"cannot be used ({reason})", False
    if size != row.size:
        return image, f"another picture: {size} px, not {row.size}", False
    off = np.abs(means - np.frombuffer(bytes.fromhex(row.quarters), np.uint8)).max()
    if off > TOLERANCE:
        return image, f"another picture: the mean colour of a quarter is off by {off:.1f} of 255", False
    return image, f"the same picture, other bytes: mean colours are off by {off:.1f} of 255 at most", True


def build(name: str, source: str | Path, out: str | Path, workers: int = 1, progress: bool = True) -> Path:
    """Make the published set `name` from the folder or zip `source` of its originals, as the zip `out`.

    Images whose bytes differ from the published set's are named in a text file beside `out`. If they show the
    published pictures (`TOLERANCE`), the set is made all the same.

    Raises:
        UserError: an original is missing, damaged or another picture (nothing is written but the text file that
            names them), or `out` is there or cannot be written.
    """
    recipe, source, out = read_recipe(name), Path(source).expanduser(), Path(out)
    if out.suffix != ".zip":
        raise UserError(f"--out {out}: name a file that ends in .zip")
    if out.exists():
        raise UserError(f"{out} is there already: name another file with --out, or delete it")
    tree, places = find_originals(source, recipe)
    report, differing, unusable = out.with_suffix(".differences.txt"), [], []

    def one(row: Row) -> tuple[bytes, str, bool]:
        return make_image(lambda: tree.read(places[row.path], LARGEST_IMAGE), row, recipe.facts["make"])

    with atomic_path(out) as temporary, ThreadPoolExecutor(workers) as pool:
        made = progress_bar(
            pool.map(one, recipe.rows), name, len(recipe.rows), unit=" images", disable=not progress
        )
        with zipfile.ZipFile(temporary, "w") as archive:
            for row, (image, difference, usable) in zip(recipe.rows, made):
                archive.writestr(
                    zipfile.ZipInfo(row.path), image
                )  # ZipInfo: no date, so equal sets are equal zips
                if difference:
                    differing.append(f"{row.path}: {difference}")
                if not usable:
                    unusable.append(differing[-1])
            for member, lines in recipe.texts().items():
                archive.writestr(zipfile.ZipInfo(member), "".join(f"{line}\n" for line in lines))
        report.unlink(missing_ok=True)  # what an earlier try wrote
        if differing:
            write_text(report, "".join(f"{line}\n" for line in differing))
        if unusable:
            raise UserError(
                f"{len(unusable):,} of {len(recipe.rows):,} images are not those of {name}: "
                f"{'; '.join(unusable[:3])}. All are named in {report}. Get the originals again: "
                f"{recipe.facts['source']}"
            )
        if read_lists(temporary, out.stem).digest != recipe.facts["lists_sha256"]:
            raise UserError(
                f"the lists of {RECIPES / name}.csv.gz were changed: take them from the repository"
            )
    if progress:
        equal = len(recipe.rows) - len(differing)
        print(f"{equal:,} of {len(recipe.rows):,} images are exactly the published images")
        if differing:
            print(f"{len(differing):,} show the same picture in other bytes: see {report}")
    return out
