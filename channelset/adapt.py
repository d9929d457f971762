"""Put the stem into any network: one line, every other part of it stays what it was."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from . import context
from .check import check_example
from .fill import FILLS, RIDGE, BySize, Fill, Regression, build_fill
from .init import kernel_sources
from .names import Channels
from .place import ChannelPlace, FixedFill, InputFill
from .sampling import Sampler
from .statistics import ChannelStatistics, numbers
from .stem import ChannelSetConv2d, why_not_plain

ARGUMENTS = ("channels", "mask")
INPUT = "channel_fill"  # name of the module that fills the images at a network's input
COUNTS = ("num_channels", "in_channels", "in_chans", "n_channels")  # where networks note how many they take


def adapt_first_conv(
    model: nn.Module,
    fill: str = "regression",
    *,
    path: str | None = None,
    where: str = "stem",
    channels: Any = None,
    statistics: Any = None,
    normalised: bool = True,
    covariance: Any = None,
    mean: Any = None,
    std: Any = None,
    ridge: float | None = None,
    embedding: bool | None = None,
    init: str | Mapping[Any, Any] = "keep",
    trained_on: Any = None,
    sample: str | Sampler | None = None,
    seed: int = 0,
    example: Any = None,
) -> nn.Module:
    """Make a network take any set of its input channels; with all of them it stays the same function.

        net = adapt_first_conv(resnet18(), statistics=channel_statistics(loader), sample="hcs")
        net(x_rb, channels=[0, 2]);  net(x, mask=present)

    The network itself is changed and returned: its first convolution becomes a `ChannelSetConv2d` in the same
    place, so that all other names of parameters stay, and its forward takes `channels` and `mask` as well
    (unless it has arguments of these names: then use `present`). Subtract each channel's mean and divide by its
    standard deviation before the network sees an image, else say so with `normalised=False` or `mean=`.

    Not checked without an `example`: that no other layer reads the images, and that the first convolution in the
    order of definition is the first that runs. A network made on the meta device keeps what the rule needs.
    Under torch.compile each list of `channels` is a graph of its own, of which there are few: for many sets give
    a mask, or fold.

    Args:
        model: any network.
        fill: a key of `fill.FILLS`. "regression" needs statistics, "mean" needs nothing.
        path: of the first convolution, such as "backbone.conv1". Default: timm's
            `default_cfg["first_conv"]`, else the first Conv2d in the order of definition.
        where: "stem", or "input": fill the images before the network sees them. This is for networks that read
            the images in several places, in three dimensions or without a convolution; it has no embedding, and
            only calls of the network itself are filled.
        channels: their number, names, wavelengths in nm (floats) or both as a mapping, see `names.Channels`.
            Default: as many as the convolution has, unnamed.
        statistics: what `channel_statistics` gave, for any rule.
        normalised: whether images are normalised with the mean and the deviation of `statistics`. False: the
            network gets them as they were when the statistics were taken.
        covariance, std: instead of `statistics`: covariance (C, C) of the raw channels, and what they are divided
            by, by default the root of its diagonal. The channels' mean was subtracted.
        mean: with them: the channels' mean (C,), which was not subtracted, only divided by `std`. Under fill rule
            "black": mean and std that images are normalised with.
        ridge: of the regression, see `fill.Regression`.
        embedding: learn an offset that tells the network which channels it was given. Default: in the stem.
        init: "keep": the channels are those the convolution was trained with. A mapping of new channels to what
            they take of the old ones' kernels: one old channel, a list (their sum), or a mapping to weights. The
            others start at zero: after {"B04": 0, "B03": 1, "B02": 2} the network stays the same function on these
            three until it is trained (under the fill rules zero, mean and regression).
            "wavelength": the kernel at its wavelength between its neighbours; "repeat": the old kernels in turn;
            "mean": their mean. These three keep the response to an image whose channels are alike.
        trained_on: names and wavelengths of the channels that a plain convolution was trained with, for `init`.
        sample: how a set is drawn for each image in training mode where the call names none, see
            `sample_channels`; or a `Sampler`. So trainers that call `model(x)` need nothing else. Its position is
            a part of the state dict; it is off in eval mode.
        seed: of the drawn sets.
        example: images as the network gets them, or a mapping of its arguments. The network runs on them a few
            times in eval mode, to check that absent channels have no influence.

    Raises:
        ValueError: no such convolution, one that the stem cannot stand for (named with path and type), channels,
            statistics and init that do not fit, arguments that the rule does not use, or what the example shows.
            Then the network is what it was.
    """
    if where not in ("stem", "input"):
        raise ValueError(f"where={where!r}: expected 'stem' or 'input'")
    sampler = Sampler(sample, seed=seed) if isinstance(sample, str) else sample
    given = _Given(fill, statistics, normalised, covariance, mean, std, ridge)
    if where == "input":
        for name, value in (("path", path), ("embedding", embedding), ("trained_on", trained_on)):
            if value:
                raise ValueError(f"where='input' leaves the first layer as it is: {name}= has no use")
        if init != "keep":
            raise ValueError("where='input' leaves the first layer as it is: init= has no use")
        wanted = Channels(_input_channels(model, given, example) if channels is None else channels)
        place: ChannelPlace = InputFill(wanted, given.rule(wanted), sampler)
        if place.fill.rows != len(wanted):
            raise ValueError(f"fill rule {fill!r} needs kernels of its own: where='input' has none")
        place.normalisation = given.normalisation()
        undo = _insert_input(model, place)
        return _checked(model, place, example, undo)

    path, places, old = _first_conv(model, path, channels, given, example)
    if isinstance(old, ChannelSetConv2d):
        if trained_on is not None:
            raise ValueError(
                "trained_on= is for a plain convolution; this network is adapted and knows its channels"
            )
        known, kernel = old.channels, old.kernel().detach()
        if isinstance(old.fill, BySize):
            raise ValueError(
                f"{path}: fill rule 'by_size' has kernels of its own for each size of a set, "
                f"which do not go over to another stem"
            )
    else:
        wrong = why_not_plain(old)
        if wrong:
            raise ValueError(f"{path} is no plain convolution: {wrong}; where='input' needs none")
        assert isinstance(old, nn.Conv2d)
        known, kernel = Channels(old.in_channels), old.weight.detach()
        if trained_on is not None:
            if len(Channels(trained_on)) != len(known):
                raise ValueError(
                    f"trained_on= names {len(Channels(trained_on))} channels, {path} has {len(known)}"
                )
            known = Channels(trained_on)
    wanted = known if channels is None else Channels(channels)
    if init == "keep" and len(wanted) != len(known):
        raise ValueError(
            f"{path} has {len(known)} input channels, {len(wanted)} were named; say which of them "
            f"take its kernels, such as init={{{wanted.names[0]!r}: 0}}"
        )
    source = kernel_sources(init, known, wanted)
    rule, embedded = given.rule(wanted), embedding is not False
    conv = old.fold() if isinstance(old, ChannelSetConv2d) else old
    weight = kernel if init == "keep" else torch.einsum("onhw,cn->ochw", kernel, source.to(kernel))
    stem = ChannelSetConv2d.from_conv2d(conv, rule, embedded, wanted, weight, sampler)
    stem.normalisation = given.normalisation()
    if isinstance(old, ChannelSetConv2d):
        stem.bias = old.bias  # what `fold` had in it is the embedding's
        stem.sampler = sampler or old.sampler
        if embedded and old.embedding is not None:
            total = source.sum(1, keepdim=True)
            share = torch.where(total != 0, source / total, 1 / len(known)).to(old.embedding)
            stem.embedding = nn.Parameter(share @ old.embedding.detach(), old.embedding.requires_grad)
        stem.train(stem.training)
    hooks = _insert(model, places, stem)

    def undo_stem() -> None:
        for place in places:
            _replace(model, place, old)
        for hook in hooks:
            hook.remove()

    return _checked(model, stem, example, undo_stem, len(places) > 1)


def insert_stem(model: nn.Module, path: str, stem: ChannelSetConv2d) -> nn.Module:
    """Put `stem` in the place `path` of `model` and let the model's forward take `channels` and `mask`."""
    _insert(model, [path], stem)
    return model


