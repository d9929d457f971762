"""What a run leaves in results/: names, records, predictions and the table made of them.

All numbers are made up.
"""

import functools
import json
import threading
import time

import numpy as np
import pandas as pd
import torch
from filelock import FileLock, Timeout
from helpers import read_json, user_error
from pytest import fixture, mark, raises

from engine import records
from engine.records import (
    check_results,
    columns,
    load_records,
    make_table,
    note_checksums,
    read_predictions,
    save_record,
    to_csv,
    write_predictions,
    write_record,
    write_table,
)
from grids.task1 import CHANNELSET, RGB_ONLY, SLICED, SPECIALISTS
from grids.task2 import PLAIN, STOCK
from storage.files import write_json
from tools import benchmark


@fixture
def publish(publish):
    """Publish records with their table, as an evaluation does."""
    return functools.partial(publish, write=write_record)


def test_the_table_has_the_columns_in_order_and_sorts_by_section(publish, tmp_path):
    for run in (SPECIALISTS["G"], SLICED, CHANNELSET.but(section="ablation", epochs=60), CHANNELSET):
        publish("task1", run, 60, subsets=("G",) if run is SPECIALISTS["G"] else ("G", "RGB"))
    table = pd.read_csv(tmp_path / "results/task1/channels.csv", keep_default_na=False)
    assert list(table.columns) == list(columns("task1"))
    assert list(table.columns)[:12] == [
        "preset",
        "dataset",
        "image_size",
        "section",
        "model",
        "label",
        "width",
        "epochs",
        "augment",
        "weight_decay",
        "options",
        "test_fill",
    ]
    test = table[table["split"] == "test"]
    assert list(zip(test["section"], test["model"], test["seed"], test["subset"])) == [
        (section, model, seed, subset)
        for section, model, subsets in (
            ("ours", "channelset", ("RGB", "G")),
            ("baseline", "sliced", ("RGB", "G")),
            ("specialist", "specialist", ("G",)),
            ("ablation", "channelset", ("RGB", "G")),
        )
        for seed in (0, 1)
        for subset in subsets
    ]
    assert test["options"].iloc[4] == "embedding=False fill=rescale" and set(test["hardware"]) == {"made up"}
    assert list(table["split"]) == sorted(table["split"])


def test_the_table_can_be_made_again_from_the_records(publish, tmp_path):
    publish("task2", PLAIN, 60, top1_pct=61.239, latency_ms_b1=None, latency_ms_b256=None)
    path = tmp_path / "results/task2/classifiers.csv"
    written = path.read_bytes()
    assert b",61.24," in written and b",,," in written
    path.unlink()
    write_table(tmp_path / "results", "task2")
    assert path.read_bytes() == written


def test_the_table_names_the_machine_that_measured_the_latency(publish, tmp_path, rewrite):
    files = publish("task2", PLAIN, 60, seeds=(0,))
    publish("task2", STOCK, 60, seeds=(0,), latency_ms_b1=None, latency_ms_b256=None)
    record = read_json(files.record)
    rewrite(files.record, {**record, "timed_with": {**record["evaluated_with"], "hardware": "timer"}})
    table = make_table(load_records(tmp_path / "results", "task2"), "task2").set_index("model")
    assert set(table["hardware"]) == {"made up"}
    assert set(table.loc["plain6-k5", "latency_hardware"]) == {"timer"}
    assert table.loc["resnet34", "latency_hardware"].isna().all()


@mark.parametrize("value, message", [({"top1_pct": float("nan")}, "top1_pct"), ({"macs": None}, "macs")])
def test_missing_values_are_named_with_their_record(publish, value, message):
    with user_error(f"48px-quarter-toy-48px-plain6-k5-.*-s0 has no {message}"):
        publish("task2", PLAIN, 60, **value)


def test_a_record_that_is_none_is_named(publish, tmp_path):
    files = publish("task2", STOCK, 60, seeds=(0,))
    record = read_json(files.record)
    for text, message in (
        ("{", "Expecting"),
        ("{}", "preset"),
        (json.dumps({**record, "seed": 3}), "-s3"),
        (json.dumps({**record, "section": "mine"}), "section 'mine'"),
        (json.dumps({**record, "train_s": 61.0}), "it was changed after it was written"),
        (json.dumps({**record, "checksums": {}}), "'record'"),
    ):
        files.record.write_text(text)
        with user_error(f"resnet34-.*-s0.json is not a record .*{message}"):
            load_records(tmp_path / "results", "task2")


