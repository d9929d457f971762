"""Run a grid of trainings, several at once, then evaluate each: one command repeats a table.

    python experiments.py task1 --jobs 2                     # every run of Task 1 that is not finished
    python experiments.py task1 --list                       # which runs it has, and which are finished
    python experiments.py task1 --only channelset            # one row of the table
    python experiments.py task2-long --only gated6-k3,width=0.3125,weight_decay=0.002
    python experiments.py task1 --minutes 60                 # stop after an hour; the same command goes on
    python experiments.py task1-ablations --no-train         # evaluate what is trained and has no result yet

At --preset 48px-quarter a training of Task 1 takes three to six minutes on a core. Finished runs are skipped
and interrupted ones resumed. Each run has its directory runs/DATA-PRESET/NAME-OPTIONS-sSEED with its log.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from config import CONFIGS, PRESETS, TrainConfig, folder_name, training_name
from data.lists import find_dataset, read_channels
from engine.records import NEXT
from grids import GRIDS, task_of
from grids.run import Run, distinct
from report import build as report_build
from utils import BUSY, ENDS_WITH_STDIN, ROOT, ArgumentParser, UserError, cli, parse_config, within

RETRY = 10  # seconds until a run that another process trains is tried again
# options that the queue gives to every training, and to every evaluation
TRAINING_HAS = {"data", "threads", "out", "resume", "name", "seed", "preset", "help"}
EVALUATION_HAS = {"name", "label", "section", "skip-existing", "report", "data", "threads", "help"}
EVALUATION = {"task1": "eval_channels.py", "task2": "eval_shallow.py"}


@dataclass
class Job:
    """A training or an evaluation."""

    name: str
    command: list[str]
    log: Path
    makes: Path | None = None  # a checkpoint; an evaluation makes none
    needs: list[Path] = field(default_factory=list)  # checkpoints that must be there first
    process: subprocess.Popen | None = None
    not_before: float = 0.0  # of time.monotonic: it was busy until then

    @property
    def ready(self) -> bool:
        return time.monotonic() >= self.not_before and all(path.exists() for path in self.needs)

    def start(self) -> None:
        """Raises UserError where its folder cannot be written."""
        try:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with open(self.log, "a") as log:  # it ends with this process, whatever ends that
                self.process = subprocess.Popen(
                    self.command,
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    env={**os.environ, ENDS_WITH_STDIN: "1"},
                )
        except OSError as error:
            raise UserError(f"cannot start {self.name}: {error}") from error
        print(f"{time.strftime('%H:%M:%S')} start   {self.name}: {self.log}", flush=True)


def chosen_runs(args) -> list[Run]:
    """The runs of the grid that --only names.

    Raises:
        UserError: there is no such run.
    """
    runs = GRIDS[args.grid]
    for wanted in args.only or ():
        if not any(run.fits(wanted) for run in runs):
            raise UserError(f"--only {wanted}: grid {args.grid} has {' '.join(map(str, runs))}")
    return [run for run in runs if not args.only or any(run.fits(wanted) for wanted in args.only)]


def trainings(runs: list[Run]) -> list[Run]:
    """What has to be trained for the runs, teachers first."""
    needed = [part.trained for run in runs for part in (run.parts or (run,))]
    return distinct([run.teacher for run in needed if run.teacher] + needed)


def more_options(run: Run, args, seed: int) -> dict:
    """What the queue adds to a run's options: its teacher's checkpoint."""
    return {"teacher": str(run_folder(run.teacher, args, seed) / "model.pt")} if run.teacher else {}


def own_words(run: Run, args, seed: int) -> list[str]:
    """What the training script is told of the run."""
    return [
        "--name",
        run.model,
        "--seed",
        str(seed),
        "--preset",
        args.preset,
        *words({**run.options, **more_options(run, args, seed)}),
        *given_words(args.options, "--options"),
    ]


def given_words(text: str, option: str) -> list[str]:
    """The words of --options or --eval-options, as a shell splits them.

    Raises:
        UserError: a quote is not closed, or a word is neither an option nor the value of one.
    """
    try:
        found = shlex.split(text)
    except ValueError as error:
        raise UserError(f"{option} {text!r}: {error}; close each quote") from error
    for before, word in zip(["", *found], found):
        if not word.startswith("--") and ("=" in before or not before.startswith("--")):
            raise UserError(f"{option}: {word!r} is no option, nor the value of one")
    return found


def named_options(found: list[str]) -> set[str]:
    """Names of the options in a command line; --no-gates is "gates"."""
    names = {word[2:].split("=")[0] for word in found if word.startswith("--")}
    return {name.removeprefix("no-") for name in names}


def check_words(args) -> None:
    """Refuse what would run something else than the queue tells, or two runs as one.

    Raises:
        UserError: --options or --eval-options have an option that the queue or one of its runs sets.
    """
    runs = chosen_runs(args)
    trained = {
        str(run): {**run.options, **({"teacher": ""} if run.teacher else {})} for run in trainings(runs)
    }
    tested = {str(run): run.test for run in runs}
    for option, text, own, options_of in (
        ("--options", args.options, TRAINING_HAS, trained),
        ("--eval-options", args.eval_options, EVALUATION_HAS, tested),
    ):
        named = named_options(given_words(text, option))
        for run, has in {"queue": dict.fromkeys(own, ""), **options_of}.items():
            for name in sorted(named & named_options(words(has))):
                raise UserError(
                    f"{option} has --{name}, which the {'run ' * (run != 'queue')}{run} sets itself: leave it out"
                )


def training_config(run: Run, args, seed: int) -> TrainConfig:
    """Returns the options of a run's training, with those of --options, as its script resolves them."""
    config = parse_config(CONFIGS[task_of(args.grid)], ["--device", "cpu", *own_words(run, args, seed)])
    if run.teacher:
        config.taught_by = training_name(training_config(run.teacher, args, seed))
    return config.resolve(args.channels)


