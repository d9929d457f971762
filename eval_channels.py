"""Evaluate a Task 1 checkpoint on every set of its channels. For each set, the network is folded into a plain network.

    python eval_channels.py runs/main/model.pt                # under a minute; demo set: about 80 % with RGB
    python eval_channels.py runs/plain/model.pt --fill mean   # absent channels: mean of the present channels
    python eval_channels.py runs/main/model.pt --split val --subsets "RGB R"
    python eval_channels.py runs/main/model.pt --probe wrong-ids
    python eval_channels.py runs/R/model.pt runs/G/model.pt runs/B/model.pt     # late fusion of three networks

The script writes evaluation.md and two charts beside the checkpoint. In the folder of --results, it writes the table
task1/channels.csv, the predictions on test (task1/predictions/) and a record that says how the result was made
(task1/runs/). `python -m report.build` makes the documents from the repository's results/.
"""

from __future__ import annotations

import torch
from torch import nn

from channelset import FILLS, Channels, find_stem
from config import Task1Config, identity
from data.batches import Batches
from data.channels import parse_subset, parse_subsets, subset_name
from data.dataset import make_batches
from engine.evaluation import Evaluation, add_options, predict_and_score
from engine.records import NEXT
from metrics.cost import count_params, flop_counter_macs, latency_ms
from models.probes import PROBES, probe_network
from models.task1 import LateFusion, channels_of, for_channels, load_channel_net, load_late_fusion
from report.evaluation_page import write_page
from utils import ArgumentParser, UserError, cli, progress_bar


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument(
        "checkpoint",
        nargs="+",
        help="model.pt of a run of train_task1.py; for late fusion, the model.pt of each single-channel specialist",
    )
    add_options(parser, "task1")
    parser.add_argument(
        "--subsets",
        default="every",
        help='sets to test: "every" (only some sets if there are more than six channels), or a list, such as '
        '"RGB RG R" or "B04,B03,B02 B08 all"',
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
    """Load the model of one checkpoint, or the late fusion of several specialists. Return the model and a checkpoint.

    Raises:
        UserError: see `load_channel_net` and `load_late_fusion`.
    """
    if len(paths) == 1:
        return load_channel_net(paths[0], fill)
    if fill:
        raise UserError(
            f"--fill {fill}: late fusion does not fill channels, it uses only the networks of the present channels; "
            f"leave out --fill"
        )
    return load_late_fusion(paths, lambda options: identity(Task1Config.of(options, channels="all")))


def default_section(config: Task1Config, fusion: bool, test: dict) -> str:
    """Return the section of the tables for a model. Networks with the stem of this repository are in "ours"."""
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
    if args.probe == "training-size" and "image_size" not in test:
        raise UserError(
            "--probe training-size: the images already have the training's size; add --image-size with another size"
        )
    section = args.section or default_section(config, fusion, test)
    if section == "specialist" and not config.is_specialist:  # from --section: evaluate the whole set only
        names = checkpoint["dataset"]["channel_names"]
        test["subsets"] = subset_name(range(len(names)), names)
    name = "late-fusion" if fusion else config.name
    return Evaluation("task1", args.checkpoint[0], checkpoint, args, section, name, test)


def folds(model: nn.Module) -> bool:
    """Check whether the stem of the model can be folded, which gives a plain network for each set."""
    return not isinstance(model, LateFusion) and not find_stem(model).unfoldable


def measure(model: nn.Module, plain: nn.Module, ids: tuple[int, ...], batches: Batches, repeats: int) -> dict:
    """Measure the cost of `plain`, the network for the channel set `ids` alone that was made of `model`.

    The latency is the median of `repeats` passes of one image; with 0 it is not measured.
    """
    plain, size = plain.eval(), batches.image_size
    image = torch.randn(1, len(ids), size, size, device=batches.device).to(memory_format=torch.channels_last)
    generation = find_stem(model).generation_macs(len(ids)) if folds(model) else 0
    return {
        "params": count_params(model),
        "macs": flop_counter_macs(plain, image) + generation,
        "latency_ms": latency_ms(plain, image, repeats=repeats) if repeats else None,
    }


def main(argv: list[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    model, checkpoint = load(args.checkpoint, args.fill)
    evaluation = start_evaluation(args, checkpoint)
    dataset, specialist = checkpoint["dataset"], evaluation.head["section"] == "specialist"
    channels = channels_of(dataset)
    names = channels.names
    whole = "every" in args.subsets.split()
    ids = [tuple(range(len(names)))] if specialist and whole else parse_subsets(args.subsets, channels)
    # a set is named after its channels in the data; older checkpoints do not hold these names
    stored = Channels(dataset.get("data_channels") or names).names
    columns = [stored.index(name) for name in names]
    subsets = {subset_name(sorted(columns[i] for i in one), stored): one for one in ids}
    if whole and not specialist and len(subsets) < 2 ** len(names) - 1:
        print(
            f"{len(subsets)} of the {2 ** len(names) - 1:,} sets: all channels, each channel alone, all "
            f"but one, and some random sets; choose sets with --subsets"
        )
    if not evaluation.begin(list(subsets), whole):
        return
    cache, config, device = evaluation.cache, evaluation.config, evaluation.device
    model.to(device, memory_format=torch.channels_last)

    columns = [cache.channel_names.index(name) for name in names]
    record = evaluation.new_record()
    train = (
        make_batches(cache, "train", evaluation.size, columns, device, config.fraction)
        if args.probe == "recalibrated-bn"
        else None
    )
    seen = list(parse_subset(config.train_channels, names))
    costs: dict[str, dict] = {}  # of each set, measured once for all splits

    def evaluate(batches: Batches) -> tuple[list[dict], dict]:
        rows, predictions = [], {}
        for subset, ids in progress_bar(subsets.items(), desc="subsets", unit="subset"):
            network, inputs = probe_network(
                args.probe, model, ids, train, seen, dataset, evaluation.options["image_size"]
            )
            quality, predictions[subset] = predict_and_score(
                network.to(device), batches, cache.num_classes, inputs
            )
            if subset not in costs:
                plain = for_channels(model, ids) if args.probe else network
                costs[subset] = measure(model, plain, ids, batches, args.repeats)
            rows.append({"subset": subset, **quality, **costs[subset]})
        return rows, predictions

    if evaluation.run(record, columns, evaluate, write_page):
        print(NEXT)


if __name__ == "__main__":
    cli(main)
