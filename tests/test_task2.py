"""train_task2.py and eval_classifiers.py as a user runs them: depth limit, fused network, teacher, results, bad options."""
import csv
import gzip
import json
import sys
from pathlib import Path

import pytest
import torch

import eval_classifiers
import latency
import train_task2
from data.cache import PixelCache
from evaluation import portable
from measure import count_params
from models.branched import BranchedConv2d, fuse
from report.task2.content import make_content
from report.task2.rows import RESULTS
from test_report import write_documents
from train_task2 import Task2Config, load_network
from utils import UserError, load_checkpoint, save_checkpoint

TINY = ["--width", "0.125", "--image-size", "8", "--batch-size", "4", "--epochs", "2", "--eval-every", "2", "--augment", "light",
        "--device", "cpu", "--lr", "0.01"]


@pytest.fixture
def train(tiny_dataset, tmp_path, monkeypatch):
    """train(*options) runs the script on the tiny data, in an empty folder with its own cache."""
    monkeypatch.chdir(tmp_path)
    def run(*options):
        data = ["--data", str(tiny_dataset), "--cache", "cache"]
        monkeypatch.setattr(sys, "argv", ["train_task2.py", *data, *TINY, *map(str, options)])
        train_task2.main()
    return run


@pytest.fixture
def evaluate(tiny_dataset, train):
    """evaluate(checkpoint, *options) runs the evaluation on the tiny data; returns the rows of its results file."""
    def run(*options):
        eval_classifiers.main(["--data", str(tiny_dataset), "--cache", "cache", "--device", "cpu", "--results", "results",
                               "--repeats", "0", *map(str, options)])
        return RESULTS.read("results/task2_classifiers.csv")
    return run


def test_a_shallow_network_trains_and_the_fused_one_is_evaluated(train, evaluate):
    options = ["--arch", "gated-streams", "--branches", "--second-order", 8, "--name", "gated-streams", "--out", "run"]
    train(*options)
    rows = evaluate("run/model.pt", "--repeats", 1)
    record = json.loads(Path("results/runs/task2-cpu-tiny-8px-gated-streams-s0.json").read_text())
    assert (record["strict_depth"], record["stricter_depth"], record["train_depth"]) == (6, 7, 11)
    assert len(record["longest_path"]) == 6 and record["weighted_operations"] == 2 + 12 * 3 and record["task"] == "task2"
    assert [line["epoch"] for line in record["history"]] == [1, 2] and len(record["dataset_digest"]) == 64
    assert record["trained_with"]["commit"] and record["evaluated_with"]["hardware"] and record["config"]["arch"] == "gated-streams"
    assert [(row["split"], row["role"], row["strict_depth"], row["train_depth"]) for row in rows] == [
        ("test", "ours", 6, 11), ("val", "ours", 6, 11)]
    net, checkpoint = load_network("run/model.pt")
    assert rows[0]["params"] == count_params(fuse(net)) < count_params(net) and rows[0]["train_s"] == checkpoint["train_s"]
    assert rows[0]["latency_ms_b256"] > 0 < rows[0]["latency_ms_b1"] and rows[0]["peak_mem_mb"] > 256 * 3 * 8 * 8 * 4 / 1e6
    train(*options, "--resume")   # finished: the same weights again
    again = load_checkpoint("run/model.pt", "task2-model")["state"]
    assert all(torch.equal(value, again[key]) for key, value in checkpoint["state"].items())


