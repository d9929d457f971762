"""Decode a data set once into raw arrays on disk, which training then maps into memory.

Each data set and size has a directory `<name>-<size>px-<key>`. It is either complete or absent. It holds
- `<split>.raw`: pixels (N, size, size, C), uint8, uint16 or float32,
- `<split>.txt`: the list of the N images that could be decoded,
- pictures.json: bytes and CRC-32 of their files,
- meta.json: all other facts.

Images that cannot be decoded are left out and named. If there are too many of them, no cache is made (--max-failed).

Opening a cache compares the checksums of all its files. It also compares the pictures of the data set with the cached
pictures, see data/identity.py. If two data sets have the same lists but different pictures, the second cache is
`<name>-<size>px-<key>-2`.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import sys
import zlib
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from channelset import Channels
from data import identity
from data.decode import ImageReader, Target, decode, pixel_kind, pixel_unit, stored_kind
from data.lists import ImageLists, parse_list
from data.workers import answers, cores
from storage.files import read_json, write_json, write_text
from storage.locks import making
from utils import ROOT, UserError, counted, printable, progress_bar

FORMAT = 3  # part of the key, so caches of another format are ignored
CHUNK = 64  # images for one job
FEW = 500  # with fewer images, the start of worker processes takes longer than they save
PICTURES = "pictures.json"


class DamagedCache(UserError):
    """An error for a cache in which a file is missing or changed."""


@dataclass(frozen=True)
class CachedSplit:
    """A split that holds images (N, size, size, C) mapped from disk, labels (N,) int64, and N paths as in the list."""

    images: np.memmap
    labels: np.ndarray
    paths: list[str]


class PixelCache:
    """A finished cache directory that is open for reading.

    Attributes:
        name, digest: name and digest of the lists.
        size: side of the images, px.
        class_names, num_classes: the classes, in the order of the labels.
        images_digest: digest of the pictures, see `data.identity`.
        sources: a dict from the path of each data set with these pictures to its `data.identity.stamp`.
        channels: names and wavelengths of the images' last axis; channel_names: only the names.
        kind: type of the pixels, uint8, uint16 or float32.
        mean, std: (C,) float32, of the train pixels. uint8 counts as 0..1; other pixels are not scaled.
        covariance: (C, C) float32, of the train pixels, scaled in the same way.
        failures: a dict from each split to a list of [path, reason]: images that are left out because they cannot be
            decoded.
        left_out: a dict from the path of each left-out image to the CRC-32 of its file, or None if the file cannot be
            read.
        copies: images that are in two splits, see `data.identity.copies`.

    Raises:
        DamagedCache: the directory is damaged.
        UserError: the directory cannot be read.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        with self._reading():
            self._meta = meta = read_json(self.folder / "meta.json")
            if meta["meta_crc32"] != meta_checksum(meta):
                raise ValueError("meta.json was changed")
            self.name, self.digest, self.size = meta["name"], meta["digest"], meta["size"]
            self.images_digest, self.sources = meta["images_digest"], meta["sources"]
            self.class_names, self.num_classes = meta["class_names"], len(meta["class_names"])
            self.mean, self.std = np.array(meta["mean"], np.float32), np.array(meta["std"], np.float32)
            self.covariance = np.array(meta["covariance"], np.float32)
            self.channels, self.kind = Channels(meta["channels"]), np.dtype(meta["kind"])
            self.channel_names = self.channels.names
            self.failures, self.left_out = meta["failures"], meta["left_out"]
            self.copies = meta["copies"]
            for name, expected in meta["crc32"].items():
                if checksum(self.folder / name) != expected:
                    raise ValueError(f"{name} was changed")
            if not all(np.isfinite(value).all() for value in (self.mean, self.std, self.covariance)):
                raise ValueError("mean or deviation is not finite")
            # mapped now: if the cache is replaced later, the old and the new files are not mixed
            self._splits = {name: self._map(name, count) for name, count in meta["images"].items()}

    @contextmanager
    def _reading(self):
        """Turn the errors of a damaged or unreadable cache into a `DamagedCache` or another `UserError`."""
        try:
            yield
        except (
            FileNotFoundError,
            NotADirectoryError,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
        ) as error:
            raise DamagedCache(f"the cache {self.folder} is damaged ({error}); delete that folder") from error
        except OSError as error:
            raise UserError(
                f"cannot read the cache {self.folder}: {error}; correct that, or choose another folder with --cache"
            ) from error

    def _map(self, name: str, count: int) -> CachedSplit:
        listed = parse_list((self.folder / f"{name}.txt").read_bytes(), str(self.folder / f"{name}.txt"))
        # mode "c", copy-on-write: nothing writes to the arrays, but torch warns about read-only arrays
        shape = (count, self.size, self.size, len(self.channels))
        images = np.memmap(self.folder / f"{name}.raw", self.kind, "c", shape=shape)
        return CachedSplit(images, listed.labels, listed.paths)

    def split(self, name: str) -> CachedSplit:
        """Return the decoded images of "train", "val" or "test", in the order of the list."""
        return self._splits[name]

    def has_seen(self, lists: ImageLists, stamp: str) -> bool:
        """Check whether the pictures with this `data.identity.stamp` were compared with the cache before."""
        return stamp in self.sources.values() and not self._mended(lists)

    def difference(self, lists: ImageLists, sums: identity.Sums) -> str:
        """Say how the pictures of `lists` differ from the cached pictures; return "" if they are the same.

        Raises:
            DamagedCache: pictures.json is damaged.
        """
        with self._reading():
            used = read_json(self.folder / PICTURES)
            changed = [path for path, expected in used.items() if sums.get(path) != expected]
        changed += self._mended(lists)
        return f"{counted(len(changed), 'picture')} changed, such as {changed[0]}" if changed else ""

    def _mended(self, lists: ImageLists) -> list[str]:
        """Return the paths of the images that were left out and whose files have changed.

        The files are read, since a zip may list a wrong checksum for a damaged member.
        """
        reader = ImageReader(lists)
        return [
            path
            for path, checksum in self.left_out.items()
            if (reader.sums(path) or [0, None])[1] != checksum
        ]

    def remember(self, lists: ImageLists, stamp: str) -> None:
        """Note in the cache that `lists` has these pictures. If this fails, the next opening compares them again."""
        meta, source = dict(self._meta), str(lists.source)
        if self.sources.get(source) == stamp:
            return
        with suppress(UserError):
            existing = {path: old for path, old in self.sources.items() if Path(path).exists()}
            self.sources = meta["sources"] = {**existing, source: stamp}
            self._meta = _write_meta(self.folder, meta)


