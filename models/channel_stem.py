"""ChannelSetConv2d: a convolution for any set of input channels, with a kernel generated from the set."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.fill import UNSEEN, Fill, LumaChroma, Zero
from models.kernels import Kernel


class ChannelSetConv2d(nn.Module):
    """Conv2d whose kernel is a function of the set S of channels present: K(S) = W P(S).

        y = conv(x_S, K(S)) + (1/n) sum_{c in S} e_c,    K(S)[:, c] = sum_j W[:, j] P(S)[j, c]

    One image has one set (`channels`: folded, one plain convolution with n input channels), or each image of
    a batch has its own (`mask`: fill with P(S), then convolve with W). Both give the same result. Zero
    padding, stride and dilation are Conv2d's, and so is the output size for any H, W. At S = all channels it
    is a Conv2d.

    Args:
        in_channels: C, the number of known channels.
        out_channels, kernel_size, stride, padding, dilation: as in `torch.nn.Conv2d`.
        fill: rule that gives P(S), see `models.fill`. Default: `Zero`.
        kernel: generator of W, see `models.kernels`. Default: W is a parameter.
        embedding: learn e (C, O), zero at the start; it tells the network which channels it was given.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1,
                 padding: int = 0,
                 dilation: int = 1, fill: Fill | None = None, kernel: Kernel | None = None,
                 embedding: bool = True):
        super().__init__()
        self.in_channels, self.out_channels, self.kernel_size = in_channels, out_channels, kernel_size
        self.stride, self.padding, self.dilation = stride, padding, dilation
        self.fill = fill if fill is not None else Zero(in_channels)
        if self.fill.channels != in_channels:
            raise ValueError(f"the fill rule is for {self.fill.channels} channels, the stem for "
                             f"{in_channels}")
        shape = (out_channels, self.fill.rows, kernel_size, kernel_size)
        if kernel is not None and kernel.shape != shape:
            raise ValueError(f"the kernel generator makes {kernel.shape}, the stem needs {shape}")
        self.generator = kernel
        self.weight = nn.Parameter(torch.empty(shape)) if kernel is None else None
        self.embedding = nn.Parameter(torch.zeros(in_channels, out_channels)) if embedding else None
        self.bias = None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """He initialisation (fan-out, as torchvision's ResNet has it) of the equivalent Conv2d; a generator
        has its own.
        """
        if self.weight is not None:
            kernel = torch.empty(self.out_channels, self.in_channels, self.kernel_size, self.kernel_size)
            self._set_kernel(nn.init.kaiming_normal_(kernel, mode="fan_out", nonlinearity="relu"))

    @torch.no_grad()
    def _set_kernel(self, kernel: Tensor) -> None:
        """Set W so that K(all) equals `kernel` (O, C, k, k)."""
        self.weight.copy_(self.fill.spread(kernel))

    @classmethod
    def from_conv2d(cls, conv: nn.Conv2d, fill: Fill | None = None,
                    embedding: bool = True) -> ChannelSetConv2d:
        """Convert a trained first convolution; with all channels present the output stays the same.

        Raises:
            ValueError: grouped convolution, padding that is not zeros, or non-square kernel, stride or
                padding.
        """
        square = all(not isinstance(v, str) and len(set(v)) == 1
                     for v in (conv.kernel_size, conv.stride, conv.padding, conv.dilation))
        if conv.groups != 1 or conv.padding_mode != "zeros" or not square:
            raise ValueError("from_conv2d takes an ungrouped, zero-padded Conv2d with square kernel, stride "
                             "and padding")
        stem = cls(conv.in_channels, conv.out_channels, conv.kernel_size[0], conv.stride[0], conv.padding[0],
                   conv.dilation[0], fill, embedding=embedding)
        stem._set_kernel(conv.weight)
        if conv.bias is not None:
            stem.bias = nn.Parameter(conv.bias.detach().clone())
        return stem.to(conv.weight.device)

    def full_weight(self) -> Tensor:
        """W: (O, rows, k, k)."""
        return self.weight if self.generator is None else self.generator()

    @property
    def unfoldable(self) -> str:
        """Why this stem is no plain convolution, or "" where it is one for every set of channels."""
        if self.fill.absent is not None:
            return "fill rule 'black' adds a constant plane, which zero padding cuts off"
        if self.fill.per_image:
            return "the fill rule depends on the image"
        return "the kernel depends on the image" if self.generator is not None and self.generator.per_image else ""

    def kernel(self, channels=None) -> Tensor:
        """K(S): (O, n, k, k), columns in the order of `channels` (ids; None: all of them)."""
        ids = self.check_ids(channels)
        with torch.autocast(self.fill.eye.device.type, enabled=False):   # generate in float32
            weight = self.full_weight()
            return torch.einsum("orhw,rn->onhw", weight, self.fill.columns(ids).to(weight))

    def offset(self, presence: Tensor) -> Tensor | None:
        """Bias of each set: presence weights (..., C) summing to one -> (..., O)."""
        if self.embedding is None:
            return self.bias
        offset = presence.to(self.embedding) @ self.embedding
        return offset if self.bias is None else offset + self.bias

    def check_ids(self, channels) -> list[int]:
        """Channel ids as a list of int.

        Raises:
            ValueError: no channel, a repeated or unknown id.
        """
        if channels is None:
            return list(range(self.in_channels))
        ids = [int(c) for c in channels]
        known = [i for i in ids if i != UNSEEN]
        if not ids:
            raise ValueError("at least one channel must be present")
        if len(set(known)) != len(known):
            raise ValueError(f"channel ids {ids} repeat a channel")
        if any(not 0 <= i < self.in_channels for i in known):
            raise ValueError(f"channel ids {ids}: known ids are 0 to {self.in_channels - 1}")
        if len(known) < len(ids) and not isinstance(self.fill, LumaChroma):
            raise ValueError("unseen channels need the open-set form: fill rule 'luma_chroma'")
        return ids

    def forward(self, x: Tensor, channels=None, mask: Tensor | None = None) -> Tensor:
        """Convolve.

        Args:
            x: (B, n, H, W) images of the channels `channels`, or (B, C, H, W) with a `mask`.
            channels: n channel ids in the order of x's channels, one set for the whole batch. Default: all C.
            mask: (B, C) bool, the set of each image; pixels of absent channels have no influence, even NaN.

        Returns: (B, O, H', W'), size as Conv2d's.

        Raises:
            ValueError: ids and x disagree, unknown or repeated ids, an empty set, or a mask of another shape.
        """
        if mask is not None:
            if channels is not None:
                raise ValueError("give `channels` (one set for the batch) or `mask` (one set an image), not "
                                 "both")
            return self._forward_mask(x, mask)
        ids = self.check_ids(channels)
        if x.shape[1] != len(ids):
            raise ValueError(f"x has {x.shape[1]} channels but {len(ids)} channel ids were given: {ids}")
        if self.unfoldable:   # then in two steps
            full = x.new_zeros(x.shape[0], self.in_channels, *x.shape[2:])
            full[:, ids] = x
            return self._forward_mask(full, self._presence(ids).bool().expand(x.shape[0], -1))
        offset = self.offset(self._presence(ids) / len(ids))
        return F.conv2d(x, self.kernel(ids), offset, self.stride, self.padding, self.dilation)

    def _presence(self, ids: list[int]) -> Tensor:
        """How often each known channel is in `ids`: (C,); an unseen one counts as an equal share of all."""
        eye = self.fill.eye
        return torch.stack([eye.mean(0) if i == UNSEEN else eye[i] for i in ids]).sum(0)

    def _forward_mask(self, x: Tensor, mask: Tensor) -> Tensor:
        if x.shape[1] != self.in_channels or mask.shape != x.shape[:2] or mask.dtype != torch.bool:
            raise ValueError(f"with a mask, x must be (B, {self.in_channels}, H, W) and mask a bool (B, "
                             f"{self.in_channels}); got {tuple(x.shape)} and {mask.dtype} "
                             f"{tuple(mask.shape)}")
        if not torch.compiler.is_compiling() and x.device.type == "cpu" and not mask.any(1).all():
            # on a GPU this would wait for it
            raise ValueError("the mask leaves an image without any channel")
        absent = x.new_zeros(()) if self.fill.absent is None else self.fill.absent.to(x)[:, None, None]
        x = torch.where(mask[:, :, None, None], x, absent)
        with torch.autocast(x.device.type, enabled=False):   # the rule's small solve stays in float32
            # (B, rows, C)
            mixing = (self.fill(mask, x.float()) if self.fill.per_image else self.fill(mask)).to(x)
        memory_format = torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) \
            else torch.contiguous_format
        x = torch.einsum("brc,bchw->brhw", mixing, x).contiguous(memory_format=memory_format)
        conv = (self.stride, self.padding, self.dilation)
        y = F.conv2d(x, self.weight, None, *conv) if self.generator is None else self.generator.convolve(x,
            *conv)
        present = mask.float()
        offset = self.offset(present / present.sum(1, keepdim=True))              # (B, O), (O,) or None
        if offset is None:
            return y
        return y + (offset if offset.dim() == 2 else offset[None]).to(y)[:, :, None, None]

    def fold(self, channels=None) -> nn.Conv2d:
        """The plain Conv2d with n input channels that this module is on the set `channels`.

        Raises:
            ValueError: it is no plain convolution, see `unfoldable`; or wrong ids.
        """
        if self.unfoldable:
            raise ValueError(f"{self.unfoldable}: it does not fold")
        ids = self.check_ids(channels)
        offset = self.offset(self._presence(ids) / len(ids))
        conv = nn.Conv2d(len(ids), self.out_channels, self.kernel_size, self.stride, self.padding,
                         self.dilation,
                         bias=offset is not None, device=self.fill.eye.device)
        with torch.no_grad():
            conv.weight.copy_(self.kernel(ids))
            if offset is not None:
                conv.bias.copy_(offset)
        return conv.train(self.training)

    def generation_macs(self, n: int) -> int:
        """Multiply-adds to generate K(S) for n channels: W, W P(S) and the offset.

        Selecting rows of W costs none. The rule's own arithmetic, of order C^3, is left out.
        """
        kernel = self.out_channels * self.kernel_size ** 2
        macs = kernel * self.fill.mixed * n
        macs += self.generator.macs() if self.generator is not None else 0
        return macs + (self.in_channels * self.out_channels if self.embedding is not None else 0)

    def extra_repr(self) -> str:
        return (f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
                f"stride={self.stride}, padding={self.padding}, embedding={self.embedding is not None}")
