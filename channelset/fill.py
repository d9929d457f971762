"""Provide the fill rules, which predict an absent channel from the present channels.

A rule maps a presence mask to a matrix P(S). Row j holds the weights with which the present channels predict channel
j. So filling the image, x_hat = P(S) x, and generating the kernel, K(S) = W P(S), are the same linear map.
Every simple treatment of missing channels is one choice of P:

    rule         row j of P(S), S the present set, n = |S|, C = all channels
    zero         e_j if j in S, else 0                      zero imputation, sliced kernel
    rescale      C/n e_j if j in S, else 0                  HCS baseline of ChannelViT (arXiv 2309.16108);
                                                            partial convolution (arXiv 1804.07723)
    mean         e_j if j in S, else 1/n on all of S        replicate (n = 1), mean imputation
    grey         1/n on all of S                            colour discarded
    regression   e_j if j in S, else Sigma_jS Sigma_SS^-1   Wiener filter, conditional mean of a Gaussian
    by_size      as regression, with separate kernel channels for each size n of the set: row (n, j) is row j
    learned      as regression, absent rows corrected by a network of the mask
    conditioned  as learned, the network also sees mean and spread of the image's present channels
    black        e_j; absent pixels are black, not mean     zero *before* normalisation (a common bug)
    luma_chroma  row 0: 1/n on S; row 1+c: e_c - 1/n on S   open set: also takes channels never trained on
                 if c in S
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from .fused import stamp
from .names import UNSEEN
from .restore import Restored
from .statistics import named, numbers, refuse

RIDGE = 1e-6  # share of each channel's variance that the regression takes as noise
SWEPT = 16  # largest number of channels for plain arithmetic; with more channels a solver is faster
CACHED = 256  # number of sets whose coefficients a rule remembers in eval mode


class Fill(Restored):
    """A base class that all fill rules share.

    Args:
        channels: C, the number of known channels.

    Attributes:
        rows: number of rows of P, one for each kernel channel.
        mixed: number of rows that need a multiplication to generate a kernel.
        whole: whether P is the identity if all channels are present. Then P is not computed.
        absent: (C,) value of an absent pixel before P is applied, or None for zero.
        centre: (C,) mean of images that are not centred, so that x_hat = centre + P (x - centre). None: zero.
        per_image: whether P also depends on the image. Then `forward` also takes the images, with zeros in absent
            channels.
    """

    per_image = False
    whole = True
    absent: Tensor | None
    centre: Tensor | None

    def __init__(self, channels: int):
        super().__init__()
        self.channels = self.rows = self.mixed = channels
        self.exact: dict[str, Tensor] = {}  # the buffers' values at the start or after the last loading
        self.register_buffer("absent", None)
        self.register_buffer("centre", None)

    def hold(self, name: str, value: Tensor) -> None:
        """Register a statistic as a buffer that stays float32 when the network is converted."""
        self.exact[name] = value.detach().to("cpu", torch.float32).clone()
        # like a parameter, on the device of the caller's device context, such as "meta"
        self.register_buffer(name, torch.empty_like(self.exact[name], device=torch.empty(0).device))
        self.restore(name)

    def restore(self, name: str) -> None:
        if name in self.exact:
            buffer = self._buffers[name]
            assert buffer is not None
            if not buffer.is_meta:
                self._buffers[name] = self.exact[name].to(buffer.device, copy=True)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        before = {name: getattr(self, name) for name in self.exact}
        super()._apply(fn, recurse)
        for name, value in before.items():
            after = getattr(self, name)
            if not value.is_meta and after.dtype != value.dtype:
                setattr(self, name, value.to(after.device))
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        for name in self.exact:
            value = state_dict.get(prefix + name)
            if isinstance(value, Tensor) and _is_rounded(value) and value.shape == self.exact[name].shape:
                try:
                    state_dict[prefix + name] = self._unrounded(name, value)
                except ValueError as wrong:
                    rest[-1].append(f"{prefix}{name}: {wrong}")
                    return
        super()._load_from_state_dict(state_dict, prefix, *rest)
        for name in self.exact:
            if not getattr(self, name).is_meta:
                self.exact[name] = getattr(self, name).detach().to("cpu", copy=True)

    def _undo_rounding(self) -> None:
        """Restore statistics whose buffers other code has converted, such as FSDP with `buffer_dtype`."""
        for name in self.exact:
            if _is_rounded(getattr(self, name)):
                setattr(self, name, self._unrounded(name, getattr(self, name)))

    def _unrounded(self, name: str, value: Tensor) -> Tensor:
        """Return the float32 statistic of which `value` is the rounded copy.

        Raises:
            ValueError: `value` is not a copy of this network's statistic.
        """
        exact, kind = self.exact[name].to(value.device, copy=True), torch.finfo(value.dtype)
        copied = exact.to(value.dtype).float()
        if not torch.allclose(copied, value.float(), rtol=2 * kind.eps, atol=kind.tiny):
            raise ValueError(
                f"this statistic was rounded to {value.dtype}, which makes predictions wrong, and the network has "
                f"another: adapt it with the statistics of the training, or save the checkpoint in float32"
            )
        return exact

    def forward(self, mask: Tensor) -> Tensor:
        """Compute P (..., rows, C), float32, from masks (..., C), bool; columns of absent channels are zero."""
        raise NotImplementedError

    def spread(self, kernel: Tensor) -> Tensor:
        """Return W (O, rows, k, k) for which W P(all) is `kernel` (O, C, k, k)."""
        return kernel

    def columns(self, ids: Sequence[int], device: torch.device | None = None) -> Tensor:
        """Return P for one set of channels, with columns in the order of `ids`: (rows, n).

        A rule without statistics computes P on `device`. A rule with statistics uses the device of its statistics.
        """
        self._undo_rounding()
        return self._columns(list(ids), device)

    def _columns(self, ids: list[int], device: torch.device | None) -> Tensor:
        matrix: Tensor = self(torch.tensor([i in ids for i in range(self.channels)], device=device))
        return matrix[:, ids]

    def complete(self, x: Tensor, mask: Tensor) -> Tensor:
        """Fill images x (B, C, ...) with masks (B, C); return x_hat (B, rows, ...).

        Pixels of absent channels have no influence, even where they are NaN.
        """
        self._undo_rounding()
        if self.centre is not None:
            x = x - along(self.centre.to(x), x)
        absent = x.new_zeros(()) if self.absent is None else along(self.absent.to(x), x)
        x = self._mix(torch.where(along(mask, x), x, absent), mask)
        return x if self.centre is None else x + along(self.centre.to(x), x)

    def shift(self, ids: Sequence[int]) -> Tensor | None:
        """Return the constant x_hat - P x of one set of channels: (C,), or None for zero."""
        if self.centre is None:
            return None
        columns = self.columns(ids, self.centre.device)  # undoes the rounding of the centre, too
        return self.centre - columns @ self.centre[list(ids)]

    def by_image(self, x: Tensor) -> bool:
        """Check whether it is faster to process images one by one: many channels on a CPU, with different sets."""
        return False

    def _mix(self, x: Tensor, mask: Tensor) -> Tensor:
        """Apply P to images (B, C, ...) with zeros in absent channels; may overwrite the images."""
        with exactly(x.device):  # the rule's small solve stays in float32
            # (B, rows, C)
            mixing = (self(mask, x.float()) if self.per_image else self(mask)).to(x)
        return product(mixing, x)


def exactly(device: torch.device) -> AbstractContextManager[Any]:
    """Return a context without autocast. On the meta device it does nothing, since there is no autocast."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def product(matrices: Tensor, x: Tensor) -> Tensor:
    """Multiply (B, r, C) or (r, C) with the channels of images (B, C, ...)."""
    if are_channels_last(x):
        # pixels as rows, (B, H W, C): so neither the input nor the output is copied
        pixels = x.permute(0, 2, 3, 1).flatten(1, 2)
        return torch.unflatten(pixels @ matrices.mT, 1, x.shape[2:]).permute(0, 3, 1, 2)
    return torch.unflatten(matrices @ x.flatten(2), 2, x.shape[2:])


