"""Hold the channel set of the running call. Each thread and each asynchronous task has its own set."""

from __future__ import annotations

import threading
from contextvars import ContextVar
from typing import Any

import torch
from torch import nn

# One entry for each call or `present` block: (stem or input fill, whether it is a call, channels, mask, notes).
# The notes are empty until the stem reads the entry.
Entry = tuple[nn.Module, bool, Any, Any, list[str]]
_CONTEXT: ContextVar[tuple[Entry, ...]] = ContextVar("channelset", default=())
# torch.compile cannot trace a ContextVar, but it can trace this.
_THREAD = threading.local()


def push(place: nn.Module, channels: Any, mask: Any, call: bool = True) -> None:
    """Remember the set for the next calls of `place`; (None, None) means that the call has no set."""
    entry: Entry = (place, call, channels, mask, [])
    _THREAD.entries = (*getattr(_THREAD, "entries", ()), entry)
    if not torch.compiler.is_compiling():
        _CONTEXT.set((*_CONTEXT.get(), entry))
        if call:
            _THREAD.traced = False  # whether a compiled stem read the set: it cannot note that in the entry


def pop(place: nn.Module, call: bool = True) -> bool:
    """Remove the newest entry of `place` from a call, or with call=False from a `present` block.

    Returns: False if the entry has a set that the stem did not read. Compiled code always returns True.
    """
    _THREAD.entries = _without(getattr(_THREAD, "entries", ()), place, call)[0]
    if torch.compiler.is_compiling():
        return True
    entries, entry = _without(_CONTEXT.get(), place, call)
    _CONTEXT.set(entries)
    if entry is None or (entry[2] is None and entry[3] is None) or getattr(_THREAD, "traced", False):
        return True
    return bool(entry[4])


def read(place: nn.Module) -> tuple[Any, Any]:
    """Return (channels, mask) for a call of `place` without arguments; (None, None) means all channels."""
    if torch.compiler.is_compiling():
        _THREAD.traced = True
        return _newest(getattr(_THREAD, "entries", ()), place, True)
    entries = _CONTEXT.get()
    mine = [entry for entry in entries if entry[0] is place]
    for entry in mine:
        entry[4].append("read")
    if mine:
        return _newest(entries, place, True)
    # Perhaps the network's hook was compiled, but this call was not. `present` is never compiled.
    return _newest(getattr(_THREAD, "entries", ()), place, False)


def _without(
    entries: tuple[Entry, ...], place: nn.Module, call: bool
) -> tuple[tuple[Entry, ...], Entry | None]:
    for i in range(len(entries) - 1, -1, -1):
        if entries[i][0] is place and entries[i][1] == call:
            return entries[:i] + entries[i + 1 :], entries[i]
    return entries, None


def _newest(entries: tuple[Entry, ...], place: nn.Module, ambient: bool) -> tuple[Any, Any]:
    called = False  # after the newest call, older calls do not count: an interrupt may have left them behind
    for i in range(len(entries) - 1, -1, -1):
        owner, call, channels, mask, _ = entries[i]
        if owner is not place or (call and called) or (not call and not ambient):
            continue
        if channels is not None or mask is not None:
            return channels, mask
        called = called or call
    return None, None
