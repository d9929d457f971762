"""Decode a data set once into raw arrays on disk, which training then maps into memory.

One directory a data set and size, `<name>-<size>px-<key>`, with `<split>.raw` (N, size, size, C), uint8, uint16
or float32, the lists `<split>.txt` of the N images that could be decoded, and meta.json. It is complete or
absent, and needs no images. Checksums of all files are compared whenever it is opened.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import zlib
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from channelset import Channels
from data.decode import ImageReader, Target, pixel_kind, pixel_unit
from data.lists import ImageLists, parse_list
from data.workers import answers, cores
from utils import ROOT, UserError, making, progress_bar, write_json, write_text

FORMAT = 2  # part of the key: caches of another format are not found
CHUNK = 64  # images a job
FEW = 500  # below this, starting workers takes longer than they save


@dataclass(frozen=True)
class CachedSplit:
    """images (N, size, size, C) mapped from disk, labels (N,) int64, and N paths as listed."""

    images: np.memmap
    labels: np.ndarray
    paths: list[str]


class PixelCache:
    """A finished cache directory.

    Attributes:
        name, digest: of the lists; size: px; class_names, num_classes.
        channels: names and wavelengths of the images' last axis; channel_names: the names alone.
        kind: of the pixels, uint8, uint16 or float32.
        mean, std: (C,) float32 of the train pixels, uint8 in 0..1, others as stored; covariance: (C, C)
            float32, in their squares.
        failures: split -> list of [path, reason] that could not be decoded and are left out.
        left_out: path -> CRC-32 of each such file, None where it could not be read.

    Raises:
        UserError: the directory is damaged.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        try:
            meta = json.loads((self.folder / "meta.json").read_text(encoding="utf-8"))
            self.name, self.digest, self.size = meta["name"], meta["digest"], meta["size"]
            self.class_names, self.num_classes = meta["class_names"], len(meta["class_names"])
            self.mean, self.std = np.array(meta["mean"], np.float32), np.array(meta["std"], np.float32)
            self.covariance = np.array(meta["covariance"], np.float32)
            self.channels, self.kind = Channels(meta["channels"]), np.dtype(meta["kind"])
            self.channel_names = self.channels.names
            self.failures, self.left_out = meta["failures"], meta["left_out"]
            self._images = meta["images"]
            if meta["meta_crc32"] != meta_checksum(meta):
                raise ValueError("meta.json was changed")
            for name, expected in meta["crc32"].items():
                if checksum(self.folder / name) != expected:
                    raise ValueError(f"{name} was changed")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"the cache {self.folder} is damaged ({error}); delete that folder") from error

    def split(self, name: str) -> CachedSplit:
        """The images of "train", "val" or "test" that could be decoded, in list order."""
        listed = parse_list((self.folder / f"{name}.txt").read_bytes(), str(self.folder / f"{name}.txt"))
        # copy-on-write: nothing is ever written, but torch warns about arrays it could not write to
        shape = (self._images[name], self.size, self.size, len(self.channels))
        images = np.memmap(self.folder / f"{name}.raw", self.kind, "c", shape=shape)
        return CachedSplit(images, listed.labels, listed.paths)


def checksum(path: Path) -> int:
    """CRC-32 of a file; some gigabytes a second."""
    value = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            value = zlib.crc32(block, value)
    return value


def meta_checksum(meta: dict) -> int:
    """CRC-32 of everything else in meta.json."""
    return zlib.crc32(json.dumps({**meta, "meta_crc32": None}, sort_keys=True).encode())


def open_cache(
    lists: ImageLists,
    size: int,
    folder: str | Path | None = None,
    workers: int | None = None,
    max_failed_share: float = 0.01,
    progress: bool = True,
) -> PixelCache:
    """Open the cache of `lists` at `size`, building it first where it is absent or damaged.

    Args:
        lists: from `read_lists`.
        size: side of the square images, px: short side resized to it, centre cropped.
        folder: where caches lie; data/cache of the repository by default.
        workers: processes; one a core by default.
        max_failed_share: share of a split that may be undecodable, in 0..1, also where the cache is there.
        progress: show a bar with images/s.

    Raises:
        UserError: bad size, full disk, too many undecodable images, or a worker that was killed.
    """
    if size < 1:
        raise UserError(f"image size {size} px is too small; use 1 or more")
    key = hashlib.sha256(repr((lists.digest, size, FORMAT)).encode()).hexdigest()[:12]
    target = Path(folder or ROOT / "data" / "cache") / f"{lists.name}-{size}px-{key}"
    found = _existing(target, lists)
    try:
        if not found:
            with making(target) as temporary:
                found = _existing(target, lists)  # another process may have built it meanwhile
                if not found:
                    _build(lists, size, temporary, workers or cores(), max_failed_share, progress)
    except OSError as error:
        raise UserError(
            f"cannot write the cache {target}: {error}; free disk space, or choose another "
            "folder with --cache"
        ) from error
    found = found or PixelCache(target)
    for key, split in lists.splits.items():
        _check_failures(
            key,
            [f"{path} ({reason})" for path, reason in found.failures[key]],
            len(split.paths),
            max_failed_share,
        )
    _warn(found.failures)
    return found


def _existing(target: Path, lists: ImageLists) -> PixelCache | None:
    """The cache, where it is whole; one that is damaged, or left out an image that is another one now, is
    removed.
    """
    if not target.exists():
        return None
    try:
        found = PixelCache(target)
        reader = ImageReader(lists)
        for path, checksum in found.left_out.items():
            if reader.checksum(path) != checksum:
                raise UserError(f"{path}, which the cache {target} leaves out, was changed")
        return found
    except UserError as error:
        print(f"{error} -- building it again", file=sys.stderr)
        shutil.rmtree(target)
        return None