def checksum(path: Path) -> int:
    """Return the CRC-32 of a file. This takes about a second for some gigabytes."""
    value = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            value = zlib.crc32(block, value)
    return value


def meta_checksum(meta: dict) -> int:
    """Return the CRC-32 of meta.json without its entry meta_crc32."""
    return zlib.crc32(json.dumps({**meta, "meta_crc32": None}, sort_keys=True).encode())


def _write_meta(folder: Path, meta: dict) -> dict:
    """Write meta.json with its checksum, and return its content."""
    meta = {**meta, "meta_crc32": meta_checksum(meta)}
    write_json(folder / "meta.json", meta)
    return meta


def open_cache(
    lists: ImageLists,
    size: int,
    folder: str | Path | None = None,
    workers: int | None = None,
    max_failed_share: float = 0.01,
    progress: bool = True,
) -> PixelCache:
    """Open the cache of `lists` at `size`. Build it first if it is absent, damaged or of other pictures.

    Args:
        lists: from `read_lists`.
        size: side of the square images, px. The short side is resized to it, and the centre is cropped.
        folder: folder of all caches (default: data/cache of the repository).
        workers: number of processes (default: one per core).
        max_failed_share: share of a split that may fail to decode, in 0..1. This limit also applies to an existing
            cache.
        progress: whether to show a progress bar.

    Raises:
        UserError: the size is below 1, the disk is full, too many images fail to decode, or a worker was killed.
    """
    if size < 1:
        raise UserError(f"image size {size} px is too small; use 1 or more")
    # caches of format 3 hold TIFF files of one or three bands as 8-bit pictures
    version = FORMAT + (lists.has_bands and len(lists.channels) in (1, 3))
    key = hashlib.sha256(repr((lists.digest, size, version)).encode()).hexdigest()[:12]
    target = Path(folder or ROOT / "data" / "cache") / f"{lists.name}-{size}px-{key}"
    try:
        cache, place, why = _look_for(target, lists, progress)
        while not cache:
            with making(place, replace=True) as temporary:
                # look again: another process may have built the cache while this process waited
                cache, free, why = _look_for(target, lists, progress)
                if not cache and free == place:
                    if why:
                        print(printable(f"{why} -- building it again"), file=sys.stderr)
                    _build(lists, size, temporary, workers or cores(), max_failed_share, progress)
            if not cache:
                cache, place = (PixelCache(place), place) if free == place else (None, free)
    except OSError as error:
        raise UserError(
            f"cannot write the cache {target}: {error}; free disk space, or choose another "
            "folder with --cache"
        ) from error
    for key, split in lists.splits.items():
        _check_failures(key, cache.failures[key], len(split.paths), max_failed_share)
    for key, failed in cache.failures.items():
        if failed:
            text = f"warning: {len(failed)} {key} images cannot be decoded and are left out: {_named(failed[:5])}"
            print(printable(text), file=sys.stderr)
    if cache.copies:
        text = (
            f"warning: {len(cache.copies)} images are in two splits under different names, which spoils the test: "
            f"{'; '.join(cache.copies[:5])}; remove one of each pair from the lists"
        )
        print(printable(text), file=sys.stderr)
    return cache


