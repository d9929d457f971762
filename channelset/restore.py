"""Set the values of modules that were made on the meta device, where tensors have no values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Restored(nn.Module):
    """A base class of modules that set parameters and buffers that were not loaded.

    They do this when a module made on the meta device gets memory (`to_empty`), and when Hugging Face's
    `from_pretrained` finds no value in the checkpoint.
    """

    def restore(self, name: str) -> None:
        """Set the parameter or buffer `name` to its start value, in place."""
        raise NotImplementedError

    def reset_parameters(self) -> None:
        """Set all parameters and buffers of this module, without its parts, to their start values."""
        for name in self._own():
            self.restore(name)

    def _own(self) -> dict[str, Tensor]:
        both = [*self._parameters.items(), *self._buffers.items()]
        return {name: value for name, value in both if value is not None}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        empty = [name for name, value in self._own().items() if value.is_meta]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call,unused-ignore]
        for name in empty:
            if not self._own()[name].is_meta:
                self.restore(name)
        return self

    # Hugging Face marks each loaded tensor, then the modules. Modules that are unknown to Hugging Face keep
    # uninitialised memory.
    @property
    def _is_hf_initialized(self) -> bool:
        return bool(self.__dict__.get("hf_initialized", False))

    @_is_hf_initialized.setter
    def _is_hf_initialized(self, value: bool) -> None:
        self.__dict__["hf_initialized"] = value
        if value:
            with torch.no_grad():
                for name, tensor in self._own().items():
                    if not tensor.is_meta and not getattr(tensor, "_is_hf_initialized", False):
                        self.restore(name)