def test_damage_is_named_at_every_build_and_never_published(publish, tmp_path, rewrite):
    """A digit of a record or a prediction, a cut file, a lost one; and the table stays what it was."""
    results, files = tmp_path / "results", publish("task2", STOCK, 60, seeds=(0,))
    speed = results / "speed.csv"
    speed.write_text("benchmark,case\n")
    note_checksums(speed)
    check_results(results)
    whole = {path: path.read_bytes() for path in (files.record, files.predictions, speed, files.table)}
    record = json.loads(whole[files.record])
    wrong = json.loads(whole[files.record])
    wrong["splits"]["test"][0]["top1_pct"] += 9
    other = ["images/n0/0.JPEG"] * 100, np.zeros(100, int), {"predicted": np.zeros(100, int)}

    def sealed_over():
        """As a program would that trusts the damage."""
        save_record(files, wrong)

    for damage, message in (
        (
            lambda: write_json(files.record, wrong),
            "s0.json is not a record .*changed after.*evaluate the model again",
        ),
        (lambda: files.record.write_text(json.dumps(record)[:-40]), "s0.json is not a record"),
        (
            lambda: rewrite(files.record, wrong),
            "has top-1 69.0 % in column predicted.*60.00 %.*evaluate the model again",
        ),
        (sealed_over, "has top-1 69.0 % in column predicted"),
        (
            lambda: write_predictions(files.predictions, *other),
            "test.csv.gz was changed after.*evaluate the model",
        ),
        (files.predictions.unlink, "cannot read .*test.csv.gz"),
        (lambda: speed.write_text("benchmark,case"), "speed.csv is missing, or was changed.*measure again"),
        (speed.unlink, "speed.csv is missing, or was changed"),
    ):
        damage()
        read_predictions.cache_clear()
        with user_error(message):
            check_results(results)
        for path, content in whole.items():
            path.write_bytes(content)
    read_predictions.cache_clear()
    check_results(results)
    with user_error("speed.csv is missing, or was changed"):  # a new row is no repair
        speed.write_text("benchmark,case\nx,1\n")
        benchmark.Rows(torch.device("cpu")).keep(speed)


def test_a_damaged_record_stops_no_other_evaluation(publish, tmp_path):
    first = publish("task2", STOCK, 60, seeds=(0,))
    whole = first.record.read_text()
    first.record.write_text(whole[:100])
    before = first.table.read_bytes()
    with user_error("plain6-k5-.*json is written, but .*classifiers.csv is not: .*resnet34"):
        publish("task2", PLAIN, 61, seeds=(0,))
    assert first.table.read_bytes() == before and len(list(first.record.parent.iterdir())) == 2
    first.record.write_text(whole)
    write_table(tmp_path / "results", "task2")
    assert first.table.read_text().count("\n") == 1 + 2 * 2


def test_a_record_and_its_predictions_are_of_one_evaluation(publish, monkeypatch):
    """The lock is held from the first byte of the predictions, so another evaluation cannot come between."""
    files, write, held = publish("task2", STOCK, 60, seeds=(0,)), records.write_predictions, []

    def try_to_lock(path, *predictions):
        with raises(Timeout):
            FileLock(files.folder / files.task / ".lock").acquire(timeout=0)
        held.append(path)
        write(path, *predictions)

    monkeypatch.setattr(records, "write_predictions", try_to_lock)
    predictions = read_predictions(files.predictions)
    write_record(files, read_json(files.record), predictions)
    assert held == [files.predictions]
    check_results(files.folder)


def test_evaluations_write_one_table_in_turn(publish, monkeypatch):
    """The second waits with its record until the first has written its table: no row is lost."""
    write, order, second = records.write_table, [], []

    def slow(folder, task):
        order.append("begins")
        if not second:
            second.append(threading.Thread(target=publish, args=("task2", PLAIN, 61), kwargs={"seeds": (0,)}))
            second[0].start()
            time.sleep(0.5)
        write(folder, task)
        order.append("ends")

    monkeypatch.setattr(records, "write_table", slow)
    files = publish("task2", STOCK, 60, seeds=(0,))
    second[0].join()
    assert order == ["begins", "ends"] * 2
    assert all(model in files.table.read_text() for model in ("plain6-k5", "resnet34"))


@mark.parametrize(
    "text", ["[" * 10**5, "9" * 5000, "\ufffd", "null"], ids=["deep", "long", "no text", "null"]
)
def test_json_that_cannot_be_read_is_named(publish, text):
    files = publish("task1", RGB_ONLY, 60, seeds=(0,))
    files.record.write_text(text)
    with user_error("is not a record of an evaluation .*evaluate the model again"):
        load_records(files.folder, "task1")


def test_the_tasks_are_kept_apart(publish, tmp_path):
    publish("task1", RGB_ONLY, 60)
    publish("task2", STOCK, 60)
    for task, model in (("task1", "rgb-only"), ("task2", "resnet34")):
        assert {record["model"] for record in load_records(tmp_path / "results", task).values()} == {model}
    assert load_records(tmp_path / "nothing", "task1") == {}


def test_numbers_have_their_decimals_and_p_values_four_digits():
    table = pd.DataFrame(
        {"name": ["a", None], "points": [1.234, None], "count": [3.0, 4.0], "p_value": [0.000123456, None]}
    )
    assert (
        to_csv(table, {"name": None, "points": 2, "count": 0, "p_value": None})
        == "name,points,count,p_value\na,1.23,3,0.0001235\n,,4,\n"
    )


def test_predictions_are_read_back_and_a_missing_or_damaged_file_is_named(tmp_path):
    path, labels = tmp_path / "a-test.csv.gz", np.array([0, 1, 1])
    write_predictions(path, ["x/1.JPEG", "x/2.JPEG", "y/3.JPEG"], labels, {"RGB": labels, "R": 1 - labels})
    read = read_predictions(path)
    assert read.images == ["x/1.JPEG", "x/2.JPEG", "y/3.JPEG"] and list(read.by_column) == ["RGB", "R"]
    assert (read.labels == labels).all() and (read.by_column["R"] == 1 - labels).all()
    path.with_name("b.csv.gz").write_bytes(path.read_bytes()[:20])
    for name in ("b.csv.gz", "none.csv.gz"):
        with user_error(f"cannot read .*{name}.*evaluate the model again"):
            read_predictions(tmp_path / name)
