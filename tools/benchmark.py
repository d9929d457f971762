"""Measure the speeds this project promises, each against its reference in alternating pairs.

    python -m tools.benchmark                 # all on this machine, medians of the ratios
    python -m tools.benchmark stem --pairs 20 # the stem alone
    python -m tools.benchmark step --device cuda --compile --image-size 64

cache   images decoded into the pixel cache a second, against a bare Pillow loop on all cores
data    share of a CPU training step that making the batch takes
step    whole training steps as the training scripts run them, against steps on a constant batch
stem    a training step with ChannelSetConv2d and one channel set an image, against the plain Conv2d
"""
from __future__ import annotations

import multiprocessing
import statistics
import tempfile
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from channelset import fold_channels, sample_channels
from config import Task2Config
from data.batches import Batches
from data.cache import open_cache
from data.decode import ImageReader, decode
from data.lists import find_dataset, read_lists
from data.workers import cores
from engine import Processes
from metrics.cost import count_macs
from models.task1 import build_channel_net
from models.task2 import build_classifier
from step import TrainStep
from utils import ArgumentParser, cli, generator

STEPS = {   # network -> options; at full width, for `step`
    "ResNet-34, 7x7 stem": {"arch": "resnet34", "stem_pool": False}, "ResNet-34, stock": {"arch": "resnet34"},
    "ResNet-18, 7x7 stem": {"arch": "resnet18", "stem_pool": False},
    "ours (depth 6), x1.25": {"arch": "gated6-k3", "width": 1.25}}
COVARIANCE = torch.tensor([[1.0, 0.9, 0.8], [0.9, 1.0, 0.92], [0.8, 0.92, 1.0]])
NETWORKS = {"ResNet-18, fp32": (1.0, False), "ResNet-18 half width, bf16": (0.5, True)}   # width, autocast


def _start(reader: ImageReader) -> None:
    global _reader   # one a worker: opening a zip of 30,000 images takes longer than decoding 64
    _reader = reader


def _decode_all(job) -> None:
    paths, size = job
    for path in paths:
        decode(_reader.read(path), size)


def bench_cache(args) -> None:
    lists = read_lists(find_dataset(args.data))
    paths = [path for split in lists.splits.values() for path in split.paths]
    size, ratios, speeds = round(args.image_size * 8 / 7), [], []
    chunks = [(paths[i:i + 64], size) for i in range(0, len(paths), 64)]
    for _ in tqdm(range(args.pairs), desc="cache", disable=None):
        start = time.perf_counter()
        with multiprocessing.get_context("fork").Pool(cores(), _start, (ImageReader(lists),)) as pool:
            for _ in pool.imap_unordered(_decode_all, chunks):
                pass
        bare = time.perf_counter() - start
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            open_cache(lists, size, folder, progress=False)
            ours = time.perf_counter() - start
        ratios.append(bare / ours)
        speeds.append(len(paths) / ours)
    print(f"cache: {statistics.median(speeds):,.0f} images/s to {size} px, "
          f"{100 * statistics.median(ratios):.0f} % of the bare Pillow loop's speed (pairs: "
          f"{', '.join(f'{100 * r:.0f}' for r in ratios)})")


def make_step(width: float, amp: bool, size: int, plain: bool):
    """A function (images, labels, mask) -> seconds of one optimiser step."""
    torch.manual_seed(0)
    net = build_channel_net("resnet18", 3, 50, "regression", width=width, covariance=COVARIANCE)
    if plain:
        net = fold_channels(net)
        net.conv1.bias = None
    net = net.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9, nesterov=True)

    def step(images, labels, mask=None) -> float:
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=amp):
            logits = net(images) if plain else net(images, mask=mask)
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(logits.float(), labels).backward()
        optimizer.step()
        return time.perf_counter() - start
    return step


def random_batch(size: int, count: int = 128):
    images = torch.randn(count, 3, size, size).contiguous(memory_format=torch.channels_last)
    return images, torch.randint(0, 50, (count,))


def bench_stem(args) -> None:
    for name, (width, amp) in NETWORKS.items():
        plain, ours = (make_step(width, amp, args.image_size, plain) for plain in (True, False))
        images, labels = random_batch(args.image_size)
        ratios, random = [], generator("benchmark")
        for pair in tqdm(range(args.pairs + 2), desc=f"stem, {name}", disable=None):
            mask = sample_channels(len(images), 3, generator=random)
            if pair % 2:   # neither is always the first
                second, first = ours(images, labels, mask), plain(images, labels)
            else:
                first, second = plain(images, labels), ours(images, labels, mask)
            ratios.append(second / first)
        ratios = sorted(ratios[2:])   # the first two warm up
        print(f"stem: {name}, {args.image_size} px, step time {100 * (statistics.median(ratios) - 1):+.1f} % "
              f"(quartiles {100 * (ratios[len(ratios) // 4] - 1):+.1f}, "
              f"{100 * (ratios[-1 - len(ratios) // 4] - 1):+.1f})")


