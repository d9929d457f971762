"""Sets of channels where other code wraps, repeats, compiles or averages the network."""

import asyncio
import contextlib
import copy
import threading

import torch
from helpers import assert_near, value_error
from pytest import importorskip, mark, raises, warns
from small_networks import (
    COVARIANCE,
    DIRTY,
    HALF,
    MASK,
    Around,
    OneConv,
    Residual,
    X,
    adapted,
    at_stem_and_input,
    fuse_data,
    fuse_in_place,
    fuse_of_torch,
    small_net,
)
from torch import nn
from torch.nn.utils import prune
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from channelset import (
    WithMask,
    adapt_first_conv,
    channel_statistics,
    find_place,
    find_stem,
    fold_channels,
    load_adapted,
    present,
    save_adapted,
    sensor,
)


def adapted_at(where):
    """Return an adapted network: its stem takes the set, or its images are filled."""
    if where == "stem":
        return adapted(small_net())
    return adapt_first_conv(small_net(), covariance=COVARIANCE, where="input")


@at_stem_and_input
def test_an_exported_network_takes_any_number_of_images(where):
    net, batch = adapted_at(where), torch.export.Dim("batch")
    assert WithMask(net.train()).training and not WithMask(net.eval()).training
    exported = torch.export.export(WithMask(net), (X, MASK), dynamic_shapes=({0: batch}, {0: batch})).module()
    images, mask = torch.randn(5, 3, 8, 8), MASK[[0, 1, 1, 0, 1]]
    assert_close(exported(images, mask), net(images, mask=mask))


@at_stem_and_input
def test_several_networks_and_each_image_alone_in_a_vmap(where):
    nets = [adapted_at(where) for _ in range(2)]
    with torch.no_grad():
        nets[1][0].weight.mul_(2)
    state = torch.func.stack_module_state(nets)
    for x, how in ((X, {"mask": HALF}), (X[:, [0, 2]], {"channels": [0, 2]})):
        answers = torch.vmap(lambda p, b: torch.func.functional_call(nets[0], (p, b), (x,), how))(*state)
        assert_close(answers, torch.stack([net(x, mask=HALF) if x is X else net(x, **how) for net in nets]))
    alone = torch.vmap(lambda image, row: nets[0](image[None], mask=row[None])[0])(X, MASK)
    assert_close(alone, nets[0](X, mask=MASK))


@torch.no_grad()
def test_a_hook_of_the_stem_runs_once_a_call():
    stem = find_stem(adapt_first_conv(small_net(20), covariance=torch.eye(20)))
    images, mask = torch.randn(4, 20, 16, 16), torch.rand(4, 20) < 0.5
    mask[:, 0] = True
    plain = stem(images, mask=mask)
    stem.register_forward_hook(lambda module, args, output: 2 * output)
    assert_close(stem(images, mask=mask), 2 * plain)


COMPUTED = {
    "spectral norm": lambda stem: nn.utils.spectral_norm(stem, "weight"),
    "weight norm": lambda stem: nn.utils.weight_norm(stem, "weight"),
    "pruning": lambda stem: prune.l1_unstructured(stem, "weight", 0.5),
    "parametrization": lambda stem: nn.utils.parametrizations.weight_norm(stem),
}


@mark.parametrize("name", COMPUTED)
@mark.filterwarnings("ignore:.*weight_norm")
def test_a_weight_that_other_code_computes_is_folded_as_it_is_now(name):
    nets = [adapted(small_net()) for _ in range(2)]
    for net in nets:
        COMPUTED[name](net[0])
    with torch.no_grad():
        for parameter in nets[1].parameters():
            parameter.mul_(1.3).add_(0.1)
    nets[0].load_state_dict(nets[1].state_dict())
    for _ in range(2):  # before the first call and after it
        folded = fold_channels(nets[0], [0, 2])(X[:, [0, 2]])
        assert_close(folded, nets[1](X, mask=HALF))
        nets[0](X)


# ---------------------------------------------------------------- the first layer is wrapped, replaced or not called


def wrap_checkpoint(stem):
    module = importorskip("torch.distributed.algorithms._checkpoint.checkpoint_wrapper")
    return module.checkpoint_wrapper(stem)


