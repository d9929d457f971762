"""Provide ChannelSetConv2d, a convolution that generates its kernel for any set of input channels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import fused
from .fill import Fill, Zero, are_channels_last, captured, exactly
from .names import UNSEEN, Channels
from .place import ChannelPlace
from .sampling import Sampler


class Generator(Protocol):
    """A protocol for objects that compute W if it is not a parameter."""

    shape: tuple[int, ...]
    per_image: bool

    def __call__(self) -> Tensor: ...

    def convolve(self, x: Tensor, stride: Any, padding: Any, dilation: Any) -> Tensor: ...

    def macs(self) -> int: ...


class ChannelSetConv2d(ChannelPlace):
    """A Conv2d whose kernel is a function of the set S of present channels: K(S) = W P(S).

        y = conv(x_S, K(S)) + (1/n) sum_{c in S} e_c,    K(S)[:, c] = sum_j W[:, j] P(S)[j, c]

    With `channels` the whole batch has one set: the kernel is folded into a plain convolution with n input
    channels. With `mask` each image has its own set: the images are filled with P(S), then convolved with W. Both ways
    give the same result. Zero padding, stride, dilation and output size are as in Conv2d. With all channels the layer
    equals a Conv2d.

    Args:
        in_channels: the known channels: C, or an argument of `names.Channels` (names, wavelengths, a mapping).
        out_channels, kernel_size, stride, padding, dilation, bias: as in `torch.nn.Conv2d`.
        fill: the rule that computes P(S), see `fill`. Default: `Zero`, which needs no statistics. `Regression` is
            usually more accurate.
        kernel: generator of W, see `Generator`. Default: W is a parameter.
        embedding: whether to learn e (C, O), which is zero at the start. It tells the network which channels are
            present.
        sampler: draws a set for each image in training if the call gives no set.

    A call with only images uses the set from the call of the surrounding network, see `context`.
    Attributes: see `ChannelPlace`.

    Raises:
        ValueError: the fill rule or the generator does not fit this stem.
    """

    weight: nn.Parameter | None
    embedding: nn.Parameter | None
    bias: nn.Parameter | None
    generator: Any

    def __init__(
        self,
        in_channels: Any,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        fill: Fill | None = None,
        kernel: Generator | None = None,
        embedding: bool = True,
        bias: bool = False,
        sampler: Sampler | None = None,
    ):
        channels = Channels(in_channels)
        super().__init__(channels, fill if fill is not None else Zero(len(channels)), sampler)
        self.out_channels = out_channels
        self.kernel_size, self.stride, self.dilation = _pair(kernel_size), _pair(stride), _pair(dilation)
        self.padding = padding if isinstance(padding, str) else _pair(padding)
        self.seen: fused.Seen | None = None
        shape = (out_channels, self.fill.rows, *self.kernel_size)
        if kernel is not None and kernel.shape != shape:
            raise ValueError(f"the kernel generator makes {kernel.shape}, the stem needs {shape}")
        self.generator = kernel
        own = nn.Parameter(torch.empty(shape)) if kernel is None else None
        table = nn.Parameter(torch.zeros(self.in_channels, out_channels)) if embedding else None
        self.register_parameter("weight", own)
        self.register_parameter("embedding", table)
        self.register_parameter("bias", nn.Parameter(torch.zeros(out_channels)) if bias else None)
        self.reset_parameters()

    @torch.no_grad()
    def restore(self, name: str) -> None:
        """Set a parameter to its start: W like the equivalent Conv2d, the others to zero.

        A kernel generator sets its own start values.

        W starts as in He et al. (arXiv 1502.01852), with fan-out, like torchvision's ResNet.
        """
        value = self._own()[name]
        if name != "weight":
            value.zero_()
            return
        if self.fill.rows != self.in_channels:  # else in place, for weights that are sharded
            value = torch.empty(self.out_channels, self.in_channels, *self.kernel_size, device=value.device)
        self.set_kernel(nn.init.kaiming_normal_(value, mode="fan_out", nonlinearity="relu"))

    @torch.no_grad()
    def set_kernel(self, kernel: Tensor) -> None:
        """Set W so that K(all) equals `kernel` (O, C, k, k)."""
        assert self.weight is not None
        self.weight.copy_(self.fill.spread(kernel))
        self._look()

    # ------------------------------------------------------------ other code that changes W in place, see `fused`

    def _look(self) -> None:
        if self.training or self.weight is None or self.embedding is None:
            self.seen = None
        else:
            self.seen = fused.look(self.weight, self.bias, self.embedding)

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        super().register_parameter(name, param)
        seen = getattr(self, "seen", None)
        if seen is not None and name in ("weight", "bias") and self.embedding is not None:
            version = self.embedding._version
            self._follow()  # other code may fuse BatchNorm, and then save or compile before any call
            if self.embedding._version == version:
                self.seen = seen  # the other parameter may be replaced next

    def _save_to_state_dict(self, *args: Any) -> None:
        self._follow()
        super()._save_to_state_dict(*args)

    def _follow(self) -> None:
        if self.seen is None or self.training or captured():
            return
        assert self.weight is not None and self.embedding is not None
        self.seen = fused.follow(self.seen, self.weight, self.bias, self.embedding)

    def train(self, mode: bool = True) -> ChannelSetConv2d:
        self._follow()
        super().train(mode)
        if mode or self.seen is None:
            self._look()
        return self

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self._follow()
        super()._apply(fn, recurse)
        self._look()
        return self

    @classmethod
    def from_conv2d(
        cls,
        conv: nn.Conv2d,
        fill: Fill | None = None,
        embedding: bool = True,
        channels: Any = None,
        kernel: Tensor | None = None,
        sampler: Sampler | None = None,
    ) -> ChannelSetConv2d:
        """Convert a trained first convolution; with all channels present the output stays the same.

        Type, device, mode and frozen parameters stay too.

        Args:
            conv: the convolution, which is not changed.
            fill, embedding, sampler: as in the constructor.
            channels: `in_channels` of the constructor; default: as many as in `conv`.
            kernel: a kernel (O, C, k, k) that replaces the kernel of `conv`.

        Raises:
            ValueError: `conv` is not a plain, ungrouped, zero-padded Conv2d; the message says why.
        """
        wrong = why_not_plain(conv)
        if wrong:
            raise ValueError(f"from_conv2d takes a plain, ungrouped, zero-padded Conv2d: {wrong}")
        plain: Any = conv
        weight = plain.weight if kernel is None else kernel
        stem = cls(
            weight.shape[1] if channels is None else channels,
            plain.out_channels,
            plain.kernel_size,
            plain.stride,
            plain.padding,
            plain.dilation,
            fill,
            embedding=embedding,
            bias=plain.bias is not None,
            sampler=sampler,
        )
        if weight.shape[1] != stem.in_channels:
            raise ValueError(
                f"the convolution has {weight.shape[1]} input channels, the stem {stem.in_channels}"
            )
        stem.to(device=conv.weight.device, dtype=conv.weight.dtype)
        stem.set_kernel(weight)
        stem.requires_grad_(conv.weight.requires_grad)  # a frozen convolution stays frozen
        if conv.bias is not None:
            stem.bias = nn.Parameter(conv.bias.detach().clone(), conv.bias.requires_grad)
        return stem.train(conv.training)

    def full_weight(self) -> Tensor:
        """Return W: (O, rows, k, k)."""
        weight = self.weight if self.generator is None else self.generator()
        assert isinstance(weight, Tensor)
        return weight

    @property
    def unfoldable(self) -> str:
        """Return the reason why this stem cannot be folded for a set of some channels, or "" if it can."""
        if self.fill.absent is not None:
            return "fill rule 'black' adds a constant plane, which zero padding cuts off"
        if self.fill.centre is not None and self.padding not in ((0, 0), "valid"):
            return "images that are not centred add a constant plane, which zero padding cuts off"
        if self.fill.per_image:
            return "the fill rule depends on the image"
        return self._unfoldable_kernel

    @property
    def _unfoldable_kernel(self) -> str:
        own = self.generator is not None and self.generator.per_image
        return "the kernel depends on the image" if own else ""

    def _why_two_steps(self, ids: Sequence[int]) -> str:
        """Return the reason to fill images of these channels before the convolution, or ""."""
        if self.fill.whole and sorted(ids) == list(range(self.in_channels)):
            return self._unfoldable_kernel
        return self.unfoldable

    def kernel(self, channels: Any = None, device: torch.device | None = None) -> Tensor:
        """Return K(S): (O, n, k, k), columns in the order of `channels` (ids; None: all of them).

        `device` is the device of the parameters. Replicas of `nn.DataParallel` list no parameters, so give it for them.
        """
        ids = self.check_ids(channels)
        device = next(self.parameters()).device if device is None else device
        with exactly(device):  # generate in float32
            weight = self.full_weight()
            if self.fill.whole and len(ids) == self.in_channels:  # P is the identity
                return weight if ids == list(range(len(ids))) else weight[:, ids]
            columns = self.fill.columns(ids, device).to(weight)
            # einsum returns another memory order, which would spread through the network
            return torch.einsum("orhw,rn->onhw", weight, columns).contiguous()

    def offset(self, presence: Tensor | None) -> Tensor | None:
        """Return the bias of each set, (..., O).

        Args:
            presence: weights (..., C) that sum to one; None: all channels.
        """
        if self.embedding is None:
            return self.bias
        mean = self.embedding.mean(0) if presence is None else presence.to(self.embedding) @ self.embedding
        return mean if self.bias is None else mean + self.bias

    def _offset(self, ids: Sequence[int]) -> Tensor | None:
        """Return the bias of the folded convolution: (O,)."""
        some = sorted(ids) != list(range(self.in_channels))
        offset = self.offset(self._presence(ids) / len(ids) if some else None)
        shift = None if len(ids) == self.in_channels and self.fill.whole else self.fill.shift(ids)
        if shift is None:
            return offset
        weight = self.full_weight()
        plane = torch.einsum("ochw,c->o", weight, shift.to(weight))
        return plane if offset is None else plane + offset

    def forward(self, x: Tensor, channels: Any = None, mask: Any = None) -> Tensor:
        """Convolve images of any set of channels.

        Args:
            x: (B, n, H, W) images of the channels `channels`, or (B, C, H, W) with a `mask`.
            channels: n ids, names or wavelengths in the order of x's channels, one set for the whole batch.
                Default: the set from the call of the surrounding network, else all C.
            mask: (B, C) bool on any device, the set of each image. Pixels of absent channels have no influence,
                even if they are NaN.

        Returns: (B, O, H', W'), sizes as in Conv2d.

        Raises:
            ValueError: x does not have as many channels as `channels` names; an id is unknown or repeated; the set is
                empty; or the mask has another shape.
        """
        if x.ndim != 4:
            raise ValueError(f"x must be (B, n, H, W); got {tuple(x.shape)}")
        self._follow()
        channels, mask = self.asked(x, channels, mask)
        if mask is not None:
            mask, every = self.check_mask(mask, x)
            if not (every and self.fill.whole) or self._unfoldable_kernel:
                # with large images, convolving only the present channels saves more than generating kernels costs
                large = x.shape[2] * x.shape[3] > 2 * self.in_channels * math.prod(self.stride)
                if large and not torch.is_grad_enabled() and self.fill.by_image(x) and not self.unfoldable:
                    return self._forward_sets(x, mask)
                return self._forward_mask(x, mask)
        ids = self.check_ids(channels)
        if x.shape[1] != len(ids):
            names = [self.channels.names[i] if i != UNSEEN else "unseen" for i in ids]
            source = "the stem has" if channels is None else "the call names"
            raise ValueError(f"x has {x.shape[1]} channels but {source} {len(ids)}: {', '.join(names)}")
        if self._why_two_steps(ids):
            full, mask = self.spread(x, ids)
            return self._forward_mask(full, mask.to(x.device))
        kernel = self.kernel(ids, x.device)
        if are_channels_last(x):
            kernel = kernel.contiguous(memory_format=torch.channels_last)
        return F.conv2d(x, kernel, self._offset(ids), self.stride, self.padding, self.dilation)

    def _presence(self, ids: Sequence[int]) -> Tensor:
        """Return how often `ids` names each known channel: (C,). An unseen channel adds 1 / C to each known channel."""
        share = ids.count(UNSEEN) / self.in_channels
        counts = [ids.count(i) + share for i in range(self.in_channels)]
        return torch.tensor(counts, dtype=torch.float32, device="cpu")

    def _forward_mask(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.fill.complete(x, mask)
        conv: Any = (self.stride, self.padding, self.dilation)
        if self.generator is not None:
            y: Tensor = self.generator.convolve(x, *conv)
        else:
            assert self.weight is not None
            y = F.conv2d(x, self.weight, None, *conv)
        present = mask.float()
        offset = self.offset(present / present.sum(1, keepdim=True))  # (B, O), (O,) or None
        if offset is None:
            return y
        offset = (offset if offset.dim() == 2 else offset[None]).to(y)[:, :, None, None]
        # in place is safe: a convolution's gradient does not need its output. A vmap may have a batch of offsets
        return y + offset if captured() else y.add_(offset)

    def _forward_sets(self, x: Tensor, mask: Tensor) -> Tensor:
        sets, which = torch.unique(mask, dim=0, return_inverse=True)
        # `forward` makes the outputs, because a call would run the stem's hooks again for each set
        outputs = [
            self.forward(x[which == number][:, row], row.nonzero()[:, 0].tolist())
            for number, row in enumerate(sets)
        ]
        y = torch.cat(outputs)[which.argsort(stable=True).argsort()]
        return y.contiguous(
            memory_format=torch.channels_last if are_channels_last(x) else torch.contiguous_format
        )

    def fold(self, channels: Any = None) -> nn.Conv2d:
        """Return the plain Conv2d with n input channels that equals this module on the set `channels`.

        Raises:
            ValueError: the stem cannot be folded, see `unfoldable`; or an id is wrong.
        """
        ids = self.check_ids(channels)
        wrong = self._why_two_steps(ids)
        if wrong:
            raise ValueError(f"{wrong}: the stem cannot be folded")
        self._follow()
        self._renew_weight()
        offset, kernel = self._offset(ids), self.kernel(ids)
        conv = nn.Conv2d(
            len(ids),
            self.out_channels,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            bias=offset is not None,
            device=kernel.device,
            dtype=kernel.dtype,
        )
        conv.weight = nn.Parameter(kernel.detach().clone())
        if offset is not None:
            conv.bias = nn.Parameter(offset.detach().to(kernel, copy=True))
        trainable = any(p.requires_grad for p in self.parameters())
        return conv.requires_grad_(trainable).train(self.training)

    @torch.no_grad()
    def _renew_weight(self) -> None:
        """Compute the weight again if pruning or an older spectral or weight norm of torch computes it in each call."""
        training, self.training = self.training, False  # spectral norm then keeps its vectors
        try:
            hook: Any
            for hook in self._forward_pre_hooks.values():
                if hasattr(hook, "compute_weight") or hasattr(hook, "apply_mask"):  # a norm; pruning
                    hook(self, ())
        finally:
            self.training = training

    def generation_macs(self, n: int) -> int:
        """Return an upper bound of the multiply-accumulates that generate K(S) for n channels.

        They compute W, W P(S) and the mean embedding. W P(S) is counted even if P is the identity and the product is
        not needed. Selecting rows of W costs nothing. The arithmetic of the fill rule, of order C^3, is left out.
        """
        kernel = self.out_channels * math.prod(self.kernel_size)
        macs = kernel * self.fill.mixed * n
        macs += self.generator.macs() if self.generator is not None else 0
        return macs + (self.in_channels * self.out_channels if self.embedding is not None else 0)

    # ------------------------------------------------------------ checkpoints

    def _is_plain_state(self, state_dict: Mapping[str, Any], prefix: str) -> bool:
        return (
            super()._is_plain_state(state_dict, prefix)
            and self.generator is None
            and prefix + "weight" in state_dict
            and prefix + "embedding" not in state_dict
        )

    def _complete_state(self, state_dict: dict[str, Any], prefix: str) -> None:
        plain = self._is_plain_state(state_dict, prefix)
        super()._complete_state(state_dict, prefix)
        if self.weight is None or prefix + "weight" not in state_dict:
            return
        weight = state_dict[prefix + "weight"]
        if plain and weight.shape[1] == self.in_channels != self.fill.rows:
            state_dict[prefix + "weight"] = self.fill.spread(weight)
        if self.embedding is not None and prefix + "embedding" not in state_dict:
            state_dict[prefix + "embedding"] = weight.new_zeros(self.embedding.shape)

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self._look()

    def extra_repr(self) -> str:
        names = f" ({self.channels!r})" if self.channels.are_named else ""
        return (
            f"{self.in_channels}{names}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, padding={self.padding}, embedding={self.embedding is not None}"
        )


def _pair(value: Any) -> tuple[int, int]:
    first, second = (value, value) if isinstance(value, int) else value
    return int(first), int(second)


def why_not_plain(conv: nn.Module) -> str:
    """Say why the stem cannot replace `conv` and compute the same; "" if it can."""
    kind = type(conv)
    if not isinstance(conv, nn.Conv2d):
        return f"this is a {kind.__name__}"
    computes = (kind.forward, kind._conv_forward)  # type: ignore[attr-defined]
    if computes != (nn.Conv2d.forward, nn.Conv2d._conv_forward):
        return f"{kind.__module__}.{kind.__name__} computes something else than Conv2d"
    if isinstance(conv.weight, nn.parameter.UninitializedParameter):
        return "it is lazy and has no weight yet: run the network once"
    if wrong := would_be_lost(conv):
        return wrong
    if "forward" in vars(conv) or "_conv_forward" in vars(conv):
        return "its forward was replaced"
    if conv.groups != 1:
        return f"it has {conv.groups} groups"
    return "" if conv.padding_mode == "zeros" else f"its padding mode is {conv.padding_mode!r}"


def would_be_lost(conv: nn.Module) -> str:
    """Say which changes of other code a new stem in the place of `conv` would not have; "" if there are none."""
    hooks = any(value for name, value in vars(conv).items() if name.endswith("_hooks"))
    if hooks or hasattr(conv, "parametrizations"):
        return (
            "it has hooks or a parametrization (such as weight norm), which would be lost: remove them first"
        )
    return ""
