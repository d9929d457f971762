"""Probes and late fusion: what the network is told, given and made of."""

import torch
from helpers import FEW, assert_near, user_error
from pytest import fixture, mark, raises
from small_networks import STATISTICS
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

import eval_channels
from channelset import find_stem
from models.probes import PROBES, average_of_seen, probe_network
from models.task1 import LateFusion, build_channel_net, for_channels
from storage.checkpoint import load_checkpoint, save_checkpoint


class TrainImages:
    """Stands in for Batches: two batches of images far from what BatchNorm was initialised for."""

    def eval_batches(self, size):
        random = torch.Generator().manual_seed(1)
        for _ in range(2):
            yield 5 + torch.randn(16, 3, 40, 40, generator=random), None


@fixture
def net():
    torch.manual_seed(0)
    net = build_channel_net("resnet10", 3, 5, "regression", width=0.125, **STATISTICS).eval()
    nn.init.normal_(find_stem(net).embedding)
    return net


def probed(net, probe, ids, seen=(0, 1, 2)):
    network, columns = probe_network(probe, net, ids, TrainImages(), list(seen), STATISTICS, side=40)
    return network.eval(), columns


X = torch.randn(4, 3, 40, 40, generator=torch.Generator().manual_seed(0))


def test_no_probe_is_the_network_of_the_set(net):
    network, columns = probed(net, None, (0, 2))
    assert_near(network(X[:, columns]), net(X[:, [0, 2]], channels=[0, 2]), 1e-4)


def test_the_network_of_a_set_shares_all_layers_but_the_stem(net):
    plain = for_channels(net, (0, 2))
    assert plain.layer1 is net.layer1 and type(plain.conv1) is nn.Conv2d
    with raises(TypeError, match="channels"):
        plain(X[:, :2], channels=[0, 2])
    assert net(X[:, :2], channels=[0, 2]).isfinite().all()  # it still takes sets


def test_wrong_ids_tell_the_next_channels(net):
    network, columns = probed(net, "wrong-ids", (0, 2))
    assert columns == [0, 2]
    assert_near(network(X[:, columns]), net(X[:, [0, 2]], channels=[1, 0]), 1e-4)


def test_duplicates_fill_all_channels_with_copies(net):
    for ids, expected in (
        ((1, 2), [1, 1, 2]),
        ((0, 2), [0, 2, 2]),
        ((1,), [1, 1, 1]),
        ((0, 1, 2), [0, 1, 2]),
    ):
        network, columns = probed(net, "duplicates", ids)
        assert columns == expected  # a present channel stays in its place
        assert_near(network(X[:, columns]), net(X[:, expected]), 1e-4)