class Copied(nn.Module):
    """It runs a copy of the stem, as PEFT's `modules_to_save` does."""

    def __init__(self, stem):
        super().__init__()
        self.before, self.trained = stem, copy.deepcopy(stem)

    def forward(self, x):
        return self.trained(x)


WRAPPERS = {
    "copied": Copied,
    "checkpoint": wrap_checkpoint,
    "parallel": nn.DataParallel,
    "compiled": lambda stem: torch.compile(stem, backend="eager"),
}


@mark.parametrize("name", WRAPPERS)
def test_a_wrapped_stem_still_gets_the_set(name):
    torch._dynamo.reset()
    net = adapted(small_net())
    expected = net(X, mask=MASK)
    net[0] = WRAPPERS[name](net[0])
    with torch.no_grad():
        assert_close(net(DIRTY, mask=MASK), expected)
        assert_close(net(X[:, [0, 2]], channels=[0, 2])[0], expected[0])


def test_a_wrapper_around_a_part_of_the_network_hides_no_stem():
    net = adapted(nn.Sequential(small_net(), nn.ReLU()))
    expected = net(X, mask=MASK)
    net[0] = Around(net[0])
    assert_close(net(DIRTY, mask=MASK), expected)


class LowRank(nn.Module):
    """It adds a second convolution of the images, as LoRA does."""

    def __init__(self, conv):
        super().__init__()
        self.conv, self.down, self.up = conv, nn.Conv2d(3, 2, 3, padding=1), nn.Conv2d(2, 6, 1)

    def forward(self, x):
        return self.conv(x) + self.up(self.down(x))


def test_a_wrapper_with_a_layer_that_can_read_the_images_is_a_warning():
    net = adapted(small_net())
    net[0] = LowRank(net[0])
    with warns(UserWarning, match="the layer down of LowRank takes 3 channels, as 0 does"):
        net(X, mask=MASK)


def test_parts_that_take_sets_of_different_channels_are_an_error():
    towers = nn.ModuleList([adapted_at("stem"), adapted_at("input")])
    for use in (find_place, fold_channels, lambda net: present(net, mask=MASK).__enter__()):
        with value_error("ModuleList has 2 parts that take sets of channels"):
            use(towers)
    with value_error("no stem: it fills the images at its input"):
        find_stem(towers[1])


def test_a_stem_that_other_code_replaced_is_an_error():
    net = adapted(small_net())
    net[0] = find_stem(net).fold()
    with value_error("0 does not take sets of channels any more"):
        net(X, mask=MASK)


class Functional(OneConv):
    """It uses the weight of a layer without the layer."""

    def forward(self, x):
        return nn.functional.conv2d(x, self.conv.weight, self.conv.bias)


class Elsewhere(OneConv):
    """It calls its first layer in another thread, as nn.DataParallel within a network does."""

    def forward(self, x):
        result = []
        thread = threading.Thread(target=lambda: result.append(self.conv(x)))
        thread.start()
        thread.join()
        return result[0]


@mark.parametrize("make", [Functional, Elsewhere])
def test_a_set_that_reaches_no_stem_is_an_error(make):
    net = adapt_first_conv(make(), "mean")
    net(X)
    with raises(RuntimeError, match="did not call conv"):
        net(X, mask=MASK)
    with raises(RuntimeError, match="no call in the block used the set"), present(net, mask=MASK):
        net(X)
    with value_error("does not run|any influence|influence"):
        adapt_first_conv(Functional(), "mean", example=X)


def test_a_block_around_calls_in_other_threads_is_an_error():
    net = adapt_first_conv(small_net(), "mean")
    with raises(RuntimeError, match="in another thread"), present(net, mask=MASK):
        thread = threading.Thread(target=lambda: net(X))
        thread.start()
        thread.join()
    with present(net, mask=MASK):
        net(X, mask=~MASK)  # a call's own set is no error


# ---------------------------------------------------------------- activation checkpointing


class Repeated(nn.Module):
    def __init__(self, reentrant: bool):
        super().__init__()
        self.net, self.reentrant = small_net(), reentrant

    def forward(self, x):
        return self.net[2:](checkpoint(self.net[:2], x, use_reentrant=self.reentrant))


