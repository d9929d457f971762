"""RGB data sets with a fourth channel computed from the other three, to see what one more channel does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import ImageOps

from data.decode import ImageReader, open_picture, reason, to_mode
from data.lists import BANDS, ImageLists
from data.source import BROKEN
from utils import UserError, making, progress_bar, write_text


def grey(rgb: np.ndarray) -> np.ndarray:
    """Luma (BT.601): what R, G and B tell already, exactly."""
    return rgb @ np.array([0.299, 0.587, 0.114])


def sobel(rgb: np.ndarray) -> np.ndarray:
    """Gradient magnitude of the luma (Sobel): what a first convolution can compute, but no linear mix."""
    padded = np.pad(grey(rgb), 1, mode="edge")
    smooth_y = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    smooth_x = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    return np.hypot(smooth_y[:, 2:] - smooth_y[:, :-2], smooth_x[2:] - smooth_x[:-2]) / 4


def nir(rgb: np.ndarray) -> np.ndarray:
    """A stand-in for near infrared, bright where green exceeds red, as plants are: G + 2 (G - R), cut to 8 bits.
    No picture has the true one."""
    return rgb[..., 1] + 2 * (rgb[..., 1] - rgb[..., 0])


CHANNELS = {"grey": grey, "sobel": sobel, "nir": nir}  # rgb (H, W, 3) float -> (H, W)


def _read_rgb(reader: ImageReader, path: str) -> np.ndarray:
    """The picture's pixels, (H, W, 3) uint8.

    Raises:
        UserError: it cannot be decoded.
    """
    try:
        with open_picture(reader.read(path)) as image:
            return np.asarray(to_mode(ImageOps.exif_transpose(image), "RGB"))
    except Exception as error:  # as many types as for a cache
        raise UserError(
            f"cannot decode {path} ({reason(error)}): mend it or take it off the lists"
        ) from error


def derive(lists: ImageLists, channel: str, out: str | Path, progress: bool = True) -> Path:
    """Write the data set with the channels R, G, B and `channel` into the folder `out`, as .npy.

    Raises:
        UserError: images that cannot be decoded, a data set of other channels, or a folder that is there or cannot
            be written.
    """
    out = Path(out)
    if len(lists.channels) != 3:
        raise UserError(
            f"{lists.source} has {len(lists.channels)} channels; a fourth is derived from R, G and B"
        )
    if out.exists():
        raise UserError(f"{out} is there already: name another folder with --out, or delete it")
    reader = ImageReader(lists)
    try:
        with making(out) as temporary:
            for split, part in lists.splits.items():
                lines = []
                for path, label in zip(
                    progress_bar(part.paths, desc=split, unit=" images", disable=not progress), part.labels
                ):
                    rgb = _read_rgb(reader, path)
                    more = np.round(CHANNELS[channel](rgb.astype(np.float64)))
                    more = np.clip(more, 0, 255).astype(np.uint8)
                    file = Path(path).with_suffix(".npy").as_posix()
                    if (temporary / file).exists():
                        raise UserError(
                            f"{path} and another image would both become {file}: rename one of them"
                        )
                    (temporary / file).parent.mkdir(parents=True, exist_ok=True)
                    np.save(temporary / file, np.dstack([rgb, more]))
                    lines.append(f"{file} {label}\n")
                write_text(temporary / f"{split}.txt", "".join(lines))
            write_text(temporary / BANDS, f"R\nG\nB\n{channel}\n")
    except BROKEN as error:
        raise UserError(
            f"cannot write {out}: {error}; free disk space, mend the image, or name another folder with --out"
        ) from error
    return out
