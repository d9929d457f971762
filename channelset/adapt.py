"""Put the stem into any network: one line, every other part of it stays what it was."""

from __future__ import annotations

import copy
import inspect
from bisect import bisect
from collections.abc import Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .fill import RIDGE, BySize, build_fill
from .names import Channels
from .stem import ChannelSetConv2d, why_not_plain

ARGUMENTS = ("channels", "mask")


def adapt_first_conv(
    model: nn.Module,
    fill: str = "regression",
    *,
    path: str | None = None,
    channels=None,
    covariance=None,
    mean=None,
    std=None,
    ridge: float = RIDGE,
    embedding: bool = True,
    init: str | Mapping = "keep",
) -> nn.Module:
    """Make a network take any set of its input channels; with all of them it stays the same function.

        net = adapt_first_conv(resnet18(), fill="mean")
        net(x_rb, channels=[0, 2]);  net(x, mask=present)

    The network itself is changed and returned: its first convolution becomes a `ChannelSetConv2d` in the same
    place, so that all other names of parameters stay, and its forward takes `channels` and `mask` as well
    (unless it has arguments of these names: then use `present`). Only the stem knows them: a forward that
    needs the number of channels before it must have all of them and a mask. Under torch.compile each list of
    `channels` is a graph of its own, of which there are few: for many sets give a mask, or fold.

    Args:
        model: any network; every image it is given is normalised channel by channel before.
        fill: a key of `fill.FILLS`. "regression" needs `covariance`, "mean" needs nothing.
        path: of the first convolution, such as "backbone.conv1". Default: timm's
            `default_cfg["first_conv"]`, else the first Conv2d in the order of definition.
        channels: their number, names, wavelengths in nm (floats) or both as a mapping. Default: as many as the
            convolution has, unnamed.
        covariance, mean, std: of the raw channels, from `channel_statistics`; see `fill.build_fill`.
        ridge: of the regression.
        embedding: learn an offset that tells the network which channels it was given.
        init: "keep": the channels are those the convolution was trained with. A mapping of new channels to
            the old ones whose kernels they take, such as {"B04": 0, "B03": 1, "B02": 2}: the others start at
            zero, so that on these three the network stays the same function until it is trained (under the
            fill rules zero, mean and regression). "wavelength": each new channel takes the kernel that lies
            at its wavelength between its neighbours of an adapted network.

    Raises:
        ValueError: no such convolution, one that the stem cannot stand for (named with path and type), or
            channels, covariance and init that do not fit.
    """
    path, old = _first_conv(model, path)
    if isinstance(old, ChannelSetConv2d):
        known, kernel = old.channels, old.kernel().detach()
        if isinstance(old.fill, BySize):
            raise ValueError(
                f"{path}: fill rule 'by_size' has kernels of its own for each size of a set, "
                f"which do not go over to another stem"
            )
    else:
        wrong = why_not_plain(old)
        if wrong or not isinstance(old, nn.Conv2d):
            raise ValueError(f"{path} is no plain convolution: {wrong}")
        known, kernel = Channels(old.in_channels), old.weight.detach()
    wanted = known if channels is None else Channels(channels)
    if init == "keep" and len(wanted) != len(known):
        raise ValueError(
            f"{path} has {len(known)} input channels, {len(wanted)} were named; say which of them "
            f"take its kernels, such as init={{{wanted.names[0]!r}: 0}}"
        )
    source = _sources(init, known, wanted)
    rule = build_fill(fill, len(wanted), mean, std, covariance, ridge, wanted.names)
    conv = old.fold() if isinstance(old, ChannelSetConv2d) else old
    stem = ChannelSetConv2d.from_conv2d(
        conv, rule, embedding, wanted, torch.einsum("onhw,cn->ochw", kernel, source.to(kernel))
    )
    if isinstance(old, ChannelSetConv2d):
        stem.bias = old.bias  # what `fold` had in it is the embedding's
        if embedding and old.embedding is not None:
            share = torch.where(source.any(1, keepdim=True), source, 1 / len(known)).to(old.embedding)
            stem.embedding = nn.Parameter(share @ old.embedding.detach(), old.embedding.requires_grad)
    return insert_stem(model, path, stem)


