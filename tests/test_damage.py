"""What a run survives: damaged files, a power cut, a terminal that closes, other processes; nothing wrong goes on."""

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import torch
from helpers import FEW, exits, read_json, read_jsonl, same_weights, user_error
from pytest import fixture, mark, raises

import train_task1
import train_task2
from engine import trainer
from engine.step import TrainStep
from storage.checkpoint import load_checkpoint, save_checkpoint
from storage.files import atomic_path, write_text
from storage.locks import hold
from utils import BusyError, Output, UserError, cli


def lines(folder) -> list[dict]:
    """Metrics without the time that they took."""
    log = read_jsonl(Path(folder, "metrics.jsonl"))
    return [{key: value for key, value in line.items() if key != "train_s"} for line in log]


@fixture
def cut(train, interrupted, once):
    """Stop a run of nine steps after five, then let it go one step further: both states exist."""

    def stop():
        for call in (5, 1):
            with interrupted(call):
                train("--out cut --resume")

    once("cut", Path("cut"), stop)
    return Path("cut")


# ---------------------------------------------------------------- files


def test_a_file_that_is_replaced_is_another_file_and_on_the_disk_first(tmp_path, monkeypatch):
    """A reader that has it open, or another name of it, keeps the old bytes whole."""
    done, replace, sync = [], os.replace, os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: done.append("sync") or sync(handle))
    monkeypatch.setattr(os, "replace", lambda *names: done.append("replace") or replace(*names))
    path = tmp_path / "a"
    write_text(path, "old")
    os.link(path, tmp_path / "b")
    reader = open(path)
    write_text(path, "new and longer")
    assert (path.read_text(), (tmp_path / "b").read_text(), reader.read()) == ("new and longer", "old", "old")
    assert done == ["sync", "replace", "sync"] * 2
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a", "b"]


def test_a_link_stays_and_what_is_no_file_is_not_replaced(tmp_path):
    (tmp_path / "far").mkdir()
    for name in ("old", "new"):
        (tmp_path / name).symlink_to(tmp_path / "far" / name)
    (tmp_path / "far/old").write_text("1")
    for name in ("old", "new"):
        write_text(tmp_path / name, "2")
        assert (tmp_path / name).is_symlink() and (tmp_path / "far" / name).read_text() == "2"
    os.mkfifo(tmp_path / "pipe")  # stands for a device such as /dev/null
    (tmp_path / "stdout").symlink_to(tmp_path / "pipe")
    for name in ("pipe", "stdout", "far"):
        with user_error("it is a folder, a device or a pipe; name a file"):
            write_text(tmp_path / name, "2")
    assert (tmp_path / "pipe").is_fifo() and (tmp_path / "stdout").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["far", "new", "old", "pipe", "stdout"]


def test_files_have_the_rights_that_the_user_leaves(tmp_path):
    before = os.umask(0o077)
    try:
        write_text(tmp_path / "mine", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "mine").stat().st_mode & 0o777 == 0o600


def test_a_name_that_is_too_long_is_an_error(tmp_path):
    with raises(UserError), atomic_path(tmp_path / ("n" * 250)) as path:
        path.write_text("x")


def test_a_full_disk_is_named_where_torch_does_not_name_it(tmp_path):
    with user_error("cannot write .*: No space left on device.*unexpected pos 5.*free some disk space"):
        with atomic_path(tmp_path / "model.pt"):
            raise RuntimeError("[enforce fail] . unexpected pos 5 vs 4")


# ---------------------------------------------------------------- resume


def test_all_random_numbers_go_on_where_they_were(command, tiny, interrupted):
    """Dropout draws from torch's generator, nothing else does."""
    words = [*tiny, "--arch plain6-k5 --dropout 0.4"]
    command(train_task2, *words, "--out whole")
    with interrupted(5):
        command(train_task2, *words, "--out cut")
    torch.manual_seed(99)
    command(train_task2, *words, "--out cut --resume")
    assert same_weights("whole/model.pt", "cut/model.pt")


def test_the_seconds_of_both_parts_are_added(train, interrupted, monkeypatch):
    with interrupted(5):
        train("--out cut")
    state = load_checkpoint("cut/last.pt", "training-state")
    save_checkpoint("cut/last.pt", {**state, "seconds": 1000.0})
    run = TrainStep._step
    monkeypatch.setattr(TrainStep, "_step", lambda *args: (time.sleep(0.1), run(*args))[1])  # a slow machine
    train("--out cut --resume")
    assert 1000.4 <= load_checkpoint("cut/model.pt", "task1-model")["train_s"] < 2000  # four steps of 0.1 s
    assert json.loads(Path("cut/metrics.jsonl").read_text().splitlines()[-1])["train_s"] >= 1000.4


