"""Run a grid of trainings, several at once, then evaluate each: one command repeats a table.

    python experiments.py task1 --jobs 2                     # every run of Task 1 that is not finished
    python experiments.py task1 --list                       # which runs it has, and which are finished
    python experiments.py task1 --only channelset            # one row of the table
    python experiments.py task2-long --only gated6-k3,width=0.3125,weight_decay=0.002
    python experiments.py task1 --minutes 60                 # stop after an hour; the same command goes on
    python experiments.py task1-ablations --no-train         # evaluate what is trained and has no result yet

At --preset 48px-quarter a training of Task 1 takes three to six minutes on a core. Finished runs are skipped
and interrupted ones resumed. Each run has its directory runs/PRESET/NAME-OPTIONS-sSEED with its log.
"""
from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from config import CONFIGS, PRESETS, run_folder_name
from grids import GRIDS, task_of
from grids.run import Run, distinct
from report import build as report_build
from utils import ROOT, ArgumentParser, UserError, cli, parse_config

EVALUATION = {"task1": "eval_channels.py", "task2": "eval_shallow.py"}


@dataclass
class Job:
    """One training and the directory it writes."""
    name: str
    folder: Path
    command: list[str]
    teacher: Path | None = None   # a checkpoint that must be there first
    process: subprocess.Popen | None = None

    @property
    def finished(self) -> bool:
        return (self.folder / "model.pt").exists()

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "log.txt", "a") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log)
        print(f"{time.strftime('%H:%M:%S')} start   {self.name}: {self.folder / 'log.txt'}", flush=True)


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
    return ["--name", run.model, "--seed", str(seed), "--preset", args.preset,
            *words({**run.options, **more_options(run, args, seed)}), *shlex.split(args.options)]


def run_folder(run: Run, args, seed: int) -> Path:
    """Directory of a training: its own for all options that it has, those of --options too."""
    config = parse_config(CONFIGS[task_of(args.grid)],
                          ["--device", "cpu", *own_words(run, args, seed)]).resolve()
    return Path("runs") / args.preset / run_folder_name(config)


def words(options: dict) -> list[str]:
    """Options as on the command line: {"image_size": 48, "gates": False} -> --image-size 48 --no-gates."""
    flags = {key: key.replace("_", "-") for key in options}
    return [word for key, value in options.items() for word in (
        [f"--{'' if value else 'no-'}{flags[key]}"] if isinstance(value, bool) else [f"--{flags[key]}",
                                                                                     str(value)])]


def make_jobs(args) -> list[Job]:
    jobs, task = [], task_of(args.grid)
    for seed in args.seeds:
        for run in trainings(chosen_runs(args)):
            folder = run_folder(run, args, seed)
            teacher = more_options(run, args, seed).get("teacher")
            jobs.append(Job(f"{run} seed {seed}", folder, [
                sys.executable, str(ROOT / f"train_{task}.py"), "--data", args.data, "--threads",
                str(args.threads),
                "--out", str(folder), "--resume", *own_words(run, args, seed)],
                            Path(teacher) if teacher else None))
    return jobs


def train(jobs: list[Job], at_once: int, minutes: float) -> list[Job]:
    """Run the jobs, `at_once` at a time; after `minutes` the running ones save and stop.

    Returns the failed ones.
    """
    deadline, waiting, running, failed = time.monotonic() + 60 * minutes, list(jobs), [], []
    try:
        while (waiting or running) and time.monotonic() < deadline:
            ready = [job for job in waiting if job.teacher is None or job.teacher.exists()]
            if not ready and not running:
                ready = waiting[:1]   # its teacher failed: let it say so
            for job in ready[:at_once - len(running)]:
                waiting.remove(job)
                running.append(job)
                job.start()
            time.sleep(1)
            for job in [job for job in running if job.process.poll() is not None]:
                running.remove(job)
                failed += [job] * (job.process.returncode != 0)
                print(f"{time.strftime('%H:%M:%S')} {'failed ' if job in failed else 'done   '} {job.name}",
                      flush=True)
    finally:   # time is up, or Ctrl-C
        for job in running:
            job.process.terminate()
        for job in running:
            job.process.wait()
            print(f"{time.strftime('%H:%M:%S')} stopped {job.name}: the same command goes on with it",
                  flush=True)
    return failed


def evaluate(args) -> list[str]:
    """Evaluate every finished run that has no result yet, one after the other: latency needs a quiet machine.

    Returns the names of those that could not be evaluated.
    """
    failed, task = [], task_of(args.grid)
    for seed in args.seeds:
        for run in chosen_runs(args):
            models = [run_folder(part.trained, args, seed) / "model.pt" for part in (run.parts or (run,))]
            if all(model.exists() for model in models):
                # follow from the section
                test = {key: value for key, value in run.test.items() if key != "subsets"}
                done = subprocess.run([
                    sys.executable, str(ROOT / EVALUATION[task]), *map(str, models), "--name", run.model,
                    "--label",
                    run.label, "--section", run.section, "--skip-existing", "--no-report", "--data",
                    args.data,
                    "--threads", str(args.threads), *words(test), *shlex.split(args.eval_options)])
                failed += [f"{run} seed {seed} (evaluation)"] * (done.returncode != 0)
    report_build.main([])
    return failed


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
    parser.add_argument("--only", nargs="+", metavar="NAME",
                        help="these runs of it: NAME or NAME,OPTION=VALUE,...; "
                                                                  "default: all")
    parser.add_argument("--list", action="store_true", help="print the runs and stop")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], metavar="N", help="seeds, one run each")
    parser.add_argument("--preset", choices=tuple(PRESETS), default="64px-half", help="sizes and lengths")
    parser.add_argument("--data", default="auto", help="as in the training scripts")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at once")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each training")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="time budget for training")
    parser.add_argument("--options", default="", help="further options of every training, in quotes, such as "
                                                      "'--epochs 2'")
    parser.add_argument("--eval-options", default="",
                        help="further options of every evaluation, such as '--repeats 0'")
    parser.add_argument("--no-eval", action="store_true", help="train only")
    parser.add_argument("--no-train", action="store_true", help="evaluate only")
    return parser


def main(argv: list[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    if args.list:
        return show(args)
    signal.signal(signal.SIGTERM, signal.default_int_handler)   # as Ctrl-C: the trainings save, then stop
    jobs = [job for job in make_jobs(args) if not job.finished and not args.no_train]
    print(f"{len(jobs)} runs to train", flush=True)
    failed = [f"{job.name} ({job.folder / 'log.txt'})" for job in train(jobs, args.jobs, args.minutes)]
    if not args.no_eval:
        failed += evaluate(args)
    if failed:
        raise UserError("failed: " + ", ".join(failed))


if __name__ == "__main__":
    cli(main)
