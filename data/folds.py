"""Write lists for cross-validation of a small data set: each image is tested once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.demo import read_marker
from data.identity import digest_of, sums_of
from data.lists import BANDS, ImageLists, bands_text
from data.source import BROKEN
from storage.files import write_json, write_text, writing
from storage.locks import making
from utils import UserError

VAL_SHARE = 0.1


def split_folds(labels: np.ndarray, folds: int, names: Sequence[str]) -> list[dict]:
    """Return the sorted rows of train, val and test for each fold.

    Each row is in the test of exactly one fold, and each class is spread evenly over the folds. The share `VAL_SHARE`
    of the other rows of each class is for validation.

    Args:
        labels: (N,) int.
        folds: number of folds.
        names: name of each label, for errors.

    Raises:
        UserError: a class has fewer images than folds, or too few for training and validation.
    """
    rng, fold_of = np.random.default_rng(0), np.empty(len(labels), int)
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        if len(rows) < folds:
            raise UserError(
                f"--folds {folds}: class {names[label]} has only {len(rows)} images: use fewer folds, or add images"
            )
        # start at a random fold, or the first folds would get all remainders
        fold_of[rows] = (np.arange(len(rows)) + rng.integers(folds)) % folds
    parts = []
    for fold in range(folds):
        rest = rng.permutation(np.flatnonzero(fold_of != fold))
        by_class = (rest[labels[rest] == label] for label in np.unique(labels))
        val = np.concatenate([rows[: max(1, round(VAL_SHARE * len(rows)))] for rows in by_class])
        parts.append(
            {"train": np.setdiff1d(rest, val), "val": np.sort(val), "test": np.flatnonzero(fold_of == fold)}
        )
        if len(np.unique(labels[parts[-1]["train"]])) < len(np.unique(labels)):
            raise UserError(
                f"--folds {folds}: a class has no training image in a fold: add images of the small classes"
            )
    return parts


def make_folds(lists: ImageLists, folds: int, out: str | Path) -> list[Path]:
    """Write the data sets NAME-fold0, NAME-fold1, ... into the folder `out`.

    All folds share one copy of the images, beside them in `out`.

    Returns:
        the folders of the data sets, for `--data`.

    Raises:
        UserError: `out` holds something else or cannot be written, or a class has too few images.
    """
    out = Path(out)
    paths = lists.paths
    labels = np.concatenate([split.labels for split in lists.splits.values()])
    parts = split_folds(labels, folds, lists.class_names)
    folders = [out / f"{lists.name}-fold{fold}" for fold in range(folds)]
    marker = out / "folds.json"
    content = {"digest": lists.digest, "folds": folds, "images_digest": digest_of(sums_of(lists))}
    if read_marker(marker) == content and all(folder.is_dir() for folder in folders):
        return folders
    if out.exists() and any(out.iterdir()):
        raise UserError(
            f"{out} is not empty and does not hold exactly these folds (same pictures, same name): "
            "choose another folder with --out"
        )
    with writing(f"the folds to {out}", BROKEN), making(out) as temporary:
        for path in paths:
            target = temporary / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(lists.read(path))
        for folder, part in zip(folders, parts):
            for split, rows in part.items():
                text = "".join(f"{paths[row]} {labels[row]}\n" for row in rows)
                write_text(temporary / folder.name / f"{split}.txt", text)
            if lists.has_bands:
                write_text(temporary / folder.name / BANDS, bands_text(lists.channels.as_dict()))
        write_json(temporary / marker.name, content)
    return folders
