"""train_task2.py and eval_shallow.py as a user runs them: depth limit, fused network, teacher, results, bad
options.
"""

import csv
import gzip
import json
from pathlib import Path

import numpy as np
import torch
from helpers import command_line, read_json, user_error, value_error
from pytest import approx, fixture, mark
from torch import nn

import eval_shallow
import train_task2
from config import Task2Config, training_name
from data.cache import PixelCache
from engine import evaluation
from engine.records import RunFiles, read_predictions, write_predictions
from metrics.cost import count_params
from models.branched import BranchedConv2d, fuse
from models.shallow_baselines import SHALLOW_BASELINES
from models.task2 import load_classifier
from report.build import DOCUMENTS, collect
from storage.checkpoint import load_checkpoint, save_checkpoint
from tools import latency

TINY = "--width 0.125 --image-size 8 --batch-size 4 --epochs 2 --eval-every 2 --augment light --device cpu --lr 0.01"


@fixture
def train(command):
    """train(*options) runs the script on the tiny data, in an empty folder with its own cache."""
    return lambda *options: command(train_task2, TINY, *options)


@fixture
def have(ready):
    """have(*options, out="run") puts a finished run of these options into `out`, trained once a session."""
    return lambda *options, out="run": ready(train_task2, TINY, *options, out=out)


@fixture
def evaluate(tiny_dataset, train, read_rows):
    """evaluate(checkpoint, *options) runs the evaluation on the tiny data; returns the rows of its results
    file.
    """

    def run(*options):
        where = ("--data", tiny_dataset, "--cache cache --device cpu --results results --repeats 0")
        eval_shallow.main(command_line(*where, *options))
        return read_rows("results/task2/classifiers.csv")

    return run


def record_of(model: str) -> dict:
    """Return the only record of a model."""
    (path,) = Path("results/task2/runs").glob(f"*-{model}-????????-s0.json")
    return read_json(path)


@mark.usefixtures("fields")
def test_a_shallow_network_trains_and_the_fused_one_is_evaluated(train, evaluate):
    options = "--arch gated6-k3-5-7 --reparam --covariance-channels 8 --widths 64,64,64,64 --out run"
    train(options)
    rows = evaluate("run/model.pt", "--repeats 1 --label", "three streams")
    record = record_of("reparam-covariance-gated6-k3-5-7")
    assert (record["strict_depth"], record["stricter_depth"], record["train_depth"]) == (6, 7, 11)
    assert len(record["longest_path"]) == 6 and record["weighted_operations"] == 2 + 12 * 3
    assert (record["receptive_field"]["size_px"], record["receptive_field"]["input_px"]) == (201, 16)
    assert record["task"] == "task2" and record["label"] == "three streams" and record["test"] == {}
    assert [line["epoch"] for line in record["history"]] == [1, 2] and len(record["dataset_digest"]) == 64
    assert record["trained_with"]["commit"] and record["evaluated_with"]["hardware"]
    assert record["config"]["arch"] == "gated6-k3-5-7" and "out" not in record["config"]
    assert {"reparam", "covariance_channels", "width", "epochs"} <= record["options"].keys()
    assert [(row["split"], row["section"], row["strict_depth"], row["train_depth"]) for row in rows] == [
        ("test", "ours", 6, 11),
        ("val", "ours", 6, 11),
    ]
    assert (rows[0]["width"], rows[0]["epochs"], rows[0]["stem"]) == (0.125, 2, "7x7s2")
    assert "reparam=True" in rows[0]["options"] and rows[0]["run"].endswith("-s0")
    net, checkpoint = load_classifier("run/model.pt")
    assert rows[0]["params"] == count_params(fuse(net)) < count_params(net)
    assert rows[0]["train_s"] == checkpoint["train_s"]
    assert rows[0]["latency_ms_b256"] > 0 < rows[0]["latency_ms_b1"]
    assert rows[0]["peak_mem_mb"] > 256 * 3 * 8 * 8 * 4 / 1e6
    train(options, "--resume")  # finished: the same weights again
    again = load_checkpoint("run/model.pt", "task2-model")["state"]
    assert all(torch.equal(value, again[key]) for key, value in checkpoint["state"].items())