def find_stem(model: nn.Module) -> ChannelSetConv2d:
    """Return the stem of an adapted network.

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


def find_place(model: nn.Module) -> ChannelPlace:
    """Return the part of an adapted network that knows the channels: its stem, or the filling at its input.

    Raises:
        ValueError: it has none, or several stems.
    """
    inputs = [module for module in model.modules() if isinstance(module, InputFill)]
    return inputs[0] if len(inputs) == 1 else find_stem(model)


@contextmanager
def present(model: nn.Module, channels: Any = None, mask: Tensor | None = None) -> Iterator[nn.Module]:
    """Tell these channels to every call of `model`, or of a part of it, within a `with` block.

    Parts are timm's forward_features, or a feature extractor; the arguments of a call win over the block. The
    block holds for the running thread or asynchronous task alone.

        with present(net, channels=["B04", "B03"]):
            features = net.forward_features(x)

    Raises:
        ValueError: no stem, both or neither of the two, or a network that runs in threads of its own.
        RuntimeError: at the end, where the network fills at its input and was not itself called.
    """
    if (channels is None) == (mask is None):
        raise ValueError("give `channels` (one set for the batch) or `mask` (one set an image)")
    for module in model.modules():
        if isinstance(module, nn.DataParallel) and len(module.device_ids) > 1:
            raise ValueError("nn.DataParallel calls the network in other threads: give it mask= instead")
    place = find_place(model)
    before, context.calls.filled = getattr(context.calls, "filled", False), False
    context.push(place, channels, mask, call=False)
    try:
        yield model
        if isinstance(place, InputFill) and not context.calls.filled:
            raise RuntimeError(
                "the images were not filled: where='input' sees calls of the network itself, not of its parts"
            )
    finally:
        context.pop(place, call=False)
        context.calls.filled = before or context.calls.filled


class WithMask(nn.Module):
    """A network whose forward has the mask as its second argument, as exporters want it: forward(x, mask).

    torch.export.export(WithMask(net).eval(), (x, mask))
    """

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: Any, mask: Tensor) -> Any:
        return self.net(x, mask=mask)


def fold_channels(model: nn.Module, channels: Any = None) -> nn.Module:
    """Make a plain network of the images (B, n, H, W) of these channels: a copy of its own with a plain Conv2d.

    No trace of sets is left. Type, device and mode stay. Fold before BatchNorm is fused or the network is
    quantised. Of a network that fills at its input the copy does so for this one set.

    Raises:
        ValueError: wrong channels, or a stem that is no plain convolution, see `ChannelSetConv2d.unfoldable`.
    """
    place = find_place(model)
    ids = place.check_ids(channels)
    if isinstance(place, InputFill):
        if place.fill.per_image or place.fill.absent is not None:
            raise ValueError("the fill rule is no linear map of one set: it does not fold")
        if min(ids) < 0:
            raise ValueError("channels unseen in training cannot be filled at the input")
        folded = copy.deepcopy(model)
        remove_hooks(folded)
        setattr(folded, INPUT, FixedFill(place.fill, ids).train(place.training))
        folded.register_forward_pre_hook(_FillFixed(INPUT, _first_argument(model)), with_kwargs=True)
        return folded
    assert isinstance(place, ChannelSetConv2d)
    conv = place.fold(channels)
    if model is place:
        return conv
    paths = [name for name, module in model.named_modules(remove_duplicate=False) if module is place]
    folded = copy.deepcopy(model)
    remove_hooks(folded)
    put = _with_preprocessing(folded, conv, ids)
    for path in paths:
        _recount(folded, path, place.in_channels, len(ids))
        _replace(folded, path, put)
    return folded


def remove_hooks(model: nn.Module) -> None:
    """Take away what lets a network's forward take `channels` and `mask`."""
    for hooks in (model._forward_pre_hooks, model._forward_hooks):
        for key in [key for key, hook in hooks.items() if isinstance(hook, _OfTheSet)]:
            del hooks[key]
            for flags in (model._forward_pre_hooks_with_kwargs, model._forward_hooks_always_called):
                flags.pop(key, None)


