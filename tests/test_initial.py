"""Start from a checkpoint: weights of channels and classes are matched by name, all others must have the same shape."""

from functools import partial
from pathlib import Path

import pytest
import torch
from helpers import read_json, user_error

import train_task1
import train_task2
from models.initial import initialise
from models.task1 import CHECKPOINT, load_channel_net
from storage.checkpoint import load_checkpoint, save_checkpoint


@pytest.fixture
def start(trained):
    """start(channels, classes, **options) starts a new network from the trained one: (network, trained, line)."""
    config = read_json(Path("run/config.json"))

    def make(channels, classes, **options):
        shaped = partial(train_task1.build_shaped, {**config, **options})
        model = shaped(len(channels), len(classes))
        line = initialise(model, shaped, trained, CHECKPOINT, channels, classes)
        return model, load_channel_net(trained)[0], line

    return make


CLASSES = ["n00000000", "n00000001", "n00000002"]


def test_channels_and_classes_go_by_name(start):
    channels, classes = ["B", "NIR", "R"], ["cat", CLASSES[2], "dog", CLASSES[0]]
    model, old, line = start(channels, classes)
    assert torch.equal(model.conv1.weight[:, 0], old.conv1.weight[:, 2])
    assert torch.equal(model.conv1.weight[:, 2], old.conv1.weight[:, 0])
    assert torch.equal(model.conv1.embedding[0], old.conv1.embedding[2])
    assert torch.equal(model.fc.weight[1], old.fc.weight[2]) and torch.equal(model.fc.bias[3], old.fc.bias[0])
    assert not any(torch.equal(model.fc.weight[0], row) for row in old.fc.weight)
    assert not any(torch.equal(model.conv1.weight[:, 1], old.conv1.weight[:, i]) for i in range(3))
    assert torch.equal(model.layer3[0].conv1.weight, old.layer3[0].conv1.weight)
    assert torch.equal(model.bn1.running_var, old.bn1.running_var)
    assert line.endswith(
        "channels B, R by name, new NIR; 2 of 4 classes are in it, the head is new for the others"
    )


def test_the_same_channels_and_classes_give_the_same_network(start):
    model, old, line = start(list("RGB"), CLASSES)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), old.parameters()))
    assert line.endswith("channels R, G, B by name")


def test_classes_without_names_are_others(start, trained):
    state = torch.load(trained, weights_only=True)
    state["dataset"]["class_names"] = ["0", "1", "2"]
    save_checkpoint(trained, state)
    model, old, line = start(list("RGB"), ["0", "1"])
    assert not torch.equal(model.fc.weight, old.fc.weight[:2]) and "0 of 2 classes" in line


def test_what_does_not_fit_is_named(start, train):
    train("--epochs 1 --fill by_size --out sized")
    build = partial(train_task1.build_shaped, read_json(Path("sized/config.json")))
    with user_error("conv1.weight has no separate values for each of the channels"):
        initialise(build(3, 3), build, "sized/model.pt", CHECKPOINT, list("BGR"), CLASSES)
    initialise(build(3, 3), build, "sized/model.pt", CHECKPOINT, list("RGB"), CLASSES)
    with user_error("another conv1.*--arch, --width"):
        start(list("RGB"), CLASSES, width=0.2)
    with user_error("its channels are R, G, B, but the data have X, Y"):
        start(["X", "Y"], CLASSES)


def test_both_scripts_start_from_a_checkpoint(train, command, tiny, trained, stdout):
    train("--epochs 1 --lr 1e-09 --ema-epochs 0 --out more --init-from", trained)
    assert "starts from run/model.pt: channels R, G, B by name" in stdout()
    first, more = (load_channel_net(path)[0] for path in (trained, "more/model.pt"))
    assert torch.allclose(first.fc.weight, more.fc.weight, atol=1e-5)
    assert load_checkpoint("more/model.pt", CHECKPOINT)["config"]["init_from"] == str(trained)
    command(train_task2, *tiny, "--epochs 1 --out two")
    state = torch.load("two/model.pt", weights_only=True)
    state["dataset"]["class_names"] = ["a", "b", "c", "d"]  # as of other data
    state["state"]["fc.weight"], state["state"]["fc.bias"] = torch.zeros(4, 51), torch.zeros(4)
    save_checkpoint("other.pt", state)
    command(train_task2, *tiny, "--epochs 1 --out two-more --init-from other.pt")
    assert "0 of 3 classes are in it" in stdout()
    with user_error("is a 'task2-model' checkpoint"):
        train("--out third --init-from two/model.pt")


def test_more_epochs_are_refused_with_the_way_to_train_them(train, trained):
    with user_error(
        r"it was started with --epochs 3, not with --epochs 5; .*With --init-from, another run goes on from the"
    ):
        train("--epochs 5 --out run --resume")
