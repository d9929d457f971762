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
torch or in other threads. It does not notice a layer that is written as shifts, per-channel scales, choices and sums.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
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
    "_int_mm": 0,
    "_weight_int8pack_mm": 0,
}
# operations that read a table, their first operand, at the places that an index names
LOOKUPS = {"index", "index_select", "gather", "take"}
# groups of operations whose weights are all among their arguments; the operations of other groups may hide weights
KNOWN = {"aten", "prims", "torchvision"}
# methods that hand the values of a tensor to other code than torch
READERS = {Tensor.tolist, Tensor.numpy, Tensor.__array__}
# operations that add, choose or move values: an operand that does not depend on the input is not a weight
SUMS = {
    "add",
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
        ValueError: the depth cannot be counted, because one operation has several weights or is not of torch, a
            value is read into Python or sets a shape, a tensor is sparse, or the output does not depend on the input.
    """
    model = copy.deepcopy(model).train(training)
    parameter = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    images = torch.zeros(2, *input_shape, dtype=parameter.dtype, device=parameter.device)
    names = {_memory(p)._cdata: name.removesuffix(".weight") for name, p in model.named_parameters()}
    counter = _Counter(names)
    counter.write(images, ((), ()))
    with torch.no_grad(), split_attention(), _Readers(counter), counter:
        outputs = model(images)
    paths = _longest([counter.paths(out) for out in tree_leaves(outputs) if isinstance(out, Tensor)])
    if paths is None:
        raise ValueError("the output does not depend on the input through torch's operations")
    return Depth(len(paths[0]), len(paths[1]), counter.operations, paths[0])


@contextmanager
def split_attention() -> Iterator[None]:
    """Make attention consist of matrix products, which a counter sees; the fast kernels do a whole layer at once."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)


def _memory(tensor: Tensor) -> torch.UntypedStorage:
    if tensor.layout != torch.strided:
        raise ValueError(f"the counter cannot follow a tensor of layout {tensor.layout}: use .to_dense()")
    return tensor.untyped_storage()


def _longest(candidates: list) -> tuple | None:
    """Choose the longest path of each kind from pairs (strict path, stricter path); return a pair.

    A candidate is None if its value does not depend on the input. Return None if all candidates are None.
    """
    pairs = [pair for pair in candidates if pair is not None]
    return tuple(max(paths, key=len) for paths in zip(*pairs)) if pairs else None


def _axes(tensor: Tensor) -> set[int]:
    """Return the axes, counted from the last, along which the values of a tensor can vary."""
    sides = enumerate(zip(tensor.shape, tensor.stride()))
    return {axis - tensor.dim() for axis, (side, stride) in sides if side > 1 and stride}


def _left(operation) -> ValueError:
    """Return the error for an operation that takes values out of torch."""
    return ValueError(
        f"{operation} turns a tensor that depends on the input into a Python number or an array. The counter "
        f"cannot follow them: compute with tensors alone, without .item(), float(), bool(), .tolist() or .numpy()"
    )


class _Readers(TorchFunctionMode):
    """Refuse the methods in `READERS` for values that depend on the input, as a torch mode.

    They are no operations that torch dispatches, so `_Counter` does not see them.
    """

    def __init__(self, counter: _Counter):
        super().__init__()
        self.counter = counter

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in READERS and self.counter.paths(args[0]) is not None:
            raise _left(f"Tensor.{func.__name__}")
        return func(*args, **(kwargs or {}))


class _Counter(TorchDispatchMode):
    """Store a pair (strict path, stricter path) for every tensor that depends on the input, as a torch mode.

    Args:
        names: a dict from the address of a parameter's memory to the name of the parameter.
    """

    supports_higher_order_operators = True  # such as torch.cond: they are refused with a clear message

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
        operands = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        paths = _longest([self.paths(value) for value in operands])
        if paths is None:
            return func(*args, **kwargs)
        if func.namespace not in KNOWN:
            raise ValueError(
                f"{func} may hide weights from the counter: write it with the usual operations of torch"
            )
        with self:  # inference mode does not split composite operations, so split them and count their parts
            result = func.decompose(*args, **kwargs)
        if result is not NotImplemented:
            return result
        result = func(*args, **kwargs)
        if isinstance(result, (bool, int, float, complex)):
            raise _left(func)
        name = func._schema.name.split("::")[1].rstrip("_")
        if torch.Tag.dynamic_output_shape in func.tags:
            masks = [value for value in operands[1:] if value.dtype in (torch.bool, torch.uint8)]
            if any(map(self.paths, masks if name in ("index", "masked_select") else operands)):
                raise ValueError(
                    f"{func} has a result whose shape depends on the values of the input. Python can choose layers by "
                    f"a shape: keep the shape, such as with torch.where()"
                )
        weight, products = self._count(name, args, operands)
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
        if "conv" in name and "convert" not in name:
            return args[0] if self.paths(args[0]) is None else args[1], 0
        if name in PRODUCTS:
            factors = args[PRODUCTS[name] :][:2]
            weights = [factor for factor in factors if self.paths(factor) is None]
            return (weights[0], 0) if len(weights) == 1 else (None, 1 - len(weights) // 2)
        axes = {axis for value in operands if self.paths(value) is not None for axis in _axes(value)}
        weights = [
            value
            for value in operands
            if name not in SUMS
            and self.paths(value) is None
            and (value.is_floating_point() or value.is_complex() or name in ("mul", "div"))
            and sum(side > 1 for side in value.shape) > (0 if name in LOOKUPS else 1)
            # a difference is a sum, unless it compares each activation with several learned values
            and (name not in ("sub", "rsub") or (_axes(value) & axes and _axes(value) - axes))
        ]
        if len(weights) > 1:
            raise ValueError(
                f"{name} has {len(weights)} weights in one operation: its depth cannot be counted"
            )
        return (weights[0] if weights else None), 2 * ("attention" in name)
