"""The networks of Task 1 back from their checkpoints."""
from __future__ import annotations

from pathlib import Path

import torch

from models import build_channel_net, build_fill
from models.channel_net import ChannelNet
from utils import UserError, load_checkpoint


def load_channel_net(path: str | Path, fill: str | None = None) -> tuple[ChannelNet, dict]:
    """Rebuild the network of a model.pt that train_task1.py wrote, in eval mode; returns it with the checkpoint.

    Args:
        path: of the checkpoint.
        fill: evaluate it under another fill rule than it was trained with.

    Raises:
        UserError: not such a file, an architecture this version does not know, or a rule that needs other kernels.
    """
    checkpoint = load_checkpoint(path, "task1-model")
    try:
        config, dataset = checkpoint["config"], checkpoint["dataset"]
        statistics = {key: torch.tensor(dataset[key]) for key in ("mean", "std", "covariance")}
        channels = len(dataset["channel_names"])
        # options that older checkpoints do not have stand for a plain kernel of the backbone's size
        kernel = {key: config[key] for key in ("kernel", "templates", "kernel_size") if key in config}
        model = build_channel_net(config["arch"], channels, len(dataset["class_names"]), config["fill"],
                                  embedding=config["embedding"], width=config["width"], small_stem=config["small_stem"],
                                  **kernel, **statistics)
        model.load_state_dict(checkpoint["state"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{path} holds another architecture than this version builds: {str(error).splitlines()[0]}. "
                        "Evaluate it with the version that trained it.") from error
    if fill is not None:
        rule = build_fill(fill, channels, **statistics)
        if rule.rows != model.stem.fill.rows:
            raise UserError(f"--fill {fill}: the checkpoint's kernels are for rule {config['fill']!r}, which does not exchange")
        model.stem.fill = rule
    return model.eval(), checkpoint
