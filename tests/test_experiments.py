"""The queue: several trainings at once, finished ones skipped, failures told at the end; and the lists it
works on.
"""

import os
import re
import signal
import sys
import time
from fractions import Fraction
from pathlib import Path

from helpers import exits, user_error
from pytest import fixture, mark

import experiments
import grids
from config import resolve_run
from data.lists import RGB, name_of, read_lists
from engine import trainer
from engine.records import NEXT
from engine.step import TrainStep
from grids import GRIDS, channels_of, task_of
from grids.run import Run, distinct
from grids.task1 import BANDS_WEIGHTED, BANDS_ZERO, CHANNELSET, LATE_FUSION, RGB_ONLY, SPECIALISTS
from storage.locks import hold
from utils import ROOT, UserError

GOOD, BAD, OTHER = (
    Run(name, f"the {name} one", "ours", {"fill": fill})
    for name, fill in (("good", "mean"), ("bad", "luma_chroma"), ("other", "zero"))
)


@fixture
def queue(tiny_dataset, tmp_path, monkeypatch, tiny):
    """queue(runs, *options) runs experiments.main() for a grid of its own."""
    monkeypatch.chdir(tmp_path)
    tiny = " ".join([*tiny, "--cache", str(tmp_path / "cache"), "--epochs", "1"])

    def run(runs, *options):
        monkeypatch.setitem(experiments.GRIDS, "task1", runs)
        experiments.main(["task1", "--data", str(tiny_dataset), "--no-eval", "--options", tiny, *options])

    return run


@mark.parametrize("makes", [Path("model.pt"), None])
def test_only_a_training_asks_for_huge_pages(tmp_path, monkeypatch, makes):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    command = [sys.executable, "-c", "import os; print(os.environ.get('GLIBC_TUNABLES'))"]

    def shown() -> str:
        job = experiments.Job("job", command, tmp_path / "log.txt", makes)
        job.start()
        job.process.communicate()
        return (tmp_path / "log.txt").read_text().split()[-1]

    assert shown() == ("glibc.malloc.hugetlb=1" if makes else "None")
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=0")  # the user's own value stays
    assert shown() == "glibc.malloc.check=0"


def folder(name: str) -> Path:
    """Return the only run directory of a model."""
    (found,) = Path("runs/tiny-64px-half").glob(f"{name}-????????-s0")
    return found


@mark.usefixtures("forks")
def test_finished_runs_are_skipped_and_listed_and_failed_ones_named(queue, capsys, tiny):
    broken = BAD.but(train_channels="R", sampler="none")  # the training script refuses it, so does the queue
    with user_error("--train-channels needs a --sampler"):
        queue([GOOD, broken])
    with user_error("failed: bad,.* seed 0 .*bad-[0-9a-f]{8}-s0/log.txt"):
        queue([GOOD, BAD.but(teacher=OTHER, channels="R", section="ours")])
    assert (folder("good") / "model.pt").exists()
    assert "must both take all channels" in (folder("bad") / "log.txt").read_text()
    capsys.readouterr()
    queue([GOOD, OTHER], "--only", "good")
    assert capsys.readouterr().out == "0 runs to train\n"
    queue([GOOD, OTHER, BAD], "--list", "--seeds", "0", "0")
    first, second, third = (line.split() for line in capsys.readouterr().out.splitlines())
    assert first == ["trained", "good,fill=mean", str(folder("good"))]
    assert second[:2] == ["trained", "other,fill=zero"] and third[0] == "-"
    queue([GOOD], "--list", "--options", " ".join([*tiny, "--epochs", "2"]))  # another training
    assert capsys.readouterr().out.split()[0] == "-"


