"""Put the stem into any network with one line. All other parts of the network stay the same."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from . import context
from .check import check_example, takes_set
from .fill import FILLS, RIDGE, Fill, Regression, build_fill, captured, rule_name
from .init import kernel_sources
from .names import Channels
from .place import ChannelPlace, FixedFill, InputFill, either
from .sampling import Sampler
from .statistics import ChannelStatistics, numbers
from .stem import ChannelSetConv2d, why_not_plain, would_be_lost

INPUT = "channel_fill"  # name of the module that fills images at the network's input
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
# beginnings of the class names of wrappers, which handle only the parameters that a network has when it is wrapped;
# `fully_shard` makes classes whose names begin with FSDP
LATE = ("DistributedDataParallel", "FullyShardedDataParallel", "FSDP")
Arguments = dict[int | str, Any]  # of a call, by position or name
# attributes in which networks store the channel count
COUNTS = ("num_channels", "in_channels", "in_chans", "n_channels")


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
    images: Sequence[str] = (),
) -> nn.Module:
    """Make a network accept any set of its input channels. With all channels its output stays the same.

        net = adapt_first_conv(resnet18(), statistics=channel_statistics(loader), sample="hcs")
        net(x_rb, channels=[0, 2]);  net(x, mask=present)

    The network is changed in place and returned. Its first convolution becomes a `ChannelSetConv2d` at the same
    path, so all other parameter names stay. Its forward then also takes `channels` and `mask`. If forward already
    has arguments of these names, use `present` instead. Images must be normalised: subtract each channel's mean
    and divide by its standard deviation. If they are not, pass `normalised=False` or `mean=`.

    Without an `example`, the function does not check whether other layers also read the images. It also does not check
    that the convolution defined first runs first. It only warns if another convolution or norm takes as many channels.
    A network made on the meta device keeps the statistics of the rule. Under torch.compile each list of `channels`
    needs its own graph, and torch keeps only a few graphs. For many sets pass a mask, or fold.

    Args:
        model: any network.
        fill: a key of `fill.FILLS`. "regression" needs statistics, "mean" does not.
        path: path of the first convolution, such as "backbone.conv1". Default: timm's
            `default_cfg["first_conv"]`, else the Conv2d that is defined first.
        where: "stem" replaces the first convolution. "input" fills the images before the network sees them. Use
            "input" for networks that read the images in several layers, in three dimensions or without a
            convolution. It has no embedding. It fills the images only if the whole network is called, not a part of it.
        channels: the number, the names or the wavelengths in nm (floats) of the channels, or a mapping of names to
            wavelengths, see `names.Channels`. Default: the number of the convolution, without names.
        statistics: the result of `channel_statistics`; works for any rule.
        normalised: whether images are normalised with the mean and the deviation of `statistics`. False: the
            network gets raw images, with the same values that the statistics were computed from.
        covariance, std: they replace `statistics`. `covariance` (C, C) is the covariance of the raw channels. `std`
            (C,) divides each channel; default: the root of the covariance's diagonal. The channels' mean must be
            subtracted.
        mean: the channels' mean (C,). Give it with `covariance` if the images were divided by `std`, but the mean was
            not subtracted. Fill rule "black" needs the mean and std of the normalisation.
        ridge: ridge of the regression, see `fill.Regression`.
        embedding: learn an offset that tells the network which channels are present. Default: yes in the stem.
        init: how kernels of new channels start.
            "keep": the convolution was trained with the same channels.
            A mapping from each new channel to an old channel, a list (the kernels are added), or a mapping from old
            channels to weights. New channels that are not in it start at zero. After {"B04": 0, "B03": 1, "B02": 2} the
            network computes the same as before on these three (fill rules zero, mean and regression). "wavelength":
            interpolate between the old kernels by wavelength. "repeat": repeat the old kernels in turn. "mean": use
            their mean. These three keep the response to an image with equal channels.
        trained_on: names and wavelengths of the channels that a plain convolution was trained with, for `init`.
        sample: how to draw a set for each image in training mode if the call gives no set, see
            `sample_channels`; or a `Sampler`. So a trainer that calls `model(x)` needs no change. The sampler's
            position is saved in the state dict. In eval mode nothing is drawn.
        seed: seed of the drawn sets, if `sample` is a name.
        example: images as the network gets them, or a mapping of its arguments. The network runs on them a few
            times in eval mode, to check that absent channels have no influence.
        images: with where="input", the names of the arguments of the network's forward that hold images. All of these
            images get the same set. An example is a network for images before and after a change. Default: the only
            argument that can be images.

    A frozen convolution stays frozen. Its embedding and the correction of the rules "learned" and "conditioned" are
    then frozen, too. With where="input", the correction is frozen if the whole network is frozen. With init="keep",
    weight and bias stay the same parameters if their shapes stay. So tied layers and optimizers keep them. The
    embedding is a new parameter: give it to the optimizer.

    Raises:
        ValueError: there is no such convolution; the network already has another stem, or fills at its input; the stem
            cannot replace the convolution (the message names path and type); channels, statistics or init do not fit;
            an argument has no effect with this rule; the network was scripted or wrapped for distributed training
            before; or the check with the example fails. The network is then unchanged.
    """
    if where not in ("stem", "input"):
        raise ValueError(f"where={where!r}: expected 'stem' or 'input'")
    # a stem may replace another stem
    adapted = (InputFill if where == "stem" else ChannelPlace, FixedFill)
    for module in model.modules():
        kind = type(module).__name__
        if kind.startswith(LATE) or isinstance(module, torch.jit.ScriptModule):
            raise ValueError(f"{kind} would not know the new parts: adapt the network before you wrap it")
        if isinstance(module, adapted):
            raise ValueError(f"{type(model).__name__} is adapted already: start from the plain network")
    if isinstance(images, str) or (images and where == "stem"):
        raise ValueError(f"images={images!r}: give a list of names, with where='input'")
    sampler = Sampler(sample, seed=seed) if isinstance(sample, str) else sample
    given = _Given(fill, statistics, normalised, covariance, mean, std, ridge)
    place: ChannelPlace
    shared = False
    with _unchanged_after_error(model):
        if where == "input":
            unused = {"path": path, "embedding": embedding, "trained_on": trained_on, "init": init != "keep"}
            for name, value in unused.items():
                if value:
                    raise ValueError(
                        f"where='input' leaves the first layer as it is: {name}= has no effect, leave it out"
                    )
            place = _insert_input(model, given, channels, example, sampler, tuple(images))
        else:
            path, places, old = _first_conv(model, path, channels, given, example)
            stem = place = _make_stem(old, path, given, channels, trained_on, init, embedding, sampler)
            if example is None:
                _warn_of_readers(model, old, path)
            for other in places:
                model.set_submodule(other, stem)
            insert_stem(model, path, stem)
            shared = len(places) > 1
        if example is not None:
            check_example(model, place, example, shared)
    return model


@contextmanager
def _unchanged_after_error(model: nn.Module) -> Iterator[None]:
    """Undo the changes of the network's parts and hooks if the `with` block raises an error."""
    before = [
        (value, value.copy())
        for module in model.modules()
        for name, value in vars(module).items()
        if name == "_modules" or name.startswith(("_forward_hooks", "_forward_pre_hooks"))
    ]
    try:
        yield
    except Exception:
        for value, old in before:
            value.clear()
            value.update(old)
        raise


