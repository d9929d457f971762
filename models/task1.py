"""Build the networks of Task 1 from options, and rebuild them from checkpoints of train_task1.py."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from channelset import Channels, ChannelSetConv2d, build_fill, find_stem, insert_stem
from channelset.adapt import remove_hooks
from data.cache import PixelCache
from data.identity import LISTS_ONLY, difference
from data.lists import RGB
from models.kernels import Dynamic, HyperNetwork, Omni, Templates, Tied, Wavelength
from models.load import load
from models.resnet import ScaledResNet
from utils import UserError

CHECKPOINT = "task1-model"  # value of "kind" in a checkpoint of this task, see storage/checkpoint.py

# the class that generates the stem's kernel, by name; None: the kernel is a plain parameter
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
    """Build a ResNet whose first convolution takes any set of its channels.

    Call it as net(x, channels=...) or net(x, mask=...).

    Args:
        channels: number of channels, or names and wavelengths of the channels, see `channelset.Channels`.
        arch, num_classes, width, stem, stem_pool: as in `ScaledResNet`.
        fill, mean, std, covariance: as in `build_fill`.
        kernel: how the kernel of the first convolution is generated, a key of `KERNELS`.
        templates: number of templates for the kernel "templates".
        kernel_size: side of the first convolution, odd. None: the side that `stem` names.
        embedding: as in `ChannelSetConv2d`.

    Raises:
        ValueError: the fill rule is unknown, or a statistic that the rule needs is missing.
    """
    channels = Channels(channels)
    network = ScaledResNet(arch, num_classes, len(channels), width, stem, stem_pool)
    conv = network.conv1
    rule = build_fill(fill, len(channels), mean, std, covariance, names=channels.names)
    size = kernel_size or conv.kernel_size[0]
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


def build_from_options(options: Mapping, channels, num_classes: int, statistics: Mapping) -> ScaledResNet:
    """Build the network that the options of a training name.

    `statistics` is a dict with "mean", "std" and "covariance" of the channels.
    """
    names = ("arch", "fill", "kernel", "templates", "kernel_size", "embedding", "width", "stem", "stem_pool")
    chosen = {name: options[name] for name in names}
    return build_channel_net(channels=channels, num_classes=num_classes, **chosen, **statistics)


def statistics_of(dataset: Mapping) -> dict[str, Tensor]:
    """Return the mean, std and covariance of a network's channels, from the value `dataset` of its checkpoint."""
    return {key: torch.tensor(dataset[key]) for key in ("mean", "std", "covariance")}


def channels_of(dataset: Mapping) -> Channels:
    """Return the channels of a network, from the value `dataset` of its checkpoint."""
    names = dataset["channel_names"]
    return Channels(dict(zip(names, dataset.get("wavelengths") or [None] * len(names))))


def load_channel_net(path: str | Path, fill: str | None = None) -> tuple[ScaledResNet, dict]:
    """Rebuild the network from a model.pt of train_task1.py; return the network and the content of the file.

    The network is in eval mode.

    Args:
        path: path of the model.pt.
        fill: fill rule that replaces the rule of the training; None: the rule of the training stays.

    Raises:
        UserError: see `load`; or the rule `fill` needs other kernels than the network has.
    """

    def build(options: Mapping, dataset: Mapping) -> ScaledResNet:
        return build_from_options(
            options, channels_of(dataset), len(dataset["class_names"]), statistics_of(dataset)
        )

    model, checkpoint = load(path, CHECKPOINT, build)
    if fill is not None:
        stem, channels = find_stem(model), channels_of(checkpoint["dataset"])
        rule = build_fill(fill, len(channels), **statistics_of(checkpoint["dataset"]), names=channels.names)
        if rule.rows != stem.fill.rows:
            raise UserError(
                f"--fill {fill}: the kernels of {path} were trained for rule "
                f"{checkpoint['config']['fill']!r} and do not fit rule {fill!r}; use another rule"
            )
        stem.fill = rule.eval()  # in eval mode, the rule remembers the matrices of its sets
    return model, checkpoint


