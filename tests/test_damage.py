"""What a run survives: damaged files, a power cut, a terminal that closes, other processes; nothing wrong goes on."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import torch

import eval_channels
import train_task1
import train_task2
from data.archive import download
from engine import trainer
from engine.step import TrainStep
from storage.checkpoint import load_checkpoint, save_checkpoint
from storage.files import atomic_path, write_text
from storage.locks import hold
from utils import ROOT, BusyError, Output, UserError, cli


def weights(path) -> dict:
    return torch.load(path, weights_only=True)["state"]


def same(one, two) -> bool:
    one, two = weights(one), weights(two)
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def lines(folder) -> list[dict]:
    """Metrics without the time that they took."""
    text = Path(folder, "metrics.jsonl").read_text()
    return [{k: v for k, v in json.loads(line).items() if k != "train_s"} for line in text.splitlines()]


@pytest.fixture
def cut(command, tiny, interrupt_at, monkeypatch, once):
    """Stop a run of nine steps after five, then let it go one step further: both states exist."""

    def train():
        for call in (5, 1):
            with monkeypatch.context() as patch:
                interrupt_at(patch, call)
                with pytest.raises(SystemExit):
                    command(train_task1, *tiny, "--out", "cut", "--resume")

    once("cut", Path("cut"), train)
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
        with pytest.raises(UserError, match="it is a folder, a device or a pipe; name a file"):
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


def test_text_that_is_no_unicode_names_the_file(tmp_path):
    with pytest.raises(UserError, match=r"cannot write .*a.md: .*caf\\udce9.* use another name"):
        write_text(tmp_path / "a.md", "caf\udce9")
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError), atomic_path(tmp_path / ("n" * 250)) as path:
        path.write_text("x")


# ---------------------------------------------------------------- resume


def test_all_random_numbers_go_on_where_they_were(command, tiny, interrupt_at, monkeypatch):
    """Dropout draws from torch's generator, nothing else does."""
    place = tiny.index("--arch")
    words = [*tiny[:place], *tiny[place + 2 :], "--arch", "plain6-k5", "--dropout", "0.4"]
    command(train_task2, *words, "--out", "whole")
    with monkeypatch.context() as patch:
        interrupt_at(patch, 5)
        with pytest.raises(SystemExit):
            command(train_task2, *words, "--out", "cut")
    torch.manual_seed(99)
    command(train_task2, *words, "--out", "cut", "--resume")
    assert same("whole/model.pt", "cut/model.pt")