# ---------------------------------------------------------------- what the caller said of the images


class _Given:
    """Statistics and rule as the caller gave them, checked against each other."""

    def __init__(
        self,
        fill: str,
        statistics: Any,
        normalised: bool,
        covariance: Any,
        mean: Any,
        std: Any,
        ridge: float | None,
    ):
        if fill not in FILLS:
            raise ValueError(f"unknown fill rule {fill!r}; choose one of {', '.join(FILLS)}")
        self.fill, self.normalised, self.ridge = fill, normalised, ridge
        self.regression = issubclass(FILLS[fill], Regression)
        self.whole = statistics is not None
        self.mean: Tensor | None
        self.std: Tensor | None
        self.covariance: Tensor | None
        if ridge is not None and not self.regression:
            raise ValueError(f"fill rule {fill!r} does not use ridge=")
        if self.whole:
            if any(value is not None for value in (covariance, mean, std)):
                raise ValueError("statistics= holds mean, std and covariance: leave these out")
            values = statistics.values() if isinstance(statistics, Mapping) else statistics
            if isinstance(statistics, Mapping):
                if set(statistics) != set(ChannelStatistics._fields):
                    raise ValueError(f"statistics= has the entries {', '.join(ChannelStatistics._fields)}")
                values = [statistics[name] for name in ChannelStatistics._fields]
            if not isinstance(values, Sequence) or len(values) != 3:
                raise ValueError("statistics= is what channel_statistics returns: mean, std and covariance")
            self.mean, self.std, self.covariance = (
                numbers(value, name) for value, name in zip(values, ChannelStatistics._fields)
            )
            if fill == "black" and not normalised:
                raise ValueError(
                    "fill rule 'black' is for normalised images; black itself is zero: take 'zero'"
                )
            return
        if not normalised:
            raise ValueError("normalised=False needs statistics=; or give covariance=, std= and mean=")
        if covariance is not None and not self.regression:
            raise ValueError(f"fill rule {fill!r} does not use covariance=; give statistics= to any rule")
        if std is not None and not self.regression and mean is None:
            raise ValueError(f"fill rule {fill!r} does not use std=; give statistics= to any rule")
        self.mean, self.std, self.covariance = (
            None if value is None else numbers(value, name)
            for value, name in ((mean, "mean"), (std, "std"), (covariance, "covariance"))
        )

    @property
    def channels(self) -> int | None:
        """How many channels the statistics are of."""
        for value in (self.covariance, self.mean, self.std):
            if value is not None and value.ndim:
                return len(value)
        return None

    def rule(self, channels: Channels) -> Fill:
        centre, std, count = None, self.std, len(channels)
        for value, name in ((self.mean, "mean"), (self.std, "std")):
            if value is not None and value.shape != (count,):
                raise ValueError(f"{name} has shape {tuple(value.shape)}, expected ({count},)")
        if self.whole and not self.normalised:
            centre, std = self.mean, torch.ones(count, dtype=torch.float64, device="cpu")
        elif not self.whole and self.mean is not None and self.fill != "black":
            scale = self.std
            if scale is None and self.covariance is not None and self.covariance.ndim == 2:
                scale = self.covariance.diagonal().sqrt()
            centre = self.mean if scale is None else self.mean / scale
        ridge = RIDGE if self.ridge is None else self.ridge
        return build_fill(self.fill, count, self.mean, std, self.covariance, ridge, channels.names, centre)

    def normalisation(self) -> dict[str, list[float]] | None:
        if not self.whole or not self.normalised:
            return None
        assert self.mean is not None and self.std is not None
        return {"mean": self.mean.tolist(), "std": self.std.tolist()}


