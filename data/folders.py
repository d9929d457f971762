"""Write lists for images that lie in one folder per class."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection
from pathlib import Path

import numpy as np

from data.lists import LIST_FILES, parse_list
from data.source import is_searched
from storage.files import home_path, write_text
from utils import UserError, counted, note

# endings of image files
ENDINGS = (".jpeg", ".jpg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jfif", ".npy")
# names of the folders
SPLITS = {"train": "train(?:ing)?", "val": "val(?:id(?:ation)?)?", "test": "test(?:ing)?"}
MORE = "(?:set|data|image|img|pic(?:ture)?|photo|split)s?"  # may stand beside these names, as in val2017


def write_lists(folder: str | Path, val: float = 0.1, test: float = 0.1, seed: int = 0) -> dict[str, int]:
    """Write train.txt, val.txt and test.txt into a folder of images. Return the number of images in each.

    The folder holds train/CLASS/..., val/CLASS/... and test/CLASS/..., or only CLASS/... . A folder of a split may have
    another usual name, such as training_set. If val or test has no folder, it gets a random share of the training
    images of each class. Labels follow the sorted class names. A line on stderr counts the files that are in no list.

    Args:
        folder: the folder of images.
        val, test: shares for val and test, in 0..1.
        seed: seed of the random choice.

    Raises:
        UserError: the lists exist already; there are no images, only one class, or too few images of a class; folders
            look like splits but cannot be told apart; two paths lead to one image; or a list cannot hold a name.
    """
    folder = home_path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; name the folder that holds a folder for each class")
    there = [name for names in LIST_FILES.values() for name in names if (folder / name).exists()]
    if there:
        raise UserError(f"{folder} holds {', '.join(there)} already: delete that to make new lists")
    if not 0 < val + test < 1:
        raise UserError(
            f"--val {val} --test {test}: use shares of at least 0 whose sum is above 0 and below 1"
        )
    splits = _splits(folder)
    if not splits["train"]:
        if alone := [split for split, images in splits.items() if images]:
            raise UserError(
                f"{folder} holds a folder for {' and '.join(alone)}, but none for train: call the folder of the "
                f"training images 'train'"
            )
        splits = {"train": _classes(folder), "val": {}, "test": {}}
    if not splits["train"]:
        raise UserError(
            f"no folder of images in {folder}: expected CLASS/IMAGE, or train/CLASS/IMAGE; known endings: "
            f"{' '.join(ENDINGS)}"
        )
    classes = sorted(splits["train"])
    for split, images in splits.items():
        unknown = sorted(images.keys() - set(classes))
        if unknown:
            raise UserError(
                f"{folder}: the {split} images of class {unknown[0]!r} have no training images: add some, "
                "or remove the class"
            )
    shares = {split: share for split, share in (("val", val), ("test", test)) if not splits[split]}
    drawn = {name: _draw(splits["train"][name], shares, seed, name) for name in classes}
    chosen = {
        split: {name: drawn[name].get(split, images.get(name, [])) for name in classes}
        for split, images in splits.items()
    }
    for split, images in chosen.items():
        if not any(images.values()):
            raise UserError(f"--{split} 0: a data set needs {split} images; give a share above 0")
    listed: dict[Path, Path] = {}  # from each real path to the path in a list
    for path in (path for images in chosen.values() for paths in images.values() for path in paths):
        if (other := listed.setdefault(path.resolve(), path)) != path:
            raise UserError(f"{path} and {other} are the same file, which would count twice: remove one link")
    texts = {}
    for split, images in chosen.items():
        lines = []
        for label, name in enumerate(classes):
            for path in images[name]:
                listed_path = path.relative_to(folder).as_posix()
                lines.append(f"{listed_path} {label}\n")
                if not _reads_back(lines[-1], listed_path):
                    raise UserError(
                        f"the name {listed_path!r} begins with a space, holds a backslash, a drive or a control "
                        f"character, or is not Unicode: rename that file or folder"
                    )
        texts[split] = "".join(lines)
    if len(classes) == 1:
        raise UserError(
            f"{folder} holds images of one class only, {classes[0]!r}: expected a folder for each class, "
            "CLASS/IMAGE or train/CLASS/IMAGE"
        )
    _name_left_out(folder, listed)
    for split, text in texts.items():
        write_text(folder / f"{split}.txt", text)
    return {split: sum(map(len, images.values())) for split, images in chosen.items()}


def _reads_back(line: str, path: str) -> bool:
    """Check whether `read_lists` finds exactly `path` in a line of a list."""
    try:
        return parse_list(line.encode(), "").paths == [path]
    except (UserError, UnicodeEncodeError):  # Python shows a name that is not Unicode with surrogates
        return False


def _name_left_out(folder: Path, listed: Collection[Path]) -> None:
    """Print to stderr how many files are in no list, for each ending.

    Such a file lies outside of the classes, or has an unknown ending.

    Args:
        listed: the real paths of the files in the lists.
    """
    files = (file for file in _walk(folder) if file.suffix.lower() not in (".txt", ".md") and file.is_file())
    left = [
        file for file in files if file.resolve() not in listed and is_searched(file.relative_to(folder).parts)
    ]
    if left:
        endings = Counter(file.suffix.lower() or "no ending" for file in left).most_common(5)
        text = f"warning: {counted(len(left), 'file')} in no list, such as {min(left).relative_to(folder)}"
        note(f"{text} ({', '.join(f'{ending} {n}' for ending, n in endings)})")


def _splits(folder: Path) -> dict[str, dict[str, list[Path]]]:
    """Return a dict from each split to a dict from its classes to their images; {} for a split without a folder.

    `_split_of` tells which folder is which split. If `folder` holds only one folder, such as images/, the folders of
    the splits may be in there.

    Raises:
        UserError: a split has two folders, such as val/ and valid/; or two folders seem to be splits, such as
            seg_train and seg_test.
    """
    inner, splits, places, unclear = _folders(folder), {split: {} for split in SPLITS}, {}, {}
    for path in inner:
        split, words = _split_of(path.name), re.split(r"[\W\d_]+", path.name)
        near = split or next(filter(None, map(_split_of, words)), None)  # of a name such as seg_train
        classes = _classes(path) if near else {}
        if split and classes:
            if split in places:
                raise UserError(
                    f"{folder} holds {places[split]} and {path.name}, which both mean {split}: join or rename them"
                )
            splits[split], places[split] = classes, path.name
        elif split or classes:
            unclear[near] = path.name
    if len(inner) == 1 and not places:
        return _splits(inner[0])
    if len(unclear) > 1 and not places:
        raise UserError(
            f"{folder} holds {' and '.join(unclear.values())}, which seem to be splits, not classes: call them "
            f"{' and '.join(unclear)}, and put a folder for each class into them"
        )
    return splits


def _split_of(name: str) -> str | None:
    """Return the split that a folder's name means, such as train for Training_Set and val for val2017, or None."""
    letters = re.sub(r"[\W\d_]", "", name.lower())
    means = (
        split for split, word in SPLITS.items() if re.fullmatch(f"(?:{MORE})*{word}(?:{MORE})*", letters)
    )
    return next(means, None)