def insert_stem(model: nn.Module, path: str, stem: ChannelSetConv2d) -> nn.Module:
    """Put `stem` at `path` in `model` and let the model's forward take `channels` and `mask`."""
    model.set_submodule(path, stem)
    hooked = any(isinstance(hook, _OfTheSet) for hook in model._forward_pre_hooks.values())
    if not (hooked or takes_set(model)):
        model.register_forward_pre_hook(_TakeSet(path), with_kwargs=True)
        model.register_forward_hook(_ForgetSet(path), always_call=True)
    return model


def find_stem(model: nn.Module) -> ChannelSetConv2d:
    """Return the stem of an adapted network.

    Raises:
        ValueError: the network has no stem, or several stems.
    """
    place = find_place(model)
    if not isinstance(place, ChannelSetConv2d):
        raise ValueError(f"{type(model).__name__} has no stem: it fills the images at its input")
    return place


def find_place(model: nn.Module) -> ChannelPlace:
    """Return the part of an adapted network that handles the channel sets: its stem, or the fill at its input.

    Raises:
        ValueError: the network has no such part, or several such parts.
    """
    places = [module for module in model.modules() if isinstance(module, ChannelPlace)]
    if len(places) != 1:
        raise ValueError(
            f"{type(model).__name__} has {len(places)} parts that take sets of channels, expected one: adapt the "
            f"network with adapt_first_conv, or give a module of it that has exactly one"
        )
    return places[0]


