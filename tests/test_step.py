"""One optimiser step: what an epoch draws, the average, and the captured graph against single launches."""

import copy

import numpy as np
import torch
from pytest import approx, mark
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.testing import assert_close

from channelset import sample_channels
from config import Task1Config
from data.batches import Batches, mix
from data.channels import parse_subset
from engine.step import TrainStep, learning_rate, make_optimizer
from engine.trainer import Processes
from models.resnet import ScaledResNet
from models.task1 import build_channel_net

COVARIANCE = torch.tensor([[1.0, 0.9, 0.8], [0.9, 1.0, 0.92], [0.8, 0.92, 1.0]])
cuda = mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


def make(device="cpu", augment="strong", teacher=False, seed=0, processes=(0, 1), **options):
    """Make the steps of a training of 4 epochs of 6 steps, on random images."""
    config = Task1Config(
        preset="48px-quarter",
        epochs=4,
        batch_size=8,
        image_size=16,
        device=device,
        amp=False,
        augment=augment,
        seed=seed,
        distill_ramp=0.5,
        **options,
    ).resolve()
    ids = parse_subset(config.channels, ("R", "G", "B"))
    random, device = np.random.default_rng(0), torch.device(config.device)
    train = Batches(
        random.integers(0, 256, (50, 20, 20, 3), np.uint8),
        random.integers(0, 5, 50),
        config.image_size,
        [0.5] * 3,
        [0.25] * 3,
        ids,
        device,
    )
    torch.manual_seed(0)
    model = build_channel_net(
        config.arch, len(ids), 5, config.fill, width=0.125, covariance=COVARIANCE[list(ids)][:, list(ids)]
    )
    model = model.to(device, memory_format=torch.channels_last)
    average = AveragedModel(model, device, use_buffers=True)
    optimizer = torch.optim.SGD(model.parameters(), config.lr, momentum=0.9, nesterov=True, weight_decay=1e-3)
    known = ScaledResNet("resnet10", 5, width=0.125).to(device).eval() if teacher else None

    def masks(count, random):
        return {"mask": sample_channels(count, len(ids), generator=random)}

    return TrainStep(config, model, model, average, optimizer, train, masks, known, Processes(*processes))


def run(steps, first=0, last=24):
    losses = []
    for step in range(first, last):
        steps.run(step)
        losses.append(steps.losses[step % steps.per_epoch].item())
    return torch.tensor(losses)


def weights(steps):
    return torch.cat(
        [p.detach().flatten().cpu() for p in [*steps.model.parameters(), *steps.average.module.parameters()]]
    )


def test_learning_rate_warms_up_then_falls_to_zero():
    rates = [learning_rate(step, 100, 10, 1.0) for step in range(101)]
    assert rates[0] == approx(1 / 11) and rates[10] == 1.0
    assert rates[55] == approx(0.5) and rates[100] == 0
    assert all(a < b for a, b in zip(rates[:10], rates[1:])) and all(
        a > b for a, b in zip(rates[10:], rates[11:])
    )


def test_an_epoch_draws_each_image_once_and_repeats():
    first, again = make(), make()
    drawn, same, other = first._draw(1), again._draw(1), again._draw(2)
    assert drawn["indices"].flatten().unique().numel() == 48 and drawn["input:mask"].shape == (6, 8, 3)
    assert all(torch.equal(drawn[key], same[key]) for key in drawn)
    assert not torch.equal(drawn["indices"], other["indices"])
    rates = [learning_rate(step, 24, 0.8 * 6, 0.1) for step in range(6, 12)]
    assert drawn["rate"].tolist() == approx(rates)
    assert drawn["share"].tolist() == approx([0.5 * min(1, step / 12) for step in range(6, 12)])


def test_processes_share_the_images_of_a_step_and_draw_each_for_itself():
    whole, one, other = (make(processes=each)._draw(1) for each in ((0, 1), (0, 2), (1, 2)))
    assert one["indices"].shape == other["indices"].shape == (6, 4)
    both = torch.cat([one["indices"], other["indices"]], 1)
    assert torch.equal(both.sort(1).values, whole["indices"].sort(1).values)
    assert all(not torch.equal(one[name], other[name]) for name in ("input:mask", "flip", "crop", "erased"))


def test_the_average_is_that_of_torch():
    steps = make()
    theirs = AveragedModel(steps.model, use_buffers=True, multi_avg_fn=get_ema_multi_avg_fn(1 - 1 / 6))
    for step in range(8):
        steps.run(step)
        theirs.update_parameters(steps.model)
    assert steps.average.n_averaged == 8
    mine, other = (average.module.state_dict() for average in (steps.average, theirs))
    for name in mine:
        assert torch.equal(mine[name], other[name]) or name.endswith("num_batches_tracked")


def test_beginning_in_an_epoch_goes_on_as_if_it_had_not_stopped():
    whole, part, other = make(), make(), make()
    losses = run(whole, 0, 14)
    run(part, 0, 9)
    other.model.load_state_dict(part.model.state_dict())
    other.average.load_state_dict(part.average.state_dict())
    other.optimizer.load_state_dict(copy.deepcopy(part.optimizer.state_dict()))
    assert torch.equal(run(other, 9, 14), losses[9:]) and torch.equal(weights(other), weights(whole))


def test_a_specialist_takes_its_channels_by_an_index_on_the_device():
    """A list would be copied to the device at each batch, which a captured graph refuses."""
    steps = make(channels="RB")
    assert steps.train.channels.tolist() == [0, 2] and steps.train.channels.device == steps.device
    assert run(steps, 0, 6).isfinite().all()


