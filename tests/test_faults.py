"""What must not pass in silence: two at one folder, a queue that is killed, numbers out of range."""

import importlib
import json
import multiprocessing
import os
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from helpers import FEW, command_line, exits, read_json, user_error
from pytest import mark, raises

import eval_channels
import experiments
from config import Task1Config, Task2Config
from data.demo import make_demo
from data.folds import make_folds
from data.lists import read_lists
from engine import records, trainer
from storage.checkpoint import load_checkpoint, save_checkpoint
from storage.locks import hold, one_at_a_time
from tools import bands, benchmark, fill_error, latency, qualitative
from utils import BusyError, UserError, check_ranges, cli, parse_config


def test_a_folder_has_one_holder_at_a_time(tmp_path):
    lock = hold(tmp_path / "run")
    with raises(BusyError, match=f"run is in use by process {os.getpid()} on .*: wait until it ends"):
        hold(tmp_path / "run")
    lock.release()
    hold(tmp_path / "run").release()


def test_a_busy_folder_has_an_exit_status_of_its_own(tmp_path):
    lock = hold(tmp_path / "run")
    with exits(75):
        cli(lambda: hold(tmp_path / "run"))
    lock.release()


def test_work_is_saved_by_time_as_well(train, monkeypatch):
    monkeypatch.setattr(trainer, "SAVE_EVERY", 0)
    saved = []
    monkeypatch.setattr(trainer.Trainer, "_save", lambda self: saved.append(self.step))
    train("--epochs 1 --out run")
    assert saved == [1, 2, 3]


@mark.usefixtures("forks")
def test_a_training_ends_with_its_queue(tiny_dataset, tmp_path, monkeypatch, tiny):
    """No step waits for a time. A training that outlives its queue comes to its own end, and then there is a model.

    The queue does nothing about SIGHUP, so it ends as it does after SIGKILL.
    """
    training = " ".join([*tiny, "--epochs 20000 --eval-every 20000 --cache cache"])
    options = ["task1", "--data", str(tiny_dataset), "--options", training]

    def run():
        os.setsid()  # a group of processes, which ends as a whole below
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup lets this process ignore it
        cli(lambda: experiments.main([*options, *command_line("--only sliced --threads 1 --no-eval")]))

    monkeypatch.chdir(tmp_path)
    queue = multiprocessing.get_context("fork").Process(target=run)  # it need not import PyTorch
    queue.start()
    try:
        while not (log := next(tmp_path.glob("runs/*/*/metrics.jsonl"), None)):  # of the first epoch
            assert queue.is_alive(), "the queue ended before the training began"
            time.sleep(0.05)
        os.kill(queue.pid, signal.SIGHUP)
        queue.join(timeout=300)
        assert queue.exitcode == -signal.SIGHUP
        while True:  # until the training gives its folder back
            try:
                hold(log.parent).release()
                break
            except BusyError:
                time.sleep(0.05)
        assert (log.parent / "last.pt").exists() and not (log.parent / "model.pt").exists()
    finally:  # whatever failed, nothing goes on
        with suppress(ProcessLookupError):
            os.killpg(queue.pid, signal.SIGKILL)
        queue.kill()
        queue.join()


@mark.parametrize("config", [Task1Config, Task2Config])
@mark.parametrize(
    "flag, value",
    [
        ("--lr", "nan"),
        ("--lr", "0"),
        ("--lr", "1e308"),
        ("--width", "inf"),
        ("--weight-decay", "-1"),
        ("--ema-epochs", "nan"),
        ("--max-failed", "2"),
        ("--threads", "-1"),
        ("--seed", "99999999999999999999"),
        ("--epochs", "0"),
        ("--fraction", "0"),
        ("--label-smoothing", "1"),
        ("--distill-ramp", "1.5"),
    ],
)
def test_numbers_out_of_range_are_named(config, flag, value):
    with user_error(f"^{flag} .*: must be "):
        parse_config(config, [flag, value]).resolve()


