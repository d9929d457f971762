"""Of two networks that are equally good, few are said to differ: the tests reject as often as they say."""

import numpy as np
import pytest

from metrics.statistics import paired_difference, paired_ratio, seed_variance

IMAGES, TRIALS = 1500, 1000  # a rate of 5 % is known to 0.7 points

CHANCES = np.random.default_rng(0).beta(0.38, 0.22, 20_000).astype(np.float32)  # of an image to be right


def train(rng, models: int, seeds: int, spread: float) -> np.ndarray:
    """Outcomes (models, seeds, IMAGES) of equally good networks: 64 % right, with as much disagreement between
    seeds on an image as the recorded predictions have.

    spread: standard deviation over seeds of the accuracy on all images, points.
    """
    shared, own = (
        CHANCES[rng.integers(len(CHANCES), size=IMAGES)],
        CHANCES[rng.integers(len(CHANCES), size=(models, IMAGES))],
    )
    chance = np.where(rng.random((models, IMAGES), dtype=np.float32) < 0.7, shared, own)[:, None]
    doubt = chance * (1 - chance)  # seeds move images that are in doubt
    shift = rng.normal(0, spread / 100, (models, seeds, 1)).astype(np.float32) / doubt.mean(2, keepdims=True)
    return rng.random((models, seeds, IMAGES), dtype=np.float32) < chance + shift * doubt


@pytest.mark.parametrize(
    "seeds, other_seeds, spread, pool",
    [(3, 3, 0.2, 8), (3, 3, 0.7, 2), (3, 3, 0.0, 2), (1, 3, 0.7, 2), (1, 1, 0.7, 3)],
)
def test_false_positives_are_as_rare_as_they_should_be(seeds, other_seeds, spread, pool):
    """Three seeds or one a network, the spread over seeds pooled with other networks of three seeds."""
    rng, false = np.random.default_rng(seeds + 10 * other_seeds), {"difference": 0, "ratio": 0}
    for _ in range(TRIALS):
        a, b = train(rng, 2, 3, spread)
        a, b = a[:seeds], b[:other_seeds]
        variance = seed_variance([a, b, *train(rng, pool, 3, spread)])
        shares = 1 / seeds, 1 / other_seeds
        false["difference"] += paired_difference(a, b, [(sum(shares), variance)])["p_value"] < 0.05
        false["ratio"] += paired_ratio(a, b, [(*shares, variance)])["p_value"] < 0.05
    for count in false.values():
        assert 0.03 < count / TRIALS < 0.07


def test_images_alone_would_be_too_sure():
    """What the spread over seeds is for: without it, one of six comparisons of nothing is a finding."""
    rng = np.random.default_rng(0)
    found = np.mean([paired_difference(*train(rng, 2, 1, 1.0))["p_value"] < 0.05 for _ in range(400)])
    assert found > 0.12
