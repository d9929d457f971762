"""Run an adapted network to check whether any layer besides the stem reads the images."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from . import context
from .fill import Regression
from .place import ChannelPlace, InputFill

ARGUMENTS = ("channels", "mask")


def check_example(model: nn.Module, place: ChannelPlace, example: Any, shared: bool) -> None:
    """Run an adapted network several times, each time with other values in the absent channels.

    Args:
        model, place: the network and its stem, or its fill at the input.
        example: images (B, C, ...), a list of (C, H, W), or a mapping of the network's arguments, whose first value is
            the images. The images must have all channels.
        shared: whether the stem is used at several paths. Then it must run exactly once.

    Raises:
        ValueError: absent channels have an influence; a layer before the first convolution needs all channels; the
            first convolution does not run or does not read the images; or the images have means far from zero, but the
            rule expects means of zero.
    """
    calls = _Calls(model, place, example)
    _check_centre(place, calls.parts, calls.axis)
    with in_eval_mode(model), torch.no_grad(), torch.random.fork_rng(devices=[]):
        try:
            first = calls.run(0.0)
            count = calls.count
            later = [calls.run(None), calls.run(float("nan"))]
        except Exception as error:
            raise ValueError(
                f"the adapted network fails on the example: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(place, InputFill) and not count:
            raise ValueError(
                "the adapted convolution does not run: use path= to name the convolution that reads the images"
            )
        if shared and count != 1:
            raise ValueError(f"the adapted convolution runs {count} times in a call: use where='input'")
        # a detector may return no boxes: then look at what its layers read
        has_values = any(tensor.numel() for tensor in first)
        same = all(_same(first, other) for other in later)
        reader = "" if same and has_values else _reader(model, place, calls.run)
        if not same or reader:
            raise ValueError(
                f"pixels of absent channels have an influence: {reader or 'code outside the layers'} reads the "
                f"images, too, or their channels are reordered. Use where='input', which fills the images first"
            )
        if not isinstance(place, InputFill):
            _check_some(calls)


def _check_some(calls: _Calls) -> None:
    """Check that the stem gets the same images if the call has only some channels.

    The check fails if a layer before the stem, such as a BatchNorm, has a number for each channel. Such a BatchNorm
    would also learn from the pixels of absent channels.
    """
    ids = list(range(calls.place.in_channels))[:0:-1]
    if not ids or takes_set(calls.model):
        return
    calls.mask = torch.ones_like(calls.mask)
    calls.run(0.0)
    whole, reason = [x[:, ids] for x in calls.read], "it does not treat all channels alike"
    try:
        calls.run(0.0, ids)
        same = _same(whole, [x[:, ids] if x.shape[1] > len(ids) else x for x in calls.read])
    except Exception as error:
        same, reason = False, f"{type(error).__name__}: {error}"
    if not same:
        raise ValueError(
            f"a layer or code before the adapted convolution needs images of all channels: {reason}. Use "
            f"where='input', which gives it all channels"
        )


class _Calls:
    """A class that calls an adapted network on its example. Each image of the example lacks some channels.

    Args:
        model, place, example: as in `check_example`.

    Attributes:
        parts: the images, as one tensor or as a tensor for each image.
        axis: the axis of the channels in `parts`.
        count: how often the module `place` ran in the last call.
        read: the images that this module got in that call.

    Raises:
        ValueError: the example holds no images with the channels of `place`.
    """

    def __init__(self, model: nn.Module, place: ChannelPlace, example: Any):
        self.model, self.place, self.example, self.count = model, place, example, 0
        # name of the argument with the images
        self.name = next(iter(example)) if isinstance(example, Mapping) else None
        images = example if self.name is None else example[self.name]
        self.several = isinstance(images, (list, tuple))
        self.parts: list[Tensor] = list(images) if self.several else [images]
        self.axis = 0 if self.several else 1
        if not self.parts or not all(isinstance(p, Tensor) and p.is_floating_point() for p in self.parts):
            raise ValueError(
                "example= must be floating-point images, a list of them or a mapping of arguments"
            )
        channels = place.in_channels
        for part in self.parts:
            if part.ndim <= self.axis or part.shape[self.axis] != channels:
                if isinstance(place, InputFill):
                    raise ValueError(
                        f"the example's images have the shape {tuple(part.shape)}, but axis {self.axis} "
                        f"must have {channels} channels: adapt the part of the network that gets images of this shape"
                    )
                raise ValueError(
                    f"the example's images have the shape {tuple(part.shape)}, but the adapted layer takes {channels} "
                    f"channels, so it does not read the images: name the convolution that reads them with path=, "
                    f"or use where='input'"
                )
        self.mask, self.read = _masks(len(images), channels), list[Tensor]()
        self.random = torch.get_rng_state()

    def run(self, value: float | None, ids: list[int] | None = None) -> list[Tensor]:
        """Call the network with this value in all absent channels; return the tensors in its output.

        With None, the pixels of absent channels change. With `ids`, the images have only these channels.
        """
        changed = []
        for number, part in enumerate(self.parts):
            absent = ~(self.mask[number] if self.several else self.mask).to(part.device)
            absent = absent.view(*absent.shape, *[1] * (part.ndim - absent.ndim))
            part = torch.where(absent, 7 - 3 * part if value is None else value, part)
            changed.append(part if ids is None else part.movedim(self.axis, 0)[ids].movedim(0, self.axis))
        images: Any = changed if self.several else changed[0]
        chosen = {} if ids is None else {"channels": ids}
        self.count, self.read = 0, []
        handle = self.place.register_forward_hook(self._add_one)
        torch.set_rng_state(self.random)  # some networks draw in eval mode, too
        context.push(self.place, None, self.mask if ids is None else None, call=False)
        try:
            if self.name is None:
                return _tensors(self.model(images, **chosen))
            return _tensors(self.model(**{**self.example, self.name: images}, **chosen))
        finally:
            context.pop(self.place, call=False)
            handle.remove()

    def _add_one(self, _: nn.Module, args: Any, output: Any) -> None:
        self.count += 1
        self.read.extend(args[:1])


def _masks(images: int, channels: int) -> Tensor:
    """Return sets (B, C) that reveal a network which reorders its channels or its images.

    A set consists of the channels whose number has the binary digit 1 at one position. The first image uses the
    highest digit, the next image the next digit. So enough images tell any two channels apart. A reversal, such as RGB
    to BGR, changes the first set. After the lowest digit, the next images use the digit 0 instead of 1, and later
    images have all channels. So the sets also reveal a network that reorders its images.
    """
    digits = max((channels - 1).bit_length(), 1)
    digit = torch.arange(digits - 1, -1, -1, device="cpu").repeat(images)[:images]
    turn = (torch.arange(images, device="cpu") // digits % 3)[:, None]
    mask = ((torch.arange(channels, device="cpu") >> digit[:, None]) & 1 == (turn != 1)) | (turn == 2)
    mask[:, 0] |= ~mask.any(1)
    return mask


def takes_set(model: nn.Module) -> bool:
    """Check whether forward itself has an argument `channels` or `mask`."""
    return not inspect.signature(model.forward).parameters.keys().isdisjoint(ARGUMENTS)


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Switch the model to eval mode within a `with` block; afterwards each module has its former mode again.

    So a frozen BatchNorm stays frozen.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _check_centre(place: ChannelPlace, parts: list[Tensor], axis: int) -> None:
    fill = place.fill
    if not isinstance(fill, Regression) or fill.centre is not None:
        return
    pixels = torch.cat([part.detach().movedim(axis, 0).flatten(1).double().cpu() for part in parts], 1)
    deviation = (fill.scale * fill.covariance.diagonal().double().cpu()).sqrt()
    size = (pixels.mean(1) / deviation).abs().median()
    if size > 5:
        raise ValueError(
            f"the example's channels have a mean of {size:.3g} standard deviations, but fill rule 'regression' needs "
            f"images with a mean of zero: subtract the mean, or give normalised=False with statistics="
        )


def _tensors(value: Any) -> list[Tensor]:
    """Return all tensors in an output: in lists, mappings and attributes."""
    if isinstance(value, Tensor):
        return [value]
    if not isinstance(value, (list, tuple)):
        value = (value if isinstance(value, Mapping) else getattr(value, "__dict__", {})).values()
    return [tensor for part in value for tensor in _tensors(part)]


def _same(first: list[Tensor], other: list[Tensor]) -> bool:
    return len(first) == len(other) and all(
        a.shape == b.shape and torch.allclose(a.double(), b.double(), rtol=1e-4, atol=1e-6, equal_nan=False)
        for a, b in zip(first, other)
    )


def _reader(model: nn.Module, place: ChannelPlace, run: Any) -> str:
    """Name the first layer, other than the stem, that reads the pixels of absent channels; "" if none does."""
    readers: list[str] = []

    def hook(path: str, module: nn.Module) -> Any:
        def look(_: nn.Module, args: Any) -> None:
            if any(bool(tensor.isnan().any()) for tensor in _tensors(args) if tensor.is_floating_point()):
                readers.append(f"{path} ({type(module).__name__})")

        return module.register_forward_pre_hook(look)

    handles = [
        hook(path, module)
        for path, module in model.named_modules()
        if module is not place and not list(module.children()) and not path.startswith("channel_fill")
    ]
    try:
        run(float("nan"))
    except Exception:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return readers[0] if readers else ""
