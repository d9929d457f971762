"""The code that both evaluations share: their options, their records, the check whether results are there already."""

from __future__ import annotations

import argparse
import glob
from pathlib import Path

import torch

from channelset import Channels
from config import DEVICES, TrainConfig, changed_options, differing, digest, identity
from data.cache import PixelCache
from data.dataset import add_data_options, open_data
from data.identity import LISTS_ONLY, difference
from data.lists import RGB
from engine.records import SECTIONS, RunFiles, check_predictions, read_record, run_name, write_record
from utils import (
    ROOT,
    ArgumentParser,
    UserError,
    check_label,
    check_name,
    environment,
    read_json,
    read_jsonl,
    use_threads,
    within,
)

# Names and paths of one machine. A record leaves them out; it holds the teacher's name instead of its path
PLACES = ("name", "out", "resume", "cache", "data", "taught_by")


def kept_options(options: dict) -> dict:
    """Return the options of a training that its record keeps."""
    kept = {key: value for key, value in options.items() if key not in PLACES}
    teacher = options.get("taught_by")
    return {**kept, "teacher": teacher} if teacher else kept


def add_options(parser: ArgumentParser, task: str) -> None:
    """Add the options that every evaluation has."""
    add_data_options(parser, "the data it was trained on, as in the training scripts")
    parser.add_argument("--split", choices=("both", "val", "test"), default="both", help="which images")
    parser.add_argument(
        "--image-size",
        type=within(1, 4096),
        help="side of the images, px (default: as in training); another size gives a separate row, an ablation",
    )
    parser.add_argument("--name", help="name of the model in the results (default: the run's name)")
    parser.add_argument("--label", help="name that readers see in tables (default: the name)")
    parser.add_argument(
        "--section", choices=SECTIONS[task], help="part of the tables (default: from the options)"
    )
    parser.add_argument("--device", default="auto", help=DEVICES)
    parser.add_argument(
        "--threads", type=within(0, 4096), default=0, help="CPU threads; 0: one for each idle core"
    )
    parser.add_argument(
        "--repeats",
        type=within(0, 10**6),
        default=50,
        help="timed passes for the latency; 0: do not measure it",
    )
    parser.add_argument(
        "--results",
        help="folder for the results (default: the repository's results/ if it already holds results "
        "of this data, else runs/results; for the demo set runs/demo-results)",
    )
    parser.add_argument(
        "--skip-existing", action="store_true", help="do nothing if the results of this run are there already"
    )
    # has no effect: older scripts pass it
    parser.add_argument("--no-report", action="store_true", help=argparse.SUPPRESS)


def results_folder(task: str, dataset: dict) -> Path:
    """Return the folder for results if --results is not given; results/ is for published data only.

    Args:
        dataset: the entry `dataset` of a checkpoint.
    """
    if dataset["name"] == "demo":
        return Path("runs/demo-results")
    for path in (ROOT / "results" / task / "runs").glob(f"*-{glob.escape(dataset['name'])}-*px-*.json"):
        try:
            if read_json(path)["dataset_digest"] == dataset["digest"]:
                return ROOT / "results"
        except (OSError, ValueError, KeyError, TypeError):
            continue  # a damaged record: look at the next
    return Path("runs/results")


