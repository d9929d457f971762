"""Evaluate a Task 1 checkpoint on every set of its channels, each folded into a plain network.

    python eval_channels.py runs/main/model.pt
    python eval_channels.py runs/plain/model.pt --fill mean      # a plain network, absent channels replicated
    python eval_channels.py runs/main/model.pt --split val --subsets "RGB R"
    python eval_channels.py runs/main/model.pt --probe wrong-ids
    python eval_channels.py runs/R/model.pt runs/G/model.pt runs/B/model.pt      # late fusion of three networks

Updates results/task1_channels.csv, one JSON with all provenance in results/runs/, predictions on test in
results/predictions/ and the tables and charts made from them.
"""
from __future__ import annotations

import torch
from tqdm import tqdm

from data.batches import Batches
from data.cache import PixelCache
from data.channels import parse_subset, parse_subsets, subset_name
from data.dataset import make_batches
from engine import predict
from evaluation import RunFiles, add_options, open_same_data, write_predictions
from measure import count_macs, count_params, flop_counter_macs, latency_ms
from metrics import classification_metrics
from models.channel_net import ChannelNet
from models.checkpoint import load_channel_net
from models.fill import FILLS
from models.late_fusion import LateFusion
from probes import PROBES, probe_network
from report import build as report_build
from report.task1.rows import RESULTS, ROLES
from train_task1 import Task1Config
from utils import ArgumentParser, UserError, cli, write_json


def load(paths: list[str], fill: str | None) -> tuple[torch.nn.Module, dict]:
    """The model of one checkpoint, or of several single-channel specialists their late fusion; with the first checkpoint.

    Raises:
        UserError: as `load_channel_net`, or several that are not one specialist a channel of one setting.
    """
    if len(paths) > 1 and fill:
        raise UserError(f"--fill {fill}: late fusion uses the networks of the present channels alone, it fills nothing")
    loaded = [load_channel_net(path, fill) for path in paths]
    model, checkpoint = loaded[0]
    if len(loaded) == 1:
        return model, checkpoint
    names = PixelCache.channel_names
    by_channel = {c["dataset"]["channel_names"][0]: (m, c) for m, c in loaded if len(c["dataset"]["channel_names"]) == 1}
    settings = {(c["dataset"]["digest"], c["config"]["image_size"], c["config"]["tier"], c["config"]["seed"]) for _, c in loaded}
    if set(by_channel) != set(names) or len(loaded) != len(names) or len(settings) != 1:
        raise UserError(f"late fusion takes {len(names)} checkpoints: specialists for {', '.join(names)}, of the same tier, "
                        "data, image size and seed")
    checkpoint = by_channel[names[0]][1]
    dataset = {**checkpoint["dataset"], "channel_names": names}
    train_s = sum(c["train_s"] for _, c in loaded)
    return LateFusion([by_channel[n][0].for_channels() for n in names]).eval(), {**checkpoint, "dataset": dataset, "train_s": train_s}


def evaluate(model, batches: Batches, names: tuple[str, ...], subsets, prepare, num_classes: int,
             repeats: int) -> tuple[list[dict], dict]:
    """Metrics and cost of each subset as result columns, and the predictions: subset name -> (N,) int.

    prepare: ids -> (network to evaluate, image channels it takes); cost is that of the plain network of the set.
    """
    labels, rows, predictions = batches.labels.cpu().numpy(), [], {}
    for ids in tqdm(subsets, desc="subsets", unit="subset", disable=None):
        subset, (network, columns) = subset_name(ids, names), prepare(ids)
        predictions[subset] = predict(network.eval(), batches, columns, amp=False).numpy()
        plain = model.for_channels(ids).eval()
        shape = (len(ids), batches.image_size, batches.image_size)
        image = torch.randn(1, *shape, device=batches.device).to(memory_format=torch.channels_last)
        folded = isinstance(model, ChannelNet) and not model.stem.unfoldable
        macs = count_macs(plain, shape) + model.stem.generation_macs(len(ids)) if folded else flop_counter_macs(plain, image)
        rows.append({"subset": subset, **classification_metrics(labels, predictions[subset], num_classes),
                     "params": count_params(model), "macs": macs,
                     "latency_ms": latency_ms(plain, image, repeats=repeats)["median_ms"] if repeats else None})
    return rows, predictions


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", nargs="+", help="model.pt of a run of train_task1.py; those of the three single-channel "
                                                      "specialists together: their late fusion")
    add_options(parser, ROLES)
    parser.add_argument("--subsets", default="every", help='"every", or some, such as "RGB RG R"')
    parser.add_argument("--fill", choices=tuple(FILLS), help="fill rule to evaluate under (default: as trained); added to the name")
    parser.add_argument("--probe", choices=PROBES, help="what to put the network through, see probes.py; added to the name, role: "
                                                        "ablation")
    parser.add_argument("--image-size", type=int, help="side of the images, px (default: as trained); another one is added to the "
                                                       "name, role: ablation")
    return parser


