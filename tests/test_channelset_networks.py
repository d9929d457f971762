"""Sets of channels under other people's training code: networks of plain torch stand for theirs."""

import contextlib
import copy
import pickle
import sys
import threading
import warnings
from types import SimpleNamespace

import pytest
import torch
from helpers import assert_near, value_error
from pytest import mark, raises, warns
from small_networks import (
    COVARIANCE,
    HALF,
    MASK,
    OneConv,
    Patches,
    Residual,
    X,
    adapted,
    at_stem_and_input,
    fuse_data,
    fuse_in_place,
    fuse_of_torch,
    small_net,
    statistics_of,
)
from torch import nn
from torch.testing import assert_close

import channelset
from channelset import (
    FILLS,
    ChannelSetConv2d,
    adapt_first_conv,
    find_stem,
    fold_channels,
    present,
    sample_channels,
)

# ---------------------------------------------------------------- the meta device


@mark.parametrize("fill", FILLS)
def test_a_network_made_on_the_meta_device_keeps_what_its_rule_needs(fill):
    exact = adapt_first_conv(small_net(), fill, **statistics_of(fill))
    with torch.device("meta"):
        net = adapt_first_conv(small_net(), fill, **statistics_of(fill))
    assert all(value.is_meta for name, value in net.state_dict().items() if "_extra" not in name)
    net.to_empty(device="cpu")
    x = X
    for value in net[0].parameters():  # memory as it may be found
        if value is not net[0].embedding:
            nn.init.constant_(value, torch.nan)
    assert torch.equal(net[0].embedding, torch.zeros(3, 6))
    net.load_state_dict(
        {k: v for k, v in exact.state_dict().items() if "fill." not in k or "correction" in k}, strict=False
    )
    net.eval()
    for how in ({}, {"mask": MASK}):
        assert_close(net(x, **how), exact(x, **how), rtol=0, atol=0)


def test_a_checkpoint_assigned_to_the_meta_network_is_the_network():
    exact = adapted(small_net())
    with torch.device("meta"):
        net = adapt_first_conv(small_net(), covariance=torch.eye(3, device="cpu"))
    net.load_state_dict(exact.state_dict(), assign=True)
    x = X
    assert_close(net.eval()(x, mask=MASK), exact(x, mask=MASK), rtol=0, atol=0)


def test_reset_parameters_is_the_start_after_memory_was_taken():
    net = adapted(small_net()).to_empty(device="cpu")
    for module in net.modules():  # as FSDP and others do
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    stem = find_stem(net)
    assert torch.equal(stem.embedding, torch.zeros(3, 6)) and stem.weight.isfinite().all()
    assert_close(stem.fill.covariance, COVARIANCE + 1e-6 * torch.eye(3))


def test_what_from_pretrained_did_not_find_starts_as_it_should():
    """Hugging Face marks the tensors it loaded, then the module; the rest is memory as it was."""
    stem = find_stem(adapted(small_net()))
    stem.embedding = nn.Parameter(torch.full((3, 6), torch.nan))
    stem.weight._is_hf_initialized = True
    stem.fill.covariance = torch.full((3, 3), torch.nan)
    before = stem.weight.clone()
    for module in (stem.fill, stem):
        module._is_hf_initialized = True
    assert torch.equal(stem.weight, before) and torch.equal(stem.embedding, torch.zeros(3, 6))
    assert_close(stem.fill.covariance, COVARIANCE + 1e-6 * torch.eye(3))


def test_a_plain_checkpoint_goes_into_an_adapted_network():
    plain, x = small_net(), X
    for fill in ("regression", "mean", "luma_chroma"):
        net = adapted(small_net(), fill)
        nn.init.normal_(net[0].weight)
        net.load_state_dict(plain.state_dict())
        assert_close(net(x), plain(x))


# ---------------------------------------------------------------- several layers that read the images


