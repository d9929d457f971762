"""How sure a number is: intervals of proportions, paired comparisons of models, correction for many tests."""
from __future__ import annotations

import math

import numpy as np
from scipy import stats


def wilson_interval(correct: int, total: int) -> tuple[float, float]:
    """95 % Wilson score interval of a proportion, in percent (Wilson 1927, eq. 2; no continuity correction).

    Unlike the normal interval it stays inside 0-100 and does not shrink to nothing at 0 or `total` correct.

    Raises:
        ValueError: `total` < 1, or `correct` outside 0..total.
    """
    if total < 1 or not 0 <= correct <= total:
        raise ValueError(f"need 0 <= correct <= total and total >= 1, got correct={correct}, total={total}")
    interval = stats.binomtest(correct, total).proportion_ci(0.95, method="wilson")
    return 100 * float(interval.low), 100 * float(interval.high)


class PairedBootstrap:
    """Differences and ratios of models on the same images, with intervals over images and training seeds.

    The standard error over images is that of a bootstrap that resamples the images for both models alike. The
    spread over
    seeds is added to it: a model trained with one seed has it as well, it only cannot show it. It is known
    from few seeds, so interval and p are Student's t with the Welch-Satterthwaite degrees of freedom
    (Satterthwaite 1946).

    Args:
        images: N.
        draws: resamples.
        seed: of the resampling.

    Raises:
        ValueError: `images` or `draws` < 1.
    """

    def __init__(self, images: int, draws: int = 2000, seed: int = 0):
        if draws < 1 or images < 1:
            raise ValueError(f"images and draws must be at least 1, got {images} and {draws}")
        counts = np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), size=draws)
        # (draws, N); whole numbers, so that sums are exact and the same on every machine
        self.counts, self.images = counts.astype(np.float64), images

    def compare(self, correct_a, correct_b, sets: int = 1, seed_errors=()) -> dict[str, float]:
        """Top-1 difference a - b in points, its 95 % interval and two-sided p; p is 1 where the two never
        differ.

        Args:
            correct_a, correct_b: (seeds, N), 1 where the model is right, or the sum of such over channel
                sets.
            sets: number of channel sets summed.
            seed_errors: independent parts of the difference's variance over seeds, each (points squared,
                degrees of
                freedom).

        Raises:
            ValueError: not (seeds, N), or another N.
        """
        a, b = self._checked(correct_a, correct_b)
        gain = a.sum(0) * len(b) - b.sum(0) * len(a)   # (N,), whole numbers
        unit = 100 / (len(a) * len(b) * self.images * sets)
        difference, variance = float(gain.sum() * unit), float((self.counts @ gain).var() * unit ** 2)
        low, high, p_value = _interval(difference, 0, variance, seed_errors)
        return {"difference_points": difference, "ci95_low": low, "ci95_high": high, "p_value": p_value}

    def ratio(self, correct_a, correct_b, seed_errors=()) -> dict[str, float]:
        """Ratio a / b of the top-1s, its 95 % interval and two-sided p for a ratio of 1.

        The spread over seeds enters by the delta method: var(a / b) = var(a) / b^2 + a^2 var(b) / b^4.

        Args:
            correct_a, correct_b: (seeds, N), 1 where the model is right.
            seed_errors: independent parts of the variance over seeds, each (of a's mean top-1, of b's, both
                in points
                squared, degrees of freedom).

        Raises:
            ValueError: not (seeds, N), another N, or b is right on no image or on none of a resample.
        """
        a, b = self._checked(correct_a, correct_b)
        totals = self.counts @ b.sum(0)   # (draws,), whole numbers
        if not totals.all():
            raise ValueError("the model to divide by is right on too few images for a ratio")
        scale, top1_a, top1_b = len(b) / len(a), 100 * float(a.mean()), 100 * float(b.mean())
        ratio, variance = float(a.sum() / b.sum()) * scale, float((self.counts @ a.sum(0) / totals).var()
                                                                  * scale ** 2)
        errors = [(of_a / top1_b ** 2 + top1_a ** 2 * of_b / top1_b ** 4, df)
                  for of_a, of_b, df in seed_errors]
        low, high, p_value = _interval(ratio, 1, variance, errors)
        return {"ratio": ratio, "ci95_low": low, "ci95_high": high, "p_value": p_value}

    def _checked(self, correct_a, correct_b) -> tuple[np.ndarray, np.ndarray]:
        a, b = (np.asarray(values, dtype=np.float64) for values in (correct_a, correct_b))
        if any(values.ndim != 2 or values.shape[1] != self.images or not len(values) for values in (a, b)):
            raise ValueError(f"expected (seeds, {self.images}), got {a.shape} and {b.shape}")
        return a, b


def _interval(estimate: float, null: float, variance: float, seed_errors) -> tuple[float, float, float]:
    """95 % interval of an estimate and two-sided p for `null`.

    Args:
        variance: over images.
        seed_errors: (variance, degrees of freedom) over seeds.
    """
    uncertain = sum(v ** 2 / df for v, df in seed_errors)
    variance += sum(v for v, _ in seed_errors)
    if variance == 0:
        return estimate, estimate, float(estimate == null)
    df, error = variance ** 2 / uncertain if uncertain else math.inf, math.sqrt(variance)
    half = float(stats.t.ppf(0.975, df)) * error
    return estimate - half, estimate + half, float(2 * stats.t.sf(abs(estimate - null) / error, df))


def holm(p_values) -> list[float]:
    """Holm's step-down adjustment of a family of p values, in the same order (Holm 1979)."""
    p = np.asarray(p_values, dtype=float)
    order, adjusted = np.argsort(p, kind="stable"), np.empty(len(p))
    adjusted[order] = np.minimum(1, np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order]))
    return adjusted.tolist()


def pooled_variance(values: list) -> tuple[float, int | float]:
    """Variance within groups and its degrees of freedom, from each group's values (n,); 0 where no group has
    two.
    """
    several = [np.asarray(group) for group in values if len(group) > 1]
    freedom = sum(len(group) - 1 for group in several)
    squares = float(sum(((group - group.mean()) ** 2).sum() for group in several))
    return (squares / freedom, freedom) if freedom else (0.0, math.inf)
