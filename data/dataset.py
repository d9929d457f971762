"""From `--data` to batches: the one way the scripts open a data set."""

from __future__ import annotations

import numpy as np
import torch
import torch.distributed as dist

from data.batches import Batches
from data.cache import PixelCache, open_cache
from data.lists import find_dataset, read_lists
from utils import UserError, generator


def cached_size(image_size: int) -> int:
    """Side of the cached pictures, px, of which images of `image_size` are crops."""
    return round(image_size * 8 / 7)


def open_data(data: str, image_size: int, cache: str | None = None, max_failed: float = 0.01) -> PixelCache:
    """The pixel cache of `data`, with a margin of an eighth for crops; of several processes the first builds
    it.

    Args:
        data: a folder or zip, or "auto", see `data.lists.find_dataset`.
        image_size: side of the crops, px.
        cache: folder for the pixels; default: data/cache.
        max_failed: share of a split that may be undecodable.

    Raises:
        UserError: what is wrong with the data set, and where.
    """

    def load() -> PixelCache:
        lists = read_lists(find_dataset(data))
        return open_cache(lists, cached_size(image_size), cache, max_failed_share=max_failed)

    several = dist.is_available() and dist.is_initialized()  # some builds of PyTorch have no distributed part
    if several and dist.get_rank() > 0:
        dist.barrier()  # the first process builds the cache
    pixels = load()
    if several and dist.get_rank() == 0:
        dist.barrier()
    for name, variance in zip(pixels.channel_names, np.diag(pixels.covariance)):
        if variance == 0:
            raise UserError(
                f"channel {name} has the same value in every training pixel: nothing can be learned from it"
            )
    return pixels


def make_batches(
    cache: PixelCache, split: str, image_size: int, channels, device: torch.device, fraction: float = 1.0
) -> Batches:
    """Batches of "train", "val" or "test" with the image channels `channels` (ids).

    Of "train" alone, `fraction` of the images are used, as `draw_fraction` chooses them, copied into memory.
    The pixels' mean and standard deviation stay those of all training images.
    """
    part = cache.split(split)
    images, labels = part.images, part.labels
    if split == "train" and fraction < 1:
        rows = draw_fraction(labels, fraction)
        images, labels = images[rows], labels[rows]
    return Batches(images, labels, image_size, cache.mean, cache.std, channels, device)


def draw_fraction(labels: np.ndarray, fraction: float) -> np.ndarray:
    """Rows, in order, of a share of the images of each class: labels (N,) -> (M,).

    The same rows for each model and seed; a smaller share's are among those of a larger one. At least one
    image a class.
    """
    drawn = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        order = torch.randperm(len(rows), generator=generator("fraction", int(label))).numpy()
        drawn.append(rows[order[: max(1, round(fraction * len(rows)))]])
    return np.sort(np.concatenate(drawn))
