"""Say in one word what many tests do: expect an error, spell options, write data sets, compare weights."""

import copy
import io
import json
from pathlib import Path

import numpy as np
import tifffile
import torch
from pytest import importorskip, raises
from torch import nn
from torch.nn.modules.conv import _ConvNd

from data import prepare as data_prepare
from storage.files import read_json  # noqa: F401  (the tests take it from here)
from utils import UserError

FEW = (
    "--split",
    "test",
    "--subsets",
    "RGB R",
    "--repeats",
    0,
)  # an evaluation of Task 1 of few sets takes little time


def user_error(message: str):
    """Expect an error that the user can mend. The message is a pattern."""
    return raises(UserError, match=message)


def value_error(message: str):
    """Expect an error of an argument in Python. The message is a pattern."""
    return raises(ValueError, match=message)


def exits(status: int):
    """Expect that a script ends with this exit status."""
    return raises(SystemExit, match=f"^{status}$")


def command_line(*options) -> list[str]:
    """Split what begins with --: "--epochs 1 --out run" has four words. Other values stay whole."""
    texts = [str(option) for option in options]
    return [word for text in texts for word in (text.split() if text.startswith("--") else [text])]


def assert_near(got: torch.Tensor, wanted: torch.Tensor, difference: float = 1e-5) -> None:
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=difference)


def unchanged(net: torch.nn.Module, before: dict) -> bool:
    """Tell whether a network has the values of an earlier state_dict."""
    return all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def count_macs(model: nn.Module, input_shape: tuple[int, ...]) -> int:
    """Count the MACs of convolutions and linear layers for one image with the hooks of thop, as a second opinion."""
    thop, hooks = importorskip("thop.profile"), importorskip("thop.vision.basic_hooks")
    skipped = {
        kind: hooks.zero_ops for kind in thop.register_hooks if not issubclass(kind, (_ConvNd, nn.Linear))
    }
    model = copy.deepcopy(model).cpu().eval()  # thop adds buffers
    return int(thop.profile(model, (torch.zeros(1, *input_shape),), skipped, verbose=False)[0])


def prepare(*options) -> None:
    """Run `python -m data.prepare`."""
    data_prepare.main(command_line(*options))


def read_jsonl(path) -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def weights(path) -> dict:
    return torch.load(path, weights_only=True)["state"]


def same_weights(one, two) -> bool:
    """Tell whether two checkpoints hold the same weights."""
    one, two = weights(one), weights(two)
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def write_set(root: Path, name: str, save, counts: tuple[int, ...] = (4, 2, 2)) -> None:
    """Write a data set of three classes with `counts` train, val and test images each.

    save(path, label, number) writes an image. `name` is a template of its path.
    """
    lists: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    splits = [split for split, count in zip(lists, counts) for _ in range(count)]
    for label in range(3):
        for number, split in enumerate(splits):
            path = name.format(label=label, number=number)
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            save(root / path, label, number)
            lists[split].append(f"{path} {label}\n")
    for split, lines in lists.items():
        (root / f"{split}.txt").write_text("".join(lines))


def as_npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def as_tiff(array: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, array, **options)
    return file.getvalue()