def are_channels_last(x: Tensor) -> bool:
    """Check whether images are (B, C, H, W) in torch's memory format channels_last, and in no other format."""
    if x.ndim != 4 or _transformed():  # vmap does not tell the format
        return False
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def along(value: Tensor, x: Tensor) -> Tensor:
    """Give (C,) or (B, C) the axes of images x (B, C, ...)."""
    return value.view(*value.shape, *[1] * (x.ndim - 2))


def _shares(mask: Tensor) -> Tensor:
    """Return 1/n for present channels, 0 for absent ones: (..., C)."""
    present = mask.float()
    return present / present.sum(-1, keepdim=True).clamp(min=1)


def _eye(channels: int, device: torch.device | None) -> Tensor:
    """Return the identity (C, C), float32 whatever torch's default type is."""
    return torch.eye(channels, dtype=torch.float32, device=device)


def _diagonal(values: Tensor) -> Tensor:
    """Put values (..., C) on the diagonals of matrices; exporters do not support torch.diag_embed."""
    return values.unsqueeze(-1) * _eye(values.shape[-1], values.device)


class Zero(Fill):
    def __init__(self, channels: int):
        super().__init__(channels)
        self.mixed = 0  # it only selects slices of W

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
        return x * along((self.channels * _shares(mask)).to(x), x)


