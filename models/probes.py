"""Probes: what a trained network of Task 1 is put through besides its plain evaluation.

recalibrated-bn   BatchNorm statistics of each channel set by itself, from the training images without
                  augmentation (as US-Nets calibrate each width, 1903.05134; for a plain network the usual
                  repair)
wrong-ids         the image keeps its channels, the network is told the next ones: R as G, G as B, B as R
duplicates        the network is told it has all channels; absent ones are copies of present ones
grey-images       all channels show the image's luma (BT.601), so no set knows more than another
average-of-seen   channels left out of training (--train-channels) take the average of the seen channels'
                  kernels, in the sets that hold one of them
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from channelset import find_stem
from data.batches import Batches
from models.task1 import LateFusion, for_channels
from utils import UserError

PROBES = ("recalibrated-bn", "wrong-ids", "duplicates", "grey-images", "average-of-seen")
LUMA = (0.299, 0.587, 0.114)


class ToLuma(nn.Module):
    """Normalised RGB (B, 3, H, W) -> its luma in each channel of `ids`, normalised again: (B, n, H, W)."""

    def __init__(self, mean: Tensor, std: Tensor, ids):
        super().__init__()
        mean, std, ids = torch.as_tensor(mean).float(), torch.as_tensor(std).float(), list(ids)
        self.register_buffer("mix", (std * torch.tensor(LUMA))[None, :].repeat(len(ids), 1) / std[ids, None])
        self.register_buffer("shift", ((mean @ torch.tensor(LUMA)) - mean[ids]) / std[ids])

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("nc,bchw->bnhw", self.mix, x) + self.shift[:, None, None]


def probe_network(
    probe: str | None,
    model: nn.Module,
    ids: tuple[int, ...],
    train: Batches | None,
    seen: list[int],
    statistics: dict,
) -> tuple[nn.Module, list[int]]:
    """The network to evaluate on the channel set `ids`, and the image channels it takes, in order.

    Args:
        probe: one of `PROBES`, or None for the plain network of that set.
        train: training images with all of the model's channels, for `recalibrated-bn` alone.
        seen: channel ids that training drew its sets from.
        statistics: mean and std (C,) of the channels.

    Raises:
        UserError: the probe says nothing about this model.
    """
    if probe is not None and isinstance(model, LateFusion):
        raise UserError(f"--probe {probe}: late fusion has no such probe; probe its networks one by one")
    channels = find_stem(model).in_channels if probe else 0
    if probe in ("wrong-ids", "duplicates") and channels == 1:
        raise UserError(f"--probe {probe}: a network of one channel cannot be told another")
    if probe == "wrong-ids":
        return for_channels(model, [(i + 1) % channels for i in ids]), list(ids)
    if probe == "duplicates":
        return for_channels(model), [i if i in ids else ids[i % len(ids)] for i in range(channels)]
    if probe == "grey-images":
        if channels != 3:
            raise UserError("--probe grey-images: needs the channels R, G and B")
        return nn.Sequential(ToLuma(statistics["mean"], statistics["std"], ids), for_channels(model, ids)), [
            0,
            1,
            2,
        ]
    if probe == "average-of-seen":
        averaged = average_of_seen(model, seen)
        # as fill, an unseen channel's kernel is in use and trained
        model = averaged if set(ids) - set(seen) else model
    network = for_channels(model, ids)
    if probe == "recalibrated-bn":
        network = copy.deepcopy(network)
        update_bn((images[:, list(ids)] for images, _ in train.eval_batches(256)), network)
    return network, list(ids)


def average_of_seen(model: nn.Module, seen: list[int]) -> nn.Module:
    """A copy in which each unseen channel's kernel and embedding are the mean of the seen ones'.

    Raises:
        UserError: every channel was seen, or the kernel is generated.
    """
    model = copy.deepcopy(model)
    stem = find_stem(model)
    channels = stem.in_channels
    unseen = [i for i in range(channels) if i not in seen]
    first = stem.fill.rows - channels  # 1 where a luminance kernel stands before the channels' own
    if not unseen or stem.weight is None or first > 1:
        raise UserError(
            "--probe average-of-seen: needs a plain kernel trained with --train-channels on some "
            "of the channels"
        )
    with torch.no_grad():
        weight = stem.weight[:, first:]
        weight[:, unseen] = weight[:, seen].mean(1, keepdim=True)
        if stem.embedding is not None:
            stem.embedding[unseen] = stem.embedding[seen].mean(0)
    return model