def test_every_number_has_a_range():
    for config in (Task1Config, Task2Config):
        check_ranges(parse_config(config, []))
        for name, field in config.__dataclass_fields__.items():
            if "int" in str(field.type) or "float" in str(field.type):
                assert field.metadata["limits"], name


@mark.parametrize(
    "line",
    [
        "experiments task1 --jobs 0",
        "experiments task1 --minutes nan",
        "eval_channels model.pt --repeats -1",
        "eval_shallow model.pt --threads -1",
    ],
)
def test_a_parser_knows_its_ranges(line, monkeypatch, stderr):
    words = line.split()
    monkeypatch.setattr(sys, "argv", words)
    with exits(2):
        cli(importlib.import_module(words[0]).main)
    errors = stderr()
    assert errors.count("\n") == 1 and words[-2] in errors


def test_what_a_kill_left_is_removed_at_the_next_start(train, tiny_dataset, cached):
    Path("run").mkdir()
    Path("run/.last.pt.abcdefgh.partial").write_bytes(b"half")
    Path("run/.last.pt.old").write_bytes(b"kept by the user")
    built = cached(tiny_dataset, "other").folder
    shutil.rmtree(built)
    left = built.parent / f".{built.name}.making"
    (left / "new").mkdir(parents=True)
    (left / "unfinished.lock").touch()
    assert cached(tiny_dataset, "other").folder == built and not left.exists()
    train("--epochs 1 --out run")
    assert not Path("run/.last.pt.abcdefgh.partial").exists() and Path("run/.last.pt.old").exists()