def _look_for(target: Path, lists: ImageLists, progress: bool) -> tuple[PixelCache | None, Path, str]:
    """Return the cache of these pictures, its folder and "".

    If there is no such cache, return None, the folder to build it in, and why the cache there must be replaced.
    """
    caches, damaged, stamp = [], [], identity.stamp(lists)
    for number in itertools.count(2):
        if not target.exists():
            break
        try:
            caches.append(PixelCache(target))
        except DamagedCache as error:
            damaged.append((None, target, str(error)))
        target = target.with_name(f"{target.name.removesuffix(f'-{number - 1}')}-{number}")
    for cache in caches:
        if cache.has_seen(lists, stamp):
            cache.remember(lists, stamp)
            return cache, cache.folder, ""
    sums, outdated = identity.sums_of(lists, progress) if caches else {}, []
    for cache in caches:
        try:
            difference = cache.difference(lists, sums)
        except DamagedCache as error:
            damaged.append((None, cache.folder, str(error)))
            continue
        if not difference:
            cache.remember(lists, stamp)
            return cache, cache.folder, ""
        if not any(Path(path).exists() for path in cache.sources if path != str(lists.source)):
            outdated.append((None, cache.folder, f"{difference}: the cache {cache.folder} is outdated"))
    return [*damaged, *outdated, (None, target, "")][0]


def _build(lists, size, folder, workers, max_failed_share, progress) -> None:
    """Fill the empty `folder` with a cache."""
    channels, stamp = len(lists.channels), identity.stamp(lists)  # before any picture is read
    kind, first = first_image(lists)
    stored = stored_kind(kind)
    # floats keep more digits near zero; the moments of whole numbers are exact without an origin
    origin = None if first is None or stored != "float32" else tuple(first.mean((0, 1), np.float64).tolist())
    need = len(lists.paths) * size * size * channels * np.dtype(stored).itemsize
    free = shutil.disk_usage(folder.parent).free
    if need > free:
        raise UserError(
            f"the cache needs {need / 1e9:.2f} GB in {folder.parent}, where {free / 1e9:.2f} "
            f"GB are free; free disk space or use a smaller image size"
        )
    targets = {
        key: Target(str((folder / f"{key}.raw").absolute()), size, channels, kind, origin, lists.has_bands)
        for key in lists.splits
    }
    failures, sums, products, pictures = _decode_all(lists, targets, workers, max_failed_share, progress)
    counts = {
        key: _finish_split(folder, key, split, targets[key], failures[key])
        for key, split in lists.splits.items()
    }
    reader = ImageReader(lists)
    text = identity.as_text(pictures)
    write_text(folder / PICTURES, text)
    pixels, unit = counts["train"] * size * size, pixel_unit(stored)
    mean = sums / pixels
    covariance = (products / pixels - np.outer(mean, mean)) / unit**2
    mean = mean if origin is None else mean + origin
    meta = {
        "name": lists.name,
        "digest": lists.digest,
        "images_digest": identity.digest_of(text),
        "sources": {str(lists.source): stamp},
        "size": size,
        "format": FORMAT,
        "images": counts,
        "channels": lists.channels.as_dict(),
        "kind": stored,
        "mean": (mean / unit).tolist(),
        "std": np.sqrt(np.maximum(np.diag(covariance), 0)).tolist(),
        "covariance": covariance.tolist(),
        "failures": {key: [[path, reason] for _, path, reason in rows] for key, rows in failures.items()},
        "class_names": lists.class_names,
        "copies": identity.copies(lists, {path: tuple(sums) for path, sums in pictures.items()}),
        "left_out": {
            path: (reader.sums(path) or [0, None])[1] for rows in failures.values() for _, path, _ in rows
        },
        "crc32": {path.name: checksum(path) for path in sorted(folder.iterdir())},
    }
    _write_meta(folder, meta)


