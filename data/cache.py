"""Decode a data set once into raw uint8 arrays on disk, which training then maps into memory.

One directory a data set and size, `<name>-<size>px-<key>`, with `<split>.u8` (N, size, size, 3), the lists
`<split>.txt` of the N images that could be decoded, and meta.json. It is complete or absent, and needs no
images.
"""
from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data.decode import ImageReader
from data.lists import ImageLists, parse_list
from data.workers import answers, cores
from utils import ROOT, UserError, making, write_json, write_text

FORMAT = 1    # part of the key: caches of another format are not found
CHUNK = 64    # images a job
FEW = 500     # below this, starting workers takes longer than they save


@dataclass(frozen=True)
class CachedSplit:
    """images (N, size, size, 3) uint8 mapped from disk, labels (N,) int64, and N paths as listed."""
    images: np.memmap
    labels: np.ndarray
    paths: list[str]


class PixelCache:
    """A finished cache directory.

    Attributes:
        name, digest: of the lists; size: px; class_names, num_classes.
        mean, std: (3,) float32 of the train pixels, in 0..1 units; covariance: (3, 3) float32, in their
            squares.
        channel_names: of the images' last axis.
        failures: split -> list of [path, reason] that could not be decoded and are left out.

    Raises:
        UserError: the directory is damaged.
    """

    channel_names = ("R", "G", "B")

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        try:
            meta = json.loads((self.folder / "meta.json").read_text(encoding="utf-8"))
            self.name, self.digest, self.size = meta["name"], meta["digest"], meta["size"]
            self.class_names, self.num_classes = meta["class_names"], len(meta["class_names"])
            self.mean, self.std = np.array(meta["mean"], np.float32), np.array(meta["std"], np.float32)
            self.covariance = np.array(meta["covariance"], np.float32)
            self.failures, self._images = meta["failures"], meta["images"]
            for split, count in self._images.items():
                found, expected = (self.folder / f"{split}.u8").stat().st_size, count * self.size**2 * 3
                if found != expected:
                    raise ValueError(f"{split}.u8 has {found:,} bytes, expected {expected:,}")
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"the cache {self.folder} is damaged ({error}); delete that folder") from error

    def split(self, name: str) -> CachedSplit:
        """The images of "train", "val" or "test" that could be decoded, in list order."""
        listed = parse_list((self.folder / f"{name}.txt").read_bytes(), str(self.folder / f"{name}.txt"))
        # copy-on-write: nothing is ever written, but torch warns about arrays it could not write to
        shape = (self._images[name], self.size, self.size, 3)
        images = np.memmap(self.folder / f"{name}.u8", np.uint8, "c", shape=shape)
        return CachedSplit(images, listed.labels, listed.paths)


def open_cache(lists: ImageLists, size: int, folder: str | Path | None = None, workers: int | None = None,
               max_failed_share: float = 0.01, progress: bool = True) -> PixelCache:
    """Open the cache of `lists` at `size`, building it first where it is absent or damaged.

    Args:
        lists: from `read_lists`.
        size: side of the square images, px: short side resized to it, centre cropped.
        folder: where caches lie; data/cache of the repository by default.
        workers: processes; one a core by default.
        max_failed_share: share of a split that may be undecodable, in 0..1.
        progress: show a bar with images/s.

    Raises:
        UserError: bad size, full disk, too many undecodable images, or a worker that was killed.
    """
    if size < 1:
        raise UserError(f"image size {size} px is too small; use 1 or more")
    key = hashlib.sha256(repr((lists.digest, size, FORMAT)).encode()).hexdigest()[:12]
    target = Path(folder or ROOT / "data" / "cache") / f"{lists.name}-{size}px-{key}"
    found = _existing(target)
    if found:
        return found
    try:
        with making(target):
            found = _existing(target)   # another process may have built it meanwhile
            if not found:
                _build(lists, size, target, workers or cores(), max_failed_share, progress)
    except OSError as error:
        raise UserError(f"cannot write the cache {target}: {error}; free disk space or choose another "
                        "folder") from error
    return found or PixelCache(target)


def _existing(target: Path) -> PixelCache | None:
    """The cache, where it is whole; a damaged one is removed."""
    if not target.exists():
        return None
    try:
        return PixelCache(target)
    except UserError as error:
        print(f"{error} -- doing so, and building it again", file=sys.stderr)
        shutil.rmtree(target)
        return None


