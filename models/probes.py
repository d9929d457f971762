"""Define the probes: special tests of a trained network of Task 1, besides its plain evaluation.

recalibrated-bn   BatchNorm gets separate statistics for each channel set, from the training images without
                  augmentation. US-Nets calibrate each width in this way (arXiv 1903.05134)
wrong-ids         the images are unchanged, but the network gets wrong channel ids: G for R, B for G, R for B
duplicates        the network gets the ids of all channels; copies of present channels replace absent channels
grey-images       every channel shows the image's luma (BT.601), so all channel sets hold the same information
training-size     images of another size are mirrored at their borders, or cut, to the side of the training images.
                  Objects keep their size, and the network's maps have the sides that they had in training
average-of-seen   a channel that training left out (--train-channels) gets the average kernel of the trained channels
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from channelset import find_stem
from data.batches import Batches
from models.task1 import LateFusion, for_channels
from utils import UserError

PROBES = ("recalibrated-bn", "wrong-ids", "duplicates", "grey-images", "training-size", "average-of-seen")
LUMA = (0.299, 0.587, 0.114)


class ToLuma(nn.Module):
    """A layer that computes the luma of normalised RGB images (B, 3, H, W).

    The output (B, n, H, W) holds the luma n times, normalised like each of the n channels `ids`.
    """

    def __init__(self, mean: Tensor, std: Tensor, ids):
        super().__init__()
        mean, std, ids = torch.as_tensor(mean).float(), torch.as_tensor(std).float(), list(ids)
        luma = torch.tensor(LUMA)
        self.register_buffer("mix", std * luma / std[ids, None])
        self.register_buffer("shift", (mean @ luma - mean[ids]) / std[ids])

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("nc,bchw->bnhw", self.mix, x) + self.shift[:, None, None]


class ToSide(nn.Module):
    """A layer that gives square images (B, C, s, s) another side: it mirrors their borders, or keeps their centre."""

    def __init__(self, side: int):
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        margin = abs(self.side - x.shape[-1])
        first = margin // 2
        if self.side > x.shape[-1]:
            return F.pad(x, (first, margin - first) * 2, mode="reflect")
        return x[..., first : first + self.side, first : first + self.side]


def probe_network(
    probe: str | None,
    model: nn.Module,
    ids: tuple[int, ...],
    train: Batches | None,
    seen: list[int],
    statistics: dict,
    side: int,
) -> tuple[nn.Module, list[int]]:
    """Return the network to evaluate on the channel set `ids`, and a list of the image channels that it takes.

    Args:
        probe: a name in `PROBES`, or None for the plain evaluation.
        train: training images with all channels of the model; only `recalibrated-bn` needs them.
        seen: ids of the channels that were in training.
        statistics: a dict with "mean" and "std" of the channels, each (C,).
        side: side of the training images, px.

    Raises:
        UserError: the probe makes no sense for this model.
    """
    if probe is not None and isinstance(model, LateFusion):
        raise UserError(
            f"--probe {probe}: late fusion has no such probe; probe each of its networks separately"
        )
    channels = find_stem(model).in_channels if probe else 0
    if probe in ("wrong-ids", "duplicates") and channels == 1:
        raise UserError(
            f"--probe {probe}: a network of one channel cannot get another channel; "
            f"use a network of several channels"
        )
    if probe == "wrong-ids":
        return for_channels(model, [(i + 1) % channels for i in ids]), list(ids)
    if probe == "duplicates":
        return for_channels(model), [i if i in ids else ids[i % len(ids)] for i in range(channels)]
    if probe == "grey-images":
        if channels != 3:
            raise UserError(
                "--probe grey-images: the network must take the channels R, G and B; use another probe"
            )
        luma = ToLuma(statistics["mean"], statistics["std"], ids)
        return nn.Sequential(luma, for_channels(model, ids)), [0, 1, 2]
    if probe == "training-size":
        return nn.Sequential(ToSide(side), for_channels(model, ids)), list(ids)
    if probe == "average-of-seen":
        averaged = average_of_seen(model, seen)
        # a set of seen channels needs no average: its fill rule uses the unseen channel's kernel as in training
        model = averaged if set(ids) - set(seen) else model
    network = for_channels(model, ids)
    if probe == "recalibrated-bn":
        network = copy.deepcopy(network)
        update_bn((images[:, list(ids)] for images, _ in train.eval_batches(256)), network)
    return network, list(ids)


def average_of_seen(model: nn.Module, seen: list[int]) -> nn.Module:
    """Return a copy of `model` in which each unseen channel gets the mean kernel and embedding of the seen channels.

    A channel is seen if its id is in `seen`, the ids of the channels that were in training.

    Raises:
        UserError: every channel was in training, or the kernel is generated.
    """
    model = copy.deepcopy(model)
    stem = find_stem(model)
    channels = stem.in_channels
    unseen = [i for i in range(channels) if i not in seen]
    first = stem.fill.rows - channels  # 1 if a luminance kernel comes before the kernels of the channels
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
