"""Checkpoints know their channels and their rule; an adapted network in a file."""

import copy

import torch
from helpers import value_error
from pytest import approx, importorskip, mark, raises, skip
from small_networks import COVARIANCE, Around, X, at_stem_and_input, one_conv
from torch import nn
from torch.testing import assert_close

import channelset
from channelset import FILLS, adapt_first_conv, find_place, find_stem, load_adapted, save_adapted, sensor


def make(fill: str = "mean", channels=3, **options) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    return adapt_first_conv(net, fill, channels=channels, **options).eval()


@mark.parametrize(
    "other, message",
    [
        (lambda: make(channels="BGR"), "checkpoint has the channels R, G, B, not B, G, R"),
        (lambda: make(channels={"R": 650.0, "G": 560.0, "B": 490.0}), "channel R at 665 nm, not 650 nm"),
        (lambda: make("zero", "RGB"), "checkpoint has fill rule 'mean', the network has 'zero'"),
    ],
)
@mark.parametrize("strict", [True, False])
def test_a_checkpoint_of_other_channels_is_refused(other, message, strict):
    state = make(channels={"R": 665.0, "G": 560.0, "B": 490.0}).state_dict()
    net = other()
    before = find_stem(net).weight.clone()
    with raises(RuntimeError, match=message):
        net.load_state_dict(state, strict=strict)
    assert torch.equal(find_stem(net).weight, before)
    with value_error(message):  # as Hugging Face loads it
        find_stem(net).set_extra_state(state["0._extra_state"])


def test_a_network_without_names_takes_those_of_the_checkpoint():
    statistics = channelset.ChannelStatistics(torch.rand(3), torch.rand(3) + 1, COVARIANCE)
    net = make(channels=3, where="stem")
    net.load_state_dict(make(channels="RGB", statistics=statistics).state_dict())
    assert find_stem(net).channels.names == ("R", "G", "B")
    assert find_stem(net).normalisation["std"] == approx(statistics.std.tolist())
    make(channels="RGB").load_state_dict(make(channels=3).state_dict())


def test_older_checkpoints_still_load(tmp_path):
    net = make("regression", "RGB", covariance=COVARIANCE)
    state = net.state_dict()
    del state["0._extra_state"]
    other = make("regression", "RGB", covariance=torch.eye(3))
    assert not any(other.load_state_dict(state))
    assert torch.equal(other[0].fill.covariance, net[0].fill.covariance)
    state = {
        name: value
        for name, value in make("mean", embedding=False).state_dict().items()
        if "_extra" not in name
    }
    fresh = make("mean")
    nn.init.normal_(fresh[0].embedding)
    fresh.load_state_dict(state)
    assert not fresh[0].embedding.any()
    torch.save(net.state_dict(), tmp_path / "state.pt")
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))


def test_averages_and_functional_calls_take_the_state_dict():
    net, x = make("regression", "RGB", covariance=COVARIANCE), X
    average = torch.optim.swa_utils.AveragedModel(net, use_buffers=True)
    average.update_parameters(net)
    assert_close(average(x), net(x))
    copied = copy.deepcopy(net)
    for mine, theirs in zip(copied.state_dict().values(), net.state_dict().values()):
        mine.copy_(0.999 * mine + 0.001 * theirs)  # as timm's ModelEmaV2
    find_stem(copied).set_extra_state(copied.state_dict()["0._extra_state"])
    assert_close(torch.func.functional_call(net, dict(net.named_parameters()), (x,)), net(x))
    assert_close(torch.func.functional_call(net, net.state_dict(), (x,)), net(x))


@mark.parametrize("ending", ["pt", "safetensors"])
@at_stem_and_input
@mark.parametrize("fill", FILLS)
def test_an_adapted_network_comes_back_from_its_file(fill, where, ending, tmp_path):
    if ending == "safetensors":
        importorskip("safetensors")
    statistics = {"mean": torch.rand(4), "std": torch.rand(4) + 1, "covariance": torch.rand(4, 9).cov()}
    options = {"channels": sensor("naip"), "statistics": statistics}
    options |= {"init": "repeat"} if where == "stem" else {"where": "input"}
    options |= {"normalised": False} if fill in ("regression", "mean") else {}
    if where == "input" and fill in ("by_size", "luma_chroma"):
        skip("needs kernels of its own")
    torch.manual_seed(0)

    def plain(channels=3 if where == "stem" else 4):
        return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4))

    net = adapt_first_conv(plain(), fill, **options)
    for value in net.parameters():
        nn.init.normal_(value)
    net.eval()
    file, x = tmp_path / f"net.{ending}", torch.randn(2, 4, 8, 8)
    save_adapted(net, file)
    loaded = load_adapted(plain(), file, sample="hcs").eval()
    mask = torch.tensor([[True, False, True, True], [False, True, False, False]])
    with torch.no_grad():
        for how in ({}, {"mask": mask}):
            assert_close(loaded(x, **how), net(x, **how), rtol=0, atol=0)
    place = find_place(loaded)
    assert place.channels.as_dict() == sensor("naip").as_dict() and place.sampler.how == "hcs"
    assert place.normalisation == find_place(net).normalisation
    place.fill.reset_parameters()  # goes back to the file's statistics, not to others
    for name, value in net.state_dict().items():
        if "covariance" in name or "centre" in name:
            assert torch.equal(value, loaded.state_dict()[name])


def twice(net):
    return nn.DataParallel(torch.compile(net))


@at_stem_and_input
@mark.parametrize("wrap", [torch.compile, nn.DataParallel, torch.optim.swa_utils.AveragedModel, twice])
def test_a_file_of_a_wrapped_network_loads_into_the_plain_network(wrap, where, tmp_path):
    net = adapt_first_conv(one_conv(), "mean", where=where)
    save_adapted(wrap(net), tmp_path / "net.pt")
    loaded = load_adapted(one_conv(), tmp_path / "net.pt")
    assert_close(loaded(X[:, :2], channels=[2, 0]), net(X[:, :2], channels=[2, 0]))


@at_stem_and_input
def test_a_file_of_a_network_around_the_adapted_network(where, tmp_path):
    channels = {"0": 665.0, "1": 560.0, "2": 490.0}
    net, x = Around(adapt_first_conv(one_conv(), "mean", where=where, channels=channels)), X[:, :1]
    save_adapted(net, tmp_path / "net.pt")
    loaded = load_adapted(Around(one_conv()), tmp_path / "net.pt")
    assert torch.equal(loaded(x, channels=[560.0]), net(x, channels=[1]))  # wavelengths without names
    with value_error("does not fit this network|no module 'net.0'"):
        load_adapted(one_conv(), tmp_path / "net.pt")


def test_what_is_no_such_file_is_one_clear_error(tmp_path):
    (tmp_path / "broken.pt").write_bytes(b"PK no zip")
    (tmp_path / "text").write_text("hello")
    torch.save({"weights": torch.ones(1)}, tmp_path / "other.pt")
    for name, message in (
        ("none.pt", "no such file"),
        ("broken.pt", "not written by save_adapted"),
        ("text", "text is damaged, or its format is safetensors|not written by save_adapted"),
        ("other.pt", "not written by save_adapted"),
    ):
        with value_error(message):
            load_adapted(one_conv(), tmp_path / name)
    save_adapted(make(), tmp_path / "net.pt")
    with value_error("does not fit this network"):
        load_adapted(nn.Sequential(nn.Conv2d(3, 5, 3)), tmp_path / "net.pt")
    with value_error("0 parts"):
        save_adapted(nn.Linear(1, 1), tmp_path / "plain.pt")
