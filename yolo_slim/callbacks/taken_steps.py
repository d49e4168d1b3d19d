"""The optimizer steps that are really taken."""

from __future__ import annotations

from collections.abc import Callable

from torch.optim import Optimizer

from yolo_slim.callbacks.framework import Trainer
from yolo_slim.pruning import unscale_before_step


class TakenSteps:
    """Watches the optimizers of a fit: a step that the gradient scaler of mixed precision skips does not happen.

    Lightning's ``global_step`` counts skipped steps too. While this watches, ``on_before_optimizer_step`` sees all
    gradients without the loss scale, those of fused optimizers included.

    Args:
        trainer: A Trainer that has its optimizers, as in ``on_fit_start``.
        then: Called with the optimizer after each step.
    """

    def __init__(self, trainer: Trainer, then: Callable[[Optimizer], None] | None = None) -> None:
        self._then = then
        self._taken = False
        self._hooks = [optimizer.register_step_post_hook(self._step) for optimizer in trainer.optimizers]
        if trainer.scaler is not None:
            for optimizer in trainer.optimizers:
                unscale_before_step(optimizer)

    def passed(self) -> bool:
        """Whether a step has been taken since this was asked last."""
        taken, self._taken = self._taken, False
        return taken

    def stop(self) -> None:
        """Leaves the optimizers alone again."""
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._then = [], None

    def _step(self, optimizer: Optimizer, args: object, kwargs: object) -> None:
        self._taken = True
        if self._then is not None:
            self._then(optimizer)
