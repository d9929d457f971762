"""Strict depth: the largest number of weighted operations on any path from a network's input to its output.

A weighted operation is a convolution, or a product of something that depends on the input with a weight that
does not:

    1   convolution (also one whose kernel depends on the input), matrix product with a parameter or a
        constant matrix, elementwise product with a weight that varies along two or more dimensions (a global
        filter, a matrix product written as multiply and sum), distances to learned points, a look-up in a
        learned table
    0   BatchNorm, per-channel scales, activations, pooling, sums (biases, residuals, position embeddings),
        concatenation, elementwise products of activations (gates)

Parallel branches count as the longest of them, and each use of a shared weight counts. The stricter depth
adds one for each matrix product of two activations: two for attention, one for covariance pooling, one for a
convolution that is written as a matrix product with a kernel made from the input.

The operations are those that torch dispatches while the network runs, so it does not matter in which module,
function or library they are written, or whether a weight is trained; autograd's graph misses frozen weights,
hooks on modules miss functional calls. A count holds for all views of one memory: where a network writes
parts of different depth into one tensor it may be too large, never too small. Not seen: a convolution written
as shifts, per-channel scales and sums, and what leaves torch.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# matrix products: position of the first of the two factors (before it: what is added to the product)
PRODUCTS = {
    "mm": 0,
    "bmm": 0,
    "mv": 0,
    "dot": 0,
    "vdot": 0,
    "addmm": 1,
    "addmv": 1,
    "baddbmm": 1,
    "addbmm": 1,
}
# operations that add, choose or move values: an independent operand of any shape is no weight
SUMS = {
    "add",
    "sub",
    "rsub",
    "cat",
    "stack",
    "where",
    "copy",
    "maximum",
    "minimum",
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
    "masked_fill",
    "masked_scatter",
    "index_put",
    "index_add",
    "index_copy",
    "scatter",
    "scatter_add",
    "slice_scatter",
    "select_scatter",
}


class Depth(NamedTuple):
    """What `count_depth` returns; `path` names the weights along the longest path, one for each of its
    `strict` operations.
    """

    strict: int
    stricter: int
    operations: int
    path: tuple[str, ...]


def count_depth(model: nn.Module, input_shape: tuple[int, ...], training: bool = False) -> Depth:
    """Depth of one forward pass, and the number of weighted operations in it.

    Args:
        model: takes a single tensor; left as it is (the pass is made by a copy).
        input_shape: (C, H, W) of one image.
        training: count the pass in training mode, else the one in eval mode.

    Raises:
        ValueError: the path cannot be followed: one opaque operation with several weights, a value read into
            Python,
            or an output that does not depend on the input.
    """
    model = copy.deepcopy(model).train(training)
    parameter = next(model.parameters(), torch.zeros(()))
    images = torch.zeros(2, *input_shape, dtype=parameter.dtype, device=parameter.device)
    counter = _Counter(
        {_memory(p)._cdata: name.removesuffix(".weight") for name, p in model.named_parameters()}
    )
    counter.write(images, ((), ()))
    fast_attention = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one operation for a whole layer
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            outputs = model(images)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_attention)
    paths = _longest([counter.paths(out) for out in tree_leaves(outputs) if isinstance(out, Tensor)])
    if paths is None:
        raise ValueError("the output does not depend on the input through torch's operations")
    return Depth(len(paths[0]), len(paths[1]), counter.operations, paths[0])


def _memory(tensor: Tensor) -> torch.UntypedStorage:
    return tensor.untyped_storage()


def _longest(candidates: list) -> tuple | None:
    """The longest strict and the longest stricter path of several pairs; None stands for no dependence on
    the input.
    """
    pairs = [pair for pair in candidates if pair is not None]
    return tuple(max(paths, key=len) for paths in zip(*pairs)) if pairs else None


class _Counter(TorchDispatchMode):
    """Follows every tensor that depends on the input: memory -> (strict path, stricter path).

    Args:
        names: of the parameters, by the address of their memory.
    """

    def __init__(self, names: dict[int, str]):
        super().__init__()
        self.names, self.operations = names, 0
        # address -> (memory, paths); the memory is kept, so no other takes its address
        self.found: dict[int, tuple] = {}

    def paths(self, value) -> tuple | None:
        return self.found.get(_memory(value)._cdata, (None, None))[1] if isinstance(value, Tensor) else None

    def write(self, tensor: Tensor, paths: tuple) -> None:
        self.found[_memory(tensor)._cdata] = _memory(tensor), paths

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        with self:  # inference mode delivers composite operations whole: count their parts
            result = func.decompose(*args, **kwargs)
        if result is not NotImplemented:
            return result
        result = func(*args, **kwargs)
        operands = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        paths = _longest([self.paths(value) for value in operands])
        if paths is None:
            return result
        if isinstance(result, (bool, int, float, complex)):
            raise ValueError(
                f"{func} reads a value that depends on the input into Python, where it cannot be followed"
            )
        weight, products = self._count(func._schema.name.split("::")[1].rstrip("_"), args, operands)
        if weight is not None:
            self.operations += 1
            shape = "x".join(map(str, weight.shape))
            step = f"{self.names.get(_memory(weight)._cdata, func._schema.name)} {shape}"
            paths = tuple(path + (step,) for path in paths)
        paths = paths[0], paths[1] + (func._schema.name,) * products
        changed = [
            args[i] if i < len(args) else kwargs.get(argument.name)
            for i, argument in enumerate(func._schema.arguments)
            if argument.alias_info is not None and argument.alias_info.is_write
        ]
        for value in tree_leaves((result, changed)):
            if isinstance(value, Tensor):
                self.write(value, paths)
        return result

    def _count(self, name: str, args: tuple, operands: list[Tensor]) -> tuple[Tensor | None, int]:
        """The weight of a weighted operation, or None, and the number of products of two activations."""
        if "convolution" in name:
            return args[0] if self.paths(args[0]) is None else args[1], 0
        if name in PRODUCTS:
            factors = args[PRODUCTS[name] :][:2]
            weights = [factor for factor in factors if self.paths(factor) is None]
            return (weights[0], 0) if len(weights) == 1 else (None, 1 - len(weights) // 2)
        weights = (
            []
            if name in SUMS
            else [
                value
                for value in operands
                if self.paths(value) is None
                and (value.is_floating_point() or value.is_complex())
                and sum(side > 1 for side in value.shape) > 1
            ]
        )
        if len(weights) > 1:
            raise ValueError(f"{name} has {len(weights)} weights in one operation, so its depth is not known")
        return (weights[0] if weights else None), 2 * ("attention" in name)