def test_the_end_of_an_epoch_is_no_time_of_the_training(train, monkeypatch):
    """A validation takes 1,000 s by a clock that is put forward."""
    late, clock, end = [], time.perf_counter, trainer.Trainer._end_epoch
    monkeypatch.setattr("time.perf_counter", lambda: clock() + 1000 * len(late))
    monkeypatch.setattr(trainer.Trainer, "_end_epoch", lambda *args: (end(*args), late.append(1)))
    train("--out run")
    assert len(late) == 3 and load_checkpoint("run/model.pt", "task1-model")["train_s"] < 1000


def test_a_run_goes_on_with_as_many_processes(train, trained):
    state = load_checkpoint("run/last.pt", "training-state")
    save_checkpoint("run/last.pt", {**state, "world": 2})
    with user_error("started with 2 processes, now there are 1; use the same number of processes"):
        train("--out run --resume")


@mark.parametrize("damage", ["cut", "emptied", "lost", "another digit"])
def test_a_damaged_log_is_written_again(train, trained, cut, damage):
    log = cut / "metrics.jsonl"
    text = log.read_text()
    assert text.count("\n") == 2
    log.write_text(
        {"cut": text[:-20], "emptied": "", "another digit": text.replace("1", "7")}.get(damage, text)
    )
    if damage == "lost":
        log.unlink()
    train("--out cut --resume")
    assert lines("cut") == lines("run")
    assert load_checkpoint("cut/model.pt", "task1-model")["metrics"] == [
        json.loads(line) for line in log.read_text().splitlines()
    ]


def test_a_run_goes_on_from_the_older_state_where_the_last_is_damaged(train, trained, cut, stderr):
    assert {path.name for path in cut.glob("*.pt")} == {"last.pt", "previous.pt"}
    for name, step in (("last.pt", 6), ("previous.pt", 5)):
        assert load_checkpoint(cut / name, "training-state")["step"] == step
    shutil.copytree(cut, "gone")
    Path("gone/last.pt").unlink()
    whole = (cut / "last.pt").read_bytes()
    for damaged in (b"", whole[:-100], whole.replace(b"training-state", b"training-stata")):
        shutil.copytree(cut, "again", dirs_exist_ok=True)
        Path("again/last.pt").write_bytes(damaged)
        train("--out again --resume")
        assert "The run goes on from the older state, again/previous.pt" in stderr()
        assert same_weights("run/model.pt", "again/model.pt") and lines("again") == lines("run")
        assert not Path("again/previous.pt").exists()  # it has ended
        shutil.rmtree("again")
    with user_error("gone already holds a run"):
        train("--out gone")
    train("--out gone --resume")
    assert same_weights("run/model.pt", "gone/model.pt")
    for name in ("last.pt", "previous.pt"):
        (cut / name).write_bytes(b"")
    with user_error("previous.pt is not a readable checkpoint"):
        train("--out cut --resume")


def test_a_run_that_goes_on_with_other_code_says_so(train, cut, monkeypatch, stderr):
    monkeypatch.setenv("GIT_COMMIT", "1" * 40)
    train("--out cut --resume")
    assert f"was started with commit {'0' * 40}, and goes on with commit {'1' * 40}" in stderr()
    assert load_checkpoint("cut/model.pt", "task1-model")["environment"]["commit"] == "0" * 40
    monkeypatch.setenv("GIT_COMMIT", "0" * 40)
    with monkeypatch.context() as patch:
        patch.setattr("torch.get_num_threads", lambda: 2)
        train("--out cut --resume")
    assert "was started with threads 1, and goes on with threads 2" in stderr()
    train("--out cut --resume")
    assert "was started with" not in stderr()


def test_a_damaged_state_does_not_replace_the_older_state(train, trained, cut, monkeypatch):
    """The disk is still full when the run goes on from previous.pt, and it is killed."""
    (cut / "last.pt").write_bytes(b"")
    monkeypatch.setattr(trainer, "SAVE_EVERY", -1)

    def full(path, state):
        raise UserError(f"cannot write {path}: No space left on device.")

    with monkeypatch.context() as patch, user_error("No space left"):
        patch.setattr(trainer, "save_checkpoint", full)
        train("--out cut --resume")
    train("--out cut --resume")
    assert same_weights("run/model.pt", "cut/model.pt")


def test_a_run_has_its_last_state_at_every_moment(train, cut, monkeypatch):
    """As after a kill between two saves, when both states are one file with two names."""
    (cut / "previous.pt").unlink()
    os.link(cut / "last.pt", cut / "previous.pt")
    monkeypatch.setattr(trainer, "SAVE_EVERY", -1)
    write, seen = trainer.save_checkpoint, []

    def save(path, state):
        seen.append(sorted(file.name for file in cut.glob("*.pt")))
        write(path, state)

    monkeypatch.setattr(trainer, "save_checkpoint", save)
    train("--out cut --resume")
    assert seen == [["last.pt", "previous.pt"]] * 4  # three saves, and the model


