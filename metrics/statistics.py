"""Compute how certain a number is: intervals of proportions, paired comparisons, correction for many tests.

Two models are compared on the same images, each trained with some seeds. Images and seeds are crossed random
effects. The error of an accuracy is the sum of a part due to images, a part due to seeds and a part due to both.
Studies of diagnosis treat readers and cases in the same way (Dorfman, Berbaum, Metz 1992; Gallas 2006).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from scipy import stats


def wilson_interval(correct: int, total: int) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of a proportion, in percent (Wilson 1927, eq. 2).

    There is no continuity correction. Unlike the normal interval it stays inside 0-100, and at 0 or `total` correct
    it does not shrink to zero width.

    Raises:
        ValueError: `total` < 1, or `correct` outside 0..total.
    """
    if total < 1 or not 0 <= correct <= total:
        raise ValueError(f"need 0 <= correct <= total and total >= 1, got correct={correct}, total={total}")
    interval = stats.binomtest(correct, total).proportion_ci(0.95, method="wilson")
    return 100 * float(interval.low), 100 * float(interval.high)


class SeedVariance(NamedTuple):
    """A variance of top-1 over training seeds on fixed images, in points squared.

    The variance `between` seeds includes a part `within`, which is due to images and seeds together. The variance
    over images already includes that part. So only the rest, `excess`, is added to the variance over images.

    Attributes:
        between: variance over seeds of the mean over images.
        within: the part of `between` that independent images would cause by themselves.
        freedom: degrees of freedom of `between`.
    """

    between: float
    within: float
    freedom: float

    @property
    def excess(self) -> float:
        return max(0.0, self.between - self.within)


def seed_variance(models: Iterable[np.ndarray]) -> SeedVariance | None:
    """Pool the seed variance over models with several seeds; None if no model has several.

    Args:
        models: outcomes (seeds, N) of each model: 1 where right, or means or differences of these.
    """
    between = within = freedom = 0.0
    for outcomes in models:
        seeds, images = np.shape(outcomes)
        if seeds > 1:
            points = 100 * np.asarray(outcomes, dtype=np.float64)
            between += float(((points.mean(1) - points.mean()) ** 2).sum())
            within += float(((points - points.mean(0)) ** 2).sum()) / images**2
            freedom += seeds - 1
    return SeedVariance(between / freedom, within / freedom, freedom) if freedom else None


def mean_variance(parts: Iterable[SeedVariance]) -> SeedVariance | None:
    """Return the variance over seeds that the mean of several independent models has; None if `parts` is empty.

    Its degrees of freedom follow Satterthwaite (1946).
    """
    parts = list(parts)
    if not parts:
        return None
    between, uncertain = sum(p.between for p in parts), sum(p.between**2 / p.freedom for p in parts)
    return SeedVariance(
        between / len(parts) ** 2,
        sum(p.within for p in parts) / len(parts) ** 2,
        between**2 / uncertain if uncertain else math.inf,
    )


def paired_difference(correct_a, correct_b, seeds=()) -> dict[str, float]:
    """Return the top-1 difference a - b in points, its 95 % interval and two-sided p.

    The variance over images comes from each image's difference, averaged over seeds. The excess variance of the
    seeds is added. Interval and p use Student's t with Welch-Satterthwaite degrees of freedom.

    Args:
        correct_a, correct_b: (seeds, N), 1 where the model is right, or means of these over channel sets.
        seeds: independent parts of the difference's variance over seeds: (share, `SeedVariance`). A model's
            share is 1 / its number of seeds.

    Raises:
        ValueError: the shape is not (seeds, N), or N differs.
    """
    a, b = _checked(correct_a, correct_b)
    gain = 100 * (a.mean(0) - b.mean(0))  # (N,)
    low, high, p_value = _interval(float(gain.mean()), 0, _of_mean(gain), seeds)
    return {"difference_points": float(gain.mean()), "ci95_low": low, "ci95_high": high, "p_value": p_value}


def paired_ratio(correct_a, correct_b, seeds=()) -> dict[str, float]:
    """Return the top-1 ratio a / b, its 95 % interval and two-sided p for a ratio of 1, by the delta method.

    Args:
        correct_a, correct_b: (seeds, N), 1 where the model is right.
        seeds: as in `paired_difference`, but with two shares: (share of a, share of b, `SeedVariance`).

    Raises:
        ValueError: the shape is not (seeds, N), N differs, or b is right on too few images for a ratio.
    """
    a, b = _checked(correct_a, correct_b)
    top1_a, top1_b = 100 * float(a.mean()), 100 * float(b.mean())
    if b.sum() < 10 * len(b):
        raise ValueError("the second model is right on too few images for a ratio")
    ratio = top1_a / top1_b
    residual = 100 * (a.mean(0) - ratio * b.mean(0)) / top1_b  # (N,)
    parts = [((of_a + ratio**2 * of_b) / top1_b**2, variance) for of_a, of_b, variance in seeds]
    low, high, p_value = _interval(ratio, 1, _of_mean(residual), parts)
    return {"ratio": ratio, "ci95_low": low, "ci95_high": high, "p_value": p_value}


def _checked(correct_a, correct_b) -> tuple[np.ndarray, np.ndarray]:
    a, b = (np.asarray(values, dtype=np.float64) for values in (correct_a, correct_b))
    if a.ndim != 2 or b.ndim != 2 or not len(a) or not len(b) or a.shape[1] != b.shape[1] or a.shape[1] < 2:
        raise ValueError(
            f"expected two arrays (seeds, N) with the same N of at least 2, got {a.shape} and {b.shape}"
        )
    return a, b


def _of_mean(values: np.ndarray) -> float:
    return float(values.var(ddof=1)) / len(values)


def _interval(estimate: float, null: float, variance: float, seeds) -> tuple[float, float, float]:
    """Return the 95 % interval of an estimate, and the two-sided p of the hypothesis that the true value is `null`.

    `variance` is the variance over images.
    """
    parts = [(share, of_seeds) for share, of_seeds in seeds if of_seeds.excess]
    variance += sum(share * of_seeds.excess for share, of_seeds in parts)
    if variance == 0:
        return estimate, estimate, float(estimate == null)
    uncertain = sum((share * of_seeds.between) ** 2 / of_seeds.freedom for share, of_seeds in parts)
    df, error = variance**2 / uncertain if uncertain else math.inf, math.sqrt(variance)
    half = float(stats.t.ppf(0.975, df)) * error
    return estimate - half, estimate + half, float(2 * stats.t.sf(abs(estimate - null) / error, df))


def holm(p_values) -> list[float]:
    """Adjust a family of p values by Holm's step-down method (Holm 1979); the order stays."""
    p = np.asarray(p_values, dtype=float)
    order, adjusted = np.argsort(p, kind="stable"), np.empty(len(p))
    adjusted[order] = np.minimum(1, np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order]))
    return adjusted.tolist()
