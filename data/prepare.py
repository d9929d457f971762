"""Get, check and cache a data set: `python -m data.prepare --help`."""

from __future__ import annotations

import argparse
import hashlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from data.archive import download
from data.build import build, read_recipes
from data.cache import first_kind, open_cache
from data.dataset import cached_size, find_dataset
from data.decode import decode as decode_image
from data.decode import reason
from data.demo import make_demo
from data.derive import CHANNELS, derive
from data.folders import write_lists
from data.folds import make_folds
from data.identity import copies
from data.lists import ImageLists, read_lists
from utils import (
    ROOT,
    ArgumentParser,
    UserError,
    allowed_cores,
    cli,
    counted,
    note,
    printable,
    progress_bar,
    within,
)

URL = "https://cchsu.info/files/images.zip"


def check(lists: ImageLists, decode: bool, workers: int) -> None:
    """Print the number of images of each split and class. With `decode`, also decode every image.

    Raises:
        UserError: images cannot be decoded, or are in two splits; the message counts and names them.
    """
    print(printable(f"{lists.source}: {len(lists.class_names)} classes, lists of {lists.name!r}"))
    for key, split in lists.splits.items():
        counts = np.bincount(split.labels, minlength=len(lists.class_names))
        least, most = counts.argmin(), counts.argmax()
        print(
            f"  {key:5} {len(split.paths):6,} images; a class has {counts[least]:,} "
            f"({lists.class_names[least]}) to {counts[most]:,} ({lists.class_names[most]})"
        )
    if not decode:
        return
    paths = lists.paths
    channels, kind = len(lists.channels), first_kind(lists)

    def look(path: str) -> tuple[bool, str, bytes]:
        """Return whether the image is grey, why it cannot be decoded ("" if it can), and a checksum of its file."""
        try:
            data = lists.read(path)
            image = decode_image(data, 64, channels, kind, lists.has_bands)
            return bool((image == image[:, :, :1]).all()), "", hashlib.sha256(data).digest()
        except Exception as error:  # Pillow raises many types for damaged files; all are reported
            return False, f"{path} ({reason(error)})", b""

    with ThreadPoolExecutor(workers) as pool:  # threads, since Pillow decodes without the interpreter's lock
        results = list(progress_bar(pool.map(look, paths), total=len(paths), desc="decoding", unit=" images"))
    bad = [reason for _, reason, _ in results if reason]
    count = sum(same for same, _, _ in results)
    grey = "" if lists.has_bands else f", {count:,} greyscale (used as RGB)"
    print(f"  {len(paths) - len(bad):,} images decoded to {channels} channels of {kind}{grey}")
    if bad:
        raise UserError(
            f"{len(bad)} of {len(paths)} images cannot be decoded: {'; '.join(bad[:5])}. Unpack "
            f"or download the archive again, or remove them from the lists. "
            f"A training leaves them out if they are few (--max-failed)."
        )
    contents = dict(zip(paths, (content for _, _, content in results)))
    if twice := copies(lists, contents, within=True):
        note(
            f"warning: {counted(len(twice), 'image')} twice in one split under different names, each counted twice: "
            f"{'; '.join(twice[:5])}"
        )
    if same := copies(lists, contents):
        raise UserError(
            f"{len(same)} images are in two splits under different names: {'; '.join(same[:5])}. An "
            f"image in two splits spoils the test: remove one of each pair from the lists."
        )
    print("  no image is in two splits")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = ArgumentParser(prog="python -m data.prepare", description="Get, check and cache a data set.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    def command(name: str, help: str, example: str) -> ArgumentParser:
        return commands.add_parser(
            name,
            help=help,
            description=help[0].upper() + help[1:] + ".",
            epilog=f"example: python -m data.prepare {example}",
        )

    def add_source(sub: ArgumentParser) -> None:
        sub.add_argument(
            "source",
            metavar="SOURCE",
            help="folder or zip with lists and images; auto: the data set in the repository's data/",
        )

    def add_workers(sub: ArgumentParser) -> None:
        sub.add_argument(
            "--workers",
            type=within(1, 4096),
            default=len(allowed_cores()),
            metavar="N",
            help="number of cores that decode",
        )

    sub = command(
        "download",
        "fetch the course's archive (1.45 GB), or continue a download that was cut off",
        "download --out data",
    )
    sub.add_argument("--url", default=URL, help="address of the zip")
    sub.add_argument("--out", default=str(ROOT / "data"), metavar="FOLDER", help="folder for the zip")

    sub = command(
        "build",
        "make a set of the published results from its public originals, see data/recipes/README.md",
        "build mini-imagenet-50 --from downloads/mini-imagenet",
    )
    sub.add_argument("name", choices=tuple(read_recipes()), metavar="NAME", help="the set: %(choices)s")
    sub.add_argument(
        "--from", dest="source", required=True, metavar="SOURCE", help="folder or zip with the originals"
    )
    sub.add_argument(
        "--out", metavar="FILE", help="the zip to make (default: data/NAME.zip in the repository)"
    )
    add_workers(sub)

    sub = command("check", "check lists and images, and count them", "check data/images.zip --decode")
    add_source(sub)
    sub.add_argument(
        "--decode", action="store_true", help="decode every image as well, and look for equal images"
    )
    add_workers(sub)

    sub = command("demo", "draw the demo set: 8 classes, 1,280 images, a few seconds", "demo")
    sub.add_argument("--out", default=str(ROOT / "data" / "demo"), metavar="FOLDER", help="folder to write")

    sub = command(
        "lists",
        "write train.txt, val.txt and test.txt for images in one folder per class",
        "lists photos --val 0.1 --test 0.1",
    )
    sub.add_argument(
        "source",
        metavar="FOLDER",
        help="folder that holds CLASS/IMAGE, or train/CLASS/IMAGE, val/..., test/...",
    )
    for name in ("val", "test"):
        sub.add_argument(
            f"--{name}",
            type=within(0.0, 1.0, float),
            default=0.1,
            metavar="SHARE",
            help=f"share of each class's training images to use for {name}, if there is no folder {name}/",
        )
    sub.add_argument(
        "--seed", type=within(0, 2**32), default=0, metavar="N", help="seed of the random choice"
    )

    sub = command(
        "folds",
        "write lists for cross-validation of a small data set, one folder per fold",
        "folds data/small.zip --folds 5 --out data-folds",
    )
    add_source(sub)
    sub.add_argument("--folds", type=within(2, 1000), default=5, metavar="K", help="number of folds")
    sub.add_argument(
        "--out", required=True, metavar="FOLDER", help="folder for the folds and a copy of the images"
    )

    sub = command(
        "derive",
        "write an RGB data set with a fourth channel computed from R, G and B",
        "derive data/images.zip --channel sobel --out data-sobel",
    )
    add_source(sub)
    sub.add_argument(
        "--channel", required=True, choices=tuple(CHANNELS), help="the fourth channel, see data/derive.py"
    )
    sub.add_argument("--out", required=True, metavar="FOLDER", help="folder to write")

    sub = command(
        "cache",
        "decode a data set for one image size before training",
        "cache data/images.zip --image-size 128",
    )
    add_source(sub)
    sub.add_argument(
        "--image-size",
        "--size",
        dest="size",
        type=within(1, 4096),
        required=True,
        metavar="PX",
        help="the --image-size of the training; the cached images are a seventh larger, for crops",
    )
    sub.add_argument(
        "--out", default=str(ROOT / "data" / "cache"), metavar="FOLDER", help="folder of all caches"
    )
    sub.add_argument(
        "--max-failed",
        type=within(0.0, 1.0, float),
        default=0.01,
        metavar="SHARE",
        help="share of a split's images that may fail to decode; they are left out",
    )
    add_workers(sub)

    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)

    def lists() -> ImageLists:
        return read_lists(find_dataset(args.source))

    if args.command == "download":
        print(f"ready: {download(args.url, args.out)} (no need to unpack it)")
    elif args.command == "build":
        out = args.out or ROOT / "data" / f"{args.name}.zip"
        print(f"ready: {build(args.name, args.source, out, args.workers)}")
    elif args.command == "check":
        check(lists(), args.decode, args.workers)
    elif args.command == "lists":
        write_lists(args.source, args.val, args.test, args.seed)
        check(read_lists(args.source), False, 1)
    elif args.command == "folds":
        for folder in make_folds(lists(), args.folds, args.out):
            print(f"ready: {folder}")
    elif args.command == "derive":
        print(f"ready: {derive(lists(), args.channel, args.out)}")
    elif args.command == "demo":
        print(f"ready: {make_demo(args.out)}")
    else:
        cache = open_cache(lists(), cached_size(args.size), args.out, args.workers, args.max_failed)
        sizes = ", ".join(f"{name} {len(cache.split(name).labels):,}" for name in ("train", "val", "test"))
        print(f"ready: {cache.folder} ({sizes}); train mean {cache.mean.round(4)}, std {cache.std.round(4)}")


if __name__ == "__main__":
    cli(main)
