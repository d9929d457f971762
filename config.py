"""Define the options of the training scripts, the presets of their defaults, and when two trainings are equal."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch

from channelset import FILLS, Channels
from channelset.sampling import HOW
from data.batches import AUGMENTATIONS, MIXING
from data.channels import parse_shares, parse_subset, subset_name
from data.lists import RGB
from grids.run import Run
from metrics.depth import MAX_DEPTH
from models.resnet import LAYERS, STEMS, stem_pools
from models.shallow import DESIGNED_FOR, SHALLOW, SHALLOW_OPTIONS, ShallowOptions, fit_stem, shallow_name
from models.task1 import KERNELS
from models.task2 import ARCHS, network_options
from storage.checkpoint import OPTIONS
from utils import UserError, check_name, check_ranges, option

# Defaults that each preset sets, the shortest training first; an option on the command line replaces a default.
PRESET_OPTIONS = ("arch", "width", "image_size", "epochs", "batch_size", "lr", "augment")
PRESETS: dict[str, dict[str, Any]] = {
    name: dict(zip(PRESET_OPTIONS, values))
    for name, *values in (
        ("48px-quarter", "resnet10", 0.25, 48, 30, 128, 0.1, "light"),
        ("64px-half", "resnet18", 0.5, 64, 30, 128, 0.1, "strong"),
        ("64px-full", "resnet18", 1.0, 64, 30, 256, 0.2, "strong"),
        ("128px-full", "resnet18", 1.0, 128, 90, 256, 0.2, "strong"),
    )
}
PRESETS_IN_WORDS = "; ".join(
    f"{name}: {', '.join(f'{key} {value}' for key, value in preset.items())}"
    for name, preset in PRESETS.items()
)

DEVICES = "cpu, cuda, cuda:N or mps (Apple GPU, float32, not tested); auto: cuda if there is a GPU, else cpu"
# value of --teacher: a model learns from the moving average of its own weights (arXiv 1703.01780)
SELF = "self"
SAMPLERS = ("none", *(how for how in HOW if how != "all"))

# Options that do not change the training, so they may differ when a run is resumed. `taught_by` is compared together
# with the option `teacher`
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
    "max_failed",
    "max_depth",
    "tensorboard",
    "taught_by",
}


def choose_device(device: str) -> str:
    """Return the device that `--device` means on this machine: "cpu", "cuda:N" or "mps".

    Raises:
        UserError: the name is unknown, or this machine has no such device.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":  # to count GPUs, PyTorch loads the driver at every call
        return device
    if device == "cuda":  # each process of torchrun uses a different GPU
        device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    there = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        there.append("mps")
    if device not in there:
        raise UserError(f"--device {device}: expected auto or a device of this machine: {', '.join(there)}")
    return device


