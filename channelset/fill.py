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

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from .names import UNSEEN
from .restore import Restored
from .statistics import correlations, numbers

RIDGE = 1e-6  # share of the mean variance that the regression takes as noise
SWEPT = 16  # up to so many channels the regression is plain arithmetic, above it a solver is faster
CACHED = 256  # sets whose coefficients a rule remembers in eval mode


class Fill(Restored):
    """Base of the rules.

    Args:
        channels: C, the number of known channels.

    Attributes:
        rows: number of kernel channels that P has rows for.
        mixed: how many of the rows have to be multiplied out to generate a kernel.
        whole: whether P is the identity where all channels are present, and need not be computed.
        absent: (C,) value an absent pixel takes before P is applied, or None for zero.
        centre: (C,) mean of images that were not centred, or None. Then x_hat = centre + P (x - centre).
        per_image: whether P depends on the image as well; then it is called with the images, absent channels
            zero.
    """

    per_image = False
    whole = True
    absent: Tensor | None
    centre: Tensor | None

    def __init__(self, channels: int):
        super().__init__()
        self.channels = self.rows = self.mixed = channels
        self.exact: dict[str, Tensor] = {}  # what the buffers were made with
        self.register_buffer("absent", None)
        self.register_buffer("centre", None)

    def hold(self, name: str, value: Tensor) -> None:
        """Keep a statistic as a buffer that stays float32 whatever type the network is converted to."""
        self.exact[name] = value.detach().to("cpu", torch.float32).clone()
        # under a device context of the caller, such as "meta", as a parameter would be
        self.register_buffer(name, torch.empty_like(self.exact[name], device=torch.empty(0).device))
        self.restore(name)

    def restore(self, name: str) -> None:
        if name in self.exact:
            buffer = self._buffers[name]
            assert buffer is not None
            if not buffer.is_meta:
                self._buffers[name] = self.exact[name].to(buffer.device, copy=True)

    def reset_parameters(self) -> None:
        """Set the statistics to those that the rule was made with."""
        for name in self.exact:
            self.restore(name)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        before = {name: self._buffers[name] for name in self.exact}
        super()._apply(fn, recurse)
        for name, value in before.items():
            after = self._buffers[name]
            if value is not None and after is not None and not value.is_meta and after.dtype != value.dtype:
                self._buffers[name] = value.to(after.device)
        return self

    def forward(self, mask: Tensor) -> Tensor:
        """Make P (..., rows, C), float32, of presence masks (..., C), bool; columns of absent channels are zero."""
        raise NotImplementedError

    def spread(self, kernel: Tensor) -> Tensor:
        """Return W (O, rows, k, k) for which W P(all) is `kernel` (O, C, k, k)."""
        return kernel

    def columns(self, ids: Sequence[int], device: torch.device | None = None) -> Tensor:
        """Return P for one set of channels, its columns in the order of `ids`: (rows, n).

        `device` is where it is computed by rules that have no statistics.
        """
        matrix: Tensor = self(torch.tensor([i in ids for i in range(self.channels)], device=device))
        return matrix[:, list(ids)]

    def complete(self, x: Tensor, mask: Tensor) -> Tensor:
        """Fill images: x (B, C, ...) and masks (B, C) -> x_hat (B, rows, ...).

        Pixels of absent channels have no influence, even where they are NaN.
        """
        present = mask.view(*mask.shape, *[1] * (x.ndim - 2))
        if self.centre is not None:
            x = x - _along(self.centre.to(x), x)
        absent = x.new_zeros(()) if self.absent is None else _along(self.absent.to(x), x)
        x = self._mix(torch.where(present, x, absent), mask)
        return x if self.centre is None else x + _along(self.centre.to(x), x)

    def shift(self, ids: Sequence[int]) -> Tensor | None:
        """Return what P x lacks to x_hat on one set of channels: (C,), or None for nothing."""
        if self.centre is None:
            return None
        return self.centre - self.columns(ids, self.centre.device) @ self.centre[list(ids)]

    def by_image(self, x: Tensor) -> bool:
        """Say whether many channels on a CPU make it faster to treat images with different sets one by one."""
        return False

    def _mix(self, x: Tensor, mask: Tensor) -> Tensor:
        """Apply P to images (B, C, ...), zero where absent, which may be overwritten."""
        with exactly(x.device):  # the rule's small solve stays in float32
            # (B, rows, C)
            mixing = (self(mask, x.float()) if self.per_image else self(mask)).to(x)
        return _product(mixing, x)


