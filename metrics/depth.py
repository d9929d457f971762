"""Count the strict depth: the largest number of weighted operations on a path from a network's input to its output.

A weighted operation is a convolution, or a product of a value that depends on the input and a weight that does not.
Operations add to the depth as follows:

    1   convolution (its kernel may depend on the input), matrix product with a parameter or a
        constant matrix, elementwise product with a weight that varies along two or more dimensions (a global
        filter, a matrix product written as multiply and sum), distances to learned points, a look-up in a
        learned table
    0   BatchNorm, per-channel scales, activations, pooling, sums (biases, residuals, position embeddings),
        concatenation, elementwise products of activations (gates)

Among parallel branches, only the longest branch counts. A shared weight counts each time it is used. The stricter depth
also adds one for each matrix product of two activations. So attention adds two, and covariance pooling adds one. A
convolution that is written as a matrix product with a kernel made from the input also adds one.

The counter follows the operations that torch dispatches while the network runs. So it does not matter which module,
function or library calls an operation, or whether a weight is trained. (Autograd's graph misses frozen weights; hooks
on modules miss functional calls.) All views of one memory share a count. If a network writes parts of different depth
into one tensor, the count may be too large, but never too small. The counter does not notice computations outside
torch, or a convolution that is written as shifts, per-channel scales and sums.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# largest strict depth that the task allows: an input layer, four hidden layers and an output layer
MAX_DEPTH = 6
# name of a matrix product -> position of its first factor among the arguments; some products take a summand before it
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
# operations that add, choose or move values: an operand that does not depend on the input is not a weight
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
    """Hold the result of `count_depth`.

    Attributes:
        strict: strict depth.
        stricter: stricter depth.
        operations: number of all weighted operations.
        path: names of the weights on the longest path, one for each weighted operation.
    """

    strict: int
    stricter: int
    operations: int
    path: tuple[str, ...]


def count_depth(model: nn.Module, input_shape: tuple[int, ...], training: bool = False) -> Depth:
    """Count the depth and the weighted operations of one forward pass.

    Args:
        model: a module that takes a single tensor. It is not changed: a copy makes the forward pass.
        input_shape: (C, H, W) of one image.
        training: whether the model runs in training mode or in eval mode.

    Raises:
        ValueError: the depth cannot be counted, because one operation has several weights, a value is read into
            Python, or the output does not depend on the input.
    """
    model = copy.deepcopy(model).train(training)
    parameter = next(model.parameters(), torch.zeros(()))
    images = torch.zeros(2, *input_shape, dtype=parameter.dtype, device=parameter.device)
    names = {_memory(p)._cdata: name.removesuffix(".weight") for name, p in model.named_parameters()}
    counter = _Counter(names)
    counter.write(images, ((), ()))
    fast_attention = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the fast path is one operation for a whole layer
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
    """Choose the longest path of each kind from pairs (strict path, stricter path); return a pair.

    A candidate is None if its value does not depend on the input. Return None if all candidates are None.
    """
    pairs = [pair for pair in candidates if pair is not None]
    return tuple(max(paths, key=len) for paths in zip(*pairs)) if pairs else None


class _Counter(TorchDispatchMode):
    """Store a pair (strict path, stricter path) for every tensor that depends on the input, as a torch mode.

    Args:
        names: a dict from the address of a parameter's memory to the name of the parameter.
    """

    def __init__(self, names: dict[int, str]):
        super().__init__()
        self.names, self.operations = names, 0
        # address -> (memory, paths); the reference to the memory ensures that its address is not used again
        self.by_address: dict[int, tuple] = {}

    def paths(self, value) -> tuple | None:
        entry = self.by_address.get(_memory(value)._cdata) if isinstance(value, Tensor) else None
        return entry[1] if entry else None

    def write(self, tensor: Tensor, paths: tuple) -> None:
        self.by_address[_memory(tensor)._cdata] = _memory(tensor), paths

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        with self:  # inference mode does not split composite operations, so split them and count their parts
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
                f"{func} turns a tensor that depends on the input into a Python number. The counter cannot follow "
                f"Python numbers: compute with tensors alone, without .item(), float() or bool()"
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
        """Return the weight of an operation, or None, and the number of products of two activations in it."""
        if "convolution" in name:
            return args[0] if self.paths(args[0]) is None else args[1], 0
        if name in PRODUCTS:
            factors = args[PRODUCTS[name] :][:2]
            weights = [factor for factor in factors if self.paths(factor) is None]
            return (weights[0], 0) if len(weights) == 1 else (None, 1 - len(weights) // 2)
        weights = [
            value
            for value in operands
            if name not in SUMS
            and self.paths(value) is None
            and (value.is_floating_point() or value.is_complex())
            and sum(side > 1 for side in value.shape) > 1
        ]
        if len(weights) > 1:
            raise ValueError(
                f"{name} has {len(weights)} weights in one operation: its depth cannot be counted"
            )
        return (weights[0] if weights else None), 2 * ("attention" in name)
