"""Measure which classes need colour, from their accuracy with three channels and with a single channel.

Classes are chosen on every second test image of each class. The numbers come from the other images. So a class that
was chosen by chance gets no better numbers.
"""

from __future__ import annotations

import numpy as np

from report.results import Model, Setting


def colour_rates(setting: Setting, model: Model) -> np.ndarray:
    """Return the accuracies of all classes in percent, averaged over seeds: (half, RGB or single channel, class).

    The first half has the images at even positions in their class. Classes are chosen on the first half.
    """
    labels = setting.predictions(model["RGB"], "RGB")[0].labels
    right = np.array([setting.correct(model, columns).mean(0) for columns in (("RGB",), ("R", "G", "B"))])
    images = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    return 100 * np.array(
        [[[kind[each[half::2]].mean() for each in images] for kind in right] for half in (0, 1)]
    )


def by_loss(rates: np.ndarray) -> np.ndarray:
    """Return the indices of the classes, sorted by the loss without colour in the first half, largest loss first."""
    return np.argsort(rates[0, 1] - rates[0, 0], kind="stable")