def test_the_seconds_of_both_parts_are_added(command, tiny, interrupt_at, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_at(patch, 5)
        with pytest.raises(SystemExit):
            command(train_task1, *tiny, "--out", "cut")
    state = load_checkpoint("cut/last.pt", "training-state")
    save_checkpoint("cut/last.pt", {**state, "seconds": 1000.0})
    run = TrainStep._step
    monkeypatch.setattr(TrainStep, "_step", lambda *args: (time.sleep(0.1), run(*args))[1])  # a slow machine
    command(train_task1, *tiny, "--out", "cut", "--resume")
    assert 1000.4 <= load_checkpoint("cut/model.pt", "task1-model")["train_s"] < 2000  # four steps of 0.1 s
    assert json.loads(Path("cut/metrics.jsonl").read_text().splitlines()[-1])["train_s"] >= 1000.4


def test_the_end_of_an_epoch_is_no_time_of_the_training(command, tiny, monkeypatch):
    """A validation takes 1,000 s by a clock that is put forward."""
    late, clock, end = [], time.perf_counter, trainer.Trainer._end_epoch
    monkeypatch.setattr("time.perf_counter", lambda: clock() + 1000 * len(late))
    monkeypatch.setattr(trainer.Trainer, "_end_epoch", lambda *args: (end(*args), late.append(1)))
    command(train_task1, *tiny, "--out", "run")
    assert len(late) == 3 and load_checkpoint("run/model.pt", "task1-model")["train_s"] < 1000


def test_a_run_goes_on_with_as_many_processes(command, trained, tiny):
    state = load_checkpoint("run/last.pt", "training-state")
    save_checkpoint("run/last.pt", {**state, "world": 2})
    with pytest.raises(
        UserError, match="started with 2 processes, now there are 1; use the same number of processes"
    ):
        command(train_task1, *tiny, "--out", "run", "--resume")


@pytest.mark.parametrize("damage", ["cut", "emptied", "lost", "another digit"])
def test_a_damaged_log_is_written_again(command, tiny, trained, cut, damage):
    log = cut / "metrics.jsonl"
    text = log.read_text()
    assert text.count("\n") == 2
    log.write_text(
        {"cut": text[:-20], "emptied": "", "another digit": text.replace("1", "7")}.get(damage, text)
    )
    if damage == "lost":
        log.unlink()
    command(train_task1, *tiny, "--out", "cut", "--resume")
    assert lines("cut") == lines("run")
    assert load_checkpoint("cut/model.pt", "task1-model")["metrics"] == [
        json.loads(line) for line in log.read_text().splitlines()
    ]


def test_a_damaged_log_of_an_older_version_is_named(command, tiny, cut):
    state = load_checkpoint("cut/last.pt", "training-state")
    del state["metrics"]
    save_checkpoint("cut/last.pt", state)
    log = cut / "metrics.jsonl"
    whole = log.read_text()
    for text in (whole[:-20], "", "x" + whole):
        log.write_text(text)
        with pytest.raises(UserError, match="metrics.jsonl"):
            command(train_task1, *tiny, "--out", "cut", "--resume")
    log.write_text(whole)
    command(train_task1, *tiny, "--out", "cut", "--resume")


def test_a_run_goes_on_from_the_older_state_where_the_last_is_damaged(command, tiny, trained, cut, capsys):
    assert {path.name for path in cut.glob("*.pt")} == {"last.pt", "previous.pt"}
    for name, step in (("last.pt", 6), ("previous.pt", 5)):
        assert load_checkpoint(cut / name, "training-state")["step"] == step
    shutil.copytree(cut, "gone")
    Path("gone/last.pt").unlink()
    whole = (cut / "last.pt").read_bytes()
    for damaged in (b"", whole[:-100], whole.replace(b"training-state", b"training-stata")):
        shutil.copytree(cut, "again", dirs_exist_ok=True)
        Path("again/last.pt").write_bytes(damaged)
        command(train_task1, *tiny, "--out", "again", "--resume")
        assert "The run goes on from the older state, again/previous.pt" in capsys.readouterr().err
        assert same("run/model.pt", "again/model.pt") and lines("again") == lines("run")
        assert not Path("again/previous.pt").exists()  # it has ended
        shutil.rmtree("again")
    with pytest.raises(UserError, match="gone already holds a run"):
        command(train_task1, *tiny, "--out", "gone")
    command(train_task1, *tiny, "--out", "gone", "--resume")
    assert same("run/model.pt", "gone/model.pt")
    for name in ("last.pt", "previous.pt"):
        (cut / name).write_bytes(b"")
    with pytest.raises(UserError, match="last.pt is not a readable checkpoint"):
        command(train_task1, *tiny, "--out", "cut", "--resume")


def test_a_run_has_its_last_state_at_every_moment(command, tiny, cut, monkeypatch):
    """As after a kill between two saves, when both states are one file with two names."""
    (cut / "previous.pt").unlink()
    os.link(cut / "last.pt", cut / "previous.pt")
    monkeypatch.setattr(trainer, "SAVE_EVERY", -1)
    write, seen = trainer.save_checkpoint, []

    def save(path, state):
        seen.append(sorted(file.name for file in cut.glob("*.pt")))
        write(path, state)

    monkeypatch.setattr(trainer, "save_checkpoint", save)
    command(train_task1, *tiny, "--out", "cut", "--resume")
    assert seen == [["last.pt", "previous.pt"]] * 4  # three saves, and the model


def test_a_diverged_run_names_no_state_that_is_not_there(command, tiny):
    with pytest.raises(UserError) as error:
        command(train_task1, *tiny, "--lr", "1000", "--epochs", "60", "--out", "run")
    assert ("last.pt" in str(error.value)) == Path("run/last.pt").exists()


# ---------------------------------------------------------------- a history of the model itself


def test_the_history_is_the_models_own(command, tiny, trained):
    """A model that was copied beside another log."""
    command(train_task1, *tiny, "--epochs", "2", "--out", "other")
    shutil.copy(trained, "other/copied.pt")
    command(eval_channels, "other/copied.pt", "--results", "results", "--repeats", 0)
    (record,) = Path("results/task1/runs").glob("*.json")
    assert json.loads(record.read_text())["history"] == [
        json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()
    ]
    old = load_checkpoint(trained, "task1-model")
    del old["metrics"]  # as an older version wrote it
    save_checkpoint("other/old.pt", old)
    with pytest.raises(UserError, match="other/metrics.jsonl is not the log of the training"):
        command(eval_channels, "other/old.pt", "--results", "results", "--repeats", 0)
    save_checkpoint("run/old.pt", old)
    text = Path("run/metrics.jsonl").read_text()
    for damaged in (text[:-20], text.splitlines()[0] + "\n", text.replace('"train_s": ', '"train_s": 9')):
        Path("run/metrics.jsonl").write_text(damaged)
        with pytest.raises(UserError, match="run/metrics.jsonl is not the log of the training"):
            command(eval_channels, "run/old.pt", "--results", "results", "--repeats", 0)
    Path("run/metrics.jsonl").write_text(text)
    command(eval_channels, "run/old.pt", "--results", "results", "--repeats", 0)


def test_an_empty_value_is_no_value(command, capsys):
    for words in (["--data", ""], ["--name="], ["--fill", ""], ["--teacher", ""]):
        with pytest.raises(SystemExit) as stop:
            command(train_task1, *words)
        assert stop.value.code == 2 and words[0].strip("=") in capsys.readouterr().err


@pytest.mark.parametrize("label", ["caf\udce9", "two\nlines", "=1+1", "@x", "", " \x1b[31m", "x" * 300])
def test_a_label_that_no_table_can_hold_is_refused_at_the_start(command, trained, label):
    with pytest.raises(UserError, match="--label .* cannot be a table cell"):
        command(eval_channels, trained, "--results", "results", "--label", label or "\n")
    with pytest.raises(UserError, match="--name .* cannot name a file"):
        command(eval_channels, trained, "--results", "results", "--name", label or "\n")
    assert not Path("results").exists()


@pytest.mark.usefixtures("rendered")
def test_awkward_labels_come_out_as_they_are(command, trained, monkeypatch):
    label = "$x_{$ 443 | <script> \u4e2d"
    command(eval_channels, trained, "--results", "results", "--repeats", 0, "--label", label)
    text = Path("run/evaluation.md").read_text()
    assert text.startswith("# $x_{$ 443 \\| &lt;script> \u4e2d\n") and Path("run/evaluation.png").exists()


# ---------------------------------------------------------------- checkpoints whose fields were changed


@pytest.mark.parametrize(
    "part, key, values",
    [
        ("config", "preset", ["x", None, 3, []]),
        ("config", "epochs", [[], "3", 0, -1, 10**400, True, 1.5, None]),
        ("config", "seed", ["x", -1, {}]),
        ("config", "width", [float("nan"), "wide", 0.0]),
        ("config", "templates", [10**9, None]),
        ("config", "amp", ["yes", 7]),
        ("config", "fill", [5, "wiener"]),
        ("config", "name", [None, "../x", 3]),
        ("dataset", "class_names", [5, [1, 2], None, [], {}]),
        ("dataset", "channel_names", [5, "RGB", [], [[]]]),
        ("dataset", "wavelengths", [5, ["x"], [float("nan")]]),
        ("dataset", "data_channels", [10**9, "x", {1: 2}, {"R": "red"}]),
        ("dataset", "mean", [None, 0.5, ["x"]]),
        ("dataset", "covariance", [[1], 5, [["x"]]]),
        ("dataset", "digest", [None, 5]),
        ("environment", "hardware", [None, []]),
        (None, "train_s", [None, "x", float("inf")]),
        (None, "metrics", [5, [5], {}]),
        (None, "state", [None, {"fc.weight": 5}, []]),
        (None, "config", [None, [], {}]),
    ],
)
def test_changed_fields_are_named(command, trained, part, key, values):
    good = torch.load(trained, weights_only=True)
    for value in values:
        changed = {**good, part: {**good[part], key: value}} if part else {**good, key: value}
        torch.save(changed, "changed.pt")
        with pytest.raises(UserError, match=r"changed.pt"):
            command(eval_channels, "changed.pt", "--results", "results", "--repeats", 0)
    assert not Path("results").exists()


def test_options_of_another_version_are_left_alone(command, trained):
    good = torch.load(trained, weights_only=True)
    torch.save({**good, "config": {**good["config"], "of_tomorrow": 3}}, "run/newer.pt")
    command(eval_channels, "run/newer.pt", "--results", "results", "--repeats", 0)


# ---------------------------------------------------------------- terminals, streams, other processes


def test_the_end_of_the_terminal_saves_unless_nohup_ignores_it(
    command, tiny, interrupt_at, monkeypatch, capsys
):
    before = signal.signal(signal.SIGHUP, lambda *_: None)  # the tests themselves may run under nohup
    try:
        with monkeypatch.context() as patch:
            interrupt_at(patch, 2, signal.SIGHUP)
            with pytest.raises(SystemExit) as stop:
                command(train_task1, *tiny, "--out", "run")
        assert stop.value.code == 130 and "stopped after step 2 of 9" in capsys.readouterr().err
        assert load_checkpoint("run/last.pt", "training-state")["step"] == 2
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with monkeypatch.context() as patch:
            interrupt_at(patch, 2, signal.SIGHUP)
            command(train_task1, *tiny, "--out", "run", "--resume")
        assert Path("run/model.pt").exists()
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    "error", [BrokenPipeError(), OSError(5, "I/O"), OSError(28, "full"), ValueError("closed")]
)
def test_messages_that_nobody_can_read_raise_nothing(error):
    class Gone:
        def write(self, text):
            raise error

        flush = write

    assert Output(Gone()).write("abc") == 3