def test_a_second_process_waits_for_what_the_first_makes(tmp_path, small_demo):
    """Two first runs on a fresh clone: the later used to delete the demo set that the first read."""
    fork = multiprocessing.get_context("fork")  # both have all modules and begin at once
    both = [fork.Process(target=make_demo, args=[tmp_path / "demo"]) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(timeout=600)
    assert [process.exitcode for process in both] == [0, 0]
    assert (tmp_path / "demo" / "demo.json").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demo"]


def test_threads_follow_the_idle_cores_and_a_resumed_run_keeps_its_own(train, monkeypatch, stderr):
    monkeypatch.setattr("utils.free_cores", lambda: 1)
    monkeypatch.setattr("torch.get_num_threads", lambda: 8)
    chosen = []
    monkeypatch.setattr("torch.set_num_threads", chosen.append)
    train("--epochs 1 --out run")
    assert chosen == [1]
    assert "1 CPU thread, one per idle core" in stderr()
    monkeypatch.setattr("utils.free_cores", lambda: 4)
    train("--epochs 1 --out run --resume")
    train("--epochs 1 --out other")
    train("--epochs 1 --out third --threads 3")
    assert chosen == [1, 1, 4, 3]


def test_memory_that_is_not_there_is_one_line(stderr):
    with exits(2):
        cli(lambda: torch.empty(10**15))
    errors = stderr()
    assert errors.count("\n") == 1
    assert "out of memory; run fewer processes at once, or use smaller batches" in errors


@mark.parametrize("words", [{"WORLD_SIZE": "4"}, {"WORLD_SIZE": "4", "RANK": "1"}])
def test_a_world_size_without_torchrun_means_nothing(words, monkeypatch):
    for key, value in words.items():
        monkeypatch.setenv(key, value)
    assert trainer.Processes.start(trainer.torch.device("cpu")) == trainer.Processes(0, 1)


def test_a_lost_part_of_the_results_is_made_again(trained, command, stdout):
    options = ("--results results --skip-existing --device cpu", *FEW)
    command(eval_channels, trained, *options)
    (record,) = Path("results/task1/runs").iterdir()
    (predictions,) = Path("results/task1/predictions").iterdir()
    whole = record.read_bytes(), predictions.read_bytes(), Path("results/task1/channels.csv").read_bytes()
    for break_it in (
        lambda: record.write_bytes(whole[0][:200]),
        predictions.unlink,
        record.unlink,
        lambda: predictions.write_bytes(whole[1][:30]),
        Path("results/task1/channels.csv").unlink,
    ):
        break_it()
        records.read_predictions.cache_clear()
        command(eval_channels, trained, *options)
        assert (predictions.read_bytes(), Path("results/task1/channels.csv").read_bytes()) == whole[1:]
        assert read_json(record)["splits"] == json.loads(whole[0])["splits"]
    stdout()
    command(eval_channels, trained, *options)
    assert "already holds the results of this run: skipped" in stdout()


def test_an_error_is_one_line_whatever_a_file_is_called(stderr):
    def main():
        raise UserError("cannot read a\nb\tc.png")

    with raises(SystemExit):
        cli(main)
    assert stderr() == "error: cannot read a\\nb\\tc.png\n"


@mark.parametrize("tool", [benchmark, latency])
@mark.parametrize("device", ["gpu", "cuda:99", "mps"])
def test_a_tool_names_a_device_that_is_not_there(tool, device):
    with user_error(f"--device {device}: "):
        tool.main(["--device", device])


def test_a_part_of_an_evaluation_replaces_no_whole(trained, command, monkeypatch):
    options = "--results results --device cpu"
    command(eval_channels, trained, options, "--split val --subsets R --repeats 0")
    command(eval_channels, trained, options, "--repeats 1")  # holds more
    before = {path: path.read_bytes() for path in Path("results").rglob("*") if path.is_file()}
    monkeypatch.setattr("engine.evaluation.predict", None)  # the refusal comes before the measurement
    for part, words in (
        (("--split", "val"), "14 other values, such as latency of test B"),
        (("--subsets", "R RG"), "20 other values, such as latency of test B"),
        (("--repeats", "0"), "14 other values, such as latency of test B"),
    ):
        with user_error(f"also holds {words}, which would be lost"):
            command(eval_channels, trained, options, *part)
    assert before == {path: path.read_bytes() for path in Path("results").rglob("*") if path.is_file()}


def test_a_part_is_no_reason_to_skip_what_is_missing(trained, command, stdout):
    options = "--results results --device cpu --skip-existing"
    for part in (
        ("--split", "val", "--subsets", "RGB", "--repeats", 0),
        ("--subsets", "RGB", "--repeats", 0),  # test is missing
        ("--subsets", "RGB", "--repeats", 1),  # the latency is missing
        ("--subsets", "RGB R", "--repeats", 1),  # a set is missing
    ):
        command(eval_channels, trained, options, *part)
        assert "skipped" not in stdout(), part
    for part in (("--subsets", "R RGB"), ("--split", "val", "--subsets", "R", "--repeats", 0)):
        command(eval_channels, trained, options, *part)
        assert "skipped" in stdout(), part


def test_a_page_of_some_sets_replaces_no_whole_page(trained, command, evaluate):
    options = "--device cpu --split val --repeats 0"
    evaluate(trained, options)
    whole = {path: path.read_bytes() for path in Path("run").glob("evaluation*")}
    command(eval_channels, trained, options, "--subsets", "R RG")
    assert len(whole) == 3 and whole == {path: path.read_bytes() for path in whole}
    assert "| RG |" in Path("run/evaluation-val-2-sets.md").read_text()


def test_a_tool_says_before_its_work_that_it_cannot_write(trained, tiny_dataset, monkeypatch):
    Path("file").touch()
    monkeypatch.setattr(fill_error, "open_data", None)
    monkeypatch.setattr(qualitative, "any_set", None)
    for tool, words in ((fill_error, ["--data", tiny_dataset]), (qualitative, ["--ours", trained])):
        with user_error("cannot write to file/more"):
            tool.main([*map(str, words), "--out", "file/more/table"])


def test_results_of_another_training_are_not_replaced_in_silence(trained, evaluate, stderr):
    for seconds, replaced in ((1.0, False), (1.0, False), (2.0, True), (2.0, False)):
        save_checkpoint(trained, {**load_checkpoint(trained, "task1-model"), "train_s": seconds})
        stderr()
        evaluate(trained, "--device cpu --repeats 0")
        said = "has the results of another training with the same options and seed" in stderr()
        assert said == replaced


def test_the_folder_of_the_bands_may_have_spaces(monkeypatch):
    calls = []
    monkeypatch.setattr(bands.subprocess, "Popen", lambda words, **_: calls.append(words) or Ended())
    args = bands.make_parser().parse_args(["data", "--work", "my bands"])
    args.work = Path(args.work)
    bands.run_folds(args, [Path("fold0")])
    for option in ("--options", "--eval-options"):
        words = experiments.words(calls[0][calls[0].index(option) + 1])
        assert words[:2] == ["--cache", "my bands/cache"]
    assert words[2:] == ["--results", "my bands/results", "--split", "test", "--subsets", "every B02,B03,B04"]


def test_a_fold_that_does_not_start_has_no_log(monkeypatch):
    monkeypatch.setattr(Ended, "wait", lambda _: 2)
    monkeypatch.setattr(bands.subprocess, "Popen", lambda *_, **__: Ended())
    args = bands.make_parser().parse_args(["data"])
    args.work = Path(args.work)
    with user_error("fold fold0 is not finished: read the reason above or in its log"):
        bands.run_folds(args, [Path("fold0")])


class Ended:
    """A process that has ended well."""

    def wait(self) -> int:
        return 0


# ---------------------------------------------------------------- folders beside the output


def test_what_stands_beside_an_output_stays(tiny_dataset, tmp_path, small_demo):
    for name in (".demo-backup", ".demo-abcdefgh", ".demo.making", ".folds-abcdefgh", ".folds.making"):
        (tmp_path / "x" / name).mkdir(parents=True)
        (tmp_path / "x" / name / "thesis.txt").write_text("years of work")
    before = sorted((tmp_path / "x").iterdir())
    made = [make_demo(tmp_path / "x/demo"), tmp_path / "x/folds"]
    make_folds(read_lists(tiny_dataset), 2, tmp_path / "x/folds")
    assert sorted((tmp_path / "x").iterdir()) == sorted([*before, *made])
    assert all((folder / "thesis.txt").exists() for folder in before)


def test_a_marker_that_is_damaged_is_one_line_and_deletes_nothing(tiny_dataset, tmp_path, small_demo):
    folder, folds, lists = make_demo(tmp_path / "demo"), tmp_path / "folds", read_lists(tiny_dataset)
    make_folds(lists, 2, folds)
    (folder / "notes.txt").write_text("mine")
    for text in ("", "{", "[]", "5", "null", '{"version": []}', '{"version": 0}', "[" * 10**5):
        for marker in (folder / "demo.json", folds / "folds.json"):
            marker.write_text(text)
        with user_error("not empty, and it holds no intact .*remove it, or name another folder with --out"):
            make_demo(folder)
        with user_error("not empty and does not hold exactly these folds"):
            make_folds(lists, 2, folds)
    assert (folder / "notes.txt").exists() and (folds / "tiny-fold0").exists()


def test_who_waits_for_a_lock_says_so(tmp_path, monkeypatch, stderr):
    times, acquire = [], FileLock.acquire

    def wait(self, timeout=None):
        times.append(timeout)
        if timeout >= 0:
            raise Timeout("held")
        return acquire(self, timeout)

    monkeypatch.setattr(FileLock, "acquire", wait)
    with one_at_a_time(tmp_path):
        assert f"another process writes into {tmp_path}: waiting for it" in stderr()
    assert times == [5, -1]  # then without limit


def test_processes_have_two_images_each(train, monkeypatch):
    monkeypatch.setattr(trainer.Processes, "start", staticmethod(lambda device: trainer.Processes(0, 2)))
    with user_error("--batch-size 2: .*use a multiple of 2, at least 4"):
        train("--batch-size 2 --out run")
