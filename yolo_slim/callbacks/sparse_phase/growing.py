"""A sparse phase in which a growing set of channels fades."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import Optimizer

from yolo_slim.callbacks.framework import LightningModule, Trainer, overflowed, rank_zero_warn
from yolo_slim.callbacks.target import Target
from yolo_slim.pruning import CostModel, Growing, Selection


class GrowingPhase:
    """Reads the importance before each step, and shrinks the chosen channels after it.

    Args:
        target: What is made sparse.
        selection: What the prune will be asked for.
        cost: Counts parameters and operations, where the selection needs it.

    Raises:
        ValueError: If the selection is not one that can be worked towards.
    """

    #: Key of its state.
    name = "growing"

    def __init__(self, target: Target, selection: Selection, cost: CostModel | None) -> None:
        self._target = target
        self._growing = Growing(target.model, target.graph, selection, cost)
        self._complete = False
        self.says = f"a growing set of channels fades to zero, towards {selection}"

    def check(self, trainer: Trainer) -> None:
        """Works with any optimizers."""

    def start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Has nothing to say about how far gammas travel."""

    def follow(self, selection: Selection) -> None:
        """Is told who rests at the start of every epoch."""

    def per_step(self, epoch: int) -> float:
        """Nothing shrinks in the first epoch, and of later ones the last one tells."""
        return 0.0

    def start_epoch(self, trainer: Trainer, steps: int, rests: tuple[str, ...]) -> dict[str, float]:
        """Chooses the channels of the epoch; returns what is logged."""
        # Nothing shrinks in the first epoch, so there always is an earlier one whose steps are known.
        reached = self._growing.start_epoch(trainer.current_epoch, trainer.max_epochs or 1, steps, rests)
        return {"sparsity/chosen": reached}

    def before_step(self, trainer: Trainer, optimizer: Optimizer) -> None:
        """Reads the importance from the complete gradients of a step that will be taken."""
        if not overflowed(trainer, optimizer):
            self._growing.observe_gradients()

    def after_step(self, trainer: Trainer, optimizer: Optimizer) -> None:
        """Waits for the end of the batch, when averaging callbacks have seen the step."""

    def batch_end(self, trainer: Trainer, taken: bool) -> None:
        """After a step: shrinks the chosen channels, and at the end of the fit makes them zero."""
        if taken:
            self._growing.shrink(*self._target.copies(trainer))
        if trainer.is_last_batch and trainer.current_epoch + 1 == trainer.max_epochs:
            self._growing.finish(*self._target.copies(trainer))
            self._complete = True

    def end(self, trainer: Trainer) -> None:
        """Where the fit ends early: makes what has faded zero, and says how far that is from what was asked."""
        if self._complete:
            return
        self._growing.stop(*self._target.copies(trainer))
        selection = self._growing.selection
        layers = self._growing.graph.prunable_gammas(selection.shortcuts, selection.ignore)
        groups = torch.cat([layer.groups[layer.prunable] for layer in layers])
        faded = self._growing.chosen[groups.cpu()].float().mean().item()
        rank_zero_warn(
            f"GammaSparsity: the fit has ended in epoch {trainer.current_epoch} of "
            f"{trainer.max_epochs}, at {self._growing.share:.0%} of the way to {selection}: {faded:.1%} of the "
            "prunable channels are zero. A prune that takes more costs accuracy."
        )

    def prepared(self, selection: Selection) -> Selection:
        """What a prune at the end of the fit can ask for: as much of it as has faded."""
        growing = self._growing
        if growing.share == 1 or not selection.budgets.keys() <= growing.dense.keys():
            return selection
        return selection.scaled(growing.share, growing.dense)

    def state_dict(self) -> dict[str, Any]:
        """Plain tensors and numbers from which a resumed fit goes on."""
        return self._growing.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what :meth:`state_dict` gave."""
        self._growing.load_state_dict(state)
