"""Measure the speeds this project promises, each against its reference in alternating pairs.

    python -m tools.benchmark                 # all three, medians of the ratios
    python -m tools.benchmark stem --pairs 20 # the stem alone

cache   images decoded into the pixel cache a second, against a bare Pillow loop on all cores
data    share of a CPU training step that making the batch takes
stem    a training step with ChannelSetConv2d and one channel set an image, against the plain Conv2d
"""
from __future__ import annotations

import multiprocessing
import statistics
import tempfile
import time

import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from data.batches import Batches
from data.cache import open_cache
from data.channels import sample_mask
from data.decode import ImageReader, decode
from data.lists import find_dataset, read_lists
from data.workers import cores
from models.task1 import build_channel_net
from utils import ArgumentParser, cli, generator

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
        net = nn.Sequential(net.stem.fold().requires_grad_(), net.backbone)
        net[0].bias = None
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
            mask = sample_mask("hcs", len(images), 3, random)
            if pair % 2:   # neither is always the first
                second, first = ours(images, labels, mask), plain(images, labels)
            else:
                first, second = plain(images, labels), ours(images, labels, mask)
            ratios.append(second / first)
        ratios = sorted(ratios[2:])   # the first two warm up
        print(f"stem: {name}, {args.image_size} px, step time {100 * (statistics.median(ratios) - 1):+.1f} % "
              f"(quartiles {100 * (ratios[len(ratios) // 4] - 1):+.1f}, "
              f"{100 * (ratios[-1 - len(ratios) // 4] - 1):+.1f})")


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
                    images, labels = batches.train_batch(indices, augment, random)
                making = time.perf_counter() - start
                shares.append(making / (making + step(images, labels)))
            print(f"data: {name}, {args.image_size} px, {augment} augmentation: "
                  f"{100 * statistics.median(shares[2:]):.1f} % of the step")


BENCHMARKS = {"cache": bench_cache, "data": bench_data, "stem": bench_stem}


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("which", nargs="*", choices=tuple(BENCHMARKS), default=list(BENCHMARKS),
                        help="benchmarks to run")
    parser.add_argument("--data", default="auto", help="data set for `cache`, as in train_task1.py")
    parser.add_argument("--image-size", type=int, default=64, help="px")
    parser.add_argument("--pairs", type=int, default=7, help="repetitions")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the training steps")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for name in args.which:
        BENCHMARKS[name](args)


if __name__ == "__main__":
    cli(main)