def kernels(model: ChannelNet, names: tuple[str, ...], subsets) -> dict:
    """Subset -> its first generated filters (8, n, k, k), rounded; for the figure."""
    return {subset_name(ids, names): [[[[round(v, 4) for v in row] for row in plane] for plane in kernel]
                                      for kernel in model.stem.kernel(ids)[:8].tolist()] for ids in subsets}


def main(argv: list[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    model, checkpoint = load(args.checkpoint, args.fill)
    trained, dataset = checkpoint["config"], checkpoint["dataset"]
    base = trained["name"] if len(args.checkpoint) == 1 else "late-fusion"
    size = args.image_size or trained["image_size"]
    marks = [args.fill, args.probe, f"{size}px" * (size != trained["image_size"])]
    name = args.name or "+".join(filter(None, [base, *marks]))
    role = args.role or ("ablation" if args.probe or marks[2] else trained["role"] if len(args.checkpoint) == 1 else "baseline")
    splits = ("val", "test") if args.split == "both" else (args.split,)
    names = tuple(dataset["channel_names"])
    subsets = [tuple(range(len(names)))] if role == "specialist" and args.subsets == "every" \
        else parse_subsets(args.subsets, names)
    files = RunFiles("task1", {"tier": trained["tier"], "dataset": dataset["name"], "image_size": trained["image_size"],
                               "role": role, "model": name, "seed": trained["seed"]}, args.results)
    asked = {"fill": args.fill or trained["fill"], "probe": args.probe, "evaluated_at_px": size}
    if files.are_done(args, checkpoint, asked, Task1Config):
        return
    keep = args.results or args.split == "both" and (args.subsets == "every" or role == "specialist")
    if not keep:
        print("part of the splits or subsets: printed only; name a folder with --results to keep it")
    config, cache = open_same_data(args, args.checkpoint[0], checkpoint, Task1Config, image_size=size)
    device = torch.device(config.device)
    model.to(device, memory_format=torch.channels_last)

    columns = [cache.channel_names.index(name) for name in names]
    record = files.new_record(args.checkpoint[0], checkpoint, cache, device, asked)
    if role == "ours" and isinstance(model, ChannelNet) and not model.stem.unfoldable:
        record["kernels"] = kernels(model, names, subsets)
    train = make_batches(cache, "train", size, columns, device, config.fraction) if args.probe == "recalibrated-bn" else None
    seen = list(parse_subset(trained.get("seen", "all"), names))

    def prepare(ids):
        network, taken = probe_network(args.probe, model, ids, train, seen, dataset)
        return network.to(device), taken

    table = files.folder / "task1_channels.csv"
    for split in splits:
        batches = make_batches(cache, split, size, columns, device)
        rows, predictions = evaluate(model, batches, names, subsets, prepare, cache.num_classes, args.repeats)
        record["splits"][split] = rows
        for row in rows:
            print(f"{name} {split:4} {row['subset']:4} top-1 {row['top1_pct']:5.2f} % "
                  f"({row['ci95_low']:.2f} to {row['ci95_high']:.2f})  F1 {row['f1_macro']:.3f}  "
                  f"{row['macs'] / 1e6:.1f} MMAC" + (f"  {row['latency_ms']:.2f} ms" if args.repeats else ""))
        if not keep:
            continue
        if split == "test":
            write_predictions(files.predictions, cache.split(split).paths, batches.labels.cpu().numpy(), predictions)
        RESULTS.upsert(table, [{**files.constant, "split": split, **row} for row in rows])
    if not keep:
        return
    write_json(files.record, record)
    print(f"wrote {table} and {files.record}")
    if files.published and not args.no_report:
        report_build.main([])


if __name__ == "__main__":
    cli(main)
