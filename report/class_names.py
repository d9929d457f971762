"""Provide English class names from data/recipes; an unknown class keeps the name of its folder."""

from __future__ import annotations

from pathlib import PurePosixPath

from data.build import read_recipes

NAMES = {wnid: name for facts in read_recipes().values() for wnid, name in facts["classes"].items()}


def class_names(images, labels) -> dict[int, str]:
    """Return a dict from each label to its class name.

    Args:
        images: N paths of images, such as .../CLASS/NAME.JPEG.
        labels: labels (N,) of these images.
    """
    folders = {int(label): PurePosixPath(image).parent.name for image, label in zip(images, labels)}
    return {label: NAMES.get(folders[label], folders[label]) for label in sorted(folders)}
