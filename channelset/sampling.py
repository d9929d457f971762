"""List sets of channels, and sample a set for each image in training."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from itertools import combinations

import torch
from torch import Tensor
from torch._compile import _disable_dynamo  # torch.compiler.disable would import the compiler here

HOW = ("hcs", "hcs-batch", "uniform", "bernoulli", "sandwich", "all")
REPEATED = (  # the error if activation checkpointing runs the stem again
    "activation checkpointing runs a layer a second time, without the channel set of the first time: leave the "
    "first layer out, or checkpoint the whole network with the set as an argument, "
    "checkpoint(net, x, mask=sample_channels(...), use_reentrant=False)"
)
MOST = 64  # up to this number, all sets are listed; from a larger number, some are drawn


def all_subsets(channels: int) -> list[tuple[int, ...]]:
    """List all 2^C - 1 non-empty sets, the largest first: RGB, RG, RB, GB, R, G, B.

    Raises:
        ValueError: C is above 16. Then use `some_subsets`, which draws some of the sets.
    """
    if channels > 16:
        raise ValueError(f"{channels} channels have {2**channels - 1:,} sets; use some_subsets")
    return [ids for n in range(channels, 0, -1) for ids in combinations(range(channels), n)]


def some_subsets(channels: int, most: int = MOST, seed: int = 0) -> list[tuple[int, ...]]:
    """List all non-empty sets if there are at most `most`, else some of them; the largest first.

    These are the set of all channels, each channel alone, each set of all channels but one, and 24 sets drawn by `hcs`.
    The same C and seed always give the same sets.
    """
    if channels < 17 and 2**channels - 1 <= most:
        return all_subsets(channels)
    every = tuple(range(channels))
    chosen = {every, *((i,) for i in every), *(every[:i] + every[i + 1 :] for i in every)}
    count, random = min(len(chosen) + 24, 2**channels - 1), torch.Generator().manual_seed(seed)
    while len(chosen) < count:
        mask = sample_channels(1, channels, generator=random)[0]
        chosen.add(tuple(mask.nonzero()[:, 0].tolist()))
    return sorted(chosen, key=lambda ids: (-len(ids), ids))


def sample_channels(
    batch: int,
    channels: int,
    how: str = "hcs",
    weights: Mapping[tuple[int, ...], float] | None = None,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Draw a presence mask (B, C), bool; no image is left without a channel.

    hcs         hierarchical channel sampling (ChannelViT, arXiv 2309.16108): draw the size n uniformly from 1..C,
                then a set uniformly from those of that size; a set for each image
    hcs-batch   the same, one set for the whole batch, as in the paper
    uniform     uniform over all 2^C - 1 sets
    bernoulli   each channel is dropped with probability 1/2; if none is left, one channel is drawn uniformly
    sandwich    a third of the batch has all channels, a third has one channel, the rest is as in hcs (after
                US-Nets, arXiv 1903.05134)
    all         every channel, always

    Args:
        batch, channels: B and C; any C.
        how: a name from the list above.
        weights: a mapping from a set of ids to the share of images that get exactly this set. The other
            images get sets drawn by `how`. Use weights for sets that matter most, as in {(3, 2, 1): 0.25}.
        generator: random generator, on the CPU.
        device: device of the mask. The numbers are drawn on the CPU, so they are the same everywhere.

    Raises:
        ValueError: the method or an id is unknown, or shares are negative or sum to more than one.
    """
    _check(how)
    if batch < 0 or channels < 1:
        raise ValueError(f"cannot sample {batch} sets of {channels} channels")
    if how == "all":
        mask = torch.ones(batch, channels, dtype=torch.bool, device="cpu")
    else:
        draws = 1 if how == "hcs-batch" else batch
        size = torch.randint(1, channels + 1, (draws, 1), generator=generator, device="cpu")
        if how == "sandwich":  # a batch is in random order, so its first third is a random third
            size[: batch // 3], size[batch // 3 : 2 * (batch // 3)] = channels, 1
        if how in ("uniform", "bernoulli"):  # sets of the same size are equally likely
            size = _independent_sizes(how, draws, channels, generator)
        # always float32, because other types give other sets for the same seed
        order = torch.rand(draws, channels, generator=generator, dtype=torch.float32, device="cpu").argsort(1)
        mask = (order.argsort(1) < size).expand(batch, channels).contiguous()  # rows can be changed alone
    mask = _insert(mask, weights, generator) if weights else mask
    return mask if device is None else mask.to(device, non_blocking=True)


class Sampler:
    """A sampler that draws the sets of training batches; the n-th draw depends only on the seed and on n.

    So a training that resumes from a checkpoint draws the same sets as without a break. In distributed training
    each process draws different sets. If processes share a batch, as in tensor parallelism, pass a mask instead.

    Args:
        how, weights: as in `sample_channels`.
        seed: seed of the random numbers.

    Attributes:
        count: number of batches drawn so far.

    Raises:
        ValueError: the method is unknown.
    """

    def __init__(
        self, how: str = "hcs", weights: Mapping[tuple[int, ...], float] | None = None, seed: int = 0
    ):
        _check(how)
        self.how, self.weights, self.seed, self.count = how, weights, seed, 0

    @_disable_dynamo
    def draw(self, batch: int, channels: int) -> Tensor:
        """Draw a presence mask (B, C), bool, on the CPU.

        Raises:
            RuntimeError: activation checkpointing repeats the draw of a batch.
        """
        if in_backward():
            raise RuntimeError(REPEATED)
        parallel = torch.distributed
        rank = parallel.get_rank() if parallel.is_available() and parallel.is_initialized() else 0
        digest = hashlib.sha256(f"{self.seed} {rank} {self.count}".encode()).digest()
        self.count += 1
        return sample_channels(
            batch,
            channels,
            self.how,
            self.weights,
            torch.Generator().manual_seed(int.from_bytes(digest[:7], "big")),
        )


def in_backward() -> bool:
    """Check whether this thread runs a backward pass, in which activation checkpointing repeats a call."""
    return torch._C._current_graph_task_id() != -1


def _check(how: str) -> None:
    if how not in HOW:
        raise ValueError(f"unknown way to sample {how!r}; choose one of {', '.join(HOW)}")


def _independent_sizes(how: str, draws: int, channels: int, generator: torch.Generator | None) -> Tensor:
    """Draw the sizes (draws, 1) of sets in which each channel is present with probability 1/2.

    Each bit of a random integer decides about one channel, up to 62 channels for each integer.
    """
    size = torch.zeros(draws, 1, dtype=torch.long, device="cpu")
    for start in range(0, channels, 62):
        bits = min(62, channels - start)
        # up to 62 channels, the empty set is excluded; with more channels, its probability is negligible
        number = torch.randint(
            int(how == "uniform" and channels <= 62), 2**bits, (draws, 1), generator=generator, device="cpu"
        )
        size += ((number >> torch.arange(bits, device="cpu")) & 1).sum(1, keepdim=True)
    return size.clamp(min=1)


def _insert(
    mask: Tensor, weights: Mapping[tuple[int, ...], float], generator: torch.Generator | None
) -> Tensor:
    """Put the weighted sets into random rows of `mask`, in their shares."""
    batch, channels = mask.shape
    sets = torch.zeros(len(weights), channels, dtype=torch.bool, device="cpu")
    for row, ids in zip(sets, weights):
        if not ids or not all(isinstance(i, int) and 0 <= i < channels for i in ids):
            raise ValueError(f"weights: {ids!r} is not a set of ids 0 to {channels - 1}")
        row[list(ids)] = True
    shares = torch.tensor([float(share) for share in weights.values()], dtype=torch.float64, device="cpu")
    if not (shares >= 0).all() or not shares.sum() <= 1 + 1e-9:
        raise ValueError(
            f"weights {list(weights.values())}: shares must not be negative and must sum to at most 1"
        )
    chosen = torch.bucketize(
        torch.rand(batch, generator=generator, dtype=torch.float64, device="cpu"),
        shares.cumsum(0),
        right=True,
    )
    weighted = chosen < len(sets)
    return torch.where(weighted[:, None], sets[chosen.clamp(max=len(sets) - 1)], mask)