@mark.parametrize("fill", ["zero", "mean"])
@mark.parametrize("reentrant", [True, False])
def test_a_stem_that_is_repeated_without_its_set_is_an_error(reentrant, fill):
    x = X.clone().requires_grad_()
    net = adapt_first_conv(Repeated(reentrant), fill, embedding=False).train()
    net(x).sum().backward()  # all channels: the same when repeated
    with raises(RuntimeError, match="activation checkpointing runs a layer a second time"):
        net(x, mask=MASK).sum().backward()
    net = adapt_first_conv(Repeated(reentrant), fill, embedding=False).eval()
    with raises(RuntimeError, match="activation checkpointing runs a layer a second time"):
        net(x, mask=MASK).sum().backward()
    net = adapt_first_conv(small_net(), fill).train()
    expected = torch.autograd.grad(net(X, mask=MASK).square().sum(), net[0].weight)[0]
    y = checkpoint(net, X, mask=MASK, use_reentrant=False)  # the set is an argument of what is repeated
    assert_close(torch.autograd.grad(y.square().sum(), net[0].weight)[0], expected)


# ---------------------------------------------------------------- images among other arguments


class Captions(Around):
    """As CLIP: its first argument is a text."""

    def forward(self, input_ids=None, pixel_values=None):
        return self.net(pixel_values)


class Anything(Around):
    """As a wrapper of adapters: its arguments have no names."""

    def forward(self, *args, **kwargs):
        return self.net(*args, *kwargs.values())


@mark.parametrize("make", [Captions, Anything])
def test_images_are_filled_whatever_their_argument(make):
    net = adapt_first_conv(make(small_net()), "mean", where="input")
    text = torch.ones(2, 5, dtype=torch.long)
    with torch.no_grad():
        expected = net.net(net.channel_fill.fill.complete(X, MASK))
        results = [net(pixel_values=DIRTY, mask=MASK)]
        if make is Captions:
            results += [net(text, DIRTY, mask=MASK), net(input_ids=text, pixel_values=DIRTY, mask=MASK)]
            net(text, X)
        else:
            results += [net(DIRTY, mask=MASK), net(y=DIRTY, mask=MASK)]
        for got in results:
            assert_close(got, expected)
        folded = fold_channels(net, [2, 0])
        one = net(pixel_values=X[:, [2, 0]], channels=[2, 0])
        assert_near(folded(pixel_values=X[:, [2, 0]]), one)
    with value_error("called with input_ids= a Tensor, not with images to fill"):
        net(input_ids=text, mask=MASK)
    with value_error("called with nothing, not with images"):
        fold_channels(net, [0])()
    drawing = adapt_first_conv(make(small_net()), "mean", where="input", sample="hcs").train()
    with value_error("not with images"):
        drawing(input_ids=text)


# ---------------------------------------------------------------- an example that shows nothing


class Finds(Around):
    """A detector that finds nothing, where a second layer reads the images."""

    def forward(self, x):
        return [{"boxes": part[part > 1e9]} for part in self.net(x)]


class Draws(OneConv):
    """It draws in eval mode, as masked autoencoders do."""

    def forward(self, x):
        y = self.conv(x)
        return y * torch.rand(y.shape)


def test_an_example_that_shows_nothing_or_draws():
    with value_error("influence: net.skip"):
        adapt_first_conv(Finds(Residual()), "mean", example=X)
    adapt_first_conv(Finds(nn.Conv2d(3, 6, 3)), "mean", example=X)
    adapt_first_conv(Draws(), "mean", example=X)


def test_an_example_leaves_no_copy_of_the_weights_in_a_training_stem():
    net = adapt_first_conv(small_net().train(), "mean", example=X)
    nn.init.normal_(net[0].embedding)
    before = net[0].embedding.clone()
    with torch.no_grad():  # a step with decay of the weight and without a gradient
        net[0].weight *= 0.9
        net[0].bias = nn.Parameter(torch.ones(6))
    net(X)
    assert torch.equal(net[0].embedding, before)


# ---------------------------------------------------------------- torch.compile


@mark.parametrize("where", ["stem", "input", "alone"])
def test_compiled_code_has_no_break_and_follows_every_list_of_channels(where):
    torch._dynamo.reset()
    place = "input" if where == "input" else "stem"
    net = adapt_first_conv(small_net()[:1], covariance=COVARIANCE, where=place).eval()
    net = net[0] if where == "alone" else net
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    with torch.no_grad():
        for ids in ([0], [2], [0, 2], [2, 0], [2, 1, 0], [0]):
            x = X[:, ids]
            assert_close(compiled(x, channels=ids), net(x, channels=ids))


