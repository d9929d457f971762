"""Measure what a model costs: parameters, multiply-accumulates (MACs), memory and latency.

Only the MACs of convolutions, linear layers and products of two matrices are counted, as in papers (1.81 G for
ResNet-18 at 224 px). BatchNorm can be folded into the convolution before it. ReLU and pooling have no weights. One MAC
is two FLOPs.
"""

from __future__ import annotations

import time
from contextlib import ExitStack

import numpy as np
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from channelset.check import in_eval_mode
from metrics.depth import split_attention
from utils import wait_for

BATCH = 256  # images in a batch for costs that depend on the batch


def count_params(model: nn.Module) -> int:
    """Count the parameters of the model, both trainable and frozen.

    A shared parameter counts once. Buffers, such as the statistics of a BatchNorm, do not count.
    """
    return sum(parameter.numel() for parameter in model.parameters())


def flop_counter_macs(model: nn.Module, *inputs) -> int:
    """Count the MACs of `model(*inputs)` in eval mode, for the whole batch: half of the FLOPs that torch counts.

    If a kernel is generated, the MACs of its generation are included.
    """
    with (
        in_eval_mode(model),
        torch.no_grad(),
        split_attention(),  # torch counts none of the FLOPs of most fast kernels
        FlopCounterMode(display=False) as counter,
    ):
        model(*inputs)
    return counter.get_total_flops() // 2


def peak_memory_mb(model: nn.Module, *inputs) -> float:
    """Measure the largest total size of live tensors during `model(*inputs)`, in MB (1e6 bytes).

    The model runs in eval mode without gradients. Parameters, buffers and inputs always count. Any other tensor
    starts to count when an operation returns it or first uses it. It stops when nothing refers to it. Results that are
    dropped at once also count, such as the int64 indices of max-pooling. Memory that several tensors share counts
    once. Memory that an operation allocates and frees inside is not measured.
    """
    with (
        in_eval_mode(model),
        torch.no_grad(),
        _LiveMemory([*model.parameters(), *model.buffers(), *inputs]) as memory,
    ):
        model(*inputs)
    return memory.peak / 1e6


class _LiveMemory(TorchDispatchMode):
    """Follow the memory of all tensors, as a torch mode; `peak` is the largest sum of live bytes after an operation.

    Args:
        tensors: values that are alive from the start; a value that is not a tensor is ignored.
    """

    def __init__(self, tensors: list):
        super().__init__()
        # memory of a tensor -> bytes; a weak reference does not keep the memory alive
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


def latency_ms(model: nn.Module, *inputs, repeats: int = 30) -> float:
    """Time `model(*inputs)` in eval mode; return the median milliseconds of `repeats` passes."""
    return latencies_ms({"": model}, *inputs, rounds=repeats)[""]


def latencies_ms(models: dict[str, nn.Module], *inputs, rounds: int) -> dict[str, float]:
    """Time all `models` in turn on the same inputs; return the median milliseconds by name of the model.

    Since the models run in turn, a slow phase of the machine affects all models. A round runs each model twice and
    times the second pass. On a GPU, the clock starts and stops while the GPU is idle. So the time includes the launch
    of the operations.
    """
    times_ms: dict[str, list[float]] = {name: [] for name in models}
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        for model in models.values():
            stack.enter_context(in_eval_mode(model))
        for _ in range(rounds):
            for name, model in models.items():
                model(*inputs)
                wait_for(inputs[0].device)
                start = time.perf_counter()
                model(*inputs)
                wait_for(inputs[0].device)
                times_ms[name].append(1000 * (time.perf_counter() - start))
    return {name: float(np.median(times)) for name, times in times_ms.items()}
