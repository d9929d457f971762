"""Checkpoints know their channels and their rule; an adapted network in a file."""

import copy

import torch
from helpers import value_error
from pytest import approx, importorskip, mark, raises, skip
from small_networks import COVARIANCE, Around, X, at_stem_and_input, one_conv
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.utils import prune
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
    statistics = channelset.ChannelStatistics(torch.rand(3), torch.ones(3), COVARIANCE)
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


def copies_of(state: dict, convert) -> dict:
    return {name: convert(value) for name, value in state.items()}


@mark.parametrize(
    "convert", [torch.Tensor.half, torch.Tensor.double, lambda v: torch.stack([v.float(), v.float()]).mean(0)]
)
def test_an_average_or_a_copy_of_another_type_loads(convert):
    net = make("regression", "RGB", covariance=COVARIANCE, sample="hcs", seed=3)
    find_place(net).sampler.count = 12
    other = make("regression", covariance=COVARIANCE, sample="hcs")
    other.load_state_dict(copies_of(net.state_dict(), convert))
    place = find_place(other)
    assert place.channels.names == ("R", "G", "B") and (place.sampler.seed, place.sampler.count) == (3, 12)
    assert torch.equal(place.fill.covariance, net[0].fill.covariance)


def test_the_average_of_networks_that_drew_other_sets_loads():
    nets = [make("mean", "RGB", sample="hcs") for _ in range(2)]
    find_place(nets[1]).sampler.count = 12
    states = [net.state_dict() for net in nets]
    average = {name: (value + states[1][name]) / 2 for name, value in states[0].items()}
    make("mean", "RGB", sample="hcs").load_state_dict(average)
    # other rules have names of other lengths
    average["0._extra_state"] = average["0._extra_state"] / 2
    with raises(RuntimeError, match="damaged.*remove the key that ends in _extra_state"):
        make("mean", "RGB").load_state_dict(average)
    del average["0._extra_state"]
    make("mean", "RGB").load_state_dict(average)


def test_states_have_one_length_with_and_without_sets():
    # torch.distributed.checkpoint loads only into a tensor of the saved shape
    states = [make(), make(sample="hcs"), make(channels=sensor("sentinel-2"), init="repeat")]
    assert {net.state_dict()["0._extra_state"].shape for net in states} == {(1024,)}


# thirteen bands that are nearly copies of two: rounded to 8 bits, their covariance predicts nonsense
RANDOM = torch.Generator().manual_seed(0)
SMOOTH = torch.randn(13, 2, generator=RANDOM) @ torch.randn(2, 13, generator=RANDOM)
SMOOTH = (SMOOTH @ SMOOTH.T + 0.001 * torch.eye(13)).double()
FEW = torch.arange(13)[None] % 3 == 0


def bands(covariance: torch.Tensor = SMOOTH, **options) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(13, 4, 3))
    return adapt_first_conv(net, covariance=covariance, mean=torch.arange(13.0), **options).eval()


@at_stem_and_input
@mark.parametrize("assign", [False, True])
def test_statistics_of_a_rounded_checkpoint_are_exact_or_an_error(assign, where):
    net = bands(where=where)
    state = copies_of(net.state_dict(), torch.Tensor.bfloat16)
    new = bands(where=where)
    new.load_state_dict(state, assign=assign)
    for name, value in new.float().named_buffers():
        assert torch.equal(value, net.get_buffer(name))
    with raises(
        RuntimeError, match="rounded to torch.bfloat16.*adapt it with the statistics of the training"
    ):
        bands(torch.eye(13), where=where).load_state_dict(state, assign=assign)


