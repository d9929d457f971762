"""Initialise a network from a checkpoint whose data had other classes or other channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from data.lists import RGB
from storage.checkpoint import load_checkpoint
from utils import UserError


@torch.no_grad()
def initialise(
    model: nn.Module,
    build: Callable[[int, int], nn.Module],
    path: str | Path,
    kind: str,
    channels: Sequence[str],
    classes: Sequence[str],
) -> str:
    """Copy the weights of a checkpoint into `model`; return one line of text that lists the copied channels.

    The weights of a channel go to the channel of the same name. The weights of a class go to the class of the same
    name. All other weights must have the same shape. Fill rules hold statistics of the data, which are not copied.

    Args:
        build: a function that builds a network with the model's options, from a number of channels and of classes.
        path: path of a model.pt.
        kind: value of "kind" in the checkpoint, such as "task1-model"; see `storage.checkpoint.load_checkpoint`.
        channels, classes: names of the model's channels and classes, in order.

    Raises:
        UserError: the file is not a checkpoint of this kind, its network has another architecture, or it shares no
            channel with the model.
    """
    checkpoint = load_checkpoint(path, kind)
    dataset, old = checkpoint["dataset"], checkpoint["state"]
    old_channels = dataset.get("channel_names") or list(dataset.get("data_channels") or RGB.names)
    old_classes = list(dataset["class_names"])
    same = {"channels": list(old_channels) == list(channels), "classes": old_classes == list(classes)}
    if not same["classes"] and all(name.isdigit() for name in classes):
        old_classes = []  # classes whose names are numbers: the same number means another class in other data
    shared = {"channels": _pairs(old_channels, channels), "classes": _pairs(old_classes, classes)}
    if not shared["channels"]:
        raise UserError(
            f"--init-from {path}: its channels {', '.join(old_channels[:6])} are none of "
            f"{', '.join(channels[:6])}; use a model.pt that shares a channel with the data"
        )
    counts = {"channels": len(channels), "classes": len(classes)}
    # a network with one channel more, or one class more, shows which axes belong to channels or classes
    shapes = {what: _shapes(build(*({**counts, what: counts[what] + 1}).values())) for what in counts}
    current, parameters = model.state_dict(), dict(model.named_parameters())
    for key, value in current.items():
        if key.endswith("_extra_state") or (".fill." in key and key not in parameters):
            continue  # the model keeps the channel names and statistics of the new data
        part, old_value = {}, old.get(key)
        for what, others in shapes.items():
            for axis, (size, larger) in enumerate(zip(value.shape, others.get(key, value.shape))):
                if size != larger and size == counts[what]:
                    part[axis] = shared[what]
                elif size != larger and not same[what]:
                    raise UserError(
                        f"--init-from {path}: {key} has no separate values for each of the {what}; use a model.pt "
                        f"that has the same {what} as the data"
                    )
        if (
            old_value is None
            or old_value.ndim != value.ndim
            or any(
                old_value.shape[axis] != value.shape[axis] for axis in range(value.ndim) if axis not in part
            )
        ):
            raise UserError(
                f"--init-from {path}: its network has {'no ' if old_value is None else 'another '}{key}; give the "
                f"options that it was trained with (--arch, --width, --stem, ...); its config.json lists them"
            )
        if all(part.values()):
            for axis, pairs in part.items():
                # channels and classes that the checkpoint does not have keep their random weights
                origins, targets = (torch.tensor(positions) for positions in zip(*pairs))
                slices = old_value.index_select(axis, origins).to(value)
                old_value = value.index_copy(axis, targets, slices)
            value.copy_(old_value)
    names = [channels[new] for _, new in shared["channels"]]
    fresh = [name for name in channels if name not in names]
    line = f"starts from {path}: channels {', '.join(names)} by name"
    if fresh:
        line += f", new {', '.join(fresh)}"
    if len(shared["classes"]) < len(classes):
        line += (
            f"; {len(shared['classes'])} of {len(classes)} classes are in it, the head is new for the others"
        )
    return line


def _pairs(theirs: Sequence[str], ours: Sequence[str]) -> list[tuple[int, int]]:
    """Return a pair of positions for each name in both lists: the position in `theirs`, then in `ours`."""
    return [(theirs.index(name), position) for position, name in enumerate(ours) if name in theirs]


def _shapes(network: nn.Module) -> dict[str, torch.Size]:
    return {
        key: value.shape for key, value in network.state_dict().items() if not key.endswith("_extra_state")
    }
