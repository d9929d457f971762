"""Fill rules: how an absent channel is predicted from the present ones.

A rule maps a presence mask to a matrix P(S). Row j says which present channels stand in for kernel channel j,
so that filling the image, x_hat = P(S) x, and generating the kernel, K(S) = W P(S), are the same linear map.
Every naive treatment of missing channels is one choice of P:

    rule         row j of P(S), S the present set, n = |S|, C = all channels
    zero         e_j if j in S, else 0                      zero imputation, sliced kernel
    rescale      C/n e_j if j in S, else 0                  HCS baseline of ChannelViT (2309.16108);
                                                            partial convolution (1804.07723)
    mean         e_j if j in S, else 1/n on all of S        replicate (n = 1), mean imputation
    grey         1/n on all of S                            colour discarded
    regression   e_j if j in S, else Sigma_jS Sigma_SS^-1   Wiener filter, conditional mean of a Gaussian
    by_size      as regression, kernel channels of its own for each size n of the set: row (n, j) is row j
    learned      as regression, absent rows corrected by a network of the mask
    conditioned  as learned, the network also sees mean and spread of the image's present channels
    black        e_j; absent pixels are black, not mean     zero *before* normalisation (the usual bug)
    luma_chroma  row 0: 1/n on S; row 1+c: e_c - 1/n on S   open set: also takes channels never trained on
                 if c in S
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .names import UNSEEN
from .statistics import correlations

RIDGE = 1e-6  # share of the mean variance that the regression takes as noise


class Fill(nn.Module):
    """Base of the rules.

    Args:
        channels: C, the number of known channels.

    Attributes:
        rows: number of kernel channels that P has rows for.
        mixed: how many of the rows have to be multiplied out to generate a kernel.
        absent: (C,) value an absent pixel takes before P is applied, or None for zero.
        per_image: whether P depends on the image as well; then it is called with the images, absent channels
            zero.
    """

    per_image = False
    absent: Tensor | None
    eye: Tensor

    def __init__(self, channels: int):
        super().__init__()
        self.channels = self.rows = self.mixed = channels
        self.register_buffer("absent", None)
        self.register_buffer("eye", torch.eye(channels), persistent=False)

    def forward(self, mask: Tensor) -> Tensor:
        """Presence mask (..., C), bool -> P (..., rows, C), float32; columns of absent channels are zero."""
        raise NotImplementedError

    def spread(self, kernel: Tensor) -> Tensor:
        """W (O, rows, k, k) for which W P(all) is `kernel` (O, C, k, k)."""
        return kernel

    def columns(self, ids: list[int]) -> Tensor:
        """P for one set of channels, its columns in the order of `ids`: (rows, n)."""
        return self(self.eye[ids].any(0))[:, ids]


def _shares(mask: Tensor) -> Tensor:
    """1/n for present channels, 0 for absent ones: (..., C)."""
    present = mask.float()
    return present / present.sum(-1, keepdim=True).clamp(min=1)


class Zero(Fill):
    def __init__(self, channels: int):
        super().__init__(channels)
        self.mixed = 0  # it selects slices of W

    def forward(self, mask):
        return torch.diag_embed(mask.float())


class Rescale(Fill):
    def __init__(self, channels: int):
        super().__init__(channels)
        self.mixed = 1  # one factor for each slice

    def forward(self, mask):
        return torch.diag_embed(self.channels * _shares(mask))


class Grey(Fill):
    def forward(self, mask):
        return _shares(mask).unsqueeze(-2).expand(*mask.shape, self.channels)


class Mean(Fill):
    def forward(self, mask):
        absent = ~mask.unsqueeze(-1)
        return torch.diag_embed(mask.float()) + absent * _shares(mask).unsqueeze(-2)


class Black(Fill):
    """Absent pixels take the value of black after normalisation, -mean/std: (C,)."""

    def __init__(self, channels: int, black: Tensor):
        super().__init__(channels)
        self.absent = black.clone().float()

    def forward(self, mask):
        return self.eye.expand(*mask.shape, self.channels)


class Regression(Fill):
    """Best linear prediction from the training covariance of the normalised channels.

    Args:
        covariance: (C, C); it stays float32 whatever type the network is converted to, since rounded it gives
            another P.
        ridge: noise in the present channels, as a share of their mean variance. The default is a hair that
            keeps the prediction defined when two channels are copies of each other; 1e-2 suits noisy ones.

    Raises:
        ValueError: a covariance of another shape, or none of any data, see `statistics.correlations`.
    """

    def __init__(self, channels: int, covariance: Tensor, ridge: float = RIDGE):
        super().__init__(channels)
        covariance = torch.as_tensor(covariance)
        if covariance.shape != (channels, channels):
            raise ValueError(
                f"covariance has shape {tuple(covariance.shape)}, expected ({channels}, {channels})"
            )
        if not 0 <= ridge < float("inf"):
            raise ValueError(f"ridge {ridge}: must be at least 0")
        covariance = correlations(covariance, torch.ones(channels))
        covariance = covariance + ridge * covariance.diagonal().mean() * torch.eye(
            channels, dtype=torch.float64
        )
        self.register_buffer("covariance", covariance.float())

    def _apply(self, fn, recurse=True):
        exact = self.covariance
        super()._apply(fn, recurse)
        if not exact.is_meta and self.covariance.dtype != exact.dtype:
            self.covariance = exact.to(self.covariance.device)
        return self

    def forward(self, mask):
        # sweep operator: after column k of the set, entry (j, k) is the coefficient of k in predicting j. Plain
        # arithmetic, so that it can be captured, compiled and exported, where a solver cannot
        swept, eye = self.covariance.float().expand(*mask.shape, self.channels), self.eye.float()
        for k in range(self.channels):
            column = swept[..., k] - eye[k]
            share = mask[..., k] / swept[..., k, k]
            swept = swept - share[..., None, None] * column.unsqueeze(-1) * column.unsqueeze(-2)
        return torch.where(mask.unsqueeze(-1), eye, swept * mask.unsqueeze(-2))


class BySize(Regression):
    """The regression fill with kernels W_1 .. W_C, one for each size of the set: K(S) = W_n P(S), all equal
    at the start.

    With one channel, filters that compare channels see little; their own kernels let small sets use all
    filters.
    """

    def __init__(self, channels: int, covariance: Tensor, ridge: float = RIDGE):
        super().__init__(channels, covariance, ridge)
        self.rows = channels**2

    def forward(self, mask):
        size = nn.functional.one_hot((mask.sum(-1) - 1).clamp(min=0), self.channels).float()  # (..., C)
        return (size[..., :, None, None] * super().forward(mask)[..., None, :, :]).flatten(-3, -2)

    def spread(self, kernel):
        return kernel.repeat(1, self.channels, 1, 1)


def _correction(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Builds a small network whose output is zero at the start."""
    first, last = nn.Linear(inputs, hidden), nn.Linear(hidden, outputs)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(first, nn.ReLU(), last)


