"""The parts that all scripts share: the command line, safe files and provenance."""

from __future__ import annotations

import argparse
import copy
import dataclasses
import difflib
import errno
import hashlib
import json
import math
import operator
import os
import platform
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import types
import typing
import zipfile
from collections.abc import Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent
LIMITS = {  # kind of a limit -> its words in a message, and its test
    "least": ("at least", operator.ge),
    "above": ("above", operator.gt),
    "most": ("at most", operator.le),
    "below": ("below", operator.lt),
}
FORMULA = ("=", "+", "-", "@")  # a spreadsheet takes a text with such a first letter for a formula
BUSY = 75  # exit status: another process uses the files that this process needs, so try again later
LOG_EVERY = 60  # seconds between two lines of a progress bar in a log file
# words of the messages of torch, CUDA, cuDNN and C++ about too little memory
NO_MEMORY = r"out of memory|allocate memory|not enough memory|ALLOC_FAILED|bad_alloc|unable to find an engine"
SMALLER = ("--batch-size", "--width", "--image-size", "--workers", "--jobs")  # options that save memory
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}
ROOM_LOCK = "unfinished.lock"  # marks a work folder that `making` created
PARTIAL = ".partial"  # end of the name of a file that is still being written
ENDS_WITH_STDIN = (
    "ENDS_WITH_STDIN"  # if this environment variable is set, the script stops when its stdin closes
)

CONTENT = {  # kind of a checkpoint -> its required entries and their types
    "training-state": {
        "config": dict[str, object],
        "digest": str,
        "environment": dict[str, str | int],
        "world": int,
        "step": int,
        "seconds": float,
        "loss_sum": float,
        "model": dict,
        "ema": dict,
        "optimizer": dict,
        "torch_rng": torch.Tensor,
    },
    "model": {
        "config": dict[str, object],
        "dataset": dict[str, object],
        "environment": dict[str, str | int],
        "train_s": float,
        "state": dict[str, torch.Tensor],
    },
}
TRAINED_WITH = {  # options that "config" of every checkpoint must hold
    "name": str,
    "preset": str,
    "seed": int,
    "image_size": int,
    "epochs": int,
    "width": float,
}
MAY_HOLD = {  # entries of a checkpoint, or of its "dataset", that only some versions wrote
    "digest": str,
    "metrics": list[dict[str, object]],
    "images_digest": str,
    "class_names": list[str],
    "channel_names": list[str],
    "wavelengths": list[float | None] | None,
    "data_channels": dict[str, float | None] | list[str] | None,
    "mean": list[float],
    "std": list[float],
    "covariance": list[list[float]],
}
# kind of a checkpoint -> dataclass of its training's options; config.py fills it
OPTIONS: dict[str, type] = {}


class UserError(Exception):
    """A mistake that the user can correct. The message names the file, line or argument, and the remedy."""


class BusyError(UserError):
    """An error for files that another process is using. Trying again later can help."""


# ---------------------------------------------------------------- command lines


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """A help formatter that shows defaults and keeps the line breaks of the description.

    A default path inside the repository is shown without the path of the repository.
    """

    def _get_help_string(self, action):
        # defaults that would print as None, an empty text, [], inf, or False for a flag without --no-
        silent = action.default in (None, "", [], math.inf) or isinstance(action, argparse._StoreTrueAction)
        return action.help if silent else super()._get_help_string(action)

    def _expand_help(self, action):
        default = action.default if isinstance(action.default, (str, Path)) else ""
        if Path(default).is_relative_to(ROOT):  # true wherever the user stands
            action = copy.copy(action)
            action.default = f"{Path(default).relative_to(ROOT).as_posix()} in the repository"
        return super()._expand_help(action)