@contextmanager
def present(model: nn.Module, channels: Any = None, mask: Tensor | None = None) -> Iterator[nn.Module]:
    """Use these channels in every call of `model`, or of a part of it, within a `with` block.

    Parts are, for example, timm's forward_features or a feature extractor. Arguments of a call take precedence over the
    block. The block applies only to the running thread or asynchronous task.

        with present(net, channels=["B04", "B03"]):
            features = net.forward_features(x)

    Raises:
        ValueError: there is no stem, or both or neither of the arguments are given.
        RuntimeError: the block ends, and no call used the set. Either the network fills at its input and only a part of
            it was called, or the calls were made in other threads.
    """
    if (channels is None) == (mask is None):
        raise ValueError("give `channels` (one set for the batch) or `mask` (one set for each image)")
    place = find_place(model)
    channels = None if channels is None else place.check_ids(channels)
    context.push(place, channels, mask)
    try:
        yield model
    except BaseException:
        context.pop(place)
        raise
    if not context.pop(place):
        raise RuntimeError(
            "the images were not filled: where='input' sees calls of the network itself, not of its parts"
            if isinstance(place, InputFill)
            else "no call in the block used the set: the first layer did not run, or ran in another thread"
        )


class WithMask(nn.Module):
    """A network whose forward takes the mask as its second argument, as exporters need: forward(x, mask).

    torch.export.export(WithMask(net).eval(), (x, mask))
    """

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net
        self.training = net.training  # exporters put this mode back into the network

    def forward(self, x: Any, mask: Tensor) -> Any:
        return self.net(x, mask=mask)


def fold_channels(model: nn.Module, channels: Any = None) -> nn.Module:
    """Return a copy of the network for images (B, n, H, W) of these channels; its stem is a plain Conv2d.

    The copy takes only these channels. Type, device and mode stay. Fold before you fuse BatchNorm or quantise the
    network. If the network fills at its input, the copy fills there too, for this one set.

    Raises:
        ValueError: a channel is wrong, or the stem cannot be folded, see `ChannelSetConv2d.unfoldable`.
    """
    place = find_place(model)
    ids = place.check_ids(channels)
    if isinstance(place, InputFill):
        if place.fill.per_image or place.fill.absent is not None:
            raise ValueError("the fill rule is not a linear map for one set, so the network cannot be folded")
        return _copy(model, {id(place): FixedFill(place.fill, ids).train(place.training)})
    assert isinstance(place, ChannelSetConv2d)
    conv = place.fold(ids)
    if model is place:
        return conv
    paths = [name for name, module in model.named_modules(remove_duplicate=False) if module is place]
    folded = _copy(model, {id(place): conv})  # without the stem, which torch may not be able to copy
    remove_hooks(folded)
    put = _with_preprocessing(folded, conv, ids)
    for path in paths:
        _recount(folded, path, place.in_channels, len(ids))
        folded.set_submodule(path, put)
    return folded


def _copy(model: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """Copy a network, even if pruning or an older norm of torch has computed weights in a call."""
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, Tensor) and not value.is_leaf:  # a computed tensor, which torch cannot copy
                memo[id(value)] = value.detach().clone()
    return copy.deepcopy(model, memo)


def remove_hooks(model: nn.Module) -> None:
    """Remove the hooks that let the forward of a network, or of a part of it, take `channels` and `mask`."""
    for module in model.modules():
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            for key in [key for key, hook in hooks.items() if isinstance(hook, _OfTheSet)]:
                del hooks[key]
                for flags in (module._forward_pre_hooks_with_kwargs, module._forward_hooks_always_called):
                    flags.pop(key, None)


