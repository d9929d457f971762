"""Options of the training scripts, the presets that set their defaults, and what tells two trainings
apart.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from channelset import FILLS, Channels
from channelset.sampling import HOW
from data.batches import AUGMENTATIONS, MIXING
from data.channels import parse_subset, subset_name
from data.lists import RGB
from models.resnet import LAYERS, STEMS
from models.shallow import DESIGNED_FOR, SHALLOW, fit_stem, shallow_name
from models.task1 import KERNELS
from models.task2 import ARCHS, MAX_DEPTH, network_options
from utils import UserError, check_name, check_ranges, option

# Image size and width of the networks, the shortest training first; an option given on the command line wins over
# its preset's value.
PRESETS = {
    "48px-quarter": {
        "arch": "resnet10",
        "width": 0.25,
        "image_size": 48,
        "epochs": 30,
        "batch_size": 128,
        "lr": 0.1,
        "augment": "light",
    },
    "64px-half": {
        "arch": "resnet18",
        "width": 0.5,
        "image_size": 64,
        "epochs": 30,
        "batch_size": 128,
        "lr": 0.1,
        "augment": "strong",
    },
    "64px-full": {
        "arch": "resnet18",
        "width": 1.0,
        "image_size": 64,
        "epochs": 30,
        "batch_size": 256,
        "lr": 0.2,
        "augment": "strong",
    },
    "128px-full": {
        "arch": "resnet18",
        "width": 1.0,
        "image_size": 128,
        "epochs": 90,
        "batch_size": 256,
        "lr": 0.2,
        "augment": "strong",
    },
}

DEVICES = (
    "cpu, cuda, cuda:N or mps (an Apple GPU: in float32, not tested); auto: cuda where present, else cpu"
)
SAMPLERS = ("none", *(how for how in HOW if how != "all"))

# They may differ between the sessions of one run: they do not change what is trained
SESSION_OPTIONS = {
    "name",
    "out",
    "resume",
    "device",
    "threads",
    "compile",
    "data",
    "cache",
    "eval_every",
    "max_depth",
    "tensorboard",
}


def choose_device(device: str) -> str:
    """What `--device` means on this machine: "cpu", "cuda:N" or "mps".

    Raises:
        UserError: not such a word, or no such device here.
    """
    local = os.environ.get("LOCAL_RANK", "0")
    if not local.isdigit():
        raise UserError(
            f"the environment has LOCAL_RANK={local!r}: start several processes with torchrun, or unset it"
        )
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":  # each process of torchrun has a GPU of its own
        device = f"cuda:{local}"
    if not re.fullmatch(r"cpu|mps|cuda:\d+", device):
        raise UserError(f"--device {device}: expected auto, cpu, cuda, cuda:N or mps")
    if device == "mps" and not torch.backends.mps.is_available():
        raise UserError("--device mps: there is no Apple GPU that this PyTorch can use; use --device cpu")
    if device.startswith("cuda"):
        if not torch.cuda.is_available():
            raise UserError(f"--device {device}: CUDA is not available here; use --device cpu")
        number, count = int(device.removeprefix("cuda:")), torch.cuda.device_count()
        if number >= count:
            known = "cuda:0" if count == 1 else f"cuda:0 to cuda:{count - 1}"
            raise UserError(
                f"--device {device}: there is no such GPU, only {known}"
                + ("; torchrun started more processes than there are GPUs" if local != "0" else "")
            )
    return device


@dataclass
class TrainConfig:
    """Options of every training script; a value of None is taken from the preset."""

    data: str = option(
        "auto",
        "folder or zip with train.txt, val.txt, test.txt and images/; auto: what lies "
        "in data/, else a demo set that is made there",
    )
    cache: str | None = option(None, "folder for the decoded pixels (default: data/cache)")
    out: str | None = option(None, "run directory (default: runs/DATASET-SIZEpx/NAME-OPTIONS-sSEED)")
    name: str | None = option(None, "what the results call the model (default: from the options)")
    resume: bool = option(
        False, "go on with the run in --out exactly where it stopped; start it if it has not begun"
    )
    preset: str = option(
        "auto",
        "sizes and lengths: "
        + "; ".join(
            f"{name}: {', '.join(f'{k} {v}' for k, v in preset.items())}" for name, preset in PRESETS.items()
        )
        + "; auto: 64px-full on a GPU, else 64px-half",
        ("auto", *PRESETS),
    )
    arch: str | None = option(None, "network behind the stem (default: by preset)", tuple(LAYERS))
    width: float | None = option(
        None, "width multiplier of the network (default: by preset)", above=0, most=64
    )
    stem: str = option(
        "7x7s2",
        "first convolution: side and stride; 3x3s1 is for images under about 64 px, "
        "11x11s4 for those above 180 px, where the shallow networks have it by themselves",
        tuple(STEMS),
    )
    stem_pool: bool | None = option(
        None, "max-pooling after the first convolution (default: with --stem 7x7s2)"
    )
    image_size: int | None = option(
        None, "side of the training and test images, px (default: by preset)", least=1, most=4096
    )
    fraction: float = option(
        1.0,
        "share of the training images of each class that is used: the same images "
        "for every --seed, those of a smaller share among those of a larger one; "
        "normalisation stays that of all images",
        above=0,
        most=1,
    )
    epochs: int | None = option(
        None, "passes over the training images that are used (default: by preset)", least=1, most=10**6
    )
    batch_size: int | None = option(
        None, "images a step, over all processes together (default: by preset)", least=1, most=10**6
    )
    lr: float | None = option(
        None, "peak learning rate of SGD with Nesterov momentum 0.9 (default: by preset)", above=0, most=1000
    )
    weight_decay: float = option(
        5e-4, "L2 penalty on kernels and matrices, not on biases and normalisation", least=0, most=1000
    )
    warmup_epochs: float = option(
        2.0, "epochs of linear warm-up before the cosine decay; at most a fifth of all", least=0, most=10**6
    )
    label_smoothing: float = option(0.1, "label smoothing", least=0, below=1)
    teacher: str | None = option(
        None,
        "model.pt of a trained network whose predictions on all channels are "
        "learned as well (knowledge distillation); it must be of the same "
        "data",
    )
    init_from: str | None = option(
        None,
        "model.pt to start from, of the same task and network; its data may have other classes (then the last "
        "layer is new) or channels (they go by their names)",
    )
    tensorboard: bool = option(
        False, "write scalars and the first kernels for TensorBoard to OUT/tensorboard; needs that package"
    )
    distill_weight: float = option(0.5, "share of the distillation loss, with --teacher", least=0, most=1)
    distill_temperature: float = option(
        4.0, "temperature of both predictions in the distillation loss", above=0, most=1000
    )
    distill_ramp: float = option(
        0.0, "share of the training over which the distillation loss rises from zero", least=0, most=1
    )
    ema_epochs: float = option(
        1.0, "horizon of the weights' exponential moving average, epochs; 0: no average", least=0, most=10**6
    )
    augment: str | None = option(
        None,
        "light: crop and flip; strong: random resized crop, flip, erasing (default: by preset)",
        AUGMENTATIONS,
    )
    mix: str = option(
        "none",
        "mix each image with another of its batch, but not in the last tenth of the training: mixup "
        "(1710.09412) or cutmix (1905.04899)",
        ("none", *MIXING),
    )
    amp: bool | None = option(
        None, "bfloat16 autocast (default: on, but on a CPU only with AVX-512 bfloat16 and at 32 px or more)"
    )
    channels_last: bool = option(True, "channels_last memory format")
    compile: bool = option(
        False, "torch.compile the network: faster steps after about a minute; needs a C++ compiler"
    )
    eval_every: int = option(
        5, "epochs between validations; the last epoch always has one", least=1, most=10**6
    )
    max_failed: float = option(
        0.01, "share of undecodable images in a split above which the run stops", least=0, most=1
    )
    seed: int = option(0, "seed of weights, batches, augmentation and channel sampling", least=0, below=2**63)
    device: str = option("auto", DEVICES)
    threads: int = option(0, "CPU threads; 0: as many as there are idle cores", least=0, most=4096)

    def resolve(self, known: Channels = RGB) -> TrainConfig:
        """Fill in what depends on the machine, the preset and the channels of the data; check the values.

        Raises:
            UserError: a value out of range, or a device that is not there.
        """
        self.device = choose_device(self.device)
        if self.preset == "auto":
            self.preset = "64px-half" if self.device == "cpu" else "64px-full"
        for key, value in PRESETS[self.preset].items():
            if getattr(self, key) is None:
                setattr(self, key, value)
        # on a CPU, oneDNN's bfloat16 leaves kernel gradients of 1x1 feature maps undefined
        if self.amp is None:
            self.amp = self.device.startswith("cuda") or (
                self.device == "cpu" and torch.cpu._is_avx512_bf16_supported() and self.image_size >= 32
            )
        check_ranges(self)
        check_name(self.name, "--name")
        if self.tensorboard and importlib.util.find_spec("tensorboard") is None:
            raise UserError(
                "--tensorboard: the package is not there; run `pip install tensorboard`, or leave it out"
            )
        if self.batch_size < 2:
            raise UserError("--batch-size 1: normalisation over a batch needs at least 2 images")
        return self


@dataclass
class Task1Config(TrainConfig):
    channels: str = option(
        "all",
        "channels the model knows, such as RGB or R; with fewer than all and no "
        "--sampler: a specialist for that set",
    )
    fill: str | None = option(
        None,
        "how an absent channel is predicted from the present ones, see "
        "channelset/fill.py (default: regression; zero without a sampler)",
        tuple(FILLS),
    )
    kernel: str = option(
        "free", "where the first convolution's kernel comes from, see models/kernels.py", tuple(KERNELS)
    )
    templates: int = option(
        128,
        "templates of --kernel templates; fewer than there are channels limit the kernel's rank",
        least=1,
        most=10**5,
    )
    kernel_size: int | None = option(
        None, "side of the first convolution, odd (default: the network's)", least=1, most=99
    )
    embedding: bool | None = option(
        None, "learned offset that tells the network which channels it was given (default: with a sampler)"
    )
    train_channels: str = option(
        "all", "channels that training draws its sets from; the others are seen by the evaluation only"
    )
    sampler: str | None = option(
        None,
        "channel sets in training, one an image: hcs (hierarchical), "
        "sandwich, uniform, bernoulli; hcs-batch: one a batch; none: all "
        "channels; see channelset/sampling.py (default: hcs; none with "
        "--channels)",
        SAMPLERS,
    )

    set_shares: str | None = option(
        None,
        "sets that training sees more often, those one will use, each with "
        'its share of the images, such as "B04,B03,B02:0.25 all:0.25"; '
        "--sampler draws the rest (default: none)",
    )

    @property
    def is_specialist(self) -> bool:
        """Whether the network was trained on one set of some channels."""
        return self.sampler == "none" and self.channels != "all"

    def resolve(self, known: Channels = RGB) -> Task1Config:
        """As `TrainConfig.resolve`; without a sampler the network is a plain one, trained on one set.

        Args:
            known: the channels of the data.

        Raises:
            UserError: as there, or a channel that the data do not have.
        """
        names = known.names
        ids = sorted(parse_subset(self.channels, known))
        partial = len(ids) < len(names)
        self.channels = subset_name(ids, names) if partial else "all"
        self.sampler = self.sampler or ("none" if partial else "hcs")
        plain = self.sampler == "none"
        self.fill = self.fill or ("zero" if plain else "regression")
        if self.embedding is None:
            self.embedding = not plain
        if self.train_channels != "all":
            self.train_channels = subset_name(sorted(parse_subset(self.train_channels, known)), names)
            if plain or partial:
                raise UserError("--train-channels needs a --sampler and --channels all")
        if (self.kernel_size or 1) % 2 == 0:
            raise UserError(f"--kernel-size {self.kernel_size}: must be odd")
        self.name = self.name or self._default_name()
        super().resolve()
        return self

    def _default_name(self) -> str:
        if self.is_specialist:
            return "specialist"
        if self.sampler == "none":
            return "rgb-only"
        if self.fill == "rescale" and self.kernel == "free" and not self.embedding:
            return "sliced"
        return "channelset" if self.fill == "regression" else f"fill-{self.fill}"


@dataclass
class Task2Config(TrainConfig):
    arch: str | None = option(
        "gated6-k3", "network: a ResNet, or one of models/shallow.py or models/shallow_baselines.py", ARCHS
    )
    stem_pool: bool | None = option(
        None,
        "max-pooling after the first convolution (default: by --arch; ResNets have it with --stem 7x7s2)",
    )
    widths: str | None = option(
        None, "channels of the hidden layers at width 1, such as 128,256,512 (default: by --arch)"
    )
    kernels: str | None = option(
        None,
        "sides of the hidden convolutions, odd, such as 5; several, such as "
        "3,5,7, make a stream each (default: by --arch)",
    )
    reparam: bool | None = option(None, "train each convolution as a sum of branches (default: by --arch)")
    gates: bool | None = option(None, "gates in the hidden layers (default: by --arch)")
    pooled_gates: bool | None = option(
        None, "a gate for each pooled cell, not for each pixel before the pooling (default: by --arch)"
    )
    covariance_channels: int | None = option(
        None,
        "channels whose covariances the last layer sees; 0: means alone (default: by --arch)",
        least=0,
        most=10**4,
    )
    num_pools: int | None = option(
        None, "hidden layers that halve the sides of their maps (default: all but the last)", least=0, most=16
    )
    multi_level_head: bool | None = option(
        None, "the last layer sees the pooled output of every hidden layer (default: by --arch)"
    )
    dropout: float | None = option(
        None,
        "share of the last layer's inputs that is dropped while training (default: none)",
        least=0,
        below=1,
    )
    weight_decay: float = option(
        1e-3, "L2 penalty on kernels and matrices, not on biases and normalisation", least=0, most=1000
    )
    max_depth: int = option(
        MAX_DEPTH,
        "largest strict depth (metrics/depth.py) of a network of "
        "models/shallow.py; a deeper one is not trained",
        least=1,
        most=1000,
    )

    def resolve(self, known: Channels = RGB) -> Task2Config:
        """As `TrainConfig.resolve`; a shallow network is called by its depth and kernels.

        Raises:
            UserError: as `models.task2.network_options` as well.
        """
        own = network_options(dataclasses.asdict(self))
        self.name = self.name or (
            shallow_name(**{**SHALLOW[self.arch], **own}) if self.arch in SHALLOW else self.arch
        )
        super().resolve()
        # as it is for small images; larger ones are halved more often
        if self.arch in SHALLOW and self.stem_pool is None and self.stem == "7x7s2":
            stem, pool = fit_stem(self.arch, self.image_size)
            if (stem, pool) != fit_stem(self.arch, DESIGNED_FOR):
                self.stem, self.stem_pool = stem, pool
        return self


CONFIGS = {"task1": Task1Config, "task2": Task2Config}


# ---------------------------------------------------------------- what tells two trainings apart


def option_defaults(cls: type[TrainConfig]) -> dict:
    """Each option's default before the preset and the machine fill it in."""
    return {field.name: field.default for field in dataclasses.fields(cls)}