@at_stem_and_input
def test_statistics_whose_buffers_were_rounded_are_exact_or_an_error(where):
    net = bands(2 * SMOOTH, where=where)
    net.load_state_dict(bands(where=where).state_dict())  # the statistics to return to
    x = torch.randn(1, 13, 8, 8, generator=RANDOM)
    calls = [(x, {"mask": FEW}), (x[:, ::3], {"channels": list(range(0, 13, 3))})]
    expected = [net(images, **options) for images, options in calls]

    def cast() -> None:  # as FSDP with `buffer_dtype`, and from_pretrained with `dtype`
        for buffer in net.buffers():
            buffer.data = buffer.data.bfloat16()

    for (images, options), output in zip(calls, expected):
        cast()
        assert torch.equal(net(images, **options), output)
    find_place(net).fill.exact["covariance"] = torch.eye(13)
    for images, options in calls:
        cast()
        with value_error("rounded to torch.bfloat16"):
            net(images, **options)


@mark.parametrize("ending", ["pt", "safetensors"])
@at_stem_and_input
@mark.parametrize("fill", FILLS)
def test_an_adapted_network_comes_back_from_its_file(fill, where, ending, tmp_path):
    if ending == "safetensors":
        importorskip("safetensors")
    covariance = torch.rand(4, 9).cov()
    statistics = {"mean": torch.rand(4), "std": covariance.diagonal().sqrt(), "covariance": covariance}
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
@mark.parametrize(
    "wrap", [lambda net: torch.compile(net, backend="eager"), nn.DataParallel, checkpoint_wrapper]
)
def test_a_file_of_a_network_with_wrapped_parts_loads_into_the_plain_network(wrap, where, tmp_path):
    net = Around(adapt_first_conv(one_conv(), "mean", where=where))
    expected = net(X[:, :2], channels=[2, 0])
    net.net = wrap(net.net)
    save_adapted(net, tmp_path / "net.pt")
    loaded = load_adapted(Around(one_conv()), tmp_path / "net.pt")
    assert_close(loaded(X[:, :2], channels=[2, 0]), expected)


@mark.parametrize(
    "change",
    [
        lambda net: nn.utils.parametrizations.weight_norm(net[0]),
        lambda net: prune.l1_unstructured(net[0], "weight", 0.5),
        lambda net: prune.l1_unstructured(net[0], "embedding", 0.5),
    ],
)
def test_a_stem_whose_weights_are_computed_is_not_saved_or_adapted_again(change, tmp_path):
    net = make()
    change(net)
    with value_error("make pruning permanent and remove parametrizations"):
        save_adapted(net, tmp_path / "net.pt")
    assert not (tmp_path / "net.pt").exists()
    with value_error("would be lost: remove them first"):
        adapt_first_conv(net, "zero")


def test_a_sharded_network_is_not_saved(tmp_path):
    class Shard(torch.Tensor):
        pass

    net = make()
    net[1].running_mean = torch.zeros(4).as_subclass(Shard)
    with value_error("1.running_mean is a Shard, not a plain tensor. If the weights are sharded"):
        save_adapted(net, tmp_path / "net.pt")


@mark.parametrize("options, expected", [({"sample": "hcs"}, (3, 5)), ({"sample": "hcs", "seed": 7}, (7, 0))])
def test_the_seed_of_a_loaded_network_is_that_of_the_call(options, expected, tmp_path):
    net = make(sample="hcs", seed=3)
    find_place(net).sampler.count = 5
    save_adapted(net, tmp_path / "net.pt")
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    sampler = find_place(load_adapted(plain, tmp_path / "net.pt", **options)).sampler
    assert (sampler.seed, sampler.count) == expected


@mark.parametrize("strict", [True, False])
@at_stem_and_input
def test_a_checkpoint_for_images_of_another_mean_is_refused(where, strict):
    options = {"covariance": COVARIANCE, "where": where}
    centred, raw = make("regression", **options), make("regression", mean=[1.0, 2.0, 3.0], **options)
    with raises(RuntimeError, match="mean was not subtracted: adapt with the normalised="):
        centred.load_state_dict(raw.state_dict(), strict=strict)
    with raises(RuntimeError, match="mean was subtracted: adapt with the normalised="):
        raw.load_state_dict(centred.state_dict(), strict=strict)


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
