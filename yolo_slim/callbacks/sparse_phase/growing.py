"""A sparse phase in which a growing set of channels fades."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import Optimizer

from yolo_slim.callbacks.framework import LightningModule, Trainer, rank_zero_warn
from yolo_slim.callbacks.sparse_phase.chooser import Chooser
from yolo_slim.callbacks.target import Target
from yolo_slim.pruning import CostModel, Growing, Selection


class GrowingPhase:
    """Chooses more channels every epoch, and shrinks the chosen ones after each step.

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
        self._chooser = Chooser(target, selection, cost)
        self._choice = self._chooser.choice
        self._growing = Growing(target.model, target.graph, self._choice)
        self._complete = False
        self.says = f"a growing set of channels fades to zero, towards {selection}"

    def check(self, trainer: Trainer) -> None:
        """Works with any optimizers."""

    def start(self, trainer: Trainer, pl_module: LightningModule, rests: tuple[str, ...]) -> None:
        """Ranks the channels before the first step, where that can be done."""
        self._chooser.start(trainer, rests)

    def follow(self, selection: Selection) -> None:
        """Is told who rests at the start of every epoch."""

    def per_step(self, epoch: int) -> float:
        """Nothing shrinks in the first epoch, and of later ones the last one tells."""
        return 0.0

    def start_epoch(self, trainer: Trainer, steps: int, rests: tuple[str, ...]) -> dict[str, float]:
        """Chooses the channels of the epoch; returns what is logged."""
        self._chooser.start(trainer, rests)
        # Nothing shrinks in the first epoch, so there always is an earlier one whose steps are known.
        reached = self._growing.start_epoch(trainer.current_epoch, trainer.max_epochs or 1, steps, rests)
        return {"sparsity/chosen": reached}

    def before_step(self, trainer: Trainer, optimizer: Optimizer) -> None:
        """Reads the complete gradients where channels are not ranked yet."""
        self._chooser.before_step(trainer, optimizer)

    def after_step(self, trainer: Trainer, optimizer: Optimizer) -> None:
        """Waits for the end of the batch, when averaging callbacks have seen the step."""

    def batch_end(self, trainer: Trainer, taken: bool, rests: tuple[str, ...]) -> None:
        """After a step: shrinks the chosen channels, and at the end of the fit makes them zero."""
        self._chooser.batch_end(trainer, rests)
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
        if self._choice.share == 1:
            return
        selection = self._choice.selection
        layers = self._target.graph.prunable_gammas(selection.shortcuts, selection.ignore)
        groups = torch.cat([layer.groups[layer.prunable] for layer in layers])
        faded = self._choice.chosen[groups.cpu()].float().mean().item()
        rank_zero_warn(
            f"GammaSparsity: the fit has ended in epoch {trainer.current_epoch} of "
            f"{trainer.max_epochs}, at {self._choice.share:.0%} of the way to {selection}: {faded:.1%} of the "
            "prunable channels are zero. A prune that takes more costs accuracy."
        )

    def prepared(self, selection: Selection) -> Selection:
        """What a prune at the end of the fit can ask for: as much of it as has faded."""
        choice = self._choice
        if choice.share == 1 or not selection.budgets.keys() <= choice.dense.keys():
            return selection
        return selection.scaled(choice.share, choice.dense)

    def state_dict(self) -> dict[str, Any]:
        """Plain tensors and numbers from which a resumed fit goes on."""
        return self._chooser.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what :meth:`state_dict` gave."""
        self._chooser.load_state_dict(state)
