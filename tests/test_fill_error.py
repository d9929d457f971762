"""What fill rules do to pixels and responses, against values worked by hand."""

import shlex

import numpy as np
import torch
from helpers import user_error
from pytest import approx, mark, raises
from torch import nn

import train_task1
from channelset import ChannelSetConv2d, build_fill
from metrics.fill_error import (
    fine_detail,
    mean_energy,
    neighbour_error,
    pixel_error,
    second_moments,
    stem_statistics,
)
from storage.checkpoint import load_checkpoint, save_checkpoint
from tools import fill_error, qualitative
from utils import ROOT

CORRELATED = torch.tensor([[1.0, 0.8], [0.8, 1.0]])


@mark.parametrize(
    "rule, error",
    [
        ("zero", 1.0),
        ("mean", 2 - 2 * 0.8),
        ("regression", 1 - 0.8**2),  # of the absent channel
        ("rescale", 2.0),
        ("grey", 2 - 2 * 0.8),
    ],
)  # C/n: the present one is doubled, 1, the absent zero, 1
def test_pixel_error_by_hand(rule, error):
    assert pixel_error(build_fill(rule, 2, covariance=CORRELATED), CORRELATED, [0]) == approx(
        error / 2, abs=1e-5
    )
    assert pixel_error(build_fill(rule, 2, covariance=CORRELATED), CORRELATED, [0, 1]) == approx(
        0.1 if rule == "grey" else 0, abs=1e-5
    )


def test_neighbours_help_where_channels_are_shifted_and_not_where_they_are_noisy():
    noise = torch.randn(40, 1, 12, 12)
    shifted = torch.cat([noise, noise.roll(1, 3)], 1)
    train, test = shifted[:20], shifted[20:]
    assert neighbour_error(train, test, [0], 1) == approx(0.5, abs=0.05)
    assert neighbour_error(train, test, [0], 3) < 0.06  # but for the column that the image's edge hides
    assert neighbour_error(train, test, [0, 1], 3) == 0


def test_fine_detail_has_the_error_of_the_whole_if_the_covariance_separates():
    """Two channels are correlated alike everywhere, or share the fine detail and have smooth parts of their own."""
    fine, smooth = torch.randn(2, 2000, 1, 8, 8), torch.randn(2, 2000, 1, 1, 1)
    alike = torch.cat([fine[0], 0.8 * fine[0] + 0.6 * fine[1]], 1)
    shared = torch.cat([fine[0] + smooth[0], fine[0] + smooth[1]], 1)  # variance 2, correlation 0.5
    for images, whole, detail in ((alike, 0.18, 0.18), (shared, 0.75, 0.125)):
        moments = second_moments(images)
        rule = build_fill("regression", 2, covariance=moments.float())
        assert pixel_error(rule, moments, [0]) == approx(whole, rel=0.05)
        assert pixel_error(rule, second_moments(fine_detail(images, 3)), [0]) == approx(detail, rel=0.05)


def test_stem_statistics_by_hand():
    """A filter adds two channels with independent pixels. If one is filled with zero, the variance is halved."""
    stem, norm = ChannelSetConv2d(2, 1, 1, embedding=False).eval(), nn.BatchNorm2d(1).eval()
    with torch.no_grad():
        stem.weight.fill_(1)
    images = torch.randn(600, 2, 8, 8)
    norm.running_mean.zero_(), norm.running_var.fill_(2.0)
    found = stem_statistics(stem, norm, images, [1])
    assert found["stem_error"] == approx(0.5, rel=0.03)
    assert found["variance_ratio"] == approx(0.5, rel=0.03)
    assert found["bn_shift"] == approx(0.5 * (0.5 - 1 + np.log(2)), rel=0.05)
    whole = stem_statistics(stem, norm, images, [0, 1])
    assert whole["stem_error"] == 0 and whole["variance_ratio"] == 1 and whole["bn_shift"] < 1e-3


def test_statistics_of_two_filters_and_another_mean():
    """The stem error is that of all filters together, a ratio their geometric mean; BatchNorm's mean counts."""
    stem, norm = ChannelSetConv2d(2, 2, 1, embedding=False).eval(), nn.BatchNorm2d(2).eval()
    with torch.no_grad():
        stem.weight.copy_(torch.tensor([[1.0, 1.0], [1.0, 3.0]])[..., None, None])
    images = torch.randn(600, 2, 8, 8)
    norm.running_mean.fill_(1), norm.running_var.copy_(torch.tensor([2.0, 10.0]))
    found = stem_statistics(stem, norm, images, [1])  # variances 1 of 2 and 9 of 10
    assert found["stem_error"] == approx((1 + 1) / (2 + 10), rel=0.03)
    assert found["variance_ratio"] == approx((0.5 * 0.9) ** 0.5, rel=0.03)
    shifts = [0.5 * (ratio + 1 / var - 1 - np.log(ratio)) for ratio, var in ((0.5, 2), (0.9, 10))]
    assert found["bn_shift"] == approx(np.mean(shifts), rel=0.05)


