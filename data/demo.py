"""Draw a data set in the course's layout, for a first run without a download.

The set has eight classes: four shapes, each in two opposite colours. Disc and ring are red or green, triangle and cross
are blue or yellow. Brightness varies more than colour. So three channels show every class, two channels show only some
colours, and one channel shows almost none.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from data.files import read_file
from storage.files import parse_json, write_json, write_text, writing
from storage.locks import making
from utils import UserError

VERSION = 1  # version of the pictures; a demo set of another version must be drawn again
SIZE = 84  # px
COUNTS = {"train": 120, "val": 20, "test": 20}  # images per class
SHAPES = ("disc", "ring", "triangle", "cross")
MARKER = {"version": VERSION, "images": 2 * len(SHAPES) * sum(COUNTS.values())}  # content of demo.json
# direction of a shape's two colours from grey, in RGB
AXES = {"disc": (1, -1, 0), "ring": (1, -1, 0), "triangle": (-0.5, -0.5, 1), "cross": (-0.5, -0.5, 1)}


def _corners(shape: str, centre: np.ndarray, radius: float, angle: float) -> list[tuple[float, float]]:
    """Return the outline of a triangle or a cross, in px."""
    if shape == "triangle":
        angles, radii = angle + np.arange(3) * 2 * np.pi / 3, np.full(3, radius)
    else:
        # two corners at the end of each arm, then the corner between two arms
        turn = np.pi / 2 * np.arange(4)[:, None] + np.array([-0.32, 0.32, np.pi / 4])
        angles, radii = angle + turn.ravel(), np.tile([1.0, 1.0, 0.45], 4) * radius
    return [tuple(point) for point in centre + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)]


def _mask(shape: str, rng: np.random.Generator) -> np.ndarray:
    """Draw the mask of an object with random position, size and angle: (SIZE, SIZE, 1) in 0..1."""
    scale = 2  # draw larger, then reduce: this gives smooth edges
    radius, angle = rng.uniform(18, 30) * scale, rng.uniform(0, 2 * np.pi)
    centre = rng.uniform(0.8 * radius, SIZE * scale - 0.8 * radius, 2)
    image = Image.new("L", (SIZE * scale, SIZE * scale))
    draw = ImageDraw.Draw(image)
    box = [*(centre - 0.9 * radius), *(centre + 0.9 * radius)]
    if shape == "disc":
        draw.ellipse(box, fill=255)
    elif shape == "ring":
        draw.ellipse(box, outline=255, width=int(0.4 * radius))
    else:
        draw.polygon(_corners(shape, centre, radius, angle), fill=255)
    return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BOX), np.float64)[..., None] / 255


def _background(rng: np.random.Generator) -> np.ndarray:
    """Draw soft clouds of weak colour, with bars and spots: (SIZE, SIZE, 3) in about 0..1."""
    clouds = np.clip(rng.normal(128, 22, (4, 4, 1)) + rng.normal(0, 10, (4, 4, 3)), 0, 255).astype(np.uint8)
    image = Image.fromarray(clouds).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(1, 4)):
        colour = tuple(int(value) for value in np.clip(rng.normal(128, 35) + rng.normal(0, 15, 3), 0, 255))
        draw.line(
            [tuple(point) for point in rng.uniform(0, SIZE, (2, 2))],
            fill=colour,
            width=int(rng.integers(1, 4)),
        )
        x, y, radius = *rng.uniform(0, SIZE, 2), rng.uniform(2, 5)
        draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=colour)
    return np.asarray(image, np.float64) / 255


def draw_image(label: int, rng: np.random.Generator) -> Image.Image:
    """Draw a SIZE x SIZE picture of class `label` (0..7). One picture in fifty is greyscale (mode L)."""
    shape, sign = SHAPES[label // 2], 1 - 2 * (label % 2)
    colour = (
        rng.uniform(0.25, 0.75)
        + sign * rng.uniform(0.15, 0.25) * np.array(AXES[shape])
        + rng.normal(0, 0.025, 3)
    )
    mask, background = _mask(shape, rng), _background(rng)
    pixels = (background + mask * (colour - background)) * rng.uniform(0.85, 1.15)
    pixels += rng.normal(0, 0.04, pixels.shape)
    image = Image.fromarray((np.clip(pixels, 0, 1) * 255).round().astype(np.uint8))
    return image.convert("L") if rng.random() < 0.02 else image


def _write(folder: Path) -> None:
    """Draw every image, and write the lists and the marker into the empty `folder`."""
    rng = np.random.default_rng(20240)
    lists = {split: [] for split in COUNTS}
    for label in range(2 * len(SHAPES)):
        wnid = f"d{VERSION}{label:07d}"  # caches belong to lists, so new pictures need new names
        (folder / "images" / wnid).mkdir(parents=True)
        for number, split in enumerate(split for split, count in COUNTS.items() for _ in range(count)):
            path = f"images/{wnid}/{wnid}_{number}.JPEG"
            draw_image(label, rng).save(folder / path, "JPEG", quality=92, subsampling=0)
            lists[split].append(f"{path} {label}\n")
    for split, lines in lists.items():
        write_text(folder / f"{split}.txt", "".join(lines))
    write_json(folder / "demo.json", MARKER)


def read_marker(path: Path):
    """Read the marker, the file that is written last into a data set. Return None if it is missing or damaged."""
    try:
        return parse_json(read_file(path, 1 << 20))
    except (OSError, ValueError):
        return None


def make_demo(folder: str | Path) -> Path:
    """Draw the demo set into `folder` (about 3 s), unless it is there already. Return the folder.

    Raises:
        UserError: the folder holds something else, or cannot be written.
    """
    folder = Path(folder)
    with writing(f"the demo set to {folder} (`python -m data.prepare demo --out FOLDER` makes it elsewhere)"):
        filled = folder.exists() and any(folder.iterdir())
        if filled and read_marker(folder / "demo.json") != MARKER:
            raise UserError(
                f"{folder} is not empty, and it holds no intact demo set of this version; remove it, or "
                "name another folder with --out"
            )
        if not filled:
            with making(folder) as temporary:
                # another process may have made the set meanwhile
                if not folder.exists() or not any(folder.iterdir()):
                    _write(temporary)
    return folder