def _checked(
    model: nn.Module, place: ChannelPlace, example: Any, undo: Callable[[], None], shared: bool = False
) -> nn.Module:
    """Return the network, or put it back into its old state where the example shows a fault."""
    if example is not None:
        try:
            check_example(model, place, example, shared)
        except Exception:
            undo()
            raise
    return model


# ---------------------------------------------------------------- a network's arguments


class _OfTheSet:
    """Hook of the network whose stem, or filling, is at `path`."""

    def __init__(self, path: str):
        self.path = path


def _one_of(kwargs: dict[str, Any]) -> tuple[Any, Any]:
    channels, mask = kwargs.pop("channels", None), kwargs.pop("mask", None)
    if channels is not None and mask is not None:
        raise ValueError("give `channels` (one set for the batch) or `mask` (one set an image), not both")
    return channels, mask


class _TakeSet(_OfTheSet):
    """Before forward: hand `channels` and `mask` to the stem; forward is called without them."""

    def __call__(self, model: nn.Module, args: Any, kwargs: Any) -> Any:
        stem: Any = model.get_submodule(self.path)
        channels = mask = None
        try:
            kwargs = dict(kwargs)
            channels, mask = _one_of(kwargs)
            if channels is not None and (args or kwargs):
                name = None if args else next(iter(kwargs))
                images = args[0] if name is None else kwargs[name]
                if isinstance(images, (list, tuple)) or _counts_channels(model, self.path, stem.in_channels):
                    images, mask = _spread(images, stem, channels)
                    channels = None
                    if name is None:
                        args = (images, *args[1:])
                    else:
                        kwargs[name] = images
        finally:
            context.push(stem, channels, mask)
        return args, kwargs


