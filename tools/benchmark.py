"""Measure speeds. Each benchmark measures our code and a reference in turn, in several pairs of measurements.

    python -m tools.benchmark                    # all benchmarks, about ten minutes; writes results/speed.csv
    python -m tools.benchmark stem --pairs 20    # only the stem; prints the result, and writes it only with --keep
    python -m tools.benchmark epoch --device cuda:0 --compile --keep

epoch     runs whole epochs; the references are the pipeline of PyTorch's ImageNet example (Dataset, Pillow,
          torchvision transforms, DataLoader) and a constant batch
stem      runs ChannelSetConv2d in ResNet-18, in training and folded; the reference is a plain convolution with the
          same channels
course    measures time and memory of the commands on --threads cores. The data are drawn: as many images as in the
          course's archive. This benchmark runs only if it is named. It needs 20 to 60 minutes and 4 GB of disk

A ratio divides our value by the reference's value. The table shows the median over the pairs, with quartiles in
brackets. results/speed.csv has a row for each case and machine.
"""

from __future__ import annotations

import io
import itertools
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from channelset import adapt_first_conv, fold_channels, sample_channels
from config import DEVICES, PRESETS, Task2Config, choose_device
from data.batches import Batches
from data.dataset import add_data_options, find_dataset, make_batches, open_data
from data.lists import read_lists
from engine.records import check_file, note_checksums
from engine.step import TrainStep, make_optimizer
from engine.trainer import Processes
from models.resnet import ScaledResNet
from models.task2 import build_classifier
from storage.files import write_text
from utils import ROOT, ArgumentParser, UserError, allowed_cores, cli, environment, generator, within

COURSE = {"train": 63_325, "val": 450, "test": 450}  # images of the course's archive
COLUMNS = (
    *("benchmark", "case", "value", "unit", "reference", "ratio", "low", "high"),
    *("hardware", "threads", "commit"),
)
IMAGES = "images/s"  # the unit of a speed; all other units of a pair are times


class Rows:
    """Hold a table of measurements; `add` prints each new row at once."""

    def __init__(self, device: torch.device):
        self.machine = environment(device)
        self.rows: list[dict] = []

    def add(
        self,
        benchmark: str,
        case: str,
        value: float,
        unit: str,
        reference: str = "",
        ratios: Sequence[float] = (math.nan,),
    ) -> None:
        """Add a row to the table.

        Args:
            benchmark, case: name of the benchmark, and description of the case.
            value, unit: the measured value and its unit.
            reference: name of the reference for readers.
            ratios: our value divided by the reference's value, for each pair of measurements.
        """
        median, low, high = np.quantile(ratios, [0.5, 0.25, 0.75])
        values = (benchmark, case, value, unit, reference, median, low, high)
        machine = (self.machine["hardware"], torch.get_num_threads(), self.machine["commit"])
        self.rows.append(dict(zip(COLUMNS, (*values, *machine), strict=True)))
        against = f"   {median:.3f} ({low:.3f} to {high:.3f}) x {reference}" if reference else ""
        print(f"{benchmark:8} {case:58} {value:10,.4g} {unit}{against}", flush=True)

    def pair(
        self,
        benchmark: str,
        case: str,
        ours: Callable[[], float],
        other: Callable[[], float],
        reference: str,
        pairs: int,
        unit: str = "ms/step",
    ) -> None:
        """Time two functions in alternating order and add a row, in milliseconds or in images per second.

        One more pair at the start does not count, because it warms up the caches.

        Args:
            benchmark, case: as in `add`.
            ours, other: functions that do the work of our code and of the reference. They return seconds: for each
                image if the unit is `IMAGES`, else for each step or batch.
            reference: name of `other` for readers.
            pairs: number of pairs of measurements.
            unit: unit of the row.
        """
        works, seconds = (ours, other), np.empty((pairs + 1, 2))
        for number in range(pairs + 1):
            for column in (0, 1) if number % 2 else (1, 0):
                seconds[number, column] = works[column]()
        a, b = seconds[1:].T
        if unit == IMAGES:
            self.add(benchmark, case, 1 / np.median(a), unit, reference, b / a)
        else:
            self.add(benchmark, case, 1000 * np.median(a), unit, reference, a / b)

    def keep(self, path: Path) -> None:
        """Write the rows into the file `path`. Old rows for other machines or cases stay."""
        check_file(path, path.parent)
        old = pd.read_csv(path) if path.is_file() else pd.DataFrame(columns=COLUMNS)
        new = pd.DataFrame(self.rows, columns=COLUMNS)
        keys = ["benchmark", "case", "reference", "hardware"]
        both = (
            pd.concat([old, new])
            .fillna({"reference": ""})
            .drop_duplicates(keys, keep="last")
            .sort_values(keys)
        )
        write_text(path, both.to_csv(index=False, lineterminator="\n", float_format="%.4g"))
        note_checksums(path)


