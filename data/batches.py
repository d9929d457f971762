"""Make batches on the device: normalise and augment. Until then the pixels have the same type as on disk.

To add an augmentation, add its name to AUGMENTATIONS. Draw its random numbers in `Batches.draw`, and apply them in
`Batches.train_batch`. The images there have all channels of the network: channels are dropped later, in its stem.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from data.decode import pixel_unit

AUGMENTATIONS = ("none", "light", "strong")
MIXING = {"mixup": 0.2, "cutmix": 1.0}  # parameter of the Beta distribution of the partner's share


class Batches:
    """A class that makes batches of the images of one split of the pixel cache.

    Args:
        images: (N, S, S, C) array, uint8, uint16 or float32, memory-mapped or not. It is copied to the GPU if there
            is room.
        labels: (N,) int64.
        image_size: side of the crops in px, at most S.
        mean, std: (C,), of the pixels; uint8 pixels count as [0, 1].
        channels: ids of the channels that the batches hold.
        device: the device of the batches.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        image_size: int,
        mean,
        std,
        channels: tuple[int, ...],
        device: torch.device,
    ):
        if image_size > images.shape[1]:
            raise ValueError(f"image_size {image_size} is larger than the cached {images.shape[1]} px")
        # torch cannot index uint16 well, so these pixels are viewed as int16 until they are a batch
        self.wide = images.dtype == np.uint16
        self.images = torch.from_numpy(images.view(np.int16) if self.wide else images)
        self.labels = torch.from_numpy(labels)
        self.image_size, self.device = image_size, device
        if device.type == "cuda" and self.images.nbytes < 0.6 * torch.cuda.mem_get_info(device)[0]:
            self.images, self.labels = self.images.to(device), self.labels.to(device)
        ids = list(channels)
        # a tensor, because a list would be copied to the device at every batch, and a captured graph cannot copy
        self.channels = None if ids == list(range(images.shape[3])) else torch.tensor(ids, device=device)
        unit = pixel_unit(images.dtype)
        self.scale = (1 / (unit * torch.as_tensor(std, dtype=torch.float32)[ids])).to(device)  # (C,)
        self.shift = (-torch.as_tensor(mean, dtype=torch.float32)[ids]).to(device) * unit * self.scale

    def __len__(self) -> int:
        return len(self.labels)

    def draw(self, count: int, augment: str, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw the random numbers with which `train_batch` augments `count` images; return a dict of tensors.

        `generator` is on the CPU.
        """
        margin, flip = self.images.shape[1] - self.image_size, torch.rand(count, generator=generator) < 0.5
        if augment == "strong":
            return {
                "flip": flip,
                "crop": torch.rand(4, count, generator=generator),
                "erased": draw_boxes(count, self.image_size, self.image_size, generator),
            }
        top, left = torch.randint(0, margin + 1, (2, count), generator=generator)
        if augment == "none":
            top[:], left[:], flip[:] = margin // 2, margin // 2, False
        return {"flip": flip, "top": top, "left": left}

    def train_batch(
        self, now: dict[str, Tensor], augment: str, size: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return augmented images (B, C, s, s), float32, channels_last, and labels (B,), on the device.

        Args:
            now: the result of `draw`, with "indices" (B,), the rows of the images.
            augment: the same augmentation as in `draw`.
            size: side s of the images in px (default: `image_size`).
        """
        indices, size = now["indices"], size or self.image_size
        there = indices.to(self.labels.device)
        labels = self.labels[there].to(self.device, non_blocking=True)
        if augment == "strong":
            crops = random_resized_crop(self._normalise(self.images[there]), size, now["flip"], now["crop"])
            return erase(crops, now["erased"] * (size / self.image_size)), labels
        cut = crop_slices if self.images.device.type == "cpu" else crop_gather
        crops = cut(self.images, indices, now["top"], now["left"], now["flip"], self.image_size)
        images = self._normalise(crops)
        if size != self.image_size:
            images = F.interpolate(images, (size, size), mode="bilinear", antialias=True)
        return images, labels

    def eval_batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield centre crops and labels of the whole split in order."""
        for indices in torch.arange(len(self)).split(batch_size):
            now = self.draw(len(indices), "none", torch.Generator())  # its random numbers have no effect
            yield self.train_batch({"indices": indices, **now}, "none")

    def _normalise(self, images: Tensor) -> Tensor:
        """Normalise pixels (B, s, s, C) as they are on disk to zero mean and unit variance.

        Returns:
            float32 (B, C, s, s), channels_last in memory, on the device.
        """
        images = images.to(self.device, non_blocking=True)
        images = images if self.channels is None else images.index_select(3, self.channels)
        # on a CPU, rows of width * C values are five times as fast as rows of C values
        rows, width = images.flatten(2), images.shape[2]
        rows = rows.view(torch.uint16).float() if self.wide else rows.float()
        rows = torch.addcmul(self.shift.repeat(width), rows, self.scale.repeat(width))
        return rows.view(images.shape).permute(0, 3, 1, 2)


def crop_slices(
    images: Tensor, indices: Tensor, top: Tensor, left: Tensor, flip: Tensor, size: int
) -> Tensor:
    """Cut crops (B, size, size, C) from images (N, S, S, C), one slice for each image: fastest on a CPU."""
    batch = torch.empty(len(indices), size, size, images.shape[3], dtype=images.dtype)
    for out, i, y, x, mirrored in zip(batch, indices.tolist(), top.tolist(), left.tolist(), flip.tolist()):
        crop = images[i, y : y + size, x : x + size]
        out.copy_(crop.flip(1) if mirrored else crop)
    return batch


def crop_gather(
    images: Tensor, indices: Tensor, top: Tensor, left: Tensor, flip: Tensor, size: int
) -> Tensor:
    """Cut the same crops as `crop_slices` with one indexing operation: fastest on a GPU."""
    indices, top, left, flip = (value.to(images.device) for value in (indices, top, left, flip))
    steps = torch.arange(size, device=images.device)
    columns = torch.where(flip[:, None], steps.flip(0), steps) + left[:, None]  # (B, size)
    rows = top[:, None] + steps  # (B, size)
    return images[indices[:, None, None], rows[:, :, None], columns[:, None, :]]


def random_resized_crop(
    images: Tensor,
    size: int,
    flip: Tensor,
    drawn: Tensor,
    scale: tuple[float, float] = (0.35, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Tensor:
    """Crop with random area and aspect ratio (Inception, 1409.4842) and resample to (B, C, size, size).

    The result is on the device of the images.

    Args:
        images: (B, C, S, S), channels_last.
        flip: (B,) bool, whether to mirror the crop.
        drawn: (4, B) random numbers in 0..1: area, position in x and y, aspect ratio.
        scale: range of (area of the crop) / (area of the image).
        ratio: range of width / height.
    """
    area, where_x, where_y, aspect = drawn.to(images.device)
    area = scale[0] + (scale[1] - scale[0]) * area
    aspect = torch.exp(np.log(ratio[0]) + (np.log(ratio[1]) - np.log(ratio[0])) * aspect).sqrt()
    side = images.shape[2]
    width, height = (area.sqrt() * aspect).clamp(max=1) * side, (area.sqrt() / aspect).clamp(max=1) * side
    to_rows = resampling_matrix(where_y * (side - height), height, side, size)  # (B, size, S)
    to_columns = resampling_matrix(where_x * (side - width), width, side, size)
    to_columns = torch.where(flip.to(images.device)[:, None, None], to_columns.flip(1), to_columns)
    return resample(images, to_rows, to_columns)


def resampling_matrix(start: Tensor, length: Tensor, source: int, target: int) -> Tensor:
    """Return matrices (B, target, source) that interpolate [start, start + length) px linearly, antialiased.

    start and length are (B,).
    """
    step = (length / target)[:, None, None]
    centre = start[:, None, None] + (torch.arange(target, device=step.device)[:, None] + 0.5) * step
    distance = (torch.arange(source, device=step.device) + 0.5 - centre).abs()
    weight = (1 - distance / step.clamp(min=1)).clamp(min=0)
    return weight / weight.sum(2, keepdim=True)


def resample(images: Tensor, to_rows: Tensor, to_columns: Tensor) -> Tensor:
    """Resample images with two matrix products, one for rows and one for columns.

    This is much faster on a CPU than `grid_sample`, and runs in bfloat16 under autocast.

    Args:
        images: (B, C, S, S), channels_last.
        to_rows, to_columns: matrices (B, s, S).

    Returns:
        (B, C, s, s), channels_last.
    """
    count, channels, side, _ = images.shape
    size = to_rows.shape[1]
    rows = torch.bmm(to_rows, images.permute(0, 2, 3, 1).reshape(count, side, side * channels))
    rows = rows.view(count, size, side, channels).permute(0, 3, 1, 2).reshape(count, channels * size, side)
    output = torch.bmm(rows, to_columns.transpose(1, 2)).view(count, channels, size, size)
    return output.contiguous(memory_format=torch.channels_last)


def draw_boxes(count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Draw the boxes of random erasing (arXiv 1708.04896). A quarter of the images get a box of 2 to 20 % of the area.

    Returns:
        (count, 4) left, right, top, bottom, px; all zero if nothing is erased.
    """
    chance, area, aspect, where_x, where_y = torch.rand(5, count, generator=generator)
    chosen = (chance < 0.25).nonzero()[:, 0]
    side = (0.02 + 0.18 * area[chosen]).sqrt()
    aspect = torch.exp((2 * aspect[chosen] - 1) * np.log(3.3) / 2)
    box_w, box_h = (side * aspect).clamp(max=1) * width, (side / aspect).clamp(max=1) * height
    left, top = where_x[chosen] * (width - box_w), where_y[chosen] * (height - box_h)
    boxes = torch.zeros(count, 4)
    boxes[chosen] = torch.stack((left, left + box_w, top, top + box_h), dim=1)
    return boxes


def erase(images: Tensor, boxes: Tensor) -> Tensor:
    """Set the pixels in each image's box to zero, the channel mean, in place. Return the images.

    images: (B, C, H, W); boxes: (B, 4) from `draw_boxes`.
    """
    # in place, so the memory format stays channels_last
    return images.masked_fill_(inside(boxes.to(images.device), *images.shape[2:]), 0)


def inside(boxes: Tensor, height: int, width: int) -> Tensor:
    """Return which pixels lie in each box (B, 4), as (B, 1, H, W) bool."""
    x, y = (torch.arange(length, device=boxes.device) + 0.5 for length in (width, height))
    left, right, top, bottom = boxes.T[..., None]  # (B, 1) each
    return ((y >= top) & (y < bottom))[:, None, :, None] & ((x >= left) & (x < right))[:, None, None, :]


def draw_mix(kind: str, size: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Draw the share and the box with which `mix` mixes a batch.

    Args:
        kind: a key of `MIXING`: mixup (arXiv 1710.09412) or cutmix (arXiv 1905.04899).
        size: side of the images, px.
        generator: on the CPU.

    Returns:
        "mix_share" (), the partner's share of an image, and "mix_box" (4,): left, right, top, bottom, px. MixUp has
        no box. The box of CutMix has whole pixels, so that the share is exact.
    """
    seed = int(torch.randint(2**62, (), generator=generator))
    random = np.random.default_rng(seed)
    share = random.beta(MIXING[kind], MIXING[kind])
    box = np.zeros(4)
    if kind == "cutmix":
        half = 0.5 * size * np.sqrt(share)
        for side in (0, 2):
            centre = random.integers(size)
            box[side : side + 2] = np.clip([int(centre - half), int(centre + half)], 0, size)
        share = (box[1] - box[0]) * (box[3] - box[2]) / size**2
    return {"mix_share": torch.tensor(share, dtype=torch.float32), "mix_box": torch.from_numpy(box).float()}


def mix(images: Tensor, kind: str, share: Tensor, box: Tensor) -> Tensor:
    """Mix each image with the previous image of its batch, as torchvision's MixUp and CutMix do.

    Args:
        images: (B, C, H, W).
        share, box: () and (4,) from `draw_mix`, on the images' device.

    Returns:
        (B, C, H, W). In the loss, `share` weights the label of the previous image.
    """
    partner = images.roll(1, 0)
    if kind == "mixup":
        return images.lerp(partner, share.to(images.dtype))
    return torch.where(inside(box[None], *images.shape[2:]), partner, images)