class ArgumentParser(argparse.ArgumentParser):
    """An argparse parser that takes full option names only. For an unknown option it suggests the nearest name."""

    def __init__(self, **kwargs):
        kwargs.setdefault("formatter_class", HelpFormatter)
        super().__init__(allow_abbrev=False, **kwargs)

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message}\n")  # without the usage, which would hide the message

    last = None  # the parser of the script that runs

    def parse_args(self, args=None, namespace=None):
        ArgumentParser.last = self
        parsed, unknown = self.parse_known_args(args, namespace)
        for word in unknown:
            if not word.startswith("-"):
                self.error(f"unexpected argument {word!r}; see --help")
            near = difflib.get_close_matches(word.split("=")[0], self._option_string_actions, n=1, cutoff=0.5)
            self.error(
                f"unknown option {word.split('=')[0]}"
                + (f"; did you mean {near[0]}?" if near else "; see --help")
            )
        for action in self._actions:  # happens with --data "$DATA" when the variable is not set
            if action.option_strings and getattr(parsed, action.dest, None) == "" != action.default:
                self.error(f"argument {action.option_strings[0]}: expected a value, got an empty text")
        return parsed


def option(default, help: str, choices: typing.Sequence | None = None, usual=None, **limits: float):
    """Make a dataclass field that `parse_config` turns into `--name`, with its help text and its range.

    Args:
        default, help, choices: as in `add_argument` of argparse.
        usual: the value that replaces the default None, for an option whose default depends on other options.
        limits: the range of a number: least, above, most or below, see `LIMITS`.
    """
    metadata = {"help": help, "choices": choices, "limits": limits, "usual": usual}
    return dataclasses.field(default=default, metadata=metadata)


def option_fields(config) -> list[dataclasses.Field]:
    """Return the fields of a dataclass that were made by `option`."""
    return [field for field in dataclasses.fields(config) if field.metadata]


def within(least: int | float, most: int | float, kind: type = int):
    """Return a `type` for an argparse option: it takes numbers from `least` to `most`, both included."""

    def convert(text: str):
        value = kind(text)
        if not least <= value <= most:  # true for NaN as well
            raise argparse.ArgumentTypeError(f"{text[:40]} is not from {least} to {most:,}")
        return value

    convert.__name__ = kind.__name__  # argparse prints this name in its message
    return convert


def check_ranges(config) -> None:
    """Check the numbers in a dataclass of `option`s.

    Raises:
        UserError: a number is out of its range or not finite.
    """
    for field in option_fields(config):
        value, limits = getattr(config, field.name), field.metadata["limits"]
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            continue
        if not math.isfinite(value) or not all(LIMITS[key][1](value, limit) for key, limit in limits.items()):
            wanted = " and ".join(f"{LIMITS[key][0]} {limit}" for key, limit in limits.items())
            raise UserError(f"--{field.name.replace('_', '-')} {value}: must be {wanted}")


def parse_config(cls, argv=None, description: str | None = None):
    """Build the dataclass `cls` from the command line. Its field `image_size` is the option `--image-size`."""
    parser = ArgumentParser(description=description)
    hints = typing.get_type_hints(cls)
    for field in option_fields(cls):
        hint, choices = hints[field.name], field.metadata["choices"]
        kind = next(part for part in typing.get_args(hint) or (hint,) if part is not types.NoneType)
        if kind is bool:
            how = {"action": argparse.BooleanOptionalAction}
        else:
            how = {"type": kind, "choices": choices, "metavar": None if choices else kind.__name__.upper()}
        flag = "--" + field.name.replace("_", "-")
        parser.add_argument(flag, help=field.metadata["help"], default=field.default, **how)
    return cls(**vars(parser.parse_args(argv)))


