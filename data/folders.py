"""Lists of a data set whose images lie in folders that are called as their classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data.lists import LIST_FILES
from utils import UserError, write_text

# of the files that a folder is searched for
ENDINGS = (".jpeg", ".jpg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".npy")
SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}


def write_lists(folder: str | Path, val: float = 0.1, test: float = 0.1, seed: int = 0) -> dict[str, int]:
    """Write train.txt, val.txt and test.txt into a folder of images and return the number of images of each.

    The folder holds train/CLASS/..., val/CLASS/..., test/CLASS/..., or CLASS/... alone. Of each class a share of
    the training images, drawn by `seed`, fills a split that has no folder. Labels follow the sorted class names.

    Args:
        val, test: these shares, in 0..1.

    Raises:
        UserError: lists are there already, no image is found, a class lacks images, or a name has a line break.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; name the one that holds a folder for each class")
    there = [name for names in LIST_FILES.values() for name in names if (folder / name).exists()]
    if there:
        raise UserError(
            f"{folder / there[0]} is there already: delete it to make new lists, or use it as it is"
        )
    if not 0 < val + test < 1 or min(val, test) < 0:
        raise UserError(f"--val {val} --test {test}: shares from 0 whose sum is above 0 and below 1")
    found = {split: _find(folder, names) for split, names in SPLITS.items()}
    if not found["train"]:
        found = {"train": _classes(folder), "val": {}, "test": {}}
    if not found["train"]:
        raise UserError(
            f"no folder of images in {folder}: expected CLASS/IMAGE, or train/CLASS/IMAGE; known endings: "
            f"{' '.join(ENDINGS)}"
        )
    classes = sorted(found["train"])
    for split, images in found.items():
        unknown = sorted(images.keys() - set(classes))
        if unknown:
            raise UserError(f"{folder}: the {split} images of class {unknown[0]!r} have no training images")
    shares = {split: share for split, share in (("val", val), ("test", test)) if not found[split]}
    drawn = {name: _draw(found["train"][name], shares, seed, name) for name in classes}
    chosen = {
        split: {
            name: drawn[name][split] if split in drawn[name] else images.get(name, []) for name in classes
        }
        for split, images in found.items()
    }
    for split, images in chosen.items():
        if not any(images.values()):
            raise UserError(f"--{split} 0: a data set needs {split} images; give a share above 0")
    texts = {}
    for split, images in chosen.items():
        lines = [
            f"{path.relative_to(folder).as_posix()} {label}\n"
            for label, name in enumerate(classes)
            for path in images[name]
        ]
        for line in lines:  # a name that is not Unicode has surrogates
            if len(line.splitlines()) != 1 or any("\ud800" <= letter <= "\udfff" for letter in line):
                raise UserError(f"the name {line!r} has a line break or is not Unicode: rename that file")
        texts[split] = "".join(lines)
    for split, text in texts.items():
        write_text(folder / f"{split}.txt", text)
    return {split: sum(map(len, images.values())) for split, images in chosen.items()}


def _find(folder: Path, names: tuple[str, ...]) -> dict[str, list[Path]]:
    """Images by class of the split that is called by one of `names`; empty where it has no folder."""
    return next((_classes(folder / name) for name in names if (folder / name).is_dir()), {})


def _classes(folder: Path) -> dict[str, list[Path]]:
    """Name of a class -> its images, sorted, at any depth; empty classes are left out.

    A folder that holds nothing but one folder of folders, such as images/, stands for that one.
    """
    inner = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(inner) == 1 and any(path.is_dir() for path in inner[0].iterdir()):
        return _classes(inner[0])
    images = {
        path.name: sorted(
            file
            for file in path.rglob("*")
            if file.suffix.lower() in ENDINGS and not file.name.startswith(".") and file.is_file()
        )
        for path in inner
    }
    return {name: files for name, files in images.items() if files}


def _draw(images: list[Path], shares: dict[str, float], seed: int, name: str) -> dict[str, list[Path]]:
    """The images of one class by split: each drawn split has its share, at least one; train has the rest.

    Raises:
        UserError: too few images.
    """
    shares = {split: share for split, share in shares.items() if share}
    order = np.random.default_rng([seed, *name.encode("utf-8", "surrogateescape")]).permutation(len(images))
    parts, start = {}, 0
    for split, share in shares.items():
        count = max(1, round(share * len(images)))
        parts[split] = [images[i] for i in sorted(order[start : start + count])]
        start += count
    if start >= len(images):
        raise UserError(
            f"class {name!r} has {len(images)} images, too few for train and {' and '.join(shares)}: add images, "
            f"or take the class away"
        )
    return {**parts, "train": [images[i] for i in sorted(order[start:])]}
