"""Identify the pictures of a data set by sizes and checksums of their files, and notice quickly if they change.

A zip lists the size and CRC-32 of each member, and zipfile checks them when it reads the member. In a folder, sizes
and times tell whether a picture may have changed.
The argument `lists` is the result of `data.lists.read_lists`.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Hashable, Mapping
from concurrent.futures import ThreadPoolExecutor

from data.source import BROKEN, ZipSource
from utils import allowed_cores, note, progress_bar

LISTS_ONLY = "lists only"  # stands for a digest if an earlier version did not look at the pictures

Sums = tuple[int, int]  # number of bytes and CRC-32 of a file


def stamp(lists) -> str:
    """Return a digest that changes when a picture changes. No picture is read.

    It is made from sizes and CRC-32 in a zip, or from sizes and modification times in a folder. So it stays the
    same if a zip is copied or a folder is moved.
    """
    entries = [(path, lists.facts(path)) for path in lists.paths]
    return hashlib.sha256(repr(entries).encode("utf-8", "surrogateescape")).hexdigest()


def sums_of(lists, progress: bool = True) -> dict[str, Sums | None]:
    """Return a dict from each listed path to size and checksum of its file, or to None if it cannot be read.

    A zip lists them; in a folder, every file is read.
    """
    paths = lists.paths
    if isinstance(lists.tree, ZipSource):
        return {path: lists.facts(path) for path in paths}
    with ThreadPoolExecutor(len(allowed_cores())) as pool:
        found = pool.map(lambda path: read_sums(lists, path), paths)
        bar = progress_bar(
            found, total=len(paths), desc="comparing pictures", unit=" images", disable=not progress
        )
        return dict(zip(paths, bar))


def read_sums(lists, path: str) -> Sums | None:
    """Read a picture; return its sums, or None if it cannot be read."""
    try:
        return sums(lists.read(path))
    except BROKEN:
        return None


def sums(data: bytes) -> Sums:
    """Return the number of bytes and the CRC-32 of a file's content."""
    return len(data), zlib.crc32(data)


def digest_of(sums: Mapping[str, object]) -> str:
    """Return the digest of the pictures for checkpoints and records; it does not depend on the order of `sums`."""
    return hashlib.sha256(json.dumps(sums, sort_keys=True).encode()).hexdigest()


def copies(lists, content: Mapping[str, Hashable], within: bool = False) -> list[str]:
    """List the images that are in two splits under different names, each as "test a.JPEG = train b.JPEG".

    Args:
        content: a dict from each path to a value that is equal for equal files; images without a value are left out.
        within: whether to list images that are twice in one split instead.
    """
    first: dict[Hashable, tuple[str, str]] = {}  # from a value to split and path of its first image
    pairs = []
    for split, part in lists.splits.items():
        for path in part.paths:
            if content.get(path) is not None:
                key = (content[path], split if within else "")
                where, other = first.setdefault(key, (split, path))
                if path != other if within else where != split:
                    pairs.append(f"{split} {path} = {where} {other}")
    return pairs


def difference(cache, trained: Mapping, what: str) -> str:
    """Say how the data of `cache` differ from the training data; return "" if they are the same.

    An earlier version kept only the digest of the lists. Then a line on stderr says that the pictures are not compared.

    Args:
        cache: an open `PixelCache`.
        trained: the part of a checkpoint with "digest" and, unless it is old, "images_digest".
        what: name of the checkpoint for the message.
    """
    if trained["digest"] != cache.digest:
        return (
            f"its lists ({trained['digest'][:12]}) are not the lists of {cache.name!r} ({cache.digest[:12]})"
        )
    images = trained.get("images_digest") or LISTS_ONLY
    if images == LISTS_ONLY:
        note(
            f"{what} is from an earlier version: {LISTS_ONLY}; nothing can check whether the pictures are the same"
        )
    elif images != cache.images_digest:
        return (
            f"the lists are the same, but its pictures ({images[:12]}) are not the pictures of {cache.name!r} "
            f"({cache.images_digest[:12]})"
        )
    return ""
