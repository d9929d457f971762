"""Metrics against values worked by hand."""

import math

import numpy as np
from helpers import value_error
from pytest import approx, mark
from scipy import stats

from metrics.accuracy import classification_metrics, confusion_matrix
from metrics.statistics import (
    SeedVariance,
    holm,
    mean_variance,
    paired_difference,
    paired_ratio,
    seed_variance,
    wilson_interval,
)

LABELS, PREDICTIONS = [0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 2, 1]


def test_confusion_matrix_has_true_rows_and_predicted_columns():
    assert confusion_matrix(LABELS, PREDICTIONS, 3).tolist() == [[2, 1, 0], [0, 1, 1], [0, 1, 0]]


def test_classification_metrics_by_hand():
    result = classification_metrics(LABELS, PREDICTIONS, 3)
    assert result["top1_pct"] == approx(50)
    assert result["precision_macro"] == approx((1 + 1 / 3 + 0) / 3)
    assert result["recall_macro"] == approx((2 / 3 + 1 / 2 + 0) / 3)
    assert result["f1_macro"] == approx((4 / 5 + 2 / 5 + 0) / 3)


def test_classes_without_samples_are_left_out_of_the_mean():
    result = classification_metrics([0, 0, 1, 1], [0, 0, 1, 1], 4)
    assert result["precision_macro"] == result["recall_macro"] == result["f1_macro"] == 1
    wrong = classification_metrics(
        [0, 0, 1, 1], [0, 3, 1, 1], 4
    )  # a class that is absent is still a wrong answer
    assert wrong["recall_macro"] == approx(0.75) and wrong["precision_macro"] == 1
    never = classification_metrics(
        [0, 0, 1, 1], [0, 0, 0, 0], 2
    )  # a class that is never predicted has precision 0
    assert never["precision_macro"] == approx(0.25) and never["f1_macro"] == approx(1 / 3)


def test_wilson_known_values():
    assert wilson_interval(8, 10) == approx((49.01625, 94.33178), abs=1e-4)
    assert wilson_interval(0, 10) == approx((0, 27.7533), abs=1e-3)
    assert wilson_interval(10, 10)[1] == approx(100)
    p, n, z = 0.37, 300, 1.959963984540054  # the formula of Wilson 1927
    centre, half = p + z * z / 2 / n, z * (p * (1 - p) / n + z * z / 4 / n**2) ** 0.5
    assert wilson_interval(111, 300) == approx([100 * (centre + s * half) / (1 + z * z / n) for s in (-1, 1)])


@mark.parametrize(
    "labels, predictions, message",
    [
        ([], [], "zero-size"),
        ([0, 1], [0], "inconsistent numbers of samples"),
        ([0, 3], [0, 1], "outside 0..2"),
        ([0, 1], [0, -1], "outside 0..2"),
    ],
)
def test_bad_input_is_refused(labels, predictions, message):
    with value_error(message):
        classification_metrics(labels, predictions, 3)


def test_identical_models_do_not_differ():
    correct = np.random.default_rng(0).integers(0, 2, (3, 50))
    assert paired_difference(correct, correct) == {
        "difference_points": 0,
        "ci95_low": 0,
        "ci95_high": 0,
        "p_value": 1,
    }
    assert paired_ratio(correct, correct) == {"ratio": 1, "ci95_low": 1, "ci95_high": 1, "p_value": 1}


def test_one_seed_agrees_with_resampled_images_and_with_mcnemar():
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 2, (2, 400))
    result = paired_difference(a[None], b[None])
    resampled = 100 * (a - b)[rng.integers(0, 400, (4000, 400))].mean(1)
    assert result["difference_points"] == approx(100 * (a - b).mean())
    assert [result["ci95_low"], result["ci95_high"]] == approx(np.percentile(resampled, [2.5, 97.5]), abs=0.8)
    only_a, only_b = (a > b).sum(), (b > a).sum()
    z = (only_a - only_b) / (only_a + only_b) ** 0.5  # McNemar's statistic
    assert result["p_value"] == approx(math.erfc(abs(z) / 2**0.5), abs=0.01)


def test_the_interval_of_four_images_by_hand():
    """Gains of 100, 0, 100, 0 points: their variance is 10,000 / 3, and that of their mean a quarter of it."""
    result = paired_difference(np.array([[1, 0, 1, 0]]), np.zeros((1, 4)))
    assert result["ci95_high"] - 50 == approx(1.959964 * (10_000 / 12) ** 0.5, abs=1e-3)


def test_the_interval_covers_seeds_as_well_as_images():
    """Models that are right on all images or on none: only the seeds are uncertain."""
    a, b = np.repeat([[1], [1], [1], [0]], 100, axis=1), np.full((1, 100), 0.5)
    assert paired_difference(a, b) == {"difference_points": 25, "ci95_low": 25, "ci95_high": 25, "p_value": 0}
    # error 5; degrees of freedom by what is measured, 13 and 16, not by what is added, 9 and 16
    seeds = [(1, SeedVariance(13, 4, 4)), (1, SeedVariance(16, 0, 2))]
    result = paired_difference(a, b, seeds)
    df = 625 / (169 / 4 + 256 / 2)
    half = 5 * stats.t.ppf(0.975, df)
    assert (result["ci95_low"], result["ci95_high"]) == approx((25 - half, 25 + half))
    assert result["p_value"] == approx(2 * stats.t.sf(5, df))
    # seeds that vary less than independent images would add nothing
    assert paired_difference(a, b, [(1, SeedVariance(3, 4, 4))])["p_value"] == 0


