"""Train one model that takes any set of input channels (or a baseline, or a specialist for one set).

    python train_task1.py                                   # the module, linear fill, on the data in data/
    python train_task1.py --sampler none                    # a plain RGB-trained network
    python train_task1.py --channels R                      # the specialist for red
    torchrun --nproc_per_node=4 train_task1.py              # four GPUs

Ctrl-C saves; the same command with --resume goes on. Then: python eval_channels.py runs/.../model.pt
"""
from __future__ import annotations

from dataclasses import dataclass

import torch

from config import TrainConfig
from data.cache import PixelCache
from data.channels import SAMPLERS, all_subsets, parse_subset, sample_mask, subset_name
from data.dataset import make_batches
from engine import Trainer, predict, start
from metrics import classification_metrics
from models import KERNELS, build_channel_net
from models.checkpoint import load_channel_net
from models.fill import FILLS
from report.task1.rows import ROLES
from utils import UserError, cli, option, parse_config


@dataclass
class Task1Config(TrainConfig):
    channels: str = option("all", "channels the model knows, such as RGB or R; with fewer than all and no --sampler: a "
                                  "specialist for that set")
    fill: str | None = option(None, "how an absent channel is predicted from the present ones, see models/fill.py "
                                    "(default: linear; zero without a sampler)", tuple(FILLS))
    kernel: str = option("free", "where the first convolution's kernel comes from, see models/kernels.py and models/dynamic.py",
                         tuple(KERNELS))
    templates: int = option(128, "templates of --kernel templates; fewer than there are channels limit the kernel's rank")
    kernel_size: int | None = option(None, "side of the first convolution, odd (default: the network's)")
    embedding: bool | None = option(None, "learned offset that tells the network which channels it was given (default: "
                                          "with a sampler)")
    seen: str = option("all", "channels that training draws its sets from; the others are seen by the evaluation only")
    sampler: str | None = option(None, "channel sets in training, one an image: hcs (hierarchical), sandwich, uniform, "
                                       "bernoulli; hcs-batch: one a batch; none: all channels; see data/channels.py (default: "
                                       "hcs; none with --channels)", SAMPLERS)
    role: str | None = option(None, "the model's part in the result tables (default: from the options)", ROLES)

    def resolve(self) -> Task1Config:
        """As `TrainConfig.resolve`; without a sampler the network is a plain one, trained on one set."""
        names = PixelCache.channel_names
        ids = parse_subset(self.channels, names)
        partial = len(ids) < len(names)
        self.channels = subset_name(ids, names) if partial else "all"
        self.sampler = self.sampler or ("none" if partial else "hcs")
        plain = self.sampler == "none"
        self.fill = self.fill or ("zero" if plain else "linear")
        if self.embedding is None:
            self.embedding = not plain
        self.seen = subset_name(parse_subset(self.seen, names), names) if self.seen != "all" else "all"
        if self.seen != "all" and (plain or partial):
            raise UserError("--seen needs a --sampler and --channels all")
        if self.templates < 1 or (self.kernel_size or 1) % 2 == 0 or (self.kernel_size or 1) < 1:
            raise UserError("--templates must be at least 1, --kernel-size odd")
        specialist = plain and partial
        baseline = plain or self.fill in ("zero", "scale", "grey", "black") or self.kernel != "free"
        self.role = self.role or ("specialist" if specialist else "baseline" if baseline else "ours")
        parts = [self.fill, self.kernel.replace("free", ""), self.sampler.replace("hcs-", "per-").replace("hcs", ""),
                 self.channels * partial]
        self.name = self.name or "-".join(filter(None, [*(["specialist", self.channels] if specialist else parts), self.fraction_mark]))
        super().resolve()
        return self


def subset_accuracy(model, batches, names, config) -> dict:
    """Top-1 of the averaged model on every subset it answers for."""
    top1, labels = {}, batches.labels.cpu().numpy()
    num_classes = model.backbone.fc.out_features
    for ids in subsets_of(config, len(names)):
        predictions = predict(model.for_channels(ids), batches, ids, config.amp).numpy()
        metrics = classification_metrics(labels, predictions, num_classes)
        top1[subset_name(ids, names)] = round(metrics["top1_pct"], 2)
    return top1


def subsets_of(config: Task1Config, channels: int) -> list[tuple[int, ...]]:
    """The subsets a model answers for: all of them, or a specialist's one."""
    return [tuple(range(channels))] if config.role == "specialist" else all_subsets(channels)


def load_teacher(config: Task1Config, cache: PixelCache) -> torch.nn.Module | None:
    """The network of `config.teacher` on all channels.

    Raises:
        UserError: not a checkpoint of train_task1.py, of other data or of some channels only.
    """
    if config.teacher is None:
        return None
    model, checkpoint = load_channel_net(config.teacher)
    if checkpoint["dataset"]["digest"] != cache.digest or model.stem.in_channels != len(cache.channel_names) \
            or config.channels != "all":
        raise UserError(f"--teacher {config.teacher}: it and the student must both take all channels of the same data")
    return model.for_channels()


def main() -> None:
    config = parse_config(Task1Config, description=__doc__).resolve()
    device, processes, cache = start(config)
    ids = parse_subset(config.channels, cache.channel_names)
    names = tuple(cache.channel_names[i] for i in ids)
    train = make_batches(cache, "train", config.image_size, ids, device, config.fraction)
    val = make_batches(cache, "val", config.image_size, ids, device)

    torch.manual_seed(config.seed)
    statistics = {"mean": cache.mean[list(ids)], "std": cache.std[list(ids)],
                  "covariance": cache.covariance[list(ids)][:, list(ids)]}
    model = build_channel_net(config.arch, len(ids), cache.num_classes, config.fill, config.kernel, config.templates,
                              config.kernel_size, config.embedding, config.width, config.small_stem, **statistics)
    teacher = load_teacher(config, cache)
    seen = list(parse_subset(config.seen, names))

    def batch_inputs(count, random):
        drawn = sample_mask(config.sampler, count, len(seen), random)
        if drawn is None:
            return {}
        mask = torch.zeros(count, len(ids), dtype=torch.bool)
        mask[:, seen] = drawn
        return {"mask": mask}

    def validate(averaged):
        top1 = subset_accuracy(averaged, val, names, config)
        return {"val_mean_pct": round(sum(top1.values()) / len(top1), 2), "val_top1_pct": top1}

    Trainer(config, cache, model, train, validate, batch_inputs, processes, teacher).fit_and_save("task1-model", {
        "channel_names": names, **{key: value.tolist() for key, value in statistics.items()}}, "eval_channels.py")


if __name__ == "__main__":
    cli(main)
