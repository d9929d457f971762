"""Compute classification metrics from arrays of labels and predictions."""

from __future__ import annotations

import numpy as np
from sklearn import metrics

from metrics.statistics import wilson_interval


def confusion_matrix(labels, predictions, num_classes: int) -> np.ndarray:
    """Count the images by true class (row) and predicted class (column).

    Return an int64 array (num_classes, num_classes).

    Args:
        labels, predictions: class numbers (N,), integers in 0..num_classes-1.

    Raises:
        ValueError: the values are empty, out of range, not integers, or differ in length.
    """
    for name, ids in (("labels", labels), ("predictions", predictions)):
        if np.min(ids) < 0 or np.max(ids) >= num_classes:  # sklearn would leave such images out
            raise ValueError(
                f"{name} have values from {np.min(ids)} to {np.max(ids)}, some outside 0..{num_classes - 1}"
            )
    return metrics.confusion_matrix(labels, predictions, labels=range(num_classes))


def classification_metrics(labels, predictions, num_classes: int) -> dict[str, float]:
    """Return a dict with top-1, its 95 % interval, and macro precision, recall and F1.

    Top-1 and the interval are in percent; the macro averages are fractions in 0..1. A macro average is the plain mean
    over the classes that have images in the split. So a perfect model scores 1 even if the split has no image of some
    class. A class that is never predicted has precision 0.

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
