"""Nothing is assumed of the host: its streams, threads, file systems, devices, and the folder one stands in."""

import errno
import importlib
import inspect
import io
import os
import re
import runpy
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from helpers import command_line, exits, read_jsonl, user_error
from PIL import Image
from pytest import mark, raises

import eval_channels
import experiments
import predict
import train_task1
import train_task2
import utils
from config import Task1Config, choose_device
from data import dataset as dataset_module
from data.dataset import find_dataset
from data.folders import write_lists
from data.lists import read_lists
from engine import trainer
from storage.files import check_writable, write_text
from storage.locks import hold, one_at_a_time
from utils import ROOT, BusyError, UserError, cli, progress_bar, remedy

PARTS = ("data", "engine", "metrics", "models", "report", "storage", "tools")


# ---------------------------------------------------------------- streams, interfaces


@mark.parametrize("stream", [io.StringIO(), object(), None])
def test_a_stream_that_is_no_text_file_is_no_reason_to_stop(stream, monkeypatch):
    monkeypatch.setattr(sys, "stdout", stream)
    done = []
    cli(lambda: done.append(1))
    assert done == [1]


def test_a_reader_that_has_gone_where_the_output_has_no_file(monkeypatch):
    def gone():
        raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", io.StringIO())
    with exits(1):
        cli(gone)


def mains() -> list[str]:
    """Return the names of the modules that are scripts or tools."""
    files = [*ROOT.glob("*.py"), *(file for part in PARTS for file in (ROOT / part).rglob("*.py"))]
    return [
        ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for file in files
        if "\ndef main(" in file.read_text(encoding="utf-8")
    ]


def test_every_script_and_tool_takes_a_list_of_words():
    assert len(mains()) > 10
    for name in mains():
        first = next(iter(inspect.signature(importlib.import_module(name).main).parameters.values()))
        assert (first.name, first.default) == ("argv", None), name
    for script in (train_task1, train_task2):
        with raises(SystemExit):
            script.main(["--no-such-option"])


def test_help_names_no_folder_of_this_machine(monkeypatch, stdout):
    """A default in the repository is shown in a way that is true wherever the user stands."""
    monkeypatch.setenv("COLUMNS", "1000")  # no path is broken at the end of a line
    names = ("download", "build", "check", "demo", "lists", "folds", "derive", "cache")
    calls = [(name, ["--help"]) for name in mains()] + [("data.prepare", [name, "--help"]) for name in names]
    shown = {}
    for name, words in calls:
        with exits(0):
            importlib.import_module(name).main(words)
        shown[name, words[0]] = stdout()
        assert shown[name, words[0]].startswith("usage: ")
        assert str(ROOT) not in shown[name, words[0]] and str(Path.home()) not in shown[name, words[0]], name
    assert "(default: data/cache in the repository)" in shown["data.prepare", "cache"]
    assert "(default: data/cache in the repository)" in shown["train_task1", "--help"]
    assert "(default: results in the repository)" in shown["tools.weights", "--help"]


def test_a_training_in_a_notebook_whose_folder_has_modules_of_the_same_names(
    tiny_dataset, tmp_path, tiny, forked
):
    """A notebook has streams that are no text files. This one imports the project anew, but not PyTorch."""
    own = tmp_path / "own"
    (own / "data").mkdir(parents=True)
    for name in ("data/__init__.py", "data/decode.py", "utils.py", "config.py", "numpy.py"):
        (own / name).write_text("raise RuntimeError('a module of the user')\n")
    words = [*tiny, "--epochs", "1", "--data", str(tiny_dataset), "--cache", "cache", "--threads", "1"]
    project = {*PARTS, "channelset", "grids", *(file.stem for file in ROOT.glob("*.py"))}

    def cell() -> tuple[str, str]:
        for module in [name for name in sys.modules if name.split(".")[0] in project]:
            del sys.modules[module]
        os.chdir(own)
        sys.path[:] = [str(ROOT), *(path for path in sys.path if Path(path).resolve() not in (ROOT, own))]
        sys.stdout, sys.stderr = io.StringIO(), io.StringIO()
        sys.argv = ["train_task1.py", *words, "--out", "run"]
        runpy.run_path(str(ROOT / "train_task1.py"), run_name="__main__")
        importlib.import_module("train_task2").main([*words, "--out", "two"])
        return sys.stdout.getvalue(), sys.stderr.getvalue()

    out, errors = forked(cell)
    assert "wrote run/model.pt" in out and "wrote two/model.pt" in out and "million parameters" in errors


