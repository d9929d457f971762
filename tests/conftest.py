"""Fixtures that several test files share."""
import signal
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
torch.set_num_threads(1)   # the tests' tensors are tiny: threads would only wait for each other

import train_task1  # noqa: E402  (the path above leads to it)


@pytest.fixture
def tiny_dataset(tmp_path) -> Path:
    """A folder in the course's layout: 3 classes of 10 x 8 px pictures (4 train, 2 val, 2 test), one
    greyscale.
    """
    root, rng = tmp_path / "tiny", np.random.default_rng(0)
    lists = {"train": [], "val": [], "test": []}
    for label in range(3):
        wnid = f"n0000000{label}"
        (root / "images" / wnid).mkdir(parents=True)
        for number, split in enumerate(["train"] * 4 + ["val"] * 2 + ["test"] * 2):
            path = f"images/{wnid}/{wnid}_{number}.JPEG"
            image = Image.fromarray(rng.integers(0, 256, (8, 10, 3), np.uint8))
            (image.convert("L") if label == number == 0 else image).save(root / path, "JPEG", quality=95)
            lists[split].append(f"{path} {label}\n")
    for split, lines in lists.items():
        (root / f"{split}.txt").write_text("".join(lines))
    return root


@pytest.fixture
def zipped():
    """A function that zips a folder's content into a file."""
    def make(folder: Path, file: Path) -> Path:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(folder.rglob("*")):
                archive.write(path, path.relative_to(folder).as_posix())
        return file
    return make


# ---------------------------------------------------------------- trainings

@pytest.fixture
def tiny() -> list[str]:
    """Options of a training of three epochs of three steps on `tiny_dataset`."""
    return ["--arch", "resnet10", "--width", "0.1", "--image-size", "8", "--batch-size", "4", "--epochs", "3",
            "--eval-every", "2", "--augment", "light", "--device", "cpu", "--lr", "0.01"]


@pytest.fixture
def command(tiny_dataset, tmp_path, monkeypatch):
    """command(module, *options) runs a script's main() on the tiny data, in an empty folder with its own
    cache.
    """
    monkeypatch.chdir(tmp_path)
    def run(module, *options):
        data = ["--data", str(tiny_dataset), "--cache", "cache"]
        monkeypatch.setattr(sys, "argv", [module.__name__ + ".py", *data, *map(str, options)])
        module.main()
    return run


@pytest.fixture
def trained(command, tiny) -> Path:
    """A finished run of the module: its model.pt."""
    command(train_task1, *tiny, "--out", "run")
    return Path("run/model.pt")


@pytest.fixture
def interrupt_at():
    """interrupt_at(monkeypatch, call) raises a signal while a training draws the channel sets of its
    `call`-th batch.
    """
    def patch(monkeypatch, call: int, number=signal.SIGINT):
        draw, calls = train_task1.sample_mask, []
        def draw_and_interrupt(*args):
            calls.append(1)
            if len(calls) == call:
                signal.raise_signal(number)
            return draw(*args)
        monkeypatch.setattr(train_task1, "sample_mask", draw_and_interrupt)
    return patch


@pytest.fixture
def read_rows():
    """read_rows(path) reads a table of results: a dict a row, empty cells None."""
    def read(path) -> list[dict]:
        table = pd.read_csv(path).astype(object)
        return table.where(table.notna(), None).to_dict("records")
    return read
