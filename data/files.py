"""Read one file of a folder or a zip: a regular file, no larger than allowed.

Imports no torch, so a decoding process starts in a moment.
"""

from __future__ import annotations

import os
import stat
import zipfile

# bytes, packed and unpacked
LARGEST_LIST = 1 << 27  # over two million lines
LARGEST_BANDS = 1 << 20
LARGEST_IMAGE = 1 << 30


def read_file(path: str | os.PathLike, largest: int) -> bytes:
    """Read a whole file; links are followed.

    Args:
        path: of the file.
        largest: number of bytes that it may have.

    Raises:
        ValueError: it is a pipe, a device or the like, or too large. OSError: it cannot be read.
    """
    # a pipe without a writer would keep a plain open() waiting for ever
    with open(
        path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))
    ) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("a pipe, a device or the like, not a regular file")
        check_bytes(status.st_size, largest)
        return file.read(status.st_size)


def read_member(archive: zipfile.ZipFile, name: str, largest: int) -> bytes:
    """Read a whole member of a zip.

    Args:
        archive: an open zip.
        name: of the member.
        largest: number of unpacked bytes that it may have.

    Raises:
        ValueError: it is too large, or packed in a way whose unpacked size cannot be limited.
        KeyError, RuntimeError, OSError, zipfile.BadZipFile: it cannot be read.
    """
    info = archive.getinfo(name)
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError("packed with another method than deflate; pack the zip again")
    check_bytes(info.file_size, largest)
    with archive.open(info) as file:
        return file.read(info.file_size)  # not read(): a member may hold more than the zip says


def check_bytes(count: int, largest: int) -> None:
    """
    Raises:
        ValueError: `count` bytes are more than `largest`.
    """
    if count > largest:
        raise ValueError(f"{count:,} bytes, more than the {largest:,} that are allowed")