def first_image(lists) -> tuple[str, np.ndarray | None]:
    """Return the kind and the pixels (8, 8, C) of the first train image that can be decoded, else "uint8" and None.

    The kind is a result of `data.decode.pixel_kind`.
    """
    reader, channels = ImageReader(lists), len(lists.channels)
    for path in lists.splits["train"].paths[:CHUNK]:
        try:
            data = reader.read(path)
            kind = pixel_kind(data, channels, lists.has_bands)
            return kind, decode(data, 8, channels, kind, lists.has_bands)
        except Exception:  # reported later, when all images are decoded
            continue
    return "uint8", None


def _decode_all(lists, targets, workers, max_failed_share, progress):
    """Fill `<split>.raw` and return four values.

    Returns:
        failures: a dict from each split to a list of (row, path, reason).
        sums, products: (C,) and (C, C), the sums of x and of x x^T, where x is a train pixel minus the origin.
        pictures: a dict from each path to the bytes and CRC-32 of its file.
    """
    jobs, owners, reader, pictures = [], [], ImageReader(lists), {}
    for key, split in lists.splits.items():
        target = targets[key]
        with open(target.file, "wb") as out:
            pixel = target.channels * np.dtype(stored_kind(target.kind)).itemsize
            out.truncate(len(split.paths) * target.size**2 * pixel)
        for row in range(0, len(split.paths), CHUNK):
            jobs.append((split.paths[row : row + CHUNK], target, row, key == "train"))
            owners.append(key)
    channels, size, total = len(lists.channels), targets["train"].size, len(lists.paths)
    failures = {key: [] for key in lists.splits}
    sums, products = np.zeros(channels), np.zeros((channels, channels))
    with (
        closing(answers(reader, jobs, workers if total >= FEW else 1)) as results,
        progress_bar(total=total, desc=f"decoding to {size} px", unit=" images", disable=not progress) as bar,
    ):
        for key, job, (failed, moments, good) in zip(owners, jobs, results):
            failures[key] += failed
            pictures.update(good)
            _check_failures(key, failures[key], len(lists.splits[key].paths), max_failed_share)
            if moments:
                sums, products = sums + moments[0], products + moments[1]
            bar.update(len(job[0]))
    return failures, sums, products, pictures


def _named(failed: list) -> str:
    """Name images that cannot be decoded; failed: list of [..., path, reason]."""
    return "; ".join(f"{path} ({reason})" for *_, path, reason in failed)


def _check_failures(key: str, failed: list, count: int, max_failed_share: float) -> None:
    """Raise a UserError if too many of the `count` images of split `key` failed; failed: see `_named`."""
    if len(failed) > max_failed_share * count:
        raise UserError(
            f"at least {len(failed)} of {count} {key} images cannot be decoded (limit "
            f"{max_failed_share:.1%}): {_named(failed[:3])}. Replace them, or allow more with "
            f"--max-failed {min(1.0, 1.1 * len(failed) / count):.2g}"
        )


def _finish_split(folder: Path, key: str, split, target: Target, failed: list) -> int:
    """Remove the failed rows from `<key>.raw`, write the list of the good rows, and return their number."""
    rows = np.setdiff1d(np.arange(len(split.paths)), [row for row, *_ in failed])
    if not len(rows):
        raise UserError(f"no {key} image can be decoded; get the data set again")
    if failed:
        shape = (len(split.paths), target.size, target.size, target.channels)
        images = np.memmap(target.file, stored_kind(target.kind), "r+", shape=shape)
        for start in range(0, len(rows), CHUNK):
            images[start : start + CHUNK][: len(rows) - start] = images[rows[start : start + CHUNK]]
        images.flush()
        row = images[0].nbytes
        del images
        os.truncate(target.file, len(rows) * row)
    write_text(folder / f"{key}.txt", "".join(f"{split.paths[row]} {split.labels[row]}\n" for row in rows))
    return len(rows)