def _build(lists, size, folder, workers, max_failed_share, progress) -> None:
    """Fill the empty `folder` with a cache."""
    channels = len(lists.channels)
    kind = first_kind(lists)
    pixel = channels * np.dtype(kind).itemsize
    need = sum(len(split.paths) for split in lists.splits.values()) * size * size * pixel
    free = shutil.disk_usage(folder.parent).free
    if need > free:
        raise UserError(
            f"the cache needs {need / 1e9:.2f} GB in {folder.parent}, where {free / 1e9:.2f} "
            f"GB are free; free disk space or use a smaller image size"
        )
    targets = {
        key: Target(str((folder / f"{key}.raw").absolute()), size, channels, kind) for key in lists.splits
    }
    failures, sums, products = _decode_all(lists, targets, workers, max_failed_share, progress)
    counts = {
        key: _finish_split(folder, key, split, targets[key], failures[key])
        for key, split in lists.splits.items()
    }
    reader = ImageReader(lists)
    pixels, unit = counts["train"] * size * size, pixel_unit(kind)
    mean = sums / pixels
    covariance = (products / pixels - np.outer(mean, mean)) / unit**2
    named = {
        key: [[lists.splits[key].paths[row], reason] for row, reason in rows]
        for key, rows in failures.items()
    }
    meta = {
        "name": lists.name,
        "digest": lists.digest,
        "size": size,
        "format": FORMAT,
        "images": counts,
        "channels": lists.channels.as_dict(),
        "kind": kind,
        "mean": (mean / unit).tolist(),
        "std": np.sqrt(np.maximum(np.diag(covariance), 0)).tolist(),
        "covariance": covariance.tolist(),
        "failures": named,
        "class_names": lists.class_names,
        "left_out": {path: reader.checksum(path) for rows in named.values() for path, _ in rows},
        "crc32": {path.name: checksum(path) for path in sorted(folder.iterdir())},
    }
    write_json(folder / "meta.json", {**meta, "meta_crc32": meta_checksum(meta)})


def first_kind(lists) -> str:
    """The kind of the first train image that can be read."""
    reader = ImageReader(lists)
    for path in lists.splits["train"].paths[:CHUNK]:
        try:
            return pixel_kind(reader.read(path), len(lists.channels))
        except Exception:  # reported with the others when all are decoded
            continue
    return "uint8"


def _decode_all(lists, targets, workers, max_failed_share, progress):
    """Fill `<split>.raw`; returns failures (split -> list of (row, reason)) and the moments of the train
    pixels.
    """
    jobs, owners, reader = [], [], ImageReader(lists)
    for key, split in lists.splits.items():
        target = targets[key]
        with open(target.file, "wb") as out:
            out.truncate(len(split.paths) * target.size**2 * target.channels * np.dtype(target.kind).itemsize)
        for row in range(0, len(split.paths), CHUNK):
            jobs.append((split.paths[row : row + CHUNK], target, row, key == "train"))
            owners.append(key)
    channels, size = len(lists.channels), targets["train"].size
    failures, sums, products = (
        {key: [] for key in lists.splits},
        np.zeros(channels),
        np.zeros((channels, channels)),
    )
    total = sum(len(job[0]) for job in jobs)
    with (
        closing(answers(reader, jobs, workers if total >= FEW else 1)) as results,
        progress_bar(total=total, desc=f"decoding to {size} px", unit=" images", disable=not progress) as bar,
    ):
        for key, job, (failed, moments) in zip(owners, jobs, results):
            paths = lists.splits[key].paths
            failures[key] += failed
            _check_failures(
                key,
                [f"{paths[row]} ({reason})" for row, reason in failures[key]],
                len(paths),
                max_failed_share,
            )
            if moments:
                sums, products = sums + moments[0], products + moments[1]
            bar.update(len(job[0]))
    return failures, sums, products


def _check_failures(key: str, failed: list[str], count: int, max_failed_share: float) -> None:
    if len(failed) > max_failed_share * count:
        raise UserError(
            f"at least {len(failed)} of {count} {key} images cannot be decoded (limit "
            f"{max_failed_share:.1%}): {'; '.join(failed[:3])}. Replace them, or allow more with "
            f"--max-failed {min(1.0, 1.1 * len(failed) / count):.2g}"
        )


def _finish_split(folder: Path, key: str, split, target: Target, failed: list) -> int:
    """Move the good rows of `<key>.raw` together, write their list, and return their number."""
    rows = np.setdiff1d(np.arange(len(split.paths)), [row for row, _ in failed])
    if not len(rows):
        raise UserError(f"not one {key} image can be decoded; get the data set again")
    if failed:
        shape = (len(split.paths), target.size, target.size, target.channels)
        images = np.memmap(target.file, target.kind, "r+", shape=shape)
        for start in range(0, len(rows), CHUNK):
            images[start : start + CHUNK][: len(rows) - start] = images[rows[start : start + CHUNK]]
        images.flush()
        row = images[0].nbytes
        del images
        os.truncate(target.file, len(rows) * row)
    write_text(folder / f"{key}.txt", "".join(f"{split.paths[row]} {split.labels[row]}\n" for row in rows))
    return len(rows)


def _warn(failures: dict[str, list]) -> None:
    for key, failed in failures.items():
        if failed:
            print(
                f"warning: {len(failed)} {key} images cannot be decoded and are left out: "
                + "; ".join(f"{path} ({reason})" for path, reason in failed[:5]),
                file=sys.stderr,
            )
