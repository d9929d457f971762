"""The queue: several trainings at once, finished ones skipped, failures told at the end."""
import sys
from pathlib import Path

import pytest

import experiments
from report.task2.rows import RESULTS
from test_training import TINY
from utils import UserError


@pytest.fixture
def queue(tiny_dataset, tmp_path, monkeypatch):
    """queue(grid, *options) runs experiments.main() for a grid of its own."""
    monkeypatch.chdir(tmp_path)
    def run(grid, *options):
        monkeypatch.setattr(experiments, "GRIDS", {"task1": grid})
        monkeypatch.setattr(experiments, "EVALUATIONS", {"task1": [("good+mean", "good", "--fill mean")] if "good" in grid else []})
        tiny = " ".join([*TINY, "--cache", str(tmp_path / "cache"), "--epochs", "1"])
        monkeypatch.setattr(sys, "argv", ["experiments.py", "task1", "--data", str(tiny_dataset), "--no-eval",
                                          "--options", tiny, *options])
        experiments.main()
    return run


def test_finished_runs_are_skipped_and_failed_ones_named(queue, capsys):
    with pytest.raises(UserError, match="failed: bad seed 0 .*bad-s0/log.txt"):
        queue({"good": "--fill mean", "bad": "--fill wiener"})
    assert Path("runs/cpu/good-s0/model.pt").exists() and "invalid choice: 'wiener'" in Path("runs/cpu/bad-s0/log.txt").read_text()
    capsys.readouterr()
    queue({"good": "--fill mean", "other": "--fill zero"}, "--only", "good")
    assert capsys.readouterr().out == "0 runs to train\n"


def test_time_budget_stops_the_running_ones(queue, tmp_path, capsys):
    endless = " ".join([*TINY, "--cache", str(tmp_path / "cache"), "--epochs", "1000000", "--eval-every", "1000000"])
    queue({"endless": "", "waiting": ""}, "--minutes", "0.1", "--jobs", "1", "--options", endless)
    out = capsys.readouterr().out
    assert "stopped endless seed 0: the same command goes on with it" in out and "start   waiting" not in out
    assert not Path("runs/cpu/endless-s0/model.pt").exists()


def test_unknown_row_is_an_error(queue):
    with pytest.raises(UserError, match="--only nothing: grid task1 has good, good\\+mean"):
        queue({"good": ""}, "--only", "nothing")


def test_rows_without_a_training_of_their_own_train_what_they_need(monkeypatch):
    arguments = dict(grid="task1", only=["naive-rgb+mean", "naive-rgb"], seeds=[0, 1], tier="cpu", data="auto", threads=1, options="")
    jobs = experiments.make_jobs(type("Arguments", (), arguments))
    assert [job.name for job in jobs] == ["naive-rgb seed 0", "naive-rgb seed 1"]


def test_a_teacher_is_trained_before_its_student(queue, capsys):
    queue({"student": "--teacher {runs}/naive-s{seed}/model.pt", "naive": "--sampler none"}, "--only", "student", "--jobs", "2")
    out = capsys.readouterr().out
    assert out.index("start   naive seed 0") < out.index("start   student seed 0") and "done    student seed 0" in out


def test_a_grid_of_task_2_trains_and_evaluates(tiny_dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(experiments, "GRIDS", {"task2": {"small": "--arch plain"}, "task1": {"small": "--fill none of task 2's"}})
    monkeypatch.setattr(experiments, "EVALUATIONS", {})
    built, tiny = [], [word for word in TINY if word not in ("--arch", "resnet10")]
    monkeypatch.setattr(experiments.report_build, "main", built.append)
    monkeypatch.setattr(sys, "argv", ["experiments.py", "task2", "--data", str(tiny_dataset), "--options", " ".join(
        [*tiny, "--cache", str(tmp_path / "cache")]), "--eval-options", f"--cache {tmp_path / 'cache'} --results results --repeats 0"])
    experiments.main()
    assert [(row["model"], row["role"], row["split"]) for row in RESULTS.read("results/task2_classifiers.csv")] == [
        ("small", "ours", "test"), ("small", "ours", "val")]
    assert built == [[]]
