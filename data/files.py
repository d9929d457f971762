"""Read a file of a folder or a zip, if it is a regular file and not too large."""

from __future__ import annotations

import os
import stat
import zipfile

# largest sizes in bytes, both packed and unpacked
LARGEST_LIST = 1 << 27  # over two million lines
LARGEST_IMAGE = 1 << 30


def read_file(path: str | os.PathLike, largest: int) -> bytes:
    """Read a whole file. Links are followed.

    Args:
        path: the file.
        largest: largest number of bytes allowed.

    Raises:
        ValueError: the file is too large, or not a regular file, such as a pipe or a device.
        OSError: the file cannot be read.
    """
    # before the file is opened, since opening a pipe that nobody writes to would wait for ever
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("not a regular file, but a pipe, a device or similar")
    check_bytes(status.st_size, largest)
    with open(path, "rb") as file:
        return file.read(status.st_size)


def read_member(archive: zipfile.ZipFile, name: str, largest: int) -> bytes:
    """Read a whole member of a zip.

    Args:
        archive: an open zip.
        name: name of the member.
        largest: largest number of unpacked bytes allowed.

    Raises:
        ValueError: the member is too large; or it is packed with a method other than deflate, whose unpacked size
            cannot be limited.
        KeyError, RuntimeError, OSError, zipfile.BadZipFile: the member cannot be read.
    """
    info = archive.getinfo(name)
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError("packed with another method than deflate; pack the zip again")
    check_bytes(info.file_size, largest)
    with archive.open(info) as file:
        return file.read(info.file_size)  # with a limit, since a member may hold more than the zip says


def check_bytes(count: int, largest: int) -> None:
    """Check that a file of `count` bytes is not too large.

    Raises:
        ValueError: `count` bytes are more than `largest`.
    """
    if count > largest:
        raise ValueError(f"{count:,} bytes, more than the {largest:,} that are allowed")
