"""Provide the base class of the stem and of the input fill. It checks channel sets and saves them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from . import context
from .fill import Fill, LumaChroma, along, captured, exactly, product, rule_name
from .names import Channels
from .restore import Restored
from .sampling import REPEATED, Sampler, in_backward
from .statistics import as_tensor

EXTRA = "_extra_state"  # torch's key for the result of `get_extra_state`
STATE_BLOCK = 1024  # the length of that result, in bytes, is a multiple of this number


class ChannelPlace(Restored):
    """A base class that the stem and the fill at a network's input share.

    Attributes:
        channels: the known channels with their names and wavelengths.
        in_channels: the number of known channels.
        fill: the fill rule.
        sampler: draws a set for each image in training if the call gives no set; None: no set is drawn.
        normalisation: mean and std of the normalisation, if given, as lists of C numbers. They are saved for
            users who load the network.
    """

    fill: Fill

    def __init__(self, channels: Any, fill: Fill, sampler: Sampler | None = None):
        super().__init__()
        self.channels = Channels(channels)
        self.in_channels = len(self.channels)
        self.fill, self.sampler = fill, sampler
        if not isinstance(sampler, Sampler | None):
            raise ValueError(f"{sampler!r} draws no sets: give a name of `sample_channels`, or a Sampler")
        self.normalisation: dict[str, list[float]] | None = None
        self.followed = False  # whether the set of a training call came from the network's call
        if fill.channels != self.in_channels:
            raise ValueError(
                f"the fill rule is for {fill.channels} channels, the stem for {self.in_channels}"
            )

    def __prepare_scriptable__(self) -> nn.Module:  # torch.jit.script asks
        raise ValueError(
            "torch.jit.script does not support sets of channels: use it on fold_channels(net, channels)"
        )

    def check_ids(self, channels: Any) -> list[int]:
        """Return channel ids; accepts everything that `names.Channels.ids` accepts.

        Raises:
            ValueError: there is no channel, or a channel is a bool, unknown or repeated.
        """
        return self.channels.ids(channels, unseen=isinstance(self.fill, LumaChroma))

    def asked(self, images: Any, channels: Any, mask: Any) -> tuple[Any, Any]:
        """Return the set of a call with these images as (channels, mask).

        The set comes from the arguments, otherwise from the call of the network. If neither gives a set, it is drawn in
        training.
        """
        if channels is None and mask is None:
            channels, mask = context.read(self)
            if channels is None and mask is None:
                if self.training and self.sampler is not None:
                    batch = images.shape[0] if isinstance(images, Tensor) else len(images)
                    mask = self.sampler.draw(batch, self.in_channels)
                elif self.followed and not captured() and in_backward():
                    raise RuntimeError(REPEATED)
            elif not captured():
                # reentrant checkpointing calls without gradients, but with images that require a gradient
                self.followed |= self.training or torch.is_grad_enabled() or _wants_gradient(images)
        return either(channels, mask)

    def spread(self, x: Tensor, ids: list[int]) -> tuple[Tensor, Tensor]:
        """Return images of all channels (B, C, ...), zero where absent, and their mask (B, C).

        Args:
            x: (B, n, ...) images of the channels `ids`.

        Raises:
            ValueError: the images do not have as many channels as `ids`, or a channel was unseen in training.
        """
        if x.shape[1] != len(ids):
            raise ValueError(f"images have {x.shape[1]} channels but the call names {len(ids)}")
        if min(ids) < 0:
            raise ValueError(
                "this network processes all channels before the convolution, so it cannot take channels that were "
                "unseen in training: leave them out"
            )
        full = x.new_zeros(x.shape[0], self.in_channels, *x.shape[2:])
        full[:, ids] = x
        # on the CPU, where it can be checked
        mask = torch.tensor([i in ids for i in range(self.in_channels)], device="cpu")
        return full, mask.expand(x.shape[0], -1)

    def check_mask(self, mask: Any, x: Tensor) -> tuple[Tensor, bool]:
        """Return the mask on the images' device, and whether all channels are certainly present.

        Raises:
            ValueError: the mask does not fit the images (B, C, ...), or leaves an image without a channel.
        """
        mask = mask if isinstance(mask, Tensor) else as_tensor(mask, "the mask's values")
        if x.shape[1] != self.in_channels or mask.shape != x.shape[:2] or mask.dtype != torch.bool:
            raise ValueError(
                f"with a mask, x must be (B, {self.in_channels}, ...) and mask a bool (B, "
                f"{self.in_channels}); got {tuple(x.shape)} and {mask.dtype} "
                f"{tuple(mask.shape)}"
            )
        if not x.is_floating_point():
            raise ValueError(
                f"images of {x.dtype} cannot be filled: convert them to float and normalise them"
            )
        every = False
        if mask.device.type == "cpu" and not captured():
            # on a GPU this would wait for the device
            fewest = int(mask.sum(1).min()) if len(mask) else self.in_channels
            if not fewest:
                raise ValueError("the mask leaves an image without any channel")
            every = fewest == self.in_channels
        return mask.to(x.device, non_blocking=True), every

    # ------------------------------------------------------------ checkpoints

    def get_extra_state(self) -> Tensor:
        """Return names, wavelengths, rule and the sampler's position, as text in a tensor of bytes."""
        state: dict[str, Any] = {"fill": rule_name(self.fill)}
        if self.channels.are_named:
            state["channels"] = self.channels.as_dict()
        if self.normalisation is not None:
            state["normalisation"] = self.normalisation
        if self.sampler is not None:
            # twenty digits, so that the average of two states is a number, too
            state["sampler"] = {"seed": self.sampler.seed, "count": f"{self.sampler.count:020d}"}
        # averages and torch.distributed.checkpoint need states of equal length, with and without a sampler
        text = json.dumps(state)
        text = text.ljust(-len(text) // STATE_BLOCK * -STATE_BLOCK)
        return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8).clone()

    def set_extra_state(self, state: Any) -> None:
        """Load the result of `get_extra_state`.

        Raises:
            ValueError: the state belongs to other channels or to another rule, or is damaged.
        """
        try:  # the state may be an average of equal states, or converted to another type
            text = bytes(state.detach().cpu().double().round().to(torch.uint8).tolist()).decode()
            stored: dict[str, Any] = json.loads(text)
        except ValueError:
            raise ValueError(
                f"this entry is damaged, as after averaging the states of different networks: average only "
                f"floating-point tensors, or remove the key that ends in {EXTRA} from the state dict"
            ) from None
        if "fill" in stored and stored["fill"] != rule_name(self.fill):
            raise ValueError(
                f"the checkpoint has fill rule {stored['fill']!r}, the network has {rule_name(self.fill)!r}"
            )
        if stored.get("channels"):
            theirs = Channels(stored["channels"])
            if wrong := self.channels.differs(theirs):
                raise ValueError(
                    f"the checkpoint has {wrong}: adapt the network to the checkpoint's channels"
                )
            if not self.channels.are_named:
                self.channels = theirs
        self.normalisation = stored.get("normalisation") or self.normalisation
        if self.sampler is not None and "sampler" in stored:
            self.sampler.seed, self.sampler.count = stored["sampler"]["seed"], int(stored["sampler"]["count"])

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        _, _, missing_keys, _, error_msgs = rest
        extra = prefix + EXTRA
        if extra in state_dict:
            try:
                self.set_extra_state(state_dict[extra])
            except ValueError as wrong:
                error_msgs.append(f"{prefix.rstrip('.') or 'the stem'}: {wrong}")
                return
        stored, own = prefix + "fill.centre" in state_dict, self.fill.centre is not None
        if stored != own and not self._is_plain_state(state_dict, prefix):
            error_msgs.append(
                f"{prefix.rstrip('.') or 'the stem'}: the checkpoint is for images whose mean was "
                f"{'not subtracted' if stored else 'subtracted'}: adapt with the normalised= and mean= of the training"
            )
            return
        self._complete_state(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *rest)
        if extra in missing_keys:  # older checkpoints have no such entry
            missing_keys.remove(extra)

    def _complete_state(self, state_dict: dict[str, Any], prefix: str) -> None:
        """Add the keys that a plain network's checkpoint lacks to `state_dict`, which is torch's copy."""
        if self._is_plain_state(state_dict, prefix):
            for name, value in self.fill.state_dict().items():
                state_dict[f"{prefix}fill.{name}"] = self.fill.exact.get(name, value)

    def _is_plain_state(self, state_dict: Mapping[str, Any], prefix: str) -> bool:
        """Check whether a checkpoint is from a plain network, without a stem."""
        return not any(key.startswith((prefix + "fill.", prefix + EXTRA)) for key in state_dict)


