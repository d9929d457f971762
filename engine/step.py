"""Run one optimiser step: learning rate, batch, forward, backward, SGD, average.

On a GPU the whole step is one CUDA graph.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from config import TrainConfig, parse_sizes
from data.batches import Batches, draw_mix, mix
from utils import generator, wait_for

MIXED = 0.9  # images are mixed in this first share of the training
WARM_UP = 3  # steps before the graph is captured; they choose algorithms and create the optimiser's state


def learning_rate(step: int, total: int, warmup: float, peak: float) -> float:
    """Return the learning rate: linear warm-up over `warmup` steps, then half a cosine down to zero at `total`.

    Source: SGDR, arXiv 1608.03983.
    """
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    return 0.5 * peak * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.SGD:
    """Make SGD with Nesterov momentum; only parameters with two or more dimensions get weight decay."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, config.lr, momentum=0.9, nesterov=True)


class TrainStep:
    """A runner of the steps of a training: one step for each call of `run`.

    All random numbers of an epoch are drawn at once and copied to the device once. They are drawn on the CPU and
    depend only on (seed, step), so a batch is the same on every device. If a GPU holds the images, each step is one
    launch that copies nothing from the host.

    Args:
        config: resolved options.
        called: the network to call: `model`, perhaps compiled or wrapped for several processes.
        model: the network itself, on its device.
        average: moving average of `model`, with horizon `ema_epochs`.
        train: training batches.
        batch_inputs: a function of (batch size, generator). It returns a dict of extra keyword tensors for one batch,
            on the CPU.
        teacher: a network that maps images to logits, or None. `model` learns from these logits too.
        processes: the number of this process (`rank`) and the number of all processes (`world`).

    Attributes:
        per_epoch: steps in an epoch.
        total: steps in the training.
        losses: (per_epoch,), losses of the steps of this epoch, on the device.
    """

    def __init__(
        self,
        config: TrainConfig,
        called: nn.Module,
        model: nn.Module,
        average: AveragedModel,
        optimizer: torch.optim.SGD,
        train: Batches,
        batch_inputs,
        teacher: nn.Module | None,
        processes,
    ):
        self.config, self.called, self.model, self.average = config, called, model, average
        self.optimizer, self.train, self.batch_inputs, self.teacher = optimizer, train, batch_inputs, teacher
        self.rank, self.world, self.device = processes.rank, processes.world, train.device
        self.per_epoch = len(train) // config.batch_size
        self.total = config.epochs * self.per_epoch
        self.losses = torch.zeros(self.per_epoch, device=self.device)
        self.sizes = parse_sizes(config.train_sizes)
        # a captured graph has fixed shapes
        self.capturable = (
            self.device.type == "cuda" and self.world == 1 and train.images.is_cuda and not self.sizes
        )
        self.epoch, self.drawn, self.ahead = None, {}, (None, {})
        self.graph, self.eager_steps = None, 0
        if self.capturable:
            self.position = torch.zeros(1, dtype=torch.long, device=self.device)
            self.stream = torch.cuda.Stream(self.device)
        horizon = config.ema_epochs * self.per_epoch
        self.decay = max(0.0, 1 - 1 / horizon) if horizon else 0.0
        pairs = [*zip(_tensors(average.module), _tensors(model))]
        # the averages, and their values
        self.floats = [*zip(*(pair for pair in pairs if pair[0].is_floating_point()))]
        self.counts = [pair for pair in pairs if not pair[0].is_floating_point()]
        self.average_begun = None

    # ------------------------------------------------------------ random numbers

    def _draw(self, epoch: int) -> dict[str, Tensor]:
        """Draw all random numbers of an epoch; return a dict from names to tensors (per_epoch, ...) on the CPU."""
        config, steps = self.config, range(epoch * self.per_epoch, (epoch + 1) * self.per_epoch)
        order = torch.randperm(len(self.train), generator=generator(config.seed, "order", epoch))
        batches = []
        for position, step in enumerate(steps):
            random = generator(config.seed, "batch", step, self.rank)
            rows = order[position * config.batch_size : (position + 1) * config.batch_size]
            indices = rows[self.rank :: self.world]
            extra = self.batch_inputs(len(indices), random)
            batches.append(
                {
                    "indices": indices,
                    **{f"input:{key}": value for key, value in extra.items()},
                    **self.train.draw(len(indices), config.augment, random),
                    **self._draw_mix(step, random),
                }
            )
        schedule = torch.tensor([self._schedule(step) for step in steps])
        return {
            "rate": schedule[:, 0],
            "share": schedule[:, 1],
            **{key: torch.stack([batch[key] for batch in batches]) for key in batches[0]},
        }

    def _draw_mix(self, step: int, random: torch.Generator) -> dict[str, Tensor]:
        """Draw the inputs of `data.batches.mix`. Near the end of the training they are zero, so nothing is mixed."""
        if self.config.mix == "none":
            return {}
        drawn = draw_mix(self.config.mix, self._size(step), random)
        return drawn if step < MIXED * self.total else {key: 0 * value for key, value in drawn.items()}

    def _size(self, step: int) -> int:
        """Draw the side of the step's images in px, the same in every process. Source: YOLO9000, arXiv 1612.08242."""
        if not self.sizes:
            return self.config.image_size
        chosen = torch.randint(len(self.sizes), (), generator=generator(self.config.seed, "size", step))
        return self.sizes[int(chosen)]

    def _schedule(self, step: int) -> tuple[float, float]:
        """Return the learning rate of the step and the share of the distillation loss."""
        config = self.config
        warmup = min(config.warmup_epochs, config.epochs / 5) * self.per_epoch
        return (
            learning_rate(step, self.total, warmup, config.lr),
            config.distill_weight * min(1.0, step / max(1.0, config.distill_ramp * self.total)),
        )

    def _begin_epoch(self, epoch: int) -> None:
        """Put the random numbers of the epoch on the device."""
        drawn_epoch, drawn = self.ahead
        drawn = drawn if drawn_epoch == epoch else self._draw(epoch)
        if self.device.type == "cuda":
            # always into the same memory, because a captured graph reads from there
            self.drawn = self.drawn or {
                key: torch.empty_like(value, device=self.device) for key, value in drawn.items()
            }
            for key, value in drawn.items():
                self.drawn[key].copy_(value.pin_memory(), non_blocking=True)
        else:
            self.drawn = drawn
        self.epoch, self.ahead = epoch, (None, {})

    # ------------------------------------------------------------ the step

    def run(self, step: int) -> None:
        """Run step number `step`, counted from zero over the whole training, without waiting for a GPU."""
        epoch, position = divmod(step, self.per_epoch)
        if epoch != self.epoch:
            self._begin_epoch(epoch)
            if self.capturable:
                self.position.fill_(position)
        if not self.capturable:
            now = {key: value[position] for key, value in self.drawn.items()}
            self._step(now, position, *self._schedule(step), self._size(step))
        elif self.graph is None and self.eager_steps < WARM_UP:
            self.stream.wait_stream(torch.cuda.current_stream(self.device))
            with torch.cuda.stream(self.stream):
                self._step_at_position()
            torch.cuda.current_stream(self.device).wait_stream(self.stream)
            self.eager_steps += 1
        else:
            if self.graph is None:
                self._capture()
            self.graph.replay()
        if position == self.per_epoch - 1 and step < self.total - 1 and self.device.type == "cuda":
            self.ahead = epoch + 1, self._draw(epoch + 1)  # the CPU draws while the GPU still works

    def _capture(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)  # the graph allocates its own gradients
        wait_for(self.device)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=self.stream, capture_error_mode="thread_local"):
            self._step_at_position()

    def _step_at_position(self) -> None:
        """Run the step whose index is on the device, then increment the index."""
        now = {key: value.index_select(0, self.position)[0] for key, value in self.drawn.items()}
        self._step(now, self.position, now["rate"], now["share"], self.config.image_size)
        self.position.add_(1)

    def _step(
        self,
        now: dict[str, Tensor],
        position: int | Tensor,
        rate: float | Tensor,
        share: float | Tensor,
        size: int,
    ) -> None:
        config = self.config
        extra = {key.removeprefix("input:"): value for key, value in now.items() if key.startswith("input:")}
        self.called.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=config.amp):
            images, labels = self.train.train_batch(now, config.augment, size)
            if config.mix != "none":
                part, box = (now[key].to(self.device) for key in ("mix_share", "mix_box"))
                images = mix(images, config.mix, part, box)
            logits = self.called(images, **extra)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=config.label_smoothing)
        if config.mix != "none":
            other = F.cross_entropy(logits.float(), labels.roll(1), label_smoothing=config.label_smoothing)
            loss = torch.lerp(loss, other, part)
        if self.teacher is not None:
            loss = (1 - share) * loss + share * self._distillation(images, logits)
        for group in self.optimizer.param_groups:  # in a graph the rate is a tensor, so that it can change
            group["lr"], group["fused"] = rate, self.capturable
        if self.graph is None:
            self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self._update_average()
        if self.capturable:
            self.losses.index_copy_(0, position, loss.detach()[None])
        else:
            self.losses[position] = loss.detach()

    def _distillation(self, images: Tensor, logits: Tensor) -> Tensor:
        """Return the Kullback-Leibler divergence of the model from the teacher, times the temperature squared.

        The temperature softens both predictions.
        """
        temperature = self.config.distill_temperature
        with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.amp):
            target = F.log_softmax(self.teacher(images).float() / temperature, dim=1)
        predicted = F.log_softmax(logits.float() / temperature, dim=1)
        return temperature**2 * F.kl_div(predicted, target, reduction="batchmean", log_target=True)

    @torch.no_grad()
    def _update_average(self) -> None:
        """Update the exponential average, like `AveragedModel.update_parameters`, but also inside a CUDA graph.

        The first update copies the weights.
        """
        if self.average_begun is None:
            self.average_begun = self.average.n_averaged.item() > 0
        if self.average_begun:
            torch._foreach_lerp_(*self.floats, 1 - self.decay)
        else:
            torch._foreach_copy_(*self.floats)
        for count, value in self.counts:  # BatchNorm counts its batches in integers, which are copied
            count.copy_(value)
        self.average.n_averaged.add_(1)
        self.average_begun = True


def _tensors(net: nn.Module) -> list[Tensor]:
    return [tensor.detach() for tensor in (*net.parameters(), *net.buffers())]