def test_mean_energy_by_hand():
    grey, colour = np.ones((1, 3, 2, 2)), np.array([1.0, -1.0]).reshape(1, 2, 1, 1)
    assert mean_energy(grey) == 1 and mean_energy(colour) == 0
    assert mean_energy(np.array([1.0, 0.0]).reshape(1, 2, 1, 1)) == approx(0.5)


def measure(dataset) -> None:
    """Measure the fill error of run/model.pt on `dataset`; write t.csv."""
    options = f"--data {dataset} --cache cache --threads 1 --size 8 --out t.csv run/model.pt"
    fill_error.main(shlex.split(options))


@mark.parametrize(
    "options, reason",
    [
        (("--channels", "R"), "it fills 1 kernel channels from 1 channels; both must be 3"),
        (("--fill", "luma_chroma"), "it fills 4 kernel channels from 3 channels; both must be 3"),
        (("--fill", "conditioned"), "the fill rule depends on the image"),
        (("--fill", "rescale", "--kernel", "dynamic"), "the kernel depends on the image"),
    ],
)
def test_a_network_that_the_tool_cannot_measure_is_named(ready, tiny, tiny_dataset, options, reason):
    ready(train_task1, *tiny, "--epochs 1", *options)
    with user_error(f"run/model.pt cannot be measured: {reason}.*; leave it out"):
        measure(tiny_dataset)
    if options[-1] in ("conditioned", "dynamic"):
        with user_error(f"--ours run/model.pt: {reason}; give a network"):
            qualitative.main(["--ours", "run/model.pt", "--out", "found.json"])


def test_data_of_other_channels_are_refused_before_they_are_decoded(tiny_dataset, monkeypatch):
    (tiny_dataset / "bands.txt").write_text("A\nB\nC\n")
    monkeypatch.setattr(fill_error, "open_data", None)
    with user_error("has channels A, B, C: this table needs RGB data; name such data with --data"):
        fill_error.main(["--data", str(tiny_dataset)])


def test_a_learned_rule_is_measured_as_it_was_trained(ready, tiny, tiny_dataset, read_rows):
    ready(train_task1, *tiny, "--epochs 1 --fill learned")
    checkpoint = load_checkpoint("run/model.pt", "task1-model")
    for name, value in checkpoint["state"].items():
        if "fill" in name and value.is_floating_point():
            value.add_(0.1)
    save_checkpoint("run/model.pt", checkpoint)
    measure(tiny_dataset)
    errors = {row["rule"]: row["pixel_error"] for row in read_rows("t.csv") if row["subset"] == "R"}
    assert abs(errors["learned"] - errors["regression"]) > 0.01


def test_the_tool_measures_a_trained_network_and_refuses_one_of_other_data(
    trained, tiny_dataset, read_rows, stdout, stderr
):
    options = [
        "--data",
        str(tiny_dataset),
        "--cache",
        "cache",
        "--threads",
        "1",
        "--out",
        "errors.csv",
        str(trained),
    ]
    fill_error.main([*options, "--size", "8"])
    rows = read_rows("errors.csv")
    assert len(rows) == 7 * (5 + 5 + 3) + 7 and stdout().endswith("98 rows\n")
    (red,) = [row for row in rows if row["model"] and row["subset"] == "R"]
    assert (
        red["rule"] == "regression"
        and float(red["stem_error"]) > 0
        and 0 <= float(red["val_top1_pct"]) <= 100
    )
    assert (
        float(next(row for row in rows if row["rule"] == "zero" and row["subset"] == "RGB")["pixel_error"])
        == 0
    )
    published = (ROOT / "results/fill_error.csv").read_bytes()
    fill_error.main([*options[:-3], "--size", "8"])
    assert stdout().endswith("wrote runs/results/fill_error.csv: 91 rows\n")  # not the table of the report
    assert (ROOT / "results/fill_error.csv").read_bytes() == published
    with user_error("none.pt"):  # before the data are read
        fill_error.main(["none.pt", "--data", "none"])
    with user_error("model.pt was trained on tiny at 8 px, not on tiny at 7 px"):
        fill_error.main([*options, "--size", "7"])
    with raises(SystemExit):
        fill_error.main([*options, "--size", "4"])
    assert "argument --size: 4 is out of range: give a number from 5" in stderr()