def test_latencies_are_measured_anew_without_checkpoints(train, evaluate, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(latency, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["latency.py", "--rounds", "1"])
    with pytest.raises(UserError, match="has no rows to time"):
        latency.main()
    for arch in ("plain", "rrdb"):
        train("--arch", arch, "--out", arch)
        before = evaluate(f"{arch}/model.pt")
        Path(arch, "model.pt").unlink()
    write_documents(tmp_path, make_content(tmp_path).blocks, "task2-main")
    monkeypatch.setattr(sys, "argv", ["latency.py", "--rounds", "1"])
    latency.main()
    after = RESULTS.read("results/task2_classifiers.csv")
    assert [row for row in after if row["model"] == "rrdb"] == [row for row in before if row["model"] == "rrdb"]   # an ablation
    timed = [row for row in after if row["model"] == "plain"]
    assert all(row["latency_ms_b1"] > 0 < row["latency_ms_b256"] for row in timed) and len(timed) == 2
    record = json.loads(Path("results/runs/task2-cpu-tiny-8px-plain-s0.json").read_text())
    assert record["timed_with"]["threads"] == torch.get_num_threads() == 1
    assert record["splits"]["test"][0]["latency_ms_b1"] == pytest.approx(timed[0]["latency_ms_b1"], abs=1e-3)
    assert "plain" in capsys.readouterr().out
    path = Path("results/runs/task2-cpu-tiny-8px-plain-s0.json")
    path.write_text(json.dumps({**record, "config": {**record["config"], "arch": "gone"}}))
    with pytest.raises(UserError, match="plain-s0.json: this version cannot build its network"):
        latency.main()


def test_the_table_can_be_computed_again_from_the_predictions(train, evaluate):
    train("--arch", "plain", "--out", "run")
    test, val = evaluate("run/model.pt")
    with gzip.open("results/predictions/task2-cpu-tiny-8px-plain-s0-test.csv.gz", "rt") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 6 and test["top1_pct"] == round(100 * sum(line["predicted"] == line["label"] for line in lines) / 6, 2)
    assert test["latency_ms_b1"] is test["latency_ms_b256"] is None and val["macs"] == test["macs"] > 0


def test_another_image_size_is_a_row_of_its_own(train, evaluate):
    train("--arch", "plain", "--out", "run")
    evaluate("run/model.pt")
    rows = evaluate("run/model.pt", "--image-size", 12)
    assert {(row["model"], row["role"], row["image_size"]) for row in rows} == {("plain", "ours", 8), ("plain+12px", "ablation", 8)}
    macs = {row["model"]: row["macs"] for row in rows}
    assert macs["plain+12px"] > macs["plain"]
    record = json.loads(Path("results/runs/task2-cpu-tiny-8px-plain+12px-s0.json").read_text())
    assert record["evaluated_at_px"] == 12 and record["config"]["image_size"] == 8
    with pytest.raises(UserError, match="other options"):
        evaluate("run/model.pt", "--image-size", 12, "--name", "plain")


def test_documents_are_made_from_what_an_evaluation_writes(train, evaluate):
    for arch in ("plain", "resnet10"):
        train("--arch", arch, "--out", arch)
        evaluate(f"{arch}/model.pt", "--repeats", 1)
    content = make_content(Path())
    assert {name.split("_")[1] for name in content.figures} == {"cost", "confusion", "curves", "field"}   # no ResNet-34 to divide by
    assert "| plain | ours | 6 | 2 | 1 |" in content.blocks["task2-main"] and "| resnet10 | baseline | 10 |" in content.blocks["task2-main"]
    lines = content.blocks["task2-cost"].splitlines()
    assert [line.split("|")[-2].strip() for line in lines if line.startswith(("| plain", "| resnet10"))] == ["6", "13"]
    # ResNet-10: stem, 8 convolutions in blocks, 3 shortcuts, linear layer


def test_the_evaluated_predictions_are_the_fused_networks_and_training_leaves_the_test_split_alone(train, evaluate, monkeypatch):
    evaluated, opened, split = [], [], PixelCache.split
    def watch(module):
        monkeypatch.setattr(module, "predict", lambda model, batches, amp: (
            evaluated.append((type(model.stem.conv), amp)), torch.zeros(len(batches), dtype=torch.long))[1])
    monkeypatch.setattr(PixelCache, "split", lambda self, name: (opened.append(name), split(self, name))[1])
    watch(train_task2), watch(eval_classifiers)
    train("--arch", "merged", "--out", "run", "--amp")
    assert evaluated == [(BranchedConv2d, True)] and set(opened) == {"train", "val"}
    evaluate("run/model.pt")
    assert evaluated[1:] == [(torch.nn.Conv2d, False)] * 2


def test_a_record_keeps_whole_what_decides_on_the_training():
    config = {"data": "/a/set.zip", "out": "/a/runs/x", "cache": None, "teacher": "/a/other/model.pt", "lr": 0.1}
    assert portable(config) == {**config, "data": "set.zip", "out": "x"}   # two teachers are two models


def test_several_checkpoints_and_evaluating_again(train, evaluate, capsys):
    for arch, seed in (("plain", 0), ("plain", 1), ("resnet34", 0)):
        train("--arch", arch, "--seed", seed, "--epochs", 1, "--out", Path(f"{arch}{seed}").absolute())
    every = [f"{run}/model.pt" for run in ("plain0", "plain1", "resnet340")]
    rows = evaluate(*every)
    assert [(row["role"], row["model"], row["seed"]) for row in rows] == [
        ("ours", "plain", 0), ("ours", "plain", 1), ("resnet34", "resnet34", 0)] * 2
    assert [row["strict_depth"] for row in rows[:3]] == [6, 6, 34]
    kept = [json.loads(path.read_text())["config"]["out"] for path in sorted(Path("results/runs").glob("*.json"))]
    assert kept == ["plain0", "plain1", "resnet340"]   # no folder of this machine
    before = Path("results/task2_classifiers.csv").read_bytes()
    capsys.readouterr()
    evaluate(*every, "--skip-existing")
    assert capsys.readouterr().out.count("is of this very run: skipped") == 3
    with pytest.raises(UserError, match="--name x: 3 checkpoints would share it"):
        evaluate(*every, "--name", "x")
    train("--arch", "plain", "--epochs", 1, "--lr", 0.02, "--out", "other")
    with pytest.raises(UserError, match="s0.json has the results of 'plain' trained or evaluated with other options: add --name"):
        evaluate("other/model.pt")
    assert Path("results/task2_classifiers.csv").read_bytes() == before
    evaluate("other/model.pt", "--split", "val", "--name", "faster", "--role", "ablation")
    assert [(row["role"], row["split"]) for row in evaluate(every[0], "--replace") if row["model"] == "faster"] == [("ablation", "val")]


def test_evaluation_refuses_other_data_a_teacher_of_task_1_and_a_deep_network(train, evaluate, tiny_dataset):
    train("--arch", "resnet10", "--epochs", 1, "--out", "run")
    with pytest.raises(UserError, match="resnet10 has strict depth 10, above --max-depth 6"):
        evaluate("run/model.pt", "--role", "ours")
    save_checkpoint("other.pt", {**load_checkpoint("run/model.pt", "task2-model"), "kind": "task1-model"})
    with pytest.raises(UserError, match="other.pt is a 'task1-model' checkpoint; expected 'task2-model'"):
        evaluate("other.pt")
    lines = (tiny_dataset / "test.txt").read_text().splitlines()
    (tiny_dataset / "test.txt").write_text("\n".join(lines[:-1]))
    with pytest.raises(UserError, match="run/model.pt was trained on 'tiny'.*name the data it was trained on"):
        evaluate("run/model.pt")
    assert not Path("results").exists()


def test_a_deeper_network_is_not_ours(train, evaluate):
    with pytest.raises(UserError, match="rrdb has strict depth 17, above --max-depth 6; its longest path is 0.0.* > .*--role"):
        train("--arch", "rrdb", "--role", "ours", "--out", "run")
    with pytest.raises(UserError, match="strict depth 6, above --max-depth 5; its longest path is stem.conv 8x3x7x7 > "):
        train("--arch", "gated", "--max-depth", 5, "--out", "run")
    with pytest.raises(UserError, match="strict depth 7, above --max-depth 6"):
        train("--arch", "plain", "--widths", "8,8,8,8,8", "--out", "run")
    assert not Path("run").exists()
    with pytest.raises(UserError, match="strict depth 7, above --max-depth 6"):
        train("--arch", "plain", "--widths", "8,8,8,8,8", "--role", "distilled", "--out", "run")
    train("--arch", "plain", "--widths", "8,8,8,8,8", "--role", "ablation", "--epochs", 1, "--out", "run")
    assert evaluate("run/model.pt")[0]["strict_depth"] == 7


@pytest.mark.parametrize("arch", ["attention", "graph", "dense-block", "gated4"])
def test_every_kind_trains(train, evaluate, arch):
    train("--arch", arch, "--epochs", 1, "--out", "run")
    assert evaluate("run/model.pt", "--split", "val")[0]["strict_depth"] <= 6


def test_learning_from_another_network(train, tiny_dataset):
    train("--arch", "resnet10", "--epochs", 1, "--out", "teacher")
    states = []
    for out, options in (("taught", ["--teacher", "teacher/model.pt"]), ("alone", [])):
        train("--arch", "plain", "--epochs", 1, "--out", out, *options)
        states.append(load_checkpoint(f"{out}/model.pt", "task2-model")["state"]["head.linear.weight"])
    assert not torch.equal(*states)
    checkpoint = load_checkpoint("teacher/model.pt", "task2-model")
    for change, message in (({"config": {**checkpoint["config"], "arch": "gated"}}, "holds another architecture"),
                            ({"dataset": {**checkpoint["dataset"], "digest": "0"}}, "not on this data")):
        save_checkpoint("other.pt", {**checkpoint, **change})
        with pytest.raises(UserError, match=message):
            train("--arch", "plain", "--teacher", "other.pt", "--out", "never")


def test_a_share_of_the_training_images(train, monkeypatch):
    sizes, make = {}, train_task2.make_batches
    def spy(cache, split, *args):
        batches = make(cache, split, *args)
        sizes[split] = len(batches)
        return batches
    monkeypatch.setattr(train_task2, "make_batches", spy)
    train("--arch", "plain", "--fraction", 0.5, "--epochs", 1, "--out", "run")
    assert sizes == {"train": 6, "val": 6}   # of 12 and 6; test is not opened
    checkpoint = load_checkpoint("run/model.pt", "task2-model")
    assert checkpoint["config"]["fraction"] == 0.5 and checkpoint["config"]["name"] == "plain-fraction-0.5"
    del checkpoint["config"]["fraction"]   # as an older version wrote it
    save_checkpoint("older.pt", checkpoint)
    load_network("older.pt")


@pytest.mark.parametrize("options, expected", [
    ({}, ("gated-3x3", "ours")), ({"arch": "resnet34"}, ("resnet34", "resnet34")),
    ({"arch": "resnet18"}, ("resnet18", "baseline")),
    ({"arch": "gated", "teacher": "model.pt"}, ("gated", "distilled")),
    ({"arch": "gated", "small_stem": True}, ("gated-small-stem", "ours")),
    ({"arch": "gated", "gates": False, "kernels": "3,5", "second_order": 0},
     ("gated-kernels-3-5-no-gates-second-order-0", "ours")),
    ({"arch": "plain", "branches": True, "role": "ablation"}, ("plain-branches", "ablation")),
    ({"arch": "rrdb"}, ("rrdb", "ablation")), ({"arch": "plain", "fraction": 0.25}, ("plain-fraction-0.25", "ours")),
    ({"arch": "plain", "fraction": 1.0, "name": "p"}, ("p", "ours"))])
def test_name_and_role_follow_from_the_options(options, expected):
    config = Task2Config(device="cpu", **options).resolve()
    assert (config.name, config.role) == expected


@pytest.mark.parametrize("options, message", [
    (["--arch", "resnet34", "--gates"], "--gates: --arch resnet34 has no such option; those of plain, merged"),
    (["--arch", "graph", "--kernels", "3"], "--kernels: --arch graph has no such option"),
    (["--arch", "plain", "--kernels", "3;5"], "--kernels 3;5: expected whole numbers"),
    (["--arch", "plain", "--kernels", "4"], "--arch plain: kernel size 4: must be odd"),
    (["--arch", "plain", "--widths", "8,0"], "--arch plain: .* widths must be at least 1"),
    (["--arch", "plain", "--second-order", "-1"], "--arch plain: num_classes"),
    (["--arch", "resnet34", "--levels"], "--levels: --arch resnet34"), (["--teacher", "none.pt"], "no checkpoint")])
def test_bad_options_name_the_option(train, options, message):
    with pytest.raises(UserError, match=message):
        train(*options)
    assert not Path("runs").exists()