def timed(
    work: Callable[[], object], count: int = 1, clock: Callable[[], float] = time.perf_counter
) -> Callable[[], float]:
    """Return a function that runs `work` and returns the seconds for one of its `count` images or steps."""

    def run() -> float:
        start = clock()
        work()
        return (clock() - start) / count

    return run


# ---------------------------------------------------------------- whole epochs


def make_network(config: Task2Config) -> tuple[nn.Module, torch.optim.SGD]:
    """Make a network of Task 2 with new weights, and its optimizer."""
    torch.manual_seed(0)
    model = build_classifier(vars(config), 3, 50).to(config.device, memory_format=torch.channels_last)
    return model, make_optimizer(model, config)


def training(config: Task2Config, train: Batches, count: int) -> Callable[[], None]:
    """Start a training; return a function that runs its next `count` steps and waits for the device."""
    model, optimizer = make_network(config)
    average = AveragedModel(model, train.device, use_buffers=True)
    if config.compile:
        model.compile(dynamic=False)
    steps = TrainStep(
        config, model, model, average, optimizer, train, lambda count, random: {}, None, Processes(0, 1)
    )
    numbers = itertools.count()

    def work() -> None:
        for number in itertools.islice(numbers, count):
            steps.run(number)
        steps.losses.sum().item()

    return work


def constant(train: Batches, size: int) -> Batches:
    """Change `train` so that every step gets the same batch; return `train`."""
    batch = next(train.eval_batches(size))
    train.train_batch = lambda *_: batch
    return train


class Plain(Dataset):
    """Read images from files with Pillow and torchvision, like PyTorch's ImageNet example."""

    def __init__(self, lists, cache, image_size: int):
        self.lists, self.split = lists, lists.splits["train"]
        self.transform = transforms.Compose(
            [
                transforms.RandomResizedCrop(image_size, (0.35, 1.0)),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(cache.mean.tolist(), cache.std.tolist()),
            ]
        )

    def __len__(self) -> int:
        return len(self.split.paths)

    def __getitem__(self, row: int):
        image = Image.open(io.BytesIO(self.lists.read(self.split.paths[row]))).convert("RGB")
        return self.transform(image), int(self.split.labels[row])