def exactly(device: torch.device) -> AbstractContextManager[Any]:
    """Switch autocast off; the meta device has none."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def _product(matrices: Tensor, x: Tensor) -> Tensor:
    """Multiply (B, r, C) with the channels of images (B, C, ...)."""
    if _channels_last(x):
        # pixels as rows, (B, H W, C): neither the images nor what comes out is copied
        pixels = x.permute(0, 2, 3, 1).flatten(1, 2)
        return torch.unflatten(pixels @ matrices.mT, 1, x.shape[2:]).permute(0, 3, 1, 2)
    return torch.unflatten(matrices @ x.flatten(2), 2, x.shape[2:])


def _channels_last(x: Tensor) -> bool:
    return x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def _along(value: Tensor, x: Tensor) -> Tensor:
    """Give (C,) or (B, C) the axes of images x (B, C, ...)."""
    return value.view(*value.shape, *[1] * (x.ndim - 2))


def _shares(mask: Tensor) -> Tensor:
    """Return 1/n for present channels, 0 for absent ones: (..., C)."""
    present = mask.float()
    return present / present.sum(-1, keepdim=True).clamp(min=1)


def _diagonal(values: Tensor) -> Tensor:
    """Put values (..., C) on the diagonals of matrices; exporters know this, not torch.diag_embed."""
    return values.unsqueeze(-1) * torch.eye(values.shape[-1], device=values.device)


class Zero(Fill):
    def __init__(self, channels: int):
        super().__init__(channels)
        self.mixed = 0  # it selects slices of W

    def forward(self, mask: Tensor) -> Tensor:
        return _diagonal(mask.float())

    def _mix(self, x: Tensor, mask: Tensor) -> Tensor:
        return x


class Rescale(Fill):
    def __init__(self, channels: int):
        super().__init__(channels)
        self.mixed = 1  # one factor for each slice

    def forward(self, mask: Tensor) -> Tensor:
        return _diagonal(self.channels * _shares(mask))

    def _mix(self, x: Tensor, mask: Tensor) -> Tensor:
        return x * _along((self.channels * _shares(mask)).to(x), x)


class Grey(Fill):
    whole = False

    def forward(self, mask: Tensor) -> Tensor:
        return _shares(mask).unsqueeze(-2).expand(*mask.shape, self.channels)


class Mean(Fill):
    def forward(self, mask: Tensor) -> Tensor:
        absent = ~mask.unsqueeze(-1)
        return _diagonal(mask.float()) + absent * _shares(mask).unsqueeze(-2)

    def _mix(self, x: Tensor, mask: Tensor) -> Tensor:
        mean = _product(_shares(mask).to(x).unsqueeze(1), x)
        return torch.where(_along(mask, x), x, mean)


class Black(Fill):
    """Absent pixels take the value of black after normalisation, -mean/std: (C,)."""

    def __init__(self, channels: int, black: Tensor):
        super().__init__(channels)
        self.hold("absent", black)

    def forward(self, mask: Tensor) -> Tensor:
        return torch.eye(self.channels, device=mask.device).expand(*mask.shape, self.channels)

    def _mix(self, x: Tensor, mask: Tensor) -> Tensor:
        return x


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

    covariance: Tensor
    corrected = False  # whether P is more than the regression

    def __init__(self, channels: int, covariance: Tensor, ridge: float = RIDGE):
        super().__init__(channels)
        covariance = numbers(covariance, "covariance")
        if covariance.shape != (channels, channels):
            raise ValueError(
                f"covariance has shape {tuple(covariance.shape)}, expected ({channels}, {channels})"
            )
        if not 0 <= ridge < float("inf"):
            raise ValueError(f"ridge {ridge}: must be at least 0")
        covariance = correlations(covariance, torch.ones(channels, device="cpu"))
        variance = covariance.diagonal().mean()
        least, vectors = torch.linalg.eigh(covariance)
        if (
            least[0] < -1e-7 * variance
        ):  # of rounded numbers: P needs the nearest one without negative variance
            covariance = vectors @ torch.diag(least.clamp(min=0)) @ vectors.T
        if least[0].clamp(min=0) + ridge * variance < 3e-7 * variance:
            raise ValueError(
                f"ridge {ridge}: channel {int(vectors[:, 0].abs().argmax())} follows exactly from the others, and "
                f"then the regression needs a ridge of 1e-6 or more"
            )
        self.hold(
            "covariance",
            covariance + ridge * variance * torch.eye(channels, dtype=torch.float64, device="cpu"),
        )
        self.cache: dict[tuple[int, ...], tuple[Any, Tensor]] = {}  # set -> what it is valid for, P

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "cache": {}}

    def forward(self, mask: Tensor) -> Tensor:
        mask = mask.to(self.covariance.device)
        if self.channels <= SWEPT or captured():
            return self._sweep(mask)
        return self._solve(mask.reshape(-1, self.channels)).view(*mask.shape, self.channels)

    def _sweep(self, mask: Tensor) -> Tensor:
        # sweep operator: after column k of the set, entry (j, k) is the coefficient of k in predicting j. Plain
        # arithmetic, so that it can be captured, compiled and exported, where a solver cannot
        eye = torch.eye(self.channels, device=mask.device)
        swept = self.covariance.float().expand(*mask.shape, self.channels)
        for k in range(self.channels):
            column = swept[..., k] - eye[k]
            share = mask[..., k] / swept[..., k, k]
            swept = swept - share[..., None, None] * column.unsqueeze(-1) * column.unsqueeze(-2)
        return torch.where(mask.unsqueeze(-1), eye, swept * mask.unsqueeze(-2))

    def _solve(self, mask: Tensor) -> Tensor:
        """Compute the same by Cholesky's decomposition, in double precision: masks (N, C) -> (N, C, C)."""
        if mask.device.type == "cpu":  # only the rows and columns that are needed
            matrices = torch.zeros(len(mask), self.channels, self.channels)
            for matrix, row in zip(matrices, mask.tolist()):
                ids = [i for i, here in enumerate(row) if here]
                matrix[:, ids] = self._regression(ids)
            return matrices
        exact = torch.float32 if mask.device.type == "mps" else torch.float64
        covariance, present = self.covariance.to(exact), mask.to(exact)
        known = covariance * present.unsqueeze(-1)
        factor = torch.linalg.cholesky_ex(known * present.unsqueeze(-2) + torch.diag_embed(1 - present))[0]
        solved = torch.cholesky_solve(known, factor).mT * present.unsqueeze(-2)
        eye = torch.eye(self.channels, device=mask.device)
        return torch.where(mask.unsqueeze(-1), eye, solved.float())

    def columns(self, ids: Sequence[int], device: torch.device | None = None) -> Tensor:
        device = self.covariance.device
        return super().columns(ids, device) if self.corrected or captured() else self._regression(ids)

    def _regression(self, ids: Sequence[int]) -> Tensor:
        """Return the regression's columns (C, n) of one set, which it remembers in eval mode."""
        version = None if self.covariance.is_inference() else self.covariance._version
        stamp, key = (self.covariance.data_ptr(), version), tuple(ids)
        if not self.training and key in self.cache and self.cache[key][0] == stamp:
            return self.cache[key][1]
        with torch.inference_mode(False), torch.no_grad():  # others may learn with what is remembered
            columns = self._compute(list(ids))
        if not self.training:
            if len(self.cache) >= CACHED:
                self.cache.clear()
            self.cache[key] = (stamp, columns)
        return columns

    def _compute(self, ids: list[int]) -> Tensor:
        device, absent = self.covariance.device, _others(ids, self.channels)
        if self.channels <= SWEPT:
            return self._sweep(torch.tensor([i in ids for i in range(self.channels)], device=device))[:, ids]
        columns = torch.zeros(self.channels, len(ids), device=device)
        columns[ids, range(len(ids))] = 1
        if absent:
            rows = self.covariance[ids].to(torch.float32 if device.type == "mps" else torch.float64)
            factor, wrong = torch.linalg.cholesky_ex(rows[:, ids])
            if wrong:  # a covariance that was loaded, of rounded numbers
                solved = torch.linalg.pinv(rows[:, ids], hermitian=True) @ rows[:, absent]
            else:
                solved = torch.cholesky_solve(rows[:, absent], factor)
            columns[absent] = solved.mT.float()
        return columns

    def _mix(self, x: Tensor, mask: Tensor) -> Tensor:
        if x.requires_grad or not self.by_image(x):
            return super()._mix(x, mask)
        # image by image only the absent channels are computed: a quarter of the products, or fewer
        last, sets = _channels_last(x), dict[tuple[int, ...], tuple[Tensor, Tensor, Tensor]]()
        x = x if last else x.contiguous()
        for image, row in zip(x, mask.tolist()):
            present = [i for i, here in enumerate(row) if here]
            absent, key = _others(present, self.channels), tuple(present)
            if not absent:
                continue
            if key not in sets:
                away = torch.tensor(absent)
                sets[key] = (self._regression(present)[away].to(x), torch.tensor(present), away)
            coefficients, here, away = sets[key]
            if last:
                pixels = image.permute(1, 2, 0).flatten(0, 1)
                pixels.index_copy_(1, away, pixels.index_select(1, here) @ coefficients.mT)
            else:
                pixels = image.flatten(1)
                pixels.index_copy_(0, away, coefficients @ pixels.index_select(0, here))
        return x

    def by_image(self, x: Tensor) -> bool:
        return not self.corrected and self.channels > SWEPT and x.device.type == "cpu" and not captured()