class Grey(Fill):
    whole = False

    def forward(self, mask: Tensor) -> Tensor:
        return _shares(mask).unsqueeze(-2).expand(*mask.shape, self.channels)


class Mean(Fill):
    def forward(self, mask: Tensor) -> Tensor:
        absent = ~mask.unsqueeze(-1)
        return _diagonal(mask.float()) + absent * _shares(mask).unsqueeze(-2)

    def _mix(self, x: Tensor, mask: Tensor) -> Tensor:
        mean = product(_shares(mask).to(x).unsqueeze(1), x)
        return torch.where(along(mask, x), x, mean)


class Black(Fill):
    """A rule that sets absent pixels to black after normalisation, -mean/std: (C,)."""

    def __init__(self, channels: int, black: Tensor):
        super().__init__(channels)
        self.hold("absent", black)

    def forward(self, mask: Tensor) -> Tensor:
        return _eye(self.channels, mask.device).expand(*mask.shape, self.channels)

    def _mix(self, x: Tensor, mask: Tensor) -> Tensor:
        return x


class Regression(Fill):
    """A rule that predicts absent channels linearly, from the training covariance of the normalised channels.

    Args:
        covariance: (C, C). It stays float32 when the network is converted, since rounding would change the prediction.
        ridge: noise in the present channels, as a share of their variance. The small default keeps the prediction
            defined when two channels are copies of each other; 1e-2 suits noisy channels.

    Attributes:
        scale: a power of two that divides the stored covariance, so that its largest variance is about one. In float32,
            the larger variances of raw images would make the prediction inexact.

    Raises:
        ValueError: the covariance has a wrong shape, or no data can have it.
    """

    covariance: Tensor
    corrected = False  # whether a learned correction is added to the regression

    def __init__(self, channels: int, covariance: Tensor, ridge: float = RIDGE):
        super().__init__(channels)
        if not 0 <= ridge < float("inf"):
            raise ValueError(f"ridge {ridge}: must be at least 0")
        covariance = _covariance(covariance, channels, torch.ones(channels, device="cpu"))
        variance = covariance.diagonal()
        units = torch.outer(variance.sqrt(), variance.sqrt())
        if ridge < 3e-7 and torch.linalg.eigvalsh(covariance / units)[0].clamp(min=0) + ridge < 3e-7:
            raise ValueError(
                f"ridge {ridge}: a channel follows exactly from the others: use a ridge of 1e-6 or more"
            )
        self.scale = 2.0 ** round(math.log2(variance.max()))
        self.hold("covariance", (covariance + ridge * torch.diag(variance)) / self.scale)
        # from each set to (stamp of the covariance, P, the covariance: while it is held, no other tensor has its id)
        self.cache: dict[tuple[int, ...], tuple[Any, Tensor, Tensor]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "cache": {}}

    def _load_from_state_dict(self, *args: Any) -> None:
        self.cache.clear()  # a tensor made in inference mode counts no changes
        super()._load_from_state_dict(*args)

    def forward(self, mask: Tensor) -> Tensor:
        mask = mask.to(self.covariance.device)
        predict = self._sweep if self.channels <= SWEPT or captured() else self._solve
        eye = _eye(self.channels, mask.device)
        return torch.where(mask.unsqueeze(-1), eye, predict(mask) * mask.unsqueeze(-2))

    def _sweep(self, mask: Tensor) -> Tensor:
        # The sweep operator: after step k, element (j, k) is the weight of channel k in the prediction of channel j.
        # Compilers and exporters support this plain arithmetic, but not a solver.
        eye = _eye(self.channels, mask.device)
        swept = self.covariance.float().expand(*mask.shape, self.channels)
        for k in range(self.channels):
            column = swept[..., k] - eye[k]
            share = mask[..., k] / swept[..., k, k]
            swept = swept - share[..., None, None] * column.unsqueeze(-1) * column.unsqueeze(-2)
        return swept

    def _solve(self, mask: Tensor) -> Tensor:
        # in double precision; the rows and columns of absent channels are those of the identity
        covariance = _exact(self.covariance)
        present = mask.to(covariance)
        rows = covariance * present.unsqueeze(-1)
        square = rows * present.unsqueeze(-2) + torch.diag_embed(1 - present)
        solved: Tensor = torch.linalg.solve_ex(square, rows)[0].mT
        return solved.float()

    def _columns(self, ids: list[int], device: torch.device | None) -> Tensor:
        device = self.covariance.device
        return super()._columns(ids, device) if self.corrected or captured() else self._regression(ids)

    def _regression(self, ids: Sequence[int]) -> Tensor:
        """Return the regression's columns (C, n) for one set; cache them in eval mode."""
        now, entry = stamp(self.covariance), self.cache.get(tuple(ids))
        if self.training or entry is None or entry[0] != now:
            # a later call with gradients may use the cached value
            with torch.inference_mode(False), torch.no_grad():
                entry = (now, self._compute(list(ids)), self.covariance)
            if len(self.cache) >= CACHED:
                self.cache.clear()
            if not self.training:
                self.cache[tuple(ids)] = entry
        return entry[1]

    def _compute(self, ids: list[int]) -> Tensor:
        if self.channels <= SWEPT:
            return super()._columns(ids, self.covariance.device)
        absent, exact = _others(ids, self.channels), _exact(self.covariance)
        columns = torch.zeros(self.channels, len(ids), dtype=torch.float32, device=exact.device)
        columns[ids, range(len(ids))] = 1
        rows = exact[ids]
        columns[absent] = torch.linalg.solve_ex(rows[:, ids], rows[:, absent])[0].mT.float()
        return columns

    def _mix(self, x: Tensor, mask: Tensor) -> Tensor:
        if x.requires_grad or not self.by_image(x):
            return super()._mix(x, mask)
        # compute only the absent channels of each image: at most a quarter of the products. Autocast rounds these
        sets = dict[tuple[int, ...], Tensor]()
        x = x if are_channels_last(x) else x.contiguous()  # so that the pixels are a view
        for pixels, row in zip(x.flatten(2), mask.tolist()):
            present = [i for i, here in enumerate(row) if here]
            absent, key = _others(present, self.channels), tuple(present)
            if absent:
                if key not in sets:
                    sets[key] = self._regression(present)[absent].to(x)
                pixels[absent] = (sets[key] @ pixels[present]).to(x)
        return x

    def by_image(self, x: Tensor) -> bool:
        return not self.corrected and self.channels > SWEPT and x.device.type == "cpu" and not captured()


