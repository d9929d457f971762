"""Train a classifier for Task 2 on all channels: a shallow network, or ResNet-34, from scratch.

    python train_task2.py                                   # `gated-3x3`, on the data in data/, else on the demo set
    python train_task2.py --arch resnet34 --no-stem-pool    # what it is compared with, its stem for small images
    python train_task2.py --kernels 3,5 --widths 128,256,512                              # members without a name
    python train_task2.py --teacher runs/.../model.pt                                     # learn from ResNet-34 as well

Ctrl-C saves; the same command with --resume goes on. Then: python eval_classifiers.py runs/.../model.pt
"""
from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from config import TrainConfig
from data.cache import PixelCache
from data.dataset import make_batches
from depth import count_depth
from engine import Trainer, predict, start
from metrics import classification_metrics
from models.branched import fuse
from models.resnet import LAYERS, ScaledResNet
from models.shallow import SHALLOW
from models.shallow_baselines import SHALLOW_BASELINES
from report.task2.rows import ROLES
from utils import UserError, cli, load_checkpoint, option, parse_config

SHALLOW_OPTIONS = ("stem_pool", "widths", "kernels", "branches", "gates", "coarse_gates", "second_order", "pools",
                   "levels", "dropout")
SHALLOW_ROLES = ("ours", "distilled")   # with a limit to the depth


@dataclass
class Task2Config(TrainConfig):
    arch: str | None = option("gated-3x3", "network: a ResNet, or one of models/shallow.py or models/shallow_baselines.py",
                              (*LAYERS, *SHALLOW, *SHALLOW_BASELINES))
    stem_pool: bool | None = option(None, "max-pooling after the first convolution (default: by --arch; ResNets have it unless "
                                          "--small-stem)")
    widths: str | None = option(None, "channels of the hidden layers at width 1, such as 128,256,512 (default: by --arch)")
    kernels: str | None = option(None, "sides of the hidden convolutions, odd, such as 5; several, such as 3,5,7, make a "
                                       "stream each (default: by --arch)")
    branches: bool | None = option(None, "train each convolution as a sum of branches (default: by --arch)")
    gates: bool | None = option(None, "gates in the hidden layers (default: by --arch)")
    coarse_gates: bool | None = option(None, "a gate for each pooled cell, not for each pixel before the pooling (default: by "
                                             "--arch)")
    second_order: int | None = option(None, "channels whose covariances the last layer sees; 0: means alone (default: by "
                                            "--arch)")
    pools: int | None = option(None, "hidden layers that halve the sides of their maps (default: all but the last)")
    levels: bool | None = option(None, "the last layer sees the pooled output of every hidden layer (default: by --arch)")
    dropout: float | None = option(None, "share of the last layer's inputs that is dropped while training (default: none)")
    weight_decay: float = option(1e-3, "L2 penalty on kernels and matrices, not on biases and normalisation")
    role: str | None = option(None, "the model's part in the result tables (default: resnet34 for that network, baseline for "
                                    "other ResNets, ablation for models/shallow_baselines.py, ours for models/shallow.py, with "
                                    "a --teacher distilled)", ROLES)
    max_depth: int = option(6, "largest strict depth (depth.py) in roles ours and distilled; a deeper network is not trained")

    def network_options(self) -> dict:
        """The options of the network, beyond its width and small stem, that were given.

        Raises:
            UserError: the network has no such option, or a list is not one of whole numbers.
        """
        given = {key: getattr(self, key) for key in SHALLOW_OPTIONS if getattr(self, key) is not None}
        known = SHALLOW_OPTIONS if self.arch in SHALLOW else ("stem_pool",) if self.arch in LAYERS else ()
        for key in given.keys() - set(known):
            raise UserError(f"--{key.replace('_', '-')}: --arch {self.arch} has no such option; those of {', '.join(SHALLOW)} have")
        for key in given.keys() & {"widths", "kernels"}:
            try:
                given[key] = tuple(int(number) for number in given[key].split(","))
            except ValueError:
                raise UserError(f"--{key} {given[key]}: expected whole numbers, such as 3,5,7") from None
        return given

    def resolve(self) -> Task2Config:
        """As `TrainConfig.resolve`; the name says which options differ from those of the network."""
        marks = ["small-stem"] * self.small_stem
        for key in self.network_options():
            value = getattr(self, key)
            marks.append({True: key, False: f"no-{key}"}[value] if isinstance(value, bool) else f"{key}-{value}")
        self.name = self.name or "-".join(filter(None, [self.arch, *marks, self.fraction_mark])).replace("_", "-").replace(",", "-")
        self.role = self.role or self._default_role()
        super().resolve()
        return self

    def _default_role(self) -> str:
        if self.arch in SHALLOW:
            return "distilled" if self.teacher else "ours"
        return "resnet34" if self.arch == "resnet34" else "baseline" if self.arch in LAYERS else "ablation"