@dataclass
class TrainConfig:
    """Hold the options that every training script has.

    The types are correct only after `resolve`, which replaces None by the value of the preset. An option whose type
    contains None may stay None.
    """

    data: str = option(
        "auto",
        "folder or zip with train.txt, val.txt, test.txt and images/; auto: the data set in the repository's data/; "
        "if there is none, a demo set is made there",
    )
    cache: str | None = option(None, "folder for the decoded pixels (default: data/cache in the repository)")
    out: str = option(None, "run directory (default: runs/DATASET-SIZEpx/NAME-OPTIONS-sSEED)")
    name: str = option(None, "name of the model in the results (default: from the options)")
    resume: bool = option(False, "go on with the run in --out; if there is none, start it")
    preset: str = option(
        "auto",
        f"set of defaults for other options (arch: only in Task 1): {PRESETS_IN_WORDS}; auto: 64px-full on a GPU, else "
        "64px-half",
        ("auto", *PRESETS),
    )
    arch: str = option(None, "network behind the stem (default: by preset)", tuple(LAYERS))
    width: float = option(None, "width multiplier of the network (default: by preset)", least=1e-6, most=64)
    stem: str = option(
        "7x7s2",
        "first convolution: side and stride; 3x3s1 is for images under about 64 px, 11x11s4 for images above "
        "180 px; on such large images, the shallow networks of Task 2 use 11x11s4 by default",
        tuple(STEMS),
    )
    stem_pool: bool | None = option(
        None, "max-pooling after the first convolution (default: yes, but not with --stem 3x3s1)"
    )
    image_size: int = option(
        None, "side of the training and test images, px (default: by preset)", least=1, most=4096
    )
    train_sizes: str | None = option(
        None,
        "sides of the training images in px, such as 40,48,56 (default: only --image-size). Each step draws a side, "
        "so that the network also works at other sizes",
    )
    fraction: float = option(
        1.0,
        "share of each class's training images to use. The choice does not depend on --seed. A larger share contains "
        "the images of a smaller share. The normalisation uses all images",
        least=1e-6,
        most=1,
    )
    epochs: int = option(None, "passes over the training images (default: by preset)", least=1, most=10**6)
    batch_size: int = option(
        None, "images in each step, summed over all processes (default: by preset)", least=1, most=10**6
    )
    lr: float = option(
        None,
        "peak learning rate of SGD with Nesterov momentum 0.9 (default: by preset)",
        least=1e-12,
        most=1000,
    )
    weight_decay: float = option(
        5e-4, "L2 penalty on kernels and matrices, not on biases and normalisation", least=0, most=1000
    )
    warmup_epochs: float = option(
        2.0,
        "epochs of linear warm-up before the cosine decay; at most a fifth of all epochs",
        least=0,
        most=10**6,
    )
    label_smoothing: float = option(
        0.1,
        "label smoothing: share of the target that is spread evenly over all classes",
        least=0,
        most=0.999,
    )
    teacher: str | None = option(
        None,
        "model.pt of a teacher trained on the same data. The model also learns the teacher's predictions on all "
        f"channels (knowledge distillation). {SELF}: the teacher is the moving average of the model's own weights",
    )
    init_from: str | None = option(
        None,
        "model.pt of the same task and network, with the weights to start from. If its data had other classes, the "
        "last layer is new. If its data had other channels, channels with the same name keep their weights",
    )
    tensorboard: bool = option(
        False,
        "write scalars and the kernels of the first convolution for TensorBoard to OUT/tensorboard; needs the "
        "package tensorboard",
    )
    distill_weight: float = option(
        0.5, "share of the distillation loss in the whole loss, with --teacher", least=0, most=1
    )
    distill_temperature: float = option(
        4.0, "temperature of student and teacher in the distillation loss", least=1e-6, most=1000
    )
    distill_ramp: float = option(
        0.0, "share of the training over which the distillation loss rises from zero", least=0, most=1
    )
    ema_epochs: float = option(
        1.0,
        "time constant in epochs of the exponential moving average of the weights; 0: no average",
        least=0,
        most=10**6,
    )
    augment: str = option(
        None,
        "light: crop and flip; strong: random resized crop, flip, erasing (default: by preset)",
        AUGMENTATIONS,
    )
    mix: str = option(
        "none",
        "mix each image with another image of the batch, except in the last tenth of the training: mixup "
        "(arXiv 1710.09412) or cutmix (arXiv 1905.04899)",
        ("none", *MIXING),
    )
    amp: bool = option(
        None,
        "bfloat16 autocast (default: on with CUDA, and on CPUs with AVX-512 bfloat16 for images of 32 px or more)",
    )
    channels_last: bool = option(True, "use PyTorch's memory format channels_last")
    compile: bool = option(
        False, "compile the network with torch.compile: a minute to start, then faster; needs a C++ compiler"
    )
    eval_every: int = option(
        5, "epochs between validations; the last epoch is always validated", least=1, most=10**6
    )
    max_failed: float = option(
        0.01, "stop if more than this share of a split's images cannot be decoded", least=0, most=1
    )
    seed: int = option(
        0, "seed of weights, batches, augmentation and channel sampling", least=0, most=2**63 - 1
    )
    device: str = option("auto", DEVICES)
    threads: int = option(0, "CPU threads; 0: one for each idle core", least=0, most=4096)

    # `training_name` of the teacher. It is not an option: the training script reads it from the teacher's checkpoint
    taught_by: str | None = None

    @property
    def teacher_file(self) -> str | None:
        """Return the path of the teacher's checkpoint, or None without a teacher that was trained before."""
        return None if self.teacher == SELF else self.teacher

    @classmethod
    def of(cls, options: Mapping[str, Any], **changed: Any) -> Self:
        """Return the options in a checkpoint or a record; `changed` replaces some of them.

        Options that an older version did not have get their defaults.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        config = cls(**{**{key: value for key, value in options.items() if key in names}, **changed})
        config.taught_by = _teacher(options)
        return config

    def resolve(self, channels: Channels = RGB) -> Self:
        """Set the options that depend on the machine, the preset and the data's channels; check all values.

        Raises:
            UserError: a value is out of range, or the machine has no such device.
        """
        self.device = choose_device(self.device)
        if self.preset == "auto":
            self.preset = "64px-half" if self.device == "cpu" else "64px-full"
        for key, value in PRESETS[self.preset].items():
            if getattr(self, key) is None:
                setattr(self, key, value)
        # on a CPU, the kernel gradients of 1x1 feature maps are undefined with oneDNN's bfloat16
        if self.amp is None:
            self.amp = self.device.startswith("cuda") or (
                self.device == "cpu" and torch.cpu._is_avx512_bf16_supported() and self.image_size >= 32
            )
        check_ranges(self)
        for key, value in network_defaults(self).items():
            if value is not None and getattr(self, key, None) == value:
                setattr(self, key, None)  # the same training as without the option
        check_name(self.name, "--name")
        if self.train_sizes is not None:
            self.train_sizes = ",".join(str(side) for side in parse_sizes(self.train_sizes))
        if self.tensorboard and importlib.util.find_spec("tensorboard") is None:
            raise UserError(
                "--tensorboard: the package is not installed; run `pip install tensorboard`, or leave the option out"
            )
        compiler = os.environ.get("CXX", "g++")  # torch.compile calls it for networks on a CPU
        if self.compile and self.device == "cpu" and shutil.which(compiler) is None:
            raise UserError(
                f"--compile: there is no C++ compiler {compiler!r} here; install it, name another compiler in the "
                "environment variable CXX, or leave the option out"
            )
        return self

    def without_effect(self) -> dict[str, str]:
        """Return a dict from each option that has no effect here to what the option needs."""
        distilling = ("distill_weight", "distill_temperature", "distill_ramp")
        return {} if self.teacher else dict.fromkeys(distilling, "a --teacher")

    def check_effects(self) -> None:
        """Check that each option that was given has an effect. Older versions trained without this check.

        Raises:
            UserError: an option has no effect.
        """
        usual = _defaults(self)
        for name, needs in self.without_effect().items():
            if getattr(self, name) != usual[name]:
                raise UserError(
                    f"--{name.replace('_', '-')} has no effect without {needs}: add {needs}, or leave this option out"
                )


def network_defaults(config: TrainConfig) -> dict[str, Any]:
    """Return the value that each option of the network has if it is left out."""
    if config.arch in LAYERS:
        return {"stem_pool": stem_pools(config.stem, None), "kernel_size": STEMS[config.stem][0]}
    if config.arch not in SHALLOW:
        return {}
    usual = {**SHALLOW_OPTIONS, **SHALLOW[config.arch]}
    del usual["stem_pool"]  # without this option, the stem depends on the size of the images
    return {
        key: ",".join(map(str, value)) if isinstance(value, tuple) else value for key, value in usual.items()
    }


def parse_sizes(text: str | None) -> tuple[int, ...]:
    """Return the different sides in px that --train-sizes names, in ascending order; () for None.

    Raises:
        UserError: a side is not a whole number from 1 to 4096.
    """
    if text is None:
        return ()
    try:
        sides = sorted({int(side) for side in text.split(",")})
    except ValueError:
        sides = [0]
    if not 1 <= sides[0] <= sides[-1] <= 4096:
        raise UserError(
            f"--train-sizes {text}: give whole numbers from 1 to 4096 with commas, such as 40,48,56"
        )
    return tuple(sides)


@dataclass
class Task1Config(TrainConfig):
    """Hold the options of Task 1: the options of every training, and its own."""

    channels: str = option(
        "all",
        "channels that the model takes, such as RGB or R; if you name only some channels and no --sampler, the model "
        "is a specialist for this set",
    )
    fill: str = option(
        None,
        "how an absent channel is predicted from the present channels, see channelset/fill.py (default: "
        "regression; zero without a sampler)",
        tuple(FILLS),
    )
    kernel: str = option(
        "free", "source of the first convolution's kernel, see models/kernels.py", tuple(KERNELS)
    )
    templates: int = option(
        128,
        "number of templates of --kernel templates; fewer templates than channels limit the kernel's rank",
        least=1,
        most=10**5,
    )
    kernel_size: int | None = option(
        None, "side of the first convolution, odd (default: the side that --stem names)", least=1, most=99
    )
    embedding: bool = option(
        None,
        "learned offset that shows the network which channels are present (default: yes, but not with --sampler none)",
    )
    train_channels: str = option(
        "all", "channels from which training draws its sets; only the evaluation uses the other channels"
    )
    sampler: str = option(
        None,
        "how training draws a channel set for each image: hcs (hierarchical), sandwich, uniform or bernoulli, see "
        "channelset/sampling.py. hcs-batch draws one set for each batch, none takes all channels (default: hcs, "
        "but none with --channels)",
        SAMPLERS,
    )
    set_shares: str | None = option(
        None,
        "sets that training uses more often, each with its share of the images, such as "
        '"B04,B03,B02:0.25 all:0.25"; --sampler draws the sets of the other images (default: none)',
    )

    @property
    def is_specialist(self) -> bool:
        """Check whether the network is trained on only one set, which lacks some of the channels."""
        return self.sampler == "none" and self.channels != "all"

    def resolve(self, channels: Channels = RGB) -> Self:
        """Set and check the options, see `TrainConfig.resolve`; without a sampler, the network is a plain network.

        Args:
            channels: the channels of the data.

        Raises:
            UserError: see `TrainConfig.resolve`; or the data lack a channel, or options do not fit together.
        """
        names = channels.names
        ids = sorted(parse_subset(self.channels, channels))
        partial, taken = len(ids) < len(names), channels.chosen(ids)
        self.channels = subset_name(tuple(ids), names) if partial else "all"
        self.sampler = self.sampler or ("none" if partial else "hcs")
        plain = self.sampler == "none"
        self.fill = self.fill or ("zero" if plain else "regression")
        if self.embedding is None:
            self.embedding = not plain
        if self.train_channels != "all":
            trained = sorted(parse_subset(self.train_channels, channels))
            self.train_channels = subset_name(tuple(trained), names) if len(trained) < len(names) else "all"
            if plain or partial:
                raise UserError("--train-channels needs a --sampler and --channels all")
        drawn = taken.chosen(parse_subset(self.train_channels, taken))
        parse_shares(self.set_shares, drawn)  # report a wrong set before any image is decoded
        if (self.kernel_size or 1) % 2 == 0:
            raise UserError(f"--kernel-size {self.kernel_size}: must be odd")
        self.name = self.name or self._default_name()
        return super().resolve()

    def without_effect(self) -> dict[str, str]:
        unused = super().without_effect()
        if self.sampler == "none":
            unused["set_shares"] = "a --sampler"
        if self.kernel != "templates":
            unused["templates"] = "--kernel templates"
        return unused

    def _default_name(self) -> str:
        if self.is_specialist:
            return "specialist"
        if self.sampler == "none":
            return "rgb-only"
        if self.fill == "rescale" and self.kernel == "free" and not self.embedding:
            return "sliced"
        return "channelset" if self.fill == "regression" else f"fill-{self.fill}"


@dataclass
class Task2Config(ShallowOptions, TrainConfig):
    """Hold the options of Task 2: the options of every training and of `ShallowOptions`, and its own."""

    arch: str = option(
        "gated6-k3",
        "network: a ResNet, or a network of models/shallow.py or models/shallow_baselines.py",
        ARCHS,
    )
    weight_decay: float = option(
        1e-3, "L2 penalty on kernels and matrices, not on biases and normalisation", least=0, most=1000
    )
    max_depth: int = option(
        MAX_DEPTH,
        "largest strict depth (metrics/depth.py) of a network of models/shallow.py; a deeper network is refused",
        least=1,
        most=1000,
    )

    def resolve(self, channels: Channels = RGB) -> Self:
        """Set and check the options, see `TrainConfig.resolve`; name a shallow network by its depth and kernels.

        Raises:
            UserError: see `TrainConfig.resolve` and `models.task2.network_options`.
        """
        options = network_options(vars(self))
        if self.name is None:
            self.name = shallow_name({**SHALLOW[self.arch], **options}) if self.arch in SHALLOW else self.arch
        super().resolve()
        # shallow networks are designed for small images: on larger images the stem halves the sides more often
        if self.arch in SHALLOW and self.stem_pool is None and self.stem == "7x7s2":
            fitting = fit_stem(self.arch, self.image_size)
            if fitting != fit_stem(self.arch, DESIGNED_FOR):
                self.stem, self.stem_pool = fitting
        return self

    def without_effect(self) -> dict[str, str]:
        unused = super().without_effect()
        if self.arch not in SHALLOW:
            unused["max_depth"] = "a network of models/shallow.py"
        elif not (SHALLOW[self.arch].get("gates") if self.gates is None else self.gates):
            unused["pooled_gates"] = "--gates"
        return unused


CONFIGS: dict[str, type[TrainConfig]] = {"task1": Task1Config, "task2": Task2Config}
OPTIONS.update({f"{task}-model": cls for task, cls in CONFIGS.items()})  # to check checkpoints


def resolve_run(task: str, run: Run, preset: str, channels=RGB, **more: Any) -> TrainConfig:
    """Return the options of a grid's run, as the training script of `task` resolves them on a CPU.

    Args:
        channels: channels of the data.
        more: further options, such as the seed, also for the teacher; the options of the run replace them.

    Raises:
        UserError: the training script would refuse the options.
    """
    config = CONFIGS[task]
    options = {
        "name": run.model,
        "device": "cpu",
        "preset": preset,
        **more,
        **(run.parts or (run,))[0].options,
    }
    if unknown := options.keys() - {field.name for field in dataclasses.fields(config)}:
        raise UserError(f"the run {run} is not for {task}, which has no option {', '.join(sorted(unknown))}")
    if run.teacher:
        teacher = training_name(resolve_run(task, run.teacher, preset, channels, **more))
        options |= {"teacher": teacher, "taught_by": teacher}
    return config(**options).resolve(Channels(channels))


# ---------------------------------------------------------------- when two trainings are equal


def identity(config: TrainConfig) -> tuple[tuple[str, Any], ...]:
    """Return the options, except the seed, that change the training. All seeds of a training have the same options.

    Autocast is left out, because its default depends on the processor. A teacher is compared by its name, not its path.
    """
    options = _other_than(_defaults(config), config)
    options.pop("amp", None)
    if "init_from" in options:
        options["init_from"] = _training_of(options["init_from"])
    return tuple(sorted(options.items()))


def digest(*parts: Any) -> str:
    """Return eight hexadecimal digits of the sha256 of the values `parts`."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:8]