def _is_rounded(value: Tensor) -> bool:
    return value.is_floating_point() and torch.finfo(value.dtype).eps > torch.finfo(torch.float32).eps


def _exact(value: Tensor) -> Tensor:
    """Convert to the most precise type of the device: MPS has no float64."""
    return value.to(torch.float32 if value.device.type == "mps" else torch.float64)


def _others(ids: Sequence[int], channels: int) -> list[int]:
    present = set(ids)
    return [i for i in range(channels) if i not in present]


def _covariance(
    covariance: Any, channels: int, std: Any = None, names: Sequence[str] | None = None
) -> Tensor:
    """Return the covariance (C, C) of the channels after division by `std` (C,): float64, CPU.

    Args:
        covariance: (C, C) covariance of the raw channels. If rounding made it indefinite, the nearest covariance
            without a negative variance replaces it.
        channels: C.
        std: the divisor of each channel; default: the root of the diagonal.
        names: C names, for messages.

    Raises:
        ValueError: `covariance` is not (C, C), finite, symmetric or positive semidefinite, or a channel has no
            variance. The message names the channel.
    """
    covariance = numbers(covariance, "covariance")
    if covariance.shape != (channels, channels):
        raise ValueError(f"covariance has shape {tuple(covariance.shape)}, expected ({channels}, {channels})")
    refuse(~covariance.isfinite().all(1), names, "the covariance is NaN or infinite")
    variance = covariance.diagonal()
    refuse(
        variance <= 0,
        names,
        "a variance not above zero; a constant channel cannot be predicted or used: leave it out",
    )
    unit = variance.sqrt()
    scale = unit if std is None else _deviation(std, channels)
    relative = covariance / torch.outer(unit, unit)
    difference = (relative - relative.T).abs()
    if difference.max() > 1e-4:
        pair = list(divmod(int(difference.argmax()), channels))
        raise ValueError(f"the covariance is not symmetric: {named(pair, names)}")
    least, vectors = torch.linalg.eigh((relative + relative.T) / 2)
    if least[0] < -1e-4:
        raise ValueError("the covariance is not positive semidefinite, so no data can have it")
    if least[0] < -1e-7:
        covariance = vectors @ torch.diag(least.clamp(min=0)) @ vectors.T * torch.outer(unit, unit)
    scaled: Tensor = covariance / torch.outer(scale, scale)
    return scaled


