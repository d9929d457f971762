"""The training loop that both tasks share: mixed precision, EMA, exact resume, one directory for each run.

last.pt holds the whole state, with the lines of metrics.jsonl. A resumed run writes metrics.jsonl again from last.pt.
While a training runs, previous.pt holds the state that was saved before last.pt. If last.pt is damaged, the run goes
on from previous.pt.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import shlex
import signal
import sys
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from config import SELF, TrainConfig, differing, folder_name, training_name
from data.batches import Batches
from data.cache import PixelCache
from data.dataset import draw_fraction
from data.identity import LISTS_ONLY, difference
from data.lists import ImageLists
from engine.board import Board
from engine.step import TrainStep, make_optimizer
from storage.checkpoint import OPTIONS, brief, check_options, load_checkpoint, save_checkpoint
from storage.files import PARTIAL, append_jsonl, check_writable, read_json, write_json, write_text
from storage.locks import hold
from utils import (
    ROOT,
    UserError,
    as_arguments,
    counted,
    environment,
    is_out_of_memory,
    note,
    progress_bar,
    use_threads,
)

SAVE_EVERY = 20  # seconds; a kill costs at most this much training
OLDER = "previous.pt"  # the state saved before last.pt; it is deleted when the training ends


@dataclass(frozen=True)
class Processes:
    """The number of this process (`rank`) among the `world` processes that torchrun started (1 without torchrun)."""

    rank: int
    world: int

    @staticmethod
    def start(device: torch.device) -> Processes:
        # some clusters and notebooks set WORLD_SIZE even for jobs of one process
        if not {"WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
            return Processes(0, 1)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        return Processes(dist.get_rank(), dist.get_world_size())

    def stop(self) -> None:
        if self.world > 1:
            dist.destroy_process_group()


def start(config: TrainConfig, lists: ImageLists) -> tuple[torch.device, Processes]:
    """Make the checks that need no pixels, since decoding may take minutes. Choose a run directory and the threads.

    Args:
        lists: the lists of the data set.

    Returns:
        the device and the processes of torchrun.

    Raises:
        UserError: a file that an option names is missing or not a model; an option of a new run has no effect; the
            batch size does not fit; or the run directory holds a run already or cannot be written.
        BusyError: another process uses the run directory.
    """
    if config.teacher_file:
        taught_by = load_checkpoint(config.teacher_file, tuple(OPTIONS))["config"]
        config.taught_by = training_name(type(config).of(taught_by))
    config.out = config.out or f"runs/{lists.name}-{config.image_size}px/{folder_name(config)}"
    _check_folder(config.out, config.resume)
    if not goes_on(config):
        config.check_effects()
        if config.init_from:
            load_checkpoint(config.init_from, tuple(OPTIONS))
    choose_threads(config)
    # where all training batches have one shape, a GPU times its convolution algorithms only once
    torch.backends.cudnn.benchmark = config.train_sizes is None
    device = torch.device(config.device)
    processes = Processes.start(device)
    images = len(draw_fraction(lists.splits["train"].labels, config.fraction))
    _check_batch_size(config.batch_size, images, processes.world)
    if processes.rank == 0:
        if Path(config.out).exists():
            hold(Path(config.out)).release()
        check_writable(Path(config.out))
    return device, processes


def _check_batch_size(size: int, images: int, world: int) -> None:
    """Check that batches of `size` images can be made of the training images, and split among `world` processes.

    Raises:
        UserError: the batches cannot be made or split.
    """
    if size > images:
        raise UserError(
            f"--batch-size {size} is larger than the {images} training images: use {images} or less"
        )
    if size % world or size < 2 * world:
        raise UserError(
            f"--batch-size {size}: batch normalisation needs the same number of images in each process, at least two; "
            f"use a multiple of {world}, at least {2 * world}"
        )


def _check_folder(folder: str | Path, resume: bool) -> None:
    """Check that a training in `folder` replaces no run and no network.

    Raises:
        UserError: there is a run and `resume` is false; or there is a model.pt without the state of its run.
    """
    saved = _saved(folder)
    if not saved and Path(folder, "model.pt").exists():
        raise UserError(
            f"{folder} holds a model.pt, which this training would replace, but no last.pt to go on from: choose "
            f"another --out, or delete or rename model.pt"
        )
    if saved and not resume:
        raise UserError(
            f"{folder} already holds a run: add --resume to go on with it, or choose another --out"
        )


def _saved(folder: str | Path) -> list[Path]:
    """Return the files with a state of the run in `folder`, the newest first."""
    return [path for name in ("last.pt", OLDER) if (path := Path(folder, name)).exists()]


def choose_threads(config: TrainConfig) -> None:
    """Set the number of CPU threads.

    Without --threads it is the number of the interrupted run, or one for each idle core.
    """
    if not config.threads and config.device == "cpu" and config.resume:
        with suppress(OSError, ValueError, KeyError, TypeError):  # config.json is missing or damaged
            config.threads = int(read_json(Path(config.out, "config.json"))["threads"])
    if config.threads or config.device == "cpu":
        config.threads = use_threads(config.threads)


def readable(record: dict) -> str:
    """Return a metrics record as one line of text."""
    if len(record) > 8:
        return f"({len(record)} sets: {min(record.values())} to {max(record.values())})"
    return "  ".join(
        readable(v) if isinstance(v, dict) else f"{k} {v}" for k, v in record.items() if k != "epoch"
    )


class Answers(NamedTuple):
    """The answers that a network gives for N images."""

    predictions: np.ndarray  # (N,), the likeliest class of each image
    loss: float  # mean cross-entropy of the true classes, in nats
    # per cent of the images whose true class is among the five likeliest; None if there are at most five classes
    top5_pct: float | None


def predict(model: nn.Module, batches: Batches, columns=None, amp: bool = True) -> Answers:
    """Evaluate the model in eval mode on the image channels `columns` (None: all).

    If the memory is too small, try again with half as many images at once.
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
    predictions, loss, hits = [], 0.0, 0
    for images, labels in batches.eval_batches(count):
        if columns is not None:
            images = images[:, list(columns)].contiguous(memory_format=torch.channels_last)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=amp):
            logits = model(images)
        predictions.append(logits.argmax(1))
        loss = loss + functional.cross_entropy(logits.float(), labels, reduction="sum")
        if logits.shape[1] > 5:
            hits = hits + (logits.topk(5).indices == labels[:, None]).sum()
    top5 = 100 * int(hits) / len(batches) if logits.shape[1] > 5 else None
    return Answers(torch.cat(predictions).cpu().numpy(), float(loss) / len(batches), top5)