def _wants_gradient(images: Any) -> bool:
    return any(
        getattr(x, "requires_grad", False) for x in ([images] if isinstance(images, Tensor) else images)
    )


def either(channels: Any, mask: Any) -> tuple[Any, Any]:
    """Return (channels, mask) of a call; raise a ValueError if both are given."""
    if channels is not None and mask is not None:
        raise ValueError(
            "give `channels` (one set for the batch) or `mask` (one set for each image), not both"
        )
    return channels, mask


class InputFill(ChannelPlace):
    """A module that fills images at a network's input, for networks in which several layers read the images.

    It is a part of the network, so its statistics are moved and saved with the network. Its forward does nothing. So in
    an `nn.Sequential` it may come after the other layers.
    """

    def forward(self, x: Any) -> Any:
        return x

    def fill_images(self, x: Tensor, channels: Any, mask: Any) -> Tensor:
        """Return images of all channels (B, C, ...).

        Args:
            x: (B, n, ...) images of `channels`, or (B, C, ...) with a `mask` (B, C), or all channels.

        Raises:
            ValueError: the images do not have as many channels as `channels` names, or the mask is wrong, see
                `ChannelPlace.check_mask`.
        """
        if mask is None and (channels is not None or not self.fill.whole):
            x, mask = self.spread(x, self.check_ids(channels))
        if mask is None:
            return x
        mask, every = self.check_mask(mask, x)
        with exactly(x.device):  # autocast would round the present channels
            return x if every and self.fill.whole else self.fill.complete(x, mask)


class FixedFill(nn.Module):
    """A module that fills images at a network's input for one set of channels."""

    matrix: Tensor
    shift: Tensor | None

    def __init__(self, fill: Fill, ids: list[int]):
        super().__init__()
        self.ids = ids
        self.register_buffer("matrix", fill.columns(ids).detach().clone())
        shift = fill.shift(ids)
        self.register_buffer("shift", None if shift is None else shift.detach().clone())

    def forward(self, x: Any) -> Any:
        return x

    def __prepare_scriptable__(self) -> nn.Module:
        raise ValueError("torch.jit.script does not support images filled at the input: use torch.jit.trace")

    def check_ids(self, channels: Any) -> list[int]:
        """Return the ids of this fill's set, whatever the argument is."""
        return self.ids

    def asked(self, images: Any, channels: Any, mask: Any) -> tuple[Any, Any]:
        """Return the set of this fill as (channels, mask), whatever the arguments are."""
        return self.ids, None

    def fill_images(self, x: Tensor, channels: Any, mask: Any) -> Tensor:
        """Return images of all channels (B, C, ...) from images (B, n, ...) of the fill's set."""
        with exactly(x.device):
            filled = product(self.matrix.to(x), x)
        return filled if self.shift is None else filled + along(self.shift.to(x), x)