class _ForgetSet(_OfTheSet):
    """After forward, and after an error in it."""

    def __call__(self, model: nn.Module, args: Any, output: Any) -> None:
        context.pop(model.get_submodule(self.path))


class _FillInput(_OfTheSet):
    """Before forward: fill the images."""

    def __init__(self, path: str, first: str, own: bool):
        super().__init__(path)
        self.first, self.own = first, own  # name of the images, whether forward has a mask of its own

    def __call__(self, model: nn.Module, args: Any, kwargs: Any) -> Any:
        place: Any = model.get_submodule(self.path)
        kwargs = dict(kwargs)
        channels, mask = (None, None) if self.own else _one_of(kwargs)
        context.calls.filled = True
        return _on_images(args, kwargs, self.first, lambda images: self._fill(place, images, channels, mask))

    def _fill(self, place: Any, images: Any, channels: Any, mask: Any) -> Any:
        if isinstance(images, Tensor):
            return place.fill_images(images, channels, mask)
        if isinstance(images, (list, tuple)) and all(isinstance(image, Tensor) for image in images):
            channels, mask = place.asked(len(images), channels, mask)
            rows = [None if mask is None else mask[i : i + 1] for i in range(len(images))]
            if channels is None and mask is None:
                return images
            return [place.fill_images(image[None], channels, row)[0] for image, row in zip(images, rows)]
        if channels is None and mask is None and place.asked(0, None, None) == (None, None):
            return images
        raise ValueError(f"the network was called with a {type(images).__name__}, not with images to fill")


class _FillFixed(_OfTheSet):
    """Before forward of a folded network: fill the images of its one set."""

    def __init__(self, path: str, first: str):
        super().__init__(path)
        self.first = first

    def __call__(self, model: nn.Module, args: Any, kwargs: Any) -> Any:
        place: Any = model.get_submodule(self.path)

        def fill(images: Any) -> Any:
            if isinstance(images, Tensor):
                return place.fill_images(images)
            return [place.fill_images(image[None])[0] for image in images]

        return _on_images(args, dict(kwargs), self.first, fill)


def _on_images(args: Any, kwargs: dict[str, Any], first: str, change: Callable[[Any], Any]) -> Any:
    if args:
        return (change(args[0]), *args[1:]), kwargs
    if first in kwargs:
        kwargs[first] = change(kwargs[first])
    return args, kwargs


def _first_argument(model: nn.Module) -> str:
    return next(iter(inspect.signature(model.forward).parameters), "")


def _counts_channels(model: nn.Module, path: str, channels: int) -> bool:
    """Say whether something before the stem needs images of all channels."""
    if getattr(model, "transform_input", False):
        return True
    module = model
    for name in path.split("."):
        if getattr(module, "num_channels", None) == channels:  # Hugging Face compares the images with it
            return True
        module = getattr(module, name)
    return False