def test_grey_images_show_the_luma_in_every_channel(net):
    network, columns = probed(net, "grey-images", (0, 2))
    mean, std = STATISTICS["mean"][:, None, None], STATISTICS["std"][:, None, None]
    luma = ((X * std + mean) * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    expected = net(((luma - mean) / std)[:, [0, 2]], channels=[0, 2])
    assert_near(network(X[:, columns]), expected, 1e-4)


def test_recalibrated_statistics_are_of_the_training_images_and_leave_the_model_alone(net):
    before = net.bn1.running_mean.clone()
    network, columns = probed(net, "recalibrated-bn", (1,))
    features = torch.cat([find_stem(net)(x[:, [1]], [1]) for x, _ in TrainImages().eval_batches(16)])
    assert_near(network.bn1.running_mean, features.mean((0, 2, 3)), 1e-4)
    assert torch.equal(net.bn1.running_mean, before)


@mark.parametrize("fill", ["regression", "luma_chroma"])
def test_unseen_channel_takes_the_average_of_the_seen_slices(fill):
    net = build_channel_net("resnet10", 3, 5, fill, width=0.125, **STATISTICS)
    nn.init.normal_(find_stem(net).embedding)
    changed, first = find_stem(average_of_seen(net, [0, 1])), int(fill == "luma_chroma")
    assert_close(changed.weight[:, first + 2], find_stem(net).weight[:, first : first + 2].mean(1))
    assert_close(changed.embedding[2], find_stem(net).embedding[:2].mean(0))
    assert torch.equal(changed.weight[:, : first + 2], find_stem(net).weight[:, : first + 2])
    with user_error("trained with --train-channels"):
        average_of_seen(net, [0, 1, 2])


def test_averaging_leaves_the_sets_of_training_alone(net):
    for ids in ((0,), (1,), (0, 1)):
        network, columns = probed(net, "average-of-seen", ids, seen=(0, 1))
        assert_near(network(X[:, columns]), net(X[:, list(ids)], channels=ids), 1e-4)
    network, columns = probed(net, "average-of-seen", (2,), seen=(0, 1))
    assert not torch.allclose(network(X[:, columns]), net(X[:, [2]], channels=[2]), rtol=1e-2, atol=1e-2)


@mark.parametrize("size", [29, 40, 51])
def test_training_size_mirrors_or_cuts_the_image(net, size):
    network, columns = probed(net, "training-size", (0, 2))
    whole = torch.nn.functional.pad(X, (5, 6, 5, 6), mode="reflect")  # 51 px
    given = {29: X[..., 5:34, 5:34], 40: X, 51: whole}[size]
    seen = torch.nn.functional.pad(given, (5, 6, 5, 6), mode="reflect") if size == 29 else X
    expected = net(seen[:, columns], channels=[0, 2])
    assert_near(network(given[:, columns]), expected, 1e-4)


def test_probes_that_say_nothing_are_refused():
    single = build_channel_net("resnet10", 1, 5, "zero", width=0.125)
    for probe in ("wrong-ids", "duplicates"):
        with user_error("a network of one channel"):
            probed(single, probe, (0,))
    with user_error("late fusion has no such probe"):
        probed(LateFusion([for_channels(single)]), "recalibrated-bn", (0,))


def test_late_fusion_averages_the_probabilities_of_the_present_channels():
    nets = [nn.Sequential(nn.Conv2d(1, 3, 40), nn.Flatten()) for _ in range(3)]
    expected = (nets[0](X[:, :1]).softmax(1) + nets[2](X[:, 2:]).softmax(1)) / 2
    logits = LateFusion(nets).for_channels([0, 2])(X[:, [0, 2]])
    assert_close(logits.softmax(1), expected)
    labels = torch.arange(len(X)) % expected.shape[1]  # the loss of an evaluation is that of the average
    assert_close(F.cross_entropy(logits, labels), F.nll_loss(expected.log(), labels))


def test_evaluation_of_probes_sizes_and_fusion(train, trained, command, read_rows, monkeypatch):
    for channel in "RGB":
        train("--epochs 1 --channels", channel, "--out", channel)
    options = ("--results results", *FEW)
    command(eval_channels, "B/model.pt", "R/model.pt", "G/model.pt", *options)
    sizes = {"training-size": 7}
    for probe in PROBES[:-1]:
        size = ("--image-size", sizes[probe]) if probe in sizes else ()
        command(eval_channels, "run/model.pt", "--probe", probe, *size, *options)
    command(eval_channels, "run/model.pt", "--image-size 7", *options)
    rows = read_rows("results/task1/channels.csv")
    assert {(row["model"], row["test_probe"], row["test_image_size"]): row["section"] for row in rows} == {
        ("late-fusion", None, None): "baseline",
        ("channelset", None, 7): "ablation",
        **{("channelset", probe, sizes.get(probe)): "ablation" for probe in PROBES[:-1]},
    }
    assert all(row["latency_ms"] is None and row["image_size"] == 8 for row in rows)
    fusion = {row["subset"]: row for row in rows if row["model"] == "late-fusion"}
    assert fusion["RGB"]["macs"] == 3 * fusion["R"]["macs"] and len(fusion) == 2
    longer = load_checkpoint("B/model.pt", "task1-model")
    longer["config"]["epochs"] = 2
    save_checkpoint("B/longer.pt", longer)
    for first in ([], ["B/longer.pt"]):  # a specialist is missing, or was trained in another way
        with user_error("late fusion takes 3 checkpoints"):
            command(eval_channels, *first, "R/model.pt", "G/model.pt", *options)
    sides = []  # of the training, and not of the test
    monkeypatch.setattr(eval_channels, "probe_network", lambda *a: sides.append(a[-1]) or probe_network(*a))
    command(eval_channels, "run/model.pt", "--probe training-size --image-size 6", *options)
    assert set(sides) == {8}
    with user_error("add --image-size with another size"):
        command(eval_channels, "run/model.pt", "--probe training-size", *options)
    with user_error("trained with --train-channels"):
        command(eval_channels, "run/model.pt", "--probe average-of-seen", *options)
