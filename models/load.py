"""Rebuild networks from the checkpoints that the training scripts write."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from torch import nn

from storage.checkpoint import brief, load_checkpoint
from utils import UserError


def load(
    path: str | Path, kind: str, build: Callable[[Mapping, Mapping], nn.Module]
) -> tuple[nn.Module, dict]:
    """Rebuild the network that a model.pt holds; return the network, in eval mode, and the content of the file.

    Args:
        kind: value of "kind" in the checkpoint, such as "task1-model"; see `storage.checkpoint.load_checkpoint`.
        build: a function that builds the network from the training's options and the description of its data set.

    Raises:
        UserError: the file is not a checkpoint of this kind, or this version cannot build its network.
    """
    checkpoint = load_checkpoint(path, kind)
    try:
        model = build(checkpoint["config"], checkpoint["dataset"])
        model.load_state_dict(checkpoint["state"])
    except (KeyError, TypeError, ValueError, RuntimeError, UserError) as error:
        raise UserError(
            f"{path} holds another architecture than this version builds: {brief(error)} Evaluate it with the "
            f"version that trained it."
        ) from error
    return model.eval(), checkpoint
