"""Train a classifier for Task 2 from scratch, on all channels: a shallow network or ResNet-34.

    python train_task2.py                                    # gated6-k3, on the data in data/ or the demo set
    python train_task2.py --arch resnet34 --no-stem-pool     # ResNet-34 for comparison, without pooling
    python train_task2.py --kernels 3,5 --widths 128,256,512 # a network with other layers
    python train_task2.py --teacher runs/.../model.pt        # also learn from a trained ResNet-34

On one CPU core, mini-imagenet-50 at --preset 48px-quarter --augment strong takes eight minutes and reaches 60 %
top-1. On Linux, GLIBC_TUNABLES=glibc.malloc.hugetlb=1 before the command makes a training on a CPU up to twice as
fast. Ctrl-C saves and stops; to go on, add --resume. Next: python eval_shallow.py runs/.../model.pt
"""

from __future__ import annotations

from functools import partial

import torch

from config import Task2Config
from data.dataset import find_dataset, make_batches, open_data
from data.lists import read_lists
from engine.trainer import Trainer, goes_on, predict, start
from models.initial import initialise
from models.shallow import SHALLOW
from models.task2 import CHECKPOINT, build_classifier, load_teacher, measure_depth
from utils import cli, parse_config


def main(argv: list[str] | None = None) -> None:
    config = parse_config(Task2Config, argv, __doc__).resolve()
    lists = read_lists(find_dataset(config.data))
    device, processes = start(config, lists)
    channels = range(len(lists.channels))
    torch.manual_seed(config.seed)
    model = build_classifier(vars(config), len(channels), len(lists.class_names))
    # stops if a network of models/shallow.py is deeper than --max-depth, or if the depth cannot be counted
    limit = config.max_depth if config.arch in SHALLOW else None
    measure_depth(model, (len(channels), config.image_size, config.image_size), limit, config.name)
    if config.init_from and not goes_on(config):
        shaped, names = partial(build_classifier, vars(config)), lists.channels.names
        print(initialise(model, shaped, config.init_from, CHECKPOINT, names, lists.class_names))
    cache = open_data(lists, config.image_size, config.cache, config.max_failed)
    teacher = load_teacher(config.teacher, cache) if config.teacher_file else None
    train, val = (
        make_batches(cache, split, config.image_size, channels, device, config.fraction)
        for split in ("train", "val")
    )

    def validate(averaged):
        predictions, loss, _ = predict(averaged, val, amp=config.amp)
        right = predictions == val.labels.cpu().numpy()
        return {"val_loss": round(loss, 4), "val_top1_pct": round(100 * float(right.mean()), 2)}

    Trainer(config, cache, model, train, validate, processes=processes, teacher=teacher).fit_and_save(
        CHECKPOINT,
        {"mean": cache.mean.tolist(), "std": cache.std.tolist(), "data_channels": cache.channels.as_dict()},
        "eval_shallow.py",
    )


if __name__ == "__main__":
    cli(main)
