"""Provide fixtures that several test files share."""

import contextlib
import functools
import gc
import logging
import multiprocessing
import os
import runpy
import shutil
import signal
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch
from helpers import command_line, exits, write_set
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pytest import fixture

import eval_channels
import eval_shallow
import experiments
import train_task1
from config import changed_options, digest, identity, resolve_run
from data.cache import open_cache
from data.lists import read_lists
from engine.records import SINGLE, SUBSETS, RunFiles, load_records, run_name, save_record, write_predictions
from engine.step import TrainStep
from metrics.accuracy import classification_metrics
from report import build
from report.figures import Chart
from storage.files import atomic_path, write_json
from utils import ROOT

torch.set_num_threads(1)  # the tests' tensors are tiny: threads would only wait for each other
os.environ["GIT_COMMIT"] = "0" * 40  # to ask git takes a tenth of a second for each record
# If PyTorch compiles before its first backward pass, forks of this process cannot train
torch.zeros(1, requires_grad=True).sum().backward()
gc.freeze()  # the modules stay until the end: a collection need not visit their million objects each time


@fixture
def tiny_dataset(tmp_path) -> Path:
    """Write a data set in the course's layout: 3 classes of 10 x 8 px pictures (4 train, 2 val, 2 test).

    One picture is greyscale.
    """
    rng = np.random.default_rng(0)

    def save(path, label, number):
        image = Image.fromarray(rng.integers(0, 256, (8, 10, 3), np.uint8))
        (image.convert("L") if label == number == 0 else image).save(path, "JPEG", quality=95)

    write_set(tmp_path / "tiny", "images/n0000000{label}/n0000000{label}_{number}.JPEG", save)
    return tmp_path / "tiny"


@fixture
def zipped():
    """Return a function that zips a folder's content into a file."""

    def make(folder: Path, file: Path) -> Path:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(folder.rglob("*")):
                archive.write(path, path.relative_to(folder).as_posix())
        return file

    return make


@fixture(scope="session")
def once(tmp_path_factory):
    """once(name, folder, make) lets make() fill the folder at the first call of a session; later it is copied."""
    stored = tmp_path_factory.mktemp("once")

    def put(name: str, folder: Path, make) -> None:
        if (stored / name).exists():
            shutil.copytree(stored / name, folder)
        else:
            make()
            shutil.copytree(folder, stored / name)

    return put


@fixture
def small_demo(monkeypatch):
    """Let the demo set have few images: to draw all of them takes seconds."""
    monkeypatch.setattr("data.demo.COUNTS", {"train": 6, "val": 2, "test": 2})


@fixture(autouse=True)
def seeded():
    """Let every test draw the same random numbers in every order of the tests."""
    torch.manual_seed(0)


@fixture(autouse=True)
def no_waiting(monkeypatch):
    """Let no script wait for the disk after each file, nor 0.3 s to see how many cores are idle."""
    monkeypatch.setattr("os.fsync", lambda handle: None)
    monkeypatch.setattr("utils.free_cores", lambda: 1)


@fixture
def drawn():
    """Let the figures of a test be drawn."""


@fixture(autouse=True)
def undrawn(request, monkeypatch):
    """Save one pixel with the digest in place of a figure: to draw figures would take most of the time."""

    def write(chart, path):
        texts = PngInfo()
        texts.add_text("Rows", chart.digest)
        with atomic_path(path) as temporary:
            Image.new("L", (1, 1)).save(temporary, "PNG", pnginfo=texts)

    if "drawn" not in request.fixturenames:
        monkeypatch.setattr(Chart, "write", write)


@fixture
def fields():
    """Let the receptive fields of a test's networks be measured."""


@fixture(autouse=True)
def unmeasured(request, monkeypatch):
    """Give all networks one receptive field: to measure it can take longer than the rest of an evaluation."""
    if "fields" not in request.fixturenames:
        field = {"size_px": 5, "input_px": 16, "profile": [0.2, 0.6, *[1.0] * 6]}
        monkeypatch.setattr(eval_shallow, "field", lambda *_: field)