def test_compiled_code_has_no_break_and_follows_blocks_and_masks():
    torch._dynamo.reset()
    net = adapted(small_net())
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    with torch.no_grad():
        assert_close(compiled(X, mask=MASK), net(X, mask=MASK))
        for mask in (None, MASK, ~MASK, None):
            if mask is None:
                assert_close(compiled(X), net(X))
                continue
            with present(net, mask=mask):
                assert_close(compiled(X), net(X, mask=mask))


def test_a_part_within_a_compiled_network_gets_the_set_of_the_whole():
    torch._dynamo.reset()
    net = adapted(nn.Sequential(adapted(small_net())))
    compiled = torch.compile(net, backend="eager")
    with torch.no_grad():
        assert_close(compiled(DIRTY, mask=MASK), net(X, mask=MASK))
        assert_close(compiled(X), net(X))


def test_a_stem_that_is_not_compiled_takes_the_set_of_the_call_before_that_of_the_block():
    torch._dynamo.reset()
    net = adapted(small_net())
    expected = net(X, mask=MASK), net(X, mask=~MASK)
    net[0].forward = torch.compiler.disable(net[0].forward)
    compiled = torch.compile(net, backend="eager")
    with torch.no_grad(), present(net, mask=~MASK):
        assert_close(compiled(X, mask=MASK), expected[0])
        assert_close(compiled(X), expected[1])


def test_a_call_of_another_network_leaves_what_a_compiled_stem_noted():
    torch._dynamo.reset()
    net, other = adapted(small_net()), adapted(small_net())
    net[0].compile(backend="eager")
    with torch.no_grad(), present(net, mask=MASK):
        net(X)
        other(X)


def test_tasks_of_compiled_code_keep_their_own_sets():
    torch._dynamo.reset()
    net = adapted(small_net())
    compiled = torch.compile(net, backend="eager")
    sets = (MASK, None, ~MASK)
    with torch.no_grad():
        expected = [net(X, mask=mask) for mask in sets]

    async def task(mask, steps):
        with contextlib.nullcontext() if mask is None else present(net, mask=mask):
            answers = []
            for _ in range(steps):
                await asyncio.sleep(0)
                with torch.no_grad():
                    answers.append(compiled(X))
            return answers

    async def tasks():
        return await asyncio.gather(*map(task, sets, (1, 3, 2)))

    for answers, answer in zip(asyncio.run(tasks()), expected):
        for value in answers:
            assert_close(value, answer)
    with torch.no_grad():
        assert_close(compiled(X), expected[1])


# ---------------------------------------------------------------- averages of a network that draws sets


def test_an_average_copies_the_state_of_a_network_that_draws_sets():
    net = adapt_first_conv(small_net(), "mean", sample="hcs").train()
    average = copy.deepcopy(net)
    for _ in range(12):  # as timm's ModelEmaV2: the count grows to two digits
        net(X)
        for mine, theirs in zip(average.state_dict().values(), net.state_dict().values()):
            mine.copy_(theirs)
    other = adapt_first_conv(small_net(), "mean", sample="hcs")
    other.load_state_dict(net.state_dict())
    assert find_stem(other).sampler.count == 12


# ---------------------------------------------------------------- BatchNorm's fusion, then no call


@mark.parametrize("bias", [False, True])
@mark.parametrize("fuse", [fuse_of_torch, fuse_in_place, fuse_data])
def test_a_fused_network_is_saved_or_compiled_right_before_any_call(fuse, bias, tmp_path):
    net = adapted(small_net(bias=bias))
    expected = net(X, mask=MASK)
    net[0], net[1] = fuse(net[0], net[1]), nn.Identity()
    others = [small_net(bias=True) for _ in range(2)]
    others[0][1] = others[1][1] = nn.Identity()
    others[0] = adapted(others[0])
    others[0].load_state_dict(copy.deepcopy(net).state_dict())
    save_adapted(copy.deepcopy(net), tmp_path / "net.pt")
    others[1] = load_adapted(others[1], tmp_path / "net.pt").eval()
    if not (fuse is fuse_data and bias):  # this alone changes no parameter but its values
        torch._dynamo.reset()
        others.append(torch.compile(net, backend="eager"))
    for other in others:
        assert_near(other(X, mask=MASK), expected)


