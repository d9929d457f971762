"""Kernel generators and dynamic convolutions: sizes of the papers' stems, scale at the start, per-image
kernels.
"""

import math

import torch
import torch.nn.functional as F
from helpers import assert_near, value_error
from pytest import approx, mark
from torch.testing import assert_close

from metrics.cost import count_params
from models.kernels import Dynamic, HyperNetwork, Omni, Templates, Tied, Wavelength, convolve_per_image
from models.task1 import build_channel_net


@mark.parametrize(
    "kind, params", [(Tied, 64 * 49 + 3 * 64), (Templates, 401_792), (HyperNetwork, 839_360 - 64 * 49)]
)
def test_parameters_of_a_stem_of_64_filters_of_7x7(kind, params):
    assert count_params(kind(64, 3, 7)) == params


@mark.parametrize(
    "kind, macs",
    [(Tied, 64 * 3 * 49), (Templates, 64 * 3 * 49 * 128), (HyperNetwork, 3 * (128 * 256 + 256 * 64 * 49))],
)
def test_multiplications_that_generate_a_stem_of_64_filters_of_7x7(kind, macs):
    assert kind(64, 3, 7).macs() == macs


@mark.parametrize("kind", [Tied, Templates, HyperNetwork, Wavelength])
def test_generated_kernels_start_at_he_scale_and_learn(kind):
    kernel = kind(64, 3, 7)
    weight = kernel()
    assert weight.shape == (64, 3, 7, 7)
    assert weight.std().item() == approx(math.sqrt(2 / (64 * 49)), rel=0.25)
    assert weight.std((0, 2, 3)).min() > 0.4 * weight.std() and not torch.allclose(weight[:, 0], weight[:, 1])
    weight.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in kernel.parameters())
    assert kernel.macs() > 0


@mark.parametrize("kind", [Tied, Templates, HyperNetwork, Wavelength])
def test_a_step_moves_a_generated_kernel_about_as_far_as_a_plain_one(kind):
    """One gradient step on a random linear loss, relative to the same step of a free W."""
    torch.manual_seed(0)
    kernel, direction = kind(16, 3, 7), torch.randn(16, 3, 7, 7)
    before = kernel()
    (before * direction).sum().backward()
    with torch.no_grad():
        for p in kernel.parameters():
            p -= 1e-4 * p.grad
        moved = (kernel() - before).norm() / (1e-4 * direction.norm())
    assert 0.3 < moved < 3


@mark.parametrize("count, rank", [(1, 1), (2, 2), (128, 3)])
def test_few_templates_limit_the_rank_across_channels(count, rank):
    weight = Templates(64, 3, 5, count)()
    assert weight.std().item() == approx(math.sqrt(2 / (64 * 25)), rel=0.1)
    assert torch.linalg.matrix_rank(weight.transpose(0, 1).flatten(1), rtol=1e-4) == rank


def test_generated_kernels_keep_channels_and_filters_in_their_places():
    """The slice of channel c depends on the descriptor of c alone."""
    kernel = HyperNetwork(4, 3, 5)
    before = kernel().detach()
    with torch.no_grad():
        kernel.descriptors[1] += 1
    changed = (kernel() != before).flatten(2).any(2)
    assert changed[:, 1].all() and not changed[:, [0, 2]].any()


def test_wavelengths_are_one_a_channel():
    assert Wavelength(4, 2, 3, [0.4, 0.8])().shape == (4, 2, 3, 3)
    for rows, wavelengths in ((4, None), (3, [0.5])):
        with value_error(f"one wavelength for each of {rows} channels"):
            Wavelength(4, rows, 3, wavelengths)


def test_a_wavelength_is_described_by_sines_and_cosines():
    """In nm, with 64 frequencies from 1 down to almost 1 / 10,000; red, green and blue are the usual channels."""
    features, steps = Wavelength(4, 3, 3).descriptors, torch.arange(64) / 64
    for row, nm in zip(features, (665, 560, 490)):
        angles = nm / 10_000**steps
        assert_close(row, torch.cat([angles.sin(), angles.cos()]), rtol=1e-3, atol=1e-3)
    channels = {"B": 490.0, "R": 665.0}
    net = build_channel_net("resnet10", channels, 5, "zero", kernel="wavelength", width=0.125)
    assert_close(net.conv1.generator.descriptors, features[[2, 0]])


@mark.parametrize("stride, padding, dilation", [(1, 0, 1), (2, 3, 1), (3, 2, 2)])
def test_a_kernel_for_each_image_is_a_convolution_of_each_image(stride, padding, dilation):
    x, weight = torch.randn(3, 2, 17, 12), torch.randn(3, 4, 2, 5, 5)
    expected = torch.cat(
        [F.conv2d(image[None], w, None, stride, padding, dilation) for image, w in zip(x, weight)]
    )
    assert_near(convolve_per_image(x, weight, stride, padding, dilation), expected, 1e-4)


def test_dynamic_convolution_mixes_its_kernels_by_the_image():
    kernel, x = Dynamic(4, 3, 5).eval(), torch.randn(2, 3, 9, 9) + torch.tensor([3.0, -3.0]).view(2, 1, 1, 1)
    kernel.temperature.fill_(1)
    attention = F.softmax(kernel.over_kernels(kernel.trunk(x.mean((2, 3)))), dim=1)
    bank = kernel.kernels.view(4, 4, 3, 5, 5)
    expected = sum(attention[:, k, None, None, None] * F.conv2d(x, bank[k], padding=2) for k in range(4))
    assert_near(kernel.convolve(x, 1, 2, 1), expected)
    assert (attention[0] - attention[1]).abs().max() > 0.1


def test_omni_attends_to_positions_inputs_and_outputs():
    kernel, x = Omni(4, 3, 3).eval(), torch.randn(2, 3, 9, 9)
    trunk = kernel.trunk(x.mean((2, 3)))
    gates = [
        torch.sigmoid(layer(trunk) / 30)
        for layer in (kernel.over_positions, kernel.over_inputs, kernel.over_outputs)
    ]
    attention = F.softmax(kernel.over_kernels(trunk) / 30, dim=1)
    for i in range(2):
        weight = (attention[i] @ kernel.kernels).view(4, 3, 3, 3) * gates[0][i].view(3, 3)
        expected = F.conv2d(x[i : i + 1] * gates[1][i].view(3, 1, 1), weight, padding=1) * gates[2][i].view(
            4, 1, 1
        )
        assert_near(kernel.convolve(x, 1, 1, 1)[i : i + 1], expected)


def test_temperature_falls_to_one_in_training_only():
    kernel, x = Dynamic(2, 3, 3, anneal_steps=2), torch.randn(2, 3, 5, 5)
    seen = []
    for training in (False, True, True, True):
        kernel.train(training).convolve(x, 1, 1, 1)
        seen.append(kernel.temperature.item())
    assert seen == [30, 15.5, 1, 1]