@mark.parametrize(
    "words, message",
    [
        (("--options", "--seed 5"), "--options has --seed, which the queue or a run sets itself"),
        (("--options", "--data elsewhere"), "--options has --data, which the queue"),
        (("--options", "--out=zzz"), "--options has --out, which the queue"),
        (("--options", "--no-resume"), "--options has --resume, which the queue"),
        (("--options", "--fill zero"), "--options has --fill, which the queue or a run sets itself"),
        (("--eval-options", "--name x"), "--eval-options has --name, which the queue"),
    ],
)
def test_words_that_the_queue_owns_are_refused(tiny_dataset, tmp_path, monkeypatch, words, message):
    """Each would put several runs into one folder, or call them what they are not; --list refuses them, too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(experiments.GRIDS, "task1", [GOOD])
    for more in ([], ["--list"]):
        with user_error(message):
            experiments.main(["task1", "--data", str(tiny_dataset), "=".join(words), *more])
    assert not Path("runs").exists()


@mark.parametrize(
    "text, message",
    [
        ("'abc", "invalid words value"),
        ("--epochs 2 stray", "'stray' is neither an option nor the value of an option"),
        ("--epochs=2 3", "'3' is neither an option"),
        ("other/model.pt", "'other/model.pt' is neither an option"),
    ],
)
@mark.parametrize("option", ["--options", "--eval-options"])
def test_words_that_are_no_options_are_refused(stderr, option, text, message):
    with exits(2):
        experiments.main(["task1", f"{option}={text}"])
    assert f"argument {option}: {message}" in stderr()


@mark.usefixtures("forks")
def test_a_training_that_is_busy_is_tried_again(queue, capsys, monkeypatch):
    """Another process is in the folder: the queue waits, and then trains; nothing has failed."""
    monkeypatch.setattr(experiments, "RETRY", 1)
    lock, start = [], experiments.Job.start

    def begin(job):
        if not lock:
            lock.append(hold(job.makes.parent))
        elif len(lock) == 1:
            lock.append(lock[0].release())
        start(job)

    monkeypatch.setattr(experiments.Job, "start", begin)
    queue([GOOD])
    out = capsys.readouterr().out
    assert "busy    good" in out and "done    good" in out and "failed" not in out
    assert (folder("good") / "model.pt").exists()


@fixture
def endless(tiny, tmp_path) -> str:
    """Return the --options of a training that does not end by itself."""
    return " ".join(
        [*tiny, "--cache", str(tmp_path / "cache"), "--epochs", "1000000", "--eval-every", "1000000"]
    )


@mark.usefixtures("forks")
def test_time_budget_stops_the_running_ones(queue, capsys, endless):
    queue([GOOD, OTHER], "--minutes", "0.04", "--jobs", "1", "--options", endless)
    out = capsys.readouterr().out
    assert (
        "stopped good,fill=mean seed 0: run the same command again to go on" in out
        and "start   other" not in out
    )
    assert not list(Path("runs").glob("**/model.pt"))


@mark.usefixtures("forks")
def test_a_training_that_cannot_save_when_it_stops_has_failed(queue, monkeypatch, capsys, endless):
    start = experiments.Job.start

    def full(path, state):
        raise UserError(f"cannot write {path}: No space left on device")

    def start_and_wait(job):
        start(job)
        while "million parameters" not in job.log.read_text():  # until it saves before it stops
            time.sleep(0.05)

    monkeypatch.setattr(trainer, "save_checkpoint", full)
    monkeypatch.setattr(experiments.Job, "start", start_and_wait)
    with user_error("failed: good,fill=mean seed 0 .*log.txt"):
        queue([GOOD], "--minutes", "0.04", "--options", endless)
    assert "stopped" not in capsys.readouterr().out
    assert "No space left" in (folder("good") / "log.txt").read_text()


@mark.usefixtures("forks")
def test_a_training_that_the_system_killed_is_called_so(queue, monkeypatch):
    """The kernel kills a process when memory runs out. The log of the process ends without a reason."""
    monkeypatch.setattr(TrainStep, "run", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with user_error("failed: good,.* .killed, perhaps for lack of memory: try fewer --jobs; .*log.txt"):
        queue([GOOD])


def test_data_sets_with_a_dot_in_their_names_have_their_own_folders(tiny_dataset, capsys):
    folders = []
    for name in ("photos.v1", "photos.v2"):
        tiny_dataset = tiny_dataset.rename(tiny_dataset.with_name(name))
        experiments.main(["task1", "--list", "--data", str(tiny_dataset)])
        folders.append(capsys.readouterr().out)
        assert name_of(tiny_dataset) == read_lists(tiny_dataset).name == name
    assert folders[0] == folders[1].replace("photos.v2", "photos.v1") != folders[1]


def test_unknown_row_is_an_error(queue):
    with user_error("--only nothing: grid task1 has no such run; it has good,fill=mean other,fill=zero"):
        queue([GOOD, OTHER], "--only", "nothing")


def test_rows_are_chosen_by_model_and_options():
    run = GOOD.but(epochs=60).tested(image_size=40)
    assert (
        run.fits("good") and run.fits("good,epochs=60,test_image_size=40") and not run.fits("good,epochs=30")
    )
    three = GOOD.but(widths="128,256,512")
    assert (
        three.fits("good,widths=128,256,512") and three.fits(str(three)) and not three.fits("good,widths=128")
    )
    assert not run.fits("other") and str(run) == "good,fill=mean,epochs=60,test_image_size=40"


def test_rows_without_a_training_of_their_own_train_what_they_need():
    args = experiments.make_parser().parse_args(["task1", "--only", "rgb-only", "--seeds", "0", "1"])
    args.dataset, args.channels = "tiny", RGB
    assert len(experiments.chosen_runs(args)) == 5  # as trained, and under four fill rules
    assert [job.name for job in experiments.training_jobs(args)] == [
        "rgb-only,sampler=none seed 0",
        "rgb-only,sampler=none seed 1",
    ]
    assert [run.options for run in experiments.trainings([LATE_FUSION])] == [{"channels": c} for c in "RGB"]
    # the RGB-trained network, not another
    for run in (SPECIALISTS["RGB"], SPECIALISTS["RGB"].but(epochs=60)):
        trained = experiments.trainings([run])[0]
        assert (trained.model, trained.test) == ("rgb-only", {}) and trained.options == {
            **RGB_ONLY.options,
            **({} if run is SPECIALISTS["RGB"] else {"epochs": 60}),
        }


@mark.usefixtures("forks")
def test_a_teacher_is_trained_before_its_student(queue, capsys):
    queue([Run("student", "student", teacher=RGB_ONLY), OTHER], "--only", "student", "--jobs", "2")
    out = capsys.readouterr().out
    assert out.index("start   rgb-only") < out.index("start   student") and "done    student seed 0" in out


def test_a_teacher_with_a_seed_teaches_all_seeds(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    student = Run("student", "student", teacher=RGB_ONLY.but(seed=0))
    monkeypatch.setitem(experiments.GRIDS, "task1", [RGB_ONLY, student])
    args = experiments.make_parser().parse_args(["task1", "--seeds", "1", "0"])
    args.dataset, args.channels = "tiny", RGB
    jobs = experiments.training_jobs(args)
    teacher = experiments.model_file(RGB_ONLY, args, 0)
    students = [job for job in jobs if job.name.startswith("student")]
    assert [job.makes for job in students] == [experiments.model_file(student, args, seed) for seed in (1, 0)]
    assert all(job.needs == [teacher] and str(teacher) in job.command for job in students)
    assert [job.makes for job in jobs].count(teacher) == 1 and len(jobs) == 4  # also RGB_ONLY with seed 1
    command = next(job.command for job in jobs if job.makes == teacher)
    assert command[command.index("--seed") + 1] == "0"
    # the seed of the teacher does not change the training's digest
    plain = Run("student", "student", teacher=RGB_ONLY)
    assert experiments.model_file(plain, args, 1) == students[0].makes


@mark.usefixtures("forks")
def test_a_grid_of_task_2_trains_and_evaluates(tiny_dataset, tmp_path, monkeypatch, tiny, read_rows):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(
        experiments.GRIDS, "task2", [Run("plain6-k5", "the small one", "ours", {"arch": "plain6-k5"})]
    )
    built, tiny = [], [word for word in tiny if word not in ("--arch", "resnet10")]
    monkeypatch.setattr(experiments.report_build, "main", built.append)
    cache = ["--cache", str(tmp_path / "cache")]
    experiments.main(
        [
            "task2",
            "--report",
            "--data",
            str(tiny_dataset),
            "--options",
            " ".join([*tiny, *cache]),
            "--eval-options",
            f"{' '.join(cache)} --results results --repeats 0",
        ]
    )
    rows = read_rows("results/task2/classifiers.csv")
    assert [(row["model"], row["label"], row["section"], row["split"]) for row in rows] == [
        ("plain6-k5", "the small one", "ours", split) for split in ("test", "val")
    ]
    assert built == [[]]


# ---------------------------------------------------------------- the lists


def test_a_grid_has_each_run_once_and_its_options_are_known():
    for grid, runs in GRIDS.items():
        assert len(distinct(runs)) == len(runs), grid
        for run in runs:
            config = resolve_run(task_of(grid), run, "48px-quarter", channels_of(grid))
            assert config.name == run.model and run.label and run.section


def test_names_hold_no_options():
    """A shallow network is called by what it is; the others by one word for all of their trainings."""
    for grid, runs in grids.task2.GRIDS.items():
        for run in runs:
            assert resolve_run("task2", run, "48px-quarter", name=None).name == run.model, (grid, str(run))
    models = {run.model for runs in grids.task1.GRIDS.values() for run in runs}
    assert CHANNELSET.model in models and len(models) < 25


def test_what_the_tables_and_figures_show_is_in_a_grid():
    for task in (grids.task1, grids.task2):
        queued = {(run.model, str(run), str(run.teacher)) for runs in task.GRIDS.values() for run in runs}
        rows = [variant for variants in task.ABLATIONS.values() for variant in variants]
        rows += task.ABLATION_ROWS
        tables = task.MAIN_ROWS.values() if task is grids.task2 else (task.MAIN_ROWS, *task.BUDGETS.values())
        rows += [row for table in tables for row in table]
        shown = [model for _, *models in rows for model in models]
        shown += [model for models in task.NAMED.values() for model in models]
        for model in shown:
            for run in model.values() if isinstance(model, dict) else [model]:
                assert (run.model, str(run), str(run.teacher)) in queued, str(run)


LABELS = {  # words of a label -> whether the options of the run agree with them
    r"(\d+/\d+) wide": lambda options, said: options["width"] == Fraction(said),
    r"(\d+) epochs": lambda options, said: options["epochs"] == int(said),
    r"\b(light|strong)\b": lambda options, said: options["augment"] == said,
    r"(\dx\d) stem": lambda options, said: options["stem"].startswith(said),
    r"stride.(\d)": lambda options, said: options["stem"].endswith(said),
    r"(no pooling)": lambda options, said: options["stem_pool"] is False,
}


def test_labels_of_rows_tell_the_options():
    small, one, two = "48px-quarter", grids.task1, grids.task2
    rows = [("task1", small, *row[:2]) for row in (*one.MAIN_ROWS, *one.ABLATION_ROWS, *one.PREDICTED)]
    rows += [("task1", small, *row) for family in one.BUDGETS.values() for row in family]
    rows += [("task2", preset, *row) for preset, main in two.MAIN_ROWS.items() for row in main]
    rows += [("task2", small, *row[:2]) for row in (*two.ABLATION_ROWS, *two.PREDICTED)]
    told = 0
    for task, preset, label, model in rows:
        for run in model.values() if isinstance(model, dict) else [model]:
            options = vars(resolve_run(task, run, preset))
            for words, agrees in LABELS.items():
                for said in re.findall(words, label):
                    assert agrees(options, said), (label, str(run))
                    told += 1
    assert told > 60


def test_a_run_of_one_task_is_refused_for_the_other():
    with user_error("is not for task2, which has no option embedding, fill"):
        resolve_run("task2", grids.task1.SLICED, "48px-quarter")


def test_a_grid_of_other_channels_than_the_data_is_named(queue, tiny_dataset, stdout):
    bands = ["task1-bands", "--data", str(tiny_dataset), "--list"]
    for more in ([], ["--only", f"{BANDS_WEIGHTED}"]):
        with user_error("no channel 'B02'; .*Grid task1-bands is for data with the channels B01, .*--data"):
            experiments.main([*bands, *more])
    assert stdout() == ""
    experiments.main([*bands, "--only", f"{BANDS_ZERO}"])  # takes any channels
    with user_error("--kernel-size 4: must be odd$"):  # other data would not help
        queue([Run("even", "the even one", "ours", {"kernel_size": 4})], "--list")


def test_the_place_of_the_results_is_told(queue, monkeypatch, capsys):
    queue([GOOD], "--list")
    args = experiments.make_parser().parse_args(["task1"])
    args.dataset, args.channels = "tiny", RGB
    trained = experiments.model_file(GOOD, args, 0)
    trained.parent.mkdir(parents=True)
    trained.touch()
    monkeypatch.setattr(experiments, "run_jobs", lambda *_: ([], []))
    capsys.readouterr()
    for words, told in (
        ("", "the results are in runs/results"),
        ("--results mine", "the results are in mine"),
        (f"--results {ROOT}/results", NEXT),
    ):
        experiments.main(["task1", "--data", "tiny", "--no-train", f"--eval-options={words}"])
        assert capsys.readouterr().out == f"0 runs to train\n{told}\n"


def test_a_finished_run_of_another_precision_is_not_taken(queue):
    """Both have the same folder, so the queue would skip the run and evaluate the other network."""
    queue([GOOD], "--list")
    args = experiments.make_parser().parse_args(["task1", "--only", "good"])
    args.dataset, args.channels = "tiny", RGB
    place = experiments.run_folder(GOOD, args, 0)
    place.mkdir(parents=True)
    (place / "model.pt").touch()
    (place / "config.json").write_text('{"amp": true}')
    experiments.main(["task1", "--data", "tiny", "--list", "--options=--amp"])
    for more in (["--list"], ["--no-train"], ["--no-eval"]):
        with user_error(f"--options has --no-amp, but {place} was trained without it"):
            experiments.main(["task1", "--data", "tiny", "--options=--amp --no-amp", *more])
    (place / "config.json").unlink()
    experiments.main(["task1", "--data", "tiny", "--list", "--options=--no-amp"])


def test_what_is_not_evaluated_is_told_and_the_report_is_built_all_the_same(queue, monkeypatch, capsys):
    built = []
    monkeypatch.setattr(experiments.report_build, "main", built.append)
    queue([GOOD, OTHER], "--list")
    capsys.readouterr()
    for more in ([], ["--report"]):
        experiments.main(["task1", "--data", "tiny", "--no-train", *more])
        assert capsys.readouterr().out == (
            "0 runs to train\nnot trained yet: 2 networks; run the same command again without --no-train\n"
        )
    assert built == [[]]