# ---------------------------------------------------------------- networks within networks


@at_stem_and_input
def test_a_network_within_another_folds_without_a_trace(where):
    net = Residual().eval() if where == "input" else small_net()
    task = Around(adapt_first_conv(net, "zero", where=where, sample="hcs")).eval()
    expected = task(X[:, [2, 0]], channels=[2, 0])
    folded = fold_channels(task, [2, 0])
    for part in (folded, folded.net):
        assert_near(part(X[:, [2, 0]]), expected)
        with raises(TypeError, match="mask"):
            part(X[:, [2, 0]], mask=MASK)


# ---------------------------------------------------------------- statistics, sensors, remembered sets


@mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32, torch.int16])
def test_missing_pixels_are_found_in_every_type(kind):
    value = -3.4e38 if kind in (torch.float32, torch.bfloat16) else -9999
    x = (100 * torch.rand(4, 3, 5, 5)).to(kind)
    x[0, 1, 2:, 2:] = value
    got = channel_statistics([x], nodata=value)
    kept = torch.ones(4, 5, 5, dtype=torch.bool)
    kept[0, 2:, 2:] = False
    assert_close(got.mean, x.movedim(1, 0).double()[:, kept].mean(1))


def test_a_wavelength_means_the_nearest_band_that_holds_it():
    bands = sensor("sentinel-2")
    assert [bands.names[bands.id_of(value)] for value in (880.0, 866.0, 830.0)] == ["B08", "B8A", "B08"]


def test_a_covariance_put_in_the_place_of_another_is_used():
    net = adapt_first_conv(small_net(), covariance=COVARIANCE).eval()
    fill = find_stem(net).fill
    for size in torch.linspace(0.1, 0.9, 9):
        fill.covariance = None  # its memory is free, and may be taken by the next
        fill.covariance = torch.eye(3) * (1 - size) + size
        assert_close(fill.columns([0])[:, 0], torch.tensor([1.0, size, size]))


@torch.inference_mode()
def test_a_covariance_loaded_in_inference_mode_is_used():
    net, other = adapted(small_net()), adapt_first_conv(small_net(), covariance=torch.eye(3))
    net(X[:, :1], channels=[0])
    net.load_state_dict(other.state_dict())
    assert torch.equal(net(X[:, :1], channels=[0]), other(X[:, :1], channels=[0]))


# ---------------------------------------------------------------- networks of two images, calls within calls


class Pair(OneConv):
    """It compares two images, as networks for changes, stereo and motion do."""

    def forward(self, before, after=None):
        return self.conv(before) - (0 if after is None else self.conv(after))


def test_several_images_are_all_filled_or_an_error():
    net, other, dirty = adapt_first_conv(Pair(), "mean", where="input"), X.flip(3), DIRTY.flip(3)
    with value_error("several arguments of the network can be images"):
        net(DIRTY, dirty, mask=MASK)
    with value_error("several arguments of the network can be images"):
        adapt_first_conv(Pair(), "mean", where="input", example={"before": X, "after": X})
    assert net(DIRTY, mask=MASK).isfinite().all()
    net = adapt_first_conv(Pair(), "mean", where="input", images=["before", "after"], sample="hcs").eval()
    expected = net(X, other, mask=MASK)
    for answer in (net(DIRTY, dirty, mask=MASK), net(DIRTY, after=dirty, mask=MASK)):
        assert torch.equal(answer, expected)
    assert net(DIRTY, mask=MASK).isfinite().all()  # `after` is left out
    some = net(X[:, [0, 2]], other[:, [0, 2]], channels=[0, 2])
    assert_close(some[0], expected[0])
    assert torch.equal(fold_channels(net, [0, 2])(X[:, [0, 2]], after=other[:, [0, 2]]), some)
    assert net.train()(X, X).eq(0).all()  # both images have the drawn set
    for images, message in (
        (["later"], "no argument 'later', but before, after"),
        ("before", "a list of names"),
    ):
        with value_error(message):
            adapt_first_conv(Pair(), "mean", where="input", images=images)
    with value_error("with where='input'"):
        adapt_first_conv(Pair(), "mean", images=["before"])


