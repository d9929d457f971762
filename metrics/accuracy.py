"""Compute classification metrics from labels and predictions, without a model or a file."""

from __future__ import annotations

import numpy as np
from sklearn import metrics

from metrics.statistics import wilson_interval


def confusion_matrix(labels, predictions, num_classes: int) -> np.ndarray:
    """Return counts (num_classes, num_classes), int64: row = true class, column = predicted class.

    Args:
        labels, predictions: class numbers (N,), integers in 0..num_classes-1.

    Raises:
        ValueError: the values are empty, not one-dimensional, not integers, out of range, or differ in length.
    """
    labels, predictions = _class_ids(labels, predictions)
    for name, ids in (("labels", labels), ("predictions", predictions)):
        if ids.min() < 0 or ids.max() >= num_classes:
            raise ValueError(f"{name} span {ids.min()}..{ids.max()}, outside 0..{num_classes - 1}")
    return metrics.confusion_matrix(labels, predictions, labels=range(num_classes))


def classification_metrics(labels, predictions, num_classes: int) -> dict[str, float]:
    """Return top-1 with its 95 % interval (percent), and macro precision, recall and F1 (fractions in 0..1).

    Macro: the plain mean over the classes that have true samples. So a perfect model scores 1 even if a class is
    absent from the split. A class that is never predicted has precision 0.

    For arguments and errors see `confusion_matrix`.
    """
    counts = confusion_matrix(labels, predictions, num_classes)
    correct, total = int(counts.trace()), int(counts.sum())
    low, high = wilson_interval(correct, total)
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(
        labels, predictions, labels=np.unique(labels), average="macro", zero_division=0
    )
    return {
        "top1_pct": 100 * correct / total,
        "ci95_low": low,
        "ci95_high": high,
        "precision_macro": float(precision),
        "recall_macro": float(recall),
        "f1_macro": float(f1),
    }


def _class_ids(*values) -> list[np.ndarray]:
    """Return the values as arrays (N,); check that they are integers, not empty and of equal length."""
    arrays = [np.asarray(value) for value in values]
    if any(array.ndim != 1 or array.shape != arrays[0].shape for array in arrays):
        raise ValueError(f"labels and predictions must share one shape (N,), got {[a.shape for a in arrays]}")
    if arrays[0].size == 0:
        raise ValueError("no samples: labels and predictions are empty")
    if any(array.dtype.kind not in "iu" for array in arrays):
        raise ValueError(f"labels and predictions must be integers, got {[str(a.dtype) for a in arrays]}")
    return arrays
