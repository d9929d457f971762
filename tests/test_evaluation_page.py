"""A table and a chart of what was just evaluated."""

import json
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from helpers import FEW
from PIL import Image
from pytest import approx, fixture, mark

import eval_channels
import eval_shallow
import train_task1
import train_task2
from data.batches import Batches
from engine import evaluation
from engine.trainer import predict
from report.evaluation_page import (
    ClassAnswers,
    confusion_chart,
    make_text,
    page_name,
    sets_chart,
    training_chart,
    write_page,
)

QUALITY = {
    "top1_pct": 61.25,
    "ci95_low": 53.5,
    "ci95_high": 68.4,
    "precision_macro": 0.6,
    "recall_macro": 0.61,
    "f1_macro": 0.605,
    "loss": 1.234,
}
HEAD = {
    "model": "net",
    "label": "a label",
    "dataset": "toy",
    "image_size": 48,
    "preset": "48px-quarter",
    "seed": 3,
    "train_s": 60.4,
    "config": {"epochs": 30, "augment": "light"},
    "test": {},
}
OPTIONS = ("--results", "results", "--repeats", 0)  # of an evaluation
PATHS = ["table: run/evaluation.md", "chart: run/evaluation.png"]  # the last lines of its output


@fixture
def sets():
    """Make a record of Task 1: two sets on both splits."""
    rows = [{"subset": name, **QUALITY, "macs": 4e6, "latency_ms": 0.37} for name in ("RGB", "R")]
    return {**HEAD, "task": "task1", "splits": {"val": rows, "test": rows}, "history": []}


@fixture
def classifier():
    """Make a record of Task 2 with a log of two epochs."""
    row = {
        **QUALITY,
        "strict_depth": 6,
        "params": 1e6,
        "macs": 5e6,
        "latency_ms_b1": None,
        "latency_ms_b256": None,
        "peak_mem_mb": 12.0,
    }
    history = [{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.5, "val_loss": 1.7, "val_top1_pct": 40.0}]
    return {**HEAD, "task": "task2", "splits": {"test": [row]}, "weighted_operations": 14, "history": history}


@mark.usefixtures("drawn")
@mark.filterwarnings("error:Glyph")  # of a letter that the font lacks
def test_both_files_are_written_and_named_last(sets, classifier, tmp_path, stdout):
    classifier["splits"]["val"] = classifier["splits"]["test"]
    sets["label"], sets["dataset"] = "\u6905\u5b50", "\u732b"
    sets["splits"]["test"][0]["subset"] = "\u8d64"
    for number, record in enumerate((sets, classifier)):
        folder = tmp_path / str(number)
        write_page(
            folder / "model.pt", record, "net", ANSWERS._replace(classes=["\u9e45", *ANSWERS.classes[1:]])
        )
        assert "| \u9e45 | 4 |" in (folder / "evaluation.md").read_text(encoding="utf-8")
        assert stdout().splitlines()[-2:] == [
            f"table: {folder / 'evaluation.md'}",
            f"chart: {folder / 'evaluation.png'}",
        ]
        assert "61.25" in (folder / "evaluation.md").read_text(encoding="utf-8")
        with Image.open(folder / "evaluation.png") as chart:
            assert chart.width > 400 and chart.format == "PNG"


def test_the_text_tells_what_was_measured_and_dashes_what_was_not(sets, classifier):
    text = make_text(sets)
    assert "| RGB | 61.25 | 53.50 to 68.40 | 0.600 | 0.610 | 0.605 | 1.234 | 4.0 | 0.37 |" in text
    assert text.index("## test") < text.index("## val") and "seed 3; trained in 60 s." in text
    assert "| mean | 61.25 |" in text
    del classifier["splits"]["test"][0]["loss"]  # of a record of an older version
    assert "| 0.605 | – | 6 | 14 | 1.00 | 5.0 | – | – | 12.0 |" in make_text(classifier)


