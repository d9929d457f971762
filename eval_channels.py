"""Evaluate a Task 1 checkpoint on every set of its channels; for each set it is folded into a plain network.

    python eval_channels.py runs/main/model.pt                # under a minute; demo set: about 80 % with RGB
    python eval_channels.py runs/plain/model.pt --fill mean   # plain network; absent channels: mean of the others
    python eval_channels.py runs/main/model.pt --split val --subsets "RGB R"
    python eval_channels.py runs/main/model.pt --probe wrong-ids
    python eval_channels.py runs/R/model.pt runs/G/model.pt runs/B/model.pt     # late fusion of three networks

The script updates results/task1/channels.csv. It writes a JSON to results/task1/runs/, which says how the result was
made, the predictions on test to results/task1/predictions/, and evaluation.md and evaluation.png beside the checkpoint.
Then `python -m report.build` makes the documents.
"""

from __future__ import annotations

import torch
from torch import nn

from channelset import FILLS, find_stem
from config import Task1Config
from data.batches import Batches
from data.channels import parse_subset, parse_subsets, subset_name
from data.dataset import make_batches
from engine.evaluation import Evaluation, add_options
from engine.records import NEXT, write_predictions
from engine.trainer import predict
from metrics.accuracy import classification_metrics
from metrics.cost import count_macs, count_params, flop_counter_macs, latency_ms
from models.probes import PROBES, probe_network
from models.task1 import LateFusion, channels_of, for_channels, load_channel_net, load_late_fusion
from report.evaluation_page import ClassAnswers, write_page
from utils import ArgumentParser, UserError, check_writable, cli, progress_bar


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument(
        "checkpoint",
        nargs="+",
        help="model.pt of a run of train_task1.py; for late fusion, those of all single-channel specialists",
    )
    add_options(parser, "task1")
    parser.add_argument(
        "--subsets",
        default="every",
        help='"every" (if there are more than six channels, some sets), or a list, such as "RGB RG R" or '
        '"B04,B03,B02 B08 all"',
    )
    parser.add_argument(
        "--fill", choices=tuple(FILLS), help="fill rule of the evaluation (default: as trained)"
    )
    parser.add_argument(
        "--probe",
        choices=PROBES,
        help="test the network in a special way, see models/probes.py; the result is an ablation",
    )
    return parser


def load(paths: list[str], fill: str | None) -> tuple[nn.Module, dict]:
    """Load the model of one checkpoint, or the late fusion of several specialists; return it and its checkpoint.

    Raises:
        UserError: see `load_channel_net` and `load_late_fusion`.
    """
    if len(paths) == 1:
        return load_channel_net(paths[0], fill)
    if fill:
        raise UserError(
            f"--fill {fill}: late fusion does not fill channels; it uses only the networks of the present channels; "
            f"leave out --fill"
        )
    return load_late_fusion(paths)


def default_section(config: Task1Config, fusion: bool, test: dict) -> str:
    """Return the section of the tables for a model; "ours" are networks with the stem of this repository."""
    if {"probe", "image_size"} & test.keys():
        return "ablation"
    if config.is_specialist and not fusion:
        return "specialist"
    plain = (
        config.sampler == "none"
        or config.fill in ("zero", "rescale", "grey", "black")
        or config.kernel != "free"
    )
    return "baseline" if plain else "ours"


def start_evaluation(args, checkpoint: dict) -> Evaluation:
    """Return the evaluation that the command line and the training's options describe."""
    config, fusion = Task1Config.of(checkpoint["config"]), len(args.checkpoint) > 1
    options = {"fill": args.fill, "probe": args.probe, "image_size": args.image_size}
    test = {key: value for key, value in options.items() if value not in (None, getattr(config, key, None))}
    section = args.section or default_section(config, fusion, test)
    if section == "specialist" and not config.is_specialist:  # --section: evaluate it on its whole set only
        names = checkpoint["dataset"]["channel_names"]
        test["subsets"] = subset_name(range(len(names)), names)
    return Evaluation(
        "task1", checkpoint, args, section, "late-fusion" if fusion else config.name, test, Task1Config
    )


def measure(model: nn.Module, ids: tuple[int, ...], batches: Batches, repeats: int) -> dict:
    """Measure the cost of the plain network for the channel set `ids`.

    The latency is the median of `repeats` passes of one image; with 0 it is not measured.
    """
    plain, shape = for_channels(model, ids).eval(), (len(ids), batches.image_size, batches.image_size)
    image = torch.randn(1, *shape, device=batches.device).to(memory_format=torch.channels_last)
    folded = not isinstance(model, LateFusion) and not find_stem(model).unfoldable
    macs = (
        count_macs(plain, shape) + find_stem(model).generation_macs(len(ids))
        if folded
        else flop_counter_macs(plain, image)
    )
    return {
        "params": count_params(model),
        "macs": macs,
        "latency_ms": latency_ms(plain, image, repeats=repeats)["median_ms"] if repeats else None,
    }


