"""Measure what a model costs: parameters, multiply-accumulates (MACs), memory and latency.

MACs here count only convolutions and linear layers, as papers do (ResNet-18 at 224 px: 1.81 G). BatchNorm folds
into the convolution before it; ReLU and pooling have no weights. One MAC is two FLOPs. Two counters agree on any
model of plain layers and check each other:

    count_macs          thop's hooks on modules; misses functional calls and subclasses of nn.Conv2d
    flop_counter_macs   torch's dispatcher; sees every convolution and matrix product, also functional calls

A stem that generates its kernel and calls F.conv2d must therefore be folded into a plain Conv2d before
`count_macs`.
"""

from __future__ import annotations

import copy
import sys
import time
from contextlib import ExitStack, contextmanager
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.modules.conv import _ConvNd
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

BATCH = 256  # images in a batch for costs that depend on the batch
try:
    import thop
    from thop.profile import register_hooks
    from thop.vision.basic_hooks import zero_ops

    # thop counts BatchNorm, average pooling and softmax as operations, which the MACs of papers leave out
    NOT_WEIGHTED = {kind: zero_ops for kind in register_hooks if not issubclass(kind, (_ConvNd, nn.Linear))}
except ImportError:  # thop needs distutils, which newer Pythons have only with setuptools
    thop = None


def count_params(model: nn.Module) -> int:
    """Count the parameters, trainable or frozen.

    A shared parameter counts once. Buffers, such as BatchNorm statistics, do not count.
    """
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, input_shape: tuple[int, ...]) -> int:
    """Count the MACs of one forward pass of one image with thop; see the top of this file for what counts.

    If thop is not installed, `flop_counter_macs` counts, and a note is printed once. Plain layers give the same result.

    Args:
        model: takes a single tensor; not changed (thop adds `total_ops` buffers, so it works on a copy).
        input_shape: (C, H, W) of one image.
    """
    model = _apart(copy.deepcopy(model).cpu().float().eval(), set())
    if thop is None:
        _say_without_thop()
        return flop_counter_macs(model, torch.zeros(1, *input_shape))
    macs, _ = thop.profile(
        model, inputs=(torch.zeros(1, *input_shape),), custom_ops=NOT_WEIGHTED, verbose=False
    )
    return int(macs)


def _apart(model: nn.Module, seen: set[nn.Module]) -> nn.Module:
    """Copy each layer that is used at several paths, so that every path has its own layer; return the model.

    thop would count a call of a shared layer once for each of its paths.
    """
    for name, child in model._modules.items():
        if child is not None:
            model._modules[name] = child = copy.deepcopy(child) if child in seen else child
            seen.add(child)
            _apart(child, seen)
    return model


@cache
def _say_without_thop() -> None:
    print(
        "thop is not installed (or lacks distutils): PyTorch's own counter counts the MACs", file=sys.stderr
    )


def flop_counter_macs(model: nn.Module, *inputs) -> int:
    """Count the MACs of `model(*inputs)` in eval mode: half of torch's FLOPs for the whole batch.

    The generation of kernels is included.
    """
    with _eval_mode(model), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(*inputs)
    return counter.get_total_flops() // 2


def peak_memory_mb(model: nn.Module, *inputs) -> float:
    """Measure the largest total size of live tensors during `model(*inputs)`, in MB (1e6 bytes).

    The model runs in eval mode without gradients. Parameters, buffers and inputs always count. Other tensors
    count from the operation that returns or first uses them until nothing refers to them. This includes results
    that are dropped at once, such as the int64 indices of max-pooling. Memory shared by tensors counts once. Memory
    that a kernel allocates and frees itself is not seen.
    """
    with (
        _eval_mode(model),
        torch.no_grad(),
        _LiveMemory([*model.parameters(), *model.buffers(), *inputs]) as memory,
    ):
        model(*inputs)
    return memory.peak / 1e6


class _LiveMemory(TorchDispatchMode):
    """A mode that follows the memory of all tensors; `peak` is the largest sum of live bytes after any operation.

    Args:
        tensors: values that are alive from the start; other types than tensors are ignored.
    """

    def __init__(self, tensors: list):
        super().__init__()
        # memory -> bytes; weak references do not keep the memory alive
        self.sizes: dict[StorageWeakRef, int] = {}
        self.peak = 0
        self.meet(tensors)

    def meet(self, values: list) -> None:
        memories = [value.untyped_storage() for value in values if isinstance(value, Tensor)]
        self.sizes.update({StorageWeakRef(memory): memory.nbytes() for memory in memories})
        self.sizes = {memory: size for memory, size in self.sizes.items() if not memory.expired()}
        self.peak = max(self.peak, sum(self.sizes.values()))

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        # the arguments are still alive and may have been resized
        self.meet(tree_leaves((result, args, kwargs)))
        return result


def latency_ms(model: nn.Module, *inputs, repeats: int = 30, warmup: int = 5) -> dict[str, float]:
    """Time `model(*inputs)` in eval mode: median, 10th and 90th percentile in milliseconds.

    On CUDA each run is timed from an idle GPU to an idle GPU, so launch time counts.

    Raises:
        ValueError: `repeats` < 1.
    """
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    with _eval_mode(model), torch.inference_mode():
        times_ms = [_pass_ms(model, *inputs) for _ in range(warmup + repeats)]
    p10, median, p90 = np.percentile(times_ms[warmup:], [10, 50, 90])
    return {"median_ms": float(median), "p10_ms": float(p10), "p90_ms": float(p90)}


def latencies_ms(models: dict[str, nn.Module], *inputs, rounds: int = 30) -> dict[str, float]:
    """Time all `models` in turn on the same inputs and return the median milliseconds of each.

    Since they run in turn, a slow phase of the machine slows all of them. A round runs each model twice and times
    the second pass.

    Raises:
        ValueError: `rounds` < 1.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
    times_ms: dict[str, list[float]] = {name: [] for name in models}
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        for model in models.values():
            stack.enter_context(_eval_mode(model))
        for _ in range(rounds):
            for name, model in models.items():
                model(*inputs)
                times_ms[name].append(_pass_ms(model, *inputs))
    return {name: float(np.median(times)) for name, times in times_ms.items()}


def _pass_ms(model: nn.Module, *inputs) -> float:
    """Return the milliseconds of one pass, from an idle GPU to an idle GPU."""
    on_cuda = any(isinstance(value, Tensor) and value.is_cuda for value in inputs)
    wait = (lambda: torch.cuda.synchronize(inputs[0].device)) if on_cuda else (lambda: None)
    wait()
    start = time.perf_counter()
    model(*inputs)
    wait()
    return 1000 * (time.perf_counter() - start)


@contextmanager
def _eval_mode(model: nn.Module):
    """Switch to eval mode, then restore every module's own mode (frozen BatchNorm stays frozen)."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