def test_another_way_to_evaluate_has_files_of_its_own(sets):
    ways = {
        "evaluation": {},
        "evaluation-fill-mean-40px": {"test": {"fill": "mean", "image_size": 40}},
        "evaluation-v1.5": {"model": "v1.5"},
        "evaluation-subsets-RGB": {"test": {"subsets": "RGB"}},
        "evaluation-late-fusion-probe-wrong-ids": {"model": "late-fusion", "test": {"probe": "wrong-ids"}},
    }
    assert [page_name({**sets, **way}, "net") for way in ways.values()] == list(ways)
    assert page_name({**sets, "splits": {"val": sets["splits"]["val"]}}, "net") == "evaluation-val"
    assert page_name(sets, "net", "a") == "evaluation-a"  # beside b.pt in one folder


def test_the_whole_of_a_name_is_kept(sets, tmp_path):
    write_page(tmp_path / "model.pt", {**sets, "model": "v1.5"}, "net", ANSWERS)
    assert {path.name.removeprefix("evaluation-v1.5") for path in tmp_path.iterdir()} == {
        ".md",
        ".png",
        "-confusion.png",
    }


def test_a_folder_that_cannot_be_written_is_named_and_no_more(sets, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    write_page(tmp_path / "file" / "model.pt", sets, "net", ANSWERS)
    shown = capsys.readouterr()
    assert shown.err.count("\n") == 1 and str(tmp_path / "file" / "evaluation.md") in shown.err
    assert "exists" in shown.err and shown.out == ""  # the reason


@mark.usefixtures("drawn")
def test_a_label_is_no_formula(sets, tmp_path):
    record = {**sets, "label": "costs $x^$ $x_{$ 443 | <script> \u4e2d " * 12}  # long, too
    write_page(tmp_path / "model.pt", record, "net", ANSWERS)
    assert (tmp_path / "evaluation.png").exists()
    assert confusion_chart(record, ANSWERS).title.startswith("costs $x^$ $x_{$ 443 | <script> ? costs $x^$ ")


def test_the_bars_are_the_first_sets_of_the_split_that_there_is(sets):
    rows = [{"subset": f"B{n:02}", **QUALITY, "macs": 1, "latency_ms": None} for n in range(40)]
    _, data, title = sets_chart({**sets, "test": {"image_size": 40}, "splits": {"val": rows}})
    assert len(data[1]) == 30 and data[1]["B29"] == (61.25, 53.5, 68.4)
    assert title == "a label, toy, 40 px: top-1 on val (the first 30 of 40 sets)"


def test_the_curves_are_those_of_the_log_and_bars_where_there_is_none(classifier):
    loss, top1 = training_chart(classifier).data
    assert [line.y for line in loss.series] == [[2.0, 1.5], [1.7]]
    assert [(line.name, line.x, line.y) for line in top1.series] == [
        ("training", [], []),
        ("validation", [2], [40.0]),
    ]  # drawn as the validation loss is
    assert training_chart({**classifier, "history": []}).data == ("split", {"test": (61.25, 53.5, 68.4)})


# ---------------------------------------------------------------- by the scripts


def test_channel_sets_of_a_run_and_of_the_same_under_another_name(command, trained, stdout, read_rows):
    command(eval_channels, trained, *OPTIONS)
    assert stdout().splitlines()[-2:] == PATHS
    text = Path("run/evaluation.md").read_text(encoding="utf-8")
    for row in read_rows("results/task1/channels.csv"):
        assert f"| {row['subset']} | {row['top1_pct']:.2f} | {row['ci95_low']:.2f} to " in text
    command(eval_channels, trained, *OPTIONS, "--name other --split val --subsets RG")
    assert Path("run/evaluation.md").read_text(encoding="utf-8") == text
    assert "## Classes on test" in text and "recall %, RGB | recall %, RG |" in text
    other = Path("run/evaluation-other-val-1-sets.md").read_text(encoding="utf-8")
    assert "| RG |" in other and "| RGB |" not in other and "## test" not in other


def test_results_of_ones_own_data_stay_out_of_the_published_ones(
    command, ready, tiny, tmp_path, monkeypatch, stdout
):
    monkeypatch.setattr(evaluation, "ROOT", tmp_path / "clone")
    path = ready(train_task2, *tiny)
    command(eval_shallow, path, "--repeats 0")
    assert len(list(Path("runs/results/task2/runs").iterdir())) == 1
    assert f"documents' tables, evaluate with --results {tmp_path / 'clone' / 'results'}" in stdout()
    assert not Path("clone/results/task2").exists()
    command(eval_shallow, path, "--repeats 0 --results clone/results")  # then these data are published
    command(eval_shallow, path, "--repeats 0 --name another")
    assert len(list(Path("clone/results/task2/runs").iterdir())) == 2
    assert len(list(Path("runs/results/task2/runs").iterdir())) == 1


@mark.parametrize("train, evaluate", [(train_task1, eval_channels), (train_task2, eval_shallow)])
def test_the_command_that_a_training_prints_evaluates_it(
    command, tiny, tiny_dataset, tmp_path, monkeypatch, stdout, train, evaluate
):
    shutil.copytree(tiny_dataset, "my set")
    command(train, *tiny, "--epochs 1 --data", "my set", "--cache", "my cache", "--out", "my run")
    last = stdout().splitlines()[-1]
    python, script, *words = shlex.split(last.removeprefix("next: "))
    assert (python, Path(script).resolve()) == ("python", Path(evaluate.__file__).resolve())
    monkeypatch.setattr(sys, "argv", [script, *words, "--repeats", "0", "--results", "results"])
    evaluate.main()
    assert Path("my run/evaluation.md").exists() and len(list(Path("my cache").glob("*px*"))) == 1


def test_published_results_are_written_and_the_documents_are_left(
    command, ready, trained, tiny, tmp_path, monkeypatch, stdout
):
    monkeypatch.setattr(evaluation, "ROOT", tmp_path)
    (tmp_path / "README.md").write_text("as it was")
    for script, path in ((eval_channels, trained), (eval_shallow, ready(train_task2, *tiny, out="shallow"))):
        stdout()
        command(script, path, "--repeats 0 --results results")
        assert stdout().splitlines()[-1] == "next: python -m report.build"
    assert (tmp_path / "README.md").read_text() == "as it was" and not (tmp_path / "report").exists()
    assert len(list((tmp_path / "results").glob("*/runs/*.json"))) == 2


def test_a_page_that_cannot_be_written_leaves_the_results(command, trained, capsys):
    page = Path("run/evaluation-test-2-sets.md")
    page.mkdir()
    command(eval_channels, trained, "--results results", *FEW)
    shown = capsys.readouterr()
    (warning,) = [line for line in shown.err.splitlines() if page.name in line]
    assert f"cannot write {page}: " in warning and shown.out.splitlines()[-1].startswith("wrote ")
    assert len(list(Path("results/task1/runs").glob("*.json"))) == 1


def test_a_classifier_and_the_same_on_images_of_another_size(command, ready, tiny, stdout):
    ready(train_task2, *tiny)
    command(eval_shallow, "run/model.pt", *OPTIONS)
    assert stdout().splitlines()[-2:] == PATHS
    record = json.loads(next(Path("results/task2/runs").glob("*.json")).read_text())
    row = record["splits"]["test"][0]
    text = Path("run/evaluation.md").read_text(encoding="utf-8")
    assert f"| {row['top1_pct']:.2f} | {row['ci95_low']:.2f} to " in text
    assert "| recall % | precision |" in text and Path("run/evaluation-confusion.png").exists()
    assert f"| {row['strict_depth']} | {record['weighted_operations']} |" in text
    command(eval_shallow, "run/model.pt", *OPTIONS, "--image-size 12")
    assert "12 px at test" in Path("run/evaluation-12px.md").read_text(encoding="utf-8")
    assert Path("run/evaluation.md").read_text(encoding="utf-8") == text


# ---------------------------------------------------------------- by class

ANSWERS = ClassAnswers(
    "test",
    np.array([0, 0, 0, 0, 1, 1, 2]),
    {"RGB": np.array([0, 0, 1, 2, 1, 1, 0]), "R": np.array([0, 0, 0, 0, 0, 0, 0])},
    ["n01855672", "a|b", "c", "never shown"],
)


@mark.usefixtures("drawn")
def test_a_table_of_the_classes(sets, tmp_path, stdout):
    write_page(tmp_path / "model.pt", sets, "net", ANSWERS)
    text = (tmp_path / "evaluation.md").read_text(encoding="utf-8")
    assert "## Classes on test" in text
    header = "| recall %, RGB | recall %, R | precision, RGB | F1, RGB | most often taken for (images), RGB |"
    assert header in text
    # goose: two of four are right, two of three answers; the first of its two mistakes
    assert "| goose | 4 | 50.0 | 100.0 | 0.667 | 0.571 | a/b (1) |" in text
    assert "| a/b | 2 | 100.0 | 0.0 | 0.667 | 0.800 | – |" in text
    assert "| never shown | 0 | – | – | 0.000 | 0.000 | – |" in text
    assert f"confusion matrix: {tmp_path / 'evaluation-confusion.png'}\n" in stdout()
    with Image.open(tmp_path / "evaluation-confusion.png") as chart:
        assert chart.format == "PNG" and chart.width > 400


def test_the_confusion_matrix_shows_the_classes_with_the_most_errors(sets):
    data = confusion_chart(sets, ANSWERS).data
    assert data.classes == ["goose", "a/b", "c", "never shown"] and data.shares[0] == [50, 25, 25, 0]
    foreign = ANSWERS._replace(classes=["\u9e45", "\u00e9", *ANSWERS.classes[2:]])
    assert confusion_chart(sets, foreign).data.classes[:2] == ["class 0", "\u00e9"]
    labels = np.repeat(np.arange(150), 2)
    wrong = np.where(labels >= 50, (labels + 1) % 150, labels)
    many = ClassAnswers("val", labels, {"RGB": wrong}, [f"c{n}" for n in range(150)])
    chart = confusion_chart(sets, many)
    assert chart.data.classes == [f"c{n}" for n in range(50, 150)]
    assert "100 classes with the most errors" in chart.title


def test_top_5_stands_beside_top_1_of_more_than_five_classes(sets):
    sets["splits"]["test"] = [{**row, "top5_pct": 88.5} for row in sets["splits"]["test"]]
    text = make_text(sets)
    assert "| RGB | 61.25 | 53.50 to 68.40 | 88.50 |" in text and text.count("top-5 %") == 1


def test_the_five_likeliest_are_counted():
    class Fixed(torch.nn.Module):
        """Class 0 is the likeliest, then 1, 2, ..."""

        def forward(self, x):
            return -torch.arange(8.0).repeat(len(x), 1)

    images, labels = np.zeros((8, 2, 2, 3), np.uint8), np.arange(8)
    batches = Batches(images, labels, 2, np.zeros(3), np.ones(3), range(3), torch.device("cpu"))
    answers = predict(Fixed(), batches, amp=False)
    assert answers.top5_pct == 62.5 and (answers.predictions == 0).all()
    batches.labels %= 5
    # the plain cross-entropy: label smoothing is for the training alone
    assert predict(Fixed(), batches, amp=False).loss == approx(
        batches.labels.double().mean() + np.log(np.exp(-np.arange(8.0)).sum())
    )
    less = predict(torch.nn.Sequential(Fixed(), torch.nn.Linear(8, 5)), batches, amp=False)
    assert less.top5_pct is None
