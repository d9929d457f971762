"""Run a grid of trainings, several at once, then evaluate each model: one command repeats a table.

    python experiments.py task1 --jobs 2                     # every run of Task 1 that is not finished
    python experiments.py task1 --list                       # the runs of the grid, and which are finished
    python experiments.py task1 --only channelset            # one row of the table
    python experiments.py task2-long --only gated6-k3,width=0.3125,weight_decay=0.002
    python experiments.py task1 --minutes 60                 # stop after an hour; run it again to go on
    python experiments.py task1-ablations --no-train         # evaluate trained runs that have no results

At --preset 48px-quarter a training of Task 1 takes three to six minutes on one core. Finished runs are skipped, and
interrupted runs are resumed. Each run has a directory with its log: runs/DATA-PRESET/NAME-OPTIONS-sSEED.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from config import CONFIGS, PRESETS, folder_name, resolve_run
from data.dataset import find_dataset
from data.lists import ImageLists, name_of, read_lists
from engine.evaluation import results_folder
from engine.records import NEXT
from grids import GRIDS, channels_of, task_of
from grids.run import Run, distinct
from report import build as report_build
from storage.files import read_json
from utils import (
    BUSY,
    ENDS_WITH_STDIN,
    HUGE_PAGES,
    ROOT,
    ArgumentParser,
    UserError,
    as_arguments,
    cli,
    counted,
    parse_config,
    within,
)

RETRY = 10  # seconds until a run that another process trains is tried again
# options that the queue itself sets for every training, and for every evaluation
TRAINING_HAS = {"data", "threads", "out", "resume", "name", "seed", "preset", "help"}
EVALUATION_HAS = {"name", "label", "section", "skip-existing", "data", "threads", "help"}
EVALUATION = {"task1": "eval_channels.py", "task2": "eval_shallow.py"}


@dataclass
class Job:
    """Run a training or an evaluation as a process."""

    name: str
    command: list[str]
    log: Path
    makes: Path | None = None  # the checkpoint that a training makes; None for an evaluation
    needs: list[Path] = field(default_factory=list)  # checkpoints that must exist first
    process: subprocess.Popen | None = None
    not_before: float = 0.0  # time.monotonic() before which a busy job is not tried again

    @property
    def ready(self) -> bool:
        return time.monotonic() >= self.not_before and all(path.exists() for path in self.needs)

    def start(self) -> None:
        """Start the process; its output goes to `log`."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        # the job stops when its stdin closes, so also when this process dies. Huge pages are for trainings
        # alone: they would change the latency that an evaluation measures
        with open(self.log, "a") as log:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={**(HUGE_PAGES if self.makes else {}), **os.environ, ENDS_WITH_STDIN: "1"},
            )
        say("start", f"{self.name}: {self.log}")

    @property
    def place(self) -> str:
        """Return the name and the log, and say if the system killed the process, since the log cannot tell it."""
        killed = (
            "killed, perhaps for lack of memory: try fewer --jobs; " if self.process.returncode == -9 else ""
        )
        return f"{self.name} ({killed}{self.log})"


def say(event: str, text: str) -> None:
    """Print a line that begins with the time and the event."""
    print(f"{time.strftime('%H:%M:%S')} {event:7} {text}", flush=True)


def chosen_runs(args) -> list[Run]:
    """Return the runs of the grid that --only names (default: all).

    Raises:
        UserError: the grid has no such run.
    """
    runs = GRIDS[args.grid]
    for pattern in args.only:
        if not any(run.fits(pattern) for run in runs):
            raise UserError(
                f"--only {pattern}: grid {args.grid} has no such run; it has {' '.join(map(str, runs))}"
            )
    return [run for run in runs if not args.only or any(run.fits(pattern) for pattern in args.only)]


def trainings(runs: list[Run]) -> list[Run]:
    """Return the runs that must be trained for `runs`, teachers first."""
    needed = [part.trained for run in runs for part in (run.parts or (run,))]
    return distinct([run.teacher for run in needed if run.teacher] + needed)


