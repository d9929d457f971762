"""Read, decode and pack images: what a cache worker runs.

Imports no torch, so a worker starts in a moment.
"""

from __future__ import annotations

import io
import os
import pickle
import signal
import sys
import zipfile
import zlib
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

PICTURES = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # what Pillow is asked to read
NPY, TIFF = b"\x93NUMPY", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # how such a file begins


class ImageReader:
    """Bytes of the listed images of a folder or a zip.

    It can be pickled and forked: each process opens the zip once, at its first read.
    """

    def __init__(self, lists):
        self.source, self.prefix, self.is_zip = lists.source, lists.prefix, lists.source.is_file()
        self._archive, self._pid = None, None

    def __getstate__(self):
        return dict(self.__dict__, _archive=None, _pid=None)

    def read(self, path: str) -> bytes:
        """Bytes of the image listed as `path`.

        Raises:
            OSError, KeyError, zipfile.BadZipFile: it cannot be read.
        """
        if not self.is_zip:
            return (self.source / (self.prefix + path)).read_bytes()
        if self._pid != os.getpid():  # a forked child must not share the parent's file position
            self._archive, self._pid = zipfile.ZipFile(self.source), os.getpid()
        return self._archive.read(self.prefix + path)

    def checksum(self, path: str) -> int | None:
        """CRC-32 of the file listed as `path`, None where it cannot be read."""
        try:
            return zlib.crc32(self.read(path))
        except Exception:  # as many types as for an image
            return None


def decode(data: bytes, size: int, channels: int = 3, kind: np.dtype | str = np.uint8) -> np.ndarray:
    """Decode, bring the short side to `size` (bicubic, antialiased), crop the centre: (size, size, C).

    A picture (`PICTURES`) is turned upright as its EXIF says and converted to RGB, or with one channel to
    grey; what is transparent shows white. Arrays of any number of channels come from .npy and, for other
    than RGB, from TIFF: (H, W, C) or (C, H, W).

    Args:
        channels: C.
        kind: of the pixels, uint8, uint16 or float32; pixels are not scaled.

    Raises:
        ValueError: pixels of another kind or number of channels, NaN, an animation, or pixels without a known
            range.
        Exception: whatever Pillow or tifffile raises for data that are no whole image.
    """
    if data.startswith(NPY) or channels not in (1, 3) and data.startswith(TIFF):
        return resize(check_array(read_array(data), channels, np.dtype(kind)), size)
    if channels not in (1, 3):
        raise ValueError(f"a picture has 3 channels (or 1), expected {channels}")
    with Image.open(io.BytesIO(data), formats=PICTURES) as image:
        if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
            raise ValueError(f"an animation or a stack of {image.n_frames} pictures")
        # a big JPEG is decoded at 1/2, 1/4 or 1/8 while that still covers `size`
        image.draft(None, (size, size))
        image.load()
        image = to_mode(ImageOps.exif_transpose(image), "RGB" if channels == 3 else "L")
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BICUBIC, box=centre(*image.size))
    return np.asarray(image).reshape(size, size, channels)


def to_mode(image: Image.Image, mode: str) -> Image.Image:
    """The picture in "RGB" or "L", 8 bits a channel.

    Raises:
        ValueError: 32-bit pixels, whose range nothing tells.
    """
    if image.mode == mode:
        return image  # convert would copy it
    if image.mode.startswith("I;16"):
        image = Image.fromarray(np.round(np.asarray(image).astype(np.float32) / 257).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"32-bit pixels (mode {image.mode}), whose range is not known; save 8 or 16 bits")
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)


def centre(width: int, height: int) -> tuple[float, float, float, float]:
    """The largest square in the middle: left, top, right, bottom, px."""
    short = min(width, height)
    left, top = (width - short) / 2, (height - short) / 2
    return left, top, left + short, top + short


def read_array(data: bytes) -> np.ndarray:
    """The pixels of a .npy or TIFF file as they are stored."""
    if data.startswith(NPY):
        return np.load(io.BytesIO(data), allow_pickle=False)
    import tifffile  # here: most workers never need it

    return tifffile.imread(io.BytesIO(data))


