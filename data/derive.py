"""Write an RGB data set with a fourth channel computed from R, G and B, to study one more channel."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data.decode import open_picture, reason, to_mode
from data.lists import BANDS, RGB, ImageLists, bands_text
from storage.files import write_text, writing
from storage.locks import making
from utils import UserError, progress_bar


def grey(rgb: np.ndarray) -> np.ndarray:
    """Compute the luma (BT.601). It is a linear mix of R, G and B, so it adds no information."""
    return rgb @ np.array([0.299, 0.587, 0.114])


def sobel(rgb: np.ndarray) -> np.ndarray:
    """Compute the gradient magnitude of the luma (Sobel). No linear mix of R, G and B can give it."""
    padded = np.pad(grey(rgb), 1, mode="edge")
    smooth_y = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    smooth_x = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    return np.hypot(smooth_y[:, 2:] - smooth_y[:, :-2], smooth_x[2:] - smooth_x[:-2]) / 4


def nir(rgb: np.ndarray) -> np.ndarray:
    """Compute a channel like near infrared: G + 2 (G - R), later cut to 8 bits.

    As in near infrared, plants are bright, because their green is larger than their red.
    """
    return rgb[..., 1] + 2 * (rgb[..., 1] - rgb[..., 0])


CHANNELS = {"grey": grey, "sobel": sobel, "nir": nir}  # functions from rgb (H, W, 3), float, to (H, W)


def _read_rgb(lists: ImageLists, path: str) -> np.ndarray:
    """Read the pixels of a picture, (H, W, 3) uint8.

    Raises:
        UserError: the picture cannot be decoded.
    """
    try:
        with open_picture(lists.read(path)) as image:
            return np.asarray(to_mode(image, "RGB"))
    except Exception as error:  # Pillow raises many types for damaged files
        raise UserError(
            f"cannot decode {path} ({reason(error)}): correct the file or remove it from the lists"
        ) from error


def derive(lists: ImageLists, channel: str, out: str | Path) -> Path:
    """Write the data set with the channels R, G, B and `channel` into the folder `out`, as .npy.

    Raises:
        UserError: an image cannot be decoded, the data set has other channels, or the folder exists or cannot be
            written.
    """
    out = Path(out)
    if lists.channels.names != RGB.names:
        raise UserError(
            f"{lists.source} has the channels {', '.join(lists.channels.names[:6])}; a fourth channel is computed from "
            "R, G and B: give an RGB data set"
        )
    if out.exists():
        raise UserError(f"{out} is there already: name another folder with --out, or delete it")
    with writing(str(out)), making(out) as temporary:
        for split, part in lists.splits.items():
            lines = []
            for path, label in zip(progress_bar(part.paths, desc=split, unit=" images"), part.labels):
                rgb = _read_rgb(lists, path)
                more = np.round(CHANNELS[channel](rgb.astype(np.float64)))
                more = np.clip(more, 0, 255).astype(np.uint8)
                file = Path(path).with_suffix(".npy").as_posix()
                if (temporary / file).exists():
                    raise UserError(f"{path} and another image would both become {file}: rename one of them")
                (temporary / file).parent.mkdir(parents=True, exist_ok=True)
                np.save(temporary / file, np.dstack([rgb, more]))
                lines.append(f"{file} {label}\n")
            write_text(temporary / f"{split}.txt", "".join(lines))
        write_text(temporary / BANDS, bands_text({**lists.channels.as_dict(), channel: None}))
    return out
