"""Published networks: each has a record, no path of a machine, and gives the recorded answers where the data are."""

from pathlib import PurePath

from helpers import user_error
from pytest import mark

import eval_channels
import eval_shallow
from engine.records import RunFiles, read_predictions, read_sums
from storage.checkpoint import load_checkpoint, save_checkpoint
from tools import weights
from utils import ROOT

RESULTS = ROOT / "results"
PUBLISHED = sorted((RESULTS / weights.WEIGHTS).glob("*/model.pt"))
NAMES = [path.parent.name for path in PUBLISHED]
DATA = next((ROOT / "data").glob("mini-imagenet-50*"), None)


def texts(value):
    """Yield every text in nested containers."""
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from texts(item)
    elif isinstance(value, str):
        yield value


def test_there_are_published_networks_of_both_tasks():
    assert {load_checkpoint(path, ("task1-model", "task2-model"))["kind"] for path in PUBLISHED} == {
        "task1-model",
        "task2-model",
    }


@mark.parametrize("path", PUBLISHED, ids=NAMES)
def test_a_published_network_has_a_record_and_no_path(path, published, monkeypatch):
    checkpoint = load_checkpoint(path, ("task1-model", "task2-model"))
    monkeypatch.setattr(weights, "load_records", lambda folder, task: published(task))
    name = weights.record_of(checkpoint, RESULTS)
    params = published(checkpoint["kind"].removesuffix("-model"))[name]["splits"]["test"][0]["params"]
    assert params <= sum(tensor.numel() for tensor in checkpoint["state"].values())
    assert path.stat().st_size <= weights.MOST_BYTES
    assert [text for text in texts(checkpoint) if PurePath(text).is_absolute()] == []
    assert not {"data", "cache", "out"} & {*checkpoint["config"]}


@mark.skipif(DATA is None, reason="needs data/mini-imagenet-50, see data/README.md")
@mark.parametrize("path", PUBLISHED, ids=NAMES)
def test_a_published_network_gives_the_recorded_answers(command, path, tmp_path):
    checkpoint = load_checkpoint(path, ("task1-model", "task2-model"))
    task, script = {"task1-model": ("task1", eval_channels), "task2-model": ("task2", eval_shallow)}[
        checkpoint["kind"]
    ]
    copy = tmp_path / "model.pt"
    copy.write_bytes(path.read_bytes())
    command(script, copy, "--data", DATA, "--results", tmp_path, "--repeats 0")
    name = weights.record_of(checkpoint, RESULTS)
    new, old = (read_predictions(RunFiles(folder, task, name).predictions) for folder in (tmp_path, RESULTS))
    assert new.images == old.images
    for column, answers in old.by_column.items():
        assert (new.by_column[column] == answers).mean() > 0.995  # other processors round in another way


def test_only_networks_with_a_record_are_published(command, trained, tmp_path):
    command(eval_channels, "run/model.pt", "--results", tmp_path, "--repeats 0")
    weights.main(["run/model.pt", "tiny", "--results", str(tmp_path)])
    copy = load_checkpoint(tmp_path / "weights" / "tiny" / "model.pt", "task1-model")
    assert not {"data", "cache", "out", "resume"} & {*copy["config"]} and copy["config"]["name"]
    assert read_sums(tmp_path / "SHA256SUMS").keys() == {"weights/tiny/model.pt"}
    checkpoint = load_checkpoint("run/model.pt", "task1-model")
    save_checkpoint("other.pt", {**checkpoint, "train_s": -1.0})
    with user_error("has no record of this training: evaluate it with --results"):
        weights.main(["other.pt", "other", "--results", str(tmp_path)])
    published = tmp_path / "weights" / "tiny" / "model.pt"
    weights.main(["run/model.pt", "tiny", "--results", str(tmp_path)])  # the same network again
    save_checkpoint(published, {**checkpoint, "train_s": -1.0})
    with user_error("holds another network: choose another name"):
        weights.main(["run/model.pt", "tiny", "--results", str(tmp_path)])