# ---------------------------------------------------------------- statistics of the images, from the caller


class _Given:
    """A class that holds the fill rule's name and the statistics, and checks that they fit together."""

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
        self.fill, self.ridge = fill, ridge
        self.normalises = (
            statistics is not None and normalised
        )  # the caller normalises the images with the statistics
        regression, names = issubclass(FILLS[fill], Regression), ChannelStatistics._fields
        if ridge is not None and not regression:
            raise ValueError(f"fill rule {fill!r} does not use ridge=")
        if statistics is not None:
            if any(value is not None for value in (covariance, mean, std)):
                raise ValueError("statistics= holds mean, std and covariance: do not give these as well")
            if fill == "black" and not normalised:
                raise ValueError(
                    "fill rule 'black' is for normalised images; in raw images black is zero: use 'zero'"
                )
            if isinstance(statistics, Mapping):
                statistics = [statistics[name] for name in names if name in statistics]
            if not isinstance(statistics, Sequence) or len(statistics) != 3:
                raise ValueError(
                    "statistics= must be the result of channel_statistics: mean, std and covariance"
                )
            if any(value is None for value in statistics):
                raise ValueError(
                    "statistics= must hold all of mean, std and covariance, but one of them is None"
                )
            mean, std, covariance = (numbers(value, name) for value, name in zip(statistics, names))
            if std.shape == covariance.shape[:1] == covariance.shape[1:]:
                variance = covariance.diagonal()
                if ((std.square() - variance).abs() > 0.2 * variance).any():  # the numbers may be rounded
                    raise ValueError(
                        "statistics= must be mean, std and covariance, in this order, as channel_statistics returns "
                        "them, but std is not the root of the covariance's diagonal. For another std, give covariance= "
                        "and std="
                    )
            std = std if normalised else torch.ones_like(std)
        elif not normalised:
            raise ValueError("normalised=False needs statistics=; or give covariance=, std= and mean=")
        elif not regression:
            unused = {"covariance": covariance, "std": std if mean is None and fill != "black" else None}
            for name, value in unused.items():
                if value is not None:
                    raise ValueError(
                        f"fill rule {fill!r} does not use {name}=: leave it out, or give statistics=, "
                        f"which any rule accepts"
                    )
        self.mean, self.std, self.covariance = (
            None if value is None else numbers(value, name)
            for name, value in zip(names, (mean, std, covariance))
        )

    @property
    def channels(self) -> int | None:
        """Return the number of channels in the statistics, or None."""
        values = (self.covariance, self.mean, self.std)
        return next((len(value) for value in values if value is not None and value.ndim), None)

    def rule(self, channels: Channels) -> Fill:
        centre, scale, count = None, self.std, len(channels)
        for value, name in ((self.mean, "mean"), (self.std, "std")):
            if value is not None and value.shape != (count,):
                raise ValueError(f"{name} has shape {tuple(value.shape)}, expected ({count},)")
        if self.mean is not None and not self.normalises and self.fill != "black":
            if scale is None and self.covariance is not None and self.covariance.ndim == 2:
                scale = self.covariance.diagonal().sqrt()
            centre = self.mean if scale is None else self.mean / scale
        ridge = RIDGE if self.ridge is None else self.ridge
        return build_fill(
            self.fill, count, self.mean, self.std, self.covariance, ridge, channels.names, centre
        )

    def normalisation(self) -> dict[str, list[float]] | None:
        if not self.normalises:
            return None
        assert self.mean is not None and self.std is not None
        return {"mean": self.mean.tolist(), "std": self.std.tolist()}


def _insert_input(
    model: nn.Module,
    given: _Given,
    channels: Any,
    example: Any,
    sampler: Sampler | None,
    images: tuple[str, ...],
) -> InputFill:
    """Add the module that fills the images before the network sees them, and return it.

    Raises:
        ValueError: the fill rule needs its own kernels, or `channels`, the statistics or `images` do not fit.
    """
    wanted = Channels(_input_channels(model, given, example) if channels is None else channels)
    place = InputFill(wanted, given.rule(wanted), sampler)
    if place.fill.rows != len(wanted):
        raise ValueError(f"fill rule {given.fill!r} needs its own kernels, which where='input' does not have")
    place.normalisation = given.normalisation()
    parameters = list(model.parameters())
    if parameters:
        place.to(parameters[0].device)
        place.requires_grad_(any(p.requires_grad for p in parameters))
    model.add_module(INPUT, place.train(model.training))
    model.register_forward_pre_hook(_FillInput(INPUT, model, images), with_kwargs=True)
    return place


