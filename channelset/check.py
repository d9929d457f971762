"""Run an adapted network to check whether any layer besides the stem reads the images."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from . import context
from .fill import Regression
from .place import ChannelPlace, InputFill


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
    _check_centre(place, calls.images)
    with in_eval_mode(model), torch.no_grad(), torch.random.fork_rng(devices=[]):
        try:
            first, *later = [calls.run(value) for value in (0.0, None, float("nan"))]
        except Exception as error:
            raise ValueError(
                f"the adapted network fails on the example: {type(error).__name__}: {error}"
            ) from error
        count = len(calls.read)
        if not isinstance(place, InputFill) and not count:
            raise ValueError(
                "the adapted convolution does not run: use path= to name the convolution that reads the images"
            )
        if shared and count != 1:
            raise ValueError(f"the adapted convolution runs {count} times in a call: use where='input'")
        # a detector may return no boxes: then look at what its layers read
        has_values = any(tensor.numel() for tensor in first)
        same = all(_same(first, other) for other in later)
        reader = "" if same and has_values else _reader(calls)
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
        images: the images, each (C, ...).
        mask: the present channels of each image.
        read: what the module `place` got in the last call, an entry for each time that it ran.

    Raises:
        ValueError: the example holds no images with the channels of `place`, or pixels that are NaN or infinite.
    """

    def __init__(self, model: nn.Module, place: ChannelPlace, example: Any):
        self.model, self.place, self.example = model, place, example
        # name of the argument with the images
        self.name = next(iter(example), None) if isinstance(example, Mapping) else None
        images = example if self.name is None else example[self.name]
        self.several = isinstance(images, (list, tuple))
        self.images: list[Tensor] = list(images) if self.several or isinstance(images, Tensor) else []
        if not self.images or not all(isinstance(x, Tensor) and x.is_floating_point() for x in self.images):
            raise ValueError(
                "example= must be floating-point images, a list of them or a mapping of arguments"
            )
        for image in self.images:
            if image.shape[:1] != (place.in_channels,):
                raise ValueError(
                    f"an image of the example has the shape {tuple(image.shape)}, but the first axis must have "
                    f"{place.in_channels} channels, as the adapted layer takes: name the convolution that reads the "
                    f"images with path=, use where='input', or adapt the part that gets images of this shape"
                )
        if not all(image.isfinite().all() for image in self.images):
            raise ValueError("the example has pixels that are NaN or infinite: give images without them")
        self.mask, self.read = _masks(len(self.images), place.in_channels), list[Any]()
        self.random = torch.get_rng_state()

    def run(self, value: float | None, ids: list[int] | None = None) -> list[Tensor]:
        """Call the network with this value in all absent channels; return the tensors in its output.

        With None, the pixels of absent channels change. With `ids`, the images have only these channels.
        """
        changed = []
        for image, present in zip(self.images, self.mask):
            present = present.to(image.device).view(-1, *[1] * (image.ndim - 1))
            image = torch.where(present, image, 7 - 3 * image if value is None else value)
            changed.append(image if ids is None else image[ids])
        images: Any = changed if self.several else torch.stack(changed)
        chosen = {} if ids is None else {"channels": ids}
        self.read = []
        handle = self.place.register_forward_pre_hook(lambda _, args: self.read.extend(args[:1]))
        torch.set_rng_state(self.random)  # some networks draw in eval mode, too
        context.push(self.place, None, self.mask if ids is None else None)
        try:
            if self.name is None:
                return _tensors(self.model(images, **chosen))
            return _tensors(self.model(**{**self.example, self.name: images}, **chosen))
        finally:
            context.pop(self.place)
            handle.remove()


def _masks(images: int, channels: int) -> Tensor:
    """Return sets (B, C) that reveal a network which reorders its channels or its images.

    A set consists of the channels whose number has the binary digit 1 at one position. The first image uses the
    highest digit, the next image the next digit. So enough images tell any two channels apart. A reversal, such as RGB
    to BGR, changes the first set. After the lowest digit, images have all channels. So the first images differ from
    all others, which reveals a network that reorders its images.
    """
    digit = (channels - 1).bit_length() - 1 - torch.arange(images, device="cpu")[:, None]
    some = torch.arange(channels, device="cpu") >> digit.clamp(min=0) & 1
    return some.bool() | (digit < 0)


def takes_set(model: nn.Module) -> bool:
    """Check whether forward itself has an argument `channels` or `mask`."""
    return not inspect.signature(model.forward).parameters.keys().isdisjoint(("channels", "mask"))


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


def _check_centre(place: ChannelPlace, images: list[Tensor]) -> None:
    fill = place.fill
    if not isinstance(fill, Regression) or fill.centre is not None:
        return
    pixels = torch.cat([image.detach().flatten(1).double().cpu() for image in images], 1)
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
        a.shape == b.shape and torch.allclose(_double(a), _double(b), rtol=1e-4, atol=1e-6, equal_nan=False)
        for a, b in zip(first, other)
    )


def _double(value: Tensor) -> Tensor:
    return value.to(torch.complex128 if value.is_complex() else torch.float64)


def _reader(calls: _Calls) -> str:
    """Name the first layer, other than the stem, that reads the pixels of absent channels; "" if none does."""
    readers: list[str] = []
    paths = {
        module: path
        for path, module in calls.model.named_modules()
        if module is not calls.place and not list(module.children()) and not path.startswith("channel_fill")
    }

    def look(module: nn.Module, args: Any) -> None:
        if module in paths and any(x.isnan().any() for x in _tensors(args) if x.is_floating_point()):
            readers.append(f"{paths[module]} ({type(module).__name__})")

    handle = register_module_forward_pre_hook(look)
    try:
        calls.run(float("nan"))
    except Exception:
        pass
    finally:
        handle.remove()
    return readers[0] if readers else ""
