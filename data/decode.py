"""Read, decode and pack images: what a cache worker runs.

Imports no torch, so a worker starts in a moment.
"""

from __future__ import annotations

import io
import os
import pickle
import re
import signal
import sys
import zipfile
import zlib
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from data.files import LARGEST_IMAGE, check_bytes, read_file, read_member

PICTURES = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # what Pillow is asked to read
NPY, TIFF = b"\x93NUMPY", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # how such a file begins
LARGEST_PIXEL = 1e18  # its square is far from the end of float32, in which covariances are kept
OTHERS = {  # how files begin that are no picture of `PICTURES`; a pattern -> what it is
    rb".{4}ftyp(hei|hev|mif|msf)": "a HEIC picture",
    rb".{4}ftypavi": "an AVIF picture",
    rb".{4}ftypcrx": "a raw picture of a camera",
    rb".{4}ftyp": "a video",
    rb"\xff\x0a|\0{3}\x0cJXL ": "a JPEG XL picture",
    rb"\0{3}\x0cjP  |\xff\x4f\xff\x51": "a JPEG 2000 picture",
    rb"\x76\x2f\x31\x01": "an OpenEXR picture",
    rb"8BPS": "a Photoshop document",
    rb"\x00\x00[\x01\x02]\x00": "an icon",
    rb"DDS ": "a DDS texture",
    rb"%!PS": "PostScript",
    rb"%PDF": "a PDF document",
    rb"\x89HDF": "an HDF5 file",
    rb"CDF[\x01\x02\x05]": "a NetCDF file",
    rb"SIMPLE  =": "a FITS file",
    rb"PK\x03\x04": "a zip archive",
    rb"\x1f\x8b": "a gzip archive",
    rb"Rar!|7z\xbc\xaf": "an archive",
    rb"version https://git-lfs": "a pointer of Git LFS: run `git lfs pull`, which fetches the picture, or",
    rb"(?i)\s*<(!doctype html|html)": "a web page",
    rb"(?i)\s*<(\?xml|svg)": "SVG or other XML",
    rb"\0*$": "empty",
}


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
            ValueError: no regular file, or too large. OSError, KeyError, zipfile.BadZipFile: it cannot be read.
        """
        if not self.is_zip:
            return read_file(self.source / (self.prefix + path), LARGEST_IMAGE)
        if self._pid != os.getpid():  # a forked child must not share the parent's file position
            self._archive, self._pid = zipfile.ZipFile(self.source), os.getpid()
        return read_member(self._archive, self.prefix + path, LARGEST_IMAGE)

    def sums(self, path: str) -> list[int] | None:
        """Bytes and CRC-32 of the file listed as `path`, None where it cannot be read."""
        try:
            return sums(self.read(path))
        except Exception:  # as many types as for an image
            return None


def sums(data: bytes) -> list[int]:
    """What is kept of a file's content: bytes and CRC-32."""
    return [len(data), zlib.crc32(data)]


def reason(error: Exception) -> str:
    """Why an image is left out, in one short text that is the same on every run."""
    return re.sub(r"( object)? at 0x[0-9a-fA-F]+", "", f"{type(error).__name__}: {error}")[:300]


def decode(data: bytes, size: int, channels: int = 3, kind: np.dtype | str = np.uint8) -> np.ndarray:
    """Decode, bring the short side to `size` (bicubic, antialiased), crop the centre: (size, size, C).

    A picture (`PICTURES`) is turned upright as its EXIF says and converted to RGB, or with one channel to
    grey; what is transparent shows white. Arrays of any number of channels come from .npy and, for other
    than RGB, from TIFF: (H, W, C) or (C, H, W).

    Args:
        channels: C.
        kind: of the pixels, as `pixel_kind` names it; they are not scaled.

    Returns:
        pixels of the type `stored_kind(kind)`.

    Raises:
        ValueError: pixels of another kind or number of channels, NaN, an animation, pixels without a known
            range, or too many of them.
        Exception: whatever Pillow or tifffile raises for data that are no whole image.
    """
    kind = np.dtype(kind).name
    if is_array(data, channels):
        return resize(check_array(read_array(data), channels, kind), size)
    if channels not in (1, 3):
        raise ValueError(
            f"a picture has 3 channels (or 1), expected {channels}; the file is {what_it_is(data)}"
        )
    if kind != "uint8":
        raise ValueError(
            f"a picture of 8 bits; the pixels of the first image are {kind}: save all as one kind"
        )
    with open_picture(data) as image:
        # a big JPEG is decoded at 1/2, 1/4 or 1/8 while that still covers `size`
        image.draft(None, (size, size))
        image.load()
        image = to_mode(ImageOps.exif_transpose(image), "RGB" if channels == 3 else "L")
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BICUBIC, box=centre(*image.size))
    return np.asarray(image).reshape(size, size, channels)


