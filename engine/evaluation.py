"""The code that both evaluations share: options, records, and the check whether the results are there already."""

from __future__ import annotations

import glob
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from channelset import Channels
from config import CONFIGS, DEVICES, changed_options, differing, digest, identity
from data.batches import Batches
from data.dataset import add_data_options, make_batches, open_data
from data.identity import LISTS_ONLY, difference
from data.lists import RGB
from engine.records import LATENCY, SECTIONS, RunFiles, check_predictions, read_record, run_name, write_record
from engine.trainer import predict
from metrics.accuracy import classification_metrics
from storage.files import check_writable, read_json
from utils import (
    ROOT,
    ArgumentParser,
    UserError,
    check_label,
    check_name,
    counted,
    environment,
    note,
    use_threads,
    within,
)

# names and paths of one machine. A record leaves them out; instead of the teacher's path it holds the teacher's name
PLACES = ("name", "out", "resume", "cache", "data", "taught_by")


def kept_options(options: dict) -> dict:
    """Return the options of a training that the record of an evaluation stores."""
    stored = {key: value for key, value in options.items() if key not in PLACES}
    teacher = options.get("taught_by")
    return {**stored, "teacher": teacher} if teacher else stored


def training_of(checkpoint: dict) -> tuple:
    """Return facts that tell the trainings of two checkpoints apart."""
    return checkpoint["environment"], checkpoint["train_s"], kept_options(checkpoint["config"])


def training_in(record: dict) -> tuple:
    """Return the facts of `training_of` from a record."""
    return record["trained_with"], record["train_s"], record["config"]