def _vector(value: Any, name: str, channels: int) -> Tensor:
    vector = numbers(value, name)
    if vector.shape != (channels,) or not vector.isfinite().all():
        raise ValueError(f"{name} has shape {tuple(vector.shape)}, expected {channels} finite numbers")
    return vector


def _deviation(std: Any, channels: int) -> Tensor:
    vector = _vector(std, "std", channels)
    if vector.min() <= 0:
        raise ValueError(f"std {vector.min():g} is not above zero")
    return vector


def captured() -> bool:
    """Check whether a compiler, an exporter or `torch.func` is tracing; these cannot follow a solver or read values."""
    return torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None or _transformed()


def _transformed() -> bool:
    """Check whether `torch.func` transforms the call, as vmap does."""
    return not torch.compiler.is_compiling() and torch._C._functorch.maybe_current_level() is not None


class _ZeroAtStart(nn.Linear):
    """A layer that returns zero until it is trained."""

    def reset_parameters(self) -> None:
        super().reset_parameters()  # draws as many random numbers as a plain layer does
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)


class BySize(Regression):
    """A regression fill with kernels W_1 .. W_C, one for each size of the set: K(S) = W_n P(S).

    All kernels are equal at the start. With one channel, filters that compare channels see little. Separate
    kernels let small sets use all filters.
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
    """A regression fill whose absent rows are corrected by a small network of the mask.

    The network reads `inputs` numbers for each channel. The correction is zero at the start.
    """

    inputs = 1
    corrected = True
    # with all channels P is the identity, but distributed training needs a gradient of zero for the correction
    whole = False
    correction: nn.Sequential

    def __init__(self, channels: int, covariance: Tensor, ridge: float = RIDGE, hidden: int = 16):
        super().__init__(channels, covariance, ridge)
        self.correction = nn.Sequential(
            nn.Linear(self.inputs * channels, hidden), nn.ReLU(), _ZeroAtStart(hidden, channels**2)
        )

    def forward(self, mask: Tensor, images: Any = None) -> Tensor:
        """Compute P as `Fill.forward` does; a `per_image` rule also needs images (B, C, ...), zero where absent."""
        mask = mask.to(self.covariance.device)
        matrix, weight = super().forward(mask), self.correction[0].weight
        assert isinstance(weight, Tensor)  # replicas of nn.DataParallel list no parameters
        correction = self.correction(self._seen(mask, images).to(weight))
        correction = correction.unflatten(-1, (self.channels, self.channels)).to(matrix)
        corrected: Tensor = matrix + correction * (~mask.unsqueeze(-1) & mask.unsqueeze(-2))
        return corrected

    def _seen(self, mask: Tensor, images: Any) -> Tensor:
        """Return what the network reads: (..., inputs * C)."""
        return mask


class Conditioned(Learned):
    """A regression fill whose absent rows are corrected by a small network of the mask and the image.

    The network gets each present channel's mean and standard deviation. This is a dynamic convolution (arXiv
    1912.03458) whose attention acts on the C x C fill matrix, where it is cheapest.
    """

    inputs = 3
    per_image = True

    def _seen(self, mask: Tensor, images: Any) -> Tensor:
        pixels = images.flatten(2)
        variance = pixels.var(2, correction=0)
        # at zero, as in absent channels, the root has no derivative
        some = variance > 0
        return torch.cat([mask, pixels.mean(2), torch.where(some, variance, 1).sqrt() * some], dim=1)


class LumaChroma(Fill):
    """Separate the mean of the present channels from the differences to it: an open-set rule.

    Kernel channel 0 reads the mean of the present channels. Kernel channel 1 + c reads channel c minus this mean.

    A channel that was not in training (`UNSEEN`) uses the mean chroma kernel of the known channels.
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

    def _columns(self, ids: list[int], device: torch.device | None) -> Tensor:
        n, eye = len(ids), _eye(self.channels, device)
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
    """Return the rule's key in `FILLS`, or the name of its class if a user wrote the class."""
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
    """Make a rule by name. You may give all statistics; the rule uses only those it needs.

    Args:
        name: a key of `FILLS`.
        channels: C.
        mean, std: (C,) of the raw channels, used to normalise images; `black` needs them.
        covariance: (C, C) of the raw channels; `regression` and the rules based on this rule need it. It is divided by
            `std`; the default, the root of its diagonal, gives correlations.
        ridge: as in `Regression`.
        names: C names, for messages.
        centre: (C,) mean of the images that the network gets, if it was not subtracted from them. Default: the
            rules expect a mean of zero in every channel.

    Raises:
        ValueError: the name is unknown, a statistic is missing or impossible, or the rule cannot use a centre.
    """
    if name not in FILLS:
        raise ValueError(f"unknown fill rule {name!r}; choose one of {', '.join(FILLS)}")
    if name == "black":
        if mean is None or std is None:
            raise ValueError(
                "fill rule 'black' needs mean and std of the channels: give mean= and std= (channel_statistics "
                "computes them)"
            )
        fill: Fill = Black(channels, -_vector(mean, "mean", channels) / _deviation(std, channels))
    elif issubclass(FILLS[name], Regression):
        if covariance is None:
            raise ValueError(
                f"fill rule {name!r} needs the channels' training covariance: give covariance= "
                f"(channel_statistics computes it), or use fill='mean', which needs no statistics"
            )
        fill = FILLS[name](channels, _covariance(covariance, channels, std, names), ridge)  # type: ignore[call-arg]
    else:
        fill = FILLS[name](channels)
    if centre is not None:
        if name == "black" or fill.rows != channels:
            raise ValueError(
                f"fill rule {name!r} needs images with a mean of zero: subtract the mean and leave mean= out"
            )
        fill.hold("centre", _vector(centre, "mean", channels))
    return fill
