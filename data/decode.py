"""Decode images."""

from __future__ import annotations

import io
import re

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from data.files import LARGEST_IMAGE, check_bytes

PICTURES = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # formats that Pillow may read
NPY, TIFF = b"\x93NUMPY", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # first bytes of such files
LARGEST_PIXEL = 1e18  # the square of a larger pixel may not fit into float32, the type of the covariances
NAME_BANDS = "name all channels in a bands.txt"
OTHERS = {  # from a pattern of the first bytes of other files to a description
    rb"\x89PNG|\xff\xd8\xff": "a PNG or JPEG file",
    rb".{4}ftyp(hei|hev|mif|msf)": "a HEIC picture",
    rb".{4}ftypavi": "an AVIF picture",
    rb"version https://git-lfs": "a pointer of Git LFS: run `git lfs pull`, which fetches the picture, or",
    rb"II[*+]\0|MM\0[*+]": f"a TIFF that is damaged or holds other channels than R, G, B ({NAME_BANDS})",
    rb"(?i)\s*<(!doctype html|html)": "a web page",
    rb"\0*$": "empty",
}


def reason(error: Exception) -> str:
    """Return why an image is left out, in a short text that is the same in every run."""
    return re.sub(r"( object)? at 0x[0-9a-fA-F]+", "", f"{type(error).__name__}: {error}")[:300]


def decode(
    data: bytes, size: int, channels: int = 3, kind: np.dtype | str = np.uint8, bands: bool = False
) -> np.ndarray:
    """Decode an image, resize its short side to `size` (bicubic, antialiased) and crop the centre.

    A picture (`PICTURES`) is turned upright by its EXIF tag and converted to RGB, or to grey for one channel.
    Transparent parts become white. A .npy or TIFF file may have any number of channels, as (H, W, C) or (C, H, W). A
    TIFF file with 1 or 3 channels is read as a picture, see `is_array`.

    Args:
        channels: C.
        kind: type of the pixels, as `pixel_kind` names it. They are not scaled.
        bands: see `is_array`.

    Returns:
        (size, size, C) pixels of the type `stored_kind(kind)`.

    Raises:
        ValueError: the pixels have another type or number of channels, are too many, hold NaN or have an unknown
            range; or the file is an animation.
        Exception: any error of Pillow or tifffile for data that are not a complete image.
    """
    kind = np.dtype(kind).name
    if is_array(data, channels, bands):
        return resize(check_array(read_array(data), channels, kind), size)
    if channels not in (1, 3):
        raise ValueError(
            f"expected {channels} channels, which need a .npy or TIFF file; the file is {what_it_is(data)}"
        )
    if kind != "uint8":
        raise ValueError(
            f"a picture has 8-bit pixels, but the first image has {kind}: save all images as one type"
        )
    with open_picture(data) as image:
        # decodes a large JPEG at 1/2, 1/4 or 1/8, as long as that is not below `size`
        image.draft(None, (size, size))
        image.load()
        image = to_mode(image, "RGB" if channels == 3 else "L")
    image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
    return np.asarray(image).reshape(size, size, channels)