def bench_epoch(args, rows: Rows) -> None:
    device, lists = torch.device(args.device), read_lists(find_dataset(args.data))
    cuda = device.type == "cuda"
    preset = "64px-full" if cuda else "48px-quarter"
    config = Task2Config(
        device=args.device,
        epochs=1000,
        compile=args.compile,
        preset=preset,
        arch=PRESETS[preset]["arch"],
        augment="strong",
    ).resolve()
    cache = open_data(args.data, config.image_size, args.cache)
    loader = DataLoader(
        Plain(lists, cache, config.image_size),
        config.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=len(allowed_cores()),
        pin_memory=cuda,
        persistent_workers=True,
    )
    model, optimizer = make_network(config)
    model.train()

    def plain() -> None:
        for images, labels in loader:
            images = images.to(device, non_blocking=True, memory_format=torch.channels_last)
            labels = labels.to(device, non_blocking=True)
            with torch.autocast(device.type, torch.bfloat16, enabled=config.amp):
                loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        loss.item()

    real, same = (make_batches(cache, "train", config.image_size, (0, 1, 2), device) for _ in range(2))
    steps, case = len(loader), f"{config.arch}, x{config.width:g}, {config.image_size} px, whole epochs"
    ours, limit, loop = (
        timed(work, steps * config.batch_size)
        for work in (
            training(config, real, steps),
            training(config, constant(same, config.batch_size), steps),
            plain,
        )
    )
    for other, reference in ((loop, "Dataset, Pillow, DataLoader"), (limit, "a constant batch")):
        pairs = max(1, args.pairs // 3)
        rows.pair("epoch", f"{case}, {len(allowed_cores())} cores", ours, other, reference, pairs, IMAGES)


# ---------------------------------------------------------------- the stem


def bench_stem(args, rows: Rows) -> None:
    device = torch.device(args.device)
    # on a CPU, the clock counts only the time of this process, since other processes may be busy
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    for channels, sizes in ((3, (1, 2, 3)), (13, (1, 3, 13)), (224, (112, 224))):
        head = f"ResNet-18, {args.image_size} px, C={channels}"
        samples = torch.randn(500, channels) @ torch.randn(channels, channels)
        images = torch.randn(64, channels, args.image_size, args.image_size, device=device)
        labels, random = torch.randint(0, 50, (64,), device=device), generator("benchmark")

        def network(taken: int) -> nn.Module:
            torch.manual_seed(0)
            return ScaledResNet("resnet18", 50, taken).to(device, memory_format=torch.channels_last)

        def draw() -> torch.Tensor:
            return sample_channels(64, channels, generator=random).to(device)

        def compare(
            case: str, train: bool, ours: nn.Module, other: nn.Module, count: int = channels, forward=None
        ) -> None:
            """Time `ours` against `other` on the first `count` channels and add a row. `forward` calls `ours`."""
            x = images[:, :count].contiguous(memory_format=torch.channels_last)

            def work(model: nn.Module, call) -> None:
                with torch.inference_mode(not train):
                    outputs = call(x)
                if train:
                    model.zero_grad(set_to_none=True)
                    F.cross_entropy(outputs, labels).backward()
                    outputs = model.conv1.weight.grad
                outputs.sum().item()

            works = []
            for model, call in ((ours, forward or ours), (other, other)):
                model.train(train)
                works.append(timed(partial(work, model, call), clock=clock))
            reference, unit = f"plain, {count} channels", "ms/step" if train else "ms/batch"
            rows.pair("stem", f"{head}, {case}", *works, reference, args.pairs, unit)

        plain = network(channels)
        net = adapt_first_conv(network(channels).cpu(), covariance=samples.T.cov())
        net.to(device, memory_format=torch.channels_last)
        mask = draw()
        compare("training, a set an image", True, net, plain, forward=lambda x: net(x, mask=draw()))
        compare("inference, a set an image", False, net, plain, forward=lambda x: net(x, mask=mask))
        compare("inference, all channels", False, net, plain)
        for n in sizes:
            ids = list(range(n))
            compare(
                f"training, one set of n={n}",
                True,
                net,
                network(n),
                n,
                lambda x, ids=ids: net(x, channels=ids),
            )
            compare(f"folded, n={n}", False, fold_channels(net, ids), network(n), n)


# ---------------------------------------------------------------- the course's archive


def draw_course(folder: Path, counts: dict[str, int]) -> Path:
    """Draw a data set like the course's archive: JPEGs of 256 px in 50 classes, about 20 kB each.

    The pictures repeat, but each file has different bytes after the end of the picture. A decoder ignores these bytes.

    Args:
        folder: the folder to make.
        counts: split -> number of images.
    """
    pictures = []
    for _ in range(100):
        data, noise = io.BytesIO(), [Image.effect_noise((64, 64), 60) for _ in "RGB"]
        Image.merge("RGB", noise).resize((256, 256)).save(data, "JPEG", quality=75)
        pictures.append(data.getvalue())
    for label in range(50):
        (folder / f"images/n{label:08d}").mkdir(parents=True)
    numbers = itertools.count()
    for split, count in counts.items():
        lines = []
        for number in itertools.islice(numbers, count):
            path = f"images/n{number % 50:08d}/{number}.JPEG"
            (folder / path).write_bytes(pictures[number % 100] + number.to_bytes(8, "big"))
            lines.append(f"{path} {number % 50}\n")
        write_text(folder / f"{split}.txt", "".join(lines))
    return folder


# Linux counts the memory of a parent process also as memory of the process that it starts. So this small program starts
# the command
LAUNCH = (
    "import resource, subprocess, sys, time; begun = time.perf_counter()\n"
    "status = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)\n"
    "print(time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
    "sys.exit(status)"
)


def cost_of(words: list[str]) -> tuple[float, float]:
    """Run Python with the arguments `words` in the repository; return seconds, and MiB of its largest process.

    Raises:
        UserError: the command failed.
    """
    done = subprocess.run(
        [sys.executable, "-I", "-c", LAUNCH, sys.executable, *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        raise UserError(f"`python {' '.join(words)}` failed; see its messages above")
    seconds, memory = map(float, done.stdout.split())
    return seconds, memory / 1024  # Linux counts in KiB


def bench_course(args, rows: Rows) -> None:
    with tempfile.TemporaryDirectory() as folder:
        data, size, threads = draw_course(Path(folder, "course"), COURSE), args.image_size, args.threads
        opened = f"--data {data} --cache {folder}/cache --threads {threads} --device {args.device}"
        check = f"-m data.prepare check {data} --workers {threads}"
        for name, command in {
            "check": check,
            "check --decode": f"{check} --decode",
            f"cache for {size} px": f"-m data.prepare cache {data} --image-size {size} --out {folder}/cache "
            f"--workers {threads}",
            f"train_task1.py, one epoch at {size} px": f"train_task1.py {opened} --image-size {size} --epochs 1 "
            f"--out {folder}/run",
            "eval_channels.py": f"eval_channels.py {folder}/run/model.pt {opened} --results {folder}/results "
            "--repeats 0",
        }.items():
            (seconds, memory), case = cost_of(command.split()), f"{sum(COURSE.values()):,} images: {name}"
            rows.add("course", case, seconds, "s")
            rows.add("course", f"{case}, largest process", memory, "MiB")


BENCHMARKS = {"epoch": bench_epoch, "stem": bench_stem, "course": bench_course}


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(prog="python -m tools.benchmark", description=__doc__)
    parser.add_argument(
        "which", nargs="*", choices=tuple(BENCHMARKS), help="benchmarks to run (default: all)"
    )
    add_data_options(parser, "data set for `epoch`, as in train_task1.py")
    parser.add_argument(
        "--image-size", type=within(8, 1024), default=64, help="image side in px for `course` and `stem`"
    )
    parser.add_argument(
        "--pairs",
        type=within(1, 1000),
        default=7,
        help="number of pairs of measurements; `epoch` makes a third of this number",
    )
    parser.add_argument("--device", default="cpu", help=f"device of `course`, `epoch` and `stem`: {DEVICES}")
    parser.add_argument("--compile", action="store_true", help="use torch.compile in `epoch`")
    parser.add_argument(
        "--threads", type=within(1, 4096), default=1, help="CPU threads of the training steps"
    )
    parser.add_argument(
        "--keep",
        action="store_true",
        help="write rows into the repository's results/speed.csv even if only some benchmarks run",
    )
    args = parser.parse_args(argv)
    torch.backends.cudnn.benchmark = True
    args.device = choose_device(args.device)
    rows = Rows(torch.device(args.device))
    for name in args.which or [name for name in BENCHMARKS if name != "course"]:
        torch.set_num_threads(args.threads)  # a benchmark may set another number
        BENCHMARKS[name](args, rows)
        if args.keep or not args.which:  # after each benchmark, so that a later error loses nothing
            rows.keep(ROOT / "results" / "speed.csv")


if __name__ == "__main__":
    cli(main)
