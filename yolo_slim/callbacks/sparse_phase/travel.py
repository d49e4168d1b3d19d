"""How far a gamma can travel in a fit under a penalty, known before the first step."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer

from yolo_slim.callbacks.framework import LightningModule, Trainer, callbacks_of, rehearsed
from yolo_slim.pruning import strength_at

#: One optimizer step that is to come: the epoch, and the parameter groups as they will be.
PlannedStep = tuple[int, list[dict[str, Any]]]


@dataclass(frozen=True)
class Travel:
    """How far a gamma moves under a penalty of strength 1 that nothing opposes.

    Attributes:
        distances: One value per epoch of the fit, 0 for those that are over.
        steps: Optimizer steps of these epochs.
    """

    distances: list[float]
    steps: list[int]


def unit_travel(
    trainer: Trainer, pl_module: LightningModule, gammas: Collection[int], final_fraction: float, proximal: bool
) -> Travel | None:
    """Foresees how far a gamma can be moved in a fit.

    The steps to come are taken from ``pl_module.planned_steps()`` where the module offers it, and else from the
    Trainer's learning-rate schedulers and its accumulation. Momentum is counted as torch's SGD applies it. For other
    optimizers the subgradient's travel is the sum of the rates, whatever the strength: they divide by the gradient's
    size.

    Args:
        trainer: A Trainer whose fit is about to take its first step.
        pl_module: The module that it fits.
        gammas: ``id()`` of the gammas; the parameter group that holds one of them counts.
        final_fraction: How far the strength decays, see :func:`yolo_slim.pruning.sparsity.penalty.strength_at`.
        proximal: The penalty is applied after the step, past the optimizer's momentum and scaling.

    Returns:
        The travel per epoch; None where the steps cannot be foreseen: manual optimization, several optimizers, or an
        epoch without a known length.
    """
    epochs = trainer.max_epochs or 1
    steps = _steps(trainer, pl_module)
    if steps is None:
        return None
    index = _group_of(trainer.optimizers[0], gammas)
    travel = Travel([0.0] * epochs, [0] * epochs)
    velocity: float | None = None
    for epoch, groups in steps:
        group = groups[index]
        decayed = strength_at(epoch, epochs, 1.0, final_fraction)
        rate, momentum = float(group["lr"]), float(group.get("momentum", 0.0))
        if proximal:
            moved = rate * decayed
        elif normalises(group):
            moved = rate
        else:
            first = velocity is None or not momentum
            velocity = decayed if first else momentum * velocity + (1 - group.get("dampening", 0.0)) * decayed  # type: ignore[operator]
            moved = rate * (decayed + momentum * velocity if group.get("nesterov") else velocity)
        travel.distances[epoch] += moved
        travel.steps[epoch] += 1
    return travel


def normalises(group: dict[str, Any]) -> bool:
    """Whether the optimizer of a parameter group divides gradients by their size, as Adam and RMSprop do."""
    return any(name in group for name in ("betas", "alpha", "rho", "lr_decay", "etas", "beta2_decay"))


def _steps(trainer: Trainer, pl_module: LightningModule) -> Iterable[PlannedStep] | None:
    own: Any = getattr(pl_module, "planned_steps", None)
    if own is not None:
        return own()  # type: ignore[no-any-return]
    batches = trainer.num_training_batches
    if not pl_module.automatic_optimization or len(trainer.optimizers) != 1 or math.isinf(batches) or not batches:
        return None
    return _scheduled_steps(trainer, int(batches))


def _scheduled_steps(trainer: Trainer, batches: int) -> Iterator[PlannedStep]:
    optimizer = trainer.optimizers[0]
    groups: list[dict[str, Any]] = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    schedulers = rehearsed(trainer, optimizer, groups)
    left = trainer.max_steps - trainer.global_step if trainer.max_steps >= 0 else math.inf
    for epoch in range(trainer.current_epoch, trainer.max_epochs or 1):
        accumulate = _accumulation(trainer, epoch)
        for batch in range(1, batches + 1):
            if batch % accumulate and batch != batches:
                continue
            if left <= 0:
                return
            left -= 1
            yield epoch, groups
            for scheduler, interval, frequency in schedulers:
                if interval == "step" and batch % frequency == 0:  # Lightning counts the batches of the epoch
                    scheduler.step()
        for scheduler, interval, frequency in schedulers:
            if interval == "epoch" and (epoch + 1) % frequency == 0:
                scheduler.step()


def _accumulation(trainer: Trainer, epoch: int) -> int:
    for callback in callbacks_of(trainer):
        schedule = getattr(callback, "get_accumulate_grad_batches", None)  # GradientAccumulationScheduler
        if schedule is not None:
            return int(schedule(epoch))
    return int(trainer.accumulate_grad_batches)


def _group_of(optimizer: Optimizer, gammas: Collection[int]) -> int:
    for index, group in enumerate(optimizer.param_groups):
        if any(id(p) in gammas for p in group["params"]):
            return index
    return 0
