"""A table and a chart of what was just evaluated."""
import pytest
from PIL import Image

from report import evaluation_page
from report.evaluation_page import make_text, training_chart, write_page

QUALITY = {"top1_pct": 61.25, "ci95_low": 53.5, "ci95_high": 68.4, "precision_macro": 0.6, "recall_macro": 0.61,
           "f1_macro": 0.605, "loss": 1.234}
HEAD = {"label": "a label", "dataset": "toy", "image_size": 48, "preset": "48px-quarter", "seed": 3, "train_s": 60.4,
        "config": {"epochs": 30, "augment": "light"}, "test": {}}


@pytest.fixture
def sets():
    """A record of Task 1, two sets on both splits."""
    rows = [{"subset": name, **QUALITY, "macs": 4e6, "latency_ms": 0.37} for name in ("RGB", "R")]
    return {**HEAD, "task": "task1", "splits": {"val": rows, "test": rows}, "history": []}


@pytest.fixture
def classifier():
    """A record of Task 2 with a log of two epochs."""
    row = {**QUALITY, "strict_depth": 6, "params": 1e6, "macs": 5e6, "latency_ms_b1": None, "latency_ms_b256": None,
           "peak_mem_mb": 12.0}
    history = [{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.5, "val_loss": 1.7, "val_top1_pct": 40.0}]
    return {**HEAD, "task": "task2", "splits": {"test": [row]}, "weighted_operations": 14, "history": history}


def test_both_files_are_written_and_named_last(sets, classifier, tmp_path, capsys):
    for number, record in enumerate((sets, classifier)):
        folder = tmp_path / str(number)
        write_page(folder, record)
        assert capsys.readouterr().out.splitlines()[-2:] == [
            f"table: {folder / 'evaluation.md'}", f"chart: {folder / 'evaluation.png'}"]
        assert "61.25" in (folder / "evaluation.md").read_text(encoding="utf-8")
        with Image.open(folder / "evaluation.png") as chart:
            assert chart.width > 400 and chart.format == "PNG"


def test_the_text_tells_what_was_measured_and_dashes_what_was_not(sets, classifier):
    text = make_text(sets)
    assert "| RGB | 61.25 | 53.50 – 68.40 | 0.600 | 0.610 | 0.605 | 1.234 | 4.0 | 0.37 |" in text
    assert text.index("## test") < text.index("## val") and "seed 3; trained in 60 s." in text
    assert "| mean | 61.25 |" in text
    del classifier["splits"]["test"][0]["loss"]   # of a record of an older version
    assert "| 0.605 | – | 6 | 14 | 1.00 | 5.0 | – | – | 12.0 |" in make_text(classifier)


def test_another_way_to_evaluate_has_files_of_its_own(sets, tmp_path):
    write_page(tmp_path, {**sets, "test": {"fill": "mean", "image_size": 40}})
    write_page(tmp_path, sets, "late-fusion")
    assert {path.name for path in tmp_path.glob("*.md")} == {"evaluation-fill-mean-40px.md",
                                                            "evaluation-late-fusion.md"}


def test_a_folder_that_cannot_be_written_is_named_and_no_more(sets, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    write_page(tmp_path / "file", sets)
    shown = capsys.readouterr()
    assert shown.err.count("\n") == 1 and "evaluation.md" in shown.err and shown.out == ""


def test_charts_hold_what_there_is(sets, classifier):
    many = [{"subset": f"B{n:02}", **QUALITY, "macs": 1, "latency_ms": None} for n in range(40)]
    _, data, title = evaluation_page.sets_chart({**sets, "splits": {"val": many}})
    assert len(data) == 30 and title.endswith("top-1 on val (the first 30 of 40 sets)")
    loss, top1 = training_chart(classifier)[1]["panels"]
    assert [line["y"] for line in loss["series"]] == [[2.0, 1.5], [1.7]] and top1["series"][0]["y"] == [40.0]
    assert training_chart({**classifier, "history": []})[1] == [["test", 61.25, 53.5, 68.4]]