def cli(main) -> None:
    """Run `main` and turn errors into one line on stderr and an exit status.

    The status is 2 for a `UserError`, 75 for a `BusyError` and 130 for Ctrl-C.
    """
    _open_streams()
    for stream in (sys.stdout, sys.stderr):  # a letter that the terminal cannot show is printed as an escape
        with suppress(AttributeError, OSError, ValueError):  # a notebook's stream is not a text file
            stream.reconfigure(errors="backslashreplace")
    plain, sys.stderr = sys.stderr, Output(sys.stderr)
    if os.environ.get(ENDS_WITH_STDIN):
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    try:
        main()
    except UserError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        sys.exit(BUSY if isinstance(error, BusyError) else 2)
    except BrokenPipeError:  # the reader of our output has ended, such as `| head`
        with suppress(AttributeError, OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if is_out_of_memory(error):
            message = f"out of memory; {_memory_advice()}"
        elif isinstance(error, OSError):  # the path is too long or the disk failed
            message = f"{printable(str(error))[:300]}; {remedy(error.errno)}"
        else:
            raise
        print(f"error: {message}", file=sys.stderr)
        sys.exit(2)
    finally:
        sys.stderr = plain  # a notebook still needs it


def is_out_of_memory(error: BaseException) -> bool:
    """Check whether an error means that the memory of the CPU or the GPU is too small."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and re.search(NO_MEMORY, str(error), re.IGNORECASE) is not None
    )


def _memory_advice() -> str:
    """Return advice for saving memory. It names only options that the running script has."""
    names = ArgumentParser.last._option_string_actions if ArgumentParser.last else SMALLER[:3]
    smaller = " or ".join(name for name in SMALLER if name in names)
    advice = "run fewer processes at once" + (f", or try a smaller {smaller}" if smaller else "")
    saved = ". The saved files are complete: --resume continues from them" if "--resume" in names else ""
    return advice + saved


def remedy(number: int | None) -> str:
    """Return what the user can do about an `OSError` with the error number `number`."""
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "you have no right to write there: choose another folder, or change its rights"
    if number == errno.ENAMETOOLONG:
        return "the name is too long: choose a shorter one"
    if number in (errno.EMFILE, errno.ENFILE):
        return "too many files are open: raise the limit (ulimit -n), or run fewer processes at once"
    if number in (errno.ENOTDIR, errno.EISDIR, errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY, errno.ELOOP):
        return "check that path"
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "free some disk space, or choose another folder"
    return "check that path, and that the disk has room"


class _Log(tqdm):
    """A progress bar for a log file. It writes a whole line every `LOG_EVERY` seconds and one at the end."""

    @staticmethod
    def status_printer(file):
        def write(text: str) -> None:
            if text.strip():
                file.write(text.strip() + "\n")
                file.flush()

        return write

    @classmethod
    def write(cls, s, file=None, end="\n", nolock=False):
        (file or sys.stderr).write(s + end)

    def clear(self, nolock=False):
        """Do nothing: a file has no line to clear."""

    def close(self) -> None:
        if not self.disable:
            self.refresh()
            self.delay = float("inf")  # then tqdm assumes that the bar was never drawn, and adds no last line
        super().close()


def progress_bar(*items, **options) -> tqdm:
    """Return a tqdm bar. In a log file, a pipe or a notebook it writes one line a minute instead."""
    with suppress(AttributeError, ValueError):  # there is no stream, it has no `isatty`, or it is closed
        if (options.get("file") or sys.stderr).isatty():
            return tqdm(*items, **{"dynamic_ncols": True, "mininterval": 0.2, **options})
    how = {"ncols": 100, "mininterval": LOG_EVERY, "maxinterval": 1e9, "miniters": 1}
    return _Log(*items, **{**how, "disable": sys.stderr is None, **options})


def duration(seconds: float) -> str:
    """Write a time in words: "40 s", "25 min", "5 h 10 min" or "2 d 3 h"."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    return f"{hours} h {rest} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def _open_streams() -> None:
    """Open the standard streams that are closed, and discard what is written to them.

    Otherwise the next open file would get the number of standard output, and prints would go into it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w" if number else "r"))


def _end_with_stdin() -> None:
    """Stop this process as SIGTERM does when its stdin closes: the parent process has died, perhaps by SIGKILL."""
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def printable(text: str) -> str:
    """Return the text with its control characters as escapes, because a file name may hold terminal commands."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", lambda match: repr(match[0])[1:-1], text)