def add_options(parser: ArgumentParser, task: str) -> None:
    """Add the options that every evaluation has."""
    add_data_options(parser, "data that the model was trained on, as in the training scripts")
    parser.add_argument(
        "--split",
        choices=("both", "val", "test"),
        default="both",
        help="splits to evaluate; both: val and test",
    )
    parser.add_argument(
        "--image-size",
        type=within(1, 4096),
        help="side of the images, px (default: as in training); another size gives a separate row, an ablation",
    )
    parser.add_argument("--name", help="name of the model in the results (default: the run's name)")
    parser.add_argument("--label", help="name that readers see in tables (default: as --name)")
    parser.add_argument(
        "--section", choices=SECTIONS[task], help="section of the tables (default: chosen by the options)"
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


def results_folder(task: str, dataset: dict) -> Path:
    """Return the folder for the results if --results is not given. The folder results/ is for published data only.

    Args:
        dataset: the value `dataset` in a checkpoint.
    """
    if dataset["name"] == "demo":
        return Path("runs/demo-results")
    for path in (ROOT / "results" / task / "runs").glob(f"*-{glob.escape(dataset['name'])}-*px-*.json"):
        with suppress(OSError, ValueError, KeyError, TypeError):  # the record is damaged
            if read_json(path)["dataset_digest"] == dataset["digest"]:
                return ROOT / "results"
    return Path("runs/results")


def predict_and_score(
    model: nn.Module, batches: Batches, num_classes: int, columns=None
) -> tuple[dict, np.ndarray]:
    """Return the quality of the model, as columns of the table, and its predictions (N,).

    The model takes the image channels `columns` (None: all).
    """
    predictions, loss, top5 = predict(model, batches, columns, amp=False)
    quality = classification_metrics(batches.labels.cpu().numpy(), predictions, num_classes)
    return {**quality, "top5_pct": top5, "loss": loss}, predictions


def readable(name: str, split: str, row: dict) -> str:
    """Return a row of the table of either task as one line of text."""
    latency = row[LATENCY["task1" if "subset" in row else "task2"]]
    return (
        f"{name} {split:4} "
        + (f"{row['subset']:4} " if "subset" in row else "")
        + f"top-1 {row['top1_pct']:5.2f} % ({row['ci95_low']:.2f} to {row['ci95_high']:.2f})  "
        + f"F1 {row['f1_macro']:.3f}  "
        + ("" if "subset" in row else f"strict depth {row['strict_depth']}  ")
        + f"{row['macs'] / 1e6:.1f} MMAC"
        + ("" if latency is None else f"  {latency:.2f} ms")
    )


class ClassAnswers(NamedTuple):
    """Hold the answers of a network on a split."""

    split: str
    labels: np.ndarray  # (N,)
    predictions: dict[str, np.ndarray]  # channel set -> predicted classes (N,)
    classes: list[str]  # names of the classes


class Evaluation:
    """An evaluation of one trained model: its name, its data, its record and the files of its results.

    Args:
        task: "task1" or "task2".
        path, checkpoint: the checkpoint that the training wrote, and its content.
        args: the parsed options of `add_options`.
        section, model: section and name in the results, if --section and --name are not given.
        test: options of the evaluation that differ from the training, such as image_size.

    Attributes:
        size, splits: side of the images, px; and the splits to evaluate.
        head: the values that identify the record.
        files: paths of the results.
        published: whether the documents show these results.
        whole, saved: whether all channel sets are evaluated, and whether the results will be saved; set by `begin`.
        config, cache, device: options of the training on this machine, data and device; set by `begin`.
    """

    def __init__(self, task: str, path: str, checkpoint: dict, args, section: str, model: str, test: dict):
        self.task, self.path, self.checkpoint, self.args, self.test = task, path, checkpoint, args, test
        self.options, self.config_class = checkpoint["config"], CONFIGS[task]
        self.size = test.get("image_size", self.options["image_size"])
        self.splits = ("val", "test") if args.split == "both" else (args.split,)
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
            "digest": digest(identity(self.config_class.of(self.options)), sorted(test.items())),
        }
        folder = Path(args.results or results_folder(task, checkpoint["dataset"]))
        self.files = RunFiles(folder, task, run_name(self.head))
        self.published = folder.resolve() == (ROOT / "results").resolve()

    def begin(self, subsets: Sequence[str] = ("",), whole: bool = True) -> bool:
        """Check whether there is something to evaluate. If so, open the data that the model was trained on.

        With --skip-existing, nothing is left if all results that this evaluation would give are there already. The
        results will be saved with --results, or if all splits and sets are evaluated.

        Args:
            subsets: the names of the channel sets to evaluate. Task 2 has only one set, named "".
            whole: whether these are all channel sets.

        Raises:
            UserError: the results on disk belong to another run with the same name, or hold values that would be lost;
                the results cannot be written; or --data is not the data that the model was trained on.
        """
        args, self.whole = self.args, whole
        self.saved = bool(args.results) or (args.split == "both" and whole)
        names = {f"{split} {subset}".strip() for split in self.splits for subset in subsets}
        wanted = names | ({f"latency of {name}" for name in names} if args.repeats else set())
        try:
            old = read_record(self.files.record, self.task)
        except UserError:  # there is none, or it is damaged: evaluate again
            old = None
        if old:
            if args.skip_existing and wanted <= self._values(old) and self._is_this_run(old):
                print(f"{self.files.record} already holds the results of this run: skipped")
                return False
            self._check_name(old)
            lost = self._values(old) - wanted
            if lost and self.saved:
                raise UserError(
                    f"{self.files.record} also holds {counted(len(lost), 'other value')}, such as {min(lost)}, which "
                    f"would be lost: evaluate all splits and sets with their latency, name another folder with "
                    f"--results, or delete that file"
                )
            if self.saved and training_in(old) != training_of(self.checkpoint):
                note(
                    f"{self.files.record} has the results of another training with the same options and seed. They "
                    f"will be replaced; --results FOLDER keeps them"
                )
        if self.saved:
            check_writable(self.files.folder)
        else:
            print(
                "only some of the splits or sets: the results are printed, not saved; --results FOLDER saves them"
            )
        self._open_data()
        return True

    def _values(self, record: dict) -> set[str]:
        """Return the names of a record's values: "test RGB" for a row, and "latency of test RGB" if it has one."""
        rows = {
            f"{split} {row.get('subset', '')}".strip(): row
            for split, lines in record["splits"].items()
            for row in lines
        }
        timed = {
            f"latency of {name}" for name, row in rows.items() if row.get(LATENCY[self.task]) is not None
        }
        return rows.keys() | timed

    def _is_this_run(self, record: dict) -> bool:
        """Check whether the record is of this training, and whether its files are undamaged."""
        try:
            check_predictions(self.files, record)
            in_table = f"{self.files.name}\n" in self.files.table.read_text(encoding="utf-8")
        except (OSError, UserError):
            return False
        return in_table and training_in(record) == training_of(self.checkpoint)

    def _check_name(self, record: dict) -> None:
        """Check that a record with the same name is of the same options and data.

        Raises:
            UserError: it is not.
        """
        if differing(kept_options(self.options), record["config"], self.config_class):
            raise UserError(
                f"{self.files.record} has the results of {self.head['model']!r} trained with "
                f"other options: add --name to give this run its own row"
            )
        dataset = self.checkpoint["dataset"]
        pictures = {part.get("images_digest", LISTS_ONLY) for part in (record, dataset)} - {LISTS_ONLY}
        if record.get("dataset_digest") != dataset["digest"] or len(pictures) > 1:
            raise UserError(
                f"{self.files.record} has the results of {self.head['model']!r} on other data that are also called "
                f"{self.head['dataset']!r}: add --name or --results, or delete that file"
            )

    def _open_data(self) -> None:
        """Open the data that the model was trained on. Options of the command line replace options of the training."""
        args, dataset = self.args, self.checkpoint["dataset"]
        here = {"data": args.data, "cache": args.cache, "device": args.device, "image_size": self.size}
        # these options need a compiler and the package tensorboard, which only the training uses
        unused = {"compile": False, "tensorboard": False}
        config = self.config_class.of(self.options, **here, **unused).resolve(
            Channels(dataset.get("data_channels") or RGB)
        )
        if args.threads or config.device == "cpu":
            use_threads(args.threads)
        cache = open_data(config.data, self.size, config.cache, config.max_failed)
        mismatch = difference(cache, dataset, self.path)
        if mismatch:
            raise UserError(
                f"{self.path} was trained on {dataset['name']!r}, not on --data {args.data}: {mismatch}; name the "
                f"data of its training with --data"
            )
        self.config, self.cache, self.device = config, cache, torch.device(config.device)

    def run(
        self, record: dict, channels, evaluate: Callable[[Batches], tuple], write_page: Callable[..., None]
    ) -> bool:
        """Evaluate each split, print the results, and save them unless they are only a part.

        Args:
            record: from `new_record`.
            channels: ids of the image channels that the network takes.
            evaluate: a function of the batches. It returns the rows of the table, and a dict from each column of
                predictions to the answers (N,), int.
            write_page: `report.evaluation_page.write_page`, which writes a table and charts beside the checkpoint.

        Returns:
            True if results were written that the documents show.
        """
        for split in self.splits:
            batches = make_batches(self.cache, split, self.size, channels, self.device)
            rows, predictions = evaluate(batches)
            record["splits"][split] = rows
            print("\n".join(readable(record["model"], split, row) for row in rows))
            labels = batches.labels.cpu().numpy()
        if self.saved:
            # "test" is the last split
            on_test = (self.cache.split(split).paths, labels, predictions) if split == "test" else None
            write_record(self.files, record, on_test)
            print(f"wrote {self.files.table} and {self.files.record}")
            if not self.args.results and not self.published and self.head["dataset"] != "demo":
                print(
                    f"to show these results in the documents' tables, evaluate with --results {ROOT / 'results'}"
                )
        answers = ClassAnswers(split, labels, predictions, self.cache.class_names)
        write_page(self.path, record, self.options["name"], answers, self.whole)
        return self.saved and self.published

    def new_record(self) -> dict:
        """Return a record with everything but the metrics."""
        changed = changed_options(self.config_class.of(self.options, device="cpu"))
        return {
            **self.head,
            "options": {key: value for key, value in changed.items() if key != "amp"},
            "test": self.test,
            "dataset_digest": self.cache.digest,
            "channels": list(self.cache.channel_names),
            "images_digest": self.checkpoint["dataset"].get("images_digest", LISTS_ONLY),
            "config": kept_options(self.options),
            "trained_with": self.checkpoint["environment"],
            "evaluated_with": environment(self.device),
            "train_s": self.checkpoint["train_s"],
            "failed_images": {split: len(failed) for split, failed in self.cache.failures.items()},
            "history": self.checkpoint.get("metrics", []),  # older versions did not save them
            "splits": {},
        }