def _make_stem(
    old: nn.Module,
    path: str,
    given: _Given,
    channels: Any,
    trained_on: Any,
    init: str | Mapping[Any, Any],
    embedding: bool | None,
    sampler: Sampler | None,
) -> ChannelSetConv2d:
    """Return the stem that replaces the layer `old` at `path`; the other arguments are as in `adapt_first_conv`.

    Raises:
        ValueError: the stem cannot replace the layer, or channels, statistics or init do not fit.
    """
    conv, old_channels, kernel = _as_plain(old, path, trained_on)
    wanted = old_channels if channels is None else Channels(channels)
    if init == "keep":
        if len(wanted) != len(old_channels):
            raise ValueError(
                f"{path} has {len(old_channels)} input channels, {len(wanted)} were named; say which of them "
                f"take its kernels, such as init={{{wanted.names[0]!r}: 0}}"
            )
        moved = [n for n, o in zip(wanted.names, old_channels.names) if n != o and n in old_channels.names]
        if moved and old_channels.are_named:
            raise ValueError(
                f"{path} was trained on {old_channels!r}, in another order than {wanted!r}: give the order of the "
                f"training, or say which channels take its kernels, such as init={{{moved[0]!r}: {moved[0]!r}}}"
            )
    source, rule = kernel_sources(init, old_channels, wanted), given.rule(wanted)
    weight = kernel if init == "keep" else torch.einsum("onhw,cn->ochw", kernel, source.to(kernel))
    stem = ChannelSetConv2d.from_conv2d(conv, rule, embedding is not False, wanted, weight, sampler)
    stem.normalisation = given.normalisation()
    # tied layers and optimizers hold these parameters
    if conv is old and init == "keep" and rule.rows == len(wanted):
        stem._parameters.update({name: conv._parameters[name] for name in ("weight", "bias")})
    if isinstance(old, ChannelSetConv2d):
        stem.bias = old.bias  # `fold` also added the embedding to the bias; keep the bias alone
        stem.sampler = stem.sampler or old.sampler
        if stem.embedding is not None and old.embedding is not None:
            total = source.sum(1, keepdim=True)
            share = torch.where(total != 0, source / total, 1 / len(old.channels)).to(old.embedding)
            stem.embedding = nn.Parameter(share @ old.embedding.detach(), old.embedding.requires_grad)
    stem.train(stem.training)  # so the stem looks at these parameters
    return stem


def _as_plain(old: nn.Module, path: str, trained_on: Any) -> tuple[nn.Conv2d, Channels, Tensor]:
    """Return the layer `old` at `path` as a plain convolution, its channels and its kernel (O, C, H, W).

    Raises:
        ValueError: the stem cannot replace the layer, or `trained_on` does not fit it.
    """
    if isinstance(old, ChannelSetConv2d):
        if trained_on is not None:
            raise ValueError(
                "trained_on= is for a plain convolution; this network is adapted already: leave it out"
            )
        if wrong := would_be_lost(old):
            raise ValueError(f"{path}: {wrong}")
        if old.fill.rows != old.in_channels or next(old.fill.parameters(), None) is not None:
            raise ValueError(
                f"{path}: fill rule {rule_name(old.fill)!r} has weights of its own, which cannot be copied to "
                f"another stem: start from the plain network"
            )
        return old.fold(), old.channels, old.kernel().detach()
    if wrong := why_not_plain(old):
        raise ValueError(
            f"{path} is not a plain convolution: {wrong}; use where='input', which keeps this layer"
        )
    assert isinstance(old, nn.Conv2d)
    channels = Channels(old.in_channels if trained_on is None else trained_on)
    if len(channels) != old.in_channels:
        raise ValueError(f"trained_on= names {len(channels)} channels, {path} has {old.in_channels}")
    return old, channels, old.weight.detach()


