"""Compute how certain a number is: intervals of proportions, paired comparisons, correction for many tests.

Two models are compared on the same images. Each model is trained with one or more seeds. Images and seeds are crossed
random effects. So the variance of an accuracy has three parts: due to images, due to seeds, and due to both. Studies of
diagnosis treat readers and cases in the same way (Dorfman, Berbaum, Metz 1992; Gallas 2006).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from scipy import stats

LEVEL = 0.95  # of all intervals; captions say 95 %


def wilson_interval(correct: int, total: int) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of a proportion, in percent (Wilson 1927, eq. 2).

    The Wilson interval always stays inside 0-100. When `correct` is 0 or `total`, the normal interval shrinks to zero
    width, but the Wilson interval does not. There is no continuity correction.
    """
    interval = stats.binomtest(correct, total).proportion_ci(LEVEL, method="wilson")
    return 100 * float(interval.low), 100 * float(interval.high)


class SeedVariance(NamedTuple):
    """Hold how much top-1 varies over training seeds on the same images, in squared percentage points.

    The variance `between` seeds includes a part `within`: a new seed changes the answers to single images at random.
    The variance over images already includes `within`. So only the rest, `excess`, is added.

    Attributes:
        between: variance over the seeds; for each seed, the value is the mean over the images.
        within: the part of `between` that chance in single images explains. It is the value that `between` would have
            if a new seed changed the outcome of each image independently.
        freedom: degrees of freedom of `between`.
    """

    between: float
    within: float
    freedom: float

    @property
    def excess(self) -> float:
        return max(0.0, self.between - self.within)


def seed_variance(models: Iterable[np.ndarray]) -> SeedVariance | None:
    """Pool the seed variance over the models with several seeds; return None if no model has several seeds.

    Args:
        models: for each model, outcomes (seeds, N). An outcome is 1 if the answer is right, else 0; means and
            differences of outcomes are also allowed.
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


def mean_variance(parts: Iterable[SeedVariance]) -> SeedVariance:
    """Return the seed variance of the mean top-1 of several independent models.

    `parts` holds the seed variance of each model. The degrees of freedom follow Satterthwaite (1946).
    """
    parts = list(parts)
    between, uncertain = sum(p.between for p in parts), sum(p.between**2 / p.freedom for p in parts)
    return SeedVariance(
        between / len(parts) ** 2,
        sum(p.within for p in parts) / len(parts) ** 2,
        between**2 / uncertain if uncertain else math.inf,
    )


def paired_difference(correct_a, correct_b, seeds=()) -> dict[str, float]:
    """Return a dict with the top-1 difference a - b in points, its 95 % interval and its two-sided p value.

    The variance over images comes from the difference for each image, averaged over seeds. The excess variance of the
    seeds is added. The interval and the p value use Student's t with Welch-Satterthwaite degrees of freedom.

    Args:
        correct_a, correct_b: outcomes (seeds, N) of the two models. An outcome is 1 if the answer is right, else 0; a
            mean of outcomes over channel sets is also allowed.
        seeds: independent parts of the seed variance of the difference. A part is a tuple (share, `SeedVariance`). The
            share of a model with n seeds is 1 / n.

    Raises:
        ValueError: a shape is not (seeds, N), or the models differ in N.
    """
    a, b = _checked(correct_a, correct_b)
    gain = 100 * (a.mean(0) - b.mean(0))  # (N,)
    low, high, p_value = _interval(float(gain.mean()), 0, _of_mean(gain), seeds)
    return {"difference_points": float(gain.mean()), "ci95_low": low, "ci95_high": high, "p_value": p_value}


def paired_ratio(correct_a, correct_b, seeds=(), null: float = 1) -> dict[str, float]:
    """Return a dict with the top-1 ratio a / b, its 95 % interval and its two-sided p value, by the delta method.

    The p value tests whether the true ratio is `null`.

    Args:
        correct_a, correct_b: outcomes (seeds, N) of the two models: 1 if the answer is right, else 0.
        seeds: as in `paired_difference`, but a part is a tuple (share of a, share of b, `SeedVariance`).
        null: the ratio to test.

    Raises:
        ValueError: a shape is not (seeds, N), the models differ in N, or b is right on too few images for a ratio.
    """
    a, b = _checked(correct_a, correct_b)
    top1_a, top1_b = 100 * float(a.mean()), 100 * float(b.mean())
    if b.sum() < 10 * len(b):
        raise ValueError("the second model is right on too few images for a ratio")
    ratio = top1_a / top1_b
    residual = 100 * (a.mean(0) - ratio * b.mean(0)) / top1_b  # (N,)
    parts = [((of_a + ratio**2 * of_b) / top1_b**2, variance) for of_a, of_b, variance in seeds]
    low, high, p_value = _interval(ratio, null, _of_mean(residual), parts)
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
    """Return the 95 % interval of an estimate and its p value, as (lower end, upper end, p value).

    The two-sided p value tests whether the true value is `null`. `variance` is the variance over images; `seeds` is as
    in `paired_difference`.
    """
    parts = [(share, of_seeds) for share, of_seeds in seeds if of_seeds.excess]
    variance += sum(share * of_seeds.excess for share, of_seeds in parts)
    if variance == 0:
        return estimate, estimate, float(estimate == null)
    uncertain = sum((share * of_seeds.between) ** 2 / of_seeds.freedom for share, of_seeds in parts)
    df, error = variance**2 / uncertain if uncertain else math.inf, math.sqrt(variance)
    half = float(stats.t.ppf((1 + LEVEL) / 2, df)) * error
    return estimate - half, estimate + half, float(2 * stats.t.sf(abs(estimate - null) / error, df))


def holm(p_values) -> list[float]:
    """Return the p values of a family of tests, adjusted by Holm's step-down method (Holm 1979), in the same order."""
    p = np.asarray(p_values, dtype=float)
    order, adjusted = np.argsort(p, kind="stable"), np.empty(len(p))
    adjusted[order] = np.minimum(1, np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order]))
    return adjusted.tolist()