def insert_stem(model: nn.Module, path: str, stem: ChannelSetConv2d) -> nn.Module:
    """Put `stem` in the place `path` of `model` and let the model's forward take `channels` and `mask`."""
    _replace(model, path, stem)
    own = inspect.signature(model.forward).parameters
    if (
        not any(isinstance(hook, _TakeSet) for hook in model._forward_pre_hooks.values())
        and not set(ARGUMENTS) & own.keys()
    ):
        model.register_forward_pre_hook(_TakeSet(path), with_kwargs=True)
        model.register_forward_hook(_ForgetSet(path), always_call=True)
    return model


def find_stem(model: nn.Module) -> ChannelSetConv2d:
    """The stem of an adapted network.

    Raises:
        ValueError: it has none, or several.
    """
    stems = [module for module in model.modules() if isinstance(module, ChannelSetConv2d)]
    if len(stems) != 1:
        raise ValueError(
            f"{type(model).__name__} has {len(stems)} stems for sets of channels, expected one; "
            f"adapt_first_conv puts one in"
        )
    return stems[0]


@contextmanager
def present(model: nn.Module, channels=None, mask: Tensor | None = None):
    """Within it every call of `model` or of a part of it (timm's forward_features, a feature extractor) is
    told these channels; the arguments of a call win over it.

        with present(net, channels=["B04", "B03"]):
            features = net.forward_features(x)

    Raises:
        ValueError: no stem, or both or neither of the two.
    """
    if (channels is None) == (mask is None):
        raise ValueError("give `channels` (one set for the batch) or `mask` (one set an image)")
    stem = find_stem(model)
    before, stem.ambient = stem.ambient, (channels, mask)
    try:
        yield model
    finally:
        stem.ambient = before


def fold_channels(model: nn.Module, channels=None) -> nn.Module:
    """A plain network of the images (B, n, H, W) of these channels: a copy of its own with a plain Conv2d, no
    trace of sets left. Type, device and mode stay.

    Raises:
        ValueError: wrong channels, or a stem that is no plain convolution, see `ChannelSetConv2d.unfoldable`.
    """
    stem = find_stem(model)
    conv, ids = stem.fold(channels), stem.check_ids(channels)
    if model is stem:
        return conv
    path = next(name for name, module in model.named_modules() if module is stem)
    folded = copy.deepcopy(model)
    for hooks in (folded._forward_pre_hooks, folded._forward_hooks):
        for key in [key for key, hook in hooks.items() if isinstance(hook, _OfTheSet)]:
            del hooks[key]
            for flags in (folded._forward_pre_hooks_with_kwargs, folded._forward_hooks_always_called):
                flags.pop(key, None)
    _replace(folded, path, _with_preprocessing(folded, conv, ids))
    return folded