@mark.parametrize(
    "net, reader", [(Residual(), "skip .Conv2d."), (nn.Sequential(Residual(), nn.ReLU()), "0.skip .Conv2d.")]
)
def test_an_example_finds_the_second_reader(net, reader):
    before, modes = copy.deepcopy(net.state_dict()), [m.training for m in net.modules()]
    with value_error(f"absent channels have an influence: {reader}.*where='input'"):
        adapt_first_conv(net, "mean", example=X)
    assert list(net.state_dict()) == list(before) and not net._forward_pre_hooks and not net._forward_hooks
    assert [m.training for m in net.modules()] == modes and not list(net.modules())[1]._forward_hooks


def test_another_convolution_that_can_read_the_images_is_a_warning():
    with warns(UserWarning, match="skip of Residual takes 3 channels, as conv does.*with example=images"):
        adapt_first_conv(Residual(), "mean")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        adapt_first_conv(small_net(), "mean", example=X)
        adapt_first_conv(adapt_first_conv(small_net(), "mean"), "zero")
        adapt_first_conv(Residual(), "mean", where="input")
        adapt_first_conv(nn.Sequential(nn.Conv2d(1, 1, 3), nn.Conv2d(1, 4, 3)), "mean")


class SpaceToDepth(nn.Module):
    """The first convolution does not read the images, but 12 channels made of them."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(12, 6, 3)
        self.default_cfg = {"first_conv": "conv", "input_size": (3, 8, 8)}

    def forward(self, x):
        return self.conv(nn.functional.pixel_unshuffle(x, 2))


def test_a_convolution_behind_another_layer_is_refused():
    with value_error("conv takes 12 channels, but images of this network had 3"):
        adapt_first_conv(SpaceToDepth(), "mean")
    with value_error(r"has the shape \(3, 8, 8\).*12 channels"):
        adapt_first_conv(SpaceToDepth(), "mean", example=X)
    net = nn.ModuleDict({"head": nn.Conv2d(3, 3, 1), "stem": nn.Conv2d(3, 3, 1)})
    net.forward = lambda x: net["head"](net["stem"](x).relu())
    with value_error("influence: stem"):
        adapt_first_conv(net, "mean", example=X)


def test_a_convolution_of_another_kind_before_the_first_conv2d_is_refused():
    class Spectral(nn.Module):
        """A convolution over space and bands comes before the first Conv2d, as in HybridSN."""

        def __init__(self):
            super().__init__()
            self.bands, self.space = nn.Conv3d(1, 4, 3), nn.Conv2d(4, 6, 3)

        def forward(self, x):
            return self.space(self.bands(x[:, None]).flatten(1, 2))

    with value_error(r"space is the first Conv2d, but bands \(Conv3d\) .*use where='input'; else.*path="):
        adapt_first_conv(Spectral(), "mean")
    adapt_first_conv(Spectral(), "mean", path="space")
    net = adapt_first_conv(Spectral(), "mean", where="input", channels=3, example=X)
    assert_close(net(X[:, :2], channels=[0, 1]), net(X, mask=torch.tensor([[True, True, False]] * 2)))


def test_kernels_of_channels_in_another_order_are_refused():
    for net, options in ((small_net(), {"trained_on": "BGR"}), (adapted(small_net(), channels="BGR"), {})):
        with value_error("was trained on B, G, R, in another order.*init={'R': 'R'}"):
            adapt_first_conv(net, "mean", channels="RGB", **options)
        adapt_first_conv(net, "mean", channels=["red", "green", "blue"], **options)  # other names


def test_a_hook_that_would_be_lost_is_named():
    for name in ("full_backward_hook", "state_dict_pre_hook"):
        net = small_net()
        getattr(net[0], f"register_{name}")(print)
        with value_error("0 is not a plain convolution: it has hooks"):
            adapt_first_conv(net, "mean")


class Turned(OneConv):
    """It turns RGB to BGR, as detectors do."""

    def forward(self, x):
        return self.conv(x.flip(1))


@mark.parametrize("images", [1, 2, 3])
def test_an_example_finds_that_channels_are_reordered(images):
    x = torch.randn(images, 3, 8, 8)
    with value_error("their channels are reordered"):
        adapt_first_conv(Turned(), "mean", example=x)
    net = adapt_first_conv(Turned(), "mean", where="input", example=x)
    assert_close(net(x[:, [2, 0]], channels=[2, 0]), net(x[:, [0, 2]], channels=[0, 2]))


@at_stem_and_input
@mark.parametrize("fill", ["learned", "conditioned"])
def test_what_was_frozen_stays_frozen(fill, where):
    frozen = adapt_first_conv(small_net().requires_grad_(False), fill, covariance=COVARIANCE, where=where)
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    net = adapt_first_conv(small_net(), fill, covariance=COVARIANCE, where=where)
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_an_example_passes_where_the_stem_alone_reads_the_images():
    for example in (X, {"input": torch.randn(1, 3, 8, 8)}):
        net = adapt_first_conv(small_net(), covariance=COVARIANCE, example=example)
        assert isinstance(net[0], ChannelSetConv2d) and not net.training
    with value_error("example= must be"):
        adapt_first_conv(small_net(), "mean", example="images")
    net = small_net()
    net[1].forward = lambda x: {}["scale"]  # any error of the network names the example
    for where in ("stem", "input"):
        with value_error("fails on the example: KeyError: 'scale'"):
            adapt_first_conv(net, "mean", where=where, example=torch.randn(2, 3, 8, 8))


def test_images_that_are_not_centred_are_seen_in_the_example():
    with value_error("needs images with a mean of zero"):
        adapt_first_conv(small_net(), covariance=COVARIANCE, example=torch.rand(2, 3, 8, 8) + 100)


@mark.parametrize(
    "fill", ["zero", "rescale", "mean", "grey", "regression", "learned", "conditioned", "black"]
)
@mark.parametrize("make", [Residual, lambda: Residual(nn.Conv3d), Patches, SpaceToDepth, small_net])
def test_filling_at_the_input_hides_absent_channels_from_every_layer(make, fill):
    plain = make().eval()
    net = adapt_first_conv(copy.deepcopy(plain), fill, where="input", channels=3, **statistics_of(fill))
    x = torch.randn(2, 3, *[8] * (3 if isinstance(getattr(plain, "conv", None), nn.Conv3d) else 2))
    axes = (..., *[None] * (x.ndim - 2))
    if fill != "grey":
        assert_close(net(x), plain(x), rtol=0, atol=0)
    with torch.no_grad():
        expected = net(torch.where(MASK[axes], x, 0.0), mask=MASK)
        assert torch.equal(net(torch.where(MASK[axes], x, torch.nan), mask=MASK), expected)
        two = net(x[:, [2, 0]], channels=[2, 0])
        assert_close(net(x, mask=HALF), two, rtol=1e-5, atol=1e-6)
        if fill not in ("black", "conditioned"):
            folded = fold_channels(net, [2, 0])
            assert_close(folded(x[:, [2, 0]]), two, rtol=1e-5, atol=1e-5)
        if "forward" not in vars(net):
            assert_close(pickle.loads(pickle.dumps(net))(x, mask=HALF), two, rtol=1e-5, atol=1e-6)
    with present(net, mask=MASK):
        assert_close(net(torch.where(MASK[axes], x, torch.nan)), expected, rtol=1e-5, atol=1e-6)
    assert set(net.state_dict()) - set(plain.state_dict()) <= {
        f"channel_fill.{name}" for name in ("_extra_state", "fill.covariance", "fill.absent")
    } | {f"channel_fill.fill.correction.{i}.{p}" for i in (0, 2) for p in ("weight", "bias")}


def test_filling_at_the_input_is_filling_at_the_stem():
    x, plain = X, small_net()
    stem = adapt_first_conv(copy.deepcopy(plain), covariance=COVARIANCE, embedding=False)
    net = adapt_first_conv(plain, covariance=COVARIANCE, where="input", example=x)
    assert_close(net(x, mask=MASK), stem(x, mask=MASK), rtol=0, atol=1e-6)
    assert_close(net.forward(x), net(x))


def test_filling_at_the_input_refuses_what_it_cannot_do():
    for options, message in (
        ({"fill": "luma_chroma"}, "its own kernels"),
        ({"path": "0"}, "path= has no effect"),
        ({"embedding": True}, "embedding= has no effect"),
        ({"init": "repeat"}, "init= has no effect"),
        ({"where": "middle"}, "expected 'stem' or 'input'"),
    ):
        with value_error(message):
            adapt_first_conv(small_net(), **{"fill": "mean", "where": "input", **options})
    net = adapt_first_conv(small_net(), "mean", where="input")
    for where in ("input", "stem"):
        with value_error("adapted already"):
            adapt_first_conv(net, "mean", where=where)
        with value_error("adapted already"):
            adapt_first_conv(fold_channels(net, [0, 2]), "mean", where=where)
    with raises(RuntimeError, match="were not filled"), present(net, mask=MASK):
        net[0](X)
    with value_error("called with a dict"):
        net({"img": X}, mask=MASK)
    with value_error("to read the channel count from"):
        adapt_first_conv(Patches(), "mean", where="input")


def test_a_set_of_all_channels_is_filled_as_a_mask_of_all_channels():
    x, every = X, torch.ones(2, 3, dtype=torch.bool)
    net = adapt_first_conv(small_net(), "grey", where="input")  # the one rule that changes a whole image
    for how in ({}, {"channels": [0, 1, 2]}):
        assert_close(net(x, **how), net(x, mask=every))


def test_a_mask_has_a_row_for_each_image_of_a_list():
    class Detector(OneConv):
        def forward(self, images):
            return [self.conv(image) for image in images]

    net, images = adapt_first_conv(Detector(), "mean", where="input"), [torch.randn(3, 8, 8)] * 2
    assert len(net(images, mask=MASK)) == 2
    for rows in (1, 5):
        with value_error(f"mask has {rows} rows for 2 images"):
            net(images, mask=torch.ones(rows, 3, dtype=torch.bool))


def test_one_convolution_under_two_names_is_replaced_under_both():
    class Shared(OneConv):
        def __init__(self):
            super().__init__()
            self.again = nn.ModuleList([self.conv])

    with value_error("conv is used in several places .conv, again.0."):
        adapt_first_conv(Shared(), "mean")
    x = X
    net = adapt_first_conv(Shared(), "mean", example=x)
    assert net.conv is net.again[0] and isinstance(net.conv, ChannelSetConv2d)
    assert type(fold_channels(net, [0]).again[0]) is nn.Conv2d
    assert find_stem(adapt_first_conv(Shared(), "mean", path="again.0", example=x))
    conv = nn.Conv2d(3, 3, 1)
    with value_error("runs 2 times|influence"):
        adapt_first_conv(nn.Sequential(conv, conv), "mean", example=x)


# ---------------------------------------------------------------- BatchNorm's fusion


@mark.parametrize("bias", [False, True])
@mark.parametrize("fuse", [fuse_of_torch, fuse_in_place, fuse_data])
@mark.parametrize("switched", [False, True])
def test_a_fused_batchnorm_takes_the_embedding_along(fuse, bias, switched):
    net, x = adapted(small_net(bias=bias)), X
    calls = ((x, {}), (x, {"mask": MASK}), (x[:, [0, 2]], {"channels": [0, 2]}))
    expected = [net(images, **how) for images, how in calls]
    net[0], net[1] = fuse(net[0], net[1]), nn.Identity()
    if switched:
        net.eval()
    for (images, how), wanted in zip(calls, expected):
        assert_near(net(images, **how), wanted)
    assert_near(fold_channels(net, [0, 2])(images), wanted)


def test_other_changes_of_the_weights_leave_the_embedding():
    net, x = adapted(small_net(bias=True)), X
    stem, before = net[0], net[0].embedding.clone()
    average = copy.deepcopy(net)
    for change in (
        lambda: stem.weight.data.mul_(0.5),  # the bias stays
        lambda: [p.data.mul_(0.9) for p in stem.parameters()],
        lambda: [p.data.lerp_(torch.randn_like(p), 0.01) for p in stem.parameters()],
        lambda: net.load_state_dict(average.state_dict()),
        lambda: net.half().float(),
    ):
        change()
        now = stem.embedding.clone()
        net(x)
        assert torch.equal(stem.embedding, now)
    assert_close(stem.embedding, before, rtol=1e-3, atol=1e-3)


def test_a_fused_network_is_exported_right_before_any_call():
    net, x = adapted(small_net()), X
    expected = net(x, mask=MASK)
    net[0], net[1] = fuse_in_place(net[0], net[1]), nn.Identity()
    program = torch.export.export(channelset.WithMask(net).eval(), (x, MASK), strict=False).module()
    assert_near(program(x, MASK), expected)


# ---------------------------------------------------------------- sets in threads, tasks and copies


class Slow(nn.Module):
    """Gives other threads the time to come in between a network's call and its stem."""

    def forward(self, x):
        threading.Event().wait(1e-4)
        return x