def run_arguments(run: Run, args, seed: int) -> list[str]:
    """Return the arguments that decide what is trained: options, seed, preset, teacher, and the words of --options."""
    options = {"name": run.model, "seed": seed, "preset": args.preset, **run.options}
    if run.teacher:
        options["teacher"] = model_file(run.teacher, args, seed)
    return [*as_arguments(options), *args.options]


def words(text: str) -> list[str]:
    """Return the words of --options or --eval-options, split by the rules of a shell.

    Raises:
        ValueError: a quote is not closed.
        ArgumentTypeError: a word is neither an option nor the value of an option.
    """
    parts = shlex.split(text)
    for before, word in zip(["", *parts], parts):
        if not word.startswith("--") and ("=" in before or not before.startswith("--")):
            raise argparse.ArgumentTypeError(
                f"{word!r} is neither an option nor the value of an option; remove it"
            )
    return parts


def check_words(args) -> None:
    """Check that --options and --eval-options do not replace options that the queue sets.

    With such options a result would have the wrong name, or two runs would share a folder.

    Raises:
        UserError: an option of --options or --eval-options is set by the queue or by a run.
    """
    runs = chosen_runs(args)
    of_training = {
        key for run in trainings(runs) for key in (*run.options, *(["teacher"] if run.teacher else []))
    }
    of_evaluation = {key for run in runs for key in run.test}
    for option, given, owned in (
        ("--options", args.options, TRAINING_HAS | of_training),
        ("--eval-options", args.eval_options, EVALUATION_HAS | of_evaluation),
    ):
        flags = [word.split("=")[0] for word in given if word.startswith("--")]
        names = {flag.removeprefix("--").removeprefix("no-") for flag in flags}
        if taken := names & {key.replace("_", "-") for key in owned}:
            raise UserError(
                f"{option} has --{min(taken)}, which the queue or a run sets itself: leave it out"
            )


def check_channels(args) -> None:
    """Check that the data have the channels that the chosen runs name.

    Raises:
        UserError: a channel is missing; the message names the channels of the grid.
    """
    needed = channels_of(args.grid)
    for run in trainings(chosen_runs(args)):
        try:
            resolve_run(task_of(args.grid), run, args.preset, args.channels)
        except UserError as error:
            if args.channels.names == needed:  # the data are right, so an option of the run is wrong
                raise
            raise UserError(
                f"{error}. Grid {args.grid} is for data with the channels {', '.join(needed)}: give such data with "
                f"--data, or choose other runs with --only"
            ) from error


def check_precision(args) -> None:
    """Check that no finished training has another precision than --options names.

    The folder of a run does not depend on --amp. So a run of the other precision would be skipped as finished.

    Raises:
        UserError: there is such a training; the message names its folder.
    """
    amp = parse_config(CONFIGS[task_of(args.grid)], args.options).amp
    if amp is None:
        return
    flag = "--amp" if amp else "--no-amp"
    for seed in args.seeds:
        for run in trainings(chosen_runs(args)):
            folder = run_folder(run, args, seed)
            # the training script compares the options of an unfinished run
            if not (folder / "model.pt").exists():
                continue
            with suppress(OSError, ValueError, AttributeError):  # config.json is missing or damaged
                if read_json(folder / "config.json").get("amp") is not amp:
                    raise UserError(
                        f"--options has {flag}, but {folder} was trained without it, and a run of the other "
                        f"precision has the same folder: rename that folder, or leave out {flag}"
                    )


def run_folder(run: Run, args, seed: int) -> Path:
    """Return the directory of a training; it depends on the data and on all options, --options included."""
    task = task_of(args.grid)
    given, usual = vars(parse_config(CONFIGS[task], args.options)), vars(CONFIGS[task]())
    more = {key: value for key, value in given.items() if value != usual[key]}
    config = resolve_run(task, run, args.preset, args.channels, seed=seed, **more)
    return Path("runs") / f"{args.dataset}-{args.preset}" / folder_name(config)


def model_file(run: Run, args, seed: int) -> Path:
    """Return the path of the checkpoint that a training makes."""
    return run_folder(run, args, seed) / "model.pt"


