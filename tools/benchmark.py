"""Measure speeds. Each benchmark measures our code and a reference in turn, in several pairs of measurements.

    python -m tools.benchmark                    # all benchmarks, about ten minutes; writes results/speed.csv;
                                                 # `step` is left out on a CPU, because its networks have full width
    python -m tools.benchmark stem --pairs 20    # only the stem; prints the result, and writes it only with --keep
    python -m tools.benchmark step epoch --device cuda:0 --compile --keep

cache     decodes images into the pixel cache; the reference is a bare Pillow loop on all cores
data      runs training steps on a CPU that make their batches; the reference trains on a constant batch
epoch     runs whole epochs; the references are the pipeline of PyTorch's ImageNet example (Dataset, Pillow,
          torchvision transforms, DataLoader) and a constant batch
step      runs whole steps of the training scripts; the reference trains on a constant batch
stem      runs ChannelSetConv2d in ResNet-18, in training and folded; the reference is a plain convolution with the
          same channels
scaling   draws and makes the batches of an epoch for 1,000 to 64,000 images; also compares one process with two
course    measures time and memory of the commands on --threads cores. The data are drawn: as many images as in the
          course's archive. This benchmark runs only if it is named. It needs 20 to 60 minutes and 4 GB of disk

A ratio divides our value by the reference's value. The table shows the median over the pairs, with quartiles in
brackets. results/speed.csv has a row for each case and machine.
"""

from __future__ import annotations

import io
import multiprocessing
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
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
from config import DEVICES, Task2Config, choose_device
from data.batches import Batches
from data.cache import open_cache
from data.dataset import add_data_options, cached_size, find_dataset, make_batches, open_data
from data.decode import decode
from data.lists import ImageLists, read_lists
from engine.records import check_file, note_checksums
from engine.step import TrainStep
from engine.trainer import Processes
from metrics.cost import count_macs
from models.resnet import ScaledResNet
from models.task2 import build_classifier
from storage.files import write_text
from utils import ROOT, ArgumentParser, UserError, allowed_cores, cli, environment, generator, within

STEPS = {  # networks of the benchmark `step`, at full width: name -> options
    "ResNet-34, 7x7 stem": {"arch": "resnet34", "stem_pool": False},
    "ResNet-34, stock": {"arch": "resnet34"},
    "ResNet-18, 7x7 stem": {"arch": "resnet18", "stem_pool": False},
    "ours (depth 6), x1.25": {"arch": "gated6-k3", "width": 1.25},
}
COURSE = {"train": 63_325, "val": 450, "test": 450}  # images of the course's archive
SIZES = {"48 px, quarter width": ("48px-quarter", "resnet10"), "64 px, half width": ("64px-half", "resnet18")}
COLUMNS = (
    *("benchmark", "case", "value", "unit", "reference", "ratio", "low", "high"),
    *("hardware", "threads", "commit"),
)


class Rows:
    """Hold a table of measurements; `add` prints each new row at once."""

    def __init__(self, device: torch.device):
        self.machine = environment(device)
        self.rows: list[dict] = []

    def add(self, benchmark: str, case: str, value: float, unit: str, reference: str = "", ratios=()) -> None:
        """Add a row to the table.

        Args:
            benchmark, case: name of the benchmark, and description of the case.
            value, unit: the measured value and its unit.
            reference: name of the reference for readers.
            ratios: our value divided by the reference's value, for each pair of measurements.
        """
        quartiles = [float(q) for q in np.quantile(ratios, [0.5, 0.25, 0.75])] if len(ratios) else [None] * 3
        values = (benchmark, case, value, unit, reference, *quartiles)
        machine = (self.machine["hardware"], torch.get_num_threads(), self.machine["commit"])
        self.rows.append(dict(zip(COLUMNS, (*values, *machine), strict=True)))
        median, low, high = quartiles
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
        images: int | None = None,
        other_images: int | None = None,
        unit: str = "ms/step",
    ) -> float:
        """Time two functions in alternating order and add a row, in milliseconds or in images per second.

        One more pair at the start does not count, because it warms up the caches.

        Args:
            benchmark, case: as in `add`.
            ours, other: functions that do the work of our code and of the reference, and return seconds.
            reference: name of `other` for readers.
            pairs: number of pairs of measurements.
            images: number of images that `ours` processes in a call. With this number, the row shows images per
                second. None: the row shows milliseconds.
            other_images: number of images that `other` processes in a call, if it is a different number.
            unit: unit of the time for readers.

        Returns:
            The median of the seconds of `ours`.
        """
        mine: list[float] = []
        theirs: list[float] = []
        for number in range(pairs + 1):
            for work, times in ((ours, mine), (other, theirs))[:: 1 if number % 2 else -1]:
                times.append(work())
        a, b = np.array(mine[1:]), np.array(theirs[1:])
        seconds = float(np.median(a))
        if images is None:
            value, compared = 1000 * seconds, a / b
        else:
            value, unit = images / seconds, "images/s"
            compared = images / (other_images or images) * b / a
        self.add(benchmark, case, value, unit, reference, compared)
        return seconds

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