def test_images_of_whole_numbers_are_not_left_out():
    net = adapt_first_conv(Pair(), "mean", where="input", images=["before", "after"])
    with value_error("before and after have floating-point numbers"):
        net(X, X.byte(), mask=MASK)


class Described(nn.Module):
    """Before its images it takes numbers that describe them."""

    def __init__(self):
        super().__init__()
        self.linear, self.conv = nn.Linear(3, 4), nn.Conv2d(3, 4, 3)

    def forward(self, numbers, words, x):
        return self.conv(x) + self.linear(numbers)[:, :, None, None] + words.mean()


def test_images_have_the_most_axes_of_all_arguments():
    net = adapt_first_conv(Described(), "mean", where="input")
    assert net(torch.randn(2, 3), torch.randn(2, 3, 7), DIRTY, mask=MASK).isfinite().all()


def test_a_part_that_takes_sets_itself_gets_the_set_of_the_whole():
    for net in (adapted(nn.Sequential(small_net())), nn.Sequential(adapted(small_net()))):
        adapt_first_conv(net[0] if net._forward_pre_hooks else net, "mean")
        expected = net[0](X, mask=MASK)
        assert_close(net(DIRTY, mask=MASK), expected)
        assert_close(net[0](DIRTY, mask=MASK), expected)


def test_a_set_does_not_outlive_an_interrupted_call():
    net = adapted(small_net())
    expected = net[0](X)

    def interrupt(*_):
        raise KeyboardInterrupt

    handle = net[2].register_forward_hook(interrupt)
    with raises(KeyboardInterrupt):
        net(X, mask=MASK)
    handle.remove()
    assert torch.equal(net[0](X), expected)


# ---------------------------------------------------------------- what surrounds the network already


def test_the_adapted_layer_keeps_its_parameters():
    net = small_net(bias=True)
    net.tied, old = net[0].weight, (net[0].weight, net[0].bias)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    seen = []
    net[0].weight.register_hook(seen.append)
    adapt_first_conv(net, covariance=COVARIANCE)
    assert net[0].weight is old[0] and net[0].bias is old[1] and net.tied is net[0].weight
    before = old[0].detach().clone()
    net(X, mask=MASK).sum().backward()
    optimizer.step()
    assert len(seen) == 1 and not torch.equal(net[0].weight, before)


def test_a_network_that_was_scripted_or_distributed_is_refused():
    class DistributedDataParallel(Around):
        """Its gradients are shared for the parameters that it saw, as in torch."""

    sharded = small_net()
    sharded.__class__ = type("FSDPSequential", (type(sharded),), {})  # as `fully_shard` does
    for late in (torch.jit.script(small_net()), DistributedDataParallel(small_net()), sharded):
        for where in ("stem", "input"):
            with value_error("before you wrap it"):
                adapt_first_conv(late, "mean", where=where)


def test_scripting_a_network_that_fills_at_its_input_is_one_clear_error():
    folded = fold_channels(adapted_at("input"), [0, 2])
    with value_error("use torch.jit.trace"):
        torch.jit.script(folded)
    traced = torch.jit.trace(folded, X[:, [0, 2]])
    assert_close(traced(X[:, [0, 2]]), folded(X[:, [0, 2]]))


def test_a_vmap_over_the_embedding_alone():
    net, tables = adapted(small_net()), torch.randn(4, 3, 6)
    some = [torch.func.functional_call(net, {"0.embedding": t}, (X,), {"mask": MASK}) for t in tables]
    answers = torch.vmap(
        lambda table: torch.func.functional_call(net, {"0.embedding": table}, (X,), {"mask": MASK})
    )(tables)
    assert_close(answers, torch.stack(some))


def test_autocast_leaves_the_images_as_they_are():
    net, seen = adapt_first_conv(Residual(), covariance=COVARIANCE, where="input"), []
    net.conv.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.autocast("cpu", torch.bfloat16):
        net(X, mask=MASK)
        fold_channels(net, [0, 2])(X[:, [0, 2]])
    assert torch.equal(seen[0][MASK], X[MASK]) and torch.equal(seen[1][:, [0, 2]], X[:, [0, 2]])