def test_figures_are_drawn_whatever_backend_a_notebook_asks_for(forked):
    """A notebook's `!python eval_channels.py` inherits MPLBACKEND, which this Python may not have."""
    for file in (*ROOT.glob("*.py"), *ROOT.glob("[!rt]*/*.py"), *ROOT.glob("tools/*.py")):  # all but report/
        assert not re.search(r"^ *(from|import) matplotlib", file.read_text(encoding="utf-8"), re.M), file

    def imported() -> list[str]:
        """Import matplotlib anew, as a new process does."""
        for name in list(sys.modules):
            if name.split(".")[0] in ("matplotlib", "mpl_toolkits", "report"):
                del sys.modules[name]
        os.environ["MPLBACKEND"] = backend
        importlib.import_module("report")
        importlib.import_module("matplotlib.figure")
        return [os.environ["MPLBACKEND"], str(sys.modules["matplotlib"].get_backend(auto_select=False))]

    shown = {}
    for backend in ("module://no_such_package.backend", "nonsense", "svg"):
        shown[backend] = forked(imported)
    assert shown["svg"] == ["svg", "svg"]  # the notebook's backend stays, where it is there
    assert shown["nonsense"] == ["nonsense", "None"]


# ---------------------------------------------------------------- threads, locks


def failures_in_a_thread(work):
    failed = []

    def run():
        try:
            work()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return failed


def test_a_training_in_a_thread(train):
    assert not failures_in_a_thread(lambda: train("--epochs 1 --out run")) and Path("run/model.pt").exists()


@mark.parametrize("place", ["_stop_signals", "progress_bar"])
def test_an_error_at_the_start_gives_the_folder_back(train, monkeypatch, place):
    def broken(*_, **__):
        raise ArithmeticError("not this time")

    with monkeypatch.context() as patch:
        patch.setattr(trainer, place, broken)
        with raises(ArithmeticError) as kept:  # its traceback holds the trainer, as a notebook does
            train("--epochs 1 --out run")
    train("--epochs 1 --out run")
    with user_error("already holds a run") as refused:
        train("--epochs 1 --out run")
    train("--epochs 1 --out run --resume")
    assert kept and refused


