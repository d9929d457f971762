"""Find and open the data set of `--data`, and make batches of it. All scripts use these functions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from data.batches import Batches
from data.cache import PixelCache, open_cache
from data.demo import make_demo
from data.identity import digest_of, sums_of
from data.lists import ImageLists, read_lists
from data.source import is_searched, open_source
from storage.files import home_path
from utils import ROOT, ArgumentParser, UserError, generator, note


def add_data_options(parser: ArgumentParser, data: str) -> None:
    """Add the options --data, with the help text `data`, and --cache."""
    parser.add_argument("--data", default="auto", help=data)
    parser.add_argument(
        "--cache", help="folder for the decoded pixels (default: data/cache in the repository)"
    )


def find_dataset(data: str, folder: Path = ROOT / "data") -> Path:
    """Return the folder or zip that `--data` means.

    Args:
        data: a path or "auto". "auto" means the data set in `folder`; if there is none, a demo set is drawn.

    Raises:
        UserError: the path does not exist, or `folder` holds several data sets.
    """
    if data != "auto":
        path = home_path(data)
        if not path.exists():
            raise UserError(
                f"no such folder or zip: {data}; check the path, or write auto for the data set in data/"
            )
        return path
    places = [folder] if (folder / "train.txt").is_file() else []
    places += [path for path in sorted(folder.glob("*")) if path.is_dir() and is_searched((path.name,))]
    found = [path for path in places + sorted(folder.glob("*.zip")) if open_source(path).list_roots()]
    if len(found) > 1:  # an archive and its unpacked folder count once
        found = list({_content(path): path for path in reversed(found)}.values())[::-1]
    if len(found) > 1:
        names = [path.name for path in found]
        raise UserError(
            f"several data sets in {folder}: {', '.join(names)}; choose one, such as --data {folder / names[0]}"
        )
    if found:
        return found[0]
    print(f"no data set in {folder}: using the drawn demo set (see data/README.md for the course's data set)")
    return make_demo(folder / "demo")


def _content(path: Path) -> tuple[str, str]:
    """Return the digest of the lists, and the sizes of the pictures or, where all sizes are alike, their checksums."""
    try:
        lists = read_lists(path)
    except UserError:  # a damaged set equals no other set, and the user may choose another
        return str(path), ""
    sizes = {path: facts and facts[0] for path in lists.paths for facts in [lists.facts(path)]}
    if len(set(sizes.values())) <= max(1, len(sizes) // 20):  # arrays of a few shapes
        return lists.digest, digest_of(sums_of(lists, progress=False))
    return lists.digest, digest_of(sizes)


def cached_size(image_size: int) -> int:
    """Return the side of the cached pictures in px; images of `image_size` are crops of them."""
    return round(image_size * 8 / 7)


def open_data(
    data: str | ImageLists, image_size: int, cache: str | None = None, max_failed: float = 0.01
) -> PixelCache:
    """Open the pixel cache of `data`. Its pictures are larger than the crops, see `cached_size`.

    If there are several processes, only the first builds the cache.

    Args:
        data: a folder or zip, or "auto", see `find_dataset`; or the lists of the data set.
        image_size: side of the crops, px.
        cache: folder of all caches; default: data/cache.
        max_failed: share of a split that may fail to decode.

    Raises:
        UserError: the data set is wrong; the message names the fault and the file.
    """
    several = dist.is_available() and dist.is_initialized()  # some builds of PyTorch have no distributed part
    if several and dist.get_rank() > 0:
        dist.barrier()  # the first process builds the cache
    lists = data if isinstance(data, ImageLists) else read_lists(find_dataset(data))
    pixels = open_cache(lists, cached_size(image_size), cache, max_failed_share=max_failed)
    if several and dist.get_rank() == 0:
        dist.barrier()
    for name, mean, deviation in zip(pixels.channel_names, pixels.mean, pixels.std):
        # the least that float32 can show; resizing rounds equal pixels to different numbers
        if deviation <= np.finfo(np.float32).eps * abs(mean):
            raise UserError(
                f"channel {name} has the same value in every training pixel, so nothing can be learned from it; "
                "remove that channel"
            )
        if pixels.kind == np.uint8 and mean + 2 * deviation < 1 / 16:
            note(
                f"warning: channel {name} is almost black. If the files have more than 8 bits, only the highest 8 are "
                f"used; a bands.txt that names the channels keeps all bits of a TIFF file"
            )
    return pixels


def make_batches(
    cache: PixelCache, split: str, image_size: int, channels, device: torch.device, fraction: float = 1.0
) -> Batches:
    """Make batches of "train", "val" or "test" with the image channels `channels` (ids).

    For "train", only the share `fraction` of the images is copied into memory and used, see `draw_fraction`. The mean
    and standard deviation are always of all training images.
    """
    part = cache.split(split)
    images, labels = part.images, part.labels
    if split == "train" and fraction < 1:
        rows = draw_fraction(labels, fraction)
        images, labels = images[rows], labels[rows]
    return Batches(images, labels, image_size, cache.mean, cache.std, channels, device)


def draw_fraction(labels: np.ndarray, fraction: float) -> np.ndarray:
    """Draw a share of the images of each class from labels (N,); return row numbers (M,), ascending.

    Each class keeps at least one image. The rows are the same for each model and seed. A larger share holds all rows
    of a smaller share.
    """
    chosen = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        order = torch.randperm(len(rows), generator=generator("fraction", int(label))).numpy()
        chosen.append(rows[order[: max(1, round(fraction * len(rows)))]])
    return np.sort(np.concatenate(chosen))
