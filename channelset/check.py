"""Run an adapted network to check whether any layer besides the stem reads the images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from . import context
from .fill import Regression
from .place import ChannelPlace, InputFill


def check_example(model: nn.Module, place: ChannelPlace, example: Any, shared: bool = False) -> None:
    """Run an adapted network several times, each time with other values in the absent channels.

    Args:
        model, place: the network and its stem, or its fill at the input.
        example: images (B, C, ...), a list of (C, H, W), or a mapping of the network's arguments, of which the
            first holds the images. They must have all channels.
        shared: whether the stem is used at several paths. Then check that it runs exactly once.

    Raises:
        ValueError: absent channels have an influence; the first convolution does not run or does not read the
            images; or the images are far from centred under a rule that expects a mean of zero.
    """
    name = next(iter(example)) if isinstance(example, Mapping) else None
    images = example if name is None else example[name]
    several = isinstance(images, (list, tuple))
    parts: list[Tensor] = list(images) if several else [images]
    if not parts or not all(isinstance(part, Tensor) and part.is_floating_point() for part in parts):
        raise ValueError("example= must be floating-point images, a list of them or a mapping of arguments")
    channels, axis = place.in_channels, 0 if several else 1
    for part in parts:
        if part.ndim <= axis or part.shape[axis] != channels:
            raise ValueError(
                f"the example's images have the shape {tuple(part.shape)}, but the adapted layer takes {channels} "
                f"channels, so it does not read the images: name the convolution that does with path=, or use "
                f"where='input'"
            )
    _check_centre(place, parts, axis)
    mask = torch.arange(channels).expand(len(images), -1) % 2 == torch.arange(len(images))[:, None] % 2
    mask[:, 0] |= ~mask.any(1)
    ran: list[str] = []

    def run(value: float | None) -> list[Tensor]:
        changed = []
        for number, part in enumerate(parts):
            absent = ~(mask[number] if several else mask).to(part.device)
            absent = absent.view(*absent.shape, *[1] * (part.ndim - absent.ndim))
            changed.append(torch.where(absent, 7 - 3 * part if value is None else value, part))
        given: Any = changed if several else changed[0]
        ran.clear()
        torch.set_rng_state(random)  # some networks draw in eval mode, too
        context.push(place, None, mask, call=False)
        try:
            return _tensors(model(given) if name is None else model(**{**example, name: given}))
        finally:
            context.pop(place, call=False)

    handle = place.register_forward_hook(lambda *_: ran.append(""))
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            random = torch.get_rng_state()
            try:
                first = run(0.0)
                count = len(ran)
                later = [run(None), run(float("nan"))]
            except (ValueError, RuntimeError, TypeError) as error:
                raise ValueError(f"the adapted network fails on the example: {error}") from error
            if not isinstance(place, InputFill) and not count:
                raise ValueError(
                    "the adapted convolution does not run: name the one that reads the images with path="
                )
            if shared and count != 1:
                raise ValueError(f"the adapted convolution runs {count} times in a call: use where='input'")
            # a detector may return no boxes: then look at what its layers read
            has_values = any(tensor.numel() for tensor in first)
            same = all(_same(first, other) for other in later)
            reader = "" if same and has_values else _reader(model, place, run)
            if not same or reader:
                raise ValueError(
                    f"pixels of absent channels have an influence: {reader or 'code outside the layers'} reads the "
                    f"images, too. Use where='input', which fills them before any layer reads them"
                )
    finally:
        handle.remove()
        for module, mode in modes.items():
            module.training = mode


def _check_centre(place: ChannelPlace, parts: list[Tensor], axis: int) -> None:
    fill = place.fill
    if not isinstance(fill, Regression) or fill.centre is not None:
        return
    pixels = torch.cat([part.detach().movedim(axis, 0).flatten(1).double().cpu() for part in parts], 1)
    size = (pixels.mean(1) / fill.covariance.diagonal().double().cpu().sqrt()).abs().median()
    if size > 5:
        raise ValueError(
            f"the example's channels have a mean of {size:.3g} deviations, but fill rule 'regression' needs images "
            f"with a mean of zero: subtract the mean, or give normalised=False with statistics="
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
    except (ValueError, RuntimeError, TypeError):
        pass
    finally:
        for handle in handles:
            handle.remove()
    return readers[0] if readers else ""