def check_name(name, what: str) -> str:
    """Return `name` if it can be part of a file name on every system.

    Raises:
        UserError: the name is empty, too long, or holds a separator, a control character or a similar sign.
    """
    if (
        not isinstance(name, str)
        or not re.fullmatch(r"[^/\\:*?\"<>|]{1,100}", name)
        or not name.isprintable()  # false also for bytes that are not Unicode
        or name.startswith((".", *FORMULA))
        or name.endswith((".", " "))
    ):
        raise UserError(
            f"{what} {name!a:.120} cannot name a file: use 1 to 100 letters, digits, - and _, and begin with a letter"
        )
    return name


def check_label(text, what: str) -> str:
    """Return `text` if it can be a cell of a table that a spreadsheet opens.

    Raises:
        UserError: the text is empty, too long, begins like a formula, or holds a line break or a control character.
    """
    if not isinstance(text, str) or not 0 < len(text) <= 200 or not text.isprintable() or text[0] in FORMULA:
        raise UserError(
            f"{what} {text!a:.120} cannot be a table cell: use 1 to 200 printable characters, and do not begin with "
            + " ".join(FORMULA)
        )
    return text


def allowed_cores() -> set[int]:
    """Return the cores that this process may use."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def free_cores(seconds: float = 0.3) -> int:
    """Count the idle cores among those that this process may use; at least one.

    Args:
        seconds: how long to watch.
    """
    allowed = allowed_cores()
    limit = max(1, round(min(len(allowed), _container_cores())))
    try:
        before, _, after = _idle_times(allowed), time.sleep(seconds), _idle_times(allowed)
        idle = sum(after[core] - before[core] for core in allowed) / os.sysconf("SC_CLK_TCK") / seconds
        return max(1, min(limit, round(idle)))
    except (OSError, ValueError, KeyError, AttributeError):  # not Linux
        return limit


def _container_cores(folder: Path = Path("/sys/fs/cgroup")) -> float:
    """Return how many cores this container may use; infinite if it has no limit.

    Args:
        folder: folder where the system shows the limits of its control groups, of version 2 or 1.
    """
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        with suppress(OSError, ValueError):  # another version, or "max", which means no limit
            quota, period = map(int, " ".join((folder / name).read_text() for name in names).split())
            if quota > 0:  # -1 means no limit
                return quota / period
    return math.inf


def counted(count: int, noun: str) -> str:
    """Write a number of things: "1 thread", "3 threads"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def use_threads(count: int) -> int:
    """Set the number of CPU threads and return it. 0 means one thread per idle core.

    More threads than idle cores block each other and run many times slower.
    """
    if not count:
        count = min(free_cores(), torch.get_num_threads())
        print(
            f"{counted(count, 'CPU thread')}, one per idle core; --threads N sets another number",
            file=sys.stderr,
        )
    torch.set_num_threads(count)
    return count


def _idle_times(cores: set[int]) -> dict[int, int]:
    """Return the idle time of each core, in clock ticks."""
    lines = Path("/proc/stat").read_text(encoding="ascii").splitlines()
    ticks = {line.split()[0]: line.split() for line in lines if re.match(r"cpu\d", line)}
    return {core: int(ticks[f"cpu{core}"][4]) + int(ticks[f"cpu{core}"][5]) for core in cores}


class Output:
    """A text stream that drops its text without an error when nobody can read it, so that the work goes on.

    This happens when the terminal is closed, the reader of a pipe has ended, or the disk of a log file is full.
    """

    def __init__(self, stream: typing.TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):  # ValueError: the stream is closed
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str):
        return getattr(self._stream, name)


def hold(folder: Path) -> FileLock:
    """Lock a folder until this process ends or the lock is released.

    Raises:
        BusyError: another process has locked it; the message names that process.
    """
    lock, holder = None, folder / ".holder"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = acquire(folder / ".lock", timeout=0)
        text = f"process {os.getpid()} on {platform.node()} since {time.strftime('%F %T')}"
        holder.write_text(text, encoding="utf-8")
    except Timeout:
        user = "another process"
        with suppress(OSError):  # there is no such file, or it belongs to another user
            user = printable(holder.read_text(encoding="utf-8", errors="replace"))[:200]
        raise BusyError(
            f"{folder} is in use by {user}: wait until it ends, or choose another folder"
        ) from None
    except OSError as error:
        if lock:
            lock.release()
        raise UserError(f"cannot write to {folder}: {error}; {remedy(error.errno)}") from error
    return lock