def _stop_signals() -> list[int]:
    """Return the signals after which a training saves and stops: Ctrl-C, SIGTERM and a closed terminal.

    Clusters send SIGUSR1, SIGUSR2 or SIGXCPU before they end a job.
    """
    names = ["SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGXCPU"]
    # Windows has no SIGHUP; nohup ignores it, so that the training goes on without the terminal
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        names.append("SIGHUP")
    return [getattr(signal, name) for name in names if hasattr(signal, name)]


def weights_digest(path: str | Path) -> str:
    """Return a digest of all parameters and buffers in a model.pt."""
    digest = hashlib.sha256()
    for name, value in load_checkpoint(path, tuple(OPTIONS))["state"].items():
        digest.update(name.encode() + value.contiguous().numpy().tobytes())
    return digest.hexdigest()


def goes_on(config: TrainConfig) -> bool:
    """Check whether the training continues a run in --out. If so, the weights come from that run."""
    return config.resume and bool(_saved(config.out))


class Trainer:
    """A class that trains one model in one run directory.

    The directory holds config.json, environment.json, metrics.jsonl, last.pt and model.pt.

    Args:
        config: resolved options, as `start` leaves them.
        cache: the data; a run is not resumed on other data.
        model: a network that is called as model(images, **batch_inputs(...)) and returns logits (B, K).
        train: training batches.
        validate: a function that maps the averaged model to a dict of validation metrics.
        batch_inputs: a function of (batch size, generator). It returns a dict of extra keyword tensors for one batch,
            on the CPU.
        processes: this process and the number of processes that torchrun started.
        teacher: a network that maps images (B, C, s, s) to logits (B, K). The model learns from these logits too
            (knowledge distillation, arXiv 1503.02531).

    Raises:
        UserError: too many images could not be decoded, so fewer than a batch are left.
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
        # a resumed run keeps the environment of its first start
        self.cache, self.environment = cache, environment(train.device)
        self.images_digest = cache.images_digest
        self.device, self.folder = train.device, Path(config.out)
        self.model = model.to(self.device)
        self.teacher_digest = weights_digest(config.teacher_file) if config.teacher_file else None
        fresh = config.init_from and not goes_on(config)
        self.initial_digest = weights_digest(config.init_from) if fresh else None
        if config.channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)
        if processes.world > 1 and self.device.type == "cuda":
            self.model = nn.SyncBatchNorm.convert_sync_batchnorm(self.model)
        _check_batch_size(config.batch_size, len(train), processes.world)  # some images may be left out
        self.optimizer = make_optimizer(self.model, config)
        self.ema = AveragedModel(self.model, self.device, use_buffers=True)
        if config.teacher == SELF:
            teacher = self.ema.module
        # loss_sum: sum of the losses of this epoch's steps
        self.step, self.seconds, self.loss_sum, self.stopped = 0, 0.0, 0.0, False
        self.last_is_damaged = False
        self.metrics: list[dict] = []  # the lines of metrics.jsonl
        self.board: Board | None = None
        called = nn.parallel.DistributedDataParallel(self.model) if processes.world > 1 else self.model
        # compile in place, and after the average was copied: so no state dict changes its keys
        if config.compile:
            called.compile(dynamic=False)
        self.steps = TrainStep(
            config,
            called,
            self.model,
            self.ema,
            self.optimizer,
            train,
            batch_inputs or (lambda count, random: {}),
            None if teacher is None else teacher.to(self.device).eval(),
            processes,
        )
        self.steps_per_epoch = self.steps.per_epoch

    # ------------------------------------------------------------ state

    def _state(self) -> dict:
        """Return everything that a resumed run needs.

        Batches depend only on (seed, step), so the position in the data is one number, the step.
        """
        return {
            "kind": "training-state",
            "config": dataclasses.asdict(self.config),
            "digest": self.cache.digest,
            "images_digest": self.images_digest,
            "environment": self.environment,
            "teacher_digest": self.teacher_digest,
            "initial_digest": self.initial_digest,
            "world": self.processes.world,
            "step": self.step,
            "seconds": self.seconds,
            "loss_sum": self.loss_sum,
            "metrics": self.metrics,
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "torch_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }

    def _save(self) -> None:
        if self.processes.rank == 0:
            last, older = self.folder / "last.pt", self.folder / OLDER
            if last.exists() and not self.last_is_damaged:  # a damaged file must not replace the older state
                try:  # a link is a second name of the same file, so last.pt is never missing
                    spare = self.folder / f".last.pt.previous{PARTIAL}"
                    spare.unlink(missing_ok=True)  # a rename of one name of a file to another does nothing
                    os.link(last.resolve(), spare)  # last.pt may be a link to another folder
                    os.replace(spare, older)
                except OSError:  # the file system has no links
                    os.replace(last, older)
            save_checkpoint(last, self._state())
            self.last_is_damaged = False

    def _load(self) -> dict | None:
        """Return the saved state of the run, or None if nothing was saved.

        Raises:
            UserError: last.pt is damaged and previous.pt is missing or damaged too; or --resume was not given.
        """
        _check_folder(self.folder, self.config.resume)
        saved = _saved(self.folder)
        for path in saved:
            try:
                state = load_checkpoint(path, "training-state")
                check_options(state["config"], type(self.config), path)
                return state
            except UserError as error:
                if path == saved[-1]:
                    raise
                self.last_is_damaged = True
                if self.processes.rank == 0:
                    note(f"{error} The run goes on from the older state, {saved[-1]}.")
        return None

    def open_run(self) -> None:
        """Make the run directory, or load the state of the run in it.

        Raises:
            UserError: the directory holds a run and --resume was not given; or the run had other options, other
                data, another network or another number of processes.
        """
        if self.processes.rank == 0:
            for unfinished in self.folder.glob(f".*{PARTIAL}"):  # a killed run left these files
                unfinished.unlink()
        if state := self._load():
            if mismatch := self._mismatch(state):
                raise UserError(f"cannot resume {self.folder}: {mismatch}")
            self._tell_changes(state["environment"])
            self.environment = state["environment"]
            # older versions did not save the digests of the pictures and of the initial weights
            self.images_digest = state.get("images_digest", LISTS_ONLY)
            self.initial_digest = state.get("initial_digest")
            try:
                self.metrics = state["metrics"]
                self.model.load_state_dict(state["model"])
                self.ema.load_state_dict(state["ema"])
                self.optimizer.load_state_dict(state["optimizer"])
                torch.set_rng_state(state["torch_rng"])
                # dropout draws from this generator
                if self.device.type == "cuda" and state.get("cuda_rng") is not None:
                    torch.cuda.set_rng_state(state["cuda_rng"], self.device)
            except (KeyError, ValueError, RuntimeError, TypeError) as error:
                raise UserError(
                    f"cannot resume {self.folder}: last.pt holds another network "
                    f"({brief(error)}); choose another --out or delete last.pt"
                ) from error
            self.step, self.seconds, self.loss_sum = state["step"], state["seconds"], state["loss_sum"]
            if self.processes.rank == 0:
                # a killed run may have written the line of an epoch whose weights it did not save
                text = "".join(json.dumps(line) + "\n" for line in self.metrics)
                write_text(self.folder / "metrics.jsonl", text)
        elif self.processes.rank == 0:
            write_json(self.folder / "config.json", dataclasses.asdict(self.config))
            write_json(self.folder / "environment.json", self.environment)
            (self.folder / "metrics.jsonl").unlink(missing_ok=True)

    def _tell_changes(self, then: dict) -> None:
        """Print a line if the run goes on with other code, threads or hardware: its record names only the first."""
        now = self.environment
        changed = [key for key in ("commit", "torch", "hardware", "threads") if then.get(key) != now[key]]
        if changed and self.processes.rank == 0:
            before, after = (", ".join(f"{key} {facts.get(key)}" for key in changed) for facts in (then, now))
            note(
                f"warning: {self.folder} was started with {before}, and goes on with {after}: its record will name "
                f"only the first"
            )

    def _mismatch(self, state: dict) -> str:
        """Return why the run cannot go on from `state`, and what to do; "" if it can."""
        if mismatch := difference(self.cache, state, str(self.folder / "last.pt")):
            return f"it was started on other data: {mismatch}; give that data set with --data, or choose another --out"
        if state["world"] != self.processes.world:
            return (
                f"it was started with {state['world']} processes, now there are {self.processes.world}; use the same "
                f"number of processes: each draws its own images"
            )
        if state.get("teacher_digest", self.teacher_digest) != self.teacher_digest:  # older versions lack it
            return (
                f"--teacher {self.config.teacher} has other weights than the teacher that it was started with; give "
                f"that teacher, or choose another --out"
            )
        ours, theirs, first = dataclasses.asdict(self.config), state["config"], state.get("initial_digest")
        moved = first and self.config.init_from not in (None, theirs["init_from"])
        if moved and weights_digest(self.config.init_from) == first:
            theirs = {**theirs, "init_from": self.config.init_from}  # the same weights at another path
        differ = differing(ours, theirs, type(self.config))
        if differ:
            now, then = (
                " ".join(as_arguments({key: pair[i] for key, pair in differ.items()})) for i in (0, 1)
            )
            return (
                f"it was started with {then}, not with {now}; give its options again, or choose another --out. "
                f"With --init-from, another run goes on from the weights of a model.pt"
            )
        return ""

    # ------------------------------------------------------------ loop

    def fit(self) -> nn.Module:
        """Train to the end and return the averaged model.

        After Ctrl-C, SIGTERM or a closed terminal, save and exit with status 130.

        Raises:
            UserError: see `open_run`; or the loss or a weight is not finite. Then last.pt is unchanged.
            BusyError: another process uses the run directory.
        """
        first = self.processes.rank == 0
        with ExitStack() as stack:  # at the end, the stack calls all callbacks in reverse order
            if first:
                lock = hold(self.folder)
                stack.callback(lock.release)
            self.open_run()
            if self.config.tensorboard and first:
                self.board = Board(self.folder / "tensorboard")
                stack.callback(self.board.close)
            for number in _stop_signals():
                # only the main thread may set handlers; in another thread, the caller must stop the training
                with suppress(ValueError):
                    handler = signal.signal(number, lambda *_: setattr(self, "stopped", True))
                    stack.callback(signal.signal, number, handler)
            if first:
                note(self.describe())
            bar = stack.enter_context(
                progress_bar(
                    total=self.steps.total,
                    initial=self.step,
                    unit="step",
                    desc=self.folder.name,
                    disable=not first,
                )
            )
            self._train(bar)
        return self.ema.module

    def _train(self, bar: tqdm) -> None:
        """Run the steps that are left."""
        total = self.steps.total
        began, checked, saved = time.perf_counter(), self.step, time.monotonic()
        while self.step < total:
            self.steps.run(self.step)
            self.step += 1
            bar.update()
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
                        bar.write(f"warning: {error} The training goes on and tries again.", file=sys.stderr)
                    saved = time.monotonic()
                began = time.perf_counter()
            if stop:
                bar.close()
                note(
                    f"stopped after step {self.step} of {total}; everything is saved in {self.folder}. "
                    "To go on, run the same command with --resume."
                )
                sys.exit(130)

    def describe(self) -> str:
        """Return one line of text: what is trained, where and how long."""
        config, count = self.config, sum(p.numel() for p in self.model.parameters())
        cpu = self.device.type == "cpu"
        where = f"cpu, {counted(config.threads, 'thread')}" if cpu else str(self.device)
        done = f", of which {self.step} steps are done" if self.step else ""
        return (
            f"{config.name}: {config.arch} of width {config.width:g}, {count / 1e6:.2f} million parameters; "
            f"{self.cache.num_classes} classes, {config.image_size} px"
            f"{f' (training: {config.train_sizes} px)' if config.train_sizes else ''}; "
            f"{counted(config.epochs, 'epoch')} of {self.steps_per_epoch} steps{done}; "
            f"preset {config.preset}; {where}; in {self.folder}"
        )

    def fit_and_save(self, kind: str, dataset: dict, evaluation: str) -> None:
        """Call `fit`, write the averaged model of the last step to model.pt and stop the processes.

        This is always the last epoch, not the epoch that is best on validation.

        Args:
            kind: kind of the checkpoint, see `storage.checkpoint.load_checkpoint`.
            dataset: facts about the data that an evaluation needs besides name, digests and class names.
            evaluation: name of the script to run next.
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
            words = [os.path.relpath(ROOT / evaluation), str(path)]
            for option, value in (("--data", self.config.data), ("--cache", self.config.cache)):
                if value and value != "auto":
                    words += [option, value]
            print(f"wrote {path}\nnext: python {shlex.join(words)}")
        self.processes.stop()

    def _check(self, since: int) -> float:
        """Return the mean loss of the steps from `since` on and add it to the epoch's loss.

        This is the only place where the loop waits for a GPU.

        Raises:
            UserError: the mean is not finite; or, at the end of an epoch, a weight is not finite.
        """
        count, first = self.step - since, since % self.steps_per_epoch
        # double precision, so the sum does not depend on how often this function is called
        total = self.steps.losses[first : first + count].double().sum().item()
        self.loss_sum, loss = self.loss_sum + total, total / count
        finite = self.step % self.steps_per_epoch or (
            torch.stack(torch._foreach_norm([*self.model.parameters()], torch.inf)).isfinite().all()
        )
        if not math.isfinite(loss) or not finite:
            fault = "weights are not finite" if math.isfinite(loss) else f"the loss became {loss}"
            epoch = (self.step - 1) // self.steps_per_epoch + 1
            raise UserError(
                f"{fault} in epoch {epoch}, before step {self.step}; try a lower --lr or --no-amp"
            )
        return loss

    def _end_epoch(self, bar: tqdm) -> None:
        """Validate if this is due, and write the epoch's line of metrics."""
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
        self.metrics.append(json.loads(json.dumps(record)))  # the numbers exactly as in the file
        if self.processes.rank == 0:
            try:
                append_jsonl(self.folder / "metrics.jsonl", record)
                if self.board:
                    rate = float(self.optimizer.param_groups[0]["lr"])
                    self.board.add(epoch, {**record, "learning_rate": rate}, self.ema.module)
            except OSError as error:  # last.pt holds the line as well
                text = f"warning: cannot write the metrics of epoch {epoch} to {self.folder}: {error}"
                bar.write(text, file=sys.stderr)

    def _stop_asked(self) -> bool:
        """Check whether any process was asked to stop.

        Several processes exchange this every 20 steps, so that all stop at the same step.
        """
        if self.processes.world == 1:
            return self.stopped
        if self.step % 20:
            return False
        flag = torch.tensor(float(self.stopped), device=self.device)
        dist.all_reduce(flag)
        return flag.item() > 0