def timed(work: Callable[[], None], clock: Callable[[], float] = time.perf_counter) -> Callable[[], float]:
    def run() -> float:
        start = clock()
        work()
        return clock() - start

    return run


# ---------------------------------------------------------------- cache


def _start(lists: ImageLists) -> None:
    # each worker opens the zip once, since opening a zip of 30,000 images takes longer than decoding 64 images
    global _lists
    _lists = lists


def _decode_all(job) -> None:
    paths, size = job
    for path in paths:
        decode(_lists.read(path), size)


def bench_cache(args, rows: Rows) -> None:
    lists = read_lists(find_dataset(args.data))
    paths = lists.paths
    size = cached_size(args.image_size)
    chunks = [(paths[i : i + 64], size) for i in range(0, len(paths), 64)]

    def bare() -> None:
        with multiprocessing.get_context("fork").Pool(len(allowed_cores()), _start, (lists,)) as pool:
            for _ in pool.imap_unordered(_decode_all, chunks):
                pass

    def ours() -> None:
        with tempfile.TemporaryDirectory() as folder:
            open_cache(lists, size, folder, progress=False)

    case, images = f"{len(paths):,} images to {size} px", len(paths)
    rows.pair("cache", case, timed(ours), timed(bare), "a bare Pillow loop", args.pairs, images)


# ---------------------------------------------------------------- steps


