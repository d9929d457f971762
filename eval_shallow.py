"""Evaluate Task 2 checkpoints: accuracy, depth and cost of the fused network.

    python eval_shallow.py runs/shallow/model.pt              # half a minute on a CPU
    python eval_shallow.py runs/64px-half/*/model.pt --skip-existing
    python eval_shallow.py runs/shallow/model.pt --split val --repeats 0

In the fused network, each sum of branches is one convolution.
The script writes evaluation.md and two charts beside each checkpoint. In the folder of --results, it writes the table
task2/classifiers.csv, the predictions on test (task2/predictions/) and a record that says how the result was made
(task2/runs/). `python -m report.build` makes the documents from the repository's results/.
"""

from __future__ import annotations

import torch
from torch import nn

from config import SELF
from data.batches import Batches
from engine.evaluation import Evaluation, add_options, predict_and_score
from engine.records import NEXT, SINGLE
from metrics.cost import BATCH, count_params, flop_counter_macs, latency_ms, peak_memory_mb
from metrics.depth import MAX_DEPTH
from metrics.receptive_field import receptive_field
from models.branched import fuse
from models.resnet import LAYERS
from models.shallow import SHALLOW
from models.task2 import load_classifier, measure_depth
from report.evaluation_page import write_page
from utils import ArgumentParser, UserError, cli

LIMITED = ("ours", "distilled")  # sections whose networks may not be deeper than MAX_DEPTH


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", nargs="+", help="model.pt of one or more runs of train_task2.py")
    add_options(parser, "task2")
    return parser


def default_section(options: dict, test: dict) -> str:
    """Return the section of the tables that a model belongs to."""
    if test:
        return "ablation"
    if options["arch"] in SHALLOW:
        return "ours" if options["teacher"] in (None, SELF) else "distilled"
    if options["arch"] == "resnet34":
        return "reference"
    return "baseline" if options["arch"] in LAYERS else "ablation"


def cost(fused: nn.Module, shape: tuple[int, ...], device: torch.device, repeats: int) -> dict:
    """Measure the cost of a network, as columns of the table.

    The latency is the median of `repeats` passes; with 0 it is not measured.

    Args:
        shape: (C, H, W) of an image.
    """
    image, batch = (
        torch.randn(count, *shape, device=device).to(memory_format=torch.channels_last)
        for count in (1, BATCH)
    )

    def milliseconds(images, **how):
        return latency_ms(fused, images, **how) if repeats else None

    return {
        "params": count_params(fused),
        "macs": flop_counter_macs(fused, image),
        "latency_ms_b1": milliseconds(image, repeats=repeats),
        # a pass of a whole batch takes long, so a tenth of the passes is enough
        "latency_ms_b256": milliseconds(batch, repeats=max(1, repeats // 10)),
        "peak_mem_mb": peak_memory_mb(fused, batch),
    }


def field(fused: nn.Module, image_size: int, channels: int) -> dict | None:
    """Measure the receptive field in images whose side is twice `image_size`.

    Return None if it cannot be measured: no gradient reaches the image, or the images are too large.
    """
    try:
        return receptive_field(fused, 2 * image_size, channels=channels)
    except ValueError:
        return None


def evaluate(path: str, args) -> bool:
    """Evaluate one checkpoint and write its results, unless they are there already.

    Returns:
        True if it wrote results that the documents show.

    Raises:
        UserError: `path` is not a checkpoint of train_task2.py; the data differ from the data of the training; the
            results on disk come from other options; or the network is too deep for its section.
    """
    model, checkpoint = load_classifier(path)
    options = checkpoint["config"]
    test = {"image_size": args.image_size} if args.image_size not in (None, options["image_size"]) else {}
    section = default_section(options, test)
    evaluation = Evaluation("task2", path, checkpoint, args, section, options["name"], test)
    if not evaluation.begin():
        return False
    cache = evaluation.cache
    channels, size, device = range(len(cache.channel_names)), evaluation.size, evaluation.device
    shape, name, section = (len(channels), size, size), evaluation.head["model"], evaluation.head["section"]
    limit = MAX_DEPTH if section in LIMITED else None
    remedy = "evaluate it with --section ablation, which allows"
    depths = measure_depth(model, shape, limit, f"{name}, in section {section!r},", remedy)
    fused = fuse(model).to(device, memory_format=torch.channels_last)
    columns = {
        **{key: depths[key] for key in ("strict_depth", "train_depth")},
        **cost(fused, shape, device, args.repeats),
        "train_s": checkpoint["train_s"],
    }
    record = {
        **evaluation.new_record(),
        **depths,
        "receptive_field": None if test else field(fused, size, len(channels)),
    }

    def answer(batches: Batches) -> tuple[list[dict], dict]:
        quality, predictions = predict_and_score(fused, batches, cache.num_classes)
        return [{**quality, **columns}], {SINGLE: predictions}

    return evaluation.run(record, channels, answer, write_page)


def main(argv: list[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    if args.name and len(args.checkpoint) > 1:
        raise UserError(
            f"--name {args.name}: {len(args.checkpoint)} checkpoints would have the same name; give one "
            f"checkpoint, or leave out --name"
        )
    published = [evaluate(path, args) for path in args.checkpoint]
    if any(published):
        print(NEXT)


if __name__ == "__main__":
    cli(main)
