"""Decode a data set once into raw arrays on disk, which training then maps into memory.

Each data set and size has a directory `<name>-<size>px-<key>`. It is either complete or absent. It holds
- `<split>.raw`: pixels (N, size, size, C), uint8, uint16 or float32,
- `<split>.txt`: the list of the N images that could be decoded,
- meta.json: all other facts.

Images that cannot be decoded are left out and named. If there are too many of them, no cache is made (--max-failed).

Opening a cache compares the checksums of all its files, and the stamp of its pictures, see data/identity.py. If they
differ, the cache is built again. So two data sets with the same name and lists but different pictures replace each
other's cache.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from channelset import Channels
from data import identity
from data.decode import decode, pixel_kind, pixel_unit, reason, stored_kind
from data.lists import ImageLists, parse_list
from storage.files import read_json, write_json, write_text, writing
from storage.locks import making
from utils import ROOT, UserError, allowed_cores, note, progress_bar

FORMAT = 5  # part of the key, so caches of another format are ignored
CHUNK = 256  # images that are in memory at a time


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
        stamp: the `data.identity.stamp` of the pictures.
        channels: names and wavelengths of the images' last axis; channel_names: only the names.
        kind: type of the pixels, uint8, uint16 or float32.
        mean, std: (C,) float32, of the train pixels. uint8 counts as 0..1; other pixels are not scaled.
        covariance: (C, C) float32, of the train pixels, scaled in the same way.
        failures: a dict from each split to a list of [path, reason]: images that are left out because they cannot be
            decoded.
        left_out: a dict from the path of each left-out image to its `data.identity.Sums`, or None if the file cannot
            be read.
        copies: images that are in two splits, see `data.identity.copies`.

    Raises:
        DamagedCache: the directory is damaged.
        UserError: the directory cannot be read.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        try:
            meta = read_json(self.folder / "meta.json")
            if meta["meta_crc32"] != meta_checksum(meta):
                raise ValueError("meta.json was changed")
            self.name, self.digest, self.size = meta["name"], meta["digest"], meta["size"]
            self.images_digest, self.stamp = meta["images_digest"], meta["stamp"]
            self.class_names, self.num_classes = meta["class_names"], len(meta["class_names"])
            self.mean, self.std = np.array(meta["mean"], np.float32), np.array(meta["std"], np.float32)
            self.covariance = np.array(meta["covariance"], np.float32)
            self.channels, self.kind = Channels(meta["channels"]), np.dtype(meta["kind"])
            self.channel_names = self.channels.names
            self.failures, self.copies = meta["failures"], meta["copies"]
            self.left_out = {path: sums and tuple(sums) for path, sums in meta["left_out"].items()}
            for name, expected in meta["crc32"].items():
                if checksum(self.folder / name) != expected:
                    raise ValueError(f"{name} was changed")
            # mapped now: if the cache is replaced later, the old and the new files are not mixed
            self._splits = {name: self._map(name, count) for name, count in meta["images"].items()}
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
                f"cannot read the cache {self.folder}: {error}; remove the cause, or choose another folder with --cache"
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
        workers: number of threads (default: one per core).
        max_failed_share: share of a split that may fail to decode, in 0..1. This limit also applies to an existing
            cache.
        progress: whether to show a progress bar.

    Raises:
        UserError: the disk is full, or too many images fail to decode.
    """
    key = hashlib.sha256(repr((lists.digest, size, FORMAT)).encode()).hexdigest()[:12]
    target = Path(folder or ROOT / "data" / "cache") / f"{lists.name}-{size}px-{key}"
    with writing(f"the cache {target} (--cache names another folder)"):
        while isinstance(found := _look_at(target, lists), str):
            with making(target, replace=True) as temporary:
                # look again: another process may have built the cache while this process waited
                if _look_at(target, lists) == found:
                    if found:
                        note(f"{found} -- building it again")
                    _build(
                        lists, size, temporary, workers or len(allowed_cores()), max_failed_share, progress
                    )
    for key, failed in found.failures.items():
        _check_failures(key, failed, len(lists.splits[key].paths), max_failed_share)
        if failed:
            note(
                f"warning: {len(failed)} {key} images cannot be decoded and are left out: {_named(failed[:5])}"
            )
    if found.copies:
        note(
            f"warning: {len(found.copies)} images are in two splits under different names, which spoils the test: "
            f"{'; '.join(found.copies[:5])}; remove one of each pair from the lists"
        )
    return found


def _look_at(target: Path, lists: ImageLists) -> PixelCache | str:
    """Open the cache `target` if it is of these pictures. Otherwise return why it is not used; "" if there is none."""
    if not target.exists():
        return ""
    try:
        cache = PixelCache(target)
    except DamagedCache as error:
        return str(error)
    # the files are read, since a zip may list the right checksum for a damaged member
    mended = any(identity.read_sums(lists, path) != sums for path, sums in cache.left_out.items())
    if mended or cache.stamp != identity.stamp(lists):
        return (
            f"the cache {target} is outdated: pictures of the data set changed, or it is of another data set"
        )
    return cache