def test_a_ratio_agrees_with_resampled_images():
    rng = np.random.default_rng(1)
    a, b = rng.random((2, 400)) < 0.6, rng.random((3, 400)) < 0.8
    result = paired_ratio(a, b)
    for end in ("ci95_low", "ci95_high"):  # just not excluded
        assert paired_ratio(a, b, null=result[end])["p_value"] == approx(0.05)
    drawn = rng.integers(0, 400, (4000, 400))
    resampled = a.mean(0)[drawn].mean(1) / b.mean(0)[drawn].mean(1)
    assert result["ratio"] == approx(a.mean() / b.mean())
    assert [result["ci95_low"], result["ci95_high"]] == approx(
        np.percentile(resampled, [2.5, 97.5]), abs=0.01
    )


def test_a_ratios_interval_covers_seeds_by_the_delta_method():
    """Models that are right on the same share of each image's seeds: only the seeds are uncertain."""
    # 50 and 80 %
    a, b = np.repeat([[1], [0]], 100, axis=1), np.repeat([[1], [1], [1], [1], [0]], 100, axis=1)
    result = paired_ratio(a, b, [(1 / 4, 1 / 9, SeedVariance(36, 0, 3))])
    drawn = np.random.default_rng(0).normal([50, 80], [3, 2], (100_000, 2))  # variances 9 and 4
    error = (result["ci95_high"] - result["ci95_low"]) / 2 / 3.182446
    assert result["ratio"] == approx(0.625) and error == approx((drawn[:, 0] / drawn[:, 1]).std(), rel=0.02)
    assert result["p_value"] == approx(2 * stats.t.sf(0.375 / error, 3))


def test_a_ratio_needs_a_denominator():
    nine = np.repeat([np.arange(50) < 9], 3, axis=0)  # in each of three seeds
    for few in (np.eye(1, 50), nine):
        with value_error("right on too few images"):
            paired_ratio(np.ones((1, 50)), few)


def test_t_is_used_with_the_degrees_of_freedom_of_the_seeds_and_the_normal_without_seeds():
    """Printed tables: 12.7062 at one degree of freedom, 1.95996 of the normal distribution."""
    a, b = np.repeat([[1], [0]], 100, axis=1), np.zeros((1, 100))
    few, many = (paired_difference(a, b, [(1, SeedVariance(4, 0, df))]) for df in (1, math.inf))
    assert few["ci95_high"] - 50 == approx(2 * 12.7062, abs=1e-3)
    assert many["ci95_high"] - 50 == approx(2 * 1.95996, abs=1e-4) and many["p_value"] < 1e-9


def test_seed_variance_by_hand():
    """Two seeds that are right on 3 and on 1 of 4 images: 75 and 25 %; they disagree on two images."""
    outcomes = np.array([[1, 1, 1, 0], [1, 0, 0, 0]])
    found = seed_variance([outcomes, np.ones((1, 4))])
    assert found == approx((1250, 2 * 5000 / 16, 1)) and found.excess == approx(625)
    assert seed_variance([np.ones((1, 4))]) is None and seed_variance([]) is None
    pooled = seed_variance([outcomes, np.ones((3, 4))])
    assert pooled == approx((1250 / 3, 625 / 3, 3))
    assert mean_variance([found, found]) == approx((1250 / 2, 625 / 2, 2))


def test_the_freedom_of_a_mean_follows_its_largest_variance():
    parts = [SeedVariance(1.0, 0.0, 2), SeedVariance(4.0, 0.0, 2)]
    variance = mean_variance(parts)
    assert variance.between == 5 / 4
    assert variance.freedom == approx(5**2 / (1 / 2 + 4**2 / 2))  # 2.9, not the sum of 4


def test_the_excess_of_the_seeds_is_what_all_images_would_show():
    """Networks whose accuracy on all images varies by 2 points, tested on 500 of them."""
    rng = np.random.default_rng(0)
    images, shift = rng.random((300, 1, 500)) < 0.7, rng.normal(0, 0.02, (300, 4, 1))
    models = rng.random((300, 4, 500)) < np.where(images, 0.9, 0.3) + shift
    found = seed_variance(models)
    assert found.excess == approx(4, rel=0.1) and found.within == approx(
        1e4 * (0.7 * 0.09 + 0.3 * 0.21) / 500, rel=0.03
    )


def test_differences_and_ratios_refuse_other_shapes():
    for compare in (paired_difference, paired_ratio):
        for wrong in (np.ones(5), np.ones((2, 4)), np.ones((0, 5))):
            with value_error(r"expected two arrays \(seeds, N\)"):
                compare(wrong, np.ones((1, 5)))


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1, 1] and holm([]) == []
