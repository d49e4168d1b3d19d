"""Gradients without the loss scale of mixed precision, whatever the optimizer does itself."""

from __future__ import annotations

from torch.optim import Optimizer

#: How torch's fused optimizers tell a ``GradScaler`` that they divide by the loss scale in their step.
_DIVIDES = "_step_supports_amp_scaling"


def unscale_before_step(optimizer: Optimizer) -> None:
    """Has a gradient scaler divide by the loss scale before the optimizer's step, and not in it.

    Fused optimizers of torch take scaled gradients and divide in their kernel, so that whoever reads or clips the
    gradients before the step would see them times the loss scale, and the step would be called even where it is
    skipped. Afterwards the scaler treats them like all others: it unscales, looks for infinite gradients, and leaves
    the step out if there are any. The kernel stays the fused one.

    Args:
        optimizer: Of any kind; one that is not fused stays as it is.
    """
    if getattr(optimizer, _DIVIDES, False):
        setattr(optimizer, _DIVIDES, False)