def differing_options(ours: Mapping, theirs: Mapping, cls: type[TrainConfig]) -> list[str]:
    """Names of the options by which two runs train something else.

    An option that one of them, of an older version, does not have had its default's effect.
    """
    defaults = option_defaults(cls)
    return [
        key
        for key in {**ours, **defaults}
        if key not in SESSION_OPTIONS
        and ours.get(key, defaults.get(key)) != theirs.get(key, defaults.get(key))
    ]


def training_key(options: Mapping, cls: type[TrainConfig]) -> tuple:
    """The same for two trainings that differ in their seeds alone, and for no others.

    Autocast is left out: by default it follows from the processor.
    """
    defaults = option_defaults(cls)
    told = {
        key: value
        for key, value in options.items()
        if key in defaults and value != defaults[key] and key not in {*SESSION_OPTIONS, "seed", "amp"}
    }
    for key in told.keys() & {"teacher", "init_from"}:  # the folder, without the seed
        folder, _, seed = Path(told[key]).parent.name.rpartition("-s")
        told[key] = folder if seed.isdigit() else told[key]
    return tuple(sorted(told.items()))


def digest(*parts) -> str:
    """Eight letters that stand for the values `parts`."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:8]


def resolve_run(task: str, options: Mapping, preset: str, known=RGB, **more) -> TrainConfig:
    """The options of a training of `task`, as its script would resolve them on a CPU for data of the channels
    `known`.

    Raises:
        UserError: as the script.
    """
    return CONFIGS[task](**{"device": "cpu", **options, "preset": preset, **more}).resolve(Channels(known))


def told_options(config: TrainConfig) -> dict:
    """The resolved options that tell a training from the one its task and preset stand for, seed and names
    aside.
    """
    usual = dataclasses.asdict(type(config)(preset=config.preset, device=config.device).resolve())
    return {
        key: value
        for key, value in dataclasses.asdict(config).items()
        if value != usual[key] and key not in {*SESSION_OPTIONS, "seed"}
    }


def run_folder_name(config: TrainConfig) -> str:
    """NAME-OPTIONS-sSEED of a resolved training: its own whatever the options are."""
    key = training_key(dataclasses.asdict(config), type(config))
    return f"{config.name}-{digest(key)}-s{config.seed}"
