"""Save the networks' answers on public-domain photographs (report/photographs) to results/qualitative.json.

    python -m tools.qualitative --ours runs/.../model.pt --networks runs/.../model.pt runs/.../model.pt

--ours is a network from train_task1.py for any set of channels. The file gets the network's answers and kernels for
every channel set. --networks are networks from train_task2.py. The file gets their answers and Grad-CAM maps
(Selvaraju et al. 2017, arXiv 1610.02391) of the last feature map. A map shows which parts of a picture support an
answer. `python -m report.build` draws the figures from this file alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from channelset import find_stem
from data.batches import Batches
from data.channels import parse_subset
from data.dataset import cached_size
from data.decode import decode
from data.lists import RGB
from engine.prediction import grad_cam
from engine.records import SUBSETS, note_checksums
from models.branched import fuse
from models.task1 import channels_of, for_channels, load_channel_net
from models.task2 import load_classifier
from report.class_names import NAMES
from storage.files import check_writable, write_json
from utils import ROOT, ArgumentParser, UserError, cli, environment

PHOTOGRAPHS = ROOT / "report" / "photographs"
FILTERS = 12  # number of kernels in the figure


def as_evaluated(name: str, checkpoint: dict) -> Tensor:
    """Load the picture `name`; return it as (1, 3, s, s), prepared and normalised as in an evaluation.

    The picture is decoded as for the pixel cache, and `Batches` cuts out its centre.
    """
    dataset, size = checkpoint["dataset"], checkpoint["config"]["image_size"]
    image = np.array(decode((PHOTOGRAPHS / f"{name}.png").read_bytes(), cached_size(size)))
    batches = Batches(
        image[None],
        np.zeros(1, np.int64),
        size,
        dataset["mean"],
        dataset["std"],
        (0, 1, 2),
        torch.device("cpu"),
    )
    return next(batches.eval_batches(1))[0]


def answer(logits: Tensor, classes: list[str]) -> list:
    """Return a list [name of the likeliest class, its probability in percent] for logits (1, K)."""
    share, label = logits.softmax(1)[0].max(0)
    name = classes[int(label)]
    return [NAMES.get(name, name), round(100 * float(share), 1)]


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


def check_rgb(path: str, names: Sequence[str]) -> None:
    """Raise a UserError if the channels of the network in the file `path` are not red, green and blue."""
    if list(names) != list("RGB"):
        raise UserError(
            f"{path} has channels {', '.join(names)}, but the pictures are RGB: give a network for RGB"
        )


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
    model, checkpoint = load_channel_net(path)
    channels, dataset = channels_of(checkpoint["dataset"]), checkpoint["dataset"]
    check_rgb(path, channels.names)
    reason = find_stem(model).unfoldable or (
        checkpoint["config"]["sampler"] == "none" and "it was trained on only one set"
    )
    if reason:
        raise UserError(f"--ours {path}: {reason}; give a network that was trained with a sampler and folds")
    sets = {name: list(parse_subset(name, channels)) for name in SUBSETS}
    answers = {
        name: {
            one: answer(
                for_channels(model, ids).eval()(as_evaluated(name, checkpoint)[:, ids]),
                dataset["class_names"],
            )
            for one, ids in sets.items()
        }
        for name in names
    }
    kernels = {
        one: find_stem(model).kernel(ids)[:FILTERS].double().numpy().round(4).tolist()
        for one, ids in sets.items()
    }
    return {
        **describe(checkpoint),
        "image_size": checkpoint["config"]["image_size"],
        "answers": answers,
        "kernels": kernels,
        "statistics": {key: dataset[key] for key in ("mean", "std", "covariance")},
    }


def classifier(path: str, names: list[str]) -> dict:
    """Return a dict about a network of Task 2, with its answer and a Grad-CAM map for each picture.

    The map shows which parts of the picture support the answer.

    Raises:
        UserError: the network is not for RGB.
    """
    model, checkpoint = load_classifier(path)
    check_rgb(path, list(checkpoint["dataset"].get("data_channels") or RGB.names))
    net, dataset = fuse(model).eval(), checkpoint["dataset"]
    answers, maps = {}, {}
    for name in names:
        logits, rests_on = grad_cam(net, as_evaluated(name, checkpoint))
        answers[name] = answer(logits, dataset["class_names"])
        maps[name] = [[round(float(value), 3) for value in row] for row in rests_on]
    return {**describe(checkpoint), "answers": answers, "maps": maps}


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(prog="python -m tools.qualitative", description=__doc__)
    parser.add_argument("--ours", required=True, metavar="CHECKPOINT", help="model.pt of train_task1.py")
    parser.add_argument(
        "--networks", nargs="+", default=[], metavar="CHECKPOINT", help="model.pt files of train_task2.py"
    )
    parser.add_argument(
        "--out", default=str(ROOT / "results" / "qualitative.json"), help="file for the answers"
    )
    args = parser.parse_args(argv)
    check_writable(Path(args.out).parent)
    names = sorted(path.stem for path in PHOTOGRAPHS.glob("*.png"))
    content = {
        "pictures": names,
        "evaluated_with": environment(torch.device("cpu")),
        "ours": any_set(args.ours, names),
        "networks": [classifier(path, names) for path in args.networks],
    }
    write_json(args.out, content)
    note_checksums(args.out)
    for name in names:
        print(
            f"{name}: {content['ours']['answers'][name]}",
            *(f"{network['model']} {network['answers'][name]}" for network in content["networks"]),
            sep="\n  ",
        )
    print(f"wrote {args.out}")


if __name__ == "__main__":
    cli(main)
