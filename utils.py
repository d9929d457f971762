"""Provide what all scripts share: errors, the command line, progress bars, processor cores, provenance."""

from __future__ import annotations

import argparse
import copy
import dataclasses
import difflib
import errno
import hashlib
import math
import os
import platform
import re
import signal
import subprocess
import sys
import threading
import time
import types
import typing
from contextlib import suppress
from pathlib import Path

import torch
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent
FORMULA = ("=", "+", "-", "@")  # a spreadsheet reads a text that begins with one of these as a formula
BUSY = 75  # exit status: another process uses the files that this process needs, so try again later
LOG_EVERY = 60  # seconds between two lines of a progress bar in a log file
# words of the messages of torch, CUDA, cuDNN and C++ about too little memory
NO_MEMORY = r"out of memory|allocate memory|not enough memory|ALLOC_FAILED|bad_alloc|unable to find an engine"
# With this environment variable, the C library of Linux asks for huge pages of memory. Then a training on a CPU is up
# to twice as fast. The variable must be set before Python starts.
HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
# if this environment variable is set, the script stops when its stdin closes
ENDS_WITH_STDIN = "ENDS_WITH_STDIN"


class UserError(Exception):
    """Report a mistake that the user can correct. The message names the file, line or argument, and the remedy."""


class BusyError(UserError):
    """Report that another process is using the files. Trying again later can help."""


# ---------------------------------------------------------------- command lines


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Format help texts: show defaults and keep the line breaks of the description.

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
    """Parse arguments, but take full option names only. For an unknown option, suggest the nearest name."""

    def __init__(self, **kwargs):
        super().__init__(formatter_class=HelpFormatter, allow_abbrev=False, **kwargs)

    def error(self, message):
        hint = "; see --help" if message.startswith("the following arguments are required") else ""
        # without the usage, which would hide the message
        self.exit(2, f"{self.prog}: error: {message}{hint}\n")

    def _check_value(self, action, value):
        if value != []:  # Python 3.11 looks for the empty list of nargs="*" among the choices
            super()._check_value(action, value)

    def parse_args(self, args=None, namespace=None):
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            word = unknown[0].split("=")[0]
            near = difflib.get_close_matches(word, self._option_string_actions, n=1, cutoff=0.5)
            self.error(f"unknown argument {word}; " + (f"did you mean {near[0]}?" if near else "see --help"))
        for action in self._actions:  # happens with --data "$DATA" when the variable is not set
            if action.option_strings and getattr(parsed, action.dest, None) == "" != action.default:
                self.error(f"argument {action.option_strings[0]}: expected a value, got an empty text")
        return parsed


def option(default, help: str, choices: typing.Sequence | None = None, usual=None, least=None, most=None):
    """Make a dataclass field that `parse_config` turns into `--name`, with its help text and its range.

    Args:
        default, help, choices: as in `add_argument` of argparse.
        usual: the value that replaces the default None, for an option whose default depends on other options.
        least, most: the range of a number, both included.
    """
    metadata = {"help": help, "choices": choices, "limits": (least, most), "usual": usual}
    return dataclasses.field(default=default, metadata=metadata)


def option_fields(config) -> list[dataclasses.Field]:
    """Return the fields of a dataclass that were made by `option`."""
    return [field for field in dataclasses.fields(config) if field.metadata]


def within(least: int | float, most: int | float, kind: type = int):
    """Return a `type` for an argparse option: it takes numbers from `least` to `most`, both included."""

    def convert(text: str):
        value = kind(text)
        if not least <= value <= most:  # true for NaN as well
            raise argparse.ArgumentTypeError(
                f"{text[:40]} is out of range: give a number from {least} to {most:,}"
            )
        return value

    convert.__name__ = kind.__name__  # argparse prints this name in its message
    return convert


def check_ranges(config) -> None:
    """Check the numbers in a dataclass of `option`s.

    Raises:
        UserError: a number is out of its range or not finite.
    """
    for field in option_fields(config):
        value, (least, most) = getattr(config, field.name), field.metadata["limits"]
        if None not in (value, most) and not least <= value <= most:  # true for NaN as well
            raise UserError(f"--{field.name.replace('_', '-')} {value}: must be from {least} to {most}")


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


def as_arguments(options: dict) -> list[str]:
    """Write options as on the command line: {"image_size": 48, "gates": False} gives --image-size 48 --no-gates."""
    parts = []
    for key, value in options.items():
        flag = key.replace("_", "-")
        if isinstance(value, bool):
            parts.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            parts += [f"--{flag}", str(value)]
    return parts


