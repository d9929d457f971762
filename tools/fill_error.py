"""Measure the errors of fill rules in pixels and in the stem's responses; write the table fill_error.csv.

    python -m tools.fill_error --data data/mini-imagenet-50.zip --size 48          # only pixels; a minute
    python -m tools.fill_error --data ... --size 48 runs/.../model.pt [...]        # also responses of networks

A fill rule predicts the absent channels of an image from the present channels. The table has a row for each rule,
network and channel set. Fill rules and predictors are fitted on the training images. Errors are measured on the
validation images; no test image is read. A network that was trained without a sampler is measured with every rule. A
network that was trained on channel sets is measured only with the rule of its training. Rows such as
"mean-fine" are errors of the fine detail: pixels minus the mean of their square of 5 x 5 pixels, scaled to variance 1.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import torch

from channelset import build_fill, find_stem
from data.batches import Batches
from data.channels import parse_subset
from data.dataset import add_data_options, find_dataset, make_batches, open_data
from data.identity import difference
from data.lists import RGB, read_lists
from engine.evaluation import results_folder
from engine.records import SUBSETS, note_checksums, to_csv
from engine.trainer import predict
from metrics.fill_error import (
    fine_detail,
    mean_energy,
    neighbour_error,
    pixel_error,
    second_moments,
    stem_statistics,
)
from models.task1 import for_channels, load_channel_net
from storage.files import check_writable, write_text
from utils import ArgumentParser, UserError, cli, environment, progress_bar, use_threads, within

RULES = ("zero", "rescale", "mean", "grey", "regression")
NEIGHBOURS = (3, 5)  # px, sides of the squares of neighbours
DETAIL = 5  # px, side of the squares whose means are not fine detail
PATCHES = 400  # number of images that fit the predictors from neighbours, and number of images that test them
COLUMNS = {  # column -> number of decimals
    **dict.fromkeys(("dataset", "image_size", "preset", "model", "sampler", "rule", "seed", "subset")),
    **dict.fromkeys(("pixel_error", "stem_error", "bn_shift", "variance_ratio", "mean_energy"), 4),
    "val_top1_pct": 2,
    "val_loss": 4,
    **dict.fromkeys(("dataset_digest", "commit", "hardware")),
}


def shuffled(batches: Batches, count: int | None = None) -> torch.Tensor:
    """Return normalised centre crops (N, C, size, size) in a fixed random order; N is at most `count`."""
    images = torch.cat([images for images, _ in batches.eval_batches(1000)])
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:count]
    return images[order].contiguous()


def validate(model: torch.nn.Module, batches: Batches, ids: list[int]) -> dict:
    """Measure a model on the channel set `ids`; return a dict with top-1 in percent and cross-entropy in nats."""
    predictions, loss, _ = predict(for_channels(model, ids), batches, ids, amp=False)
    right = predictions == batches.labels.numpy()
    return {"val_top1_pct": 100 * float(right.mean()), "val_loss": loss}


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(prog="python -m tools.fill_error", description=__doc__)
    parser.add_argument("checkpoint", nargs="*", help="model.pt files that train_task1.py wrote")
    add_data_options(parser, "data set, as in train_task1.py")
    parser.add_argument(
        "--size", type=within(max(NEIGHBOURS), 4096), default=48, help="side of the images, px"
    )
    parser.add_argument(
        "--threads", type=within(0, 4096), default=0, help="CPU threads; 0: one for each idle core"
    )
    parser.add_argument(
        "--out",
        help="file for the table (default: fill_error.csv in the folder that eval_channels.py chooses)",
    )
    args = parser.parse_args(argv)
    networks = [load_channel_net(path) for path in args.checkpoint]
    lists = read_lists(find_dataset(args.data))
    folder = results_folder("task1", {"name": lists.name, "digest": lists.digest})
    out = Path(args.out or folder / "fill_error.csv")
    check_writable(out.parent)
    if lists.channels.names != RGB.names:
        raise UserError(
            f"--data {args.data} has channels {', '.join(lists.channels.names)}: this table needs RGB data; name "
            f"such data with --data"
        )
    use_threads(args.threads)
    cache = open_data(lists, args.size, args.cache, 0.0)
    machine = environment(torch.device("cpu"))
    batches, train = (
        make_batches(cache, split, args.size, range(3), torch.device("cpu")) for split in ("val", "train")
    )
    val = shuffled(batches)
    moments = {"": second_moments(val), "-fine": second_moments(fine_detail(val, DETAIL))}
    sets = {name: list(parse_subset(name, cache.channels)) for name in SUBSETS}
    statistics = {"mean": cache.mean, "std": cache.std, "covariance": cache.covariance}
    rows = [
        {
            "rule": rule + part,
            "subset": name,
            "pixel_error": pixel_error(build_fill(rule, 3, **statistics), of_part, ids),
        }
        for part, of_part in moments.items()
        for rule in RULES
        for name, ids in sets.items()
    ]
    fit, test = shuffled(train, PATCHES), val[:PATCHES]
    rows += [
        {
            "rule": f"regression from {size} x {size} px",
            "subset": name,
            "pixel_error": neighbour_error(fit, test, ids, size),
        }
        for size in (1, *NEIGHBOURS)
        for name, ids in sets.items()
    ]
    pairs = zip(args.checkpoint, networks)
    for path, (model, checkpoint) in progress_bar(
        pairs, total=len(networks), desc="networks", unit="network"
    ):
        model.requires_grad_(False)
        config = checkpoint["config"]
        if difference(cache, checkpoint["dataset"], path) or config["image_size"] != args.size:
            raise UserError(
                f"{path} was trained on {checkpoint['dataset']['name']} at {config['image_size']} px, "
                f"not on {cache.name} at {args.size} px: give --data and --size of its training"
            )
        stem, plain = find_stem(model), config["sampler"] == "none"
        try:
            if not stem.in_channels == stem.fill.rows == 3:
                raise ValueError(
                    f"it fills {stem.fill.rows} kernel channels from {stem.in_channels} channels; both must be 3"
                )
            whole = stem.fold(sets["RGB" if plain else "R"])  # RGB: the stem as it was trained
        except ValueError as error:
            raise UserError(f"{path} cannot be measured: {error}; leave it out") from error
        for rule in RULES if plain else (config["fill"],):
            if plain:  # else the stem keeps the rule of its training, which may have learned weights
                stem.fill = build_fill(rule, 3, **statistics)
            rows += [
                {
                    **{key: config[key] for key in ("preset", "sampler", "seed")},
                    "model": config["name"],
                    "rule": rule,
                    "subset": name,
                    "pixel_error": pixel_error(stem.fill, moments[""], ids),
                    "mean_energy": mean_energy(stem.kernel(sets["RGB"]).numpy()),
                    **stem_statistics(stem, model.bn1, val, ids, whole if plain else None),
                    **validate(model, batches, ids),
                }
                for name, ids in sets.items()
            ]
    table = pd.DataFrame(rows, columns=list(COLUMNS)).assign(
        dataset=cache.name,
        image_size=args.size,
        dataset_digest=cache.digest[:12],
        **{key: machine[key] for key in ("commit", "hardware")},
    )
    table["seed"] = table["seed"].astype("Int64")
    write_text(out, to_csv(table, COLUMNS))
    note_checksums(out)
    print(f"wrote {out}: {len(table)} rows")


if __name__ == "__main__":
    cli(main)
