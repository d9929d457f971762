"""Sets of channels: parsing, enumeration, and the sampling of one set an image while training."""
from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor

from utils import UserError

SAMPLERS = ("none", "hcs", "hcs-batch", "uniform", "bernoulli", "sandwich")


def parse_subset(text: str, names: tuple[str, ...]) -> tuple[int, ...]:
    """Channel ids of a subset, ascending: "RG", "R,B" or "all" of the channels called `names`.

    Raises:
        UserError: empty, unknown or repeated channel.
    """
    if text == "all":
        return tuple(range(len(names)))
    parts = [p.strip() for p in text.split(",")] if "," in text or text in names else list(text)
    for part in parts:
        if part not in names:
            raise UserError(f"channel subset {text!r}: no channel {part!r}; the channels are "
                            f"{', '.join(names)}")
    if not parts or len(set(parts)) != len(parts):
        raise UserError(f"channel subset {text!r}: " + ("a channel is repeated" if parts else "no channel"))
    return tuple(sorted(names.index(part) for part in parts))


def parse_subsets(text: str, names: tuple[str, ...]) -> list[tuple[int, ...]]:
    """Several subsets: "every" for all 2^C - 1, or a list such as "RGB RG R" (spaces between subsets).

    Raises:
        UserError: as `parse_subset`, or a subset named twice.
    """
    if text == "every":
        return all_subsets(len(names))
    subsets = [parse_subset(part, names) for part in text.split()]
    if not subsets:
        raise UserError("no channel subset given; try --subsets every")
    for i, subset in enumerate(subsets):
        if subset in subsets[:i]:
            raise UserError(f"channel subset {subset_name(subset, names)} is named twice in {text!r}")
    return subsets


def subset_name(ids: tuple[int, ...], names: tuple[str, ...]) -> str:
    """"RG" for (0, 1); names longer than one letter are joined with commas."""
    return ("" if all(len(n) == 1 for n in names) else ",").join(names[i] for i in ids)


def all_subsets(channels: int) -> list[tuple[int, ...]]:
    """All 2^C - 1 non-empty subsets, the largest first: RGB, RG, RB, GB, R, G, B."""
    return [ids for n in range(channels, 0, -1) for ids in combinations(range(channels), n)]


def sample_mask(sampler: str, batch: int, channels: int, generator: torch.Generator) -> Tensor | None:
    """Presence mask (B, C), bool, on the CPU; None stands for all channels.

    hcs         hierarchical channel sampling (ChannelViT, 2309.16108): the size n, uniform on 1..C, then the
                set, uniform among those of that size; one set an image
    hcs-batch   the same, one set for the whole batch, as in the paper
    uniform     uniform among all 2^C - 1 sets
    bernoulli   each channel is dropped with probability 1/2; where that leaves none, one channel, chosen
                uniformly
    sandwich    a third of the batch has all channels, a third one channel, the rest as hcs (after US-Nets,
                1903.05134)
    """
    if sampler == "none":
        return None
    draws = 1 if sampler == "hcs-batch" else batch
    size = torch.randint(1, channels + 1, (draws, 1), generator=generator)
    if sampler == "sandwich":   # batches are in random order, so the position is as good as a draw
        size[:batch // 3], size[batch // 3:2 * (batch // 3)] = channels, 1
    if sampler in ("uniform", "bernoulli"):
        number = torch.randint(int(sampler == "uniform"), 2 ** channels, (draws, 1), generator=generator)
        kept = (number >> torch.arange(channels)) & 1
        size = kept.sum(1, keepdim=True).clamp(min=1)   # given its size, the set is uniform in both
    rank = torch.rand(draws, channels, generator=generator).argsort(1).argsort(1)
    return (rank < size).expand(batch, channels)