def pixel_kind(data: bytes, channels: int) -> str:
    """The kind of the cache for an image like this one: uint8, uint16, or float32 for all others."""
    if data.startswith(NPY) or channels not in (1, 3) and data.startswith(TIFF):
        found = read_array(data).dtype.newbyteorder("=").name
        return found if found in ("uint8", "uint16") else "float32"
    return "uint8"


def pixel_unit(kind) -> int:
    """What stands for 1: 255 in pictures; other pixels are taken as they are."""
    return 255 if np.dtype(kind) == np.uint8 else 1


def check_array(array: np.ndarray, channels: int, kind: np.dtype) -> np.ndarray:
    """The array as (H, W, C) of `kind`.

    Raises:
        ValueError: another number of channels, pixels that do not go into `kind` unchanged, or NaN.
    """
    array = array[..., None] if array.ndim == 2 else array
    if array.ndim != 3 or channels not in (array.shape[2], array.shape[0]):
        raise ValueError(f"an array of {array.shape}, expected {channels} channels, first or last")
    if array.shape[2] != channels:
        array = array.transpose(1, 2, 0)
    if not (np.can_cast(array.dtype, kind) or kind == np.float32 and array.dtype.kind in "fiu"):
        raise ValueError(f"pixels are {array.dtype}, those of the first image {kind}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(array))} pixels are NaN or infinite")
    return array.astype(kind)


def resize(array: np.ndarray, size: int) -> np.ndarray:
    """(H, W, C) -> (size, size, C), each channel resampled by itself as Pillow does with a picture."""
    height, width, channels = array.shape
    if (height, width) == (size, size):
        return array
    planes = [
        Image.fromarray(array[:, :, i].astype(np.float32)).resize(
            (size, size), Image.Resampling.BICUBIC, box=centre(width, height)
        )
        for i in range(channels)
    ]
    out = np.stack([np.asarray(plane) for plane in planes], axis=2)
    if array.dtype.kind == "u":  # bicubic interpolation overshoots
        out = np.clip(np.round(out), 0, np.iinfo(array.dtype).max)
    return out.astype(array.dtype)


def moments(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums (C,) and sums of products (C, C) over the pixels of images (N, H, W, C), float64; of 8 and 16 bits
    exact integers.
    """
    channels = images.shape[3]
    # the channels and 1, so that one product gives sums as well
    planes = np.ones((channels + 1, images[0].size // channels))
    total = np.zeros((channels + 1, channels + 1))
    for image in images:  # one at a time stays in the processor's cache
        planes[:channels] = image.reshape(-1, channels).T
        total += planes @ planes.T
    return total[channels, :channels], total[:channels, :channels]


class Target(NamedTuple):
    """Where `pack` writes: a raw file of images (N, size, size, channels) of `kind`."""

    file: str
    size: int
    channels: int
    kind: str


def pack(reader: ImageReader, paths: list[str], target: Target, row: int, with_moments: bool):
    """Decode `paths` into rows `row`, `row + 1`, ... of the raw file; a row that fails is left zero and
    reported.

    Returns:
        failures: list of (row, reason).
        sums: `moments` of the rows that are good, or None.

    Raises:
        OSError: the file cannot be written.
    """
    file, size, channels, kind = target
    block = np.zeros((len(paths), size, size, channels), kind)
    failures = []
    for index, path in enumerate(paths):
        try:
            block[index] = decode(reader.read(path), size, channels, kind)
        except Exception as error:  # Pillow raises many types for damaged files, and each is reported
            failures.append((row + index, f"{type(error).__name__}: {error}"))
    with open(file, "r+b") as out:
        out.seek(row * block[0].nbytes)
        out.write(block)
    return failures, moments(block) if with_moments else None  # zero rows add nothing to a sum


def serve() -> None:
    """A worker process: from stdin a pickled reader, then `pack` arguments; to stdout, each answer or
    OSError.
    """
    # on Ctrl-C the parent cleans up; stdin closes and this ends
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    receive, send = sys.stdin.buffer, sys.stdout.buffer
    try:
        reader = pickle.load(receive)
        while True:
            job = pickle.load(receive)
            try:
                answer = pack(reader, *job)
            except OSError as error:
                answer = error
            pickle.dump(answer, send)
            send.flush()
    except (EOFError, BrokenPipeError):
        return
