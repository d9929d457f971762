"""Options every training script has, and the tiers that set their defaults."""
from __future__ import annotations

import dataclasses
import os
import re
from dataclasses import dataclass

import torch

from data.batches import AUGMENTATIONS
from models.resnet import LAYERS
from utils import UserError, option

# What a tier stands for. An option given on the command line wins over its tier's value.
TIERS = {
    "cpu-small": {"arch": "resnet10", "width": 0.25, "image_size": 48, "epochs": 30, "batch_size": 128, "lr": 0.1,
                  "augment": "light"},
    "cpu": {"arch": "resnet18", "width": 0.5, "image_size": 64, "epochs": 30, "batch_size": 128, "lr": 0.1, "augment": "strong"},
    "gpu-small": {"arch": "resnet18", "width": 1.0, "image_size": 64, "epochs": 30, "batch_size": 256, "lr": 0.2,
                  "augment": "strong"},
    "gpu": {"arch": "resnet18", "width": 1.0, "image_size": 128, "epochs": 90, "batch_size": 256, "lr": 0.2, "augment": "strong"},
}


# Options that may differ between the sessions of one run: they do not change what is trained.
SESSION_OPTIONS = {"name", "role", "out", "resume", "device", "threads", "compile", "data", "cache", "eval_every"}


def differing_options(ours: dict, theirs: dict, defaults: dict) -> list[str]:
    """Names of the options by which two runs train something else.

    An option that one of them, of an older version, does not have had its default's effect: `defaults` has those.
    """
    return [key for key in {**ours, **defaults} if key not in SESSION_OPTIONS
            and ours.get(key, defaults.get(key)) != theirs.get(key, defaults.get(key))]


def option_defaults(cls) -> dict:
    """Each option's default before the tier and the machine fill it in."""
    return {field.name: field.default for field in dataclasses.fields(cls)}


@dataclass
class TrainConfig:
    """Options of every training script; a value of None is taken from the tier."""
    data: str = option("auto", "folder or zip with train.txt, val.txt, test.txt and images/; auto: what lies in "
                               "data/, else a demo set that is made there")
    cache: str | None = option(None, "folder for the decoded pixels (default: data/cache)")
    out: str | None = option(None, "run directory (default: runs/DATASET-SIZEpx/NAME-sSEED)")
    name: str | None = option(None, "model name in the results (default: from the options)")
    resume: bool = option(False, "go on with the run in --out exactly where it stopped; start it if it has not begun")
    tier: str = option("auto", "preset of sizes and lengths: " + "; ".join(
        f"{tier}: {', '.join(f'{k} {v}' for k, v in preset.items())}" for tier, preset in TIERS.items()), ("auto", *TIERS))
    arch: str | None = option(None, "network behind the stem (default: by tier)", tuple(LAYERS))
    width: float | None = option(None, "width multiplier of the network (default: by tier)")
    small_stem: bool = option(False, "3x3 stride-1 first convolution and no max-pooling, for images under 64 px")
    image_size: int | None = option(None, "side of the training and test images, px (default: by tier)")
    fraction: float = option(1.0, "share of the training images of each class that is used: the same images for every --seed, "
                                  "those of a smaller share among those of a larger one; normalisation stays that of all images")
    epochs: int | None = option(None, "passes over the training images that are used (default: by tier)")
    batch_size: int | None = option(None, "images a step, over all processes together (default: by tier)")
    lr: float | None = option(None, "peak learning rate of SGD with Nesterov momentum 0.9 (default: by tier)")
    weight_decay: float = option(5e-4, "L2 penalty on kernels and matrices, not on biases and normalisation")
    warmup_epochs: float = option(2.0, "epochs of linear warm-up before the cosine decay; at most a fifth of all")
    label_smoothing: float = option(0.1, "label smoothing")
    teacher: str | None = option(None, "model.pt of a trained network whose predictions on all channels are learned as well "
                                       "(knowledge distillation); it must be of the same data")
    distill_weight: float = option(0.5, "share of the distillation loss, with --teacher")
    distill_temperature: float = option(4.0, "temperature of both predictions in the distillation loss")
    distill_ramp: float = option(0.0, "share of the training over which the distillation loss rises from zero")
    ema_epochs: float = option(1.0, "horizon of the weights' exponential moving average, epochs; 0: no average")
    augment: str | None = option(None, "light: crop and flip; strong: random resized crop, flip, erasing (default: by tier)",
                                 AUGMENTATIONS)
    amp: bool | None = option(None, "bfloat16 autocast (default: on, but on a CPU only with AVX-512 bfloat16 and at 32 px "
                                    "or more)")
    channels_last: bool = option(True, "channels_last memory format")
    compile: bool = option(False, "torch.compile the network: faster steps after about a minute; needs a C++ compiler")
    eval_every: int = option(5, "epochs between validations; the last epoch always has one")
    max_failed: float = option(0.01, "share of undecodable images in a split above which the run stops")
    seed: int = option(0, "seed of weights, batches, augmentation and channel sampling")
    device: str = option("auto", "cpu, cuda or cuda:N; auto: cuda where present")
    threads: int = option(0, "CPU threads; 0: PyTorch's choice")

    @property
    def fraction_mark(self) -> str:
        """Of a model's name: the share of the training images, "" for all."""
        return f"fraction-{self.fraction:g}" * (self.fraction != 1)

    def resolve(self) -> TrainConfig:
        """Fill in what depends on the machine and the tier; check the values.

        Raises:
            UserError: a value out of range, or a device that is not there.
        """
        local = int(os.environ.get("LOCAL_RANK", 0))
        if self.device == "auto":
            self.device = "cuda" if torch.cuda.is_available() else "cpu"
        if self.device == "cuda":   # each process of torchrun has a GPU of its own
            self.device = f"cuda:{local}"
        if not re.fullmatch(r"cpu|cuda:\d+", self.device):
            raise UserError(f"--device {self.device}: expected auto, cpu, cuda or cuda:N")
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise UserError(f"--device {self.device}: CUDA is not available here; use --device cpu")
        self.tier = ("gpu" if self.device.startswith("cuda") else "cpu") if self.tier == "auto" else self.tier
        for key, value in TIERS[self.tier].items():
            if getattr(self, key) is None:
                setattr(self, key, value)
        if self.amp is None:   # on a CPU, oneDNN's bfloat16 leaves kernel gradients of 1x1 feature maps undefined
            self.amp = self.device != "cpu" or (torch.cpu._is_avx512_bf16_supported() and self.image_size >= 32)
        for key in ("image_size", "epochs", "batch_size", "eval_every"):
            if getattr(self, key) < 1:
                raise UserError(f"--{key.replace('_', '-')} {getattr(self, key)}: must be at least 1")
        if self.batch_size < 2:
            raise UserError("--batch-size 1: normalisation over a batch needs at least 2 images")
        if not 0 <= self.label_smoothing < 1 or self.ema_epochs < 0 or self.warmup_epochs < 0:
            raise UserError("--label-smoothing must be in 0..1, --ema-epochs and --warmup-epochs at least 0")
        if not (0 <= self.distill_weight <= 1 and 0 <= self.distill_ramp <= 1 and self.distill_temperature > 0):
            raise UserError("--distill-weight and --distill-ramp must be in 0..1, --distill-temperature above 0")
        if not 0 < self.fraction <= 1:
            raise UserError(f"--fraction {self.fraction}: must be above 0 and at most 1")
        for key in ("width", "lr"):
            if not getattr(self, key) > 0:
                raise UserError(f"--{key} {getattr(self, key)}: must be above 0")
        return self