def test_threads_and_tasks_keep_their_own_sets():
    net = adapt_first_conv(nn.Sequential(Slow(), *small_net()), "mean")
    masks = [torch.tensor([[True, False, False]] * 2), torch.tensor([[False, True, True]] * 2)]
    x = X
    with torch.no_grad():
        expected, wrong = [net(x, mask=mask) for mask in masks], []

        def work(number: int, block: bool) -> None:
            for _ in range(60):
                with torch.no_grad():
                    if block:
                        with present(net, mask=masks[number]):
                            got = net(x)
                    else:
                        got = net(x, mask=masks[number])
                if not torch.equal(got, expected[number]):
                    wrong.append(number)

        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-5)
        try:
            threads = [threading.Thread(target=work, args=(i % 2, i > 1)) for i in range(4)]
            [thread.start() for thread in threads]
            [thread.join() for thread in threads]
        finally:
            sys.setswitchinterval(interval)
    assert not wrong

    import asyncio

    async def task(number: int):
        with present(net, mask=masks[number]):
            await asyncio.sleep(0.01 * (number + 1))
            return net(x)

    async def both():
        return await asyncio.gather(task(0), task(1))

    for got, wanted in zip(asyncio.run(both()), expected):
        assert_close(got, wanted, rtol=0, atol=0)