def _warn_of_readers(model: nn.Module, stem: nn.Module, path: str) -> None:
    """Warn if another layer takes as many channels as the images have, so that it may read them, too."""
    count = getattr(stem, "in_channels", 1)
    for name, module in model.named_modules():
        if module is not stem and _channels_read(module) == count != 1:
            warnings.warn(
                f"the layer {name} of {type(model).__name__} takes {count} channels, as {path} does. If it reads the "
                f"images, absent channels have an influence: adapt with example=images, which checks this",
                stacklevel=3,
            )
            return


def _channels_read(module: nn.Module) -> Any:
    """Return how many channels a convolution or a norm takes, or None for another layer."""
    if isinstance(module, nn.modules.conv._ConvNd):
        return module.in_channels
    if isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm, nn.InstanceNorm2d)):
        return module.num_features
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        return module.normalized_shape[0]
    return module.num_channels if isinstance(module, nn.GroupNorm) else None


# ---------------------------------------------------------------- a network's arguments


class _OfTheSet:
    """A hook of the network whose stem, or fill, is at `path`."""

    def __init__(self, path: str):
        self.path = path

    def places(self, model: nn.Module) -> list[Any]:
        """Return the stem or the fill, even if other code, such as LoRA, wrapped it.

        A wrapper may also have copies of the stem. PEFT's `modules_to_save` trains a copy, for example.

        Warn if the wrapper has another layer for as many channels, since this layer may read the images.

        Raises:
            ValueError: other code replaced the stem or the fill.
        """
        try:
            module = model.get_submodule(self.path)
        except AttributeError:
            module = model
        if isinstance(module, (ChannelPlace, FixedFill)):
            return [module]
        inside = [part for part in module.modules() if isinstance(part, ChannelPlace)]
        if not inside or any(inside[0].channels.differs(copied.channels) for copied in inside):
            raise ValueError(
                f"{self.path} does not take sets of channels any more: other code replaced it. "
                f"Use fold_channels before you fuse or replace the first layer"
            )
        if not captured():
            _warn_of_readers(module, inside[0], self.path)
        return inside


class _TakeSet(_OfTheSet):
    """Pass `channels` and `mask` to the stem before forward, which is then called without them."""

    def __call__(self, model: nn.Module, args: Any, kwargs: Any) -> Any:
        places = self.places(model)
        stem, channels, mask = places[0], None, None
        try:
            kwargs = dict(kwargs)
            channels, mask = either(kwargs.pop("channels", None), kwargs.pop("mask", None))
            if channels is not None:
                channels = ids = stem.check_ids(channels)  # a list, since a generator can be read only once
                given: Arguments = {**dict(enumerate(args)), **kwargs}
                for key in _with_channels(given, _images_keys(given), len(ids))[:1]:
                    if isinstance(given[key], Tensor):
                        if _counts_channels(model, self.path, stem.in_channels):
                            given[key], mask = stem.spread(given[key], ids)
                    else:
                        pairs = [stem.spread(image[None], ids) for image in given[key]]
                        given[key], mask = [x[0] for x, _ in pairs], torch.cat([row for _, row in pairs])
                if mask is not None:
                    channels = None
                    args, kwargs = _as_call(given)
        finally:
            for place in places:
                context.push(place, channels, mask, self.path)
        return args, kwargs


class _ForgetSet(_OfTheSet):
    """Forget the set after forward. After an error in forward, the output is None."""

    def __call__(self, model: nn.Module, args: Any, output: Any) -> None:
        try:
            places = self.places(model)
        except ValueError:
            return  # other code replaced the stem, and `_TakeSet` has raised the error
        used = [context.pop(place, self.path) for place in places]
        if not any(used) and output is not None:
            raise RuntimeError(
                f"the network did not call {self.path}, so the set of channels had no effect: the network may use "
                f"the layer's weight without the layer, or call the layer in another thread. Use where='input'"
            )


