"""Classify image files with a trained network: `Predictor`. The script predict.py is its command line."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from channelset import Channels
from data.batches import Batches
from data.channels import parse_subset
from data.class_names import NAMES
from data.dataset import cached_size
from data.decode import TIFF, decode, is_array, is_grey, pixel_kind, stored_kind
from data.files import LARGEST_IMAGE, read_file
from data.folders import ENDINGS, image_files
from data.lists import RGB
from models import task1, task2
from models.branched import fuse
from storage.checkpoint import brief, load_checkpoint
from utils import UserError


class Predictor:
    """A trained network of either task that classifies image files.

    Example: `Predictor("runs/main/model.pt")("photo.jpg", "RG")` uses only red and green. It returns the five likeliest
    classes, each with its probability.

    Args:
        path: path of a model.pt that train_task1.py or train_task2.py wrote.
        device: device that the network runs on, such as "cpu" or "cuda:0".

    Attributes:
        channels: names and wavelengths of the network's channels.
        classes: names of its classes.
        model, checkpoint: the network and the checkpoint as they were loaded.

    Raises:
        UserError: `path` is not a checkpoint of these scripts.
    """

    def __init__(self, path: str | Path, device: str | torch.device = "cpu"):
        self.device = torch.device(device)
        kind = load_checkpoint(path, (task1.CHECKPOINT, task2.CHECKPOINT))["kind"]
        self.any_set = kind == task1.CHECKPOINT
        load = task1.load_channel_net if self.any_set else task2.load_classifier
        self.model, self.checkpoint = load(path)
        dataset = self.checkpoint["dataset"]
        self.mean, self.std = np.array(dataset["mean"]), np.array(dataset["std"])
        self.stored = Channels(
            dataset.get("data_channels") or (RGB if len(self.mean) == 3 else len(self.mean))
        )
        self.pixel_type = dataset.get("pixels")  # None if an earlier version wrote the checkpoint
        # a data set of more than 8 bits has arrays; pictures of other channels than R, G, B have a bands.txt
        self.bands = self.stored.names != RGB.names or self.pixel_type not in (None, "uint8")
        self.channels = task1.channels_of(dataset) if self.any_set else self.stored
        self.classes = [NAMES.get(name, name) for name in dataset["class_names"]]
        self.image_size = self.checkpoint["config"]["image_size"]
        self.network = cache(self._network)

    def __call__(
        self, file: str | Path, channels: str | None = None, top: int = 5
    ) -> list[tuple[str, float]]:
        """Return the `top` likeliest classes of one file: [(name, probability in 0..1)], the likeliest first.

        Raises:
            UserError: see `ids` and `pixels`.
        """
        ids = self.ids(channels)
        return self.named(self.probabilities([self.pixels(file, ids)], ids)[0], top)

    def ids(self, channels: str | None) -> tuple[int, ...]:
        """Return the channel ids of a set such as "RG", "B04,B03" or "all"; None: all channels of the network.

        If the network takes only all channels, the ids are in the order of the training, not of the text.

        Raises:
            UserError: a channel is unknown, or the set lacks a channel and the network needs all.
        """
        ids = parse_subset("all" if channels is None else channels, self.channels)
        if not self.any_set and len(ids) < len(self.channels):
            raise UserError(
                f"--channels {channels}: this network needs all of its channels {', '.join(self.channels.names)}; "
                f"for other sets, train a network with train_task1.py"
            )
        return ids if self.any_set else tuple(sorted(ids))

    def _network(self, ids: tuple[int, ...]) -> nn.Module:
        """Return the plain network for one set of channels: x (B, n, s, s) -> logits (B, K)."""
        network = task1.for_channels(self.model, ids) if self.any_set else fuse(self.model)
        return network.eval().to(self.device)

    def pixels(self, file: str | Path, ids: Sequence[int]) -> np.ndarray:
        """Read and crop a file as an evaluation does: (s, s, n), with the channels in the order of `ids`.

        The file holds all channels of the training data, or only the channels of `ids`.

        Raises:
            UserError: the file cannot be read, or holds other channels.
        """
        side, size = cached_size(self.image_size), self.image_size
        try:
            data, names = read_file(file, LARGEST_IMAGE), [self.channels.names[i] for i in ids]
            try:
                columns = [self.stored.names.index(name) for name in names]
                image = self._decode(data, side, len(self.stored))[..., columns]
            except ValueError:  # perhaps the file holds only the channels of `ids`
                if len(ids) == len(self.stored):
                    raise
                image = self._decode(data, side, len(ids))[..., self._order_in(data, names)]
        except Exception as error:  # Pillow raises many types for damaged files
            raise UserError(
                f"cannot read {file} as an image of {len(self.stored)} channels "
                f"({textwrap.shorten(', '.join(self.stored.names), 40, placeholder=' ...')}): {brief(error)}"
            ) from error
        edge = (side - size) // 2
        return image[edge : edge + size, edge : edge + size]

    def _decode(self, data: bytes, side: int, channels: int) -> np.ndarray:
        kind = pixel_kind(data, channels, self.bands)
        if self.pixel_type not in (None, stored_kind(kind)):
            kind = self.pixel_type  # `decode` names the difference
        return decode(data, side, channels, kind, self.bands)

    def _order_in(self, data: bytes, names: list[str]) -> list[int]:
        """Return the positions of channels in a file that holds only these channels.

        A .npy or TIFF file holds them in the order of `names`. A picture in colour holds R, G, B.

        Raises:
            ValueError: the file is a picture of other channels.
        """
        if data.startswith(TIFF) or is_array(data, len(names)) or (len(names) == 1 and is_grey(data)):
            return list(range(len(names)))
        if len(names) == 1:
            raise ValueError("a colour picture has three channels, but only one is asked for")
        if sorted(names) != sorted(RGB.names):
            raise ValueError(f"a picture has 3 channels, R, G and B, not {', '.join(names)}")
        return [RGB.names.index(name) for name in names]

    @torch.no_grad()
    def probabilities(self, images: Sequence[np.ndarray], ids: Sequence[int]) -> Tensor:
        """Return class probabilities (N, K) on the CPU; images: N arrays (s, s, n), as `pixels` returns them."""
        return self.network(tuple(ids))(self.normalised(images, ids)).float().softmax(1).cpu()

    def normalised(self, images: Sequence[np.ndarray], ids: Sequence[int]) -> Tensor:
        """Normalise images (s, s, n) to (N, n, s, s), float32, by mean and deviation of the training data."""
        ids, count = list(ids), len(images)
        batches = Batches(
            np.stack(images),
            np.zeros(count, np.int64),
            self.image_size,
            self.mean[ids],
            self.std[ids],
            range(len(ids)),
            self.device,
        )
        return next(batches.eval_batches(count))[0]

    def named(self, probabilities: Tensor, top: int) -> list[tuple[str, float]]:
        """Return the `top` likeliest classes of one image's probabilities (K,): [(name, probability)].

        Raises:
            UserError: `top` is below 1.
        """
        if top < 1:
            raise UserError(f"top {top}: ask for at least one class")
        values, ids = probabilities.topk(min(top, len(self.classes)))
        return [(self.classes[i], value) for i, value in zip(ids.tolist(), values.tolist())]

    def rests_on(self, image: np.ndarray, ids: Sequence[int]) -> Tensor:
        """Return the map (H', W') in 0..1 of the parts of an image (s, s, n) that decide its class, see `grad_cam`."""
        return grad_cam(self.network(tuple(ids)), self.normalised([image], ids))[1].cpu()


def find_images(paths: Sequence[str | Path]) -> Iterator[Path]:
    """Yield the files of `paths`. A folder stands for its images, see `image_files`.

    Raises:
        UserError: a path does not exist, or a folder has no images.
    """
    for path in map(Path, paths):
        if path.is_dir():
            files = image_files(path)
            if not files:
                raise UserError(f"no images in {path}; known endings: {' '.join(ENDINGS)}")
            yield from files
        elif path.exists():
            yield path
        else:
            raise UserError(f"no file or folder {path}; check the path")


def grad_cam(net: nn.Module, image: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logits (1, K) and a map (H', W') in [0, 1] of the parts that decide the likeliest class.

    The map is Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391) on the last feature map.

    Args:
        net: a network with `feature_maps`, see metrics/receptive_field.py; or a module that holds it as `net`.
        image: (1, C, H, W).
    """
    maps = []

    def keep(x: Tensor) -> list[Tensor]:
        maps[:] = original(x)
        return maps

    inner = net if hasattr(net, "feature_maps") else net.net
    original, inner.feature_maps = inner.feature_maps, keep
    try:
        with torch.enable_grad():
            logits = net(image.clone().requires_grad_())
            (slopes,) = torch.autograd.grad(logits.max(), maps[-1:])
    finally:
        del inner.feature_maps
    weighted = (slopes.mean((2, 3), keepdim=True) * maps[-1]).sum(1)[0].clamp(min=0).detach()
    return logits.detach(), weighted / weighted.max().clamp(min=1e-12)
