"""Which pictures a data set holds: sizes and checksums of the image files, and a quick look whether they changed.

A zip lists the sizes and CRC-32 of its members, which zipfile compares whenever it reads one. Of a folder, sizes
and times are looked at; where these are new, as after a copy, every file is read and its checksum compared.
`lists` are those of `data.lists.read_lists`.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import zipfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from data.decode import ImageReader
from data.workers import cores
from utils import progress_bar

LISTS_ONLY = "lists only"  # in place of a digest, where an earlier version did not look at the pictures

Sums = dict[str, list[int] | None]  # path as listed -> [bytes, CRC-32], None where it cannot be read


def listed_paths(lists) -> list[str]:
    """Every path of the three lists."""
    return [path for split in lists.splits.values() for path in split.paths]


def stamp(lists) -> str:
    """A digest that changes when a picture does, without reading one: of sizes and CRC-32 in a zip, of sizes and
    times in a folder. It stays when a zip is copied or a folder is moved.
    """
    paths = listed_paths(lists)
    entries = list(_members(lists).values()) if lists.source.is_file() else _stats(lists, paths)
    return hashlib.sha256(repr(list(zip(paths, entries))).encode("utf-8", "surrogateescape")).hexdigest()


def sums_of(lists, progress: bool = True) -> Sums:
    """Size and checksum of every picture: from a zip's list of members, else by reading every file."""
    if lists.source.is_file():
        return _members(lists)
    reader, paths = ImageReader(lists), listed_paths(lists)
    with ThreadPoolExecutor(cores()) as pool:
        sums = pool.map(reader.sums, paths)
        bar = progress_bar(
            sums, total=len(paths), desc="comparing pictures", unit=" images", disable=not progress
        )
        return dict(zip(paths, bar))


def sizes_of(lists) -> dict[str, int | None]:
    """Bytes of every picture, without reading one."""
    if lists.source.is_file():
        return {path: sums and sums[0] for path, sums in _members(lists).items()}
    paths = listed_paths(lists)
    return {path: status and status[0] for path, status in zip(paths, _stats(lists, paths))}


def last_change(lists) -> int:
    """When a file of the pictures was last written, copied or renamed, ns since 1970."""
    if lists.source.is_file():
        return os.stat(lists.source).st_ctime_ns
    return max(status[2] if status else sys.maxsize for status in _stats(lists, listed_paths(lists)))


def as_text(sums: Sums) -> str:
    """The one text of these sums, whatever their order."""
    return json.dumps(sums, sort_keys=True)


def digest_of(text: str) -> str:
    """What stands for the pictures in checkpoints and records; text: of `as_text`."""
    return hashlib.sha256(text.encode()).hexdigest()


def difference(cache, trained: Mapping, what: str) -> str:
    """What tells the data of `cache` from those that something was trained on: "" where nothing does.

    Says on stderr where an earlier version kept the digest of the lists alone.

    Args:
        cache: an open `PixelCache`.
        trained: a part of a checkpoint, with "digest" and, unless it is old, "images_digest".
        what: whose data `trained` are, for the message.
    """
    if trained["digest"] != cache.digest:
        return f"its lists ({trained['digest'][:12]}) are not those of {cache.name!r} ({cache.digest[:12]})"
    known = trained.get("images_digest") or LISTS_ONLY
    if known == LISTS_ONLY:
        print(
            f"{what} is of an earlier version: {LISTS_ONLY}; whether the pictures are the same is not known",
            file=sys.stderr,
        )
    elif known != cache.images_digest:
        return (
            f"the lists are the same, but its pictures ({known[:12]}) are not those of {cache.name!r} "
            f"({cache.images_digest[:12]})"
        )
    return ""


def _stats(lists, paths: list[str]) -> list[tuple[int, int, int] | None]:
    """Size, time of the last writing and time of the last change of each file, None where there is none."""

    def look(path: str) -> tuple[int, int, int] | None:
        try:
            status = os.stat(root + path)
        except OSError:
            return None
        return status.st_size, status.st_mtime_ns, status.st_ctime_ns

    root = os.path.join(lists.source, lists.prefix)
    return [look(path) for path in paths]


def _members(lists) -> Sums:
    """Sizes and checksums as the zip lists them."""
    with zipfile.ZipFile(lists.source) as archive:
        members = archive.NameToInfo
    infos = ((path, members.get(lists.member(path))) for path in listed_paths(lists))
    return {path: info and [info.file_size, info.CRC] for path, info in infos}