def run_folder(run: Run, args, seed: int) -> Path:
    """Returns the directory of a training, which depends on its data and on all of its options."""
    return Path("runs") / f"{args.dataset}-{args.preset}" / folder_name(training_config(run, args, seed))


def words(options: dict) -> list[str]:
    """Options as on the command line: {"image_size": 48, "gates": False} -> --image-size 48 --no-gates."""
    flags = {key: key.replace("_", "-") for key in options}
    return [
        word
        for key, value in options.items()
        for word in (
            [f"--{'' if value else 'no-'}{flags[key]}"]
            if isinstance(value, bool)
            else [f"--{flags[key]}", str(value)]
        )
    ]


def training_jobs(args) -> list[Job]:
    """What is not trained yet."""
    jobs, task = [], task_of(args.grid)
    for seed in args.seeds:
        for run in trainings(chosen_runs(args)):
            folder = run_folder(run, args, seed)
            teacher = more_options(run, args, seed).get("teacher")
            command = [
                sys.executable,
                str(ROOT / f"train_{task}.py"),
                "--data",
                args.data,
                "--threads",
                str(args.threads),
                "--out",
                str(folder),
                "--resume",
                *own_words(run, args, seed),
            ]
            jobs.append(
                Job(
                    f"{run} seed {seed}",
                    command,
                    folder / "log.txt",
                    folder / "model.pt",
                    [Path(teacher)] if teacher else [],
                )
            )
    return [job for job in jobs if not job.makes.exists()]


def evaluation_jobs(args) -> list[Job]:
    """The evaluations of all runs; one that has its results already does nothing."""
    jobs, task = [], task_of(args.grid)
    for seed in args.seeds:
        for run in chosen_runs(args):
            models = [run_folder(part.trained, args, seed) / "model.pt" for part in (run.parts or (run,))]
            # subsets follow from the section
            test = {key: value for key, value in run.test.items() if key != "subsets"}
            command = [
                sys.executable,
                str(ROOT / EVALUATION[task]),
                *map(str, models),
                "--name",
                run.model,
                "--label",
                run.label,
                "--section",
                run.section,
                "--skip-existing",
                "--data",
                args.data,
                "--threads",
                str(args.threads),
                *words(test),
                *([] if args.latency else ["--repeats", "0"]),
                *given_words(args.eval_options, "--eval-options"),
            ]
            jobs.append(
                Job(
                    f"evaluation of {run} seed {seed}",
                    command,
                    models[0].parent / "evaluation.txt",
                    None,
                    models,
                )
            )
    return jobs


