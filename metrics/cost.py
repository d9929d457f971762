"""What a model costs: parameters, multiply-accumulates (MACs), memory and latency.

MACs here are those of convolutions and linear layers alone, the numbers that papers quote (ResNet-18 at 224
px: 1.81 G): BatchNorm folds into the convolution before it, ReLU and pooling multiply by no weight. One MAC
is two FLOPs; a model's depth changes neither. Two counters agree on any model of plain layers and check each
other:

    count_macs          thop's hooks on modules; blind to functional calls and to subclasses of nn.Conv2d
    flop_counter_macs   torch's dispatcher; sees every convolution and matrix product, functional ones too

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

BATCH = 256  # images, where cost depends on the batch
try:
    import thop
    from thop.profile import register_hooks
    from thop.vision.basic_hooks import zero_ops

    # thop counts BatchNorm, average pooling and softmax as operations, which the MACs of papers leave out
    NOT_WEIGHTED = {kind: zero_ops for kind in register_hooks if not issubclass(kind, (_ConvNd, nn.Linear))}
except ImportError:  # it needs distutils, which newer Pythons have only with setuptools
    thop = None


def count_params(model: nn.Module) -> int:
    """Number of parameters, trainable or frozen; shared ones once, buffers (BatchNorm statistics) not at
    all.
    """
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, input_shape: tuple[int, ...]) -> int:
    """MACs of one forward pass of one image, by thop; see the top of this file for what counts. Where thop is not
    there, by the dispatcher, which counts the same on plain layers; it says so once.

    Args:
        model: takes a single tensor; left as it is (thop adds `total_ops` buffers, so it works on a copy).
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
    """Give each further place of a layer that stands in several a copy of its own, and return the model.

    thop counts a call of a layer once for each place that the layer stands in.
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
    """MACs of `model(*inputs)` in eval mode, as half of torch's FLOPs: the whole batch, generated kernels
    included.
    """
    with _eval_mode(model), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(*inputs)
    return counter.get_total_flops() // 2


def peak_memory_mb(model: nn.Module, *inputs) -> float:
    """Largest sum of the sizes of all live tensors during `model(*inputs)` in eval mode without gradients, MB
    (1e6 bytes).

    Parameters, buffers and inputs count throughout, other tensors from the operation that returns or first
    uses them until
    nothing refers to them: also a result that is dropped at once, such as the int64 indices of max-pooling.
    The size is that of the whole memory that tensors share, once. What a kernel allocates and frees by itself
    is not seen.
    """
    with (
        _eval_mode(model),
        torch.no_grad(),
        _LiveMemory([*model.parameters(), *model.buffers(), *inputs]) as memory,
    ):
        model(*inputs)
    return memory.peak / 1e6


class _LiveMemory(TorchDispatchMode):
    """Follows the memory of all tensors it meets; `peak` is the largest sum of bytes that were alive after
    one operation.

    Args:
        tensors: those that are alive from the start, and anything else.
    """

    def __init__(self, tensors: list):
        super().__init__()
        # bytes of each memory; a weak reference to it keeps no data
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
        # what was given is still alive, and may have been resized
        self.meet(tree_leaves((result, args, kwargs)))
        return result


def latency_ms(model: nn.Module, *inputs, repeats: int = 30, warmup: int = 5) -> dict[str, float]:
    """Milliseconds of `model(*inputs)` in eval mode for the batch given: median, 10th and 90th percentile.

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
    """Median milliseconds of each of `models` for the same inputs, all timed in turn: what slows the machine
    down for a while slows all of them. A round runs each model twice and times the second pass.

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
    """Milliseconds of one pass, from an idle GPU to an idle GPU."""
    on_cuda = any(isinstance(value, Tensor) and value.is_cuda for value in inputs)
    wait = (lambda: torch.cuda.synchronize(inputs[0].device)) if on_cuda else (lambda: None)
    wait()
    start = time.perf_counter()
    model(*inputs)
    wait()
    return 1000 * (time.perf_counter() - start)


@contextmanager
def _eval_mode(model: nn.Module):
    """Eval mode inside; afterwards every module has its own mode again (frozen BatchNorm stays frozen)."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