@fixture
def stdout(capsys):
    """stdout() returns what was printed since the last call of stdout() or stderr()."""
    return lambda: capsys.readouterr().out


@fixture
def stderr(capsys):
    """stderr() returns the messages since the last call of stdout() or stderr()."""
    return lambda: capsys.readouterr().err


@fixture(scope="session")
def published():
    """published(task) returns the records of results/, read once a session."""
    return functools.cache(lambda task: load_records(ROOT / "results", task))


@fixture
def forked():
    """forked(function) calls a function in a copy of this process, which has all modules; returns its answer."""

    def call(function, timeout: int = 600):
        fork = multiprocessing.get_context("fork")
        mine, theirs = fork.Pipe()
        process = fork.Process(target=lambda: theirs.send(function()))
        process.start()
        theirs.close()
        try:
            assert mine.poll(timeout), "the process does not end"
            return mine.recv()
        finally:
            process.kill()
            process.join()

    return call


class Fork(multiprocessing.get_context("fork").Process):
    """The part of subprocess.Popen that the queue uses: a script in a copy of this process.

    It has every module already, and a script needs seconds to import PyTorch.
    """

    def __init__(self, command, stdin, stdout, stderr, env):
        reading = None
        if stdin == subprocess.PIPE:
            reading, writing = os.pipe()
            self.stdin = os.fdopen(writing, "wb", buffering=0)
        super().__init__(target=self.run_script, args=(command[1:], stdout.fileno(), env, reading))
        self.start()
        if reading is not None:
            os.close(reading)

    def run_script(self, words, log, env, reading):
        if reading is not None:
            os.dup2(reading, 0)
            self.stdin.close()  # the queue alone holds it open
        for number in (1, 2):
            os.dup2(log, number)
        sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))
        os.environ.update(env)
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")

    def poll(self):
        return self.exitcode

    def wait(self):
        self.join()

    @property
    def returncode(self):
        return self.exitcode


@fixture
def forks(monkeypatch):
    """Start the queue's jobs as `Fork`."""
    monkeypatch.setattr(experiments, "subprocess", SimpleNamespace(Popen=Fork, PIPE=subprocess.PIPE))


@fixture
def example(monkeypatch, tmp_path, capsys):
    """example(name) runs a file of examples/ in an empty folder, like `python examples/name`; returns its output.

    It runs in this process, because the import of PyTorch takes longer than most examples. The file finds channelset
    only if it adds the repository to the path itself.
    """

    def run(name: str) -> str:
        for module in list(sys.modules):
            if module.split(".")[0] in ("channelset", "checkout", "thirteen_bands"):
                monkeypatch.delitem(sys.modules, module)
        elsewhere = [path for path in sys.path if Path(path).resolve() != ROOT]
        monkeypatch.setattr(sys, "path", [str(ROOT / "examples"), *elsewhere])
        monkeypatch.setattr(sys, "argv", [name])
        monkeypatch.chdir(tmp_path)
        with warnings.catch_warnings():
            runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
        return capsys.readouterr().out

    disabled = logging.root.manager.disable
    yield run
    logging.disable(disabled)


# ---------------------------------------------------------------- trainings


@fixture
def tiny() -> list[str]:
    """Return the options of a training of three epochs of three steps on `tiny_dataset`."""
    network, training = (
        "--arch resnet10 --width 0.1 --image-size 8",
        "--batch-size 4 --epochs 3 --eval-every 2",
    )
    return f"{network} {training} --augment light --device cpu --lr 0.01".split()


@fixture
def command(tiny_dataset, tmp_path, monkeypatch):
    """command(module, *options) runs a script's main() on the tiny data, in an empty folder with its own
    cache. What begins with -- may hold several words: "--epochs 1 --out run".
    """
    monkeypatch.chdir(tmp_path)

    def run(module, *options):
        data = ["--data", str(tiny_dataset), "--cache", "cache"]
        monkeypatch.setattr(sys, "argv", [module.__name__ + ".py", *data, *command_line(*options)])
        module.main()

    return run


