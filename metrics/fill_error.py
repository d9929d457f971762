"""Measure the errors of filled images and of the stem's responses to filled images, to compare fill rules.

S is the set of channels that an image has. The fill rule is a matrix P(S) that predicts all channels from the present
channels. The errors compare an image x with the filled image x_hat; W is the kernel of the stem:

pixel error       mean over the normalised channels of E (x_hat - x)^2; a channel filled with zero has error 1
fine detail       what is left of an image without its local means. If the covariance separated into channels and
                  space, a rule would have the same pixel error here, in units of the variance of the detail
stem error        E |W x_hat - W x|^2 / E |W x - E W x|^2, for the responses before BatchNorm
BatchNorm shift   KL divergence in nats, mean over filters, from the responses to the filled images to BatchNorm's
                  running statistics; both are treated as normal distributions
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from channelset import ChannelSetConv2d
from channelset.fill import Fill


def pixel_error(rule: Fill, moments: Tensor, ids: list[int]) -> float:
    """Compute the mean squared error of a filled pixel over all C channels: trace(error moments) / C.

    Args:
        rule: fill rule, which computes P(S) with C rows.
        moments: second moments E x x' of the normalised channels, (C, C).
        ids: ids of the present channels S.
    """
    channels = len(moments)
    error = torch.eye(channels, dtype=torch.float64)
    error[:, ids] -= rule.columns(ids).double()
    return float((error @ moments.double() @ error.T).trace()) / channels


def second_moments(images: Tensor) -> Tensor:
    """Compute the second moments of the channels of images (N, C, H, W), in double precision: (C, C)."""
    images = images.double()
    return torch.einsum("nchw,ndhw->cd", images, images) / (images.numel() / images.shape[1])


def fine_detail(images: Tensor, size: int) -> Tensor:
    """Subtract from each pixel the mean of its square of `size` x `size` pixels, and scale to a mean variance of 1.

    Args:
        images: (N, C, H, W). At the borders, the squares are cut off.
        size: side of the squares in pixels, odd.
    """
    fine = images - F.avg_pool2d(images, size, 1, size // 2, count_include_pad=False)
    return fine / fine.square().mean().sqrt()


def neighbour_error(train: Tensor, test: Tensor, ids: list[int], size: int) -> float:
    """Compute the pixel error on `test` when absent channels are predicted from neighbouring pixels.

    The predictor is linear. It reads all pixels of the present channels in a square of `size` x `size` pixels. Least
    squares fit the predictor on `train`.

    Args:
        train, test: images (N, C, H, W) of normalised channels.
        ids: ids of the present channels.
        size: side of the square in pixels, odd, at most the side of the images.
    """
    absent = [c for c in range(train.shape[1]) if c not in ids]
    if not absent:
        return 0.0

    def rows(images: Tensor) -> tuple[np.ndarray, np.ndarray]:
        edge = size // 2
        height, width = images.shape[2] - 2 * edge, images.shape[3] - 2 * edge
        inputs = F.unfold(images[:, ids], size).transpose(1, 2).flatten(0, 1)  # (N H' W', n size^2)
        targets = images[:, absent, edge : edge + height, edge : edge + width].flatten(2)
        return inputs.double().numpy(), targets.transpose(1, 2).flatten(0, 1).double().numpy()

    inputs, targets = rows(train)
    solution = np.linalg.solve(
        inputs.T @ inputs + 1e-6 * len(inputs) * np.eye(inputs.shape[1]), inputs.T @ targets
    )
    inputs, targets = rows(test)
    return float(((targets - inputs @ solution) ** 2).mean(0).sum()) / train.shape[1]


@torch.inference_mode()
def stem_statistics(
    stem: ChannelSetConv2d,
    norm: nn.BatchNorm2d,
    images: Tensor,
    ids: list[int],
    whole: nn.Conv2d | None = None,
) -> dict[str, float]:
    """Measure how the responses of the stem change if only a set S of channels is present.

    Args:
        stem: the first convolution, in eval mode.
        norm: the BatchNorm behind the stem, in eval mode.
        images: (N, C, H, W), normalised, with all channels.
        ids: ids of the channels S.
        whole: convolution to compare with; it reads all channels. None: use the stem itself with all channels.

    Returns:
        A dict with "stem_error" and "bn_shift", see the top of this file, and "variance_ratio". The variance ratio
        divides the variance of the responses to S by the variance of the responses to all channels. It is a geometric
        mean over the filters.
    """
    whole, part = whole or stem.fold(list(range(images.shape[1]))), stem.fold(ids)
    # five sums: of x and x^2 with all channels, of x and x^2 with S, and of the squared error
    totals = torch.zeros(5, stem.out_channels, dtype=torch.float64)
    count = 0
    for some in images.split(500):
        a, b = (y.double().transpose(0, 1).flatten(1) for y in (whole(some), part(some[:, ids])))
        totals += torch.stack([a.sum(1), (a**2).sum(1), b.sum(1), (b**2).sum(1), ((a - b) ** 2).sum(1)])
        count += a.shape[1]
    mean_a, square_a, mean_b, square_b, error = totals / count
    variance_a, variance_b = square_a - mean_a**2, square_b - mean_b**2
    running_mean, running = (norm.get_buffer(name).double() for name in ("running_mean", "running_var"))
    ratio = variance_b / running
    shift = 0.5 * (ratio + (mean_b - running_mean) ** 2 / running - 1 - ratio.log())
    return {
        "stem_error": float(error.sum() / variance_a.sum()),
        "bn_shift": float(shift.mean()),
        "variance_ratio": float((variance_b / variance_a).log().mean().exp()),
    }


def mean_energy(kernel: np.ndarray) -> float:
    """Return the share of a kernel's energy that lies in its mean over channels; 1 means that all channels are equal.

    The shape of the kernel is (O, C, k, k).
    """
    return float((kernel.mean(1) ** 2).sum() * kernel.shape[1] / (kernel**2).sum())
