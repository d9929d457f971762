"""What a run leaves in results/: names, records, predictions and the table made of them.

All numbers are made up.
"""

import json

import numpy as np
import pandas as pd
import pytest

from engine.records import (
    columns,
    load_records,
    make_table,
    read_predictions,
    to_csv,
    write_predictions,
    write_table,
)
from grids.task1 import CHANNELSET, RGB_ONLY, SLICED, SPECIALISTS
from grids.task2 import PLAIN, STOCK
from utils import UserError


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


@pytest.mark.parametrize(
    "value, message",
    [
        ({"top1_pct": 101.0}, "top1_pct 101.0, outside 0..100"),
        ({"f1_macro": 1.5}, "f1_macro 1.5, outside 0..1"),
        ({"top1_pct": float("nan")}, "top1_pct nan, outside"),
        ({"macs": None}, "macs nan, outside"),
    ],
)
def test_values_out_of_range_are_named_with_their_record(publish, value, message):
    with pytest.raises(UserError, match=f"48px-quarter-toy-48px-plain6-k5-.*-s0 has {message}"):
        publish("task2", PLAIN, 60, **value)


def test_a_record_that_is_none_is_named(publish, tmp_path):
    files = publish("task2", STOCK, 60, seeds=(0,))
    record = json.loads(files.record.read_text())
    for text, message in (
        ("{", "Expecting"),
        ("{}", "preset"),
        (json.dumps({**record, "seed": 3}), "-s3"),
        (json.dumps({**record, "section": "mine"}), "section 'mine'"),
    ):
        files.record.write_text(text)
        with pytest.raises(UserError, match=f"resnet34-.*-s0.json is no record .*{message}"):
            load_records(tmp_path / "results", "task2")
    files.record.write_text(json.dumps({key: value for key, value in record.items() if key != "label"}))
    with pytest.raises(UserError, match="has no 'label': evaluate the model again"):
        make_table(load_records(tmp_path / "results", "task2"), "task2")


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
        with pytest.raises(UserError, match=f"cannot read .*{name}.*evaluate the model again"):
            read_predictions(tmp_path / name)
