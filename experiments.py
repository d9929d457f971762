"""Run a grid of trainings, several at once, then evaluate each: one command repeats a table.

    python experiments.py task1 --jobs 2            # every run of Task 1 that is not finished
    python experiments.py task1 --only linear       # one row of the table
    python experiments.py task1 --minutes 60        # stop after an hour; the same command goes on
    python experiments.py task1-ablations --no-train       # evaluate what is trained and has no result yet

Finished runs are skipped and interrupted ones resumed. Each run has its directory runs/TIER/NAME-sSEED with its log.
"""
from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import eval_channels
import eval_classifiers
from config import TIERS
from grids import EVALUATIONS, GRIDS
from report import build as report_build
from utils import ROOT, ArgumentParser, UserError, cli

EVALUATE = {"task1": eval_channels.main, "task2": eval_classifiers.main}


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


def make_jobs(args) -> list[Job]:
    needed = {name: [name] for name in GRIDS[args.grid]} | {name: runs.split() for name, runs, _ in EVALUATIONS.get(args.grid, [])}
    unknown = [name for name in args.only or () if name not in needed]
    if unknown:
        raise UserError(f"--only {unknown[0]}: grid {args.grid} has {', '.join(needed)}")
    task = task_of(args.grid)
    commands = {name: options for grid, rows in GRIDS.items() if task_of(grid) == task for name, options in rows.items()}
    names, jobs = [run for name in args.only or needed for run in needed[name]], []
    teachers = [teacher for name in names for teacher in re.findall(r"\{runs\}/(.+)-s\{seed\}/", commands[name])]
    names = list(dict.fromkeys([*teachers, *names]))
    for seed in args.seeds:
        for name in names:
            folder = run_folder(args.tier, name, seed)
            options = commands[name].format(runs=folder.parent, seed=seed)
            teacher = re.search(r"--teacher (\S+)", options)
            jobs.append(Job(f"{name} seed {seed}", folder, [
                sys.executable, str(ROOT / f"train_{task}.py"), "--name", name, "--seed", str(seed), "--tier", args.tier,
                "--data", args.data, "--threads", str(args.threads), "--out", str(folder), "--resume",
                *shlex.split(options), *shlex.split(args.options)], Path(teacher[1]) if teacher else None))
    return jobs


def task_of(grid: str) -> str:
    """The task that a grid is of: what is before the first dash of its name."""
    return grid.split("-")[0]


def run_folder(tier: str, name: str, seed: int) -> Path:
    return Path("runs") / tier / f"{name}-s{seed}"


def train(jobs: list[Job], at_once: int, minutes: float) -> list[Job]:
    """Run the jobs, `at_once` at a time; after `minutes` the running ones save and stop. Returns the failed ones."""
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
                print(f"{time.strftime('%H:%M:%S')} {'failed ' if job in failed else 'done   '} {job.name}", flush=True)
    finally:   # time is up, or Ctrl-C
        for job in running:
            job.process.terminate()
        for job in running:
            job.process.wait()
            print(f"{time.strftime('%H:%M:%S')} stopped {job.name}: the same command goes on with it", flush=True)
    return failed


def evaluate(args) -> None:
    """Evaluate every finished run that has no result yet, one after the other: latency needs a quiet machine."""
    rows = [(name, name, "") for name in GRIDS[args.grid]] + EVALUATIONS.get(args.grid, [])
    for seed in args.seeds:
        for name, trained, options in rows:
            models = [run_folder(args.tier, run, seed) / "model.pt" for run in trained.split()]
            if name in (args.only or [name]) and all(model.exists() for model in models):
                EVALUATE[task_of(args.grid)]([
                    *map(str, models), "--name", name, "--skip-existing", "--no-report", "--data", args.data,
                    "--threads", str(args.threads), *shlex.split(options), *shlex.split(args.eval_options)])
    report_build.main([])


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("grid", choices=GRIDS, help="which runs")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these rows of the table; default: all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], metavar="N", help="seeds, one run each")
    parser.add_argument("--tier", choices=tuple(TIERS), default="cpu", help="preset of sizes and lengths")
    parser.add_argument("--data", default="auto", help="as in the training scripts")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at once")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each training")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="time budget for training")
    parser.add_argument("--options", default="", help="further options of every training, in quotes, such as '--epochs 2'")
    parser.add_argument("--eval-options", default="", help="further options of every evaluation, such as '--repeats 0'")
    parser.add_argument("--no-eval", action="store_true", help="train only")
    parser.add_argument("--no-train", action="store_true", help="evaluate only")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)   # as Ctrl-C: the trainings save, then stop
    jobs = [job for job in make_jobs(args) if not job.finished and not args.no_train]
    print(f"{len(jobs)} runs to train", flush=True)
    failed = train(jobs, args.jobs, args.minutes)
    if not args.no_eval:
        evaluate(args)
    if failed:
        raise UserError("failed: " + ", ".join(f"{job.name} ({job.folder / 'log.txt'})" for job in failed))


if __name__ == "__main__":
    cli(main)
