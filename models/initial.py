"""Start a network from a checkpoint of other classes or other channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from data.lists import RGB
from utils import UserError, load_checkpoint


@torch.no_grad()
def initialise(
    model: nn.Module,
    build: Callable[[int, int], nn.Module],
    path: str | Path,
    kind: str,
    channels: Sequence[str],
    classes: Sequence[str],
) -> str:
    """Copy into `model` what it shares with the network of a checkpoint, and return one line that says what.

    Weights of a channel go to the channel of the same name, those of a class to the class of the same name. All
    other weights must have the same shape. Statistics of the data, which fill rules have, stay the model's own.

    Args:
        build: (number of channels, number of classes) -> a network of the model's options.
        path: of a model.pt.
        kind: of that checkpoint, see `utils.load_checkpoint`.
        channels, classes: names, in the order of the model's.

    Raises:
        UserError: no such checkpoint, or its network is another one, or shares no channel with the model.
    """
    checkpoint = load_checkpoint(path, kind)
    dataset, old = checkpoint["dataset"], checkpoint["state"]
    theirs = dataset.get("channel_names") or list(dataset.get("data_channels") or RGB.names)
    known = list(dataset["class_names"])
    same = {"channels": list(theirs) == list(channels), "classes": known == list(classes)}
    if not same["classes"] and all(
        name.isdigit() for name in classes
    ):  # numbers mean something else in other data
        known = []
    shared = {"channels": _pairs(theirs, channels), "classes": _pairs(known, classes)}
    if not shared["channels"]:
        raise UserError(
            f"--init-from {path}: its channels {', '.join(theirs[:6])} are none of {', '.join(channels[:6])}"
        )
    counts = {"channels": len(channels), "classes": len(classes)}
    shapes = {
        what: _shapes(build(*({**counts, what: counts[what] + 1}).values())) for what in counts
    }  # what has another shape with one channel, or class, more
    own, parameters = model.state_dict(), dict(model.named_parameters())
    for key, value in own.items():
        if ".fill." in key and key not in parameters:
            continue
        part, given = {}, old.get(key)
        for what, others in shapes.items():
            for axis, (one, more) in enumerate(zip(value.shape, others.get(key, value.shape))):
                if one != more and one == counts[what]:
                    part[axis] = shared[what]
                elif one != more and not same[what]:
                    raise UserError(
                        f"--init-from {path}: {key} has no place of its own for each of the {what}, which must be "
                        f"the same then"
                    )
        if (
            given is None
            or given.ndim != value.ndim
            or any(given.shape[axis] != value.shape[axis] for axis in range(value.ndim) if axis not in part)
        ):
            raise UserError(
                f"--init-from {path}: its network has {'no ' if given is None else 'another '}{key}; give the "
                f"options that it was trained with (--arch, --width, --stem, ...), as its config.json has them"
            )
        if all(pairs for pairs in part.values()):
            for axis, pairs in part.items():
                # what is not shared stays as the model was drawn
                given = _moved(given, value.transpose(0, axis), axis, pairs)
            value.copy_(given)
    names = [channels[new] for _, new in shared["channels"]]
    fresh = [name for name in channels if name not in names]
    line = f"starts from {path}: channels {', '.join(names)} by name"
    if fresh:
        line += f", new {', '.join(fresh)}"
    if len(shared["classes"]) < len(classes):
        line += f"; {len(shared['classes'])} of {len(classes)} classes are its own, the head's others are new"
    return line


def _pairs(theirs: Sequence[str], ours: Sequence[str]) -> list[tuple[int, int]]:
    """Places of the names that both have: (in theirs, in ours)."""
    return [(theirs.index(name), place) for place, name in enumerate(ours) if name in theirs]


def _shapes(network: nn.Module) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in network.state_dict().items()}


def _moved(given: torch.Tensor, own: torch.Tensor, axis: int, pairs: list[tuple[int, int]]) -> torch.Tensor:
    """`given` with the entries of `own` along `axis`, those of `pairs` replaced by its own."""
    given, made = given.transpose(0, axis), own.clone()
    for old, new in pairs:
        made[new] = given[old]
    return made.transpose(0, axis)
