"""Provide English class names from data/recipes; an unknown class keeps the name of its folder."""

from __future__ import annotations

import numpy as np

from data import lists
from data.build import read_recipes

NAMES = {wnid: name for facts in read_recipes().values() for wnid, name in facts["classes"].items()}


def class_names(images, labels) -> dict[int, str]:
    """Return a dict from each label to the English name of its class; an unknown class keeps its name.

    Args:
        images: N paths of images, such as .../CLASS/NAME.JPEG.
        labels: labels (N,) of these images.
    """
    split = lists.Split(list(images), np.asarray(labels, np.int64), [])
    names = lists.class_names(split)
    return {label: NAMES.get(name, name) for label, name in zip(np.unique(split.labels).tolist(), names)}
