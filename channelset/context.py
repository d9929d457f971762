"""Hold the channel set of the running call. Each thread and each asynchronous task has its own set."""

from __future__ import annotations

import asyncio
import sys
import threading
from contextvars import ContextVar
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import nn
from torch._compile import _disable_dynamo  # torch.compiler.disable would import the compiler here

# an entry for each call or `present` block: (stem or input fill, its path in the called network, channels, mask).
# A block has no path. A network and a part of it have different paths to the same stem.
Entry = tuple[nn.Module, str | None, Any, Any]


class Noted(NamedTuple):
    """A tuple that holds an entry, the frame of its call, and notes. They are empty until the stem reads the entry.

    `traced` says whether a compiled stem read a set before this entry.
    """

    entry: Entry
    frame: FrameType | None
    notes: list[str]
    traced: bool


_CONTEXT: ContextVar[tuple[Noted, ...]] = ContextVar("channelset", default=())
# torch.compile cannot trace a ContextVar, but it can trace this.
_THREAD = threading.local()


def push(place: nn.Module, channels: Any, mask: Any, path: str | None = None) -> None:
    """Remember the set for the next calls of `place`; (None, None) means that the call has no set."""
    entry: Entry = (place, path, channels, mask)
    _THREAD.entries = (*getattr(_THREAD, "entries", ()), entry)
    if not torch.compiler.is_compiling():
        # two frames up: the network's call, which runs the hook that calls this function
        frame = None if path is None else sys._getframe(2)
        _CONTEXT.set((*_running(), Noted(entry, frame, [], getattr(_THREAD, "traced", False))))
        _THREAD.traced = False  # whether a compiled stem read the set, which it cannot note in the entry
        if path is None and asyncio._get_running_loop() is not None:
            _THREAD.shared = True  # whether several tasks may have blocks in `entries`


def pop(place: nn.Module, path: str | None = None) -> bool:
    """Remove the newest entry of `place` from a call, or without a path from a `present` block.

    Returns: False if the entry has a set that the stem did not read. Compiled code always returns True.
    """
    entries = getattr(_THREAD, "entries", ())
    if torch.compiler.is_compiling():
        i = _last(entries, place, path)
        _THREAD.entries = entries[:i] + entries[i + 1 :]
        return True
    noted = _CONTEXT.get()
    i = _last(tuple(one.entry for one in noted), place, path)
    mine = noted[i : i + 1]
    _CONTEXT.set(noted[:i] + noted[i + 1 :])
    # another task's block may be newer in this thread
    same = (i for i, entry in enumerate(entries) if mine and entry is mine[0].entry)
    i = next(same, _last(entries, place, path))
    _THREAD.entries = entries[:i] + entries[i + 1 :]
    if path is None:
        blocks = any(entry[1] is None for entry in _THREAD.entries)
        _THREAD.shared = blocks and getattr(_THREAD, "shared", False)
    if not mine:
        return True
    traced = getattr(_THREAD, "traced", False)
    _THREAD.traced = traced or mine[0].traced
    return traced or bool(mine[0].notes) or not _has_set(mine[0].entry)


def read(place: nn.Module) -> tuple[Any, Any]:
    """Return (channels, mask) for a call of `place` without arguments; (None, None) means all channels."""
    if not torch.compiler.is_compiling():
        return _read(place)
    if getattr(_THREAD, "shared", False):
        return _read_uncompiled(place)
    _THREAD.traced = True
    return _newest(getattr(_THREAD, "entries", ()), place, ())


def _read(place: nn.Module) -> tuple[Any, Any]:
    mine = [noted for noted in _running() if noted.entry[0] is place]
    for noted in mine:
        noted.notes.append("read")
    running = tuple(noted.entry for noted in mine)
    entries = getattr(_THREAD, "entries", ())
    elsewhere = tuple(entry for entry in running if not _holds(entries, entry))
    # blocks of other tasks do not count; a call that is not in `running` is from a compiled hook
    here = tuple(entry for entry in entries if entry[1] is not None or _holds(running, entry))
    return _newest(elsewhere + here, place, running)


_read_uncompiled = _disable_dynamo(_read)


def _running() -> tuple[Noted, ...]:
    """Return the entries whose calls still run; forget those that an interrupt, such as Ctrl-C, left behind."""
    noted, frame, frames = _CONTEXT.get(), sys._getframe(), set()
    while frame.f_back is not None and noted:
        frame = frame.f_back
        frames.add(frame)
    gone = {id(one.entry) for one in noted if one.frame is not None and one.frame not in frames}
    if gone:
        noted = tuple(one for one in noted if id(one.entry) not in gone)
        _CONTEXT.set(noted)
        _THREAD.entries = tuple(entry for entry in getattr(_THREAD, "entries", ()) if id(entry) not in gone)
    return noted


def _has_set(entry: Entry) -> bool:
    return entry[2] is not None or entry[3] is not None


def _last(entries: tuple[Entry, ...], place: nn.Module, path: str | None) -> int:
    """Return the position of the newest such entry, or the length if there is none."""
    for i in range(len(entries) - 1, -1, -1):
        if entries[i][0] is place and entries[i][1] == path:
            return i
    return len(entries)


def _newest(entries: tuple[Entry, ...], place: nn.Module, running: tuple[Entry, ...]) -> tuple[Any, Any]:
    """Return the newest set for `place`. A call without a set uses the set of the surrounding call.

    An older call of a network that was called again does not count, unless it is in `running`: an interrupt may have
    left it behind.
    """
    called: list[str] = []
    for entry in reversed(entries):
        owner, path, channels, mask = entry
        if owner is not place or (path in called and not _holds(running, entry)):
            continue
        if _has_set(entry):
            return channels, mask
        if path is not None:
            called.append(path)
    return None, None


def _holds(entries: tuple[Entry, ...], wanted: Entry) -> bool:
    # an entry equals no other, but a comparison would compare tensors
    return any(entry is wanted for entry in entries)
