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

import numpy as np
from PIL import Image


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
        if self._pid != os.getpid():   # a forked child must not share the parent's file position
            self._archive, self._pid = zipfile.ZipFile(self.source), os.getpid()
        return self._archive.read(self.prefix + path)


def decode(data: bytes, size: int) -> np.ndarray:
    """Decode to RGB, bring the short side to `size` (bicubic, antialiased), crop the centre: (size, size, 3)
    uint8.

    Raises:
        Exception: whatever Pillow raises for data that are not a whole image.
    """
    with Image.open(io.BytesIO(data)) as image:
        # a big JPEG is decoded at 1/2, 1/4 or 1/8 while that still covers `size`
        image.draft(None, (size, size))
        image.load()
        image = image if image.mode == "RGB" else image.convert("RGB")   # convert would copy an RGB image
    if image.size != (size, size):
        short = min(image.size)
        left, top = (image.width - short) / 2, (image.height - short) / 2
        image = image.resize((size, size), Image.Resampling.BICUBIC,
                             box=(left, top, left + short, top + short))
    return np.asarray(image)


def moments(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums (3,) and sums of products (3, 3) over the pixels of images (N, H, W, 3) uint8; exact integers in
    float64.
    """
    planes = np.ones((4, images[0].size // 3))   # R, G, B and 1, so that one product gives sums as well
    total = np.zeros((4, 4))
    for image in images:   # one at a time stays in the processor's cache
        planes[:3] = image.reshape(-1, 3).T
        total += planes @ planes.T
    return total[3, :3], total[:3, :3]


def pack(reader: ImageReader, paths: list[str], size: int, file: str, row: int, with_moments: bool):
    """Decode `paths` into rows `row`, `row + 1`, ... of the raw file; a row that fails is left zero and
    reported.

    Returns:
        failures: list of (row, reason).
        sums: `moments` of the rows that are good, or None.

    Raises:
        OSError: the file cannot be written.
    """
    block = np.zeros((len(paths), size, size, 3), np.uint8)
    failures = []
    for index, path in enumerate(paths):
        try:
            block[index] = decode(reader.read(path), size)
        except Exception as error:   # Pillow raises many types for damaged files, and each is reported
            failures.append((row + index, f"{type(error).__name__}: {error}"))
    with open(file, "r+b") as out:
        out.seek(row * size * size * 3)
        out.write(block)
    return failures, moments(block) if with_moments else None   # zero rows add nothing to a sum


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
