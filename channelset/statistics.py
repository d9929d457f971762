"""Mean, standard deviation and covariance of the channels: what images are normalised with and the regression
fill predicts from.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor


class ChannelStatistics(NamedTuple):
    """mean (C,), std (C,) and covariance (C, C) over all pixels, float64."""

    mean: Tensor
    std: Tensor
    covariance: Tensor


def channel_statistics(batches: Iterable, names=None) -> ChannelStatistics:
    """Statistics over all pixels of the training images, in one pass, whatever their sizes.

    Args:
        batches: of images (B, C, H, W) or (C, H, W), or of tuples that begin with them, such as a DataLoader.
            Any type; before normalisation.
        names: C names, for messages.

    Raises:
        ValueError: no image, another number of channels, a pixel that is not finite, or a channel with one
            value everywhere; names the channel.
    """
    count = 0
    mean: Tensor | None = None
    scatter: Tensor
    for batch in batches:
        images = batch[0] if isinstance(batch, (tuple, list)) else batch
        images = torch.as_tensor(images)
        if images.ndim not in (3, 4):
            raise ValueError(f"images are (B, C, H, W) or (C, H, W); got {tuple(images.shape)}")
        pixels = images.movedim(-3, 0).flatten(1).double()  # (C, N)
        if not pixels.shape[1]:
            continue
        if mean is not None and len(pixels) != len(mean):
            raise ValueError(f"images of {len(pixels)} channels after images of {len(mean)}")
        wrong = (~pixels.isfinite().all(1)).nonzero()[:, 0].tolist()
        if wrong:
            raise ValueError(f"{named(wrong, names)}: pixels that are NaN or infinite; mask or repair them")
        new, own = pixels.shape[1], pixels.mean(1)
        centred = pixels - own[:, None]
        if mean is None:
            count, mean, scatter = new, own, centred @ centred.T
        else:  # Chan, Golub and LeVeque's update: no cancellation however large the mean
            difference = own - mean
            scatter = (
                scatter
                + centred @ centred.T
                + torch.outer(difference, difference) * (count * new / (count + new))
            )
            mean = mean + difference * (new / (count + new))
            count += new
    if mean is None:
        raise ValueError("no image to take statistics from")
    covariance = scatter / count
    std = covariance.diagonal().sqrt()
    flat = (std <= 1e-12 * mean.abs()).nonzero()[:, 0].tolist()
    if flat:
        raise ValueError(
            f"{named(flat, names)}: the same value in every pixel; leave it out, nothing can be "
            f"learned from it"
        )
    return ChannelStatistics(mean, std, covariance)


def named(ids: list[int], names=None) -> str:
    """ "channel B10" or "channels 3, 4", for messages."""
    noun = "channels" if len(ids) > 1 else "channel"
    return f"{noun} {', '.join(str(names[i]) if names else str(i) for i in ids)}"


def correlations(covariance, std=None, names=None) -> Tensor:
    """Covariance (C, C) of the channels divided by `std` (C,), float64: of the images as a network sees them.

    Args:
        covariance: of the raw channels.
        std: what they are divided by; default: the root of the diagonal.
        names: C names, for messages.

    Raises:
        ValueError: it is no covariance: not square, not finite, not symmetric, not positive semidefinite, or
            a channel has no variance; names the channel.
    """
    covariance = torch.as_tensor(covariance).detach().double().cpu()
    if covariance.ndim != 2 or len(covariance) != len(covariance.T) or not len(covariance):
        raise ValueError(f"a covariance is (C, C); got {tuple(covariance.shape)}")
    wrong = (~covariance.isfinite().all(1)).nonzero()[:, 0].tolist()
    if wrong:
        raise ValueError(f"the covariance of {named(wrong, names)} is NaN or infinite")
    variance = covariance.diagonal()
    flat = (variance <= 0).nonzero()[:, 0].tolist()
    if flat:
        raise ValueError(
            f"{named(flat, names)}: variance {variance[flat[0]].item():g}; a channel that is the "
            f"same everywhere cannot be predicted or used: leave it out"
        )
    scale = variance.sqrt() if std is None else torch.as_tensor(std).detach().double().cpu()
    if scale.shape != variance.shape:
        raise ValueError(f"std has shape {tuple(scale.shape)}, expected ({len(variance)},)")
    wrong = (~(scale.isfinite() & (scale > 0))).nonzero()[:, 0].tolist()
    if wrong:
        raise ValueError(f"{named(wrong, names)}: std {scale[wrong[0]].item():g} is not above zero")
    unit = variance.sqrt()
    relative = covariance / torch.outer(unit, unit)
    difference = (relative - relative.T).abs()
    if difference.max() > 1e-4:
        place = difference.argmax().item()
        pair = [place // len(variance), place % len(variance)]
        raise ValueError(f"the covariance is not symmetric: {named(pair, names)}")
    if torch.linalg.eigvalsh((relative + relative.T) / 2)[0] < -1e-4:
        raise ValueError("the covariance is not positive semidefinite: it is no covariance of any data")
    return covariance / torch.outer(scale, scale)