class Learned(Regression):
    """The regression fill plus a correction of the absent rows by a small network of the mask, zero at the
    start.
    """

    def __init__(self, channels: int, covariance: Tensor, ridge: float = RIDGE, hidden: int = 16):
        super().__init__(channels, covariance, ridge)
        self.correction = _correction(channels, hidden, channels**2)

    def forward(self, mask):
        correction = self.correction(mask.to(self.correction[0].weight)).unflatten(
            -1, (self.channels, self.channels)
        )
        return super().forward(mask) + correction * (~mask.unsqueeze(-1) & mask.unsqueeze(-2))


class Conditioned(Regression):
    """The regression fill plus a correction of the absent rows by a small network of the mask and of the
    image.

    The network sees each present channel's mean and standard deviation: a dynamic convolution (1912.03458)
    whose attention acts on the C x C fill matrix, the cheapest place.
    """

    per_image = True

    def __init__(self, channels: int, covariance: Tensor, ridge: float = RIDGE, hidden: int = 16):
        super().__init__(channels, covariance, ridge)
        self.correction = _correction(3 * channels, hidden, channels**2)

    def forward(self, mask, images):
        """Masks (B, C) and images (B, C, H, W), zero where absent -> P (B, C, C)."""
        seen = torch.cat([mask, images.mean((2, 3)), images.flatten(2).std(2, correction=0)], dim=1)
        seen = seen.to(self.correction[0].weight)
        correction = self.correction(seen).unflatten(-1, (self.channels, self.channels))
        return super().forward(mask) + correction * (~mask.unsqueeze(-1) & mask.unsqueeze(-2))