# ---------------------------------------------------------------- a history of the model itself


def test_the_history_is_the_models_own(train, trained, evaluate):
    """A model that was copied beside another log."""
    train("--epochs 1 --out other")
    shutil.copy(trained, "other/copied.pt")
    evaluate("other/copied.pt", *FEW)
    (record,) = Path("results/task1/runs").glob("*.json")
    assert read_json(record)["history"] == [
        json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()
    ]
    old = load_checkpoint(trained, "task1-model")
    del old["metrics"]  # as an older version wrote it
    save_checkpoint("other/old.pt", old)
    evaluate("other/old.pt", *FEW)
    assert read_json(record)["history"] == []


def test_an_empty_value_is_no_value(command, stderr):
    for words in (["--data", ""], ["--name="], ["--fill", ""], ["--teacher", ""]):
        with exits(2):
            command(train_task1, *words)
        assert words[0].strip("=") in stderr()


@mark.parametrize("label", ["caf\udce9", "two\nlines", "=1+1", "@x", "", " \x1b[31m", "x" * 300])
def test_a_label_that_no_table_can_hold_is_refused_at_the_start(trained, label, evaluate):
    with user_error("--label .* cannot be a table cell"):
        evaluate(trained, "--label", label or "\n")
    with user_error("--name .* cannot name a file"):
        evaluate(trained, "--name", label or "\n")
    assert not Path("results").exists()


def test_awkward_labels_come_out_as_they_are(trained, evaluate):
    label = "$x_{$ 443 | <script> \u4e2d"
    evaluate(trained, "--repeats 0 --label", label)
    text = Path("run/evaluation.md").read_text()
    assert text.startswith("# $x_{$ 443 \\| &lt;script> \u4e2d\n") and Path("run/evaluation.png").exists()


# ---------------------------------------------------------------- checkpoints whose fields were changed


@mark.parametrize(
    "part, key, values",
    [
        ("config", "preset", ["x", None]),
        ("config", "epochs", [0, -1]),
        ("config", "seed", [-1]),
        ("config", "width", [float("nan"), 0.0]),
        ("config", "templates", [10**9]),
        ("config", "fill", ["wiener"]),
        ("config", "name", [None, "../x", 3]),
        ("dataset", "class_names", [None, [1, 2], []]),
        (None, "train_s", [None]),
        (None, "state", [None, {"fc.weight": 5}]),
        (None, "config", [None, {}]),
    ],
)
def test_changed_fields_are_named(trained, part, key, values, evaluate):
    good = torch.load(trained, weights_only=True)
    for value in values:
        changed = {**good, part: {**good[part], key: value}} if part else {**good, key: value}
        torch.save(changed, "changed.pt")
        with user_error(r"changed.pt"):
            evaluate("changed.pt", *FEW)
    assert not Path("results").exists()


def test_options_of_another_version_are_left_alone(trained, evaluate):
    good = torch.load(trained, weights_only=True)
    torch.save({**good, "config": {**good["config"], "of_tomorrow": 3}}, "run/newer.pt")
    evaluate("run/newer.pt", *FEW)


# ---------------------------------------------------------------- terminals, streams, other processes


def test_the_end_of_the_terminal_saves_unless_nohup_ignores_it(train, interrupted, stderr):
    before = signal.signal(signal.SIGHUP, lambda *_: None)  # the tests themselves may run under nohup
    try:
        with interrupted(2, signal.SIGHUP):
            train("--out run")
        assert "stopped after step 2 of 9" in stderr()
        assert load_checkpoint("run/last.pt", "training-state")["step"] == 2
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with interrupted(2, signal.SIGHUP, stops=False):
            train("--out run --resume")
        assert Path("run/model.pt").exists()
    finally:
        signal.signal(signal.SIGHUP, before)


@mark.parametrize("error", [BrokenPipeError(), OSError(5, "I/O"), OSError(28, "full"), ValueError("closed")])
def test_messages_that_nobody_can_read_raise_nothing(error):
    class Gone:
        def write(self, text):
            raise error

        flush = write

    assert Output(Gone()).write("abc") == 3


def test_work_goes_on_when_nobody_reads_its_messages(train, forked):
    def work() -> bool:
        reader, writer = os.pipe()
        os.close(reader)
        sys.stderr = open(writer, "w", buffering=1)
        cli(lambda: train("--epochs 1 --threads 1 --out run"))
        return True

    assert forked(work) and Path("run/model.pt").exists()


def test_a_training_keeps_others_out_until_it_ends(train, monkeypatch):
    tried, step = [], TrainStep.run

    def run(self, number):
        with raises(BusyError, match="run is in use by process"):
            hold(Path("run"))
        tried.append(number)
        step(self, number)

    monkeypatch.setattr(TrainStep, "run", run)
    train("--epochs 1 --out run")
    assert tried == [0, 1, 2]
    hold(Path("run")).release()