def _spread(images: Any, stem: ChannelPlace, channels: Any) -> tuple[Any, Tensor]:
    """Return images with all channels, zero where absent, and their mask (B, C).

    Images are a list of (n, H, W), or (B, n, H, W).

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


def _insert(model: nn.Module, paths: list[str], stem: ChannelSetConv2d) -> list[Any]:
    for path in paths:
        _replace(model, path, stem)
    own = inspect.signature(model.forward).parameters
    known = any(isinstance(hook, _OfTheSet) for hook in model._forward_pre_hooks.values())
    if known or set(ARGUMENTS) & own.keys():
        return []
    return [
        model.register_forward_pre_hook(_TakeSet(paths[0]), with_kwargs=True),
        model.register_forward_hook(_ForgetSet(paths[0]), always_call=True),
    ]


def _insert_input(model: nn.Module, place: ChannelPlace) -> Callable[[], None]:
    if any(isinstance(module, ChannelPlace) for module in model.modules()):
        raise ValueError(f"{type(model).__name__} is adapted already")
    if hasattr(model, INPUT):
        raise ValueError(f"{type(model).__name__} has a part named {INPUT!r} already")
    own = bool(set(ARGUMENTS) & inspect.signature(model.forward).parameters.keys())
    reference = next(model.parameters(), None)
    if reference is not None:
        place.to(reference.device)
    model.add_module(INPUT, place.train(model.training))
    hook = model.register_forward_pre_hook(_FillInput(INPUT, _first_argument(model), own), with_kwargs=True)

    def undo() -> None:
        hook.remove()
        del model._modules[INPUT]

    return undo


def _input_channels(model: nn.Module, given: _Given, example: Any) -> int:
    """How many channels the images of a network have."""
    if given.channels is not None:
        return given.channels
    images = next(iter(example.values())) if isinstance(example, Mapping) else example
    if isinstance(images, Tensor):
        return int(images.shape[1])
    for module in model.modules():
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            return int(module.in_channels)
    raise ValueError(
        f"{type(model).__name__} has no convolution that tells how many channels it takes: give channels="
    )


def _replace(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


def _recount(folded: nn.Module, path: str, before: int, after: int) -> None:
    """Change the number of channels where the modules around the stem, or their configuration, note it."""
    module = folded
    for name in path.split("."):
        for holder in (module, getattr(module, "config", None)):
            for attribute in COUNTS:
                value = getattr(holder, "__dict__", {}).get(attribute)  # not what is computed from a layer
                if isinstance(value, int) and not isinstance(value, bool) and value == before:
                    setattr(holder, attribute, after)
        module = getattr(module, name)


def _with_preprocessing(folded: nn.Module, conv: nn.Conv2d, ids: list[int]) -> nn.Module:
    """Return `conv`, behind what the network itself did to each channel.

    This is Inception's and GoogLeNet's change of normalisation, or a detector's normalisation, which keeps these
    channels' values alone.
    """
    if getattr(folded, "transform_input", False):
        setattr(folded, "transform_input", False)  # noqa: B010
        std, mean = torch.tensor((0.229, 0.224, 0.225))[ids], torch.tensor((0.485, 0.456, 0.406))[ids]
        return nn.Sequential(_Renormalise(std / 0.5, (mean - 0.5) / 0.5).to(conv.weight), conv)
    transform: Any = getattr(folded, "transform", None)
    if hasattr(transform, "image_mean") and hasattr(transform, "image_std"):
        transform.image_mean = [transform.image_mean[i] for i in ids]
        transform.image_std = [transform.image_std[i] for i in ids]
    return conv


class _Renormalise(nn.Module):
    """Compute scale x + shift, channel by channel."""

    scale: Tensor
    shift: Tensor

    def __init__(self, scale: Tensor, shift: Tensor):
        super().__init__()
        self.register_buffer("scale", scale[:, None, None])
        self.register_buffer("shift", shift[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x + self.shift


def _first_conv(
    model: nn.Module, path: str | None, channels: Any, given: _Given, example: Any
) -> tuple[str, list[str], nn.Module]:
    """Return the path of the first convolution, all paths where it stands, and itself.

    Raises:
        ValueError: there is none, it may be another one, or it stands in several places.
    """
    modules, chosen = dict(model.named_modules()), path is not None
    if path is None:
        stems = [name for name, module in modules.items() if isinstance(module, ChannelSetConv2d)]
        known = (getattr(model, "default_cfg", None) or {}).get("first_conv")
        known = known if isinstance(known, str) and isinstance(modules.get(known), nn.Conv2d) else None
        path = (
            (stems[0] if stems else None)
            or known
            or next((name for name, module in modules.items() if isinstance(module, nn.Conv2d)), None)
        )
        if path is None:
            other = next(
                (type(m).__name__ for m in modules.values() if isinstance(m, (nn.Conv1d, nn.Conv3d))), ""
            )
            raise ValueError(
                f"{type(model).__name__} has no Conv2d{f', but {other}' if other else ''}: where='input' fills its "
                f"images instead"
            )
    if path not in modules:
        raise ValueError(f"{type(model).__name__} has no module {path!r}")
    if path == "":
        raise ValueError("the network is itself the convolution: use ChannelSetConv2d.from_conv2d")
    found = modules[path]
    places = [name for name, module in model.named_modules(remove_duplicate=False) if module is found]
    if len(places) > 1 and example is None:
        raise ValueError(
            f"{path} stands in several places ({', '.join(places)}): give example=, which checks that it runs once, "
            f"or take where='input'"
        )
    if isinstance(found, nn.Conv2d) and not chosen and example is None:
        size = (getattr(model, "default_cfg", None) or {}).get("input_size")
        said = channels is not None or given.channels is not None
        if not said and isinstance(size, (tuple, list)) and size[0] != found.in_channels:
            raise ValueError(
                f"{path} takes {found.in_channels} channels, images of this network had {size[0]}: if it reads the "
                f"images say so with channels={found.in_channels}, else take where='input'"
            )
    return path, places, found
