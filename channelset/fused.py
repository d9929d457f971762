"""Rescale the embedding when other code fuses BatchNorm's scale into the stem's weight and bias.

`torch.nn.utils.fusion.fuse_conv_bn_eval` and the `fuse` of detectors multiply each filter by a number and change the
bias. This code does not know the embedding, which must be multiplied by the same numbers.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Seen(NamedTuple):
    """A copy of weight, bias and embedding from the stem's last run or its switch to eval mode."""

    stamp: tuple[object, ...]
    weight: Tensor
    bias: Tensor | None
    embedding: Tensor


def look(weight: Tensor, bias: Tensor | None, embedding: Tensor) -> Seen | None:
    """Copy the parameters; return None if they are not plain parameters in memory."""
    if not _are_plain(weight, bias, embedding):
        return None
    values = [None if p is None else p.detach().clone() for p in (weight, bias, embedding)]
    return Seen(stamp(weight, bias, embedding), *values)  # type: ignore[arg-type]


def stamp(*tensors: Tensor | None) -> tuple[object, ...]:
    """Return a key that changes whenever the tensors change, without reading their values."""
    return tuple(
        None if x is None else (id(x), x.data_ptr(), None if x.is_inference() else x._version)
        for x in tensors
    )


@torch.no_grad()
def follow(seen: Seen, weight: Tensor, bias: Tensor | None, embedding: Tensor) -> Seen | None:
    """Rescale the embedding if filters and bias changed as BatchNorm's fusion changes them."""
    if not _are_plain(weight, bias, embedding):
        return seen
    now = stamp(weight, bias, embedding)
    if now == seen.stamp:
        return seen
    if seen.weight.shape == weight.shape and seen.weight.device == weight.device and bias is not None:
        old, new = seen.weight.flatten(1).double(), weight.detach().flatten(1).double()
        size = old.square().sum(1)
        scale = (old * new).sum(1) / size.clamp(min=1e-30)
        rest = (new - scale[:, None] * old).norm(dim=1)
        rounding = 4 * torch.finfo(weight.dtype).eps
        parallel = bool((rest <= rounding * new.norm(dim=1) + 1e-12).all())
        moved = seen.bias is None or not torch.equal(seen.bias, bias)
        unchanged = embedding.shape == seen.embedding.shape and torch.equal(seen.embedding, embedding)
        if parallel and moved and unchanged and bool(((scale - 1).abs() > 1e-6)[size > 0].any()):
            embedding.mul_(torch.where(size > 0, scale, 1.0).to(embedding))
    return look(weight, bias, embedding)


def _are_plain(*parameters: Tensor | None) -> bool:
    """Check whether these are parameters in memory, not shards, meta tensors or tensors of torch.func."""
    return all(p is None or (type(p) is nn.Parameter and not p.is_meta) for p in parameters)