def _folders(folder: Path) -> list[Path]:
    inner = (path for path in folder.iterdir() if path.name != "__MACOSX" and not path.name.startswith("."))
    return sorted(path for path in inner if path.is_dir())


def _classes(folder: Path) -> dict[str, list[Path]]:
    """Return a dict from each class to its sorted images at any depth. Empty classes are left out.

    If `folder` holds only one folder, such as images/, and that folder holds folders, these are the classes.
    """
    inner = _folders(folder)
    if len(inner) == 1 and any(path.is_dir() for path in inner[0].iterdir()):
        return _classes(inner[0])
    return {path.name: files for path in inner if (files := image_files(path))}


def image_files(folder: Path) -> list[Path]:
    """Return the images in a folder at any depth, sorted, without hidden files and folders.

    Links to folders are followed.
    """
    return sorted(file for file in _walk(folder) if file.suffix.lower() in ENDINGS and file.is_file())


def _walk(folder: Path) -> list[Path]:
    """Return the files in a folder at any depth, without hidden files. A linked folder is walked once."""
    files, seen = [], set()
    for place, inner, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(place)) in seen:  # a link to a folder above, or two links to a folder
            inner.clear()
            continue
        seen.add(real)
        inner[:] = (name for name in inner if not name.startswith("."))
        files += [Path(place, name) for name in names if not name.startswith(".")]
    return files


def _draw(images: list[Path], shares: dict[str, float], seed: int, name: str) -> dict[str, list[Path]]:
    """Divide the images of a class: each split in `shares` gets its share, at least one image. Train gets the rest.

    Raises:
        UserError: there are too few images.
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
            f"or remove the class"
        )
    return {**parts, "train": [images[i] for i in sorted(order[start:])]}