def model_files(run: Run, args, seed: int) -> list[Path]:
    """Return the checkpoints that the evaluation of a run reads."""
    return [model_file(part.trained, args, seed) for part in (run.parts or (run,))]


def training_jobs(args) -> list[Job]:
    """Return a job for each training that is not finished. A finished training has a model.pt."""
    jobs: dict[Path, Job] = {}  # by folder, since several seeds may have the same teacher
    script = str(ROOT / f"train_{task_of(args.grid)}.py")
    for seed in args.seeds:
        for run in trainings(chosen_runs(args)):
            folder = run_folder(run, args, seed)
            options = {"data": args.data, "threads": args.threads, "out": folder, "resume": True}
            command = [sys.executable, script, *as_arguments(options), *run_arguments(run, args, seed)]
            needs = [model_file(run.teacher, args, seed)] if run.teacher else []
            name = f"{run} seed {run.options.get('seed', seed)}"
            jobs[folder] = Job(name, command, folder / "log.txt", folder / "model.pt", needs)
    return [job for job in jobs.values() if not job.makes.exists()]


def evaluation_jobs(args) -> list[Job]:
    """Return a job for the evaluation of each run.

    If the results are there already, the job does nothing, see `engine.evaluation.Evaluation.begin`.
    """
    jobs, script = [], str(ROOT / EVALUATION[task_of(args.grid)])
    for seed in args.seeds:
        for run in chosen_runs(args):
            models = model_files(run, args, seed)
            options = {
                "name": run.model,
                "label": run.label,
                "section": run.section,
                "skip_existing": True,
                "data": args.data,
                "threads": args.threads,
                # --section already implies the subsets
                **{key: value for key, value in run.test.items() if key != "subsets"},
                **({} if args.latency else {"repeats": 0}),
            }
            command = [sys.executable, script, *map(str, models), *as_arguments(options), *args.eval_options]
            log = models[0].parent / "evaluation.txt"
            jobs.append(Job(f"evaluation of {run} seed {seed}", command, log, needs=models))
    return jobs