def test_work_goes_on_when_nobody_reads_its_messages(command, tiny, forked):
    def work() -> bool:
        reader, writer = os.pipe()
        os.close(reader)
        sys.stderr = open(writer, "w", buffering=1)
        cli(lambda: command(train_task1, *tiny, "--threads", 1, "--out", "run"))
        return True

    assert forked(work) and Path("run/model.pt").exists()


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_reason_to_stop(tmp_path, closed):
    code = (
        f"import sys, types; sys.path.insert(0, {str(ROOT)!r})\n"
        "sys.modules['torch'] = types.ModuleType('torch')  # its import takes seconds\n"
        "import utils\n"
        "def main():\n"
        "    print('out'); print('err', file=sys.stderr); open('file', 'w').write('x')\n"
        "    raise utils.UserError('wrong')\n"
        "utils.cli(main)"
    )
    (tmp_path / "script.py").write_text(code)
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} script.py {closed}"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=600,
    )
    assert done.returncode == 2 and (tmp_path / "file").read_text() == "x"
    assert done.stdout == "" if ">&-" in closed.split() else "out\n"
    assert done.stderr == ("" if "2>&-" in closed else "err\nerror: wrong\n")


def test_a_training_keeps_others_out_until_it_ends(command, tiny, monkeypatch):
    tried, step = [], TrainStep.run

    def run(self, number):
        with pytest.raises(BusyError, match="run is in use by process"):
            hold(Path("run"))
        tried.append(number)
        step(self, number)

    monkeypatch.setattr(TrainStep, "run", run)
    command(train_task1, *tiny, "--epochs", "1", "--out", "run")
    assert tried == [0, 1, 2]
    hold(Path("run")).release()


