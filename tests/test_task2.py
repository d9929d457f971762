"""train_task2.py as a user runs it: a shallow network, its depth limit, its checkpoint as a teacher, bad options."""
import json
import sys
from pathlib import Path

import pytest
import torch

import train_task2
from measure import count_params
from models.branched import fuse
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


def test_a_shallow_network_trains_and_reports_the_fused_one(train):
    train("--arch", "gated-streams", "--out", "run")
    result = json.loads(Path("run/result.json").read_text())
    assert (result["strict_depth"], result["stricter_depth"], result["train_depth"]) == (6, 7, 11)
    assert len(result["longest_path"]) == 6 and result["weighted_operations"] == 2 + 12 * 3
    assert result["config"]["role"] == "ours" and 0 <= result["test"]["top1_pct"] <= 100 and result["macs"] > 0
    net, checkpoint = load_network("run/model.pt")
    assert result["params"] == count_params(fuse(net)) < count_params(net)
    train("--arch", "gated-streams", "--out", "run", "--resume")   # finished: the same weights again
    again = load_checkpoint("run/model.pt", "task2-model")["state"]
    assert all(torch.equal(value, again[key]) for key, value in checkpoint["state"].items())


def test_the_reported_predictions_are_the_fused_networks(train, monkeypatch):
    evaluated = []
    monkeypatch.setattr(train_task2, "predict", lambda model, batches, amp: (
        evaluated.append(type(model.stem.conv)), torch.zeros(len(batches), dtype=torch.long))[1])
    train("--arch", "merged", "--out", "run")
    assert [kind.__name__ for kind in evaluated] == ["BranchedConv2d", "Conv2d", "Conv2d"]   # the epoch's, val, test


def test_a_deeper_network_is_not_ours(train):
    with pytest.raises(UserError, match="rrdb has strict depth 17, above --max-depth 6; its longest path is 0.0.* > .*--role"):
        train("--arch", "rrdb", "--role", "ours", "--out", "run")
    with pytest.raises(UserError, match="strict depth 6, above --max-depth 5; its longest path is stem.conv 8x3x7x7 > "):
        train("--arch", "gated", "--max-depth", 5, "--out", "run")
    with pytest.raises(UserError, match="strict depth 7, above --max-depth 6"):
        train("--arch", "plain", "--widths", "8,8,8,8,8", "--out", "run")
    assert not Path("run").exists()
    train("--arch", "plain", "--widths", "8,8,8,8,8", "--role", "ablation", "--epochs", 1, "--out", "run")
    assert json.loads(Path("run/result.json").read_text())["strict_depth"] == 7


@pytest.mark.parametrize("arch", ["attention", "graph", "dense-block", "gated4"])
def test_every_kind_trains(train, arch):
    train("--arch", arch, "--epochs", 1, "--out", "run")
    assert json.loads(Path("run/result.json").read_text())["strict_depth"] <= 6


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
    assert sizes == {"train": 6, "val": 6, "test": 6}   # of 12, 6 and 6
    checkpoint = load_checkpoint("run/model.pt", "task2-model")
    assert checkpoint["config"]["fraction"] == 0.5 and checkpoint["config"]["name"] == "plain-fraction-0.5"
    del checkpoint["config"]["fraction"]   # as an older version wrote it
    save_checkpoint("older.pt", checkpoint)
    load_network("older.pt")


@pytest.mark.parametrize("options, expected", [
    ({}, ("resnet34", "baseline")), ({"arch": "gated", "small_stem": True}, ("gated-small-stem", "ours")),
    ({"arch": "gated", "gates": False, "kernels": "3,5", "second_order": 0},
     ("gated-kernels-3-5-no-gates-second-order-0", "ours")),
    ({"arch": "plain", "branches": True, "role": "ablation"}, ("plain-branches", "ablation")),
    ({"arch": "rrdb"}, ("rrdb", "ablation")), ({"arch": "plain", "fraction": 0.25}, ("plain-fraction-0.25", "ours")),
    ({"arch": "plain", "fraction": 1.0, "name": "p"}, ("p", "ours"))])
def test_name_and_role_follow_from_the_options(options, expected):
    config = Task2Config(device="cpu", **options).resolve()
    assert (config.name, config.role) == expected


@pytest.mark.parametrize("options, message", [
    (["--gates"], "--gates: --arch resnet34 has no such option; those of plain, merged"),
    (["--arch", "graph", "--kernels", "3"], "--kernels: --arch graph has no such option"),
    (["--arch", "plain", "--kernels", "3;5"], "--kernels 3;5: expected whole numbers"),
    (["--arch", "plain", "--kernels", "4"], "--arch plain: kernel size 4: must be odd"),
    (["--arch", "plain", "--widths", "8,0"], "--arch plain: .* widths must be at least 1"),
    (["--arch", "plain", "--second-order", "-1"], "--arch plain: num_classes"), (["--levels"], "--levels: --arch resnet34"), (["--teacher", "none.pt"], "no checkpoint")])
def test_bad_options_name_the_option(train, options, message):
    with pytest.raises(UserError, match=message):
        train(*options)
    assert not Path("runs").exists()
