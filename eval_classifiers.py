"""Evaluate Task 2 checkpoints: accuracy, depth and cost of the fused network, in which each sum of branches is one convolution.

    python eval_classifiers.py runs/cpu/gated-s0/model.pt
    python eval_classifiers.py runs/cpu/gated-s*/model.pt runs/cpu/resnet34-s*/model.pt --skip-existing
    python eval_classifiers.py runs/cpu/gated-s0/model.pt --split val --repeats 0

Updates results/task2_classifiers.csv, one JSON a run with all provenance in results/runs/, predictions on test in
results/predictions/ and the tables and charts made from them.
"""
from __future__ import annotations

import torch
from torch import nn

from data.dataset import make_batches
from engine import predict
from evaluation import RunFiles, add_options, open_same_data, write_predictions
from measure import count_params, flop_counter_macs, latency_ms, peak_memory_mb
from metrics import classification_metrics
from models.branched import fuse
from receptive_field import receptive_field
from report import build as report_build
from report.task2.rows import RESULTS, ROLES
from train_task2 import Task2Config, load_network, measured_depth
from utils import ArgumentParser, UserError, cli, write_json

BATCH = 256   # images, where cost depends on the batch


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", nargs="+", help="model.pt of runs of train_task2.py, each evaluated by itself")
    parser.add_argument("--image-size", type=int, help="side of the images, px (default: as trained); another one is added to the "
                                                       "model's name, in role ablation")
    add_options(parser, ROLES)
    return parser


def cost(fused: nn.Module, shape: tuple[int, ...], device: torch.device, repeats: int) -> dict:
    """Result columns of what a network costs: images of `shape` (C, H, W), latency by `repeats` passes of one image, or none."""
    one, many = (torch.randn(count, *shape, device=device).to(memory_format=torch.channels_last) for count in (1, BATCH))
    def milliseconds(images, **how):
        return latency_ms(fused, images, **how)["median_ms"] if repeats else None
    return {"params": count_params(fused), "macs": flop_counter_macs(fused, one),
            "latency_ms_b1": milliseconds(one, repeats=repeats),
            "latency_ms_b256": milliseconds(many, repeats=max(1, repeats // 10), warmup=1),   # a pass is long enough to time
            "peak_mem_mb": peak_memory_mb(fused, many)}


def field(fused: nn.Module, image_size: int, channels: int) -> dict | None:
    """Receptive field, in images of twice the size; None where it cannot be measured:
    the unit in the middle is dead, or the images are too large."""
    try:
        return receptive_field(fused, 2 * image_size, channels=channels)
    except ValueError:
        return None


def evaluate(path: str, args) -> RunFiles | None:
    """Evaluate one checkpoint and write its results; None where nothing was written.

    Raises:
        UserError: not a checkpoint of train_task2.py, other data, results of other options, or too deep for its role.
    """
    model, checkpoint = load_network(path)
    trained, dataset = checkpoint["config"], checkpoint["dataset"]
    size = args.image_size or trained["image_size"]
    resized = size != trained["image_size"]
    files = RunFiles("task2", {"tier": trained["tier"], "dataset": dataset["name"], "image_size": trained["image_size"],
                               "role": args.role or ("ablation" if resized else trained["role"]),
                               "model": args.name or trained["name"] + f"+{size}px" * resized, "seed": trained["seed"]}, args.results)
    asked = {"evaluated_at_px": size if resized else None}
    if files.are_done(args, checkpoint, asked, Task2Config):
        return None
    keep = args.results or args.split == "both"
    if not keep:
        print("one of the splits: printed only; name a folder with --results to keep it")
    config, cache = open_same_data(args, path, checkpoint, Task2Config, name=files.constant["model"], role=files.constant["role"],
                                   image_size=size)
    device, channels = torch.device(config.device), range(len(cache.channel_names))
    shape = (len(channels), config.image_size, config.image_size)
    depths = measured_depth(model, config, shape)
    fused = fuse(model).to(device, memory_format=torch.channels_last)
    columns = {**{key: depths[key] for key in ("strict_depth", "train_depth")}, **cost(fused, shape, device, args.repeats),
               "train_s": checkpoint["train_s"]}
    record = {**files.new_record(path, checkpoint, cache, device, asked), **depths,
              "receptive_field": None if resized else field(fused, config.image_size, len(channels))}
    for split in ("val", "test") if args.split == "both" else (args.split,):
        batches = make_batches(cache, split, config.image_size, channels, device)
        labels, predictions = batches.labels.cpu().numpy(), predict(fused, batches, amp=False).numpy()
        row = {**classification_metrics(labels, predictions, cache.num_classes), **columns}
        record["splits"][split] = [row]
        print(f"{config.name} {split:4} top-1 {row['top1_pct']:5.2f} % ({row['ci95_low']:.2f} to {row['ci95_high']:.2f})  "
              f"F1 {row['f1_macro']:.3f}  strict depth {row['strict_depth']}  {row['macs'] / 1e6:.1f} MMAC"
              + (f"  {row['latency_ms_b1']:.2f} ms" if args.repeats else ""))
        if not keep:
            continue
        if split == "test":
            write_predictions(files.predictions, cache.split(split).paths, labels, {"predicted": predictions})
        RESULTS.upsert(files.folder / "task2_classifiers.csv", [{**files.constant, "split": split, **row}])
    if not keep:
        return None
    write_json(files.record, record)
    print(f"wrote {files.folder / 'task2_classifiers.csv'} and {files.record}")
    return files


def main(argv: list[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    if args.name and len(args.checkpoint) > 1:
        raise UserError(f"--name {args.name}: {len(args.checkpoint)} checkpoints would share it; name one checkpoint")
    written = [evaluate(path, args) for path in args.checkpoint]
    if any(files and files.published for files in written) and not args.no_report:
        report_build.main([])


if __name__ == "__main__":
    cli(main)