class LumaChroma(Fill):
    """Open-set form: kernel channel 0 reads the mean of the present channels, 1 + c reads channel c minus
    that mean.

    A channel that was never trained on (`UNSEEN`) takes the mean chroma kernel of the known ones.
    """

    def __init__(self, channels: int):
        super().__init__(channels)
        self.rows = self.mixed = 1 + channels

    def forward(self, mask):
        shares = _shares(mask).unsqueeze(-2)  # (..., 1, C)
        chroma = torch.diag_embed(mask.float()) - mask.float().unsqueeze(-1) * shares
        return torch.cat([shares, chroma], dim=-2)  # (..., 1 + C, C)

    def spread(self, kernel):
        return torch.cat([kernel.sum(1, keepdim=True), kernel - kernel.mean(1, keepdim=True)], dim=1)

    def columns(self, ids):
        n = len(ids)
        # (C, n)
        select = torch.stack([self.eye.mean(0) if i == UNSEEN else self.eye[i] for i in ids], dim=1)
        return torch.cat([select.new_full((1, n), 1 / n), select - select.mean(1, keepdim=True)])


FILLS = {
    "zero": Zero,
    "rescale": Rescale,
    "mean": Mean,
    "grey": Grey,
    "regression": Regression,
    "by_size": BySize,
    "learned": Learned,
    "conditioned": Conditioned,
    "black": Black,
    "luma_chroma": LumaChroma,
}


def build_fill(
    name: str,
    channels: int,
    mean: Tensor | None = None,
    std: Tensor | None = None,
    covariance: Tensor | None = None,
    ridge: float = RIDGE,
    names=None,
) -> Fill:
    """Make a rule by name.

    Args:
        name: a key of `FILLS`.
        channels: C.
        mean, std: (C,) of the raw channels, which images are normalised with; `black` needs them.
        covariance: (C, C) of the raw channels; `regression` and the rules made of it need it. Scaled to
            correlations with `std`, by default the root of its diagonal.
        ridge: as in `Regression`.
        names: C names, for messages.

    Raises:
        ValueError: unknown name, a statistic the rule needs is missing, or one that is none of any data.
    """
    if name not in FILLS:
        raise ValueError(f"unknown fill rule {name!r}; choose one of {', '.join(FILLS)}")
    if name == "black":
        if mean is None or std is None:
            raise ValueError("fill rule 'black' needs the channels' mean and std")
        return Black(channels, -torch.as_tensor(mean) / torch.as_tensor(std))
    if issubclass(FILLS[name], Regression):
        if covariance is None:
            raise ValueError(
                f"fill rule {name!r} needs the channels' training covariance: give covariance= "
                f"(channel_statistics computes it), or take fill='mean', which needs none"
            )
        covariance = torch.as_tensor(covariance)
        if covariance.shape != (channels, channels):
            raise ValueError(
                f"covariance has shape {tuple(covariance.shape)}, expected ({channels}, {channels})"
            )
        return FILLS[name](channels, correlations(covariance, std, names), ridge)
    return FILLS[name](channels)