def test_latencies_are_measured_anew_without_checkpoints(
    have, evaluate, tmp_path, stdout, read_rows, monkeypatch
):
    def time_again():
        latency.main(["--rounds", "1"], tmp_path)

    with user_error("has no networks to time"):
        time_again()
    for arch in ("plain6-k5", "rrdb"):
        have("--arch", arch, out=arch)
        before = evaluate(f"{arch}/model.pt")
        Path(arch, "model.pt").unlink()
    for name in DOCUMENTS.values():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("")
    time_again()
    after = read_rows("results/task2/classifiers.csv")
    assert [row for row in after if row["model"] == "rrdb"] == [
        row for row in before if row["model"] == "rrdb"
    ]
    timed = [row for row in after if row["model"] == "plain6-k5"]  # the other one is an ablation
    assert all(row["latency_ms_b1"] > 0 < row["latency_ms_b256"] for row in timed) and len(timed) == 2
    record = record_of("plain6-k5")
    assert record["timed_with"]["threads"] == torch.get_num_threads() == 1
    assert record["splits"]["test"][0]["latency_ms_b1"] == approx(timed[0]["latency_ms_b1"], abs=1e-3)
    assert "plain6-k5" in stdout()
    (path,) = Path("results/task2/runs").glob("*plain6-k5*")
    predictions = RunFiles(tmp_path / "results", "task2", path.stem).predictions
    whole = read_predictions(predictions)
    write_predictions(predictions, whole.images[::-1], *whole[1:])  # damage that leaves the top-1
    read_predictions.cache_clear()
    with user_error("plain6-k5-.*csv.gz was changed after it was written"):
        time_again()
    write_predictions(predictions, *whole)

    def evaluate_meanwhile(nets, *_, **__):
        write_predictions(predictions, whole.images[::-1], *whole[1:])
        return dict.fromkeys(nets, 1.0)

    with monkeypatch.context() as patch, user_error("plain6-k5-.*csv.gz was changed after it was written"):
        patch.setattr(latency, "latencies_ms", evaluate_meanwhile)
        time_again()
    write_predictions(predictions, *whole)
    bands = latency.rebuild({**record, "channels": list("ABCDE")}, path.stem, tmp_path)
    assert bands(torch.zeros(1, 5, 8, 8)).shape == (1, 3)
    del record["checksums"]  # as an older version wrote it
    path.write_text(json.dumps({**record, "config": {**record["config"], "arch": "gone"}}))
    with user_error("plain6-k5-.*json: this version cannot build its network"):
        time_again()


def test_the_table_can_be_computed_again_from_the_predictions(have, evaluate):
    have("--arch plain6-k5")
    test, val = evaluate("run/model.pt")
    with gzip.open(f"results/task2/predictions/{test['run']}-test.csv.gz", "rt") as file:
        lines = list(csv.DictReader(file))
    hits = sum(line["predicted"] == line["label"] for line in lines)
    assert len(lines) == 6 and test["top1_pct"] == round(100 * hits / 6, 2)
    assert test["latency_ms_b1"] is test["latency_ms_b256"] is None and val["macs"] == test["macs"] > 0


def test_another_image_size_is_a_row_of_its_own(have, evaluate):
    have("--arch plain6-k5")
    evaluate("run/model.pt")
    rows = evaluate("run/model.pt", "--image-size 12")
    assert {(row["model"], row["section"], row["image_size"], row["test_image_size"]) for row in rows} == {
        ("plain6-k5", "ours", 8, None),
        ("plain6-k5", "ablation", 8, 12),
    }
    macs = {row["test_image_size"]: row["macs"] for row in rows}
    assert macs[12] > macs[None]
    records = [read_json(path) for path in Path("results/task2/runs").glob("*.json")]
    assert [record["config"]["image_size"] for record in records] == [8, 8]
    assert {} in [record["test"] for record in records] and {"image_size": 12} in [
        record["test"] for record in records
    ]