def build_network(config: Task2Config, in_channels: int, num_classes: int) -> nn.Module:
    """The network of the options: x (B, C, H, W) -> logits (B, K).

    Raises:
        UserError: an option's value does not make a network.
    """
    if config.arch in LAYERS:
        return ScaledResNet(config.arch, num_classes, in_channels, config.width, config.small_stem, **config.network_options())
    try:
        return {**SHALLOW, **SHALLOW_BASELINES}[config.arch](num_classes, in_channels=in_channels, width=config.width,
                                                             small_stem=config.small_stem, **config.network_options())
    except ValueError as error:
        raise UserError(f"--arch {config.arch}: {error}") from error


def saved_config(values: dict) -> Task2Config:
    """The options that a run kept, without those that this version does not know."""
    known = {field.name for field in dataclasses.fields(Task2Config)}
    return Task2Config(**{key: value for key, value in values.items() if key in known})


def measured_depth(model: nn.Module, config: Task2Config, shape: tuple[int, ...]) -> dict:
    """Depths of the fused network, and of the one that is trained; for the record of an evaluation.

    Raises:
        UserError: the role has a limit, and the fused network is deeper than `config.max_depth`.
    """
    depth = count_depth(fuse(model), shape)
    if config.role in SHALLOW_ROLES and depth.strict > config.max_depth:
        raise UserError(f"{config.name} has strict depth {depth.strict}, above --max-depth {config.max_depth}; its longest path "
                        f"is {' > '.join(depth.path)}. Take layers away, or add --role baseline")
    return {"strict_depth": depth.strict, "stricter_depth": depth.stricter, "weighted_operations": depth.operations,
            "longest_path": depth.path, "train_depth": count_depth(model, shape, training=True).strict}


def load_network(path: str | Path) -> tuple[nn.Module, dict]:
    """Rebuild the network of a model.pt that this script wrote, not fused, in eval mode; returns it with the checkpoint.

    Raises:
        UserError: not such a file, or an architecture this version does not know.
    """
    checkpoint = load_checkpoint(path, "task2-model")
    try:
        model = build_network(saved_config(checkpoint["config"]), len(checkpoint["dataset"]["mean"]), len(checkpoint["dataset"]["class_names"]))
        model.load_state_dict(checkpoint["state"])
    except (KeyError, TypeError, RuntimeError, UserError) as error:
        raise UserError(f"{path} holds another architecture than this version builds: {str(error).splitlines()[0]}. "
                        "Evaluate it with the version that trained it.") from error
    return model.eval(), checkpoint


def load_teacher(config: Task2Config, cache: PixelCache) -> nn.Module | None:
    """The network of `config.teacher`, fused.

    Raises:
        UserError: not a checkpoint of this script, or of other data.
    """
    if config.teacher is None:
        return None
    model, checkpoint = load_network(config.teacher)
    if checkpoint["dataset"]["digest"] != cache.digest:
        raise UserError(f"--teacher {config.teacher}: it was trained on {checkpoint['dataset']['name']!r}, not on this data")
    return fuse(model)


def main() -> None:
    config = parse_config(Task2Config, description=__doc__).resolve()
    device, processes, cache = start(config)
    channels = range(len(cache.channel_names))
    shape = (len(channels), config.image_size, config.image_size)
    torch.manual_seed(config.seed)
    model = build_network(config, len(channels), cache.num_classes)
    measured_depth(model, config, shape)   # refuses a network above the limit
    teacher = load_teacher(config, cache)
    train, val = (make_batches(cache, split, config.image_size, channels, device, config.fraction) for split in ("train", "val"))

    def validate(averaged):
        predictions = predict(averaged, val, amp=config.amp).numpy()
        metrics = classification_metrics(val.labels.cpu().numpy(), predictions, cache.num_classes)
        return {"val_top1_pct": round(metrics["top1_pct"], 2)}

    Trainer(config, cache, model, train, validate, processes=processes, teacher=teacher).fit_and_save("task2-model", {
        "mean": cache.mean.tolist(), "std": cache.std.tolist()}, "eval_classifiers.py")


if __name__ == "__main__":
    cli(main)