def _build(lists, size, folder, workers, max_failed_share, progress) -> None:
    """Fill the empty `folder` with a cache."""
    channels, stamp = len(lists.channels), identity.stamp(lists)  # before any picture is read
    kind = first_kind(lists)
    stored = stored_kind(kind)
    need = len(lists.paths) * size * size * channels * np.dtype(stored).itemsize
    free = shutil.disk_usage(folder.parent).free
    if need > free:
        raise UserError(
            f"the cache needs {need / 1e9:.2f} GB in {folder.parent}, where {free / 1e9:.2f} "
            f"GB are free; free disk space or use a smaller image size"
        )

    def load(path: str) -> tuple[np.ndarray | None, str, identity.Sums | None]:
        """Return the pixels, or why there are none; and the sums of the file, or None if it cannot be read."""
        sums = None
        try:
            data = lists.read(path)
            sums = identity.sums(data)
            return decode(data, size, channels, kind, lists.has_bands), "", sums
        except Exception as error:  # Pillow raises many types for damaged files; all are reported
            return None, reason(error), sums

    counts, failures, pictures, left_out = {}, {}, {}, {}
    with (
        ThreadPoolExecutor(workers) as pool,  # threads, since Pillow decodes without the interpreter's lock
        progress_bar(
            total=len(lists.paths), desc=f"decoding to {size} px", unit=" images", disable=not progress
        ) as bar,
    ):
        for key, split in lists.splits.items():
            lines, failures[key] = [], []
            with open(folder / f"{key}.raw", "wb") as file:
                results = _in_order(pool, load, split.paths)
                for path, label, (image, why, sums) in zip(split.paths, split.labels, results):
                    if image is None:
                        failures[key].append([path, why])
                        left_out[path] = sums
                    else:
                        file.write(image.tobytes())
                        pictures[path] = sums
                        lines.append(f"{path} {label}\n")
                    bar.update()
            _check_failures(key, failures[key], len(split.paths), max_failed_share)
            if not lines:
                raise UserError(f"no {key} image can be decoded; get the data set again")
            write_text(folder / f"{key}.txt", "".join(lines))
            counts[key] = len(lines)
        shape = (counts["train"], size, size, channels)
        mean, covariance = statistics(np.memmap(folder / "train.raw", stored, "r", shape=shape), pool)
    unit = pixel_unit(stored)
    meta = {
        "name": lists.name,
        "digest": lists.digest,
        "images_digest": identity.digest_of(pictures),
        "stamp": stamp,
        "size": size,
        "format": FORMAT,
        "images": counts,
        "channels": lists.channels.as_dict(),
        "kind": stored,
        "mean": (mean / unit).tolist(),
        "std": np.sqrt(np.maximum(np.diag(covariance), 0) / unit**2).tolist(),
        "covariance": (covariance / unit**2).tolist(),
        "failures": failures,
        "class_names": lists.class_names,
        "copies": identity.copies(lists, pictures),
        "left_out": left_out,
        "crc32": {path.name: checksum(path) for path in sorted(folder.iterdir())},
    }
    write_json(folder / "meta.json", {**meta, "meta_crc32": meta_checksum(meta)})


def _in_order(pool: ThreadPoolExecutor, function: Callable, items: list) -> Iterator:
    """Yield the result of the function for each item, in order. At most `CHUNK` results wait in memory."""
    for start in range(0, len(items), CHUNK):
        yield from pool.map(function, items[start : start + CHUNK])


def first_kind(lists: ImageLists) -> str:
    """Return the `data.decode.pixel_kind` of the first train image that can be decoded.

    If the first images all fail, return the kind of the first one that has a kind, else "uint8".
    """
    kinds = []
    for path in lists.splits["train"].paths[:64]:
        try:
            data = lists.read(path)
            kinds.append(pixel_kind(data, len(lists.channels), lists.has_bands))
            decode(data, 8, len(lists.channels), kinds[-1], lists.has_bands)
            return kinds[-1]
        except Exception:  # reported later, when all images are decoded
            continue
    return kinds[0] if kinds else "uint8"


def statistics(images: np.ndarray, pool: ThreadPoolExecutor) -> tuple[np.ndarray, np.ndarray]:
    """Return mean (C,) and covariance (C, C), float64, of the pixels of images (N, H, W, C)."""
    # floats keep more digits near zero; the sums of whole numbers are exact without an origin
    origin = images[0].mean((0, 1), np.float64) if images.dtype == np.float32 else 0.0
    blocks = (images[row : row + CHUNK] for row in range(0, len(images), CHUNK))
    sums, products = map(sum, zip(*pool.map(lambda block: moments(block, origin), blocks)))
    pixels = images[..., 0].size
    mean = sums / pixels
    return mean + origin, products / pixels - np.outer(mean, mean)


def moments(images: np.ndarray, origin: np.ndarray | float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Return sums (C,) and sums of products (C, C) over the pixels of images (N, H, W, C), float64.

    For 8 and 16 bits they are exact integers.

    Args:
        origin: C values that are subtracted from the pixels first, so that large floats lose no digits.
    """
    sums = products = np.zeros(())
    for image in images:  # one at a time, since one image fits into the processor's cache
        pixels = image.reshape(-1, image.shape[2]).T
        planes = np.subtract(pixels, np.reshape(origin, (-1, 1)), dtype=np.float64, order="C")
        sums, products = sums + planes.sum(1), products + planes @ planes.T
    return sums, products


def _named(failed: list) -> str:
    """Name images that cannot be decoded; failed: list of [path, reason]."""
    return "; ".join(f"{path} ({reason})" for path, reason in failed)


def _check_failures(key: str, failed: list, count: int, max_failed_share: float) -> None:
    """Raise a UserError if too many of the `count` images of split `key` failed; failed: see `_named`."""
    if len(failed) > max_failed_share * count:
        share = min(1.0, 1.1 * len(failed) / count)
        leave_out = f", or allow more with --max-failed {share:.2g}" if len(failed) < count else ""
        raise UserError(
            f"{len(failed)} of {count} {key} images cannot be decoded (limit {max_failed_share:.1%}): "
            f"{_named(failed[:3])}. Replace them{leave_out}"
        )
