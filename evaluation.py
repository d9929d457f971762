"""What the evaluations of both tasks share: options, the files of a run's results, and what a record holds."""
from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path

import torch

from config import SESSION_OPTIONS, TrainConfig, differing_options, option_defaults
from data.cache import PixelCache
from data.dataset import open_data
from report.records import run_name
from utils import ROOT, ArgumentParser, UserError, atomic_path, environment


def add_options(parser: ArgumentParser, roles: tuple[str, ...], repeats: int = 50) -> None:
    """The options that every evaluation has."""
    parser.add_argument("--data", default="auto", help="the data it was trained on, as in the training scripts")
    parser.add_argument("--cache", help="folder for the decoded pixels (default: data/cache)")
    parser.add_argument("--split", choices=("both", "val", "test"), default="both", help="which images")
    parser.add_argument("--name", help="model name in the results (default: the run's)")
    parser.add_argument("--role", choices=roles, help="part in the result tables (default: the run's)")
    parser.add_argument("--device", default="auto", help="cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: PyTorch's choice")
    parser.add_argument("--repeats", type=int, default=repeats, help="timed passes for the latency; 0: leave it out")
    parser.add_argument("--results", help="folder for the results (default: results, for the demo set runs/demo-results)")
    parser.add_argument("--skip-existing", action="store_true", help="do nothing where this very run has its results already")
    parser.add_argument("--replace", action="store_true", help="replace the results of a run of this name with other options")
    parser.add_argument("--no-report", action="store_true", help="leave the documents' tables and charts as they are")


def portable(config: dict) -> dict:
    """The options, of those that do not change what is trained absolute paths cut to their last name: where files lie on one machine
    is nothing for a record to keep."""
    return {key: Path(value).name if key in SESSION_OPTIONS and isinstance(value, str) and Path(value).is_absolute() else value
            for key, value in config.items()}


class RunFiles:
    """Where the results of one evaluation go.

    Args:
        task: "task1" or "task2".
        constant: the columns of the results file that tell the run: tier, dataset, image_size, role, model, seed.
        folder: for the results; None: results/, for the demo set runs/demo-results.
    """

    def __init__(self, task: str, constant: dict, folder: str | None):
        self.task, self.constant = task, constant
        self.folder = Path(folder or ("runs/demo-results" if constant["dataset"] == "demo" else ROOT / "results"))
        stem = run_name(task, constant)
        self.record, self.predictions = self.folder / "runs" / f"{stem}.json", self.folder / "predictions" / f"{stem}-test.csv.gz"

    @property
    def published(self) -> bool:
        """Whether the documents' tables and charts are made from them."""
        return self.folder == ROOT / "results"

    def are_done(self, args, checkpoint: dict, asked: dict, config_class: type[TrainConfig]) -> bool:
        """Whether --skip-existing leaves the results of this very run as they are.

        Args:
            asked: options of the evaluation that the record keeps.
            config_class: of the training options.

        Raises:
            UserError: the results are of a run with other options, and --replace is not given.
        """
        if not self.record.exists():
            return False
        old, trained = json.loads(self.record.read_text(encoding="utf-8")), portable(checkpoint["config"])
        same = all(old.get(key) == value for key, value in asked.items())
        if args.skip_existing and same and (old["trained_with"], old["train_s"], old["config"]) == (
                checkpoint["environment"], checkpoint["train_s"], trained):
            print(f"{self.record} is of this very run: skipped")
            return True
        if not args.replace and (not same or differing_options(trained, old["config"], option_defaults(config_class))):
            raise UserError(f"{self.record} has the results of {self.constant['model']!r} trained or evaluated with other options: "
                            "add --name for a row of its own, or --replace to give up the old one")
        return False

    def new_record(self, path: str, checkpoint: dict, cache: PixelCache, device: torch.device, asked: dict) -> dict:
        """Everything there is to know about an evaluation but its metrics; path: of the checkpoint."""
        log = Path(path).parent / "metrics.jsonl"   # not there where the model was copied alone
        return {"task": self.task, **self.constant, "dataset_digest": cache.digest, "config": portable(checkpoint["config"]),
                "trained_with": checkpoint["environment"], "evaluated_with": environment(device), "train_s": checkpoint["train_s"],
                **asked, "failed_images": {split: len(failed) for split, failed in cache.failures.items()},
                "history": [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else [], "splits": {}}


def open_same_data(args, path: str, checkpoint: dict, config_class: type[TrainConfig], **changes) -> tuple[TrainConfig, PixelCache]:
    """The options of a checkpoint's training with those of the command line in their place, and the data that it was trained on.

    Args:
        path: of the checkpoint.
        changes: options of the training that are not as trained.

    Raises:
        UserError: the data are others.
    """
    defaults, dataset = option_defaults(config_class), checkpoint["dataset"]
    settings = {key: value for key, value in checkpoint["config"].items() if key in defaults}   # an older version's may have more
    config = config_class(**{**settings, **changes, "data": args.data, "cache": args.cache, "device": args.device}).resolve()
    if args.threads:
        torch.set_num_threads(args.threads)
    cache = open_data(config)
    if cache.digest != dataset["digest"]:
        raise UserError(f"{path} was trained on {dataset['name']!r} ({dataset['digest'][:12]}), --data {args.data} "
                        f"is {cache.name!r} ({cache.digest[:12]}): name the data it was trained on")
    return config, cache


def write_predictions(path: Path, images: list[str], labels, predictions: dict) -> None:
    """One line an image: its path, its true class, the class predicted in each column; for paired tests."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "label", *predictions])
    writer.writerows(zip(images, labels.tolist(), *(p.tolist() for p in predictions.values())))
    with atomic_path(path) as temporary:
        temporary.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))   # same rows, same bytes