def test_documents_are_made_from_what_an_evaluation_writes(have, evaluate):
    for arch in ("plain6-k5", "resnet10"):
        have("--arch", arch, out=arch)
        evaluate(f"{arch}/model.pt", "--repeats 1")
    made = collect(Path())  # there is no ResNet-34 to divide by
    drawn = {name.split("_")[1] for name in made.charts if name.startswith("task2_")}
    assert drawn == {"confusion", "field"}
    main = made.blocks["task2-main-all"]
    assert "| plain6-k5 | 7x7s2 | 0.125 | 2 | light | 0.001 | 6 | 1 |" in main
    assert "| resnet10 | 7x7s2 | 0.125 | 2 | light | 0.001 | 10 | 1 |" in main
    lines = made.blocks["task2-cost"].splitlines()
    assert [line.split("|")[-2].strip() for line in lines if line.startswith(("| plain", "| resnet10"))] == [
        "6",
        "13",
    ]
    # ResNet-10: stem, 8 convolutions in blocks, 3 shortcuts, linear layer


def test_the_evaluated_predictions_are_the_fused_networks_and_training_leaves_the_test_split_alone(
    train, evaluate, monkeypatch
):
    evaluated, opened, split = [], [], PixelCache.split

    def watch(module):
        monkeypatch.setattr(
            module,
            "predict",
            lambda model, batches, columns=None, amp=None: (
                evaluated.append((type(model.stem.conv), amp)),
                (np.zeros(len(batches), int), 1.0, 50.0),
            )[1],
        )

    monkeypatch.setattr(PixelCache, "split", lambda self, name: (opened.append(name), split(self, name))[1])
    watch(train_task2), watch(evaluation)
    train("--arch reparam6-k5 --out run --amp")
    assert evaluated == [(BranchedConv2d, True)] and set(opened) == {"train", "val"}
    evaluate("run/model.pt")
    assert evaluated[1:] == [(torch.nn.Conv2d, False)] * 2


def test_a_record_keeps_whole_what_decides_on_the_training(train, have, evaluate):
    have("--arch plain6-k5", out="teacher")
    train("--arch plain6-k5 --epochs 1 --teacher teacher/model.pt --out", Path("run").absolute())
    evaluate("run/model.pt")
    config = record_of("plain6-k5")["config"]
    teacher = Task2Config.of(load_checkpoint("teacher/model.pt", "task2-model")["config"])
    assert config["teacher"] == training_name(teacher) and config["lr"] == 0.01  # two teachers are two models
    assert (
        not {"name", "out", "resume", "cache", "data", "taught_by"} & config.keys()
    )  # no folder of this machine


def test_several_checkpoints_and_evaluating_again(train, have, evaluate, stdout):
    for arch, seed in (("plain6-k5", 0), ("plain6-k5", 1), ("resnet10", 0)):
        have("--arch", arch, "--seed", seed, "--epochs 1", out=f"{arch}{seed}")
    every = [f"{run}/model.pt" for run in ("plain6-k50", "plain6-k51", "resnet100")]
    rows = evaluate(*every)
    assert [(row["section"], row["model"], row["seed"]) for row in rows] == [
        ("ours", "plain6-k5", 0),
        ("ours", "plain6-k5", 1),
        ("baseline", "resnet10", 0),
    ] * 2
    assert [row["strict_depth"] for row in rows[:3]] == [6, 6, 10]
    stdout()
    evaluate(*every, "--skip-existing")
    assert stdout().count("already holds the results of this run: skipped") == 3
    with user_error("--name x: 3 checkpoints would have the same name"):
        evaluate(*every, "--name x")
    train("--arch plain6-k5 --epochs 1 --lr 0.02 --out other")
    rows = evaluate("other/model.pt", "--section ablation")  # other options: rows of their own
    assert [
        (row["section"], row["options"]) for row in rows if row["seed"] == 0 and row["split"] == "test"
    ] == [
        ("ours", "batch_size=4 image_size=8 lr=0.01"),
        ("baseline", "batch_size=4 image_size=8 lr=0.01"),
        ("ablation", "batch_size=4 image_size=8 lr=0.02"),
    ]
    # of which the name says nothing
    train("--arch plain6-k5 --epochs 1 --amp --out autocast")
    with user_error("s0.json has the results of 'plain6-k5' trained with other options: add --name"):
        evaluate("autocast/model.pt")
    rows = evaluate("autocast/model.pt", "--split val --name faster --section ablation")
    assert [(row["section"], row["split"]) for row in rows if row["model"] == "faster"] == [
        ("ablation", "val")
    ]