def _others(ids: Sequence[int], channels: int) -> list[int]:
    present = set(ids)
    return [i for i in range(channels) if i not in present]


def captured() -> bool:
    """Say whether a compiler or an exporter is watching, which cannot follow a solver."""
    return torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None


class _ZeroAtStart(nn.Linear):
    """A layer that gives zero until it is trained."""

    def reset_parameters(self) -> None:
        super().reset_parameters()  # takes the random numbers that a plain layer takes
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)


class BySize(Regression):
    """The regression fill with kernels W_1 .. W_C, one for each size of the set: K(S) = W_n P(S), all equal
    at the start.

    With one channel, filters that compare channels see little; their own kernels let small sets use all
    filters.
    """

    whole = False
    corrected = True

    def __init__(self, channels: int, covariance: Tensor, ridge: float = RIDGE):
        super().__init__(channels, covariance, ridge)
        self.rows = channels**2

    def forward(self, mask: Tensor) -> Tensor:
        size = nn.functional.one_hot((mask.sum(-1) - 1).clamp(min=0), self.channels).float()  # (..., C)
        return (size[..., :, None, None] * super().forward(mask)[..., None, :, :]).flatten(-3, -2)

    def spread(self, kernel: Tensor) -> Tensor:
        return kernel.repeat(1, self.channels, 1, 1)