def cli(main) -> None:
    """Run `main` and turn errors into one line on stderr and an exit status.

    The status is 2 for a `UserError`, 75 for a `BusyError` and 130 for Ctrl-C.
    """
    for stream in (sys.stdout, sys.stderr):  # a letter that the terminal cannot show is printed as an escape
        with suppress(AttributeError, OSError, ValueError):  # a notebook's stream is not a text file
            stream.reconfigure(errors="backslashreplace")
    plain, sys.stderr = sys.stderr, Output(sys.stderr)
    if os.environ.get(ENDS_WITH_STDIN):
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    try:
        main()
    except UserError as error:
        note(f"error: {error}")
        sys.exit(BUSY if isinstance(error, BusyError) else 2)
    except BrokenPipeError:  # the reader of our output has ended, such as `| head`
        with suppress(AttributeError, OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        note("interrupted")
        sys.exit(130)
    except Exception as error:
        if is_out_of_memory(error):
            message = "out of memory; run fewer processes at once, or use smaller batches, images or networks"
        elif isinstance(error, OSError):  # the path is too long or the disk failed
            message = f"{str(error)[:300]}; {remedy(error.errno)}"
        else:
            raise
        note(f"error: {message}")
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


def remedy(number: int | None) -> str:
    """Return what the user can do about an `OSError` with the error number `number`."""
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "you have no right to write there: choose another folder, or change its rights"
    if number in (errno.EMFILE, errno.ENFILE):
        return "raise the limit (ulimit -n), or run fewer processes at once"
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "free some disk space, or choose another folder"
    return "check that path"


class _Log(tqdm):
    """Show progress in a log file: write a whole line every `LOG_EVERY` seconds, and a last line at the end."""

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
    stream = options.get("file") or sys.stderr
    if hasattr(stream, "isatty") and stream.isatty():
        return tqdm(*items, dynamic_ncols=True, mininterval=0.2, **options)
    return _Log(*items, ncols=100, mininterval=LOG_EVERY, maxinterval=1e9, miniters=1, **options)


def _end_with_stdin() -> None:
    """Stop this process by SIGTERM when its stdin closes. Then the parent process has died, perhaps by SIGKILL."""
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def printable(text: str) -> str:
    """Return the text with its control characters as escapes: a file name may hold terminal commands or line breaks."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda match: repr(match[0])[1:-1], text)


def note(text: str) -> None:
    """Print a message to stderr, with its control characters as escapes."""
    print(printable(text), file=sys.stderr)


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
    """Return the number of idle cores that this process may use, but at least 1.

    Args:
        seconds: how long to watch.
    """
    limit = max(1, round(min(len(allowed_cores()), _container_cores())))
    try:
        before, _, after = _idle_ticks(), time.sleep(seconds), _idle_ticks()
        return max(1, min(limit, round((after - before) / os.sysconf("SC_CLK_TCK") / seconds)))
    except OSError:  # not Linux
        return limit


def _container_cores(file: Path = Path("/sys/fs/cgroup/cpu.max")) -> float:
    """Return how many cores this container may use; infinite if it has no limit.

    Args:
        file: file in which the system shows the limit.
    """
    with suppress(OSError, ValueError):  # no container, or "max", which means no limit
        quota, period = map(int, file.read_text().split())
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
        note(f"{counted(count, 'CPU thread')}, one per idle core; --threads N sets another number")
    torch.set_num_threads(count)
    return count


def wait_for(device: torch.device) -> None:
    """Wait until a GPU has done all of its work: PyTorch returns before the results are there."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _idle_ticks() -> int:
    """Return the idle time of all cores that this process may use, in clock ticks."""
    rows = map(str.split, Path("/proc/stat").read_text(encoding="ascii").splitlines())
    names = {f"cpu{core}" for core in allowed_cores()}
    return sum(int(row[4]) + int(row[5]) for row in rows if row[0] in names)


class Output:
    """Write text to a stream. If nobody can read the stream, drop the text without an error, so that the work goes on.

    Nobody can read it when the terminal is closed, the reader of a pipe has ended, or the disk of a log file is full.
    """

    def __init__(self, stream: typing.TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError, AttributeError):  # the stream is closed, or there is none
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError, AttributeError):
            self._stream.flush()

    def __getattr__(self, name: str):
        return getattr(self._stream, name)


# ---------------------------------------------------------------- reproducibility


def generator(*key) -> torch.Generator:
    """Return a random generator that depends only on `key`, such as (seed, "batch", epoch, step).

    So nobody has to save its state.
    """
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def git_commit() -> str:
    """Return the commit of the running code, with "+changes" if an imported file differs from it.

    On machines without git, the environment variable `GIT_COMMIT` can name the commit; else it is "unknown".
    """
    if os.environ.get("GIT_COMMIT"):
        return os.environ["GIT_COMMIT"]

    def ask(*words: str) -> list[str]:
        words = ("git", "-C", str(ROOT), *words)
        return subprocess.check_output(words, text=True, stderr=subprocess.DEVNULL).splitlines()

    files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    running = {os.path.realpath(file) for file in files if file}
    try:
        # ROOT may be a folder of a larger repository, in which git names files from the top
        changed = ask("diff", "--name-only", "--no-renames", "--relative", "HEAD", "--", "*.py")
        (commit,) = ask("rev-parse", "HEAD")
        if running.isdisjoint(str(ROOT / name) for name in ask("ls-files", "--", "*.py")):
            return "unknown"  # the repository around ROOT does not hold this code
        return f"{commit}+changes" if any(str(ROOT / name) in running for name in changed) else commit
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