def open_picture(data: bytes) -> Image.Image:
    """The picture, not decoded yet.

    Raises:
        ValueError: an animation, a stack, or no picture that Pillow reads.
        Image.DecompressionBombError: it would be too large.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=PICTURES)
    except UnidentifiedImageError:
        raise ValueError(
            f"cannot identify a picture: the file is {what_it_is(data)}; save it as JPEG or PNG"
        ) from None
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
        raise ValueError(f"an animation or a stack of {image.n_frames} pictures")
    return image


def what_it_is(data: bytes) -> str:
    """What a file that is no picture seems to be, by its first bytes."""
    head = data[:64]
    found = (name for pattern, name in OTHERS.items() if re.match(pattern, head, re.DOTALL))
    return next(found, f"of an unknown kind that begins with {head[:8]!r}")


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


def is_array(data: bytes, channels: int) -> bool:
    """Whether the file is read as it is stored, and not as a picture."""
    return data.startswith(NPY) or channels not in (1, 3) and data.startswith(TIFF)


def read_array(data: bytes) -> np.ndarray:
    """The pixels of a .npy or TIFF file as they are stored.

    Raises:
        ValueError: too many pixels.
        Exception: whatever numpy or tifffile raises for a damaged file.
    """
    if data.startswith(NPY):
        return np.load(io.BytesIO(data), allow_pickle=False)  # not packed: no larger than the file
    import tifffile  # here: most workers never need it

    with tifffile.TiffFile(io.BytesIO(data)) as file:
        check_bytes(file.series[0].nbytes, LARGEST_IMAGE)
        return file.asarray()


def pixel_kind(data: bytes, channels: int) -> str:
    """The kind of a file's pixels, which all images of a set share: that of whole numbers, or float32 for all
    others.
    """
    if not is_array(data, channels):
        return "uint8"
    return kind_of(read_array(data))


def kind_of(array: np.ndarray) -> str:
    """As `pixel_kind`, of pixels that are read already."""
    return "float32" if array.dtype.kind == "f" else array.dtype.newbyteorder("=").name


def stored_kind(kind: str) -> str:
    """The kind of the cache for pixels of a kind: uint8, uint16, or float32 for all others."""
    return kind if kind in ("uint8", "uint16") else "float32"


def pixel_unit(kind) -> int:
    """What stands for 1: 255 in pictures; other pixels are taken as they are."""
    return 255 if np.dtype(kind) == np.uint8 else 1


def check_array(array: np.ndarray, channels: int, kind: str) -> np.ndarray:
    """The array as (H, W, C) of `stored_kind(kind)`.

    Raises:
        ValueError: another number of channels, a shape that can be read in two ways, pixels of another kind or
            too large, or NaN.
    """
    shape, flat = array.shape, array.ndim == 2 and channels == 1
    array = array[..., None] if flat else array
    if array.ndim != 3 or channels not in (array.shape[2], array.shape[0]) or not array.size:
        raise ValueError(f"an array of {shape}, expected {channels} channels, first or last")
    if array.shape[0] == array.shape[2] and array.size > 1 and not flat:
        raise ValueError(
            f"an array of {shape}, whose {channels} channels may be first or last; cut or pad the image"
        )
    if array.shape[2] != channels:
        array = array.transpose(1, 2, 0)
    if array.dtype.kind not in "fiu" or kind_of(array) != kind:
        raise ValueError(f"pixels are {array.dtype}, those of the first image {kind}: save all as one kind")
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise ValueError(f"{np.count_nonzero(~np.isfinite(array))} pixels are NaN or infinite")
        if not np.abs(array).max() <= LARGEST_PIXEL:
            raise ValueError(
                f"a pixel of {np.abs(array).max():g}; the largest that is allowed is {LARGEST_PIXEL:g}"
            )
    return array.astype(stored_kind(kind))


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
    """Where `pack` writes: a raw file of images (N, size, size, channels) of `stored_kind(kind)`."""

    file: str
    size: int
    channels: int
    kind: str


def pack(reader: ImageReader, paths: list[str], target: Target, row: int, with_moments: bool):
    """Decode `paths` into rows `row`, `row + 1`, ... of the raw file; a row that fails is left zero and
    reported.

    Returns:
        failures: list of (row, reason).
        moments: of the rows that are good, or None.
        sums: of the file of each row that is good, by path.

    Raises:
        OSError: the file cannot be written.
    """
    file, size, channels, kind = target
    block = np.zeros((len(paths), size, size, channels), stored_kind(kind))
    failures, good = [], {}
    for index, path in enumerate(paths):
        try:
            data = reader.read(path)
            block[index] = decode(data, size, channels, kind)
            good[path] = sums(data)
        except Exception as error:  # Pillow raises many types for damaged files, and each is reported
            failures.append((row + index, reason(error)))
    with open(file, "r+b") as out:
        out.seek(row * block[0].nbytes)
        out.write(block)
    # zero rows add nothing to the moments
    return failures, moments(block) if with_moments else None, good


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
