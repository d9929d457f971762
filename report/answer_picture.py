"""Draw an image for each set of channels as the network gets it, with the answer and its Grad-CAM map.

The map shows which parts of the image support the answer.
"""

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
from report.letters import drawable
from report.qualitative import bare, draw_support

MOST_SETS = 7  # largest number of sets that fit into the picture


def draw_answers(predictor, file: str | Path, ids: Sequence[int], path: str | Path) -> None:
    """Write a PNG that has a column for each set of channels within `ids`; the set of all channels comes first.

    The rows show the present channels, the image after filling, and the parts that support the answer (Grad-CAM).

    Args:
        predictor: an `engine.prediction.Predictor`, which holds the network.
        file: image file to answer.
        ids: ids of the channels that the image has.
        path: PNG file to write.

    Raises:
        UserError: the image cannot be read, or `path` cannot be written.
    """
    image, names = predictor.pixels(file, ids), predictor.channels.names
    sets = some_subsets(len(ids)) if predictor.any_set else [range(len(ids))]
    columns = []
    for positions in sets[:MOST_SETS]:
        chosen, part = tuple(ids[i] for i in positions), image[..., list(positions)]
        name, share = predictor.named(predictor.probabilities([part], chosen)[0], 1)[0]
        columns.append(
            {
                "set": drawable(subset_name(chosen, names)),
                "present": _picture(part, chosen, predictor),
                "filled": _filled(part, chosen, predictor),
                "answer": [drawable(name), 100 * share],
                "map": predictor.rests_on(part, chosen).tolist(),
            }
        )
    title = f"{Path(file).name}: {predictor.checkpoint['config']['name']}"
    Chart(answers, columns, drawable(title)).write(path)


def _picture(part: np.ndarray, ids: Sequence[int], predictor) -> list:
    """Return the present channels `part` (s, s, n) as a picture (s, s, 3) with red, green and blue in 0..1.

    Absent channels are black. If the channels are not R, G and B, the picture shows the mean of the channels in grey.
    """
    unit, names = pixel_unit(part.dtype), predictor.channels.names
    mean, std = predictor.mean[list(ids)], predictor.std[list(ids)]
    # pixels of any unit: 0 and 1 are two standard deviations from the mean of the training data
    scaled = part / unit if unit > 1 else ((part - mean) / std / 4 + 0.5).clip(0, 1)
    colours = np.zeros((*part.shape[:2], 3))
    if set(names) <= set("RGB"):
        for position, i in enumerate(ids):
            colours[..., "RGB".index(names[i])] = scaled[..., position]
    else:
        colours[:] = scaled.mean(2, keepdims=True)
    return colours.clip(0, 1).round(3).tolist()


def _filled(part: np.ndarray, ids: Sequence[int], predictor) -> list | None:
    """Fill the image by the network's fill rule; return the filled image as a picture (s, s, 3).

    Return None if no single matrix fills all channels of every image.
    """
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
    return _picture(whole.astype(part.dtype), range(len(mean)), predictor)


def answers(figure: Figure, data: list[dict]) -> None:
    """Draw a column for each set of channels.

    `data` holds a dict for each column, with these keys:

        set       name of the channel set
        present   picture (s, s, 3) of the present channels
        filled    picture (s, s, 3) of the filled image, or None
        answer    list [name of the class, probability in percent]
        map       Grad-CAM map (h, w) from 0 to 1
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
            if key == "map":  # drawn on a grey picture, so that only the map has colours
                bare(axis).imshow(picture.mean(2), cmap="gray", vmin=0, vmax=1)
                draw_support(axis, column["map"], picture)
            else:
                bare(axis).imshow(np.array(column[key]))
    for axis, column in zip(axes[0], data):
        axis.set_title(column["set"], fontsize=10)
    for axis, column in zip(axes[-1], data):
        name, share = column["answer"]
        axis.set_xlabel(f"{name}\n{share:.0f} %", fontsize=8)
