"""Photographs, what networks say of them, and what that rests on."""

import json

import numpy as np
import pytest
import torch
from helpers import user_error
from PIL import Image

import train_task2
from engine.prediction import grad_cam
from models.shallow import build_shallow
from report import qualitative
from report.numbers import Numbers
from storage.checkpoint import load_checkpoint, save_checkpoint
from tools import qualitative as tool
from tools.qualitative import PHOTOGRAPHS

STATISTICS = {
    "mean": [0.5, 0.4, 0.3],
    "std": [0.2, 0.2, 0.1],
    "covariance": [[0.04, 0.02, 0.01], [0.02, 0.04, 0.01], [0.01, 0.01, 0.01]],
}


def record() -> dict:
    """Make up a record of tools.qualitative."""
    sets = ("RGB", "RG", "RB", "GB", "R", "G", "B")
    ours = {
        "answers": {"coffee": dict.fromkeys(sets, ["wok", 50.0])},
        "statistics": STATISTICS,
        "kernels": {name: np.ones((2, len(name), 3, 3)).tolist() for name in sets},
    }
    return {"ours": ours}


@pytest.fixture
def root(tmp_path):
    """Make a repository with a picture and a record."""
    (tmp_path / "results").mkdir()
    (tmp_path / "report/photographs").mkdir(parents=True)
    pixel = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    Image.fromarray(pixel).save(tmp_path / "report/photographs/coffee.png")
    (tmp_path / "results/qualitative.json").write_text(json.dumps(record()))
    return tmp_path


@pytest.mark.usefixtures("drawn")
def test_every_figure_is_drawn_and_the_same_twice(root):
    made = qualitative.make_charts(root)
    assert set(made) == {f"qualitative_{name}.png" for name in ("reconstructions", "kernels")}
    for name, chart in made.items():
        chart.write(root / name)
        drawn = (root / name).read_bytes()
        chart.write(root / name)
        assert (root / name).read_bytes() == drawn


def test_the_weights_of_absent_channels_in_words(root):
    """All correlations are 1/2."""
    numbers = Numbers([], root / "results")
    assert numbers.example("RG") == "blue = 0.33 red + 0.33 green"
    assert numbers.example("B") == "red = 0.50 blue, green = 0.50 blue"
    assert Numbers([], root).example("RG") == "–"


def test_without_results_there_is_no_figure_and_damage_is_named(root):
    (root / "results/qualitative.json").write_text("{}")
    with user_error("qualitative.json is damaged .* python -m tools.qualitative"):
        qualitative.make_charts(root)
    (root / "results/qualitative.json").unlink()
    assert qualitative.make_charts(root) == {}


def test_a_pixel_is_filled_as_by_hand():
    picture = np.array([[[153, 102, 51]]], dtype=np.uint8)  # 0.6, 0.4, 0.2: normalised 0.5, 0, -1

    def filled(rule, ids):
        return qualitative.fill_picture(picture, rule, ids, STATISTICS)[0, 0].tolist()

    assert filled("zero", [0]) == [153, 102, 76]  # the means, 0.4 and 0.3, in the absent ones' places
    assert filled("rescale", [0]) == [204, 102, 76]  # 0.5 + 3 * 0.1
    assert filled("mean", [0]) == [153, 128, 89]  # 0.5 deviations above their means
    assert filled("regression", [0])[:2] == [153, 115]  # of a correlation of 0.5
    assert filled("mean", [0, 1, 2]) == [153, 102, 51]


def test_a_figure_shows_the_part_that_evaluation_looks_at():
    picture = np.arange(96 * 96 * 3).reshape(96, 96, 3).astype(np.uint8)
    assert np.array_equal(qualitative._seen(Image.fromarray(picture)), picture[6:90, 6:90])


def test_grad_cam_points_at_what_the_answer_rests_on():
    net = build_shallow(
        "plain6-k5", 5, kernels=(3,), widths=(8, 8), stem="3x3s1", num_pools=0, width=1.0
    ).eval()
    image = torch.zeros(1, 3, 24, 24)
    image[..., 4:10, 4:10] = 3.0
    logits, rests_on = grad_cam(net, image)
    assert torch.equal(logits, net(image).detach()) and rests_on.shape == (24, 24)
    assert rests_on.min() >= 0 and rests_on.max() == 1
    assert "feature_maps" not in vars(net)  # the network is left as it was


def test_an_answer_is_the_likeliest_class_in_percent(trained):
    predictor = tool.load(str(trained), "task1-model")
    predictor.classes = ["first", "second", "third"]
    label, percent = tool.answer(predictor, "coffee", "RG")
    shares = predictor(PHOTOGRAPHS / "coffee.png", "RG")
    assert (label, percent) == (shares[0][0], round(100 * shares[0][1], 1)) and label in predictor.classes


def test_every_picture_has_a_licence():
    text = (PHOTOGRAPHS / "README.md").read_text(encoding="utf-8")
    for path in PHOTOGRAPHS.glob("*.png"):
        line = next(line for line in text.splitlines() if f"`{path.name}`" in line)
        assert "CC0" in line or "public domain" in line


def test_the_tool_asks_networks_of_both_tasks(trained, command, tiny, stdout):
    command(train_task2, "--arch gated4-k7", *tiny[2:], "--epochs 1 --out shallow")
    tool.main(["--ours", str(trained), "--networks", "shallow/model.pt", "--out", "found.json"])
    found = json.loads(open("found.json").read())
    assert set(found["ours"]["answers"]) == set(found["pictures"]) == {"chelsea", "coffee", "rocket"}
    kernel = np.array(found["ours"]["kernels"]["RG"])
    assert kernel.shape[1:] == (2, 7, 7) and np.array_equal(kernel, kernel.round(4))
    assert (
        found["networks"][0]["model"] == "gated4-k7" and np.max(found["networks"][0]["maps"]["rocket"]) <= 1
    )
    mixed = load_checkpoint("shallow/model.pt", "task2-model")
    mixed["dataset"]["data_channels"] = dict.fromkeys("BGR")
    save_checkpoint("mixed.pt", mixed)
    with user_error("expected 'task2-model'"):
        tool.classifier(str(trained), ["rocket"])
    with user_error("mixed.pt has channels B, G, R, but the pictures are RGB"):
        tool.classifier("mixed.pt", ["rocket"])
    assert "rocket: {'RGB': " in stdout()
    plain = load_checkpoint(trained, "task1-model")
    plain["config"]["sampler"] = "none"
    save_checkpoint("plain.pt", plain)
    with user_error("--ours plain.pt: it was trained on only one set; give a network"):
        tool.main(["--ours", "plain.pt", "--out", "found.json"])
