"""Identify the pictures of a data set by sizes and checksums of their files, and notice quickly if they change.

A zip lists the size and CRC-32 of each member, and zipfile checks them when it reads the member. In a folder, sizes
and times are compared first. If a time has changed, as after a copy, all files are read and their checksums compared.
The argument `lists` is the result of `data.lists.read_lists`.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import zipfile
from collections.abc import Hashable, Mapping
from concurrent.futures import ThreadPoolExecutor

from data.decode import ImageReader
from data.workers import cores
from utils import progress_bar

LISTS_ONLY = "lists only"  # stands for a digest if an earlier version did not look at the pictures

Sums = dict[str, list[int] | None]  # from each listed path to [bytes, CRC-32], or None if it cannot be read


def stamp(lists) -> str:
    """Return a digest that changes when a picture changes. No picture is read.

    It is made from sizes and CRC-32 in a zip, or from sizes and modification times in a folder. So it stays the
    same if a zip is copied or a folder is moved.
    """
    paths = lists.paths
    entries = list(_members(lists).values()) if lists.source.is_file() else _stats(lists, paths)
    return hashlib.sha256(repr(list(zip(paths, entries))).encode("utf-8", "surrogateescape")).hexdigest()


def sums_of(lists, progress: bool = True) -> Sums:
    """Return size and checksum of every picture. A zip lists them; in a folder, every file is read."""
    if lists.source.is_file():
        return _members(lists)
    reader, paths = ImageReader(lists), lists.paths
    with ThreadPoolExecutor(cores()) as pool:
        sums = pool.map(reader.sums, paths)
        bar = progress_bar(
            sums, total=len(paths), desc="comparing pictures", unit=" images", disable=not progress
        )
        return dict(zip(paths, bar))


def sizes_of(lists) -> dict[str, int | None]:
    """Return the number of bytes of every picture. No picture is read."""
    if lists.source.is_file():
        return {path: sums and sums[0] for path, sums in _members(lists).items()}
    paths = lists.paths
    return {path: status and status[0] for path, status in zip(paths, _stats(lists, paths))}


def as_text(sums: Mapping[str, object]) -> str:
    """Return the sums as a text that does not depend on their order."""
    return json.dumps(sums, sort_keys=True)


def digest_of(text: str) -> str:
    """Return the digest of the pictures for checkpoints and records; text: from `as_text`."""
    return hashlib.sha256(text.encode()).hexdigest()


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
        print(
            f"{what} is from an earlier version: {LISTS_ONLY}; nothing can check whether the pictures are the same",
            file=sys.stderr,
        )
    elif images != cache.images_digest:
        return (
            f"the lists are the same, but its pictures ({images[:12]}) are not the pictures of {cache.name!r} "
            f"({cache.images_digest[:12]})"
        )
    return ""


def _stats(lists, paths: list[str]) -> list[tuple[int, int, int] | None]:
    """Return size, time of the last write and time of the last change of each file, or None if it is missing."""

    def look(path: str) -> tuple[int, int, int] | None:
        try:
            status = os.stat(root + path)
        except OSError:
            return None
        return status.st_size, status.st_mtime_ns, status.st_ctime_ns

    root = os.path.join(lists.source, lists.prefix)
    return [look(path) for path in paths]


def _members(lists) -> Sums:
    """Return the sizes and checksums that the zip lists."""
    with zipfile.ZipFile(lists.source) as archive:
        members = archive.NameToInfo
    infos = ((path, members.get(lists.prefix + path)) for path in lists.paths)
    return {path: info and [info.file_size, info.CRC] for path, info in infos}