def _build(lists, size, target, workers, max_failed_share, progress) -> None:
    """Build in a hidden sibling of `target` and rename it at the end: an interrupted build never looks
    finished.
    """
    temporary = None
    try:
        need = sum(len(split.paths) for split in lists.splits.values()) * size * size * 3
        free = shutil.disk_usage(target.parent).free
        if need > free:
            raise UserError(f"the cache needs {need / 1e9:.2f} GB in {target.parent}, where {free / 1e9:.2f} "
                            f"GB are free; free disk space or use a smaller image size")
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        temporary.chmod(0o755)
        failures, sums, products = _decode_all(lists, size, temporary, workers, max_failed_share, progress)
        counts = {key: _finish_split(temporary, key, split, size, failures[key])
                  for key, split in lists.splits.items()}
        pixels = counts["train"] * size * size
        mean = sums / pixels
        covariance = (products / pixels - np.outer(mean, mean)) / 255**2
        named = {key: [[lists.splits[key].paths[row], reason] for row, reason in rows]
                 for key, rows in failures.items()}
        write_json(temporary / "meta.json", {
            "name": lists.name, "digest": lists.digest, "size": size, "format": FORMAT, "images": counts,
            "mean": (mean / 255).tolist(), "std": np.sqrt(np.diag(covariance)).tolist(),
            "covariance": covariance.tolist(), "failures": named, "class_names": lists.class_names})
        _warn(named)
        os.replace(temporary, target)
    finally:
        if temporary:
            shutil.rmtree(temporary, ignore_errors=True)


def _decode_all(lists, size, folder, workers, max_failed_share, progress):
    """Fill `<split>.u8`; returns failures (split -> list of (row, reason)) and the moments of the train
    pixels.
    """
    jobs, owners = [], []
    for key, split in lists.splits.items():
        file = folder / f"{key}.u8"
        with open(file, "wb") as out:
            out.truncate(len(split.paths) * size * size * 3)
        for row in range(0, len(split.paths), CHUNK):
            jobs.append((split.paths[row:row + CHUNK], size, str(file.absolute()), row, key == "train"))
            owners.append(key)
    failures, sums, products = {key: [] for key in lists.splits}, np.zeros(3), np.zeros((3, 3))
    total = sum(len(job[0]) for job in jobs)
    with closing(answers(ImageReader(lists), jobs, workers if total >= FEW else 1)) as results, \
            tqdm(total=total, desc=f"decoding to {size} px", unit=" images", disable=not progress) as bar:
        for key, job, (failed, moments) in zip(owners, jobs, results):
            failures[key] += failed
            paths = lists.splits[key].paths
            if len(failures[key]) > max_failed_share * len(paths):
                first = "; ".join(f"{paths[row]} ({reason})" for row, reason in failures[key][:3])
                raise UserError(f"at least {len(failures[key])} of {len(paths)} {key} images cannot be "
                                f"decoded (limit {max_failed_share:.1%}): {first}. Replace them, or allow "
                                f"more with --max-failed 0.05")
            if moments:
                sums, products = sums + moments[0], products + moments[1]
            bar.update(len(job[0]))
    return failures, sums, products


def _finish_split(folder: Path, key: str, split, size: int, failed: list) -> int:
    """Move the good rows of `<key>.u8` together, write their list, and return their number."""
    rows = np.setdiff1d(np.arange(len(split.paths)), [row for row, _ in failed])
    if not len(rows):
        raise UserError(f"not one {key} image can be decoded; get the data set again")
    if failed:
        images = np.memmap(folder / f"{key}.u8", np.uint8, "r+", shape=(len(split.paths), size, size, 3))
        for start in range(0, len(rows), CHUNK):
            images[start:start + CHUNK][:len(rows) - start] = images[rows[start:start + CHUNK]]
        images.flush()
        del images
        os.truncate(folder / f"{key}.u8", len(rows) * size * size * 3)
    write_text(folder / f"{key}.txt", "".join(f"{split.paths[row]} {split.labels[row]}\n" for row in rows))
    return len(rows)


def _warn(failures: dict[str, list]) -> None:
    for key, failed in failures.items():
        if failed:
            print(f"warning: {len(failed)} {key} images cannot be decoded and are left out: "
                  + "; ".join(f"{path} ({reason})" for path, reason in failed[:5]), file=sys.stderr)