def make_network(config: Task2Config, device: torch.device) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Make a network of Task 2 with new weights, and its optimizer."""
    model = build_classifier(vars(config), 3, 50).to(device, memory_format=torch.channels_last)
    return model, torch.optim.SGD(model.parameters(), config.lr, momentum=0.9, nesterov=True)


def make_train_step(config: Task2Config, device: torch.device, train: Batches, constant: bool) -> TrainStep:
    """Make the object that runs the steps of a training; with `constant`, every step gets the same batch."""
    torch.manual_seed(0)
    if constant:
        images, labels = next(train.eval_batches(config.batch_size))
        train.train_batch = lambda *_: (images, labels)
    model, optimizer = make_network(config, device)
    average = AveragedModel(model, device, use_buffers=True)
    if config.compile:
        model.compile(dynamic=False)
    return TrainStep(
        config, model, model, average, optimizer, train, lambda count, random: {}, None, Processes(0, 1)
    )


def real_and_constant(
    config: Task2Config, device: torch.device, batches: Callable[[], Batches]
) -> tuple[TrainStep, TrainStep]:
    """Make two objects that run training steps: the first with new batches, the second with a constant batch."""
    return make_train_step(config, device, batches(), False), make_train_step(config, device, batches(), True)


def random_images(count: int, image_size: int, device: torch.device) -> Batches:
    side, random = cached_size(image_size), np.random.default_rng(0)
    return Batches(
        random.integers(0, 256, (count, side, side, 3), np.uint8),
        random.integers(0, 50, count),
        image_size,
        [0.5] * 3,
        [0.25] * 3,
        (0, 1, 2),
        device,
    )


def runner(steps: TrainStep, count: int) -> Callable[[], float]:
    """Return a function that runs the next `count` steps, waits for the device, and returns the seconds per step."""
    position = [0]

    def run() -> float:
        start = time.perf_counter()
        for step in range(position[0], position[0] + count):
            steps.run(step)
        steps.losses.sum().item()
        position[0] += count
        return (time.perf_counter() - start) / count

    return run


def bench_step(args, rows: Rows) -> None:
    device = torch.device(args.device)
    rate = matrix_rate(device)
    rows.add("step", "a product of two large bfloat16 matrices", rate / 1e12, "TFLOP/s")
    for name, options in STEPS.items():
        config = Task2Config(
            preset="64px-full",
            image_size=args.image_size,
            device=args.device,
            epochs=1000,
            compile=args.compile,
            **options,
        ).resolve()
        start = time.perf_counter()
        images = 40 * config.batch_size
        real, constant = real_and_constant(
            config, device, partial(random_images, images, args.image_size, device)
        )
        case = f"{name}, {args.image_size} px, batch {config.batch_size}"
        seconds = rows.pair(
            "step",
            f"{case}, compiled" if args.compile else case,
            runner(real, args.steps),
            runner(constant, args.steps),
            "a constant batch",
            args.pairs,
            config.batch_size,
        )
        flops = 6 * config.batch_size * count_macs(real.model, (3, args.image_size, args.image_size))
        print(
            f"         {1000 * seconds:.2f} ms, {100 * flops / seconds / rate:.0f} % of the matrix product, measured "
            f"{time.perf_counter() - start:.0f} s",
            flush=True,
        )


def matrix_rate(device: torch.device) -> float:
    """Measure the FLOP/s of a product of two random bfloat16 matrices of side 8192, or 1024 on a CPU."""
    side = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    run = timed(lambda: (a @ b)[0, 0].item())
    return 2 * side**3 / statistics.median(run() for _ in range(10))


def bench_data(args, rows: Rows) -> None:
    cpu = torch.device("cpu")
    for name, (preset, arch) in SIZES.items():
        for augment in ("light", "strong"):
            config = Task2Config(
                preset=preset, arch=arch, augment=augment, device="cpu", epochs=1000
            ).resolve()
            images = 20 * config.batch_size
            real, constant = real_and_constant(
                config, cpu, partial(random_images, images, config.image_size, cpu)
            )
            rows.pair(
                "data",
                f"{name}, {augment} augmentation",
                runner(real, args.steps),
                runner(constant, args.steps),
                "a constant batch",
                args.pairs,
            )


# ---------------------------------------------------------------- whole epochs


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
    options = (
        {"preset": "64px-full", "arch": "resnet18", "stem_pool": False}
        if cuda
        else {"preset": "48px-quarter", "arch": "resnet10", "augment": "strong"}
    )
    config = Task2Config(device=args.device, epochs=1000, compile=args.compile, **options).resolve()
    cache = open_data(args.data, config.image_size, args.cache)
    ours, constant = real_and_constant(
        config, device, partial(make_batches, cache, "train", config.image_size, (0, 1, 2), device)
    )
    loader = DataLoader(
        Plain(lists, cache, config.image_size),
        config.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=len(allowed_cores()),
        pin_memory=cuda,
        persistent_workers=True,
    )
    model, optimizer = make_network(config, device)
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

    count = ours.per_epoch
    epoch, limit = runner(ours, count), runner(constant, count)
    case = f"{config.arch}, x{config.width:g}, {config.image_size} px, whole epochs, {len(allowed_cores())} cores"
    pairs, batch, images = max(1, args.pairs // 3), config.batch_size, count * config.batch_size
    rows.pair(
        "epoch", case, lambda: count * epoch(), timed(plain), "Dataset, Pillow, DataLoader", pairs, images
    )
    rows.pair("epoch", case, epoch, limit, "a constant batch", pairs, batch)


# ---------------------------------------------------------------- the stem


def saved_bytes(forward: Callable[[], torch.Tensor]) -> int:
    """Count the bytes that a forward pass saves for the backward pass; memory that tensors share counts once."""
    sizes: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = forward()
    del output
    return sum(sizes.values())


def bench_stem(args, rows: Rows) -> None:
    device = torch.device(args.device)
    # on a CPU, the clock counts only the time of this process, since other processes may be busy
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    for channels, sizes in ((3, (1, 2, 3)), (13, (1, 3, 13)), (224, (112, 224))):
        head = f"ResNet-18, {args.image_size} px, C={channels}"
        samples = torch.randn(500, channels) @ torch.randn(channels, channels)
        images = torch.randn(64, channels, args.image_size, args.image_size, device=device)
        labels = torch.randint(0, 50, (64,), device=device)

        def network(taken: int) -> nn.Module:
            torch.manual_seed(0)
            return ScaledResNet("resnet18", 50, taken).to(device, memory_format=torch.channels_last).train()

        net = adapt_first_conv(network(channels).cpu(), covariance=samples.T.cov()).to(
            device, memory_format=torch.channels_last
        )

        def step(model: nn.Module, x, **how) -> Callable[[], float]:
            x = x.contiguous(memory_format=torch.channels_last)

            def work() -> None:
                arguments = {key: value() if callable(value) else value for key, value in how.items()}
                model.zero_grad(set_to_none=True)
                F.cross_entropy(model(x, **arguments), labels).backward()
                model.conv1.weight.grad.sum().item()

            return timed(work, clock)

        def row(case: str, ours, other, count: int = channels, unit: str = "ms/step") -> None:
            rows.pair(
                "stem", f"{head}, {case}", ours, other, f"plain, {count} channels", args.pairs, unit=unit
            )

        def inference(case: str, ours: nn.Module, other: nn.Module, x, count: int, **how) -> None:
            x = x.contiguous(memory_format=torch.channels_last)
            with torch.inference_mode():
                works = [lambda: ours(x, **how).sum().item(), lambda: other(x).sum().item()]
                row(case, *(timed(work, clock) for work in works), count, "ms/batch")

        random, plain = generator("benchmark"), network(channels)
        row(
            "training, a set an image",
            step(net, images, mask=lambda: sample_channels(64, channels, generator=random).to(device)),
            step(plain, images),
        )
        masked = {"mask": sample_channels(64, channels, generator=random).to(device)}
        ours, other = saved_bytes(lambda: net(images, **masked)), saved_bytes(lambda: plain(images))
        case, reference = f"{head}, saved for the backward pass", f"plain, {channels} channels"
        rows.add("stem", case, ours / 2**20, "MiB", reference, [ours / other])
        net.eval()
        plain.eval()
        inference("inference, a set an image", net, plain, images, channels, **masked)
        inference("inference, all channels", net, plain, images, channels)
        net.train()
        for n in sizes:
            ids, x = list(range(n)), images[:, :n]
            row(f"training, one set of n={n}", step(net, x, channels=ids), step(network(n), x), n)
            inference(f"folded, n={n}", fold_channels(net, ids).eval(), network(n).eval(), x, n)


# ---------------------------------------------------------------- the course's archive


def draw_course(folder: Path, counts: dict[str, int]) -> Path:
    """Draw a data set like the course's archive: JPEGs of 256 px in 50 classes, about 20 kB each.

    The pictures repeat, but each file has different bytes after the end of the picture. A decoder ignores these bytes.

    Args:
        folder: the folder to make.
        counts: split -> number of images.
    """
    random, pictures = np.random.default_rng(0), []
    for _ in range(100):
        clouds = random.normal(128, 40, (32, 32, 3)).clip(0, 255).astype(np.uint8)
        pixels = np.asarray(Image.fromarray(clouds).resize((256, 256)), np.int16)
        pixels = (pixels + random.normal(0, 5, pixels.shape)).clip(0, 255).astype(np.uint8)
        data = io.BytesIO()
        Image.fromarray(pixels).save(data, "JPEG", quality=75)
        pictures.append(data.getvalue())
    for label in range(50):
        (folder / f"images/n{label:08d}").mkdir(parents=True)
    number = 0
    for split, count in counts.items():
        lines = []
        for _ in range(count):
            path = f"images/n{number % 50:08d}/{number}.JPEG"
            (folder / path).write_bytes(pictures[number % 100] + number.to_bytes(8, "big"))
            lines.append(f"{path} {number % 50}\n")
            number += 1
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
        data, run = str(draw_course(Path(folder, "course"), COURSE)), f"{folder}/run"
        count, prepare = sum(COURSE.values()), ["-m", "data.prepare"]
        opened = ["--data", data, "--cache", f"{folder}/cache", "--threads", str(args.threads)]
        size, workers = str(args.image_size), ["--workers", str(args.threads)]
        training = ["train_task1.py", *opened, "--image-size", size, "--epochs", "1", "--out", run]
        evaluation = ["eval_channels.py", f"{run}/model.pt", *opened, "--results", f"{folder}/results"]
        for case, words in {
            "check": [*prepare, "check", data, *workers],
            "check --decode": [*prepare, "check", data, "--decode", *workers],
            f"cache for {size} px": [
                *(*prepare, "cache", data, "--image-size", size, "--out", f"{folder}/cache", *workers)
            ],
            f"train_task1.py, one epoch at {size} px": [*training, "--device", args.device],
            "eval_channels.py": [*evaluation, "--repeats", "0", "--device", args.device],
        }.items():
            seconds, memory = cost_of(words)
            rows.add("course", f"{count:,} images: {case}", seconds, "s")
            rows.add("course", f"{count:,} images: {case}, largest process", memory, "MiB")


# ---------------------------------------------------------------- scaling


def _batches_of_an_epoch(count: int, image_size: int) -> float:
    """Return the seconds that an epoch of batches from `count` random images takes, without a network."""
    torch.set_num_threads(1)
    batches = random_images(count, image_size, torch.device("cpu"))
    start = time.perf_counter()
    order = torch.randperm(count)
    for rows in order.split(128):
        random = generator("scaling", int(rows[0]))
        batches.train_batch({"indices": rows, **batches.draw(len(rows), "light", random)}, "light")
    return time.perf_counter() - start


def bench_scaling(args, rows: Rows) -> None:
    for count in (1_000, 4_000, 16_000, 64_000):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        seconds = _batches_of_an_epoch(count, 48)
        rows.add("scaling", f"batches of {count:,} images of 48 px, light", count / seconds, "images/s")
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        rows.add("scaling", f"memory for {count:,} images of 48 px, at most", max(grown, 0.0), "MiB")
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as pool:
        pool.starmap(_batches_of_an_epoch, [(1000, 48)] * 2)  # warm up: start the processes and import
        one = timed(lambda: pool.starmap(_batches_of_an_epoch, [(16_000, 48)]))
        two = timed(lambda: pool.starmap(_batches_of_an_epoch, [(16_000, 48)] * 2, chunksize=1))
        case, images = "two processes, 16,000 images each", 16_000
        rows.pair("scaling", case, two, one, "one process", max(1, args.pairs // 2), 2 * images, images)


BENCHMARKS = {
    "cache": bench_cache,
    "data": bench_data,
    "epoch": bench_epoch,
    "step": bench_step,
    "stem": bench_stem,
    "scaling": bench_scaling,
    "course": bench_course,
}


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(prog="python -m tools.benchmark", description=__doc__)
    parser.add_argument(
        "which", nargs="*", choices=tuple(BENCHMARKS), help="benchmarks to run (default: all)"
    )
    add_data_options(parser, "data set for `cache` and `epoch`, as in train_task1.py")
    parser.add_argument(
        "--image-size",
        type=within(8, 1024),
        default=64,
        help="image side in px for `cache`, `course`, `step` and `stem`",
    )
    parser.add_argument(
        "--pairs",
        type=within(1, 1000),
        default=7,
        help="number of pairs of measurements; `epoch` makes a third of this number, `scaling` half of it",
    )
    parser.add_argument(
        "--steps",
        type=within(1, 10**5),
        default=5,
        help="number of steps in each measurement of `data` and `step`",
    )
    parser.add_argument(
        "--device", default="cpu", help=f"device of `course`, `epoch`, `step` and `stem`: {DEVICES}"
    )
    parser.add_argument("--compile", action="store_true", help="use torch.compile in `epoch` and `step`")
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
    chosen = args.which or [
        name for name in BENCHMARKS if name != "course" and (name != "step" or args.device != "cpu")
    ]
    for name in chosen:
        torch.set_num_threads(args.threads)  # `scaling` sets another number
        BENCHMARKS[name](args, rows)
        if args.keep or not args.which:  # after each benchmark, so that a later error loses nothing
            rows.keep(ROOT / "results" / "speed.csv")


if __name__ == "__main__":
    cli(main)