def evaluate(
    model: nn.Module, batches: Batches, subsets: dict, prepare, num_classes: int, repeats: int
) -> tuple[list[dict], dict]:
    """Evaluate the model on each set; return the rows of the table, and the predictions: name of a set -> (N,) int.

    The cost of a set is that of its plain network.

    Args:
        subsets: name of a set -> ids.
        prepare: ids -> (network to evaluate, image channels that it takes).
    """
    labels, rows, predictions = batches.labels.cpu().numpy(), [], {}
    for subset, ids in progress_bar(subsets.items(), desc="subsets", unit="subset"):
        network, columns = prepare(ids)
        predictions[subset], loss, top5 = predict(network.eval(), batches, columns, amp=False)
        rows.append(
            {
                "subset": subset,
                **classification_metrics(labels, predictions[subset], num_classes),
                "top5_pct": top5,
                "loss": loss,
                **measure(model, ids, batches, repeats),
            }
        )
    return rows, predictions


def kernels(model: nn.Module, subsets: dict) -> dict:
    """Return the first filters for each set, for the figure: name of a set -> (8, n, k, k), rounded."""
    return {
        subset: [
            [[[round(v, 4) for v in row] for row in plane] for plane in kernel]
            for kernel in find_stem(model).kernel(ids)[:8].tolist()
        ]
        for subset, ids in subsets.items()
    }


def readable(name: str, split: str, row: dict) -> str:
    latency = "" if row["latency_ms"] is None else f"  {row['latency_ms']:.2f} ms"
    return (
        f"{name} {split:4} {row['subset']:4} top-1 {row['top1_pct']:5.2f} % ({row['ci95_low']:.2f} to "
        f"{row['ci95_high']:.2f})  F1 {row['f1_macro']:.3f}  {row['macs'] / 1e6:.1f} MMAC{latency}"
    )


def main(argv: list[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    model, checkpoint = load(args.checkpoint, args.fill)
    evaluation = start_evaluation(args, checkpoint)
    if evaluation.is_done():
        return
    dataset, specialist = checkpoint["dataset"], evaluation.head["section"] == "specialist"
    channels = channels_of(dataset)
    names = channels.names
    whole = "every" in args.subsets.split()
    subsets = [tuple(range(len(names)))] if specialist and whole else parse_subsets(args.subsets, channels)
    if whole and not specialist and len(subsets) < 2 ** len(names) - 1:
        print(
            f"{len(subsets)} of the {2 ** len(names) - 1:,} sets: all channels, each channel alone, all "
            f"but one, and some random sets; choose sets with --subsets"
        )
    keep = args.results or args.split == "both" and whole
    if not keep:
        print(
            "only some of the splits or sets: the results are printed, not saved; --results FOLDER saves them"
        )
    else:
        check_writable(evaluation.files.folder)
    size = args.image_size or checkpoint["config"]["image_size"]
    config, cache = evaluation.open_data(args.checkpoint[0], size)
    device = torch.device(config.device)
    model.to(device, memory_format=torch.channels_last)

    columns = [cache.channel_names.index(name) for name in names]
    # the name of a set is that of its channels in the data
    subsets = {subset_name(sorted(columns[i] for i in ids), cache.channel_names): ids for ids in subsets}
    record = evaluation.new_record(args.checkpoint[0], cache, device)
    if (
        record["section"] == "ours"
        and len(names) <= 3
        and not isinstance(model, LateFusion)
        and not find_stem(model).unfoldable
    ):
        record["kernels"] = kernels(model, subsets)
    train = (
        make_batches(cache, "train", size, columns, device, config.fraction)
        if args.probe == "recalibrated-bn"
        else None
    )
    seen = list(parse_subset(config.train_channels, names))

    def prepare(ids):
        network, inputs = probe_network(args.probe, model, ids, train, seen, dataset)
        return network.to(device), inputs

    for split in ("val", "test") if args.split == "both" else (args.split,):
        batches = make_batches(cache, split, size, columns, device)
        rows, predictions = evaluate(model, batches, subsets, prepare, cache.num_classes, args.repeats)
        record["splits"][split] = rows
        print("\n".join(readable(record["model"], split, row) for row in rows))
        if split == "test" or args.split == "val":
            by_class = ClassAnswers(split, batches.labels.cpu().numpy(), predictions, cache.class_names)
        if keep and split == "test":
            write_predictions(
                evaluation.files.predictions,
                cache.split(split).paths,
                batches.labels.cpu().numpy(),
                predictions,
            )
    if keep:
        evaluation.write(record)
    write_page(args.checkpoint[0], record, checkpoint["config"]["name"], by_class)
    if keep and evaluation.published:
        print(NEXT)


if __name__ == "__main__":
    cli(main)
