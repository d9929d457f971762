"""ChannelSetConv2d: a convolution for any set of input channels, with a kernel generated from the set."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from .fill import Fill, LumaChroma, Zero
from .names import UNSEEN, Channels


class ChannelSetConv2d(nn.Module):
    """Conv2d whose kernel is a function of the set S of channels present: K(S) = W P(S).

        y = conv(x_S, K(S)) + (1/n) sum_{c in S} e_c,    K(S)[:, c] = sum_j W[:, j] P(S)[j, c]

    One image has one set (`channels`: folded, one plain convolution with n input channels), or each image of
    a batch has its own (`mask`: fill with P(S), then convolve with W). Both give the same result. Zero
    padding, stride and dilation are Conv2d's, and so is the output size for any H, W. At S = all channels it
    is a Conv2d.

    Args:
        in_channels: the known channels: C, or what `names.Channels` takes (names, wavelengths, a mapping).
        out_channels, kernel_size, stride, padding, dilation, bias: as in `torch.nn.Conv2d`.
        fill: rule that gives P(S), see `fill`. Default: `Zero`.
        kernel: generator of W, see `kernels`. Default: W is a parameter.
        embedding: learn e (C, O), zero at the start; it tells the network which channels it was given.

    Attributes:
        channels: their names and wavelengths.
        given, ambient: (channels, mask) that a network around this stem was called with, or that `present`
            set; forward takes them where it is called with the images alone.

    Raises:
        ValueError: the fill rule or the generator is for another stem.
    """

    weight: nn.Parameter | None  # None: `generator` makes the kernel
    generator: Any
    given: tuple[Any, Tensor | None] | None
    ambient: tuple[Any, Tensor | None] | None

    def __init__(
        self,
        in_channels,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        padding: int | tuple[int, ...] | str = 0,
        dilation: int | tuple[int, ...] = 1,
        fill: Fill | None = None,
        kernel: nn.Module | None = None,
        embedding: bool = True,
        bias: bool = False,
    ):
        super().__init__()
        self.channels = Channels(in_channels)
        self.in_channels, self.out_channels = len(self.channels), out_channels
        self.kernel_size, self.stride, self.dilation = _pair(kernel_size), _pair(stride), _pair(dilation)
        self.padding = padding if isinstance(padding, str) else _pair(padding)
        self.fill = fill if fill is not None else Zero(self.in_channels)
        self.given = self.ambient = None
        if self.fill.channels != self.in_channels:
            raise ValueError(
                f"the fill rule is for {self.fill.channels} channels, the stem for {self.in_channels}"
            )
        shape = (out_channels, self.fill.rows, *self.kernel_size)
        if kernel is not None and kernel.shape != shape:
            raise ValueError(f"the kernel generator makes {kernel.shape}, the stem needs {shape}")
        self.generator = kernel
        self.weight = nn.Parameter(torch.empty(shape)) if kernel is None else None
        self.embedding = nn.Parameter(torch.zeros(self.in_channels, out_channels)) if embedding else None
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """He initialisation (fan-out, as torchvision's ResNet has it) of the equivalent Conv2d; a generator
        has its own.
        """
        if self.weight is not None:
            kernel = torch.empty(self.out_channels, self.in_channels, *self.kernel_size)
            self.set_kernel(nn.init.kaiming_normal_(kernel, mode="fan_out", nonlinearity="relu"))

    @torch.no_grad()
    def set_kernel(self, kernel: Tensor) -> None:
        """Sets W so that K(all) equals `kernel` (O, C, k, k).

        Raises:
            ValueError: a generator makes the kernel.
        """
        if self.weight is None:
            raise ValueError("a generator makes this stem's kernel: it cannot be set")
        self.weight.copy_(self.fill.spread(kernel))

    @classmethod
    def from_conv2d(
        cls,
        conv: nn.Conv2d,
        fill: Fill | None = None,
        embedding: bool = True,
        channels=None,
        kernel: Tensor | None = None,
    ) -> ChannelSetConv2d:
        """Convert a trained first convolution; with all channels present the output stays the same. Type,
        device, mode and what is frozen stay too.

        Args:
            conv: the convolution, which is left as it is.
            fill, embedding: as in the constructor.
            channels: what the constructor takes as `in_channels`; default: as many as `conv` has.
            kernel: (O, C, k, k) to take instead of conv's.

        Raises:
            ValueError: no plain, ungrouped, zero-padded Conv2d; the message says what it is.
        """
        wrong = why_not_plain(conv)
        if wrong:
            raise ValueError(f"from_conv2d takes a plain, ungrouped, zero-padded Conv2d: {wrong}")
        weight = conv.weight if kernel is None else kernel
        stem = cls(
            weight.shape[1] if channels is None else channels,
            conv.out_channels,
            conv.kernel_size,
            conv.stride,
            conv.padding,
            conv.dilation,
            fill,
            embedding=embedding,
            bias=conv.bias is not None,
        )
        if weight.shape[1] != stem.in_channels:
            raise ValueError(
                f"the convolution has {weight.shape[1]} input channels, the stem {stem.in_channels}"
            )
        stem.to(device=conv.weight.device, dtype=conv.weight.dtype)
        stem.set_kernel(weight)
        if conv.bias is not None:
            stem.bias = nn.Parameter(conv.bias.detach().clone(), conv.bias.requires_grad)
        for parameter in (stem.weight, stem.embedding):  # what is frozen stays frozen
            if parameter is not None:
                parameter.requires_grad_(conv.weight.requires_grad)
        return stem.train(conv.training)

    def full_weight(self) -> Tensor:
        """W: (O, rows, k, k)."""
        return self.generator() if self.weight is None else self.weight

    @property
    def unfoldable(self) -> str:
        """Why this stem is no plain convolution, or "" where it is one for every set of channels."""
        if self.fill.absent is not None:
            return "fill rule 'black' adds a constant plane, which zero padding cuts off"
        if self.fill.per_image:
            return "the fill rule depends on the image"
        return (
            "the kernel depends on the image"
            if self.generator is not None and self.generator.per_image
            else ""
        )

    def kernel(self, channels=None) -> Tensor:
        """K(S): (O, n, k, k), columns in the order of `channels` (ids; None: all of them)."""
        ids = self.check_ids(channels)
        with torch.autocast(self.fill.eye.device.type, enabled=False):  # generate in float32
            weight = self.full_weight()
            # einsum leaves another order in memory, which would spread from here through the network
            return torch.einsum("orhw,rn->onhw", weight, self.fill.columns(ids).to(weight)).contiguous()

    def offset(self, presence: Tensor) -> Tensor | None:
        """Bias of each set: presence weights (..., C) summing to one -> (..., O)."""
        if self.embedding is None:
            return self.bias
        offset = presence.to(self.embedding) @ self.embedding
        return offset if self.bias is None else offset + self.bias

    def check_ids(self, channels) -> list[int]:
        """Channel ids of what `names.Channels.ids` takes.

        Raises:
            ValueError: no channel, or a bool, unknown or repeated one.
        """
        return self.channels.ids(channels, unseen=isinstance(self.fill, LumaChroma))

    def forward(self, x: Tensor, channels=None, mask: Tensor | None = None) -> Tensor:
        """Convolve.

        Args:
            x: (B, n, H, W) images of the channels `channels`, or (B, C, H, W) with a `mask`.
            channels: n ids, names or wavelengths in the order of x's channels, one set for the whole batch.
                Default: what the network around was called with, else all C.
            mask: (B, C) bool, the set of each image; pixels of absent channels have no influence, even NaN.

        Returns: (B, O, H', W'), size as Conv2d's.

        Raises:
            ValueError: ids and x disagree, unknown or repeated ids, an empty set, or a mask of another shape.
        """
        if channels is None and mask is None:
            channels, mask = self.given or self.ambient or (None, None)
        if x.ndim != 4:
            raise ValueError(f"x must be (B, n, H, W); got {tuple(x.shape)}")
        if mask is not None:
            if channels is not None:
                raise ValueError(
                    "give `channels` (one set for the batch) or `mask` (one set an image), not both"
                )
            return self._forward_mask(x, mask)
        ids = self.check_ids(channels)
        if x.shape[1] != len(ids):
            names = [self.channels.names[i] if i != UNSEEN else "unseen" for i in ids]
            told = "the stem has" if channels is None else "the call names"
            raise ValueError(f"x has {x.shape[1]} channels but {told} {len(ids)}: {', '.join(names)}")
        if self.unfoldable:  # then in two steps
            full = x.new_zeros(x.shape[0], self.in_channels, *x.shape[2:])
            full[:, ids] = x
            return self._forward_mask(full, self._presence(ids).bool().expand(x.shape[0], -1))
        offset = self.offset(self._presence(ids) / len(ids))
        kernel = self.kernel(ids)
        if x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous():
            kernel = kernel.contiguous(memory_format=torch.channels_last)
        return F.conv2d(x, kernel, offset, self.stride, self.padding, self.dilation)

    def _presence(self, ids: list[int]) -> Tensor:
        """How often each known channel is in `ids`: (C,); an unseen one counts as an equal share of all."""
        eye = self.fill.eye.float()
        return torch.stack([eye.mean(0) if i == UNSEEN else eye[i] for i in ids]).sum(0)

    def _forward_mask(self, x: Tensor, mask: Tensor) -> Tensor:
        if x.shape[1] != self.in_channels or mask.shape != x.shape[:2] or mask.dtype != torch.bool:
            raise ValueError(
                f"with a mask, x must be (B, {self.in_channels}, H, W) and mask a bool (B, "
                f"{self.in_channels}); got {tuple(x.shape)} and {mask.dtype} "
                f"{tuple(mask.shape)}"
            )
        if not torch.compiler.is_compiling() and x.device.type == "cpu" and not mask.any(1).all():
            # on a GPU this would wait for it
            raise ValueError("the mask leaves an image without any channel")
        absent = x.new_zeros(()) if self.fill.absent is None else self.fill.absent.to(x)[:, None, None]
        x = torch.where(mask[:, :, None, None], x, absent)
        with torch.autocast(x.device.type, enabled=False):  # the rule's small solve stays in float32
            # (B, rows, C)
            mixing = (self.fill(mask, x.float()) if self.fill.per_image else self.fill(mask)).to(x)
        if x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous():
            # pixels as rows, (B, H W, C): neither the images nor what comes out is copied
            x = (
                (x.permute(0, 2, 3, 1).flatten(1, 2) @ mixing.mT)
                .unflatten(1, x.shape[2:])
                .permute(0, 3, 1, 2)
            )
        else:
            x = (mixing @ x.flatten(2)).unflatten(2, x.shape[2:])
        if self.weight is None:
            y = self.generator.convolve(x, self.stride, self.padding, self.dilation)
        else:
            y = F.conv2d(x, self.weight, None, self.stride, self.padding, self.dilation)
        present = mask.float()
        offset = self.offset(present / present.sum(1, keepdim=True))  # (B, O), (O,) or None
        if offset is None:
            return y
        # in place: a convolution's output is not needed for its gradient
        return y.add_((offset if offset.dim() == 2 else offset[None]).to(y)[:, :, None, None])

    def fold(self, channels=None) -> nn.Conv2d:
        """The plain Conv2d with n input channels that this module is on the set `channels`.

        Raises:
            ValueError: it is no plain convolution, see `unfoldable`; or wrong ids.
        """
        if self.unfoldable:
            raise ValueError(f"{self.unfoldable}: it does not fold")
        ids = self.check_ids(channels)
        offset = self.offset(self._presence(ids) / len(ids))
        with torch.no_grad():
            kernel = self.kernel(ids)
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
        with torch.no_grad():
            conv.weight.copy_(kernel)
            if conv.bias is not None and offset is not None:
                conv.bias.copy_(offset)
        trainable = any(p.requires_grad for p in self.parameters())
        return conv.requires_grad_(trainable).train(self.training)

    def generation_macs(self, n: int) -> int:
        """Multiply-adds to generate K(S) for n channels: W, W P(S) and the offset.

        Selecting rows of W costs none. The rule's own arithmetic, of order C^3, is left out.
        """
        kernel = self.out_channels * math.prod(self.kernel_size)
        macs = kernel * self.fill.mixed * n
        macs += self.generator.macs() if self.generator is not None else 0
        return macs + (self.in_channels * self.out_channels if self.embedding is not None else 0)

    def extra_repr(self) -> str:
        known = f" ({self.channels!r})" if self.channels.are_named else ""
        return (
            f"{self.in_channels}{known}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, padding={self.padding}, embedding={self.embedding is not None}"
        )


def why_not_plain(conv: nn.Module) -> str:
    """Why the stem cannot take the place of `conv` and compute the same, or "" where it can."""
    if not isinstance(conv, nn.Conv2d):
        return f"this is a {type(conv).__name__}"
    kind = type(conv)
    if kind.forward is not nn.Conv2d.forward or kind._conv_forward is not nn.Conv2d._conv_forward:
        return f"{kind.__module__}.{kind.__name__} computes something else than its parent Conv2d"
    if isinstance(conv.weight, nn.parameter.UninitializedParameter):
        return "it is lazy and has no weight yet: run the network once"
    if hasattr(conv, "parametrizations") or conv._forward_pre_hooks or conv._forward_hooks:
        return (
            "it has hooks or a parametrization (such as weight norm), which would be lost: remove them first"
        )
    if "forward" in vars(conv):
        return "its forward was replaced"
    if conv.groups != 1:
        return f"it has {conv.groups} groups"
    return "" if conv.padding_mode == "zeros" else f"its padding mode is {conv.padding_mode!r}"