def _replace(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


def _with_preprocessing(folded: Any, conv: nn.Conv2d, ids: list[int]) -> nn.Module:
    """`conv`, behind what the network itself did to each channel: Inception's and GoogLeNet's change of
    normalisation, or a detector's normalisation, which keeps these channels' values alone.
    """
    if getattr(folded, "transform_input", False):
        folded.transform_input = False
        std, mean = torch.tensor((0.229, 0.224, 0.225))[ids], torch.tensor((0.485, 0.456, 0.406))[ids]
        return nn.Sequential(_Renormalise(std / 0.5, (mean - 0.5) / 0.5).to(conv.weight), conv)
    transform: Any = getattr(folded, "transform", None)
    if hasattr(transform, "image_mean") and hasattr(transform, "image_std"):
        transform.image_mean = [transform.image_mean[i] for i in ids]
        transform.image_std = [transform.image_std[i] for i in ids]
    return conv


class _Renormalise(nn.Module):
    """Computes scale x + shift, channel by channel."""

    scale: Tensor
    shift: Tensor

    def __init__(self, scale: Tensor, shift: Tensor):
        super().__init__()
        self.register_buffer("scale", scale[:, None, None])
        self.register_buffer("shift", shift[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x + self.shift


# ---------------------------------------------------------------- a network's arguments


class _OfTheSet:
    """Hook of the network whose stem is at `path`."""

    def __init__(self, path: str):
        self.path = path


class _TakeSet(_OfTheSet):
    """Before forward: hand `channels` and `mask` to the stem; forward is called without them."""

    def __call__(self, model, args, kwargs):
        kwargs = dict(kwargs)
        channels, mask = kwargs.pop("channels", None), kwargs.pop("mask", None)
        if channels is None and mask is None:
            return None
        if channels is not None and mask is not None:
            raise ValueError("give `channels` (one set for the batch) or `mask` (one set an image), not both")
        stem = model.get_submodule(self.path)
        if (
            channels is not None
            and args
            and (isinstance(args[0], (list, tuple)) or getattr(model, "transform_input", False))
        ):
            images, mask = _spread(args[0], stem, channels)  # something before the stem counts the channels
            args, channels = (images, *args[1:]), None
        stem.given = channels, mask
        return args, kwargs


class _ForgetSet(_OfTheSet):
    """After forward, and after an error in it."""

    def __call__(self, model, args, output):
        model.get_submodule(self.path).given = None


def _spread(images, stem: ChannelSetConv2d, channels):
    """Images with all channels, zero where absent, and their mask (B, C); a list of (n, H, W) or (B, n, H, W).

    Raises:
        ValueError: images and channels disagree.
    """
    ids = stem.check_ids(channels)
    if min(ids) < 0:
        raise ValueError(
            "channels unseen in training cannot be told to a network that treats each channel "
            "before its first convolution"
        )
    several = isinstance(images, (list, tuple))
    spread = []
    for image in images if several else [images]:
        if image.shape[-3] != len(ids):
            raise ValueError(f"an image has {image.shape[-3]} channels but {len(ids)} were named")
        full = image.new_zeros(*image.shape[:-3], stem.in_channels, *image.shape[-2:])
        full[..., ids, :, :] = image
        spread.append(full)
    mask = torch.zeros(stem.in_channels, dtype=torch.bool, device=spread[0].device)
    mask[ids] = True
    return (spread, mask.expand(len(spread), -1)) if several else (spread[0], mask.expand(len(spread[0]), -1))


# ---------------------------------------------------------------- the place


def _first_conv(model: nn.Module, path: str | None) -> tuple[str, nn.Module]:
    """Path and module of the first convolution.

    Raises:
        ValueError: there is none, or it stands in several places.
    """
    modules = dict(model.named_modules())
    if path is None:
        stems = [name for name, module in modules.items() if isinstance(module, ChannelSetConv2d)]
        known = (getattr(model, "default_cfg", None) or {}).get("first_conv")
        known = known if isinstance(known, str) and isinstance(modules.get(known), nn.Conv2d) else None
        path = (
            (stems and stems[0])
            or known
            or next((name for name, module in modules.items() if isinstance(module, nn.Conv2d)), None)
        )
        if path is None:
            raise ValueError(
                f"{type(model).__name__} has no Conv2d; a network that begins otherwise cannot be adapted"
            )
    if path not in modules:
        raise ValueError(f"{type(model).__name__} has no module {path!r}")
    if path == "":
        raise ValueError("the network is itself the convolution: use ChannelSetConv2d.from_conv2d")
    found = modules[path]
    places = [name for name, module in model.named_modules(remove_duplicate=False) if module is found]
    if len(places) > 1:
        raise ValueError(f"{path} stands in several places ({', '.join(places)}), which would then differ")
    return path, found


def _sources(init: str | Mapping, known: Channels, wanted: Channels) -> Tensor:
    """How much each wanted channel takes of each known one's kernel: (C wanted, C known).

    Raises:
        ValueError: an unknown channel, or a wavelength is missing.
    """
    source = torch.zeros(len(wanted), len(known))
    if isinstance(init, Mapping):
        for new, old in init.items():
            source[wanted.ids([new])[0], known.ids([old])[0]] = 1
    elif init == "keep":
        source.fill_diagonal_(1)
    elif init == "wavelength":
        old_nm, new_nm = ([nm for nm in side.wavelengths if nm is not None] for side in (known, wanted))
        if len(old_nm) < len(known) or len(new_nm) < len(wanted):
            raise ValueError(
                "init='wavelength' needs the wavelength of every channel, old and new: give "
                "channels={'B04': 665.0, ...}"
            )
        order = sorted(range(len(known)), key=lambda i: old_nm[i])
        values = [old_nm[i] for i in order]
        for row, value in zip(source, new_nm):
            right = min(max(bisect(values, value), 1), len(values) - 1) if len(values) > 1 else 0
            left = max(right - 1, 0)
            width = values[right] - values[left]
            share = min(max((value - values[left]) / width, 0.0), 1.0) if width else 1.0
            row[order[left]] += 1 - share
            row[order[right]] += share
    else:
        raise ValueError(f"init {init!r}: expected 'keep', 'wavelength' or a mapping of new channels to old")
    return source