def check_writable(folder: Path) -> None:
    """Check that files can be written into a folder, or that the folder can be made. Leave nothing behind.

    Raises:
        UserError: files cannot be written there.
    """
    existing = folder.absolute()
    try:
        while not existing.exists():
            existing = existing.parent
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error}; {remedy(error.errno)}") from error


def home_path(path: str | Path) -> Path:
    """Return the path with a leading "~" or "~USER" replaced by the home folder of an existing user."""
    return Path(os.path.expanduser(path))  # Path.expanduser raises RuntimeError for an unknown user


def acquire(path: Path, timeout: float = -1):
    """Lock a file and return the lock; its `release()` unlocks. Wait `timeout` seconds (-1: without limit).

    Some network file systems have no locks. Then print a warning and lock nothing.

    Raises:
        Timeout: another process has the lock.
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
        print(
            f"warning: the file system of {path.parent} has no locks: make sure that only one process works there",
            file=sys.stderr,
        )
        return types.SimpleNamespace(release=lambda: None)
    lock = FileLock(path)
    lock.acquire(timeout=timeout)
    return lock


@contextmanager
def one_at_a_time(folder: Path):
    """Lock `folder` inside a `with` block; other processes that want it wait.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = _wait_for(folder / ".lock", f"another process writes into {folder}", 5)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error}; {remedy(error.errno)}") from error
    try:
        yield
    finally:
        lock.release()


def _wait_for(file: Path, why: str, patience: float) -> FileLock:
    """Lock `file`. After `patience` seconds of waiting, print `why`."""
    try:
        return acquire(file, timeout=patience)
    except Timeout:
        print(f"{why}: waiting for it", file=sys.stderr)
        return acquire(file)


