"""Of two networks that are equally good, few are said to differ: the tests reject as often as they say."""

import numpy as np
from pytest import mark

from metrics.statistics import mean_variance, paired_difference, paired_ratio, seed_variance

IMAGES, TRIALS = 1500, 600  # a rate of 5 % is known to 0.9 points
SETS = 7  # of channels

CHANCES = np.random.default_rng(0).beta(0.38, 0.22, 20_000).astype(np.float32)  # of an image to be right


def train(rng, networks: list[int], seeds: int, spread) -> np.ndarray:
    """Outcomes (len(networks), seeds, IMAGES) of equally good networks: 64 % right, with as much disagreement
    between seeds on an image as the recorded predictions have.

    networks: the number of the network that each outcome is of; outcomes of one network share their luck.
    spread: standard deviation over seeds of the accuracy on all images, points; one, or one an outcome.
    """
    shared, own = (
        CHANCES[rng.integers(len(CHANCES), size=IMAGES)],
        CHANCES[rng.integers(len(CHANCES), size=(len(networks), IMAGES))],
    )
    chance = np.where(rng.random((len(networks), IMAGES), dtype=np.float32) < 0.7, shared, own)[:, None]
    doubt = chance * (1 - chance)  # seeds move images that are in doubt
    luck = rng.normal(0, 1, (max(networks) + 1, seeds, 1)).astype(np.float32)[networks]
    shift = luck * np.reshape(spread, (-1, 1, 1)).astype(np.float32) / 100 / doubt.mean(2, keepdims=True)
    return rng.random((len(networks), seeds, IMAGES), dtype=np.float32) < chance + shift * doubt


@mark.parametrize(
    "spread, pool, counts",
    [(0.2, 8, [(3, 3)]), (0.7, 2, [(3, 3), (1, 3)]), (0.7, 3, [(1, 1)]), (0.0, 2, [(3, 3)])],
)
def test_false_positives_are_as_rare_as_they_should_be(spread, pool, counts):
    """Three seeds or one a network, the spread over seeds pooled with other networks of three seeds."""
    rng, false = np.random.default_rng(33), {(count, kind): 0 for count in counts for kind in "-/"}
    for _ in range(TRIALS):
        outcomes, others = train(rng, [0, 1], 3, spread), train(rng, list(range(pool)), 3, spread)
        for seeds, other_seeds in counts:
            a, b = outcomes[0][:seeds], outcomes[1][:other_seeds]
            variance, shares = seed_variance([a, b, *others]), (1 / seeds, 1 / other_seeds)
            p_value = paired_difference(a, b, [(sum(shares), variance)])["p_value"]
            false[(seeds, other_seeds), "-"] += p_value < 0.05
            false[(seeds, other_seeds), "/"] += paired_ratio(a, b, [(*shares, variance)])["p_value"] < 0.05
    for what, count in false.items():
        assert 0.03 < count / TRIALS < 0.07, what


def test_unequal_spreads_keep_to_themselves():
    """A network whose seeds spread ten times as much as those of the other and its kind; with the spreads pooled,
    one of ten comparisons of nothing would be a finding.
    """
    rng, false, pooled = np.random.default_rng(0), 0, 0
    for _ in range(TRIALS):
        a, b = train(rng, [0, 1], 3, (2, 0.2))
        quiet = [b, *train(rng, [0, 1, 2], 3, 0.2)]
        parts = [(1 / 3, seed_variance([a])), (1 / 3, seed_variance(quiet))]
        false += paired_difference(a, b, parts)["p_value"] < 0.05
        pooled += paired_difference(a, b, [(2 / 3, seed_variance([a, *quiet]))])["p_value"] < 0.05
    assert 0.03 < false / TRIALS < 0.07
    assert pooled / TRIALS > 0.09


@mark.parametrize("spread, own_spread", [(2, 0.5), (1.5, 3)])
def test_one_network_against_the_mean_of_seven(spread, own_spread):
    """The seeds of one network move all sets alike; those of seven specialists are independent. `spread` is that
    of the network for any set, `own_spread` that of a specialist on its set.
    """
    rng, false = np.random.default_rng(0), 0
    for _ in range(TRIALS):
        networks = [0] * SETS + list(range(1, SETS + 1))
        outcomes = train(rng, networks, 3, [spread] * SETS + [own_spread] * SETS)
        ours, specialists = outcomes[:SETS].mean(0), outcomes[SETS:]
        other = train(rng, [0] * SETS, 3, spread).mean(0)  # another network of our kind
        parts = [
            (1 / 3, seed_variance([ours, other])),
            (1 / 3, mean_variance(seed_variance([one]) for one in specialists)),
        ]
        false += paired_difference(ours, specialists.mean(0), parts)["p_value"] < 0.05
    assert 0.03 < false / TRIALS < 0.07


def test_a_ratio_of_two_kinds():
    """The true ratio is 1.5, and the seeds of the network to divide by spread most: 95 of 100 intervals hold it."""
    rng, ratio, missed = np.random.default_rng(0), 1.5, 0
    for _ in range(TRIALS):
        a, b = train(rng, [0, 1], 3, (0.2, 4))
        b = b & (rng.random(IMAGES) < 1 / ratio)
        quiet = [a, *train(rng, [0, 1, 2], 3, 0.2)]
        found = paired_ratio(a, b, [(1 / 3, 0, seed_variance(quiet)), (0, 1 / 3, seed_variance([b]))])
        missed += not found["ci95_low"] <= ratio <= found["ci95_high"]
    assert 0.03 < missed / TRIALS < 0.07


def test_images_alone_would_be_too_sure():
    """What the spread over seeds is for: without it, one of six comparisons of nothing is a finding."""
    rng = np.random.default_rng(0)
    found = np.mean([paired_difference(*train(rng, [0, 1], 1, 1.0))["p_value"] < 0.05 for _ in range(400)])
    assert found > 0.12
