"""Classification metrics from labels and predictions, with intervals: numpy, no model and no file."""
from __future__ import annotations

import math

import numpy as np

Z95 = 1.959963984540054   # 97.5 % point of the standard normal


def wilson_interval(correct: int, total: int) -> tuple[float, float]:
    """95 % Wilson score interval of a proportion, in percent (Wilson 1927, eq. 2; no continuity correction).

    Unlike the normal interval it stays inside 0-100 and does not shrink to nothing at 0 or `total` correct.

    Raises:
        ValueError: `total` < 1, or `correct` outside 0..total.
    """
    if total < 1 or not 0 <= correct <= total:
        raise ValueError(f"need 0 <= correct <= total and total >= 1, got correct={correct}, total={total}")
    p, z2n = correct / total, Z95 ** 2 / total
    centre = (p + z2n / 2) / (1 + z2n)
    half = math.sqrt(p * (1 - p) * z2n + z2n ** 2 / 4) / (1 + z2n)
    return 100 * max(0.0, centre - half), 100 * min(1.0, centre + half)


def confusion_matrix(labels, predictions, num_classes: int) -> np.ndarray:
    """Counts (num_classes, num_classes), int64: row = true class, column = predicted class.

    Args:
        labels, predictions: class numbers (N,), integers in 0..num_classes-1.

    Raises:
        ValueError: empty, not one-dimensional, of different lengths, not integers, or out of range.
    """
    labels, predictions = _class_ids(labels, predictions)
    for name, ids in (("labels", labels), ("predictions", predictions)):
        if ids.min() < 0 or ids.max() >= num_classes:
            raise ValueError(f"{name} span {ids.min()}..{ids.max()}, outside 0..{num_classes - 1}")
    cells = labels.astype(np.int64) * num_classes + predictions
    return np.bincount(cells, minlength=num_classes ** 2).reshape(num_classes, num_classes)


def classification_metrics(labels, predictions, num_classes: int) -> dict[str, float]:
    """Top-1 with its 95 % interval (percent), and macro precision, recall and F1 (fractions in 0..1).

    Macro: the plain mean over all `num_classes` classes. A class that is never predicted has precision 0, one
    without true samples recall 0, one with neither F1 0 (scikit-learn's `zero_division=0` with every label listed).

    Args and Raises: as `confusion_matrix`.
    """
    counts = confusion_matrix(labels, predictions, num_classes)
    hits, true, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)
    low, high = wilson_interval(int(hits.sum()), int(counts.sum()))
    return {"top1_pct": 100 * float(hits.sum() / counts.sum()), "ci95_low": low, "ci95_high": high,
            "precision_macro": float(np.mean(hits / np.maximum(predicted, 1))),
            "recall_macro": float(np.mean(hits / np.maximum(true, 1))),
            "f1_macro": float(np.mean(2 * hits / np.maximum(true + predicted, 1)))}