class _FillInput(_OfTheSet):
    """Fill the absent channels of the images before the network's `forward` runs."""

    def __init__(self, path: str, model: nn.Module, images: tuple[str, ...]):
        super().__init__(path)
        parameters = inspect.signature(model.forward).parameters
        # names of all arguments; of those that hold images, or () to find them; whether the network takes the set
        self.arguments, self.images, self.own = tuple(parameters), images, takes_set(model)
        unknown = next((name for name in images if name not in parameters), None)
        if unknown is not None and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            raise ValueError(
                f"images={images}: forward has no argument {unknown!r}, but {', '.join(parameters)}"
            )

    def __call__(self, model: nn.Module, args: Any, kwargs: Any) -> Any:
        (place, *_), kwargs = self.places(model), dict(kwargs)
        channels = mask = None
        if not isinstance(place, FixedFill) and not self.own:
            channels, mask = kwargs.pop("channels", None), kwargs.pop("mask", None)
        given: Arguments = {**dict(enumerate(args)), **kwargs}
        if self.images:
            names = [
                n if n in given or n not in self.arguments else self.arguments.index(n) for n in self.images
            ]
            keys = [key for key in names if given.get(key) is not None]
            keys = keys if all(_axes(given[key]) > 2 for key in keys) else []
        else:
            keys = _images_keys(given)
        # one draw for all arguments
        channels, mask = place.asked(given[keys[0]] if keys else (), channels, mask)
        channels = None if channels is None else place.check_ids(channels)
        if channels is None and mask is None and (not keys or place.fill.whole):
            return args, kwargs
        if not keys:
            raise ValueError(
                f"the network was called with {_kinds(given)}, not with images to fill: "
                f"{' and '.join(self.images) or 'these'} have floating-point numbers and three axes or more"
            )
        if not self.images:
            count = place.in_channels if channels is None else len(channels)
            keys = _with_channels(given, keys, count)
            if len(keys) > 1:
                raise ValueError(
                    f"several arguments of the network can be images: {_kinds(given)}. Give "
                    f"adapt_first_conv the names of the arguments to fill, such as images={list(self.arguments[:2])}"
                )
        for key in keys:
            given[key] = self._fill(place, given[key], channels, mask)
        return _as_call(given)

    def _fill(self, place: Any, images: Any, channels: Any, mask: Any) -> Any:
        if isinstance(images, Tensor):
            return place.fill_images(images, channels, mask)
        if mask is not None and len(mask) != len(images):
            raise ValueError(
                f"the mask has {len(mask)} rows for {len(images)} images: give a row for each image"
            )
        rows = [None if mask is None else mask[i : i + 1] for i in range(len(images))]
        return [place.fill_images(image[None], channels, row)[0] for image, row in zip(images, rows)]


def _images_keys(given: Arguments) -> list[int | str]:
    """Return the positions or names of a call's arguments that can be images: these have the most axes."""
    most = max([3, *map(_axes, given.values())])
    return [key for key, value in given.items() if _axes(value) == most]


def _with_channels(given: Arguments, keys: list[int | str], count: int) -> list[int | str]:
    """Return the keys of the images that have this number of channels; all keys if there are no such images."""
    return [key for key in keys if _channels(given[key]) == count] or keys


def _axes(value: Any) -> int:
    """Return the number of axes of `value`, a tensor or a list, if it can be a batch of images; else 0."""
    if isinstance(value, (list, tuple)):
        axes = {_axes(part) for part in value}
        return max(axes) + 1 if len(axes) == 1 and 0 not in axes else 0
    return value.ndim if isinstance(value, Tensor) and value.is_floating_point() else 0


def _channels(value: Any) -> int:
    return int(value.shape[1] if isinstance(value, Tensor) else _channels(value[0][None]))


