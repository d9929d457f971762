"""Read files and list names in a folder and in a zip in the same way.

A look-up of 63,000 names is fast, since each folder is listed only once.
"""

from __future__ import annotations

import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from data.files import read_file, read_member
from utils import UserError

# errors of zipfile for archives that are damaged, encrypted or packed with an unknown method
BROKEN = (zipfile.BadZipFile, OSError, RuntimeError, ValueError, EOFError, KeyError, zlib.error, struct.error)
PASSED_OVER = {"__MACOSX", "__pycache__", "demo", "cache"}  # names of folders that are not searched


def is_searched(parts: Iterable[str]) -> bool:
    """Check whether a path is searched: no part of it is hidden or in `PASSED_OVER`."""
    return not any(part in PASSED_OVER or part.startswith(".") for part in parts)


def _roots(folders: Iterable[Sequence[str]]) -> list[str]:
    """Return the names of the folders of the highest level among `folders`, at most two levels down."""
    folders = [folder for folder in folders if len(folder) <= 2 and is_searched(folder)]
    least = min(map(len, folders), default=0)
    return sorted("".join(f"{part}/" for part in folder) for folder in folders if len(folder) == least)


class FolderSource:
    """Read the files below a folder. Names have "/" between their parts, and "../" means the folder above."""

    def __init__(self, path: Path):
        self.path, self._listed = path, {}

    def __contains__(self, name: str) -> bool:
        folder, _, file = name.rpartition("/")
        if folder not in self._listed:
            try:
                self._listed[folder] = set(os.listdir(self.path / folder))
            except (FileNotFoundError, NotADirectoryError):
                self._listed[folder] = set()
        return file in self._listed[folder]

    def read(self, name: str, largest: int) -> bytes:
        """Read a whole file of at most `largest` bytes; raise an error of `BROKEN` if that is not possible."""
        return read_file(self.path / name, largest)

    def facts(self, name: str) -> tuple[int, int, int] | None:
        """Return size, time of the last write and time of the last change of a file, or None if it is missing."""
        try:
            status = os.stat(os.path.join(self.path, name))
        except OSError:
            return None
        return status.st_size, status.st_mtime_ns, status.st_ctime_ns

    def list_roots(self) -> list[str]:
        """Return the names of the folders with a train.txt. A name ends in "/"; the data set's own folder is "".

        The search goes two levels down. It stops at the first level that has a train.txt.
        """
        files = (file for depth in ("", "*/", "*/*/") for file in self.path.glob(f"{depth}train.txt"))
        return _roots(file.relative_to(self.path).parent.parts for file in files)

    def walk(self) -> list[str]:
        """Return the names of all files at any depth, except in folders that are not searched."""
        files = (file for file in self.path.rglob("*") if file.is_file())
        parts = (file.relative_to(self.path).parts for file in files)
        return ["/".join(names) for names in parts if is_searched(names)]

    def top(self) -> list[str]:
        """Return the names of the first level, sorted."""
        return sorted(os.listdir(self.path))


class ZipSource:
    """Read the files in a zip archive. Their names are the names of its members."""

    def __init__(self, path: Path):
        try:
            self._archive, self._process = zipfile.ZipFile(path), os.getpid()
        except BROKEN as error:
            if re.search(r"\.(tar|tgz|tbz2|txz)\b", path.name):
                raise UserError(
                    f"{path} is a tar archive, which cannot be read image by image: unpack it and name "
                    f"the folder"
                ) from error
            if path.suffix.lower() != ".zip":  # perhaps a picture or a list, which the user must not delete
                raise UserError(
                    f"{path} is neither a folder nor a zip ({error}): name a folder or a zip"
                ) from error
            raise UserError(
                f"{path} is not a readable zip ({error}): it is truncated or damaged; "
                "delete it, and download or copy it again"
            ) from error
        self.path, self.names = path, set(self._archive.namelist())

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def read(self, name: str, largest: int) -> bytes:
        """Read a whole file, see `FolderSource.read`."""
        if self._process != os.getpid():  # a forked process must not share its parent's file position
            self._archive, self._process = zipfile.ZipFile(self.path), os.getpid()
        return read_member(self._archive, name, largest)

    def facts(self, name: str) -> tuple[int, int] | None:
        """Return size and CRC-32 of a member as the zip lists them, or None if it is missing."""
        info = self._archive.NameToInfo.get(name)
        return info and (info.file_size, info.CRC)

    def list_roots(self) -> list[str]:
        """Return the folders with a train.txt, see `FolderSource.list_roots`."""
        parts = (tuple(name.split("/")) for name in self.names)
        return _roots(folder for *folder, file in parts if file == "train.txt")

    def walk(self) -> list[str]:
        """Return the names of all files, see `FolderSource.walk`."""
        return [name for name in self.names if not name.endswith("/") and is_searched(name.split("/"))]

    def top(self) -> list[str]:
        """Return the names of the first level, see `FolderSource.top`."""
        return sorted({name.split("/")[0] for name in self.names})


def open_source(path: Path) -> FolderSource | ZipSource:
    """Open the folder or zip at `path`.

    Raises:
        UserError: `path` does not exist, or is neither a folder nor a zip.
    """
    if path.is_dir():
        return FolderSource(path)
    if not path.exists():
        raise UserError(f"no folder or zip at {path}; check the path")
    if not path.is_file():
        raise UserError(
            f"{path} is not a regular file, but a pipe, a device or similar; name a folder or a zip"
        )
    return ZipSource(path)
