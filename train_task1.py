"""Train a model that takes any set of input channels, or a baseline, or a specialist for one set.

    python train_task1.py                       # our model, on the data in data/ or the demo set
    python train_task1.py --sampler none        # a plain RGB-trained network
    python train_task1.py --channels R          # the specialist for red
    torchrun --nproc_per_node=4 train_task1.py  # four GPUs

The demo set takes a minute on two CPU cores; eval_channels.py then shows about 80 % top-1 with RGB. On one core,
mini-imagenet-50 at --preset 48px-quarter takes three to four minutes and reaches a mean of 47 % over the seven sets.
On Linux, GLIBC_TUNABLES=glibc.malloc.hugetlb=1 before the command makes a training on a CPU up to twice as fast.
Ctrl-C saves and stops; to go on, add --resume. Next: python eval_channels.py runs/.../model.pt
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch

from channelset import sample_channels, some_subsets
from config import Task1Config
from data.channels import parse_shares, parse_subset, subset_name
from data.dataset import find_dataset, make_batches, open_data
from data.lists import RGB, read_lists
from engine.trainer import Trainer, goes_on, predict, start
from models.initial import initialise
from models.task1 import CHECKPOINT, build_from_options, for_channels, load_teacher
from utils import UserError, cli, parse_config


def subset_metrics(model, batches, names, config: Task1Config) -> dict:
    """Return the top-1 of the model on each channel set, and the means of top-1 and loss over these sets.

    A specialist is tested on its set. Another model is tested on all sets, or on some sets if there are many channels.
    """
    top1, losses, labels = {}, [], batches.labels.cpu().numpy()
    for ids in [tuple(range(len(names)))] if config.is_specialist else some_subsets(len(names)):
        predictions, loss, _ = predict(for_channels(model, ids), batches, ids, config.amp)
        top1[subset_name(ids, names)] = round(100 * float((predictions == labels).mean()), 2)
        losses.append(loss)
    return {
        "val_loss": round(sum(losses) / len(losses), 4),
        "val_mean_pct": round(sum(top1.values()) / len(top1), 2),
        "val_top1_pct": top1,
    }


def build_shaped(options: Mapping, channels: int, num_classes: int) -> torch.nn.Module:
    """Build the network of the options for `channels` channels and `num_classes` classes, without data."""
    moments = {"mean": torch.zeros(channels), "std": torch.ones(channels), "covariance": torch.eye(channels)}
    return build_from_options(options, channels, num_classes, moments)


def main(argv: list[str] | None = None) -> None:
    config = parse_config(Task1Config, argv, __doc__)
    lists = read_lists(find_dataset(config.data))
    stored = lists.channels
    config.resolve(stored)
    ids = parse_subset(config.channels, stored)
    channels = stored.chosen(ids)
    names = channels.names
    if config.kernel == "wavelength" and None in channels.wavelengths and names != RGB.names:
        raise UserError(
            f"--kernel wavelength: the wavelengths of {', '.join(names[:6])} are not known: write them into "
            "bands.txt, or choose another --kernel"
        )
    if config.teacher_file and config.channels != "all":
        raise UserError(
            f"--teacher {config.teacher}: teacher and student must both take all channels of the data; leave out "
            f"--channels or --teacher"
        )
    device, processes = start(config, lists)
    cache = open_data(lists, config.image_size, config.cache, config.max_failed)
    train = make_batches(cache, "train", config.image_size, ids, device, config.fraction)
    val = make_batches(cache, "val", config.image_size, ids, device)

    torch.manual_seed(config.seed)
    statistics = {
        "mean": cache.mean[list(ids)],
        "std": cache.std[list(ids)],
        "covariance": cache.covariance[list(ids)][:, list(ids)],
    }
    model = build_from_options(vars(config), channels, cache.num_classes, statistics)
    if config.init_from and not goes_on(config):
        shaped = partial(build_shaped, vars(config))
        print(initialise(model, shaped, config.init_from, CHECKPOINT, names, cache.class_names))
    teacher = load_teacher(config.teacher, cache, len(names)) if config.teacher_file else None
    seen = list(parse_subset(config.train_channels, channels))
    shares = parse_shares(config.set_shares, channels.chosen(seen))

    def batch_inputs(count, random):
        if config.sampler == "none":
            return {}
        drawn = sample_channels(count, len(seen), config.sampler, shares, random)
        mask = torch.zeros(count, len(ids), dtype=torch.bool)
        mask[:, seen] = drawn
        return {"mask": mask}

    def validate(averaged):
        return subset_metrics(averaged, val, names, config)

    Trainer(config, cache, model, train, validate, batch_inputs, processes, teacher).fit_and_save(
        CHECKPOINT,
        {
            "channel_names": names,
            "wavelengths": channels.wavelengths,
            "data_channels": stored.as_dict(),
            **{key: value.tolist() for key, value in statistics.items()},
        },
        "eval_channels.py",
    )


if __name__ == "__main__":
    cli(main)