def test_evaluation_refuses_other_data_a_teacher_of_task_1_and_a_deep_network(have, evaluate, tiny_dataset):
    have("--arch resnet10")
    with user_error("resnet10, in section 'ours', has strict depth 10, above 6"):
        evaluate("run/model.pt", "--section ours")
    save_checkpoint("other.pt", {**load_checkpoint("run/model.pt", "task2-model"), "kind": "task1-model"})
    with user_error("other.pt is a 'task1-model' checkpoint; expected 'task2-model'"):
        evaluate("other.pt")
    lines = (tiny_dataset / "test.txt").read_text().splitlines()
    (tiny_dataset / "test.txt").write_text("\n".join(lines[:-1]))
    with user_error("run/model.pt was trained on 'tiny'.*name the data of its training with --data"):
        evaluate("run/model.pt")
    assert not Path("results").exists()


def test_a_deeper_network_is_not_ours(train, evaluate):
    with user_error("gated6-k5 has strict depth 6, above 5; its longest path is stem.conv 8x3x7x7 > "):
        train("--arch gated6-k5 --max-depth 5 --out run")
    deep = "--arch plain6-k5 --widths 8,8,8,8,8 --epochs 1 --out run"
    with user_error("plain7-k5 has strict depth 7, above 6; .* allow more with --max-depth 7"):
        train(deep)
    assert not Path("run").exists()
    train(deep, "--max-depth 7")
    with user_error("above 6; .* evaluate it with --section ablation, which allows 7"):
        evaluate("run/model.pt")
    assert evaluate("run/model.pt", "--section ablation")[0]["strict_depth"] == 7


def test_a_network_that_cannot_be_evaluated_is_refused_before_the_training(train, monkeypatch):
    def plain(classes, in_channels, width, stem):
        return nn.Sequential(nn.Conv2d(in_channels, 4, 8), nn.Flatten(), nn.Linear(4, classes))

    monkeypatch.setitem(SHALLOW_BASELINES, "graph", plain)
    with user_error("--arch graph: the network needs a method feature_maps"):
        train("--arch graph --out run")
    assert not Path("run").exists()


def test_a_network_whose_depth_cannot_be_counted_is_refused_before_the_training(train, monkeypatch):
    class Rows(nn.LSTM):
        feature_maps = None

        def forward(self, x):
            return super().forward(x.mean(1))[0][:, -1]

    monkeypatch.setitem(SHALLOW_BASELINES, "graph", lambda num_classes, **_: Rows(8, num_classes))
    with value_error("4 weights in one operation"):
        train("--arch graph --epochs 1 --out run")
    assert not Path("run").exists()


def test_a_part_of_an_evaluation_is_printed_and_not_saved(have, tiny_dataset, stdout):
    have("--arch plain6-k5 --epochs 1")
    where = ("--data", tiny_dataset, "--cache", "cache", "--device", "cpu", "--repeats", 0)
    stdout()
    eval_shallow.main([str(word) for word in ("run/model.pt", *where, "--split", "val")])
    shown = stdout()
    assert "the results are printed, not saved" in shown and "wrote" not in shown
    assert "plain6-k5 val  top-1" in shown and "strict depth 6" in shown
    assert Path("run/evaluation-val.md").exists() and not Path("runs/results").exists()


def test_results_without_a_row_in_the_table_are_not_skipped(have, evaluate):
    have("--arch plain6-k5 --epochs 1 --seed 1")
    evaluate("run/model.pt")
    table = Path("results/task2/classifiers.csv")
    whole = table.read_text()
    table.write_text(whole.replace("-s1\n", "-s10\n"))  # as if the row of seed 1 were lost
    evaluate("run/model.pt", "--skip-existing")
    assert table.read_text() == whole


def test_an_evaluation_needs_nothing_that_only_the_training_needs(train, evaluate, monkeypatch):
    train("--arch plain6-k5 --epochs 1 --out run")
    checkpoint = load_checkpoint("run/model.pt", "task2-model")
    checkpoint["config"] |= {"compile": True, "tensorboard": True}
    save_checkpoint("run/model.pt", checkpoint)
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert evaluate("run/model.pt")[0]["strict_depth"] == 6