def load_late_fusion(paths: list[str], recipe: Callable[[dict], Hashable]) -> tuple[LateFusion, dict]:
    """Join specialists to a late fusion; return the late fusion and a checkpoint for it.

    A specialist is a network that was trained for one channel set. Here each channel of the data has a specialist. The
    checkpoint is a copy of the first channel's checkpoint, with all channels and the sum of the training times.

    Args:
        paths: the model.pt of each specialist.
        recipe: a function that maps the options of a specialist to the part that all specialists must share.

    Raises:
        UserError: see `load_channel_net`; or a channel has no specialist or several; or the specialists differ in
            preset, data, seed or recipe.
    """
    loaded = [load_channel_net(path) for path in paths]
    by_channel = {
        checkpoint["dataset"]["channel_names"][0]: (model, checkpoint)
        for model, checkpoint in loaded
        if len(checkpoint["dataset"]["channel_names"]) == 1
    }
    checkpoints = [checkpoint for _, checkpoint in loaded]
    origins = {
        (c["dataset"]["digest"], recipe(c["config"]), *(c["config"][key] for key in ("preset", "seed")))
        for c in checkpoints
    }
    pictures = {c["dataset"].get("images_digest", LISTS_ONLY) for c in checkpoints} - {LISTS_ONLY}
    channels = Channels(checkpoints[0]["dataset"].get("data_channels") or RGB)
    names = channels.names
    if set(by_channel) != set(names) or len(loaded) != len(names) or len(origins) != 1 or len(pictures) > 1:
        raise UserError(
            f"late fusion takes {len(names)} checkpoints: specialists for {', '.join(names)}, with "
            f"the same preset, data, seed and options"
        )
    first = by_channel[names[0]][1]
    fusion = LateFusion([for_channels(by_channel[name][0]) for name in names]).eval()
    return fusion, {
        **first,
        "dataset": {**first["dataset"], "channel_names": names, "wavelengths": channels.wavelengths},
        "train_s": sum(c["train_s"] for c in checkpoints),
    }


def load_teacher(path: str, cache: PixelCache, channels: int) -> nn.Module:
    """Rebuild the teacher from the checkpoint `path`; return the network for all channels.

    Args:
        cache: data of the student, the network that learns from the teacher.
        channels: number of channels of the student's images; the student takes all of these channels.

    Raises:
        UserError: `path` is not a checkpoint of train_task1.py, or its network was trained on other data or on only
            some of the channels.
    """
    model, checkpoint = load_channel_net(path)
    mismatch = difference(cache, checkpoint["dataset"], f"--teacher {path}")
    if mismatch or find_stem(model).in_channels != channels:
        reason = f"; {mismatch}" if mismatch else ""
        raise UserError(
            f"--teacher {path}: teacher and student must both take all channels of the same data{reason}"
        )
    return for_channels(model)


# ---------------------------------------------------------------- one set of channels, late fusion


def for_channels(net: nn.Module, channels=None) -> nn.Module:
    """Fix the channel set of `net` (None: all channels); return a network that takes only images x (B, n, H, W).

    The stem is folded into a plain convolution. If the kernel depends on the image, the stem stays. All other layers
    are shared with `net`. `channelset.fold_channels` also copies these layers, which takes longer than a small batch.
    """
    if isinstance(net, LateFusion):
        return net.for_channels(channels)
    stem = find_stem(net)
    if stem.unfoldable:
        return FixedChannels(net, channels)
    shared = {id(layer): layer for layer in net.children() if layer is not stem}
    plain = copy.deepcopy(net, {id(stem): stem.fold(channels), **shared})
    remove_hooks(plain)
    return plain


class FixedChannels(nn.Module):
    """A wrapper that passes the same set of channels to `net` at every call."""

    def __init__(self, net: nn.Module, channels):
        super().__init__()
        self.net, self.channels = net, channels

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x, channels=self.channels)


class LateFusion(nn.Module):
    """A model that averages the class probabilities of single-channel networks.

    Args:
        networks: a network for each channel, in the order of the channel ids. Each network takes images (B, 1, H, W).
    """

    def __init__(self, networks: list[nn.Module]):
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def for_channels(self, channels=None) -> LateFusion:
        """Return the late fusion of only these channels."""
        ids = range(len(self.networks)) if channels is None else channels
        return LateFusion([self.networks[i] for i in ids])

    def forward(self, x: Tensor) -> Tensor:
        """Map images x (B, n, H, W) to the logarithms of class probabilities (B, K), which are logits."""
        logs = [net(x[:, i : i + 1]).float().log_softmax(1) for i, net in enumerate(self.networks)]
        return torch.stack(logs).logsumexp(0) - math.log(len(logs))