def test_a_holder_that_cannot_be_written_gives_the_folder_back(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(
            Path, "write_text", lambda *_, **__: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full"))
        )
        with user_error("free some disk space") as kept:
            hold(tmp_path / "run")
    hold(tmp_path / "run").release()
    assert kept


@mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_said_and_used(train, tmp_path, monkeypatch, stderr, number):
    import fcntl

    def none(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", none)
    hold(tmp_path / "run").release()
    with one_at_a_time(tmp_path / "results"):
        pass
    shown = stderr()
    assert (
        shown.count("has no locks: make sure that only one process works there\n") == 2
        and "disk" not in shown
    )
    if number == errno.ENOLCK:
        train("--epochs 1 --out run")
        assert Path("run/model.pt").exists()


def test_a_note_of_the_holder_that_cannot_be_read(tmp_path, monkeypatch):
    lock = hold(tmp_path / "run")
    (tmp_path / "run/.holder").write_bytes(b"process 7 on \xff\x1b[2J")
    with raises(BusyError, match=r"in use by process 7 on \ufffd\\x1b\[2J: wait"):
        hold(tmp_path / "run")

    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuse)  # of another user
    with raises(BusyError, match="in use by another process: wait"):
        hold(tmp_path / "run")
    assert utils.environment(torch.device("cpu"))["hardware"]  # /proc/cpuinfo cannot be read either
    lock.release()


@mark.parametrize("text, cores", [("150000 100000", 1.5), ("max 100000", float("inf")), (None, float("inf"))])
def test_the_limit_of_a_container(tmp_path, text, cores):
    if text:
        (tmp_path / "cpu.max").write_text(text)
    assert utils._container_cores(tmp_path / "cpu.max") == cores


def test_a_home_folder_of_nobody():
    for call in (find_dataset, read_lists, write_lists):
        with user_error("~nobody-here"):
            call("~nobody-here/data")


def test_a_queue_in_a_thread(tiny_dataset, monkeypatch):
    monkeypatch.setattr(experiments, "run_jobs", lambda jobs, *_: ([], []))
    words = command_line("task1", "--only sliced --no-eval --data", tiny_dataset)
    assert not failures_in_a_thread(lambda: experiments.main(words))


# ---------------------------------------------------------------- devices, builds


def test_a_gpu_that_is_not_there_is_named_before_anything_is_decoded(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("cuda:1") == "cuda:1" and choose_device("auto") == "cuda:0"
    with user_error("--device cuda:2: expected auto or a device of this machine: cpu, cuda:0, cuda:1"):
        Task1Config(device="cuda:2").resolve()
    monkeypatch.setenv("LOCAL_RANK", "3")
    with user_error("--device cuda:3: expected"):
        choose_device("auto")


@mark.parametrize(
    "words, message",
    [
        ("--out run", "run already holds a run: add --resume"),
        ("--out busy", "busy is in use by process"),
        ("--out file/run", "cannot write to file/run.*check that path"),
        ("--init-from no.pt", "no checkpoint at no.pt"),
        ("--teacher no.pt", "no checkpoint at no.pt"),
        ("--teacher file", "file is not a readable checkpoint"),
        ("--init-from file", "file is not a readable checkpoint"),
        ("--batch-size 13", "--batch-size 13 is larger than the 12 training images: use 12 or less"),
        ("--fraction 0.1", "--batch-size 4 is larger than the 3 training images"),
        ("--distill-ramp 1", "--distill-ramp has no effect without a --teacher"),
    ],
)
def test_what_can_be_known_is_said_before_the_images_are_decoded(command, tiny, monkeypatch, words, message):
    def decode(*_, **__):
        raise AssertionError("decoded first")

    Path("run").mkdir()
    Path("run/last.pt").write_bytes(b"")
    Path("file").touch()
    lock = hold(Path("busy"))
    monkeypatch.setattr(dataset_module, "open_cache", decode)
    for script in (train_task1, train_task2):
        with user_error(message):
            command(script, *tiny, words)
    lock.release()


@mark.parametrize(
    "words, message",
    [
        ("--set-shares Q:0.5", "'Q': no channel 'Q'"),
        ("--set-shares RG:2", "--set-shares 'RG:2': each share"),
        ("--kernel wavelength --channels RG", "--kernel wavelength: the wavelengths of R, G are not known"),
    ],
)
def test_what_the_channels_tell_is_said_before_the_images_are_decoded(train, monkeypatch, words, message):
    monkeypatch.setattr(train_task1, "start", lambda *_: pytest.fail("decoded first"))
    with user_error(message):
        train(words)


def test_three_bands_have_no_wavelengths_of_red_green_and_blue(train, tiny_dataset, monkeypatch):
    monkeypatch.setattr(train_task1, "start", lambda *_: pytest.fail("decoded first"))
    (tiny_dataset / "bands.txt").write_text("VV\nVH\nDEM\n")
    with user_error("wavelengths of VV, VH, DEM are not known: write them into bands.txt"):
        train("--kernel wavelength")


def test_a_place_that_cannot_be_written_is_named_before_the_work(trained, command, tmp_path, monkeypatch):
    def work(*_, **__):
        raise AssertionError("worked first")

    Path("file").touch()
    monkeypatch.setattr("engine.evaluation.open_data", work)
    with user_error("cannot write to file/results"):
        command(eval_channels, trained, "--results file/results")
    monkeypatch.setattr(predict, "Predictor", work)
    Image.new("RGB", (8, 8)).save("a.png")
    for option in ("--csv", "--picture"):
        with user_error("cannot write to file"):
            predict.main([str(trained), "a.png", "--device", "cpu", option, "file/answers"])
    check_writable(tmp_path / "new/folder")
    assert not (tmp_path / "new").exists()


def test_a_compiler_that_is_not_there_is_named_before_anything_is_decoded(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with user_error("--compile: there is no C.. compiler 'no-such-compiler' here; install it"):
        Task1Config(device="cpu", compile=True).resolve()
    monkeypatch.setenv("CXX", sys.executable)  # any program that is there
    Task1Config(device="cpu", compile=True).resolve()
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", "")
    with user_error("--compile"):
        Task1Config(device="cpu", compile=True).resolve()


def test_a_gpu_takes_the_preset_that_results_stand_behind(monkeypatch):
    assert Task1Config(device="cpu").resolve().preset == "64px-half"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    config = Task1Config().resolve()
    assert (config.preset, config.image_size, config.amp) == ("64px-full", 64, True)


def test_an_apple_gpu_trains_in_float32(monkeypatch):
    with user_error("--device mps: expected"):
        choose_device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    config = Task1Config(device="mps").resolve()
    assert (config.device, config.preset, config.amp) == ("mps", "64px-full", False)
    with user_error("--device tpu: expected auto or a device of this machine"):
        choose_device("tpu")


def test_a_pytorch_without_its_distributed_part(tiny_dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(dist, "is_available", lambda: False)
    monkeypatch.delattr(dist, "is_initialized")
    assert dataset_module.open_data(str(tiny_dataset), 8, str(tmp_path / "cache")).num_classes == 3


# ---------------------------------------------------------------- memory, disks


@mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        MemoryError(),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: not enough memory"),
        RuntimeError("MPS backend out of memory"),
        RuntimeError("std::bad_alloc"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
)
def test_every_form_of_short_memory_is_one_line(error, stderr):
    def main():
        predict.make_parser().parse_args(["model.pt", "photo.jpg"])
        raise error

    with exits(2):
        cli(main)
    shown = stderr()
    assert shown.count("\n") == 1 and "out of memory" in shown


def test_another_error_keeps_its_traceback():
    def main():
        raise RuntimeError("shapes do not match")

    with raises(RuntimeError, match="shapes"):
        cli(main)


def test_an_evaluation_takes_fewer_images_where_memory_is_short(tiny_dataset, tmp_path):
    class Small(torch.nn.Module):
        def forward(self, x):
            sizes.append(len(x))
            if len(x) > 4:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return torch.eye(3)[[0] * len(x)]

    sizes = []
    cache = dataset_module.open_data(str(tiny_dataset), 8, str(tmp_path / "cache"))
    batches = dataset_module.make_batches(cache, "test", 8, range(3), torch.device("cpu"))
    answers = trainer.predict(Small(), batches, amp=False)
    assert answers.predictions.tolist() == [0] * 6 and sizes == [6, 3, 3]


def test_a_save_that_fails_on_the_way_is_a_warning(train, monkeypatch, stderr):
    monkeypatch.setattr(trainer, "SAVE_EVERY", 0)
    save, failures = trainer.save_checkpoint, []

    def full(path, state):
        if Path(path).name == "last.pt" and state["step"] in (2, 3):
            failures.append(state["step"])
            raise UserError(f"cannot write {path}: No space left on device.")
        save(path, state)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "save_checkpoint", full)
        train("--epochs 2 --out run")
    assert failures == [2, 3] and Path("run/model.pt").exists()
    shown = stderr()
    assert (
        shown.count("warning: cannot write run/last.pt: No space left on device. The training goes on") == 2
    )

    def always(path, state):
        raise UserError("cannot write: No space left on device.")

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "save_checkpoint", always)
        with user_error("No space left"):  # at the end nothing may be lost
            train("--epochs 1 --out full")


def test_a_log_that_cannot_be_written_is_a_warning(train, monkeypatch, stderr):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "append_jsonl", full)
        train("--epochs 2 --out run")
    assert "warning: cannot write the metrics of epoch 2 to run: " in stderr()
    assert Path("run/model.pt").exists()
    train("--epochs 2 --out run --resume")
    assert len(Path("run/metrics.jsonl").read_text().splitlines()) == 2


@mark.parametrize(
    "number, words",
    [
        (errno.ENOSPC, "free some disk space"),
        (errno.EACCES, "no right to write there"),
        (errno.EROFS, "no right to write there"),
        (errno.EMFILE, "raise the limit"),
        (errno.EIO, "check that path"),
    ],
)
def test_each_error_of_a_disk_has_its_remedy(tmp_path, monkeypatch, number, words):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    assert words in remedy(number)
    (tmp_path / "file").write_text("old")
    monkeypatch.setattr(os, "replace", fail)
    with user_error(f"cannot write .*{words}.*unchanged"):
        write_text(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "old"


# ---------------------------------------------------------------- what a user sees


def test_a_training_says_what_it_does(train, stderr):
    train("--out run --threads 1")
    (line,) = [line for line in stderr().splitlines() if "million parameters" in line]
    assert line == (
        "channelset: resnet10 of width 0.1, 0.05 million parameters; 3 classes, 8 px; 3 epochs of 3 steps; preset "
        "64px-half; cpu, 1 thread; in run"
    )


def test_a_log_file_gets_a_line_a_minute(monkeypatch):
    out, clock = io.StringIO(), [1000.0]
    monkeypatch.setattr("tqdm.std.time", lambda: clock[0])
    with progress_bar(total=300, file=out, desc="work") as bar:
        for number in range(300):
            clock[0] += 1 if number < 295 else 70  # a fast beginning tells nothing of the rest
            bar.update()
        bar.write("a message", file=out)
    lines = out.getvalue().split("\n")
    assert lines[-1] == "" and "\r" not in out.getvalue() and lines[-3] == "a message"
    assert (
        len([line for line in lines if line.startswith("work: ")]) == 1 + 4 + 5 + 1
    )  # start, minutes, slow steps, end
    assert "300/300" in lines[-2]


def test_a_terminal_gets_a_bar():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    out = Terminal()
    with progress_bar(range(3), file=out) as bar:
        list(bar)
    assert "\r" in out.getvalue()


def test_tensorboard_is_asked_for_before_anything_is_decoded(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with user_error("--tensorboard: the package is not installed; run `pip install tensorboard`"):
        Task1Config(device="cpu", tensorboard=True).resolve()


def test_what_tensorboard_is_given(monkeypatch, train, stderr):
    class Writer:
        def __init__(self, folder):
            seen["folder"] = folder

        def add_scalar(self, name, value, epoch):
            seen.setdefault(name, []).append((epoch, value))

        def add_image(self, name, image, epoch):
            seen[name] = image

        def flush(self):
            pass

        def close(self):
            seen["closed"] = True

    seen = {}
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", type(sys)("torch.utils.tensorboard"))
    sys.modules["torch.utils.tensorboard"].SummaryWriter = Writer
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    train("--out run --tensorboard")
    log = read_jsonl("run/metrics.jsonl")
    assert seen["folder"] == "run/tensorboard" and seen["loss"] == [
        (line["epoch"], line["loss"]) for line in log
    ]
    assert seen["val_top1_pct/RG"][-1] == (3, log[-1]["val_top1_pct"]["RG"])
    assert seen["learning_rate"][-1][1] < seen["learning_rate"][0][1] <= 0.01
    image = seen["first kernels"]
    assert image.shape[0] == 3 and image.min() >= 0 and image.max() <= 1
    assert seen["closed"]
    seen.clear()
    with user_error("the run.* was started with|it was started with"):
        train("--out run --tensorboard --resume --lr 0.02")
    assert seen == {}  # nothing is written into the folder of a run that is refused

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Writer, "add_scalar", full)
    monkeypatch.setattr(Writer, "close", full)
    train("--epochs 1 --out full --tensorboard")
    assert "warning: cannot write the metrics of epoch 1 to full: [Errno 28]" in stderr()
    assert Path("full/model.pt").exists()


# ---------------------------------------------------------------- make


@mark.skipif(shutil.which("make") is None, reason="make is not there")
def test_make_knows_its_pythons_and_trusts_no_half_made_environment(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "requirements.lock").write_text("")

    def make(version: str, *words: str) -> subprocess.CompletedProcess:
        """`make main` with a Python that says `version` of itself, and whose environments install nothing."""
        fake = tmp_path / f"python{version}"
        fake.write_text(
            "#!/bin/sh\n"
            f'case "$1" in --version) echo "Python {version}.1";;\n'
            f"-c) test {int(version.split('.')[1])} -ge 11 -a {int(version.split('.')[1])} -le 13;;\n"
            '-m) if [ "$2" = venv ]; then test "$3" = --clear || exit 3; rm -rf "$4"; mkdir -p "$4/bin"; '
            'touch "$4/pyvenv.cfg"; cp "$0" "$4/bin/python"; fi;; esac\n'
        )
        fake.chmod(0o755)
        command = ["make", "-C", str(tmp_path), "main", f"PYTHON={fake}", *words]
        return subprocess.run(command, capture_output=True, text=True)

    for version in ("3.10", "3.14"):
        done = make(version)
        assert (
            done.returncode == 2
            and f"is Python {version}.1; Python 3.11, 3.12 or 3.13 is needed" in done.stderr
        )
        assert not (tmp_path / ".venv").exists()
    left = tmp_path / ".venv/bin"
    left.mkdir(parents=True)
    (left / "python").write_text("#!/bin/sh\nexit 9\n")
    (left / "python").chmod(0o755)
    (tmp_path / ".venv/pyvenv.cfg").write_text("")
    (tmp_path / ".venv/installed").write_text("")  # of a Python that is not there any more
    done = make("3.12")
    assert done.returncode == 0 and "3.12" in (left / "python").read_text(), done.stderr
    # only the training asks for huge pages, which would change the latency of the evaluation
    asks = [("GLIBC_TUNABLES=" in line, "train_task1" in line) for line in done.stdout.splitlines()]
    assert [line for line in asks if any(line)] == [(True, True)]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/precious").write_text("")
    done = make("3.12", "VENV=mine")
    assert done.returncode == 2 and "mine is there and no virtual environment" in done.stderr
    (tmp_path / "mine/pyvenv.cfg").write_text("")
    (tmp_path / "link").symlink_to("mine")
    done = make("3.12", "VENV=link")
    assert done.returncode == 2 and "link is a link" in done.stderr
    assert (tmp_path / "mine/precious").exists()
