"""The training loop both tasks share: schedule, mixed precision, EMA, exact resume, one directory a run.

last.pt holds the whole state, the lines of metrics.jsonl too; a resumed run writes that file again from it. While a
training runs, previous.pt holds the state before that: a run goes on from there where last.pt is damaged.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from config import PRESETS, TrainConfig, differing, folder_name
from data.batches import Batches
from data.cache import PixelCache
from data.dataset import open_data
from data.identity import LISTS_ONLY, difference
from engine.board import Board
from engine.step import TrainStep
from models.resnet import LAYERS
from utils import (
    PARTIAL,
    UserError,
    append_jsonl,
    brief,
    check_options,
    counted,
    duration,
    environment,
    hold,
    is_out_of_memory,
    load_checkpoint,
    progress_bar,
    read_jsonl,
    save_checkpoint,
    use_threads,
    write_json,
    write_text,
)

SAVE_EVERY = 20  # seconds of training that a kill may cost, at most
OLDER = "previous.pt"  # the state before the one in last.pt, while a training runs


@dataclass(frozen=True)
class Processes:
    """This process among those that `torchrun` started; alone without it."""

    rank: int
    world: int

    @staticmethod
    def start(device: torch.device) -> Processes:
        # some clusters and notebooks set WORLD_SIZE for jobs of one process
        if not {"WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
            return Processes(0, 1)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        return Processes(dist.get_rank(), dist.get_world_size())

    def stop(self) -> None:
        if self.world > 1:
            dist.destroy_process_group()


def start(config: TrainConfig, data: str | None = None) -> tuple[torch.device, Processes, PixelCache]:
    """What every training begins with: threads, device, this process's place among all, and the data.

    data: where they were found already; default: where `config.data` leads.
    """
    for option in ("teacher", "init_from"):  # before minutes of decoding
        path = getattr(config, option)
        if path and not Path(path).is_file():
            raise UserError(f"--{option.replace('_', '-')} {path}: there is no such file; name a model.pt")
    if config.out and not config.resume and Path(config.out, "last.pt").exists():
        raise UserError(_holds_a_run(config.out))
    choose_threads(config)
    # a GPU times its convolutions once: training batches have one shape
    torch.backends.cudnn.benchmark = True
    device = torch.device(config.device)
    return (
        device,
        Processes.start(device),
        open_data(data or config.data, config.image_size, config.cache, config.max_failed),
    )


def _holds_a_run(folder: str | Path) -> str:
    return f"{folder} already holds a run: add --resume to go on with it, or choose another --out"


def choose_threads(config: TrainConfig) -> None:
    """Set the threads of the CPU: those asked for, else those that the interrupted run had, else as many as there
    are idle cores.
    """
    if not config.threads and config.device == "cpu":
        earlier = Path(config.out or "", "config.json")
        if config.resume and config.out and earlier.is_file():
            with suppress(ValueError, AttributeError):
                told = json.loads(earlier.read_text(encoding="utf-8")).get("threads")
                config.threads = told if isinstance(told, int) and 0 < told <= 4096 else 0
    if config.threads or config.device == "cpu":
        config.threads = use_threads(config.threads)


def readable(record: dict) -> str:
    """A metrics record as one line of text."""
    if len(record) > 8:
        return f"({len(record)} sets: {min(record.values())} to {max(record.values())})"
    return "  ".join(
        readable(v) if isinstance(v, dict) else f"{k} {v}" for k, v in record.items() if k != "epoch"
    )


class Answers(NamedTuple):
    """What a network says of N images."""

    predictions: np.ndarray  # (N,), the likeliest class of each
    loss: float  # mean cross-entropy of the true classes, in nats
    top5_pct: (
        float | None
    )  # share of the images whose class is among the five likeliest; None of up to five classes


def predict(model: nn.Module, batches: Batches, columns=None, amp: bool = True) -> Answers:
    """The answers of the model, in eval mode, from the image channels `columns` (None: all).

    Where memory is short, fewer images are taken at once.
    """
    count = min(len(batches), 1024 if batches.device.type == "cuda" else 256)
    while True:
        try:
            return _predict(model.eval(), batches, columns, amp, count)
        except (RuntimeError, MemoryError) as error:
            if count == 1 or not is_out_of_memory(error):
                raise
        count //= 2
        if batches.device.type == "cuda":
            torch.cuda.empty_cache()


@torch.inference_mode()
def _predict(model: nn.Module, batches: Batches, columns, amp: bool, count: int) -> Answers:
    predictions, loss, among = [], 0.0, 0
    for images, labels in batches.eval_batches(count):
        if columns is not None:
            images = images[:, list(columns)].contiguous(memory_format=torch.channels_last)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=amp):
            logits = model(images)
        predictions.append(logits.argmax(1))
        loss = loss + functional.cross_entropy(logits.float(), labels, reduction="sum")
        if logits.shape[1] > 5:
            among = among + (logits.topk(5).indices == labels[:, None]).sum()
    top5 = 100 * int(among) / len(batches) if logits.shape[1] > 5 else None
    return Answers(torch.cat(predictions).cpu().numpy(), float(loss) / len(batches), top5)


def _stop_signals() -> list[int]:
    """Signals after which a training saves and stops: Ctrl-C, SIGTERM, and the end of the terminal where that is not
    ignored, as it is under nohup.
    """
    hang_up = getattr(signal, "SIGHUP", None)  # not on Windows
    heard = hang_up is not None and signal.getsignal(hang_up) != signal.SIG_IGN
    # a cluster's warnings before it ends a job, and Ctrl-Break on Windows
    others = [getattr(signal, name, None) for name in ("SIGUSR1", "SIGUSR2", "SIGXCPU", "SIGBREAK")]
    return [signal.SIGINT, signal.SIGTERM] + [hang_up] * heard + [one for one in others if one is not None]


class Estimate:
    """Says once, after `FIRST` steps, how long a training will take.

    Args:
        config: of the training.
        device: it runs on.
        steps: that are left.
    """

    FIRST, SKIPPED = 20, 5  # the first steps choose algorithms

    def __init__(self, config: TrainConfig, device: torch.device, steps: int):
        self.config, self.device, self.left, self.done, self.began = config, device, steps, 0, 0.0

    def step(self) -> str:
        """To be called after each step: a line, or nothing."""
        self.done += 1
        if self.done not in (self.SKIPPED, self.FIRST):
            return ""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        if self.done == self.SKIPPED:
            self.began = time.perf_counter()
            return ""
        each = (time.perf_counter() - self.began) / (self.FIRST - self.SKIPPED)
        return self.line(each * (self.left - self.done))

    def line(self, seconds: float) -> str:
        """Where `seconds` are left; on a processor that takes over an hour it names the shortest preset."""
        end = time.strftime(
            "%H:%M" if seconds < 12 * 3600 else "%F %H:%M", time.localtime(time.time() + seconds)
        )
        text, least = (
            f"about {duration(seconds)} on this {self.device.type.upper()}, until {end}",
            next(iter(PRESETS)),
        )
        share = work(PRESETS[least]) / work(vars(self.config))
        if self.device.type == "cpu" and seconds > 3600 and share < 0.5:
            text += f"; --preset {least} takes about {duration(seconds * share)}"
        return text


def work(options: Mapping) -> float:
    """Of a training, up to a factor: pixels times the square of the width times blocks times epochs."""
    blocks = sum(LAYERS[options["arch"]]) if options["arch"] in LAYERS else sum(LAYERS["resnet10"])
    return options["image_size"] ** 2 * options["width"] ** 2 * blocks * options["epochs"]


class Trainer:
    """Trains one model in one run directory: config.json, environment.json, metrics.jsonl, last.pt and model.pt.

    Args:
        config: resolved options; a run directory is chosen where none is given.
        cache: the data: a run is not resumed on others.
        model: called as model(images, **batch_inputs(...)), returns logits (B, K).
        train: training batches.
        validate: model -> dict of validation metrics, run on the averaged weights.
        batch_inputs: (batch size, generator) -> extra keyword tensors of the model for this batch, on the
            CPU.
        processes: this process's place among all.
        teacher: images (B, C, s, s) -> logits (B, K), learned from as well (knowledge distillation,
            1503.02531).
    """

    def __init__(
        self,
        config: TrainConfig,
        cache: PixelCache,
        model: nn.Module,
        train: Batches,
        validate,
        batch_inputs=None,
        processes=Processes(0, 1),
        teacher: nn.Module | None = None,
    ):
        self.config, self.validate, self.processes = config, validate, processes
        # of the start, kept by a resumed run
        self.cache, self.environment = cache, environment(train.device)
        self.images_digest = cache.images_digest
        config.out = config.out or f"runs/{cache.name}-{config.image_size}px/{folder_name(config)}"
        self.device, self.folder = train.device, Path(config.out)
        self.model = model.to(self.device)
        self.teacher = None if teacher is None else teacher.to(self.device).eval()
        if config.channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)
        if processes.world > 1 and self.device.type == "cuda":
            self.model = nn.SyncBatchNorm.convert_sync_batchnorm(self.model)
        if config.batch_size > len(train):
            raise UserError(
                f"--batch-size {config.batch_size} is larger than the {len(train)} training images"
            )
        if processes.world > 1 and config.batch_size < 2 * processes.world:
            raise UserError(
                f"--batch-size {config.batch_size} leaves {processes.world} processes less than the two images each "
                f"that batch normalisation needs: use {2 * processes.world} or more, or fewer processes"
            )
        if config.batch_size % processes.world:
            raise UserError(
                f"--batch-size {config.batch_size} does not divide among {processes.world} processes"
            )
        decayed = [p for p in self.model.parameters() if p.ndim > 1]
        plain = [p for p in self.model.parameters() if p.ndim <= 1]
        self.optimizer = torch.optim.SGD(
            [
                {"params": decayed, "weight_decay": config.weight_decay},
                {"params": plain, "weight_decay": 0.0},
            ],
            config.lr,
            momentum=0.9,
            nesterov=True,
        )
        self.ema = AveragedModel(self.model, self.device, use_buffers=True)
        # loss_sum: over this epoch's steps
        self.step, self.seconds, self.loss_sum, self.stopped, self.lock = 0, 0.0, 0.0, None, None
        self.metrics: list[dict] = []  # the lines of metrics.jsonl
        self.board = None
        if config.tensorboard and processes.rank == 0:
            self.board = Board(self.folder / "tensorboard")
        called = nn.parallel.DistributedDataParallel(self.model) if processes.world > 1 else self.model
        if config.compile:  # in place and after the average was copied: neither state dict changes
            called.compile(dynamic=False)
        self.steps = TrainStep(
            config,
            called,
            self.model,
            self.ema,
            self.optimizer,
            train,
            batch_inputs or (lambda count, random: {}),
            self.teacher,
            processes,
        )
        self.steps_per_epoch = self.steps.per_epoch

    # ------------------------------------------------------------ state

    def _state(self) -> dict:
        """Everything a resumed run needs. Batches depend on (seed, step) alone, so the position is one
        number.
        """
        return {
            "kind": "training-state",
            "config": dataclasses.asdict(self.config),
            "digest": self.cache.digest,
            "images_digest": self.images_digest,
            "environment": self.environment,
            "world": self.processes.world,
            "step": self.step,
            "seconds": self.seconds,
            "loss_sum": self.loss_sum,
            "metrics": self.metrics,
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "torch_rng": torch.get_rng_state(),
        }

    def _save(self) -> None:
        if self.processes.rank == 0:
            last, older = self.folder / "last.pt", self.folder / OLDER
            if last.exists():
                try:  # a second name of the same bytes: last.pt is never missing
                    spare = self.folder / f".last.pt.previous{PARTIAL}"
                    spare.unlink(missing_ok=True)  # a rename of one name of a file to another does nothing
                    os.link(last, spare)
                    os.replace(spare, older)
                except OSError:  # a file system without links
                    os.replace(last, older)
            save_checkpoint(last, self._state())

    def _load(self) -> dict | None:
        """The state to go on from; None where there is none.

        Raises:
            UserError: last.pt is damaged, and there is no older state that is whole.
        """
        last, older = self.folder / "last.pt", self.folder / OLDER
        if not last.exists() and not older.exists():
            return None
        if not self.config.resume:
            raise UserError(_holds_a_run(self.folder))
        try:
            state = load_checkpoint(last, "training-state")
        except UserError as error:
            try:
                state = load_checkpoint(older, "training-state")
            except UserError:
                raise error from None
            if last.exists() and self.processes.rank == 0:
                print(f"{error}\ngoing on from the state before it, {older}", file=sys.stderr)
        check_options(state["config"], type(self.config), last)
        return state

    def open_run(self) -> None:
        """Make the run directory, or go on with the one that is there.

        Raises:
            UserError: the directory holds a run and --resume was not given, or the run had other options.
            BusyError: another process trains there.
        """
        if self.processes.rank == 0:
            self.lock = hold(self.folder)
            for name in ("last.pt", "model.pt", "metrics.jsonl"):
                for left in self.folder.glob(f".{name}.????????{PARTIAL}"):  # by a kill
                    left.unlink()
        if state := self._load():
            other = difference(self.cache, state, str(self.folder / "last.pt"))
            if other:
                raise UserError(
                    f"cannot resume {self.folder}: it was started on other data: {other}; name that data, or "
                    f"choose another --out"
                )
            if state["world"] != self.processes.world:
                raise UserError(
                    f"cannot resume {self.folder}: it was started with {state['world']} "
                    f"processes, now there are {self.processes.world}; use as many, since each "
                    f"draws images of its own"
                )
            differ = differing(dataclasses.asdict(self.config), state["config"], type(self.config))
            if differ:
                if set(differ) == {"epochs"}:
                    raise UserError(f"cannot resume {self.folder}: {self._other_length(differ['epochs'][1])}")
                raise UserError(
                    f"cannot resume {self.folder}: it was started with "
                    + ", ".join(
                        f"--{key.replace('_', '-')} {theirs} (now {ours})"
                        for key, (ours, theirs) in differ.items()
                    )
                )
            self.environment = state["environment"]
            # of an older version's epochs the pictures are not known
            self.images_digest = state.get("images_digest", LISTS_ONLY)
            try:
                self.model.load_state_dict(state["model"])
                self.ema.load_state_dict(state["ema"])
                self.optimizer.load_state_dict(state["optimizer"])
                torch.set_rng_state(state["torch_rng"])
            except (KeyError, ValueError, RuntimeError, TypeError) as error:
                raise UserError(
                    f"cannot resume {self.folder}: last.pt is of another network "
                    f"({brief(error)}); choose another --out or delete it"
                ) from error
            if not 0 <= state["step"] <= self.steps.total:
                raise UserError(
                    f"cannot resume {self.folder}: last.pt is at step {state['step']} of "
                    f"{self.steps.total}; choose another --out or delete it"
                )
            self.step, self.seconds, self.loss_sum = state["step"], state["seconds"], state["loss_sum"]
            self.metrics = self._lines(state)
            if self.processes.rank == 0:
                # a killed run may have written the line of an epoch that it did not save
                text = "".join(json.dumps(line) + "\n" for line in self.metrics)
                write_text(self.folder / "metrics.jsonl", text)
        elif self.processes.rank == 0:
            write_json(self.folder / "config.json", dataclasses.asdict(self.config))
            write_json(self.folder / "environment.json", self.environment)
            (self.folder / "metrics.jsonl").unlink(missing_ok=True)

    def _other_length(self, epochs: int) -> str:
        """Why a run of `epochs` epochs does not go on for another number of them, and the commands that do."""
        script = f"train_{'task1' if hasattr(self.config, 'sampler') else 'task2'}.py"
        asked, model = self.config.epochs, self.folder / "model.pt"
        text = (
            f"it was started with --epochs {epochs} (now {asked}), and its learning rate falls to zero by the end "
            f"of these. `python {script} --epochs {asked} --out {self.folder}-{asked}` trains anew"
        )
        if asked > epochs and model.exists():
            more = f"--init-from {model} --epochs {asked - epochs} --out {self.folder}-more"
            text += f"; `python {script} {more}` goes on from its weights with a schedule of its own"
        return text + "; add your other options to it"

    def _lines(self, state: dict) -> list[dict]:
        """The metrics of the epochs that are done; a state of an older version leaves them to metrics.jsonl.

        Raises:
            UserError: they are not those of the epochs.
        """
        epochs, log = list(range(1, self.step // self.steps_per_epoch + 1)), self.folder / "metrics.jsonl"
        lines = state["metrics"] if "metrics" in state else read_jsonl(log)[: len(epochs)] if epochs else []
        if [line.get("epoch") for line in lines] != epochs:
            raise UserError(
                f"cannot resume {self.folder}: {log} has not the lines of epochs 1 to {len(epochs)}; restore it, "
                f"or choose another --out"
            )
        return lines

    # ------------------------------------------------------------ loop

    def fit(self) -> nn.Module:
        """Train to the end and return the averaged model. Ctrl-C, SIGTERM and the end of the terminal save first,
        then stop with status 130.

        Raises:
            UserError: the loss is not finite; the last checkpoint is kept.
        """
        bar, handlers, messages = None, {}, sys.stderr
        try:
            self.open_run()
            for number in _stop_signals():
                # only the main thread may; another thread's training is stopped by what started it
                with suppress(ValueError):
                    handlers[number] = signal.signal(
                        number, lambda number, _: setattr(self, "stopped", number)
                    )
            if self.processes.rank == 0:
                print(self.describe(), file=messages)
            bar = progress_bar(
                total=self.steps.total,
                initial=self.step,
                unit="step",
                desc=self.folder.name,
                file=messages,
                disable=self.processes.rank != 0,
            )
            self._train(bar, messages)
        finally:
            if bar is not None:
                bar.close()
            if self.lock is not None:
                self.lock.release()
            for number, handler in handlers.items():
                signal.signal(number, handler)
        return self.ema.module

    def _train(self, bar: tqdm, messages: TextIO) -> None:
        """The steps that are left."""
        total, estimate = self.steps.total, Estimate(self.config, self.device, self.steps.total - self.step)
        began, checked, saved = time.perf_counter(), self.step, time.monotonic()
        while self.step < total:
            self.steps.run(self.step)
            self.step += 1
            bar.update()
            if (text := estimate.step()) and self.processes.rank == 0:
                bar.write(text, file=messages)
            stop, epoch_ended = self._stop_asked(), self.step % self.steps_per_epoch == 0
            due = time.monotonic() - saved > SAVE_EVERY
            if epoch_ended or stop or due or self.step - checked >= 50:
                loss, checked = self._check(checked), self.step
                bar.set_postfix(
                    epoch=f"{self.step / self.steps_per_epoch:.1f}", loss=f"{loss:.3f}", refresh=False
                )
                self.seconds, began = self.seconds + time.perf_counter() - began, time.perf_counter()
                if epoch_ended:
                    self._end_epoch(bar)
                if stop or due or self.step == total:
                    try:
                        self._save()
                    except UserError as error:
                        if stop or self.step == total:
                            raise
                        bar.write(f"warning: {error} The training goes on and tries again.", file=messages)
                    saved = time.monotonic()
                began = time.perf_counter()
            if stop:
                bar.close()
                print(
                    f"stopped after step {self.step} of {total}; everything is in {self.folder}. "
                    "The same command with --resume goes on.",
                    file=messages,
                )
                sys.exit(130)

    def describe(self) -> str:
        """What is trained, where and how long, in one line."""
        config, count = self.config, sum(p.numel() for p in self.model.parameters())
        cpu = self.device.type == "cpu"
        where = f"cpu, {counted(config.threads, 'thread')}" if cpu else str(self.device)
        done = f", of which {self.step} steps are done" if self.step else ""
        return (
            f"{config.name}: {config.arch} of width {config.width:g}, {count / 1e6:.2f} million parameters; "
            f"{self.cache.num_classes} classes, {config.image_size} px; "
            f"{counted(config.epochs, 'epoch')} of {self.steps_per_epoch} steps{done}; "
            f"preset {config.preset}; {where}; in {self.folder}"
        )

    def fit_and_save(self, kind: str, dataset: dict, evaluation: str) -> None:
        """`fit`, then write the averaged model to model.pt and stop the processes.

        Args:
            kind: of the checkpoint, see `utils.load_checkpoint`.
            dataset: what an evaluation must know of the data, beyond name, digests and class names.
            evaluation: the script that comes next.
        """
        averaged, cache = self.fit(), self.cache
        if self.processes.rank == 0:
            path = self.folder / "model.pt"
            dataset = {
                "name": cache.name,
                "digest": cache.digest,
                "images_digest": self.images_digest,
                "class_names": cache.class_names,
                "pixels": cache.kind.name,
                **dataset,
            }
            save_checkpoint(
                path,
                {
                    "kind": kind,
                    "config": dataclasses.asdict(self.config),
                    "dataset": dataset,
                    "environment": self.environment,
                    "train_s": round(self.seconds, 1),
                    "metrics": self.metrics,
                    "state": averaged.state_dict(),
                },
            )
            (self.folder / OLDER).unlink(missing_ok=True)  # the training has ended
            print(f"wrote {path}\nnext: python {evaluation} {path}")
        self.processes.stop()

    def _check(self, since: int) -> float:
        """Mean loss of the steps from `since` on, added to the epoch's; the only place that waits for a GPU.

        Raises:
            UserError: the mean is not finite, or after an epoch a weight is not.
        """
        count, first = self.step - since, since % self.steps_per_epoch
        # in double precision the sum does not depend on how often it is asked for
        total = self.steps.losses[first : first + count].double().sum().item()
        self.loss_sum, loss = self.loss_sum + total, total / count
        finite = self.step % self.steps_per_epoch or self._weights_are_finite()
        if not math.isfinite(loss) or not finite:
            what = "weights are not finite" if math.isfinite(loss) else f"the loss became {loss}"
            epoch = (self.step - 1) // self.steps_per_epoch + 1
            before = f"; last.pt in {self.folder} is from before"
            raise UserError(
                f"{what} in epoch {epoch}, before step {self.step}; try a lower --lr or --no-amp"
                + before * (self.folder / "last.pt").exists()
            )
        return loss

    def _weights_are_finite(self) -> bool:
        return torch.stack(torch._foreach_norm([*self.model.parameters()], torch.inf)).isfinite().all().item()

    def _end_epoch(self, bar: tqdm) -> None:
        """Validate where it is due, and write the epoch's line of metrics."""
        epoch, config = self.step // self.steps_per_epoch, self.config
        record = {
            "epoch": epoch,
            "loss": round(self.loss_sum / self.steps_per_epoch, 4),
            "train_s": round(self.seconds, 1),
        }
        self.loss_sum = 0.0
        if epoch % config.eval_every == 0 or epoch == config.epochs:
            record.update(self.validate(self.ema.module))
            if self.processes.rank == 0:
                bar.write(f"epoch {epoch}/{config.epochs}  {readable(record)}", file=sys.stderr)
        self.metrics.append(json.loads(json.dumps(record)))  # plain numbers, as the file has them
        if self.board:
            rate = float(self.optimizer.param_groups[0]["lr"])
            self.board.add(epoch, {**record, "learning_rate": rate}, self.ema.module)
        if self.processes.rank == 0:
            try:
                append_jsonl(self.folder / "metrics.jsonl", record)
            except OSError as error:  # last.pt holds the line as well
                bar.write(f"warning: cannot write to {self.folder / 'metrics.jsonl'}: {error}", file=bar.fp)

    def _stop_asked(self) -> bool:
        """Whether any process was asked to stop; all of them learn it at the same step, asking every 20."""
        if self.processes.world == 1:
            return self.stopped is not None
        if self.step % 20:
            return False
        flag = torch.tensor(float(self.stopped is not None), device=self.device)
        dist.all_reduce(flag)
        return flag.item() > 0
