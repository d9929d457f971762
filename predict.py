"""Classify images with a trained network of either task.

    python predict.py runs/main/model.pt photo.jpg                  # the five most likely classes
    python predict.py runs/main/model.pt folder/ --channels RG      # from red and green only
    python predict.py runs/main/model.pt folder/ --csv answers.csv
    python predict.py runs/main/model.pt photo.jpg --picture answer.png

Images are prepared as in an evaluation: the middle of the picture, at the image size of the training. An image is a
picture, or a TIFF or .npy file. Such a file holds the channels of the training, or only those of --channels.
--picture draws the image with each set of channels, the answer for it, and where the answer comes from.
"""

from __future__ import annotations

import csv
import sys
from itertools import islice
from pathlib import Path

from config import DEVICES, choose_device
from engine.prediction import Predictor, find_images
from report.answer_picture import draw_answers
from utils import ArgumentParser, UserError, atomic_path, check_writable, cli, use_threads, within

TOGETHER = 64  # images in memory at the same time


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", help="model.pt of a run of train_task1.py or train_task2.py")
    parser.add_argument("images", nargs="+", help="image files, or folders with images")
    parser.add_argument(
        "--channels", help='channels to use, such as RG or "B04,B03" (default: all channels of the network)'
    )
    parser.add_argument(
        "--top", type=within(1, 1000), default=5, help="number of classes to print for each image"
    )
    parser.add_argument(
        "--csv", metavar="FILE", help="also write a table with a line for each image and class"
    )
    parser.add_argument(
        "--picture", metavar="PATH", help="PNG to draw; for several images, a folder for one PNG each"
    )
    parser.add_argument("--device", default="auto", help=DEVICES)
    parser.add_argument(
        "--threads", type=within(0, 4096), default=0, help="CPU threads; 0: one per idle core"
    )
    return parser


def main(argv: list[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    files, device = list(find_images(args.images)), choose_device(args.device)
    if args.threads or device == "cpu":
        use_threads(args.threads)
    for path in filter(None, (args.csv, args.picture)):
        check_writable(Path(path).parent)
    predictor = Predictor(args.checkpoint, device)
    ids = predictor.ids(args.channels)
    rows, failed, left = [], [], iter(files)
    while some := list(islice(left, TOGETHER)):
        images = {}
        for file in some:
            try:
                images[file] = predictor.pixels(file, ids)
            except UserError as error:
                failed.append(error)
                print(error, file=sys.stderr)
        if not images:
            continue
        for file, shares in zip(images, predictor.probabilities(list(images.values()), ids)):
            answers = predictor.named(shares, args.top)
            print(f"{file}: " + ", ".join(f"{name} {100 * share:.1f} %" for name, share in answers))
            rows += [(file, rank, name, f"{share:.6f}") for rank, (name, share) in enumerate(answers, 1)]
            if args.picture:
                draw_answers(predictor, file, ids, picture_path(args.picture, file, files))
    if args.csv:
        with atomic_path(args.csv) as temporary, open(temporary, "w", newline="", encoding="utf-8") as out:
            csv.writer(out).writerows([("image", "rank", "class", "probability"), *rows])
        print(f"wrote {args.csv}")
    if failed:
        raise UserError(f"{len(failed)} of {len(files)} images cannot be read; see the messages above")


def picture_path(target: str, file: Path, files: list[Path]) -> Path:
    """Return the path of the picture of `file`: `target`, or for several files a path in the folder `target`."""
    if len(files) == 1:
        return Path(target)
    same = sum(other.stem == file.stem for other in files) > 1
    name = "-".join(file.with_suffix("").parts[-2:]) + file.suffix.replace(".", "-") if same else file.stem
    return Path(target) / f"{name}.png"


if __name__ == "__main__":
    cli(main)
