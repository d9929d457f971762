"""Initialise a network from a checkpoint whose data had other classes or other channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

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
    ours = {"channels": list(channels), "classes": list(classes)}
    theirs = {
        "channels": list(dataset.get("channel_names") or dataset.get("data_channels") or RGB.names),
        "classes": list(dataset["class_names"]),
    }
    same = {what for what in ours if theirs[what] == ours[what]}
    if "classes" not in same and all(name.isdigit() for name in classes):
        theirs["classes"] = []  # names are numbers: the same number means another class in other data
    shared = {what: _pairs(theirs[what], ours[what]) for what in ours}
    if not shared["channels"]:
        raise UserError(
            f"--init-from {path}: its channels are {', '.join(theirs['channels'][:6])}, but the data have "
            f"{', '.join(channels[:6])}; use a model.pt that shares a channel with the data"
        )
    counts = {what: len(names) for what, names in ours.items()}
    # a network with one channel more, or one class more, shows which axes belong to channels or classes
    larger = {what: _shapes(build(*({**counts, what: counts[what] + 1}).values())) for what in counts}
    parameters = dict(model.named_parameters())
    for key, value in model.state_dict().items():
        if key.endswith("_extra_state") or (".fill." in key and key not in parameters):
            continue  # the model keeps the channel names and statistics of the new data
        pairs = {}  # from each axis of channels or classes to pairs of positions
        for what, shapes in larger.items():
            for axis in _changed_axes(value.shape, shapes.get(key, value.shape)):
                if value.shape[axis] == counts[what]:
                    pairs[axis] = shared[what]
                elif what not in same:
                    raise UserError(
                        f"--init-from {path}: {key} has no separate values for each of the {what}; use a model.pt "
                        f"that has the same {what} as the data"
                    )
        if not (
            key in old
            and old[key].ndim == value.ndim
            and _changed_axes(value.shape, old[key].shape) <= pairs.keys()
        ):
            raise UserError(
                f"--init-from {path}: its network has {'another' if key in old else 'no'} {key}; give the "
                f"options that it was trained with (--arch, --width, --stem, ...); its config.json lists them"
            )
        if all(pairs.values()):
            value.copy_(_merge(value, old[key], pairs))
    return _summary(path, channels, shared, len(classes))


def _changed_axes(shape: torch.Size, other: torch.Size) -> set[int]:
    """Return the axes along which two shapes differ."""
    return {axis for axis, (a, b) in enumerate(zip(shape, other)) if a != b}


def _merge(value: Tensor, old: Tensor, pairs: dict[int, list[tuple[int, int]]]) -> Tensor:
    """Return `value` with the values of `old` for all channels and classes that both have.

    Args:
        pairs: a dict from an axis to pairs of positions along this axis, in `old` and in `value`.
    """
    for axis, positions in pairs.items():
        origins, targets = (torch.tensor(column) for column in zip(*positions))
        old = value.index_copy(axis, targets, old.index_select(axis, origins).to(value))
    return old


def _summary(path: str | Path, channels: Sequence[str], shared: dict, num_classes: int) -> str:
    """Return the line of text for `initialise`."""
    names = [channels[new] for _, new in shared["channels"]]
    line = f"starts from {path}: channels {', '.join(names)} by name"
    if fresh := [name for name in channels if name not in names]:
        line += f", new {', '.join(fresh)}"
    if len(shared["classes"]) < num_classes:
        line += (
            f"; {len(shared['classes'])} of {num_classes} classes are in it, the head is new for the others"
        )
    return line


def _pairs(theirs: Sequence[str], ours: Sequence[str]) -> list[tuple[int, int]]:
    """Return a pair of positions for each name in both lists: the position in `theirs`, then in `ours`."""
    return [(theirs.index(name), position) for position, name in enumerate(ours) if name in theirs]


def _shapes(network: nn.Module) -> dict[str, torch.Size]:
    return {
        key: value.shape for key, value in network.state_dict().items() if not key.endswith("_extra_state")
    }
