"""Task 1's networks: built from options, and back from the checkpoints that train_task1.py writes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from channelset import Channels, ChannelSetConv2d, build_fill, find_stem, fold_channels, insert_stem
from data.cache import PixelCache
from data.identity import LISTS_ONLY, difference
from data.lists import RGB
from models.kernels import Dynamic, HyperNetwork, Omni, Templates, Tied, Wavelength
from models.resnet import ScaledResNet
from utils import UserError, brief, load_checkpoint

CHECKPOINT = "task1-model"  # kind of the checkpoint, see `utils.load_checkpoint`

# where the stem's kernel comes from; None: it is a parameter
KERNELS = {
    "free": None,
    "tied": Tied,
    "templates": Templates,
    "hypernet": HyperNetwork,
    "wavelength": Wavelength,
    "dynamic": Dynamic,
    "omni": Omni,
}


def build_channel_net(
    arch: str,
    channels,
    num_classes: int,
    fill: str = "regression",
    kernel: str = "free",
    templates: int = 128,
    kernel_size: int | None = None,
    embedding: bool = True,
    width: float = 1.0,
    stem: str = "7x7s2",
    stem_pool: bool | None = None,
    mean=None,
    std=None,
    covariance=None,
) -> ScaledResNet:
    """A ResNet whose first convolution takes any set of its channels, called as net(x, channels=...) or
    net(x, mask=...).

    Args:
        channels: how many there are, or their names and wavelengths, see `channelset.Channels`.
        arch, num_classes, width, stem, stem_pool: as in `ScaledResNet`.
        fill, mean, std, covariance: as in `build_fill`.
        kernel: a key of `KERNELS`; templates: how many, for kernel "templates".
        kernel_size: of the first convolution, odd. Default: the backbone's.
        embedding: as in `ChannelSetConv2d`.

    Raises:
        ValueError: unknown fill rule or kernel, or a statistic that the rule needs is missing.
    """
    channels = Channels(channels)
    network = ScaledResNet(arch, num_classes, len(channels), width, stem, stem_pool)
    conv = network.conv1
    rule = build_fill(fill, len(channels), mean, std, covariance, names=channels.names)
    size = kernel_size or conv.kernel_size[0]
    if kernel not in KERNELS:
        raise ValueError(f"unknown kernel {kernel!r}; choose one of {', '.join(KERNELS)}")
    extra = {"count": templates} if kernel == "templates" else {}
    if kernel == "wavelength" and None not in channels.wavelengths and rule.rows == len(channels):
        extra = {"wavelengths": [nm / 1000 for nm in channels.wavelengths]}
    generator = KERNELS[kernel] and KERNELS[kernel](conv.out_channels, rule.rows, size, **extra)
    stem_conv = ChannelSetConv2d(
        channels,
        conv.out_channels,
        size,
        conv.stride[0],
        size // 2,
        fill=rule,
        kernel=generator,
        embedding=embedding,
    )
    return insert_stem(network, "conv1", stem_conv)


def channels_of(dataset: Mapping) -> Channels:
    """The channels of a network, from the entry `dataset` of its checkpoint."""
    names = dataset["channel_names"]
    return Channels(dict(zip(names, dataset.get("wavelengths") or [None] * len(names))))


def load_channel_net(path: str | Path, fill: str | None = None) -> tuple[ScaledResNet, dict]:
    """Rebuild the network of a model.pt that train_task1.py wrote, in eval mode; returns it with the
    checkpoint.

    Args:
        path: of the checkpoint.
        fill: evaluate it under another fill rule than it was trained with.

    Raises:
        UserError: not such a file, an architecture this version does not know, or a rule that needs other
            kernels.
    """
    checkpoint = load_checkpoint(path, CHECKPOINT)
    try:
        config, dataset = checkpoint["config"], checkpoint["dataset"]
        statistics = {key: torch.tensor(dataset[key]) for key in ("mean", "std", "covariance")}
        channels = channels_of(dataset)
        model = build_channel_net(
            config["arch"],
            channels,
            len(dataset["class_names"]),
            config["fill"],
            config["kernel"],
            config["templates"],
            config["kernel_size"],
            config["embedding"],
            config["width"],
            config["stem"],
            config["stem_pool"],
            **statistics,
        )
        model.load_state_dict(checkpoint["state"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{path} holds another architecture than this version builds: "
            f"{brief(error)} Evaluate it with the version that trained "
            f"it."
        ) from error
    if fill is not None:
        stem, rule = find_stem(model), build_fill(fill, len(channels), **statistics, names=channels.names)
        if rule.rows != stem.fill.rows:
            raise UserError(
                f"--fill {fill}: the checkpoint's kernels are for rule {config['fill']!r}, "
                "which does not exchange"
            )
        stem.fill = rule
    return model.eval(), checkpoint


def load_late_fusion(paths: list[str]) -> tuple[LateFusion, dict]:
    """The late fusion of one single-channel specialist for each channel of the data; with the first one's
    checkpoint.

    Raises:
        UserError: as `load_channel_net`, or they are not one specialist a channel of one preset, data set and
            seed.
    """
    loaded = [load_channel_net(path) for path in paths]
    by_channel = {
        checkpoint["dataset"]["channel_names"][0]: (model, checkpoint)
        for model, checkpoint in loaded
        if len(checkpoint["dataset"]["channel_names"]) == 1
    }
    origins = {
        (
            checkpoint["dataset"]["digest"],
            *(checkpoint["config"][key] for key in ("image_size", "preset", "seed")),
        )
        for _, checkpoint in loaded
    }
    pictures = {checkpoint["dataset"].get("images_digest", LISTS_ONLY) for _, checkpoint in loaded} - {
        LISTS_ONLY
    }
    known = Channels(loaded[0][1]["dataset"].get("data_channels") or RGB)
    names = known.names
    if set(by_channel) != set(names) or len(loaded) != len(names) or len(origins) != 1 or len(pictures) > 1:
        raise UserError(
            f"late fusion takes {len(names)} checkpoints: specialists for {', '.join(names)}, of "
            f"the same preset, data, image size and seed"
        )
    first = by_channel[names[0]][1]
    fusion = LateFusion([for_channels(by_channel[name][0]) for name in names]).eval()
    return fusion, {
        **first,
        "dataset": {**first["dataset"], "channel_names": names, "wavelengths": known.wavelengths},
        "train_s": sum(checkpoint["train_s"] for _, checkpoint in loaded),
    }


def load_teacher(path: str, cache: PixelCache, channels: int) -> nn.Module:
    """The network of the checkpoint `path` on all channels.

    Args:
        cache: the student's data.
        channels: how many channels the student's images have, all of which it takes.

    Raises:
        UserError: not a checkpoint of train_task1.py, of other data or of some channels only.
    """
    model, checkpoint = load_channel_net(path)
    other = difference(cache, checkpoint["dataset"], f"--teacher {path}")
    if other or find_stem(model).in_channels != channels:
        raise UserError(
            f"--teacher {path}: it and the student must both take all channels of the same data"
            + f"; {other}" * bool(other)
        )
    return for_channels(model)


# ---------------------------------------------------------------- one set of channels, late fusion


def for_channels(net: nn.Module, channels=None) -> nn.Module:
    """A network of x (B, n, H, W) alone, the channels `channels` (None: all) of `net`: a plain one of its own
    weights, or where the stem is no plain convolution, `net` with its set fixed.
    """
    if isinstance(net, LateFusion):
        return net.for_channels(channels)
    return FixedChannels(net, channels) if find_stem(net).unfoldable else fold_channels(net, channels)


class FixedChannels(nn.Module):
    """`net` on one set of channels."""

    def __init__(self, net: nn.Module, channels=None):
        super().__init__()
        self.net, self.channels = net, channels

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x, channels=self.channels)


class LateFusion(nn.Module):
    """Mean of the softmax outputs of single-channel networks.

    Args:
        networks: one a channel in the order of the ids, each takes (B, 1, H, W).
    """

    def __init__(self, networks: list[nn.Module]):
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def for_channels(self, channels=None) -> nn.Module:
        """A network of the channels `channels` alone: x (B, n, H, W) -> class probabilities (B, K)."""
        ids = range(len(self.networks)) if channels is None else channels
        return _Average([self.networks[i] for i in ids])


class _Average(nn.Module):
    def __init__(self, networks: list[nn.Module]):
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([net(x[:, i : i + 1]).softmax(1) for i, net in enumerate(self.networks)]).mean(0)
