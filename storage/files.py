"""Write files whole or not at all, and read them with errors that name the file."""

from __future__ import annotations

import errno
import json
import os
import secrets
import tempfile
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from utils import UserError, remedy

PARTIAL = ".partial"  # end of the name of a file that is still being written


@contextmanager
def writing(what: str, errors: type[Exception] | tuple[type[Exception], ...] = OSError):
    """Turn `errors` in a `with` block that writes `what` into a `UserError` with the reason and a remedy."""
    try:
        yield
    except errors as error:
        raise UserError(f"cannot write {what}: {error}; {remedy(getattr(error, 'errno', None))}") from error


def check_writable(folder: Path) -> None:
    """Check that files can be written into a folder, or that the folder can be made. Leave nothing behind.

    Raises:
        UserError: files cannot be written there.
    """
    existing = folder.absolute()
    with writing(f"to {folder}"):
        while not existing.exists():
            existing = existing.parent
        with tempfile.TemporaryFile(dir=existing):
            pass


def check_replaceable(path: Path) -> None:
    """Check that `path` is a file or that nothing is there.

    Raises:
        UserError: `path` is a folder, a device or a pipe, such as /dev/stdout. A file must not replace these.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"cannot write {path}: it is a folder, a device or a pipe; name a file")


def home_path(path: str | Path) -> Path:
    """Return the path with a leading "~" or "~USER" replaced by the home folder of an existing user."""
    return Path(os.path.expanduser(path))  # Path.expanduser raises RuntimeError for an unknown user


@contextmanager
def atomic_path(path: str | Path):
    """Yield a temporary path beside `path`. After a `with` block without an error, the file there replaces `path`.

    A reader never sees half a file. The new bytes are on the disk before the file is renamed. So after a power cut
    there is either the old file or the new file.

    If `path` is a link, it stays a link, and the file that it leads to is replaced.

    Raises:
        UserError: the disk is full, the folder cannot be written, or `path` is a folder, a device or a pipe, such as
            /dev/stdout. The old file is unchanged.
    """
    path = Path(path)
    path = Path(os.path.realpath(path)) if path.is_symlink() else path
    check_replaceable(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PARTIAL}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        open(temporary, "xb").close()  # this gives the rights of the user's umask
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as RuntimeError
        why = "" if isinstance(error, OSError) else f"{os.strerror(errno.ENOSPC)}? PyTorch only says: "
        advice = remedy(getattr(error, "errno", errno.ENOSPC))
        raise UserError(
            f"cannot write {path}: {why}{error}; {advice}. An older file there is unchanged."
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file's bytes, or the names in a folder, are on the disk."""
    # some systems cannot open a folder or wait for it
    with suppress(OSError) if path.is_dir() else nullcontext():
        handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` atomically as UTF-8 with Unix line ends; raise the errors of `atomic_path`."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: str | Path, value) -> None:
    """Write `value` atomically as indented JSON."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def parse_json(text: str | bytes):
    """Return the value that JSON text holds.

    Raises:
        ValueError: the text is not JSON, or its brackets are nested too deeply for Python to read.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("its brackets are nested too deeply") from None


def read_json(path: str | Path):
    """Return the value that a JSON file holds.

    Raises:
        ValueError: see `parse_json`; or the file is not UTF-8.
        OSError: the file cannot be read.
    """
    return parse_json(Path(path).read_bytes())


def append_jsonl(path: str | Path, record: dict) -> None:
    """Append one JSON line and flush it to the file."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
