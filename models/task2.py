"""Build the networks of Task 2 from options or checkpoints of train_task2.py, and measure their depth."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from data.cache import PixelCache
from data.identity import difference
from metrics.depth import count_depth
from models.branched import fuse
from models.load import load
from models.resnet import LAYERS, ScaledResNet
from models.shallow import SHALLOW, SHALLOW_OPTIONS, build_shallow
from models.shallow_baselines import SHALLOW_BASELINES
from utils import UserError

CHECKPOINT = "task2-model"  # value of "kind" in a checkpoint of this task, see storage/checkpoint.py
# add a new network to SHALLOW in models/shallow.py or to SHALLOW_BASELINES
ARCHS = (*LAYERS, *SHALLOW, *SHALLOW_BASELINES)


def network_options(options: Mapping) -> dict:
    """Return the options in `SHALLOW_OPTIONS` that are not None.

    A list such as "3,5,7" becomes a tuple of numbers.

    Raises:
        UserError: the network does not take one of the options, or a list does not hold whole numbers in range.
    """
    arch = options["arch"]
    chosen = {key: options[key] for key in SHALLOW_OPTIONS if options.get(key) is not None}
    names = tuple(SHALLOW_OPTIONS) if arch in SHALLOW else ("stem_pool",) if arch in LAYERS else ()
    for key in chosen.keys() - set(names):
        raise UserError(
            f"--{key.replace('_', '-')}: --arch {arch} has no such option; leave it out, or choose one of "
            f"{', '.join(SHALLOW)}"
        )
    for key in chosen.keys() & {"widths", "kernels"}:
        try:
            chosen[key] = tuple(int(number) for number in chosen[key].split(","))
        except ValueError:
            raise UserError(f"--{key} {chosen[key][:40]}: expected whole numbers, such as 3,5,7") from None
        most = 99 if key == "kernels" else 10**5
        if not all(1 <= number <= most for number in chosen[key]):
            raise UserError(f"--{key} {','.join(map(str, chosen[key]))[:40]}: must be from 1 to {most:,}")
    return chosen


def build_classifier(options: Mapping, in_channels: int, num_classes: int) -> nn.Module:
    """Build the network that the options of a training name; it maps x (B, C, H, W) to logits (B, K).

    Raises:
        UserError: no network can be built with these options.
    """
    arch = options["arch"]
    common = {"in_channels": in_channels, "width": options["width"], "stem": options["stem"]}
    special = network_options(options)
    if arch in LAYERS:
        return ScaledResNet(arch, num_classes, **common, **special)
    try:
        if arch in SHALLOW:
            return build_shallow(arch, num_classes, **common, **special)
        network = SHALLOW_BASELINES[arch](num_classes, **common)
        if not hasattr(network, "feature_maps"):  # the evaluation would fail after the training
            raise ValueError("the network needs a method feature_maps(x), see metrics/receptive_field.py")
        return network
    except ValueError as error:
        raise UserError(f"--arch {arch}: {error}") from error


def load_classifier(path: str | Path) -> tuple[nn.Module, dict]:
    """Rebuild the network from a model.pt of train_task2.py; return the network and the content of the file.

    The network is in eval mode and not fused.

    Raises:
        UserError: see `load`.
    """

    def build(options: Mapping, dataset: Mapping) -> nn.Module:
        return build_classifier(options, len(dataset["mean"]), len(dataset["class_names"]))

    return load(path, CHECKPOINT, build)


def load_teacher(path: str, cache: PixelCache) -> nn.Module:
    """Rebuild the teacher from the checkpoint `path`; return the fused network.

    Args:
        cache: data of the student, the network that learns from the teacher.

    Raises:
        UserError: `path` is not a checkpoint of train_task2.py, or its network was trained on other data.
    """
    model, checkpoint = load_classifier(path)
    mismatch = difference(cache, checkpoint["dataset"], f"--teacher {path}")
    if mismatch:
        raise UserError(
            f"--teacher {path}: it was trained on {checkpoint['dataset']['name']!r}, not on this data: {mismatch}"
        )
    return fuse(model)


def measure_depth(
    model: nn.Module,
    shape: tuple[int, ...],
    limit: int | None = None,
    name: str = "the network",
    remedy: str = "allow more with --max-depth",
) -> dict:
    """Measure the depth of the network, fused and as it trains; return a dict that the record stores.

    Args:
        shape: (C, H, W) of one image.
        limit: largest strict depth that is allowed; None: no limit.
        name, remedy: name of the network, and what to do apart from removing layers, for the error message.

    Raises:
        UserError: the strict depth of the fused network is above `limit`.
    """
    depth = count_depth(fuse(model), shape)
    if limit is not None and depth.strict > limit:
        raise UserError(
            f"{name} has strict depth {depth.strict}, above {limit}; its longest path is "
            f"{' > '.join(depth.path)}. Remove layers, or {remedy} {depth.strict}"
        )
    return {
        "strict_depth": depth.strict,
        "stricter_depth": depth.stricter,
        "weighted_operations": depth.operations,
        "longest_path": depth.path,
        "train_depth": count_depth(model, shape, training=True).strict,
    }
