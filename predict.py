"""Classify images with a trained network of either task.

    python predict.py runs/main/model.pt photo.jpg                  # the five most likely classes
    python predict.py runs/main/model.pt folder/ --channels RG      # from red and green only
    python predict.py runs/main/model.pt folder/ --csv answers.csv
    python predict.py runs/main/model.pt photo.jpg --picture answer.png

Images are prepared as in an evaluation: the middle of the picture, at the image size of the training. An image is a
picture, or a TIFF or .npy file. A TIFF or .npy file holds the channels of the training, or only those of --channels.
Any other picture in colour holds R, G, B.
--picture draws the image with each set of channels, the answer for each set, and the parts that the answer depends on.
"""

from __future__ import annotations

import csv
import os
from itertools import islice
from pathlib import Path

from config import DEVICES, choose_device
from engine.prediction import Predictor, find_images
from report.answer_picture import draw_answers
from storage.files import atomic_path, check_replaceable, check_writable
from utils import ArgumentParser, UserError, cli, note, printable, use_threads, within

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
        "--csv", metavar="FILE", help="also write a table with a row for each image and class"
    )
    parser.add_argument(
        "--picture", metavar="PATH", help="PNG to draw; for several images, a folder for one PNG each"
    )
    parser.add_argument("--device", default="auto", help=DEVICES)
    parser.add_argument(
        "--threads", type=within(0, 4096), default=0, help="CPU threads; 0: one for each idle core"
    )
    return parser


def main(argv: list[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    files, device = list(dict.fromkeys(find_images(args.images))), choose_device(args.device)
    if args.threads or device == "cpu":
        use_threads(args.threads)
    pictures = picture_paths(args.picture, files) if args.picture else {}
    check_outputs(args, files, pictures)
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
                note(str(error))
        if not images:
            continue
        for file, shares in zip(images, predictor.probabilities(list(images.values()), ids)):
            answers = predictor.named(shares, args.top)
            text = ", ".join(f"{name} {100 * share:.1f} %" for name, share in answers)
            print(printable(f"{file}: {text}"))
            rows += [(file, rank, name, f"{share:.6f}") for rank, (name, share) in enumerate(answers, 1)]
            if args.picture:
                draw_answers(predictor, file, ids, pictures[file])
    if args.csv:
        with (
            atomic_path(args.csv) as temporary,
            # a file name that is not Unicode is written byte by byte
            open(temporary, "w", newline="", encoding="utf-8", errors="surrogateescape") as out,
        ):
            csv.writer(out).writerows([("image", "rank", "class", "probability"), *rows])
        print(f"wrote {args.csv}")
    if args.picture and rows:
        print(f"wrote {args.picture}")
    if failed:
        raise UserError(f"{len(failed)} of {len(files)} images cannot be read; see the messages above")


def check_outputs(args, files: list[Path], pictures: dict[Path, Path]) -> None:
    """Check that all outputs can be written and that none replaces an image, the checkpoint or another output.

    Raises:
        UserError: an output cannot be written, or it would replace a file; the message names the paths.
    """
    taken = {path.resolve(): str(path) for path in (Path(args.checkpoint), *files)}
    outputs = [("--csv", Path(args.csv))] if args.csv else []
    for option, path in outputs + [(f"--picture of {file}", path) for file, path in pictures.items()]:
        if other := taken.get(path.resolve()):
            raise UserError(f"{option} {path} would replace {other}: choose another path, or rename an image")
        taken[path.resolve()] = f"the output of {option}"
        check_replaceable(path)
    for folder in {path.parent for _, path in outputs} | {path.parent for path in pictures.values()}:
        check_writable(folder)


def picture_paths(target: str, files: list[Path]) -> dict[Path, Path]:
    """Return a dict from a file to the path of its picture: `target` for one file, else a path in the folder `target`.

    A picture has the name of its file. Files of several folders get the names of these folders in front.

    Raises:
        UserError: `target` has the ending of another kind of file.
    """
    if len(files) == 1:
        if Path(target).suffix.lower() not in ("", ".png"):
            raise UserError(f"--picture {target}: the program draws a PNG; give a name that ends in .png")
        return {files[0]: Path(target)}
    common = os.path.commonpath([file.absolute().parent for file in files])
    names = {file: file.absolute().relative_to(common).with_suffix(".png").parts for file in files}
    return {file: Path(target, "-".join(parts)) for file, parts in names.items()}


if __name__ == "__main__":
    cli(main)