class Evaluation:
    """One way to evaluate one trained model: its name, the files of its results, and its record.

    Args:
        task: "task1" or "task2".
        checkpoint: checkpoint that the training wrote.
        args: the parsed options of `add_options`.
        section, model: section and name in the results, if --section and --name are not given.
        test: options of the evaluation that differ from the training, such as image_size.
        config_class: class of the training's options.
    """

    def __init__(
        self,
        task: str,
        checkpoint: dict,
        args,
        section: str,
        model: str,
        test: dict,
        config_class: type[TrainConfig],
    ):
        self.task, self.checkpoint, self.args, self.test = task, checkpoint, args, test
        self.config_class, self.options = config_class, checkpoint["config"]
        name = check_name(args.name or model, "--name")
        self.head = {
            "task": task,
            "preset": self.options["preset"],
            "dataset": checkpoint["dataset"]["name"],
            "image_size": self.options["image_size"],
            "section": args.section or section,
            "model": name,
            "label": check_label(args.label or name, "--label"),
            "seed": self.options["seed"],
            "digest": digest(identity(config_class.of(self.options)), sorted(test.items())),
        }
        folder = Path(args.results or results_folder(task, checkpoint["dataset"]))
        self.files = RunFiles(folder, task, run_name(self.head))
        self.published = folder.resolve() == (ROOT / "results").resolve()

    def is_done(self) -> bool:
        """Check whether --skip-existing is given and the results of this run are there already.

        Raises:
            UserError: the results on disk come from another run with the same name.
        """
        if not self.files.record.exists():
            return False
        try:
            old = read_record(self.files.record, self.task)
            same = (old["trained_with"], old["train_s"], old["config"]) == (
                self.checkpoint["environment"],
                self.checkpoint["train_s"],
                kept_options(self.options),
            )
        except (UserError, KeyError):  # a damaged record: evaluate again
            return False
        if self.args.skip_existing and same and self._is_whole(old):
            print(f"{self.files.record} is of this very run: skipped")
            return True
        if differing(kept_options(self.options), old["config"], self.config_class):
            raise UserError(
                f"{self.files.record} has the results of {self.head['model']!r} trained with "
                f"other options: add --name to give this run its own row"
            )
        dataset = self.checkpoint["dataset"]
        pictures = {old.get("images_digest", LISTS_ONLY), dataset.get("images_digest", LISTS_ONLY)}
        pictures -= {LISTS_ONLY}
        if old.get("dataset_digest") != dataset["digest"] or len(pictures) > 1:
            raise UserError(
                f"{self.files.record} has the results of {self.head['model']!r} on other data that are also called "
                f"{self.head['dataset']!r}: add --name or --results, or delete that file"
            )
        return False

    def _is_whole(self, record: dict) -> bool:
        """Check whether the record's predictions and table are there and undamaged."""
        try:
            check_predictions(self.files, record)
            return self.files.name in self.files.table.read_text(encoding="utf-8")
        except (OSError, UserError):
            return False

    def open_data(self, path: str, image_size: int) -> tuple[TrainConfig, PixelCache]:
        """Open the data that the model was trained on; return the training's options and the data.

        Options of the command line replace those of the training.

        Args:
            path: path of the checkpoint.
            image_size: side of the images, px.

        Raises:
            UserError: --data is not the data that the model was trained on.
        """
        args, dataset = self.args, self.checkpoint["dataset"]
        config = self.config_class.of(
            self.options, image_size=image_size, data=args.data, cache=args.cache, device=args.device
        ).resolve(Channels(dataset.get("data_channels") or RGB))
        if args.threads or config.device == "cpu":
            use_threads(args.threads)
        cache = open_data(config.data, image_size, config.cache, config.max_failed)
        mismatch = difference(cache, dataset, path)
        if mismatch:
            raise UserError(
                f"{path} was trained on {dataset['name']!r}, not on --data {args.data}: {mismatch}; give with --data "
                f"the data it was trained on"
            )
        return config, cache

    def new_record(self, path: str, cache: PixelCache, device: torch.device) -> dict:
        """Return a record with everything but the metrics; `path`: path of the checkpoint."""
        changed = changed_options(self.config_class.of(self.options, device="cpu"))
        return {
            **self.head,
            "options": {key: value for key, value in changed.items() if key != "amp"},
            "test": self.test,
            "dataset_digest": cache.digest,
            "channels": list(cache.channel_names),
            "images_digest": self.checkpoint["dataset"].get("images_digest", LISTS_ONLY),
            "config": kept_options(self.options),
            "trained_with": self.checkpoint["environment"],
            "evaluated_with": environment(device),
            "train_s": self.checkpoint["train_s"],
            "failed_images": {split: len(failed) for split, failed in cache.failures.items()},
            "history": self._history(Path(path).parent / "metrics.jsonl"),
            "splits": {},
        }

    def _history(self, log: Path) -> list[dict]:
        """Return the training's metrics, one line for each epoch.

        Checkpoints of older versions do not hold them: then they are read from the `log` beside it. If there is no
        log either, the list is empty.

        Raises:
            UserError: the log is damaged, or belongs to another training.
        """
        if "metrics" in self.checkpoint:
            return self.checkpoint["metrics"]
        lines = read_jsonl(log) if log.exists() else []
        epochs = list(range(1, self.options["epochs"] + 1))
        # a late fusion adds up the times of its networks
        fused = self.task == "task1" and len(self.args.checkpoint) > 1
        seconds = {line.get("train_s") for line in lines[-1:]} - {self.checkpoint["train_s"]}
        if lines and ([line.get("epoch") for line in lines] != epochs or (seconds and not fused)):
            raise UserError(
                f"{log} is not the log of the training that wrote the model beside it, or it is damaged: restore it, "
                f"or move the model to an empty folder"
            )
        return lines

    def write(self, record: dict) -> None:
        """Write the record, and write the task's table again with it."""
        write_record(self.files, record)
        print(f"wrote {self.files.table} and {self.files.record}")
        if not self.args.results and not self.published and self.head["dataset"] != "demo":
            print(
                f"to show these results in the documents' tables, evaluate with --results {ROOT / 'results'}"
            )