def run_jobs(jobs: list[Job], at_once: int, minutes: float = float("inf")) -> tuple[list[Job], list[Job]]:
    """Run the jobs, `at_once` at a time, as soon as what they need is there; after `minutes` the running
    ones save and stop.

    Returns the failed ones, and those that were not finished.
    """
    deadline, waiting, running, failed = time.monotonic() + 60 * minutes, list(jobs), [], []
    try:
        while (waiting or running) and time.monotonic() < deadline:
            # another queue may have trained it meanwhile
            waiting = [job for job in waiting if not (job.not_before and job.makes and job.makes.exists())]
            ready = [job for job in waiting if job.ready]
            if not ready and not running and not any(job.not_before for job in waiting):
                ready = [job for job in waiting if job.makes][:1]  # what it needs has failed: let it say so
                if not ready:
                    break
            for job in sorted(ready, key=lambda job: job.makes is not None)[: at_once - len(running)]:
                waiting.remove(job)
                job.start()
                running.append(job)
            time.sleep(0.2)
            for job in [job for job in running if job.process.poll() is not None]:
                running.remove(job)
                if job.process.returncode == BUSY:
                    print(
                        f"{time.strftime('%H:%M:%S')} busy    {job.name}: another process is at it",
                        flush=True,
                    )
                    job.not_before = time.monotonic() + RETRY
                    waiting.append(job)
                    continue
                if job.process.returncode:
                    failed.append(job)
                print(
                    f"{time.strftime('%H:%M:%S')} {'failed ' if job in failed else 'done   '} {job.name}",
                    flush=True,
                )
    finally:  # time is up, or Ctrl-C
        for job in running:
            job.process.terminate()
        for job in running:
            job.process.wait()
            print(
                f"{time.strftime('%H:%M:%S')} stopped {job.name}: the same command goes on with it",
                flush=True,
            )
    return failed, running + waiting


def show(args) -> None:
    """Print the runs of the grid: whether each is trained, and its training's folder."""
    for seed in args.seeds:
        for run in chosen_runs(args):
            folders = [run_folder(part.trained, args, seed) for part in (run.parts or (run,))]
            done = "trained" if all((folder / "model.pt").exists() for folder in folders) else "-"
            print(f"{done:8} {run}   {folders[0]}")


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("grid", choices=GRIDS, help="which runs")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="NAME",
        help="these runs of it: NAME or NAME,OPTION=VALUE,...; default: all",
    )
    parser.add_argument("--list", action="store_true", help="print the runs and stop")
    parser.add_argument(
        "--seeds", nargs="+", type=within(0, 2**63 - 1), default=[0], metavar="N", help="seeds, one run each"
    )
    parser.add_argument("--preset", choices=tuple(PRESETS), default="64px-half", help="sizes and lengths")
    parser.add_argument("--data", default="auto", help="as in the training scripts")
    parser.add_argument("--jobs", type=within(1, 1000), default=2, help="trainings at once")
    parser.add_argument("--threads", type=within(1, 4096), default=1, help="CPU threads of each training")
    parser.add_argument(
        "--minutes",
        type=within(0.0, float("inf"), float),
        default=float("inf"),
        help="time budget for training",
    )
    parser.add_argument(
        "--options", default="", help="further options of every training, in quotes, such as '--epochs 2'"
    )
    parser.add_argument(
        "--eval-options", default="", help="further options of every evaluation, such as '--repeats 0'"
    )
    parser.add_argument(
        "--latency",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="measure latency, which needs a quiet machine: evaluate one after the other when "
        "all is trained; with --no-latency, each as soon as it is trained",
    )
    parser.add_argument(
        "--report",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="build the documents at the end, as python -m report.build does",
    )
    parser.add_argument("--no-eval", action="store_true", help="train only")
    parser.add_argument("--no-train", action="store_true", help="evaluate only")
    return parser


def main(argv: list[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    source = find_dataset(args.data)
    args.dataset, args.channels = source.stem, read_channels(source)
    check_words(args)
    if args.list:
        return show(args)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the trainings save, then stop
    jobs = [] if args.no_train else training_jobs(args)
    evaluations = [] if args.no_eval else evaluation_jobs(args)
    print(f"{len(jobs)} runs to train", flush=True)
    # a latency is measured on a machine that does nothing else
    together = jobs if args.latency else jobs + evaluations
    failed, left = run_jobs(together, args.jobs, args.minutes)
    left = evaluations if args.latency else [job for job in left if job.makes is None]
    failed += run_jobs([job for job in left if job.ready], 1 if args.latency else args.jobs)[0]
    if evaluations and args.report:
        report_build.main([])
    elif evaluations:
        print(NEXT)
    if failed:
        raise UserError("failed: " + ", ".join(f"{job.name} ({job.log})" for job in failed))


if __name__ == "__main__":
    cli(main)