# ---------------------------------------------------------------- downloads


class Replies(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(302 if self.server.location else 200)
        if self.server.location:
            self.send_header("Location", self.server.location)
        self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()
        self.wfile.write(self.server.content)

    def log_message(self, *_):
        pass


@pytest.fixture
def reply():
    """reply(content, location): the address of a server that answers so."""
    servers = []

    def start(content: bytes = b"", location: str = "") -> str:
        server = HTTPServer(("127.0.0.1", 0), Replies)
        server.content, server.location = content, location
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/images.zip"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("location", ["ftp://127.0.0.1:9/images.zip", "file:///etc/hostname"])
def test_a_redirect_leads_to_the_web_alone(reply, tmp_path, location):
    with pytest.raises(
        UserError, match="it redirects to .*, which is not a web address|Redirection to url .* is not allowed"
    ):
        download(reply(location=location), tmp_path)
    assert not list(tmp_path.glob("*.zip"))


def test_a_damaged_picture_in_a_download_is_named(reply, tiny_dataset, tmp_path):
    """The zip opens, and its lists can be read: only the checksum of one picture tells."""
    path = tmp_path / "good.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(tiny_dataset.rglob("*.*")):
            archive.write(file, file.relative_to(tiny_dataset).as_posix())
        place = archive.getinfo("images/n00000000/n00000000_1.JPEG").header_offset + 200
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    with pytest.raises(UserError, match="n00000000_1.JPEG is damaged"):
        download(reply(bytes(content)), tmp_path / "data")
    assert not list((tmp_path / "data").iterdir())
