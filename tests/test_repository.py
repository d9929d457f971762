"""What the repository promises about itself."""
import dataclasses
import json
import re
import shlex
import subprocess
import sys
import types

import pytest

import utils
from config import differing_options, option_defaults
from depth import count_depth
from grids import EVALUATIONS, GRIDS
from latency import rebuild
from measure import count_params
from report import build
from report.records import load_records, run_name
from report.task1 import content as task1
from report.task2 import content as task2
from train_task1 import Task1Config
from train_task2 import SHALLOW_ROLES, Task2Config
from utils import ROOT, parse_config

TABLES = {"task1": task1, "task2": task2}
CONFIGS = {"task1": Task1Config, "task2": Task2Config}


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
    """Each row of a table has a run record with configuration, seed, commit, hardware and data hash beside it."""
    for task, table in TABLES.items():
        rows = table.load_rows(ROOT)
        assert rows or not (ROOT / table.FILE).exists()
        for row in rows:
            record = json.loads((ROOT / "results" / "runs" / f"{run_name(task, row)}.json").read_text())
            assert record.get("task", "task1") == task
            assert re.fullmatch(r"[0-9a-f]{40}", record["trained_with"]["commit"]) and record["trained_with"]["hardware"]
            assert re.fullmatch(r"[0-9a-f]{64}", record["dataset_digest"]) and record["config"]["seed"] == row["seed"]
            kept = next(r for r in record["splits"][row["split"]] if r.get("subset") == row.get("subset"))
            assert all(abs(kept[key] - row[key]) < 0.006 for key in ("top1_pct", "ci95_low", "ci95_high"))
            assert task == "task1" or (record["strict_depth"], record["train_depth"]) == (row["strict_depth"], row["train_depth"])


def test_a_rows_name_stands_for_one_run():
    names = [name for grid in GRIDS.values() for name in grid]
    assert len(names) == len(set(names))


def test_the_queue_repeats_the_published_runs():
    """A row's command still means the options that its record has, so that `experiments.py --only` can replace it."""
    commands = {name: options for grid in GRIDS.values() for name, options in grid.items()}
    trained = {name: runs.split()[0] for rows in EVALUATIONS.values() for name, runs, _ in rows}
    records = sorted((ROOT / "results" / "runs").glob("*.json"))
    assert records
    for path in records:
        record = json.loads(path.read_text())
        config = CONFIGS[record.get("task", "task1")]
        run = trained.get(record["model"], record["model"])
        options = commands[run].format(runs=f"runs/{record['tier']}", seed=record["seed"])
        words = [*shlex.split(options), "--seed", str(record["seed"]), "--tier", record["tier"], "--device", "cpu"]
        ours = {**dataclasses.asdict(parse_config(config, words).resolve()), "amp": True}   # amp follows from the processor
        assert differing_options(ours, record["config"], option_defaults(config)) == [], path.name
        assert ("task2-" in path.name) == (config is Task2Config)


def test_published_networks_have_the_depth_and_size_of_the_results():
    rows, seen = task2.load_rows(ROOT), set()
    records = load_records(ROOT, "task2")
    for row in rows:
        name = row["model"].split("+")[0]   # on other image sizes it is the same network
        if name not in seen:
            seen.add(name)
            net = rebuild(records[row["tier"], row["dataset"], row["image_size"], row["model"], row["seed"]]).eval()
            assert count_depth(net, (3, row["image_size"], row["image_size"])).strict == row["strict_depth"], name
            assert count_params(net) == row["params"], name
            assert row["role"] not in SHALLOW_ROLES or row["strict_depth"] <= 6, name
    assert len(seen) > 40


def test_the_commit_names_changes_of_the_code_that_runs_alone(tmp_path, monkeypatch):
    monkeypatch.delenv("GIT_COMMIT", raising=False)
    monkeypatch.setattr(utils, "ROOT", tmp_path)
    assert utils.git_commit() == "unknown"
    for name in ("running.py", "other.py"):
        (tmp_path / name).write_text("")
    for words in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "c"]):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    running = types.ModuleType("running")
    running.__file__ = str(tmp_path / "running.py")
    monkeypatch.setitem(sys.modules, "running", running)
    (tmp_path / "other.py").write_text("changed = True")
    assert re.fullmatch("[0-9a-f]{40}", utils.git_commit())
    (tmp_path / "running.py").write_text("changed = True")
    assert re.fullmatch(r"[0-9a-f]{40}\+changes", utils.git_commit())