@fixture
def cached(tmp_path):
    """cached(source, folder="cache", size=8) opens the pixel cache of a data set."""

    def make(source, folder="cache", size=8, **options):
        return open_cache(read_lists(source), size, tmp_path / folder, progress=False, **options)

    return make


@fixture
def evaluate(command):
    """evaluate(checkpoint, *options) writes the results of a network of Task 1 into the folder "results"."""
    return functools.partial(command, eval_channels, "--results", "results")


@fixture
def train(command, tiny):
    """train(*options) trains the network of `tiny`."""
    return functools.partial(command, train_task1, *tiny)


@fixture(scope="session")
def finished_runs(tmp_path_factory) -> Path:
    """Make a folder for the runs of `ready`."""
    return tmp_path_factory.mktemp("runs")


@fixture
def ready(command, finished_runs):
    """ready(module, *options, out="run") puts the run that a script makes of these options into `out`; returns its
    model.pt. Runs of the same options are trained once a session, then copied.
    """

    def put(module, *options, out="run") -> Path:
        stored = finished_runs / digest(module.__name__, *map(str, options))
        if not stored.exists():
            command(module, *options, "--out", out)
            shutil.copytree(out, stored)
            shutil.copytree("cache", finished_runs / "cache", dirs_exist_ok=True)
        else:
            shutil.copytree(stored, out)
            shutil.copytree(finished_runs / "cache", "cache", dirs_exist_ok=True)
        return Path(out, "model.pt")

    return put


@fixture
def trained(ready, tiny) -> Path:
    """Return the model.pt of a finished run, which the tests of a module share."""
    return ready(train_task1, *tiny)


@fixture
def interrupted(monkeypatch):
    """`with interrupted(call):` a signal stops the training of the block within its `call`-th step."""

    @contextlib.contextmanager
    def block(call: int, number=signal.SIGINT, stops=True):
        run, calls = TrainStep._step, []

        def step_and_interrupt(*args):
            calls.append(1)
            if len(calls) == call:
                signal.raise_signal(number)
            return run(*args)

        with monkeypatch.context() as patch, exits(130) if stops else contextlib.nullcontext():
            patch.setattr(TrainStep, "_step", step_and_interrupt)
            yield

    return block


@fixture
def read_rows():
    """read_rows(path) reads a table of results into a dict for each row; empty cells become None."""

    def read(path) -> list[dict]:
        table = pd.read_csv(path).astype(object)
        return table.where(table.notna(), None).to_dict("records")

    return read


# ---------------------------------------------------------------- made-up results

LABELS = np.repeat(np.arange(4), 25)  # of 100 test images in four classes
DIAGRAMS = ("paper_layer.png", "paper_module.png")  # they need no results


@fixture
def publish(tmp_path):
    """publish(task, run, accuracy) writes records and predictions of a model below results/.

    The model is right on the first `accuracy` + seed * `spread` of 100 images, shifted by 3 for each seed. On all other
    images it answers the next class. `val` is its top-1 on validation. `more` holds further keys of the record. `write`
    writes the record; `write_record` also writes the table. Other keywords are columns of its rows.
    """

    def publish_one(
        task,
        run,
        accuracy,
        seeds=(0, 1),
        spread=0,
        subsets=SUBSETS,
        val=None,
        preset="48px-quarter",
        dataset="toy",
        more=None,
        write=save_record,
        **columns,
    ):
        for seed in seeds:
            record = make_record(task, run, preset, dataset, seed, more or {})
            right = np.roll(np.arange(100) < accuracy + seed * spread, 3 * seed)
            predicted = np.where(right, LABELS, (LABELS + 1) % 4)
            names = subsets if task == "task1" else (SINGLE,)
            test = classification_metrics(LABELS, predicted, 4)
            metrics = {"val": test if val is None else {**test, "top1_pct": val}, "test": test}
            for split in ("val", "test"):
                record["splits"][split] = [
                    {
                        **metrics[split],
                        **costs(task, name),
                        **({"subset": name} if task == "task1" else {}),
                        **columns,
                    }
                    for name in names
                ]
            files = RunFiles(tmp_path / "results", task, run_name(record))
            write_predictions(
                files.predictions,
                [f"images/n{c}/{i}.JPEG" for i, c in enumerate(LABELS)],
                LABELS,
                dict.fromkeys(names, predicted),
            )
            write(files, record)
        return files

    return publish_one