class Learned(Regression):
    """The regression fill plus a correction of the absent rows by a small network of the mask, zero at the
    start.
    """

    corrected = True
    whole = False  # it is, but the correction must get a gradient of zero, not none, as distributed training wants
    correction: nn.Sequential

    def __init__(self, channels: int, covariance: Tensor, ridge: float = RIDGE, hidden: int = 16):
        super().__init__(channels, covariance, ridge)
        self.correction = nn.Sequential(
            nn.Linear(channels, hidden), nn.ReLU(), _ZeroAtStart(hidden, channels**2)
        )

    def forward(self, mask: Tensor) -> Tensor:
        mask = mask.to(self.covariance.device)
        correction = self.correction(mask.to(next(self.correction.parameters()))).unflatten(
            -1, (self.channels, self.channels)
        )
        corrected: Tensor = super().forward(mask) + correction * (~mask.unsqueeze(-1) & mask.unsqueeze(-2))
        return corrected


class Conditioned(Regression):
    """The regression fill plus a correction of the absent rows by a small network of the mask and of the
    image.

    The network sees each present channel's mean and standard deviation: a dynamic convolution (1912.03458)
    whose attention acts on the C x C fill matrix, the cheapest place.
    """

    per_image = True
    corrected = True
    whole = False  # it is, but the correction must get a gradient of zero, not none, as distributed training wants
    correction: nn.Sequential

    def __init__(self, channels: int, covariance: Tensor, ridge: float = RIDGE, hidden: int = 16):
        super().__init__(channels, covariance, ridge)
        self.correction = nn.Sequential(
            nn.Linear(3 * channels, hidden), nn.ReLU(), _ZeroAtStart(hidden, channels**2)
        )

    def forward(self, mask: Tensor, images: Tensor) -> Tensor:  # type: ignore[override]
        """Masks (B, C) and images (B, C, ...), zero where absent -> P (B, C, C)."""
        seen = torch.cat(
            [mask, images.mean(tuple(range(2, images.ndim))), images.flatten(2).std(2, correction=0)], dim=1
        )
        seen = seen.to(next(self.correction.parameters()))
        correction = self.correction(seen).unflatten(-1, (self.channels, self.channels))
        corrected: Tensor = super().forward(mask) + correction * (~mask.unsqueeze(-1) & mask.unsqueeze(-2))
        return corrected