@mark.parametrize("arch", ["attention", "graph", "dense-block", "gated4-k7"])
def test_every_kind_trains(train, evaluate, arch):
    train("--arch", arch, "--epochs 1 --out run")
    assert evaluate("run/model.pt", "--split val")[0]["strict_depth"] <= 6


def test_learning_from_another_network(train, have):
    have("--arch resnet10", out="teacher")
    states = []
    for out, options in (("taught", ["--teacher", "teacher/model.pt"]), ("alone", [])):
        train("--arch plain6-k5 --epochs 1 --out", out, *options)
        states.append(load_checkpoint(f"{out}/model.pt", "task2-model")["state"]["head.linear.weight"])
    assert not torch.equal(*states)
    checkpoint = load_checkpoint("teacher/model.pt", "task2-model")
    for change, message in (
        ({"config": {**checkpoint["config"], "arch": "gated6-k5"}}, "holds another architecture"),
        ({"dataset": {**checkpoint["dataset"], "digest": "0"}}, "not on this data"),
    ):
        save_checkpoint("other.pt", {**checkpoint, **change})
        with user_error(message):
            train("--arch plain6-k5 --teacher other.pt --out never")


def test_a_share_of_the_training_images(train, monkeypatch):
    sizes, make = {}, train_task2.make_batches

    def spy(cache, split, *args):
        batches = make(cache, split, *args)
        sizes[split] = len(batches)
        return batches

    monkeypatch.setattr(train_task2, "make_batches", spy)
    train("--arch plain6-k5 --fraction 0.5 --epochs 1 --out run")
    assert sizes == {"train": 6, "val": 6}  # of 12 and 6; test is not opened
    checkpoint = load_checkpoint("run/model.pt", "task2-model")
    assert checkpoint["config"]["fraction"] == 0.5 and checkpoint["config"]["name"] == "plain6-k5"
    del checkpoint["config"]["fraction"]  # as an older version wrote it
    save_checkpoint("older.pt", checkpoint)
    load_classifier("older.pt")


@mark.parametrize(
    "options, name, section",
    [
        ({}, "gated6-k3", "ours"),
        ({"arch": "resnet34"}, "resnet34", "reference"),
        ({"arch": "resnet18"}, "resnet18", "baseline"),
        ({"arch": "rrdb"}, "rrdb", "ablation"),
        ({"teacher": "model.pt"}, "gated6-k3", "distilled"),
        ({"teacher": "self"}, "gated6-k3", "ours"),
        ({"stem": "3x3s1", "width": 0.5}, "gated6-k3", "ours"),
        ({"arch": "gated6-k5", "gates": False, "kernels": "3,5"}, "plain6-k3-5", "ours"),
        ({"arch": "plain6-k5", "reparam": True, "widths": "8,8"}, "reparam4-k5", "ours"),
        ({"arch": "plain6-k5", "fraction": 0.25, "name": "p"}, "p", "ours"),
    ],
)
def test_name_and_section_follow_from_what_the_network_is(options, name, section):
    config = Task2Config(device="cpu", **options).resolve()
    assert config.name == name and eval_shallow.default_section(vars(config), {}) == section
    assert eval_shallow.default_section(vars(config), {"image_size": 9}) == "ablation"


@mark.parametrize(
    "options, message",
    [
        (
            "--arch resnet34 --gates",
            "--gates: --arch resnet34 has no such option; leave it out, or choose one of plain6-k5, plain6-k3-5-7",
        ),
        ("--arch graph --kernels 3", "--kernels: --arch graph has no such option"),
        ("--arch plain6-k5 --kernels 3;5", "--kernels 3;5: expected whole numbers"),
        ("--arch plain6-k5 --kernels 4", "--arch plain6-k5: kernel size 4: must be odd"),
        ("--arch plain6-k5 --widths 8,0", "--widths 8,0: must be from 1"),
        ("--arch plain6-k5 --covariance-channels -1", "--covariance-channels -1: must be from 0"),
        ("--arch resnet34 --multi-level-head", "--multi-level-head: --arch resnet34"),
        ("--teacher none.pt", "no checkpoint at none.pt"),
    ],
)
def test_bad_options_name_the_option(train, options, message):
    with user_error(message):
        train(options)
    assert not Path("runs").exists()