@contextmanager
def making(path: Path, replace: bool = False):
    """Yield an empty folder. At the end rename it to `path`, unless it is still empty.

    So an interrupted process never leaves a folder that looks finished. A second process that makes the same `path`
    waits. The folder lies in .NAME.making beside `path`. The next call removes the files that a killed process left
    there, but only if it finds the lock file that this function writes.

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
            (room / ROOM_LOCK).unlink()
            room.rmdir()
        lock.release()


def _lock_room(room: Path, path: Path) -> FileLock:
    """Make and lock the work folder of `path`.

    Raises:
        OSError: the work folder cannot be written, or another program made it.
    """
    file = room / ROOM_LOCK
    while True:
        room.mkdir(parents=True, exist_ok=True)
        try:
            if not file.exists() and ((room / "new").exists() or (room / "old").exists()):
                raise OSError(f"{room} is in the way: rename it")
            file.touch()
            before = file.stat()
            lock = _wait_for(file, f"another process makes {path}", 0)
        except FileNotFoundError:  # the process that had the lock has just removed the file
            continue
        with suppress(OSError):
            if os.path.samestat(before, file.stat()):
                return lock
        lock.release()  # the locked file was removed, so the lock stops nobody


# ---------------------------------------------------------------- files


@contextmanager
def atomic_path(path: str | Path):
    """Yield a temporary path beside `path` that replaces `path` on success.

    A reader never sees half a file. The new bytes are on the disk before the file is renamed. So after a power cut
    there is either the old file or the new file.

    Raises:
        UserError: the disk is full or the folder cannot be written; the old file is unchanged.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PARTIAL}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        open(temporary, "xb").close()  # this gives the rights of the user's umask
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as RuntimeError
        advice = remedy(getattr(error, "errno", errno.ENOSPC))
        raise UserError(
            f"cannot write {path}: {error}; {advice}. An older file there is unchanged."
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file's bytes, or the names in a folder, are on the disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows cannot open folders
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    except OSError:
        if not path.is_dir():  # some file systems cannot wait for a folder
            raise
    finally:
        os.close(handle)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` atomically as UTF-8 with Unix line ends.

    Raises:
        UserError: see `atomic_path`; or the text is not valid Unicode.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        near = text[max(0, error.start - 30) : error.end + 10]
        raise UserError(f"cannot write {path}: {near!a} is not valid Unicode; use another name") from None
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


def read_jsonl(path: str | Path) -> list[dict]:
    """Read a file that `append_jsonl` wrote. If a kill cut off the last line, leave this line out.

    Raises:
        UserError: a line before the last line is not JSON.
    """
    lines, records = Path(path).read_text(encoding="utf-8", errors="replace").splitlines(), []
    for number, line in enumerate(lines, 1):
        try:
            records.append(parse_json(line))
        except ValueError as error:
            if number == len(lines):
                break
            raise UserError(f"{path}:{number} is not JSON ({error}): delete that line") from error
    return records


def save_checkpoint(path: str | Path, state: dict) -> None:
    """Save `state` with `torch.save`. If the save fails or is interrupted, the old file stays."""
    with atomic_path(path) as temporary:
        torch.save(state, temporary)


def load_checkpoint(path: str | Path, kind: str | tuple[str, ...]) -> dict:
    """Load a checkpoint of this project. It may hold tensors and plain values, but no other pickled objects.

    Args:
        path: the file.
        kind: the kind that the caller expects, such as "task1-model", or several kinds.

    Raises:
        UserError: the file is missing, damaged, unsafe, not of this project, or a checkpoint of another kind.
    """
    path, kinds = Path(path), (kind,) if isinstance(kind, str) else kind
    if not path.is_file():
        hint = " (it is a folder: name the .pt file in it)" if path.is_dir() else ""
        raise UserError(f"no checkpoint at {path}{hint}")
    try:
        with zipfile.ZipFile(path) as archive:  # torch writes checksums, but does not compare them
            # torch writes no packed parts, but would unpack those of any file
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise ValueError("its parts are packed")
            damaged = archive.testzip()
        if damaged:
            raise ValueError(f"{damaged} was changed")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types of errors for damaged files
        raise UserError(
            f"{path} is not a readable checkpoint ({type(error).__name__}): it is truncated, "
            "or not written by this project. Train again or copy the file again."
        ) from error
    actual = state.get("kind") if isinstance(state, dict) else None
    if actual not in kinds:
        raise UserError(
            f"{path} is {f'a {actual!r} checkpoint' if actual else 'not a checkpoint of this project'}; "
            f"expected {' or '.join(map(repr, kinds))}. Name the file that the matching training script wrote."
        )
    missing = (
        [
            f"{key} ({getattr(wanted, '__name__', wanted)})"
            for key, wanted in CONTENT.get(actual, CONTENT["model"]).items()
            if not fits(state.get(key), wanted)
        ]
        or [f"config {key}" for key, hint in TRAINED_WITH.items() if not fits(state["config"].get(key), hint)]
        or [
            f"{key} of the right kind"
            for key, value in [*state.items(), *state.get("dataset", {}).items()]
            if key in MAY_HOLD and not fits(value, MAY_HOLD[key])
        ]
    )
    if missing:
        raise UserError(
            f"{path} has no {', '.join(missing)}: it was written by another version, or changed. Train again."
        )
    broken = _not_finite(state)
    if broken:
        raise UserError(
            f"{path} holds values that are not finite ({broken}): the training diverged, or the file is damaged. "
            f"Train again, with a lower --lr."
        )
    for key, part in (("name", "config"), ("preset", "config"), ("name", "dataset")):
        if part in state:
            check_name(state[part].get(key), f"{path}: {part} {key}")
    if actual in OPTIONS:
        check_options(state["config"], OPTIONS[actual], path)
    return state


def check_options(config: Mapping, cls: type, path: str | Path) -> None:
    """Check the types, choices and ranges of the options in a checkpoint.

    Options that the dataclass `cls` does not have come from another version and are ignored.

    Raises:
        UserError: an option is wrong; the message names it and the file `path`.
    """
    hints, fields = typing.get_type_hints(cls), {field.name: field for field in option_fields(cls)}
    options = {name: value for name, value in config.items() if name in fields}
    for name, value in options.items():
        choices = fields[name].metadata["choices"]
        empty = value is None and fields[name].default is None
        if not empty and (not fits(value, hints[name]) or (choices and value not in choices)):
            raise UserError(
                f"{path} holds an architecture that this version cannot build: its option "
                f"--{name.replace('_', '-')} is {value!r:.60}. Use it with the version that trained it."
            )
    try:
        check_ranges(cls(**options))
    except UserError as error:
        raise UserError(f"{path} was changed: its option {error}. Train again.") from error


def fits(value, hint) -> bool:
    """Check whether a value read from a file fits a type hint: a plain type, a union, list[...] or dict[...].

    A tuple counts as a list, and a whole number as a float. A float must be finite.
    """
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return any(fits(value, part) for part in parts)
    if origin is list:
        return isinstance(value, (list, tuple)) and all(fits(item, parts[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(
            fits(key, parts[0]) and fits(item, parts[1]) for key, item in value.items()
        )
    if hint in (int, float):
        whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**64
        return whole or (hint is float and isinstance(value, float) and math.isfinite(value))
    return isinstance(value, hint)


def brief(error: Exception) -> str:
    """Return the beginning of a message that may have many lines."""
    lines = [line.strip() for line in str(error).splitlines()]
    return " ".join(lines[:2] if lines and lines[0].endswith(":") else lines[:1])[:300]


def _not_finite(value, name: str = "") -> str:
    """Return the name of the first tensor, also in nested containers, that holds NaN or infinity; else ""."""
    if isinstance(value, torch.Tensor):
        return name if value.is_floating_point() and not value.isfinite().all() else ""
    items = value.items() if isinstance(value, Mapping) else ()
    items = enumerate(value) if isinstance(value, (list, tuple)) else items
    return next(filter(None, (_not_finite(item, f"{name}.{key}".lstrip(".")) for key, item in items)), "")


# ---------------------------------------------------------------- reproducibility


def generator(*key, device: str | torch.device = "cpu") -> torch.Generator:
    """Return a random generator that depends only on `key`, such as (seed, "batch", epoch, step).

    So nobody has to save its state.
    """
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator(device=device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def git_commit() -> str:
    """Return the commit of the running code, with "+changes" if an imported file differs from it.

    On machines without git, the environment variable `GIT_COMMIT` can name the commit; else it is "unknown".
    """
    if os.environ.get("GIT_COMMIT"):
        return os.environ["GIT_COMMIT"]

    def ask(*words):
        return subprocess.run(
            ["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    files = [
        Path(file) for module in list(sys.modules.values()) if (file := getattr(module, "__file__", None))
    ]
    running = {file.relative_to(ROOT).as_posix() for file in files if file.is_relative_to(ROOT)}
    try:
        changed = ask("diff", "--name-only", "--no-renames", "HEAD", "--", "*.py").splitlines()
        commit = ask("rev-parse", "HEAD")
        return f"{commit}+changes" if running.intersection(changed) else commit
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def environment(device: torch.device) -> dict:
    """Return what a reader needs to repeat a run: versions, hardware, threads, commit."""
    if device.type == "cuda":
        hardware = torch.cuda.get_device_name(device)
    else:
        hardware = platform.processor() or platform.machine()
        with suppress(OSError):  # not Linux, or hidden
            text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
            names = re.findall(r"^model name\s*:(.*)", text, re.MULTILINE)
            hardware = names[0].strip() if names else hardware
    import torchvision

    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "torchvision": torchvision.__version__,
        "hardware": hardware,
        "threads": torch.get_num_threads(),
        "commit": git_commit(),
    }
