"""Compute the start values for the kernels of new channels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .names import Channels

WAYS = ("keep", "wavelength", "repeat", "mean")


def kernel_sources(init: str | Mapping[Any, Any], known: Channels, wanted: Channels) -> Tensor:
    """Return the share of each old channel's kernel in each new channel's kernel: (C new, C old).

    `known` are the old channels, `wanted` the new channels.

    With "wavelength", "repeat" and "mean" an image with equal channels keeps its response, so a trained network's
    statistics stay right. "repeat" follows timm's `in_chans`: the response is exact for one new channel and close for
    more.

    Raises:
        ValueError: a channel or the method is unknown, a weight is not a number, or a wavelength is missing.
    """
    new, old = len(wanted), len(known)
    source = torch.zeros(new, old, dtype=torch.float32, device="cpu")
    if isinstance(init, Mapping):
        for channel, parts in init.items():
            row = source[wanted.ids([channel])[0]]
            for part, weight in _parts(parts).items():
                row[known.ids([part])[0]] += weight
    elif init == "keep":
        source.fill_diagonal_(1)
    elif init == "wavelength":
        _interpolate(source, known, wanted)
        # divide each old kernel among the new channels: its shares sum to one
        source /= source.sum(0).clamp(min=1e-12)
    elif init == "repeat":
        for i in range(new):
            source[i, i % old] = old / new
        if new == 1:
            source.fill_(1)
    elif init == "mean":
        source.fill_(1 / new)
    else:
        raise ValueError(
            f"init {init!r}: expected {', '.join(map(repr, WAYS))} or a mapping of new channels to old"
        )
    return source


def _parts(parts: Any) -> Mapping[Any, float]:
    """Return a mapping from old channels to weights for one old channel, a list of old channels or a mapping."""
    if isinstance(parts, Mapping):
        try:
            return {channel: float(weight) for channel, weight in parts.items()}
        except (TypeError, ValueError):
            raise ValueError(f"init: the weights of {dict(parts)} are not all numbers") from None
    if isinstance(parts, (list, tuple)):
        return Counter(parts)
    if isinstance(parts, (set, frozenset)):
        raise ValueError(f"init: {parts} is a set; give a list")
    return {parts: 1.0}


def _interpolate(source: Tensor, known: Channels, wanted: Channels) -> None:
    if None in known.wavelengths + wanted.wavelengths:
        raise ValueError(
            "init='wavelength' needs the wavelength of every channel, old and new: give "
            "channels={'B04': 665.0, ...} and trained_on={'R': 665.0, ...}"
        )
    old, order = torch.tensor(known.wavelengths, dtype=torch.float64, device="cpu").sort()
    new = torch.tensor(wanted.wavelengths, dtype=torch.float64, device="cpu").clamp(old[0], old[-1])
    right = torch.searchsorted(old, new).clamp(min(1, len(old) - 1))
    left = (right - 1).clamp(0)
    share = ((new - old[left]) / (old[right] - old[left])).nan_to_num(1.0)
    rows = range(len(wanted))
    source[rows, order[left]] += (1 - share).float()
    source[rows, order[right]] += share.float()
