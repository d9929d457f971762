"""Write a training's numbers and kernels for TensorBoard, a package that users install themselves."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from torch import nn
from torchvision.utils import make_grid

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
        for name, value in record.items():
            if isinstance(value, Mapping):
                for part, number in value.items():
                    self.writer.add_scalar(f"{name}/{part}", number, epoch)
            elif name != "epoch":
                self.writer.add_scalar(name, value, epoch)
        kernels = next(p.detach() for p in model.parameters() if p.ndim == 4)
        if kernels.shape[1] != 3:  # three channels are shown in colour, others as grey squares
            kernels = kernels.flatten(0, 1)[:, None]
        picture = make_grid(kernels[:FILTERS].float().cpu(), normalize=True, scale_each=True)
        self.writer.add_image("first kernels", picture, epoch)
        self.writer.flush()

    def close(self) -> None:
        """Close the event files."""
        with suppress(OSError):  # the disk is full
            self.writer.close()
