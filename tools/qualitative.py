"""Save the networks' answers on public-domain photographs (report/photographs) to qualitative.json.

    python -m tools.qualitative --ours runs/.../model.pt --networks runs/.../model.pt runs/.../model.pt

--ours is a network from train_task1.py for any set of channels. The file gets the network's answers and kernels for
every channel set. --networks are networks from train_task2.py. The file gets their answers and Grad-CAM maps
(Selvaraju et al. 2017, arXiv 1610.02391) of the last feature map. A map shows which parts of a picture support an
answer. `python -m report.build` draws the figures from this file alone.
"""

from __future__ import annotations

from pathlib import Path

import torch

from channelset import find_stem
from engine.evaluation import results_folder
from engine.prediction import Predictor
from engine.records import SUBSETS, note_checksums
from models import task1, task2
from storage.checkpoint import load_checkpoint
from storage.files import check_writable, write_json
from utils import ROOT, ArgumentParser, UserError, cli, environment

PHOTOGRAPHS = ROOT / "report" / "photographs"
FILTERS = 12  # number of kernels in the figure


def load(path: str, kind: str) -> Predictor:
    """Load a network of the kind `kind` of checkpoints.

    Raises:
        UserError: `path` is not such a checkpoint, or the channels of the network are not red, green and blue.
    """
    load_checkpoint(path, kind)
    predictor = Predictor(path)
    names = predictor.channels.names
    if list(names) != list("RGB"):
        raise UserError(
            f"{path} has channels {', '.join(names)}, but the pictures are RGB: give a network for RGB"
        )
    return predictor


def answer(predictor: Predictor, name: str, channels: str | None = None) -> list:
    """Return [name of the likeliest class, its probability in percent] for the picture `name`."""
    ((label, share),) = predictor(PHOTOGRAPHS / f"{name}.png", channels, top=1)
    return [label, round(100 * share, 1)]


def describe(checkpoint: dict) -> dict:
    """Return a dict that describes the training of a network: its model, data, options and machine."""
    config = checkpoint["config"]
    return {
        "model": config["name"],
        **{key: config[key] for key in ("preset", "seed", "epochs", "width")},
        "dataset": checkpoint["dataset"]["name"],
        "dataset_digest": checkpoint["dataset"]["digest"][:12],
        "trained_with": {key: checkpoint["environment"][key] for key in ("commit", "hardware")},
    }


@torch.no_grad()
def any_set(path: str, names: list[str]) -> dict:
    """Return a dict with the answers, kernels and channel statistics of a network of Task 1.

    There is an answer for each picture and channel set, and there are kernels for each set.

    Args:
        path: path of a model.pt of train_task1.py.
        names: names of the pictures.

    Raises:
        UserError: the network is not for RGB, was trained on one set alone, or its kernel depends on the image.
    """
    predictor = load(path, task1.CHECKPOINT)
    stem, checkpoint = find_stem(predictor.model), predictor.checkpoint
    reason = stem.unfoldable or (
        checkpoint["config"]["sampler"] == "none" and "it was trained on only one set"
    )
    if reason:
        raise UserError(f"--ours {path}: {reason}; give a network that was trained with a sampler and folds")
    kernels = {
        one: stem.kernel(predictor.ids(one))[:FILTERS].double().numpy().round(4).tolist() for one in SUBSETS
    }
    return {
        **describe(checkpoint),
        "image_size": checkpoint["config"]["image_size"],
        "answers": {name: {one: answer(predictor, name, one) for one in SUBSETS} for name in names},
        "kernels": kernels,
        "statistics": {key: checkpoint["dataset"][key] for key in ("mean", "std", "covariance")},
    }


def classifier(path: str, names: list[str]) -> dict:
    """Return a dict about a network of Task 2, with its answer and a Grad-CAM map for each picture.

    The map shows which parts of the picture support the answer.

    Raises:
        UserError: the network is not for RGB.
    """
    predictor = load(path, task2.CHECKPOINT)
    ids, maps = predictor.ids(None), {}
    for name in names:
        rests_on = predictor.rests_on(predictor.pixels(PHOTOGRAPHS / f"{name}.png", ids), ids)
        maps[name] = [[round(float(value), 3) for value in row] for row in rests_on]
    answers = {name: answer(predictor, name) for name in names}
    return {**describe(predictor.checkpoint), "answers": answers, "maps": maps}


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(prog="python -m tools.qualitative", description=__doc__)
    parser.add_argument("--ours", required=True, metavar="CHECKPOINT", help="model.pt of train_task1.py")
    parser.add_argument(
        "--networks", nargs="+", default=[], metavar="CHECKPOINT", help="model.pt files of train_task2.py"
    )
    parser.add_argument(
        "--out",
        help="file for the answers (default: qualitative.json in the folder that eval_channels.py chooses)",
    )
    args = parser.parse_args(argv)
    dataset = load_checkpoint(args.ours, task1.CHECKPOINT)["dataset"]
    out = Path(args.out or results_folder("task1", dataset) / "qualitative.json")
    check_writable(out.parent)
    names = sorted(path.stem for path in PHOTOGRAPHS.glob("*.png"))
    content = {
        "pictures": names,
        "evaluated_with": environment(torch.device("cpu")),
        "ours": any_set(args.ours, names),
        "networks": [classifier(path, names) for path in args.networks],
    }
    write_json(out, content)
    note_checksums(out)
    for name in names:
        print(
            f"{name}: {content['ours']['answers'][name]}",
            *(f"{network['model']} {network['answers'][name]}" for network in content["networks"]),
            sep="\n  ",
        )
    print(f"wrote {out}")


if __name__ == "__main__":
    cli(main)