@cuda
@mark.parametrize(
    "options",
    [
        {},
        {"augment": "light"},
        {"teacher": True},
        {"fill": "conditioned"},
        {"channels": "RB"},
        {"augment": "light", "channels": "R"},
    ],
)
def test_a_captured_step_is_the_same_step(options):
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    captured, single = make("cuda", **options), make("cuda", **options)
    single.capturable = False
    losses, expected = run(captured), run(single)
    assert captured.graph is not None and single.graph is None
    assert losses[0] != losses[-1]
    # later steps magnify the rounding of the first
    assert_close(losses[:12], expected[:12], rtol=5e-3, atol=5e-3)
    assert_close(losses[:6], run(make(**options), 0, 6), rtol=5e-3, atol=5e-3)  # and on a CPU


@cuda
def test_a_captured_training_goes_on_in_an_epoch():
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    whole, part, other = make("cuda"), make("cuda"), make("cuda")
    losses = run(whole)
    run(part, 0, 9)
    other.model.load_state_dict(part.model.state_dict())
    other.average.load_state_dict(part.average.state_dict())
    other.optimizer.load_state_dict(copy.deepcopy(part.optimizer.state_dict()))
    assert_close(run(other, 9, 15), losses[9:15], rtol=5e-3, atol=5e-3)


def test_images_are_mixed_until_the_last_tenth():
    """The last tenth trains on plain images, and the mixing is drawn from seed and step alone."""
    steps = make(mix="cutmix")
    drawn = [steps._draw(epoch) for epoch in range(4)]
    shares = torch.cat([epoch["mix_share"] for epoch in drawn])
    assert (shares[:21] > 0).any() and shares.shape == (24,)
    assert (shares[22:] == 0).all() and torch.equal(drawn[3]["mix_box"][4:], torch.zeros(2, 4))
    assert torch.equal(make(mix="cutmix")._draw(2)["mix_box"], drawn[2]["mix_box"])
    assert not torch.equal(drawn[1]["mix_box"], drawn[2]["mix_box"])


def test_mixing_changes_what_is_learned():
    losses = {}
    for kind in ("none", "mixup", "cutmix"):
        steps = make(mix=kind)
        for step in range(3):
            steps.run(step)
        losses[kind] = steps.losses[2].item()
    assert len({*losses.values()}) == 3


@mark.parametrize("teacher", [False, True])
@mark.parametrize("kind", ["none", "mixup", "cutmix"])
def test_a_loss_by_hand(kind, teacher):
    """Cross-entropy of smoothed labels, shared with the previous image where images are mixed, and a teacher."""
    steps = make(mix=kind, teacher=teacher, augment="light")
    drawn, model, position = steps._draw(1), copy.deepcopy(steps.model), 0
    if kind != "none":
        position = next(i for i, share in enumerate(drawn["mix_share"].tolist()) if 0.1 < share < 0.9)
    now = {key: value[position] for key, value in drawn.items()}
    steps.run(6 + position)
    images, labels = steps.train.train_batch(now, "light")
    targets = F.one_hot(labels, 5).float()
    if kind != "none":
        images, share = mix(images, kind, now["mix_share"], now["mix_box"]), now["mix_share"]
        targets = (1 - share) * targets + share * targets[torch.arange(-1, 7)]
    logits = model.train()(images, mask=now["input:mask"])
    loss = -((0.9 * targets + 0.1 / 5) * logits.log_softmax(1)).sum(1).mean()
    if teacher:
        share, ours = 0.5 * (6 + position) / 12, (logits / 4).log_softmax(1)
        theirs = (steps.teacher(images) / 4).log_softmax(1)
        loss = (1 - share) * loss + share * 16 * (theirs.exp() * (theirs - ours)).sum(1).mean()
    assert steps.losses[position].item() == approx(loss.item(), rel=1e-4)


def test_an_update_by_hand():
    """Nesterov momentum of 0.9; kernels and matrices decay, biases do not."""
    layer = torch.nn.Linear(2, 3)
    before = {name: value.detach().clone() for name, value in layer.named_parameters()}
    optimizer = make_optimizer(layer, Task1Config(lr=0.5, weight_decay=0.1))
    sum(value.sum() for value in layer.parameters()).backward()  # all slopes are 1
    optimizer.step()
    for name, value in layer.named_parameters():
        slope = 1 + 0.1 * before[name] * (name == "weight")
        assert_close(value.detach(), before[name] - 0.5 * 1.9 * slope)


def test_each_step_draws_one_of_the_sizes():
    """The sides that the network sees are drawn from seed and step alone; a resumed training sees the same."""
    steps, sides = make(train_sizes="24,36,32"), []
    steps.model.register_forward_pre_hook(lambda model, inputs: sides.append(inputs[0].shape[2:]))
    run(steps)
    assert {*sides} == {(24, 24), (32, 32), (36, 36)}
    resumed, other = make(train_sizes="24,36,32"), make(train_sizes="24,36,32", seed=1)
    late = {step: resumed._size(step) for step in reversed(range(9, 24))}  # whatever it was asked before
    assert [side for side, _ in sides[9:]] == [late[step] for step in range(9, 24)]
    assert [other._size(step) for step in range(24)] != [side for side, _ in sides]


def test_a_cut_box_belongs_to_the_size_of_its_step():
    steps = make(train_sizes="8,64", mix="cutmix")
    boxes = torch.cat([steps._draw(epoch)["mix_box"] for epoch in range(4)])
    small = torch.tensor([steps._size(step) == 8 for step in range(24)])
    assert boxes[small].max() <= 8 < boxes[~small].max() <= 64
