"""Draw an image as a network sees it from each set of channels, with the answer and its Grad-CAM map."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from channelset import find_stem, some_subsets
from data.channels import subset_name
from data.decode import pixel_unit
from report.figures import Chart
from report.qualitative import bare, draw_support

SHOWN = 7  # largest number of sets that fit into the picture


def draw_answers(predictor, file: str | Path, ids: Sequence[int], path: str | Path) -> None:
    """Write a PNG with a column for each set of channels within `ids`; all channels come first.

    Rows: the present channels, the image after filling, and the parts that support the answer (Grad-CAM).

    Args:
        predictor: `engine.prediction.Predictor`.

    Raises:
        UserError: the file cannot be read, or `path` cannot be written.
    """
    image, names = predictor.pixels(file, ids), predictor.channels.names
    sets = (
        sorted(some_subsets(len(ids)), key=lambda one: (-len(one), one))
        if predictor.any_set
        else [range(len(ids))]
    )
    columns = []
    for places in sets[:SHOWN]:
        chosen, part = tuple(ids[i] for i in places), image[..., list(places)]
        name, share = predictor.named(predictor.probabilities([part], chosen)[0], 1)[0]
        columns.append(
            {
                "set": subset_name(chosen, names),
                "present": _shown(part, chosen, predictor),
                "filled": _filled(part, chosen, predictor),
                "answer": [name, 100 * share],
                "map": predictor.rests_on(part, chosen).tolist(),
            }
        )
    title = f"{Path(file).name}: {predictor.checkpoint['config']['name']}".replace("$", r"\$")
    Chart(answers, columns, title).write(path)


def _shown(part: np.ndarray, ids: Sequence[int], predictor) -> list:
    """Return present channels (s, s, n) as red, green, blue in 0..1, with absent channels black.

    Channels other than R, G and B are shown as their mean in grey.
    """
    unit, names = pixel_unit(part.dtype), predictor.channels.names
    scaled = part / unit if unit > 1 else _stretched(part, ids, predictor)
    colours = np.zeros((*part.shape[:2], 3))
    if set(names) <= set("RGB"):
        for place, i in enumerate(ids):
            colours[..., "RGB".index(names[i])] = scaled[..., place]
    else:
        colours[:] = scaled.mean(2, keepdims=True)
    return colours.clip(0, 1).round(3).tolist()


def _stretched(part: np.ndarray, ids: Sequence[int], predictor) -> np.ndarray:
    """Scale pixels of any unit to 0..1: the mean of the training data plus and minus two deviations."""
    mean, std = predictor.mean[list(ids)], predictor.std[list(ids)]
    return ((part - mean) / std / 4 + 0.5).clip(0, 1)


def _filled(part: np.ndarray, ids: Sequence[int], predictor) -> list | None:
    """Return the image filled by the network's rule, as `_shown` does; None if the rule fills no image."""
    rule = find_stem(predictor.model).fill if predictor.any_set else None
    if rule is None or rule.per_image or rule.rows != len(predictor.channels):
        return None
    with torch.no_grad():
        matrix = rule.columns(list(ids)).double().cpu().numpy()
    unit, mean, std = pixel_unit(part.dtype), predictor.mean, predictor.std
    normalised = (part / unit - mean[list(ids)]) / std[list(ids)]
    whole = (normalised @ matrix.T * std + mean) * unit
    if part.dtype.kind == "u":
        whole = whole.clip(0, np.iinfo(part.dtype).max)
    return _shown(whole.astype(part.dtype), range(len(mean)), predictor)


def answers(figure: Figure, data: list[dict]) -> None:
    """Draw a column for each set of channels.

    A column is a dict: "set"; "present" and "filled", images (s, s, 3), where "filled" may be None; "answer", [class,
    percent]; "map".
    """
    rows = {"present": "channels present", "filled": "as filled up", "map": "the answer rests on"}
    if any(column["filled"] is None for column in data):
        del rows["filled"]
    figure.set_size_inches(max(4.5, 1.5 * len(data) + 0.6), 1.75 * len(rows) + 0.7)
    axes = figure.subplots(len(rows), len(data), squeeze=False)
    for row, (key, label) in zip(axes, rows.items()):
        row[0].set_ylabel(label, fontsize=9)
        for axis, column in zip(row, data):
            picture = np.array(column["present"])
            if key == "map":  # on a grey picture, so that only the map has colours
                bare(axis).imshow(picture.mean(2), cmap="gray", vmin=0, vmax=1)
                draw_support(axis, column["map"], picture)
            else:
                bare(axis).imshow(np.array(column[key]))
    for axis, column in zip(axes[0], data):
        axis.set_title(column["set"], fontsize=10)
    for axis, column in zip(axes[-1], data):
        name, share = column["answer"]
        axis.set_xlabel(f"{name}\n{share:.0f} %".replace("$", r"\$"), fontsize=8)