def make_train_step(config: Task2Config, device: torch.device, constant: bool) -> TrainStep:
    """Steps of a training on random images; constant: each gets the same batch, made once."""
    torch.manual_seed(0)
    side, count, random = round(config.image_size * 8 / 7), 40 * config.batch_size, np.random.default_rng(0)
    train = Batches(random.integers(0, 256, (count, side, side, 3), np.uint8), random.integers(0, 50, count),
                    config.image_size, [0.5] * 3, [0.25] * 3, (0, 1, 2), device)
    if constant:
        images, labels = next(train.eval_batches(config.batch_size))
        train.train_batch = lambda now, augment: (images, labels)
    model = build_classifier(vars(config), 3, 50).to(device, memory_format=torch.channels_last)
    average = AveragedModel(model, device, use_buffers=True)
    optimizer = torch.optim.SGD(model.parameters(), config.lr, momentum=0.9, nesterov=True)
    if config.compile:
        model.compile(dynamic=False)
    return TrainStep(config, model, model, average, optimizer, train, lambda count, random: {}, None,
                     Processes(0, 1))


def seconds_of_steps(steps: TrainStep, first: int, count: int) -> float:
    """Of one step, on average over `count` of them; waits for the device."""
    start = time.perf_counter()
    for step in range(first, first + count):
        steps.run(step)
    steps.losses.sum().item()
    return (time.perf_counter() - start) / count


def bench_step(args) -> None:
    device = torch.device(args.device)
    rate = matrix_rate(device)
    print(f"step: a bfloat16 product of two large matrices runs at {rate / 1e12:.0f} TFLOP/s")
    for name, options in STEPS.items():
        config = Task2Config(preset="64px-full", image_size=args.image_size, device=args.device, epochs=1000,
                             compile=args.compile, **{"width": 1.0, **options}).resolve()
        start = time.perf_counter()
        real, constant = (make_train_step(config, device, constant) for constant in (False, True))
        for steps in (real, constant):
            seconds_of_steps(steps, 0, 5)
        ready = time.perf_counter() - start
        pairs = [[seconds_of_steps(steps, 5 + pair * args.steps, args.steps) for steps in (real, constant)]
                 for pair in range(args.pairs)]
        own = statistics.median(pair[0] for pair in pairs)
        share = statistics.median(pair[0] / pair[1] for pair in pairs)
        flops = 6 * config.batch_size * count_macs(real.model, (3, args.image_size, args.image_size))
        print(f"step: {name}, {args.image_size} px, batch {config.batch_size}, compile {config.compile}: "
              f"{1000 * own:.2f} ms, {config.batch_size / own:,.0f} images/s, {share:.3f} x a constant batch, "
              f"{100 * flops / own / rate:.0f} % of the matrix product; ready in {ready:.1f} s", flush=True)


def matrix_rate(device: torch.device) -> float:
    """FLOP/s of a product of two bfloat16 matrices of random numbers: 8192 x 8192, on a CPU 1024 x 1024."""
    side = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    times = []
    for _ in range(10):
        start = time.perf_counter()
        (a @ b)[0, 0].item()
        times.append(time.perf_counter() - start)
    return 2 * side ** 3 / statistics.median(times)


def bench_data(args) -> None:
    cached = torch.randint(0, 256, (2000, *[round(args.image_size * 8 / 7)] * 2, 3),
                           dtype=torch.uint8).numpy()
    batches = Batches(cached, torch.zeros(2000, dtype=torch.int64).numpy(), args.image_size, [0.5] * 3,
                      [0.25] * 3,
                      (0, 1, 2), torch.device("cpu"))
    for name, (width, amp) in NETWORKS.items():
        step = make_step(width, amp, args.image_size, plain=True)
        for augment in ("light", "strong"):
            shares, random = [], generator("benchmark")
            for _ in tqdm(range(args.pairs + 2), desc=f"data, {name}, {augment}", disable=None):
                indices = torch.randint(0, 2000, (128,), generator=random)
                start = time.perf_counter()
                with torch.autocast("cpu", torch.bfloat16, enabled=amp):
                    drawn = {"indices": indices, **batches.draw(len(indices), augment, random)}
                    images, labels = batches.train_batch(drawn, augment)
                making = time.perf_counter() - start
                shares.append(making / (making + step(images, labels)))
            print(f"data: {name}, {args.image_size} px, {augment} augmentation: "
                  f"{100 * statistics.median(shares[2:]):.1f} % of the step")


BENCHMARKS = {"cache": bench_cache, "data": bench_data, "step": bench_step, "stem": bench_stem}


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("which", nargs="*", choices=tuple(BENCHMARKS), default=list(BENCHMARKS),
                        help="benchmarks to run")
    parser.add_argument("--data", default="auto", help="data set for `cache`, as in train_task1.py")
    parser.add_argument("--image-size", type=int, default=64, help="px")
    parser.add_argument("--pairs", type=int, default=7, help="repetitions")
    parser.add_argument("--steps", type=int, default=5, help="steps of each repetition of `step`")
    parser.add_argument("--device", default="cpu", help="of `step`: cpu or cuda:N")
    parser.add_argument("--compile", action="store_true", help="of `step`: torch.compile the networks")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the training steps")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.backends.cudnn.benchmark = True
    for name in args.which:
        BENCHMARKS[name](args)


if __name__ == "__main__":
    cli(main)