def _as_call(given: Arguments) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the positional and the named arguments."""
    args = tuple(value for key, value in given.items() if isinstance(key, int))
    return args, {key: value for key, value in given.items() if isinstance(key, str)}


def _kinds(given: Arguments) -> str:
    kinds = [f"{key}= a" if isinstance(key, str) else "a" for key in given]
    return ", ".join(f"{a} {type(value).__name__}" for a, value in zip(kinds, given.values())) or "nothing"


def _counts_channels(model: nn.Module, path: str, channels: int) -> bool:
    """Check whether a step before the stem needs images of all channels."""
    if getattr(model, "transform_input", False):
        return True
    module = model
    for name in path.split("."):
        # Hugging Face checks the images against this number
        if getattr(module, "num_channels", None) == channels:
            return True
        module = getattr(module, name)
    return False


def _input_channels(model: nn.Module, given: _Given, example: Any) -> int:
    """Return how many channels the images of a network have."""
    if given.channels is not None:
        return given.channels
    images = next(iter(example.values())) if isinstance(example, Mapping) else example
    if isinstance(images, Tensor):
        return int(images.shape[1])
    for module in model.modules():
        if isinstance(module, CONVOLUTIONS):
            return int(module.in_channels)
    raise ValueError(
        f"{type(model).__name__} has no convolution to read the channel count from: give channels="
    )


def _recount(folded: nn.Module, path: str, before: int, after: int) -> None:
    """Update the channel count that the modules around the stem, or their configuration, store."""
    module = folded
    for name in path.split("."):
        for holder in (module, getattr(module, "config", None)):
            stored = getattr(holder, "__dict__", {})  # without properties
            for attribute in COUNTS:
                if stored.get(attribute) == before:
                    setattr(holder, attribute, after)
        module = getattr(module, name)


def _with_preprocessing(folded: nn.Module, conv: nn.Conv2d, ids: list[int]) -> nn.Module:
    """Return `conv`, with the network's processing of each channel before it, for these channels only.

    Inception and GoogLeNet change the normalisation; detectors normalise the images.
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
    """A layer that computes scale x + shift, channel by channel."""

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
    """Return the path of the first convolution, all paths of the same module, and the module.

    Raises:
        ValueError: there is no such convolution, it is unclear which convolution is the first, the module is used at
            several paths, or the network has a stem at another path.
    """
    modules, chosen = dict(model.named_modules(remove_duplicate=False)), path is not None
    cfg = getattr(model, "default_cfg", None) or {}
    if path is None:
        stems = [name for name, module in modules.items() if isinstance(module, ChannelSetConv2d)]
        convs = [name for name, module in modules.items() if isinstance(module, nn.Conv2d)]
        noted = [name for name in convs if name == cfg.get("first_conv")]
        path = next(iter([*stems, *noted, *convs]), None)
        if path is None:
            raise ValueError(
                f"{type(model).__name__} has no Conv2d: use where='input', which fills its images"
            )
        first = next((name for name, module in modules.items() if isinstance(module, CONVOLUTIONS)), path)
        if (
            example is None
            and path not in noted
            and isinstance(modules[path], nn.Conv2d)
            and first not in convs
        ):
            raise ValueError(
                f"{path} is the first Conv2d, but {first} ({type(modules[first]).__name__}) is defined before it. If "
                f"{first} reads the images, use where='input'; else name the convolution that does with path="
            )
    if path not in modules:
        raise ValueError(f"{type(model).__name__} has no module {path!r}")
    if path == "":
        raise ValueError("the network is itself the convolution: use ChannelSetConv2d.from_conv2d")
    conv = modules[path]
    places = [name for name, module in modules.items() if module is conv]
    for name, module in modules.items():
        if isinstance(module, ChannelSetConv2d) and name not in places and not name.startswith(f"{path}."):
            raise ValueError(
                f"{path} would be a second stem besides {name}, but a call gives its set to one stem: adapt the plain "
                f"network with where='input', or each part as a network of its own"
            )
    if len(places) > 1 and example is None:
        raise ValueError(
            f"{path} is used in several places ({', '.join(places)}): give example=, "
            f"which checks that it runs once, or use where='input'"
        )
    expected, source = given.channels, "the statistics have"
    if expected is None and isinstance(conv, nn.Conv2d) and not chosen and example is None:
        expected, source = (cfg.get("input_size") or [None])[0], "images of this network had"
    count = getattr(conv, "in_channels", None)
    if channels is None and None not in (expected, count) and expected != count:
        raise ValueError(
            f"{path} takes {count} channels, but {source} {expected}. If {path} reads the images, give "
            f"channels={count}, or for new channels channels= and init=; else use path= or where='input'"
        )
    return path, places, conv