def open_picture(data: bytes) -> Image.Image:
    """Open a picture without decoding it.

    Raises:
        ValueError: the file is an animation or a stack, or Pillow cannot read it.
        Image.DecompressionBombError: the picture has too many pixels.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=PICTURES)
    except UnidentifiedImageError:
        raise ValueError(
            f"cannot identify a picture: the file is {what_it_is(data)}; save it again, as JPEG or PNG"
        ) from None
    is_tiff = image.format == "TIFF"
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
        hint = f", or {NAME_BANDS}" if is_tiff else ""
        raise ValueError(f"an animation or a stack of {image.n_frames} pictures; save one picture{hint}")
    if is_tiff:
        check_layout(image)
    # Pillow (13.0) compares the transparent colour with pixels that it has scaled to 8 bits
    if (
        image.format == "PNG"
        and "transparency" in image.info
        and image.mode != "P"
        and ";" in image.tile[0].args
    ):
        raise ValueError("a PNG of 2, 4 or 16 bits with a transparent colour; save it as RGBA")
    return image


def check_layout(image: Image.Image) -> None:
    """Check that Pillow reads the pixels of an open TIFF as they are stored.

    Raises:
        ValueError: Pillow (13.0) would drop channels, or return mixed-up rows or the negative, without an error.
    """
    tags = image.tag_v2
    if 0 in tags.get(338, ()):
        raise ValueError(
            f"a TIFF of {tags[277]} channels, some of which are neither colours nor transparency; {NAME_BANDS}, or "
            f"save it without them"
        )
    apart = tags.get(284) == 2 and tags.get(277, 1) > 1  # each channel is stored by itself
    bits, colours = max(tags.get(258, (1,))), tags.get(262)
    plain = tags.get(259, 1) in (1, 32773)  # Pillow unpacks these two itself; libtiff unpacks the others
    if apart and (bits > 8 if plain else colours in (0, 1)):
        raise ValueError(
            f"a TIFF of {bits} bits that stores each channel in a separate plane; save it with interleaved channels"
        )
    if 2 in tags.get(339, ()) and bits <= 8:
        raise ValueError("a TIFF of signed 8-bit pixels; save it without negative values")
    if bits > 8 and colours == 0:
        raise ValueError(f"a TIFF of {bits} bits in which 0 is white; save it with 0 as black")


def is_grey(data: bytes) -> bool:
    """Check whether a picture is stored in grey; raise the errors of `open_picture`."""
    with open_picture(data) as image:
        return image.mode.partition(";")[0] in ("1", "L", "LA", "I", "F")


def what_it_is(data: bytes) -> str:
    """Describe a file that is not a picture, by its first bytes."""
    head = data[:64]
    names = (name for pattern, name in OTHERS.items() if re.match(pattern, head, re.DOTALL))
    return next(names, f"of an unknown kind that begins with {head[:12]!r}")


def to_mode(image: Image.Image, mode: str) -> Image.Image:
    """Turn the picture upright and convert it to "RGB" or "L", with 8 bits per channel.

    Raises:
        ValueError: the picture has 32-bit pixels, whose range is not known; or it is a TIFF whose transparency seems
            to be a channel, such as infrared. Many programs mark every fourth channel of a TIFF as transparency.
    """
    is_tiff = image.format == "TIFF"
    # Pillow scales every PGM of more than 8 bits to 0..65535, but no TIFF
    wide = image.mode.startswith("I;16") or (image.format, image.mode) == ("PPM", "I")
    most = 4095 if is_tiff and image.tag_v2.get(258) == (12,) else 65535
    image = ImageOps.exif_transpose(image)
    if image.mode == mode and not image.has_transparency_data:
        return image  # `convert` would make a copy
    if wide:
        image = Image.fromarray(
            np.round(np.asarray(image).astype(np.float32) / (most / 255)).astype(np.uint8)
        )
    elif image.mode in ("I", "F"):
        raise ValueError(f"32-bit pixels (mode {image.mode}), whose range is not known; save 8 or 16 bits")
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        if is_tiff and _is_a_channel(np.asarray(image)[..., 3]):
            raise ValueError(
                f"a TIFF whose last channel is marked as transparency, but seems to be another channel; {NAME_BANDS}, "
                f"or save it without that channel"
            )
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)


def _is_a_channel(opacity: np.ndarray) -> bool:
    """Guess from opacities (H, W), 0 to 255, that they are another channel: all are 0, or most lie between."""
    return bool(not opacity.any() or np.mean((opacity > 0) & (opacity < 255)) > 0.5)


def is_array(data: bytes, channels: int, bands: bool = False) -> bool:
    """Check whether to read the file as an array of pixels, not as a picture.

    Args:
        channels: number of channels of the data set.
        bands: whether the data set has a bands.txt. Then a TIFF of 1 or 3 channels is an array if it has more than 8
            bits or a sign, or three channels that are not colours. A picture would lose the bits above 8.

    Raises:
        Exception: any error of tifffile for a damaged file.
    """
    if not data.startswith(TIFF):
        return data.startswith(NPY)
    if channels not in (1, 3) or not bands:
        return channels not in (1, 3)
    import tifffile  # imported here, since most data sets do not need it

    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages.first
        return (
            page.bitspersample > 8
            or page.dtype == "int8"
            or (page.photometric == 1 and page.samplesperpixel == 3)
        )


def read_array(data: bytes) -> np.ndarray:
    """Read the pixels of a .npy or TIFF file as they are stored.

    Raises:
        ValueError: the pixels are too many bytes, or some are missing.
        Exception: any error of numpy or tifffile for a damaged file.
    """
    if data.startswith(NPY):
        return np.load(io.BytesIO(data), allow_pickle=False)  # not compressed, so no larger than the file
    import tifffile  # imported here, since most data sets do not need it

    with tifffile.TiffFile(io.BytesIO(data)) as file:
        check_bytes(file.series[0].nbytes, LARGEST_IMAGE)
        array = file.asarray(maxworkers=1)  # other threads decode other images
        nodata = file.pages.first.nodata  # 0 if the file does not name a value
    if nodata and (count := np.count_nonzero(array == nodata)):
        raise ValueError(
            f"{count} pixels are {nodata:g}, which means missing in this file (GDAL_NODATA); fill these pixels"
        )
    return array


def pixel_kind(data: bytes, channels: int, bands: bool = False) -> str:
    """Return the type of a file's pixels: a type of whole numbers, or float32 for any type of floats.

    All images of a set have the same type. For `channels` and `bands` see `is_array`.
    """
    return kind_of(read_array(data)) if is_array(data, channels, bands) else "uint8"


def kind_of(array: np.ndarray) -> str:
    """Return the type of the pixels of an array, as `pixel_kind` names it."""
    return "float32" if array.dtype.kind == "f" else array.dtype.newbyteorder("=").name


def stored_kind(kind: str) -> str:
    """Return the type in which the cache stores pixels: uint8, uint16, or float32 for all other types."""
    return kind if kind in ("uint8", "uint16") else "float32"


def pixel_unit(kind) -> int:
    """Return the pixel value that counts as 1: 255 for uint8, and 1 for other types, which are not scaled."""
    return 255 if np.dtype(kind) == np.uint8 else 1


def check_array(array: np.ndarray, channels: int, kind: str) -> np.ndarray:
    """Check the array and return it as (H, W, C) of the type `stored_kind(kind)`.

    Raises:
        ValueError: the number of channels is wrong, the shape has two possible meanings, or the pixels have another
            type, are too large or hold NaN.
    """
    shape, flat = array.shape, array.ndim == 2 and channels == 1
    array = array[..., None] if flat else array
    if array.ndim != 3 or channels not in (array.shape[2], array.shape[0]) or not array.size:
        raise ValueError(
            f"an array of {shape}, expected {channels} channels as the first or last axis; if the images have others, "
            f"{NAME_BANDS}"
        )
    if array.shape[0] == array.shape[2] and array.size > 1 and not flat:
        raise ValueError(
            f"an array of {shape}, whose {channels} channels may be the first or the last axis; crop or pad the image"
        )
    if array.shape[2] != channels:
        array = array.transpose(1, 2, 0)
    if array.dtype.kind not in "fiu":
        raise ValueError(f"the pixels are {array.dtype}; save them as whole numbers or floats")
    if kind_of(array) != kind:
        raise ValueError(
            f"the pixels are {array.dtype}, but the first image has {kind}: save all images as one type"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(array))} pixels are NaN or infinite")
    largest = max(array.max(), -array.min().astype(float))  # as float: -(-128) does not fit into int8
    if not largest <= LARGEST_PIXEL:
        raise ValueError(
            f"a pixel of {largest:g} is too large; the largest value allowed is {LARGEST_PIXEL:g}"
        )
    return array.astype(stored_kind(kind))


def resize(array: np.ndarray, size: int) -> np.ndarray:
    """Resize (H, W, C) to (size, size, C), each channel separately, as Pillow resizes a picture."""
    if array.shape[:2] == (size, size):
        return array
    planes = [
        ImageOps.fit(Image.fromarray(plane), (size, size), Image.Resampling.BICUBIC)
        for plane in array.astype(np.float32).transpose(2, 0, 1)
    ]
    out = np.stack([np.asarray(plane) for plane in planes], axis=2)
    if array.dtype.kind == "u":  # bicubic interpolation can leave the range of the type
        out = np.clip(np.round(out), 0, np.iinfo(array.dtype).max)
    return out.astype(array.dtype)
