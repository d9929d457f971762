"""Write a training's numbers and kernels for TensorBoard, a package that users install themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor, nn

FILTERS = 64  # number of kernels in the picture


class Board:
    """A writer of a training's scalars and first kernels to a folder of event files."""

    def __init__(self, folder: Path):
        from torch.utils.tensorboard import SummaryWriter  # config.py has checked that it is installed

        self.writer = SummaryWriter(str(folder))

    def add(self, epoch: int, record: Mapping, model: nn.Module) -> None:
        """Write one line of metrics.jsonl and the model's first kernels.

        A number inside a dict gets the name NAME/PART.
        """
        for name, value in _flat(record):
            if name != "epoch":
                self.writer.add_scalar(name, value, epoch)
        kernels = next((p.detach() for p in model.parameters() if p.ndim == 4), None)
        if kernels is not None:
            self.writer.add_image("first kernels", kernel_grid(kernels), epoch)
        self.writer.flush()

    def close(self) -> None:
        """Close the event files."""
        with suppress(OSError):  # the disk is full
            self.writer.close()


def _flat(record: Mapping, prefix: str = "") -> Sequence[tuple[str, float]]:
    flat = []
    for key, value in record.items():
        flat += _flat(value, f"{prefix}{key}/") if isinstance(value, Mapping) else [(prefix + key, value)]
    return flat


def kernel_grid(kernels: Tensor) -> Tensor:
    """Return kernels (O, C, k, k) as a picture (3, H, W) in 0..1.

    Kernels of three channels are in colour; otherwise each channel is a grey square. Zero is grey, and each kernel has
    its own scale.
    """
    from torchvision.utils import make_grid

    kernels = kernels.float().cpu()
    if kernels.shape[1] != 3:
        kernels = kernels.flatten(0, 1)[:, None]
    kernels = kernels[:FILTERS]
    scaled = 0.5 + kernels / (2 * kernels.abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-12))
    large = torch.nn.functional.interpolate(scaled, scale_factor=4)
    return make_grid(large, nrow=8, padding=2, pad_value=1.0)
