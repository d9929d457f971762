"""Rebuild networks from the checkpoints that the training scripts write."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from torch import nn

from utils import UserError, brief, load_checkpoint


def load(
    path: str | Path, kind: str, build: Callable[[Mapping, Mapping], nn.Module]
) -> tuple[nn.Module, dict]:
    """Rebuild the network of a model.pt; return it in eval mode, and the checkpoint.

    Args:
        kind: kind of the checkpoint, see `utils.load_checkpoint`.
        build: (the training's options, its data set) -> the network.

    Raises:
        UserError: the file is no such checkpoint, or this version cannot build its network.
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