class LumaChroma(Fill):
    """Open-set form: kernel channel 0 reads the mean of the present channels, 1 + c reads channel c minus
    that mean.

    A channel that was never trained on (`UNSEEN`) takes the mean chroma kernel of the known ones.
    """

    whole = False

    def __init__(self, channels: int):
        super().__init__(channels)
        self.rows = self.mixed = 1 + channels

    def forward(self, mask: Tensor) -> Tensor:
        shares = _shares(mask).unsqueeze(-2)  # (..., 1, C)
        chroma = _diagonal(mask.float()) - mask.float().unsqueeze(-1) * shares
        return torch.cat([shares, chroma], dim=-2)  # (..., 1 + C, C)

    def spread(self, kernel: Tensor) -> Tensor:
        return torch.cat([kernel.sum(1, keepdim=True), kernel - kernel.mean(1, keepdim=True)], dim=1)

    def columns(self, ids: Sequence[int], device: torch.device | None = None) -> Tensor:
        n, eye = len(ids), torch.eye(self.channels, device=device)
        # (C, n)
        select = torch.stack([eye.mean(0) if i == UNSEEN else eye[i] for i in ids], dim=1)
        return torch.cat([select.new_full((1, n), 1 / n), select - select.mean(1, keepdim=True)])


FILLS: dict[str, type[Fill]] = {
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


def rule_name(fill: Fill) -> str:
    """Return the key of `FILLS`, or of a class of one's own its name."""
    return next((name for name, kind in FILLS.items() if type(fill) is kind), type(fill).__name__)


def build_fill(
    name: str,
    channels: int,
    mean: Any = None,
    std: Any = None,
    covariance: Any = None,
    ridge: float = RIDGE,
    names: Sequence[str] | None = None,
    centre: Any = None,
) -> Fill:
    """Make a rule by name. It takes from the statistics what it needs: all of them may be given.

    Args:
        name: a key of `FILLS`.
        channels: C.
        mean, std: (C,) of the raw channels, which images are normalised with; `black` needs them.
        covariance: (C, C) of the raw channels; `regression` and the rules made of it need it. Scaled to
            correlations with `std`, by default the root of its diagonal.
        ridge: as in `Regression`.
        names: C names, for messages.
        centre: (C,) mean of the images that the network sees, where it was not subtracted. Without it the
            rules take zero for the mean of every channel.

    Raises:
        ValueError: unknown name, a statistic the rule needs is missing, one that is none of any data, or a
            centre for a rule that has no use for it.
    """
    if name not in FILLS:
        raise ValueError(f"unknown fill rule {name!r}; choose one of {', '.join(FILLS)}")
    if name == "black":
        if mean is None or std is None:
            raise ValueError("fill rule 'black' needs the channels' mean and std")
        fill: Fill = Black(channels, -numbers(mean, "mean") / numbers(std, "std"))
    elif issubclass(FILLS[name], Regression):
        if covariance is None:
            raise ValueError(
                f"fill rule {name!r} needs the channels' training covariance: give covariance= "
                f"(channel_statistics computes it), or take fill='mean', which needs none"
            )
        covariance = numbers(covariance, "covariance")
        if covariance.shape != (channels, channels):
            raise ValueError(
                f"covariance has shape {tuple(covariance.shape)}, expected ({channels}, {channels})"
            )
        fill = FILLS[name](channels, correlations(covariance, std, names), ridge)  # type: ignore[call-arg]
    else:
        fill = FILLS[name](channels)
    if centre is not None:
        if name == "black" or fill.rows != channels:
            raise ValueError(
                f"fill rule {name!r} takes images whose mean was subtracted: subtract it, leave mean= out"
            )
        centre = numbers(centre, "mean")
        if centre.shape != (channels,) or not centre.isfinite().all():
            raise ValueError(f"mean has shape {tuple(centre.shape)}, expected {channels} finite numbers")
        fill.hold("centre", centre)
    return fill