def test_a_copy_made_within_a_block_forgets_the_set():
    net, x = adapt_first_conv(small_net(), "mean"), X
    with present(net, channels=[0]):
        copied = copy.deepcopy(net)
        net(x[:, :1])
    assert_close(copied(x), net(x))
    with contextlib.suppress(KeyboardInterrupt):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(nn.Linear, "forward", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            net(x, mask=MASK)
    assert_close(net(x), copied(x))


# ---------------------------------------------------------------- one line


def test_sets_are_drawn_in_the_stem_and_training_resumes_exactly():
    def start():
        net = adapt_first_conv(small_net(), covariance=COVARIANCE, sample="hcs", seed=3)
        return net.train(), torch.optim.SGD(net.parameters(), 1e-3)

    def step(net, optimizer, number):
        optimizer.zero_grad()
        net(torch.full((8, 3, 8, 8), 0.1 * number)).square().sum().backward()
        optimizer.step()

    (net, optimizer), (other, second) = start(), start()
    seen = []
    find_stem(net).fill.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    for number in range(6):
        step(net, optimizer, number)
    assert len(seen) == 6 and not torch.equal(seen[0], seen[1])
    for number in range(3):
        step(other, second, number)
    state, other, second = other.state_dict(), *start()
    other = pickle.loads(pickle.dumps(other))
    other.load_state_dict(state)
    second = torch.optim.SGD(other.parameters(), 1e-3)
    for number in range(3, 6):
        step(other, second, number)
    for name, value in net.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    x = X
    plain = adapt_first_conv(small_net(), covariance=COVARIANCE)
    plain.load_state_dict(net.state_dict())
    assert_close(net.eval()(x), plain.eval()(x), rtol=0, atol=0)  # off in eval mode
    net.train()
    assert_close(net(x, channels=[0, 1, 2]), plain.train()(x), rtol=0, atol=0)


def test_sampling_at_the_input_and_with_shares():
    net = adapt_first_conv(Residual(), "zero", where="input", sample=channelset.Sampler("hcs", {(0,): 1.0}))
    x = X
    assert_close(net.train()(x), net(x[:, :1], channels=[0]))
    with value_error("unknown way to sample 'some'"):
        adapt_first_conv(small_net(), "mean", sample="some")


def test_a_repeated_forward_does_not_draw_other_sets():
    from torch.utils.checkpoint import checkpoint

    net = adapt_first_conv(small_net(), "mean", sample="hcs").train()
    y = checkpoint(net, torch.randn(4, 3, 8, 8), use_reentrant=False)
    with raises(RuntimeError, match="activation checkpointing"):
        y.sum().backward()


def test_a_sampling_network_compiles():
    net, x = adapt_first_conv(small_net(), "mean", sample="hcs").train(), torch.randn(8, 3, 8, 8)
    compiled = torch.compile(net, backend="eager")
    outputs = [compiled(x) for _ in range(3)]
    assert not torch.equal(outputs[0], outputs[1]) and find_stem(net).sampler.count == 3


# ---------------------------------------------------------------- folded networks that count channels


class Embeddings(nn.Module):
    """As Hugging Face's: compares the images with its configuration."""

    def __init__(self):
        super().__init__()
        self.num_channels, self.projection = 3, nn.Conv2d(3, 4, 4, 4)

    @property
    def in_channels(self):  # as timm's blocks have it: it has no setter
        return self.projection.in_channels

    def forward(self, pixel_values):
        assert pixel_values.shape[1] == self.num_channels
        return self.projection(pixel_values)


class Vision(nn.Module):
    def __init__(self):
        super().__init__()
        self.config, self.embeddings = SimpleNamespace(num_channels=3), Embeddings()

    def forward(self, pixel_values=None, labels=None):
        return self.embeddings(pixel_values)


def test_a_network_that_counts_its_channels_is_called_like_any_other():
    net, x = adapted(Vision()), X
    expected = net(x, mask=HALF)
    assert_close(net(x[:, [0, 2]], channels=[0, 2]), expected)
    assert_close(net(pixel_values=x[:, [2, 0]], channels=[2, 0]), expected)
    labels = torch.zeros(2, dtype=torch.long)
    assert_close(net(labels=labels, pixel_values=x[:, [2, 0]], channels=[2, 0]), expected)
    folded = fold_channels(net, [0, 2])
    assert_close(folded(pixel_values=x[:, [0, 2]]), expected)
    assert (folded.config.num_channels, net.config.num_channels) == (2, 3)
    assert folded.config is not net.config and net.embeddings.num_channels == 3


# ---------------------------------------------------------------- masks, TorchScript


def test_a_mask_goes_to_the_images():
    net = adapt_first_conv(small_net(), covariance=COVARIANCE).to("meta")
    x = torch.empty(2, 3, 8, 8, device="meta")
    assert net(x, mask=sample_channels(2, 3)).shape == (2, 2)
    assert adapt_first_conv(small_net(), "mean", where="input").to("meta")(x, mask=MASK).shape == (2, 2)
    assert sample_channels(2, 3, device="meta").is_meta


def test_masks_and_images_of_other_kinds_are_one_clear_error():
    net, x = adapted(small_net()), X
    assert_close(net(x, mask=MASK.tolist()), net(x, mask=MASK))
    for images, mask, message in (
        (x[0], MASK[0], r"must be \(B, n, H, W\)"),
        (x, [[1, 0, 1], [1, 0, 1]], "bool"),
        (x, [True, False, True], "bool"),
    ):
        with value_error(message):
            net(images, mask=mask)


def test_torchscript_says_what_to_do():
    with raises(Exception, match="use it on fold_channels"):
        torch.jit.script(adapted(small_net()))
    assert torch.jit.script(fold_channels(adapted(small_net()), [0]))(torch.ones(1, 1, 8, 8)).shape == (1, 2)