def costs(task: str, name: str) -> dict:
    if task == "task1":
        return {"params": 1_000_000, "macs": 10_000_000 * len(name), "latency_ms": 1.0 * len(name)}
    return {
        "strict_depth": 6,
        "train_depth": 11,
        "params": 1_000_000,
        "macs": 10_000_000,
        "latency_ms_b1": 2.0,
        "latency_ms_b256": 200.0,
        "peak_mem_mb": 12.5,
        "train_s": 90.0,
    }


def make_record(task: str, run, preset: str, dataset: str, seed: int, more: dict) -> dict:
    config = resolve_run(task, run, preset, seed=seed)
    machine = {"commit": "0" * 40, "hardware": "made up", "threads": 1}
    return {
        "task": task,
        "preset": preset,
        "dataset": dataset,
        "image_size": config.image_size,
        "section": run.section,
        "model": run.model,
        "label": run.label,
        "seed": seed,
        "test": run.test,
        "options": changed_options(config),
        "digest": digest(identity(config), sorted(run.test.items())),
        "config": vars(config),
        "trained_with": machine,
        "evaluated_with": machine,
        "train_s": 60.0,
        "weighted_operations": 30,
        "history": [{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.5, "val_top1_pct": 40.0}],
        "splits": {},
        **more,
    }


@fixture
def rewrite():
    """rewrite(path, record) writes a record as older versions did, without checksums."""
    return lambda path, record: write_json(
        path, {key: value for key, value in record.items() if key != "checksums"}
    )


@fixture
def cells():
    """cells(table, model) returns a dict from column to cell, for the first row of a Markdown table that begins with
    the model.
    """

    def read(table: str, model: str) -> dict[str, str]:
        lines = [
            [cell.strip() for cell in line.strip("|").split("|")]
            for line in table.splitlines()
            if line[:1] == "|"
        ]
        return dict(zip(lines[0], next(line for line in lines if line[0] == model)))

    return read


@fixture(scope="session")
def all_blocks(tmp_path_factory) -> list[str]:
    """List the blocks of a repository without results."""
    return list(build.collect(tmp_path_factory.mktemp("empty")).blocks)


@fixture
def documents(tmp_path, all_blocks):
    """documents(task, appendix, shown) writes the texts of the documents: README.md with the block `shown`, the
    appendix with the blocks of `appendix` and with all figures of the task.
    """

    def write(task: str, appendix: set[str], shown: str):
        blocks = [name for name in all_blocks if name in appendix or name.startswith(f"{task}-figure-")]
        texts = tmp_path / "report/text"
        texts.mkdir(parents=True)
        (texts / "README.md").write_text(f"Prose.\n{{{{ table {shown} }}}}\nMore prose.\n")
        (texts / "report.md").write_text("Nothing.\n")
        (texts / "appendix.md").write_text("\n".join(f"{{{{ table {name} }}}}\n" for name in blocks))
        return tmp_path

    return write


@fixture
def check_figures():
    """check_figures(root, names, drawn) checks that there are these figures, and the two diagrams of the README.

    The figures in `drawn` are drawn twice: the same data give the same bytes.
    """

    def check(root, names, drawn):
        charts = build.collect(root).charts
        assert charts.keys() == {*DIAGRAMS, *names}
        for name in drawn:
            first, second = (root / f"{copy}-{name}" for copy in (1, 2))
            charts[name].write(first), charts[name].write(second)
            assert first.read_bytes() == second.read_bytes() and charts[name].is_current(first), name

    return check


@fixture
def check_without_results():
    """check_without_results(root, command) checks that each block names the command that makes results."""

    def check(root, command):
        build.main([], root)
        blocks = (root / "report/text/appendix.md").read_text().count("{{ table")
        text = f"No results yet: run `python {command}`"
        assert (root / "report/appendix.md").read_text().count(text) == blocks
        build.main(["--check"], root)

    return check