def evaluation_folder(args, lists: ImageLists) -> Path:
    """Return the folder into which the evaluations write their results."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--results")
    given = parser.parse_known_args(args.eval_options)[0].results
    return Path(given or results_folder(task_of(args.grid), {"name": lists.name, "digest": lists.digest}))


def run_jobs(jobs: list[Job], at_once: int, minutes: float = float("inf")) -> tuple[list[Job], list[Job]]:
    """Run the jobs, at most `at_once` at a time. A job starts when the checkpoints that it needs exist.

    After `minutes` minutes the running jobs save and stop.

    Returns:
        the jobs that failed, and the jobs that are not finished.
    """
    deadline, waiting, running, failed = time.monotonic() + 60 * minutes, list(jobs), [], []
    try:
        while (waiting or running) and time.monotonic() < deadline:
            # meanwhile another queue may have trained a run that was busy
            waiting = [job for job in waiting if not (job.not_before and job.makes and job.makes.exists())]
            ready = [job for job in waiting if job.ready]
            if not (ready or running or any(job.not_before for job in waiting)):
                break  # the training of a teacher failed
            for job in sorted(ready, key=lambda job: job.makes is not None)[: at_once - len(running)]:
                waiting.remove(job)
                job.start()
                running.append(job)
            time.sleep(0.2)
            for job in [job for job in running if job.process.poll() is not None]:
                running.remove(job)
                if job.process.returncode == BUSY:
                    say("busy", f"{job.name}: another process works on it")
                    job.not_before = time.monotonic() + RETRY
                    waiting.append(job)
                    continue
                if job.process.returncode:
                    failed.append(job)
                say("failed" if job in failed else "done", job.name)
    finally:  # time is up, or Ctrl-C
        for job in running:
            job.process.terminate()
        for job in running:
            job.process.wait()
            if job.process.returncode == 2:  # its state cannot be saved, or it failed on its own
                failed.append(job)
                say("failed", job.name)
            else:
                say("stopped", f"{job.name}: run the same command again to go on")
    return failed, [job for job in running if job not in failed] + waiting


def show(args) -> None:
    """Print each run of the grid, with its folder and whether it is trained."""
    for seed in args.seeds:
        for run in chosen_runs(args):
            models = model_files(run, args, seed)
            done = "trained" if all(model.exists() for model in models) else "-"
            print(f"{done:8} {run}   {models[0].parent}")


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument(
        "grid", choices=GRIDS, help="name of the grid, a list of runs in grids/; --list prints the runs"
    )
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="NAME",
        help="only these runs of the grid: NAME or NAME,OPTION=VALUE,... (default: all)",
    )
    parser.add_argument("--list", action="store_true", help="print the runs and stop")
    parser.add_argument(
        "--seeds",
        nargs="+",
        type=within(0, 2**63 - 1),
        default=[0],
        metavar="N",
        help="seeds; every run is trained with each seed",
    )
    parser.add_argument(
        "--preset", choices=tuple(PRESETS), default="64px-half", help="defaults of the training options"
    )
    parser.add_argument("--data", default="auto", help="data set, as in the training scripts")
    parser.add_argument(
        "--jobs", type=within(1, 1000), default=2, help="number of trainings at the same time"
    )
    parser.add_argument("--threads", type=within(1, 4096), default=1, help="CPU threads of each training")
    parser.add_argument(
        "--minutes",
        type=within(0.0, float("inf"), float),
        default=float("inf"),
        help="stop the trainings after this many minutes (default: no limit)",
    )
    parser.add_argument(
        "--options",
        type=words,
        default="",
        help="more options for every training, such as --options='--epochs 2 --compile'",
    )
    parser.add_argument(
        "--eval-options",
        type=words,
        default="",
        help="more options for every evaluation, such as --eval-options='--repeats 0'",
    )
    parser.add_argument(
        "--latency",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="measure latency. Latency needs an idle machine, so the runs are evaluated one at a time, after all "
        "trainings. With --no-latency, each run is evaluated as soon as it is trained",
    )
    parser.add_argument(
        "--report",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="build the documents at the end, with python -m report.build",
    )
    parser.add_argument("--no-eval", action="store_true", help="train only")
    parser.add_argument("--no-train", action="store_true", help="evaluate only")
    return parser


def main(argv: list[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    args.seeds = list(dict.fromkeys(args.seeds))  # a seed given twice would be evaluated twice
    source = find_dataset(args.data)
    lists = read_lists(source)
    args.dataset, args.channels = name_of(source), lists.channels
    check_words(args)
    check_channels(args)
    check_precision(args)
    if args.list:
        return show(args)
    # SIGTERM acts like Ctrl-C: the trainings save, then stop. Only the main thread may set a signal handler.
    with suppress(ValueError):
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    jobs = [] if args.no_train else training_jobs(args)
    evaluations = [] if args.no_eval else evaluation_jobs(args)
    print(f"{len(jobs)} runs to train", flush=True)
    # the latency is right only on a machine that does nothing else
    together = jobs if args.latency else jobs + evaluations
    failed, left = run_jobs(together, args.jobs, args.minutes)
    left = evaluations if args.latency else [job for job in left if job.makes is None]
    failed += run_jobs([job for job in left if job.ready], 1 if args.latency else args.jobs)[0]
    missing = {
        file for job in jobs + evaluations for file in (job.makes, *job.needs) if file and not file.exists()
    }
    if missing:
        how = " without --no-train" if args.no_train else ""
        print(f"not trained yet: {counted(len(missing), 'network')}; run the same command again{how}")
    if args.report:
        report_build.main([])
    elif any(missing.isdisjoint(job.needs) for job in evaluations):
        folder = evaluation_folder(args, lists)
        published = folder.resolve() == (ROOT / "results").resolve()
        print(NEXT if published else f"the results are in {folder}")
    if failed:
        raise UserError("failed: " + ", ".join(job.place for job in failed))


if __name__ == "__main__":
    cli(main)
