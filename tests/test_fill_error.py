"""What fill rules do to pixels and responses, against values worked by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from channelset import ChannelSetConv2d, build_fill
from metrics.fill_error import mean_energy, neighbour_error, pixel_error, stem_statistics
from tools import fill_error
from utils import UserError

CORRELATED = torch.tensor([[1.0, 0.8], [0.8, 1.0]])


@pytest.mark.parametrize(
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
    assert pixel_error(build_fill(rule, 2, covariance=CORRELATED), CORRELATED, [0]) == pytest.approx(
        error / 2, abs=1e-5
    )
    assert pixel_error(build_fill(rule, 2, covariance=CORRELATED), CORRELATED, [0, 1]) == pytest.approx(
        0.1 if rule == "grey" else 0, abs=1e-5
    )


def test_a_rule_with_other_kernels_is_refused():
    with pytest.raises(ValueError, match="3 kernel channels, the image has 2"):
        pixel_error(build_fill("luma_chroma", 2), CORRELATED, [0])


def test_neighbours_help_where_channels_are_shifted_and_not_where_they_are_noisy():
    noise = torch.randn(40, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    shifted = torch.cat([noise, noise.roll(1, 3)], 1)
    train, test = shifted[:20], shifted[20:]
    assert neighbour_error(train, test, [0], 1) == pytest.approx(0.5, abs=0.05)
    assert neighbour_error(train, test, [0], 3) < 0.06  # but for the column that the image's edge hides
    assert neighbour_error(train, test, [0, 1], 3) == 0
    with pytest.raises(ValueError, match="size 2: must be odd"):
        neighbour_error(train, test, [0], 2)


def test_stem_statistics_by_hand():
    """A filter adds two channels with independent pixels. If one is filled with zero, the variance is halved."""
    stem, norm = ChannelSetConv2d(2, 1, 1, embedding=False).eval(), nn.BatchNorm2d(1).eval()
    with torch.no_grad():
        stem.weight.fill_(1)
    images = torch.randn(600, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    norm.running_mean.zero_(), norm.running_var.fill_(2.0)
    found = stem_statistics(stem, norm, images, [1], batch=250)
    assert found["stem_error"] == pytest.approx(0.5, rel=0.03)
    assert found["variance_ratio"] == pytest.approx(0.5, rel=0.03)
    assert found["bn_shift"] == pytest.approx(0.5 * (0.5 - 1 + np.log(2)), rel=0.05)
    whole = stem_statistics(stem, norm, images, [0, 1])
    assert whole["stem_error"] == 0 and whole["variance_ratio"] == 1 and whole["bn_shift"] < 1e-3


def test_mean_energy_by_hand():
    grey, colour = np.ones((1, 3, 2, 2)), np.array([1.0, -1.0]).reshape(1, 2, 1, 1)
    assert mean_energy(grey) == 1 and mean_energy(colour) == 0
    assert mean_energy(np.array([1.0, 0.0]).reshape(1, 2, 1, 1)) == pytest.approx(0.5)


def test_the_tool_measures_a_trained_network_and_refuses_one_of_other_data(
    trained, tiny_dataset, read_rows, capsys
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
    assert len(rows) == 7 * (5 + 3) + 7 and capsys.readouterr().out.endswith("63 rows\n")
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
    with pytest.raises(UserError, match="model.pt was trained on tiny at 8 px, not on tiny at 7 px"):
        fill_error.main([*options, "--size", "7"])