class PairedBootstrap:
    """Differences and ratios of models on the same images, with intervals over images and training seeds.

    The standard error over images is that of a bootstrap that resamples the images for both models alike. The spread over
    seeds is added to it: a model trained with one seed has it as well, it only cannot show it. It is known from few seeds,
    so interval and p are Student's t with the Welch-Satterthwaite degrees of freedom (Satterthwaite 1946).

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
        """Top-1 difference a - b in points, its 95 % interval and two-sided p; p is 1 where the two never differ.

        Args:
            correct_a, correct_b: (seeds, N), 1 where the model is right, or the sum of such over channel sets.
            sets: number of channel sets summed.
            seed_errors: independent parts of the difference's variance over seeds, each (points squared, degrees of freedom).

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
            seed_errors: independent parts of the variance over seeds, each (of a's mean top-1, of b's, both in points
                squared, degrees of freedom).

        Raises:
            ValueError: not (seeds, N), another N, or b is right on no image or on none of a resample.
        """
        a, b = self._checked(correct_a, correct_b)
        totals = self.counts @ b.sum(0)   # (draws,), whole numbers
        if not totals.all():
            raise ValueError("the model to divide by is right on too few images for a ratio")
        scale, top1_a, top1_b = len(b) / len(a), 100 * float(a.mean()), 100 * float(b.mean())
        ratio, variance = float(a.sum() / b.sum()) * scale, float((self.counts @ a.sum(0) / totals).var() * scale ** 2)
        errors = [(of_a / top1_b ** 2 + top1_a ** 2 * of_b / top1_b ** 4, df) for of_a, of_b, df in seed_errors]
        low, high, p_value = _interval(ratio, 1, variance, errors)
        return {"ratio": ratio, "ci95_low": low, "ci95_high": high, "p_value": p_value}

    def _checked(self, correct_a, correct_b) -> tuple[np.ndarray, np.ndarray]:
        a, b = (np.asarray(values, dtype=np.float64) for values in (correct_a, correct_b))
        if any(values.ndim != 2 or values.shape[1] != self.images or not len(values) for values in (a, b)):
            raise ValueError(f"expected (seeds, {self.images}), got {a.shape} and {b.shape}")
        return a, b


def _interval(estimate: float, null: float, variance: float, seed_errors) -> tuple[float, float, float]:
    """95 % interval of an estimate and two-sided p for `null`, from the variance over images and (variance, df) over seeds."""
    uncertain = sum(v ** 2 / df for v, df in seed_errors)
    variance += sum(v for v, _ in seed_errors)
    if variance == 0:
        return estimate, estimate, float(estimate == null)
    df, error = variance ** 2 / uncertain if uncertain else math.inf, math.sqrt(variance)
    half = student_t_quantile(df) * error
    return estimate - half, estimate + half, student_t_p((estimate - null) / error, df)


def student_t_p(t: float, df: float) -> float:
    """Two-sided p of Student's t with `df` >= 1 degrees of freedom; above 10,000 that of the normal distribution."""
    if df > 10_000:
        return math.erfc(abs(t) / math.sqrt(2))
    def area(start: float) -> float:   # with t = sqrt(df) tan(u) the density is cos(u)^(df - 1); Simpson's rule
        u = np.linspace(start, math.pi / 2, 4001)
        weights = np.where(np.arange(4001) % 2, 4.0, 2.0)
        weights[[0, -1]] = 1
        return float((weights * np.cos(u) ** (df - 1)).sum() * (u[1] - u[0]))
    return min(1.0, area(math.atan(abs(t) / math.sqrt(df))) / area(0.0))


def student_t_quantile(df: float) -> float:
    """97.5 % point of Student's t with `df` >= 1 degrees of freedom, by bisection."""
    low, high = 1.9, 13.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if student_t_p(middle, df) > 0.05 else (low, middle)
    return (low + high) / 2


def holm(p_values) -> list[float]:
    """Holm's step-down adjustment of a family of p values, in the same order (Holm 1979)."""
    p = np.asarray(p_values, dtype=float)
    order, adjusted = np.argsort(p, kind="stable"), np.empty(len(p))
    adjusted[order] = np.minimum(1, np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order]))
    return adjusted.tolist()


def channel_summary(top1_by_subset: dict[str, float], specialists: dict[str, float] | None = None,
                    full: str = "RGB") -> dict:
    """Sum up one model's top-1 over channel subsets.

    Args:
        top1_by_subset: subset name -> top-1 in percent; any list of subsets.
        specialists: subset name -> top-1 of the net trained on that subset alone; may cover only some.
        full: the subset that retention is relative to.

    Returns:
        mean_pct, worst_pct: over the given subsets. retention_pct: subset -> 100 * top-1 / top-1 at `full`, empty
        where `full` is missing or 0. expert_gap_points: mean of specialist - model over the subsets that both
        have (positive: the specialists are better), None where there are none; expert_gap_subsets: how many.

    Raises:
        ValueError: no subset.
    """
    if not top1_by_subset:
        raise ValueError("no subset to sum up")
    values, reference = list(top1_by_subset.values()), top1_by_subset.get(full)
    gaps = [top1 - top1_by_subset[subset] for subset, top1 in (specialists or {}).items() if subset in top1_by_subset]
    return {"mean_pct": float(np.mean(values)), "worst_pct": min(values),
            "retention_pct": {s: 100 * top1 / reference for s, top1 in top1_by_subset.items()} if reference else {},
            "expert_gap_points": float(np.mean(gaps)) if gaps else None, "expert_gap_subsets": len(gaps)}


def _class_ids(*arrays) -> list[np.ndarray]:
    """The arrays as numpy (N,), checked to be integers, not empty and of one length."""
    arrays = [np.asarray(array) for array in arrays]
    if any(array.ndim != 1 or array.shape != arrays[0].shape for array in arrays):
        raise ValueError(f"labels and predictions must share one shape (N,), got {[a.shape for a in arrays]}")
    if arrays[0].size == 0:
        raise ValueError("no samples")
    if any(array.dtype.kind not in "iu" for array in arrays):
        raise ValueError(f"labels and predictions must be integers, got {[str(a.dtype) for a in arrays]}")
    return arrays
