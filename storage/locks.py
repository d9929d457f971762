"""Lock folders and files, so that two processes never write the same file."""

from __future__ import annotations

import errno
import os
import platform
import shutil
import tempfile
import time
import types
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from storage.files import writing
from utils import BusyError, note, printable

NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}


def hold(folder: Path) -> FileLock:
    """Lock a folder until this process ends or the lock is released.

    Raises:
        BusyError: another process has locked it; the message names that process.
    """
    holder = folder / ".holder"
    with writing(f"to {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = acquire(folder / ".lock", timeout=0)
        except Timeout:
            user = "another process"
            with suppress(OSError):  # there is no such file, or it belongs to another user
                user = printable(holder.read_text(encoding="utf-8", errors="replace"))[:200]
            raise BusyError(
                f"{folder} is in use by {user}: wait until it ends, or choose another folder"
            ) from None
        text = f"process {os.getpid()} on {platform.node()} since {time.strftime('%F %T')}"
        try:
            holder.write_text(text, encoding="utf-8")
        except OSError:
            lock.release()
            raise
    return lock


def acquire(path: Path, timeout: float = -1):
    """Lock a file and return the lock; its method `release()` unlocks the file.

    Wait for the lock, but at most `timeout` seconds (-1: without limit).

    Some network file systems have no locks. Then print a warning and lock nothing.

    Raises:
        Timeout: another process still has the lock.
        OSError: the folder cannot be written.
    """
    try:
        import fcntl

        # where there are no locks, FileLock would wait for ever or report a wrong reason
        with tempfile.TemporaryFile(dir=path.parent) as probe:
            fcntl.flock(probe, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:  # Windows, where FileLock uses other locks
        pass
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        note(
            f"warning: the file system of {path.parent} has no locks: make sure that only one process works there"
        )
        return types.SimpleNamespace(release=lambda: None)
    lock = FileLock(path)
    lock.acquire(timeout=timeout)
    return lock


@contextmanager
def one_at_a_time(folder: Path):
    """Lock `folder` inside a `with` block; other processes that want the lock wait.

    Raises:
        UserError: the folder cannot be written.
    """
    with writing(f"to {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        lock = _wait_for(folder / ".lock", f"another process writes into {folder}", 5)
    try:
        yield
    finally:
        lock.release()


def _wait_for(file: Path, why: str, patience: float) -> FileLock:
    """Lock `file`. After `patience` seconds of waiting, print `why`."""
    try:
        return acquire(file, timeout=patience)
    except Timeout:
        note(f"{why}: waiting for it")
        return acquire(file)


@contextmanager
def making(path: Path, replace: bool = False):
    """Yield an empty folder. At the end rename it to `path`, unless it is still empty.

    So an interrupted process never leaves a folder that looks finished. A second process that makes the same `path`
    waits. The folder lies in .NAME.making beside `path`. The next call removes the files that a killed process left
    there.

    Args:
        path: the folder to make.
        replace: whether to replace an existing folder; otherwise it must be empty.

    Raises:
        OSError: the parent folder cannot be written, or `path` exists and is not empty.
    """
    room = path.parent / f".{path.name}.making"
    lock, new, old = _lock_room(room, path), room / "new", room / "old"
    try:
        for left in (new, old):
            shutil.rmtree(left, ignore_errors=True)
        new.mkdir()
        yield new
        if any(new.iterdir()):
            if path.exists():
                os.replace(path, old) if replace else path.rmdir()
            os.replace(new, path)
    finally:
        for left in (new, old):
            shutil.rmtree(left, ignore_errors=True)
        with suppress(OSError):  # a user put files there, or Windows does not remove open files
            (room / "unfinished.lock").unlink()
            room.rmdir()
        lock.release()


def _lock_room(room: Path, path: Path) -> FileLock:
    """Make the folder `room`, in which `making` builds `path`, and return a lock on it.

    Raises:
        OSError: the folder cannot be written.
    """
    file = room / "unfinished.lock"
    while True:
        room.mkdir(parents=True, exist_ok=True)
        try:
            file.touch()
            before = file.stat()
            lock = _wait_for(file, f"another process makes {path}", 0)
        except FileNotFoundError:  # the process that had the lock has just removed the file
            continue
        with suppress(OSError):
            if os.path.samestat(before, file.stat()):
                return lock
        lock.release()  # the locked file was removed, so the lock stops nobody
