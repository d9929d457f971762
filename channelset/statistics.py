"""Compute the channels' mean, standard deviation and covariance, for normalisation and the regression fill."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .names import Channels

EXACT = 1e-12  # relative rounding error of whole numbers and of 64-bit pixels
IMAGE_KEYS = ("image", "images", "pixel_values", "img", "input", "inputs", "x")


class ChannelStatistics(NamedTuple):
    """A tuple that holds mean (C,), std (C,) and covariance (C, C) over all pixels, float64."""

    mean: Tensor
    std: Tensor
    covariance: Tensor


# so that torch.load(..., weights_only=True) accepts a file with statistics
torch.serialization.add_safe_globals([ChannelStatistics])


def channel_statistics(
    batches: Iterable[Any],
    names: Any = None,
    key: str | None = None,
    mask: str | Callable[[Any], Any] | None = None,
    nodata: float | None = None,
) -> ChannelStatistics:
    """Compute the statistics over all pixels of the training images in one pass. The images may differ in size.

    A pixel that is missing in one channel is left out in all channels. Masked pixels of a numpy masked array count
    as missing.

    Args:
        batches: batches such as a DataLoader gives: images (B, C, ...) or (C, H, W), or tuples or dicts with
            them. Images of any type, before normalisation; volumes only in batches, (B, C, D, H, W).
        names: the channels, an argument of `names.Channels`. They are used in messages, and to find images whose
            channels are the last axis.
        key: the images' key if a batch is a dict. Default: the first of `IMAGE_KEYS` in the batch.
        mask: the key of the valid pixels (true where valid) if a batch is a dict, or a function that returns
            them for a batch: (B, C, ...), (B, 1, ...), (B, ...) or the same without B.
        nodata: value that marks a missing pixel; float("nan") is allowed.

    Raises:
        ValueError: there is no image; the number of channels changes or differs from `names`; the channels are the last
            axis; a pixel is infinite, NaN or too large to be squared; or a channel is constant. The message names the
            channel.
    """
    names = None if names is None else Channels(names).names
    precision = EXACT
    count, mean, scatter = 0, torch.zeros((), device="cpu"), torch.zeros((), device="cpu")
    for pixels, rounding in (part for batch in batches for part in _parts(batch, names, key, mask, nodata)):
        precision = max(precision, rounding)
        if names is not None and len(names) != len(pixels):
            raise ValueError(f"names= has {len(names)} names, but the images have {len(pixels)} channels")
        if not pixels.shape[1]:
            continue
        if count and len(pixels) != len(mean):
            raise ValueError(
                f"images of {len(pixels)} channels after images of {len(mean)}; images are (B, C, H, W), with "
                f"channels before rows and columns"
            )
        refuse(
            ~pixels.isfinite().all(1),
            names,
            "pixels that are NaN or infinite; repair them, or mark missing pixels with nodata=float('nan') or mask=",
        )
        new, own = pixels.shape[1], pixels.mean(1)
        centred = pixels - own[:, None]
        # the update of Chan, Golub and LeVeque loses no digits, however large the mean is
        difference = own - mean
        scatter = (
            scatter
            + centred @ centred.T
            + torch.outer(difference, difference) * (count * new / (count + new))
        )
        mean = mean + difference * (new / (count + new))
        count += new
    if not count:
        raise ValueError("no image to take statistics from")
    covariance = scatter / count
    refuse(
        ~covariance.diagonal().isfinite(),
        names,
        "pixels so large that their squares are infinite; scale them, or mark missing pixels with nodata= or mask=",
    )
    std = covariance.diagonal().sqrt()
    refuse(
        std <= precision * mean.abs(),
        names,
        "the same value in every pixel; leave it out, since nothing can be learned from it",
    )
    return ChannelStatistics(mean, std, covariance)


def _parts(
    batch: Any,
    names: Sequence[str] | None,
    key: str | None,
    mask: str | Callable[[Any], Any] | None,
    nodata: float | None,
) -> list[tuple[Tensor, float]]:
    """Return `_pixels` of a batch: of its tensor, or of each image in its list."""
    images = _images(batch, key)
    valid = None
    if callable(mask):
        valid = mask(batch)
    elif mask is not None:
        if not isinstance(batch, Mapping) or mask not in batch:
            raise ValueError(f"mask={mask!r}: a batch has no such key; give a function of the batch")
        valid = batch[mask]
    if not isinstance(images, (list, tuple)) or not all(hasattr(image, "ndim") for image in images):
        return [_pixels(images, valid, names, nodata)]
    masks = [None] * len(images) if valid is None else valid
    if len(masks) != len(images):
        raise ValueError(f"{len(masks)} masks for {len(images)} images: give a mask for each image")
    return [_pixels(image, part, names, nodata) for image, part in zip(images, masks)]


def _pixels(
    images: Any, valid: Any, names: Sequence[str] | None, nodata: float | None
) -> tuple[Tensor, float]:
    """Return the valid pixels of images, (C, N), float64, and the relative rounding error of a pixel."""
    if not hasattr(images, "ndim") and not isinstance(images, (list, tuple)):
        raise ValueError(
            f"the images of a batch are a {type(images).__name__}, not an array: give the images alone, as tensors or "
            f"arrays, such as (batch[0]['image'] for batch in loader)"
        )
    masks = [] if valid is None else [valid]
    if hasattr(images, "filled") and hasattr(images, "mask"):  # a masked array of numpy
        masks.append(~as_tensor(images.mask, "the mask's values"))
        images = images.filled(0)
    images = as_tensor(images, "the images' pixels")
    if images.ndim not in (3, 4, 5):
        raise ValueError(f"images are (B, C, H, W) or (C, H, W); got {tuple(images.shape)}")
    axis = 0 if images.ndim == 3 else 1
    last, channels = images.shape[-1], images.shape[axis]
    if (names and len(names) == last != channels) or (
        last <= 4 and channels >= 16 and images.shape[-2] >= 16
    ):
        raise ValueError(
            f"images of shape {tuple(images.shape)} seem to have their channels last; they must be (B, C, H, W): "
            f"move the axis with images.movedim(-1, -3)"
        )
    pixels = images.movedim(axis, 0).flatten(1).double()
    keep = torch.ones(pixels.shape[1], dtype=torch.bool, device=pixels.device)
    for mask in masks:
        mask = as_tensor(mask, "the mask's values").bool().to(pixels.device)
        if mask.ndim == images.ndim - 1:
            mask = mask.unsqueeze(axis)
        try:
            keep &= mask.expand(images.shape).movedim(axis, 0).flatten(1).all(0)
        except RuntimeError:
            raise ValueError(
                f"mask of shape {tuple(mask.shape)} does not fit images of shape {tuple(images.shape)}"
            ) from None
    if nodata is not None:
        # in the images' type, which may round the value
        value = torch.tensor(nodata, dtype=images.dtype if images.is_floating_point() else pixels.dtype)
        absent = pixels.isnan() if math.isnan(nodata) else pixels == value.double()
        keep &= ~absent.any(0)
    # resizing rounds equal pixels to different numbers
    short = images.is_floating_point() and images.dtype != torch.float64
    rounding = torch.finfo(torch.float32).eps if short else EXACT
    return pixels if bool(keep.all()) else pixels[:, keep], rounding


def _images(batch: Any, key: str | None) -> Any:
    if isinstance(batch, Mapping):
        keys = [key] if key is not None else [name for name in IMAGE_KEYS if name in batch]
        if not keys or keys[0] not in batch:
            raise ValueError(
                f"a batch is a dict with the keys {', '.join(map(str, batch))}: give the key of the images with "
                f"key="
            )
        return batch[keys[0]]
    if key is not None:
        raise ValueError(f"key={key!r}: a batch is not a dict but a {type(batch).__name__}; leave key= out")
    if not isinstance(batch, (tuple, list)):
        return batch
    arrays = [(part.dtype, part.shape[0]) for part in batch if getattr(part, "ndim", 0) == 3]
    if len(arrays) == len(batch) > 1 and len(set(arrays)) == 1:
        raise ValueError(
            "a batch is a list of arrays (C, H, W): all of them may be images, or only the first. Give the images "
            "alone, such as (item[0] for item in dataset) or (image for batch in loader for image in batch)"
        )
    return batch[0]


def refuse(wrong: Tensor, names: Sequence[str] | None, reason: str) -> None:
    """Raise a ValueError that names the channels where `wrong` (C,) is true, if there are such channels."""
    if wrong.any():
        raise ValueError(f"{named(wrong.nonzero()[:, 0].tolist(), names)}: {reason}")


def named(ids: list[int], names: Sequence[str] | None) -> str:
    """Write "channel B10" or "channels 3, 4", for messages."""
    noun = "channels" if len(ids) > 1 else "channel"
    return f"{noun} {', '.join(str(names[i]) if names else str(i) for i in ids)}"


def numbers(value: Any, name: str) -> Tensor:
    """Convert these numbers to a tensor: float64, on the CPU, also under a context of the meta device.

    Raises:
        ValueError: `value` holds no numbers; the message contains `name`.
    """
    return as_tensor(value, f"{name}={value!r}", "cpu").detach().double()


def as_tensor(value: Any, name: str, device: str | None = None) -> Tensor:
    """Convert an array of any byte order and strides to a tensor. A new tensor is on the CPU.

    Raises:
        ValueError: its values are not real numbers; the message contains `name`.
    """
    try:
        if hasattr(value, "to_numpy"):  # a table of pandas
            value = value.to_numpy()
        if hasattr(getattr(value, "dtype", None), "newbyteorder"):  # torch refuses some orders and strides
            value = value.astype(value.dtype.newbyteorder("="), order="C", copy=False)
        tensor = torch.as_tensor(value, device=device if isinstance(value, Tensor) else "cpu")
        if not tensor.is_complex():
            return tensor
        error: object = "they are complex"
    except (TypeError, ValueError, RuntimeError) as wrong:
        error = wrong
    raise ValueError(f"{name} are not numbers: {error}")
