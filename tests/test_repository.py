"""What the repository promises about itself."""
import dataclasses
import json
import re
import shlex
import subprocess

import pytest

from config import differing_options, option_defaults
from grids import EVALUATIONS, GRIDS
from report import build
from report.records import run_name
from report.task1.rows import RESULTS
from train_task1 import Task1Config
from utils import ROOT, parse_config


def test_tables_are_what_the_results_give(capsys):
    build.main(["--check"])
    assert "up to date" in capsys.readouterr().out


def test_ci_runs_the_readmes_test_command():
    assert "make test" in (ROOT / "README.md").read_text() and (ROOT / ".ci" / "run").read_text().endswith("make test\n")


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
def test_no_pictures_weights_or_absolute_paths_are_tracked():
    tracked = subprocess.run(["git", "-C", ROOT, "ls-files"], capture_output=True, text=True, check=True).stdout.split()
    assert not [name for name in tracked if re.search(r"\.(jpe?g|tiff?|npz|npy|zip|pt|pth|u8)$", name, re.IGNORECASE)]
    for name in tracked:
        if name.endswith((".py", ".md", ".json", ".csv", ".txt")):
            found = re.search(r"(?<![\w.~])/(home|root|work|tmp|Users)/\w+", (ROOT / name).read_text(encoding="utf-8"))
            assert not found, f"{name}: absolute path {found[0]}"


def test_results_have_their_provenance():
    """Each row of the table has a run record with configuration, seed, commit, hardware and data hash beside it."""
    table = ROOT / "results" / "task1_channels.csv"
    rows = RESULTS.read(table)
    assert rows
    for row in rows:
        record = json.loads((ROOT / "results" / "runs" / f"{run_name('task1', row)}.json").read_text())
        assert re.fullmatch(r"[0-9a-f]{40}", record["trained_with"]["commit"]) and record["trained_with"]["hardware"]
        assert re.fullmatch(r"[0-9a-f]{64}", record["dataset_digest"]) and record["config"]["seed"] == row["seed"]
        kept = next(r for r in record["splits"][row["split"]] if r["subset"] == row["subset"])
        assert all(abs(kept[key] - row[key]) < 0.006 for key in ("top1_pct", "ci95_low", "ci95_high"))


def test_the_queue_repeats_the_published_runs():
    """A row's command still means the options that its record has, so that `experiments.py --only` can replace it."""
    commands = {name: options for grid in GRIDS.values() for name, options in grid.items()}
    trained = {name: runs.split()[0] for rows in EVALUATIONS.values() for name, runs, _ in rows}
    defaults, records = option_defaults(Task1Config), sorted((ROOT / "results" / "runs").glob("*.json"))
    assert records
    for path in records:
        record = json.loads(path.read_text())
        run = trained.get(record["model"], record["model"])
        options = commands[run].format(runs=f"runs/{record['tier']}", seed=record["seed"])
        words = [*shlex.split(options), "--seed", str(record["seed"]), "--tier", record["tier"], "--device", "cpu"]
        ours = {**dataclasses.asdict(parse_config(Task1Config, words).resolve()), "amp": True}   # amp follows from the processor
        assert differing_options(ours, record["config"], defaults) == [], path.name