def training_name(config: TrainConfig) -> str:
    """Return NAME-OPTIONS of a resolved training, where OPTIONS is the digest of its identity."""
    return f"{config.name}-{digest(identity(config))}"


def folder_name(config: TrainConfig) -> str:
    """Return the name of a training's run directory: NAME-OPTIONS-sSEED."""
    return f"{training_name(config)}-s{config.seed}"


def differing(ours: Mapping, theirs: Mapping, cls: type[TrainConfig]) -> dict[str, tuple[Any, Any]]:
    """Return a dict from each option in which two trainings differ to a tuple (our value, their value).

    A run is resumed only if the dict is empty. Options in `SESSION_OPTIONS` may differ. If an older version did not
    have an option, it trained with the default of this option. If a version saved only the path of a teacher, equal
    paths mean the same teacher.
    """
    defaults = _defaults(cls)
    our, their = ({**defaults, **options, "teacher": _teacher(options)} for options in (ours, theirs))
    if "taught_by" not in theirs and ours.get("teacher") == theirs.get("teacher"):
        their["teacher"] = our["teacher"]
    return {
        key: (value, their.get(key))
        for key, value in our.items()
        if key not in SESSION_OPTIONS and value != their.get(key)
    }


def changed_options(config: TrainConfig) -> dict[str, Any]:
    """Return the resolved options that differ from the defaults of task and preset, without seed and names."""
    return _other_than(vars(type(config)(preset=config.preset, device=config.device).resolve()), config)


def _other_than(usual: Mapping, config: TrainConfig) -> dict[str, Any]:
    """Return the options that change the training and differ from `usual`, without the seed."""
    options = {**vars(config), "teacher": config.taught_by or config.teacher}
    skipped = {*SESSION_OPTIONS, "seed"}
    return {key: value for key, value in options.items() if value != usual[key] and key not in skipped}


def _defaults(config: Any) -> dict[str, Any]:
    return {field.name: field.default for field in dataclasses.fields(config)}


def _teacher(options: Mapping) -> str | None:
    """Return the teacher's `training_name`. Older versions saved only the path NAME-OPTIONS-sSEED/model.pt."""
    if options.get("taught_by") or not options.get("teacher"):
        return options.get("taught_by")
    return _training_of(options["teacher"])


def _training_of(path: str) -> str:
    """Return NAME-OPTIONS for a path NAME-OPTIONS-sSEED/model.pt; return any other path unchanged."""
    match = re.fullmatch(r"(?:.*/)?([^/]+)-s\d+/[^/]+", path)
    return match[1] if match else path
