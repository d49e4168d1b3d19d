"""What a module's loss says of its channels on images as they are when the network is used."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from yolo_slim.callbacks.framework import Trainer, overflowed
from yolo_slim.callbacks.target import Target
from yolo_slim.pruning import Taylor, restored, train_but_statistics


def plain_taylor(trainer: Trainer, target: Target) -> Taylor | None:
    """Taylor importance from batches that the module chooses for that, as it is now.

    Training images are not what a network will see: in a mosaic objects are half as large, and layers for large ones
    look unimportant. A module that has better ones offers a method ``plain_losses() -> Iterable[Tensor] | None``: the
    losses of some batches, in train mode but for BatchNorm, with what they need for a backward pass.

    The module and the state of torch's random numbers are left as they were; gradients are taken past those of the
    parameters, so that no hook of a distributed fit sees them.

    Args:
        trainer: The Trainer of the fit.
        target: The part of the module that is made sparse.

    Returns:
        What has been seen, which may be no finite gradient; None where the module offers no such losses, or has none
        for this fit.
    """
    pl_module = target.pl_module
    own: Any = getattr(pl_module, "plain_losses", None)
    devices = [pl_module.device] if pl_module.device.type == "cuda" else []
    with restored(pl_module), torch.random.fork_rng(devices), torch.enable_grad():
        train_but_statistics(pl_module)
        losses: Iterable[Tensor] | None = None if own is None else own()
        if losses is None:
            return None
        taylor = Taylor(target.model, target.graph)
        taylor.observe_losses(losses)
    return taylor


def observe_step(taylor: Taylor, trainer: Trainer, optimizer: Optimizer) -> None:
    """Reads the complete gradients of a step that will be taken, of the layers that it updates.

    Those of other optimizers may be of another loss, or still carry the loss scale.
    """
    stepped = {id(p) for group in optimizer.param_groups for p in group["params"] if p.grad is not None}
    if any(id(p) in stepped for p in taylor.parameters) and not overflowed(trainer, optimizer):
        taylor.observe(stepped)


def equal_on_all_ranks(trainer: Trainer, scores: Tensor) -> Tensor:
    """The scores of rank 0."""
    shared: Tensor = trainer.strategy.broadcast(scores, src=0)
    return shared
