"""Hold the channel set of the running call. Each thread and each asynchronous task has its own set."""

from __future__ import annotations

import sys
import threading
from contextvars import ContextVar
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import nn

# one entry for each call or `present` block: (stem or input fill, whether it is from a call, channels, mask)
Entry = tuple[nn.Module, bool, Any, Any]


class Noted(NamedTuple):
    """A tuple that holds an entry, the frame of its call, and notes. They are empty until the stem reads the entry."""

    entry: Entry
    frame: FrameType | None
    notes: list[str]


_CONTEXT: ContextVar[tuple[Noted, ...]] = ContextVar("channelset", default=())
# torch.compile cannot trace a ContextVar, but it can trace this.
_THREAD = threading.local()


def push(place: nn.Module, channels: Any, mask: Any, call: bool = True) -> None:
    """Remember the set for the next calls of `place`; (None, None) means that the call has no set."""
    entry: Entry = (place, call, channels, mask)
    _THREAD.entries = (*getattr(_THREAD, "entries", ()), entry)
    if not torch.compiler.is_compiling():
        # two frames up: the network's call, which runs the hook that calls this function
        _CONTEXT.set((*_running(), Noted(entry, sys._getframe(2) if call else None, [])))
        if call:
            _THREAD.traced = False  # whether a compiled stem read the set, which it cannot note in the entry


def pop(place: nn.Module, call: bool = True) -> bool:
    """Remove the newest entry of `place` from a call, or with call=False from a `present` block.

    Returns: False if the entry has a set that the stem did not read. Compiled code always returns True.
    """
    entries = getattr(_THREAD, "entries", ())
    i = _last(entries, place, call)
    _THREAD.entries = entries[:i] + entries[i + 1 :]
    if torch.compiler.is_compiling():
        return True
    noted = _CONTEXT.get()
    i = _last(tuple(entry for entry, _, _ in noted), place, call)
    _CONTEXT.set(noted[:i] + noted[i + 1 :])
    if i == len(noted) or not _has_set(noted[i].entry) or getattr(_THREAD, "traced", False):
        return True
    return bool(noted[i].notes)


def read(place: nn.Module) -> tuple[Any, Any]:
    """Return (channels, mask) for a call of `place` without arguments; (None, None) means all channels."""
    if torch.compiler.is_compiling():
        _THREAD.traced = True
        return _newest(getattr(_THREAD, "entries", ()), place, True)
    mine = [noted for noted in _running() if noted.entry[0] is place]
    for noted in mine:
        noted.notes.append("read")
    # if the call of an adapted part has no set, the part uses the set of the surrounding call
    if mine:
        return next((noted.entry[2:] for noted in reversed(mine) if _has_set(noted.entry)), (None, None))
    # Perhaps the network's hook was compiled, but this call was not. `present` is never compiled.
    return _newest(getattr(_THREAD, "entries", ()), place, False)


def _running() -> tuple[Noted, ...]:
    """Return the entries whose calls still run; forget those that an interrupt, such as Ctrl-C, left behind."""
    noted, frame, frames = _CONTEXT.get(), sys._getframe(), set()
    while frame.f_back is not None and noted:
        frame = frame.f_back
        frames.add(frame)
    gone = {id(entry) for entry, call, _ in noted if call is not None and call not in frames}
    if gone:
        noted = tuple(one for one in noted if id(one.entry) not in gone)
        _CONTEXT.set(noted)
        _THREAD.entries = tuple(entry for entry in getattr(_THREAD, "entries", ()) if id(entry) not in gone)
    return noted


def _has_set(entry: Entry) -> bool:
    return entry[2] is not None or entry[3] is not None


def _last(entries: tuple[Entry, ...], place: nn.Module, call: bool) -> int:
    """Return the position of the newest entry of `place`, or the length if there is none."""
    for i in range(len(entries) - 1, -1, -1):
        if entries[i][0] is place and entries[i][1] == call:
            return i
    return len(entries)


def _newest(entries: tuple[Entry, ...], place: nn.Module, ambient: bool) -> tuple[Any, Any]:
    called = False  # after the newest call, older calls do not count: an interrupt may have left them behind
    for entry in reversed(entries):
        owner, call, channels, mask = entry
        if owner is not place or (call and called) or (not call and not ambient):
            continue
        if _has_set(entry):
            return channels, mask
        called = called or call
    return None, None
