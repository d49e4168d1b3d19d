"""A sparse phase in which more and more channels become zero."""

from __future__ import annotations

import math
from typing import Any

from torch.optim import Optimizer

from yolo_slim.callbacks.framework import LightningModule, Trainer, rank_zero_warn
from yolo_slim.callbacks.plain_look import equal_on_all_ranks, observe_step
from yolo_slim.callbacks.target import Target
from yolo_slim.pruning import Choice, CostModel, Growing, Selection, Taylor


class GrowingPhase:
    """Ranks the channels by the gradients of the last steps, and makes more of them zero, several times an epoch.

    Args:
        target: What is made sparse.
        selection: What the prune will be asked for.
        cost: Counts parameters and operations, where the selection needs it.

    Raises:
        ValueError: If the selection is not one that channels can be chosen for.
    """

    #: Key of its state.
    name = "growing"
    #: Share of the fit after which the set is complete, and how often it grows until then, if there are the steps for
    #: that: at most every few steps, so that no single one decides.
    COMPLETE, TIMES, STEPS = 1 / 3, 25, 5

    def __init__(self, target: Target, selection: Selection, cost: CostModel | None) -> None:
        self._target = target
        self._choice = Choice(target.graph, selection, cost)
        self._growing = Growing(target.model, target.graph, self._choice)
        self._taylor: Taylor | None = None
        self._steps = 0  # of this epoch
        self.says = f"more and more channels become zero, towards {selection}"

    def check(self, trainer: Trainer) -> None:
        """Works with any optimizers."""

    def start(self, trainer: Trainer, pl_module: LightningModule, rests: tuple[str, ...]) -> None:
        """Has nothing to say about how far gammas travel."""

    def follow(self, selection: Selection) -> None:
        """Is told who rests whenever it chooses."""

    def per_step(self, epoch: int) -> float:
        """What is zero does not move; how fast the others do, the last epoch tells."""
        return 0.0

    def start_epoch(self, trainer: Trainer, steps: int, rests: tuple[str, ...]) -> dict[str, float]:
        """Begins to read gradients, so that a resumed fit reads those of a straight one; returns what is logged."""
        self._listen()
        self._steps = 0
        return {"sparsity/chosen": self._choice.reached}

    def before_step(self, trainer: Trainer, optimizer: Optimizer) -> None:
        """Reads the complete gradients of a step that will be taken, until the set is complete."""
        if self._taylor is not None:
            observe_step(self._taylor, trainer, optimizer)

    def after_step(self, trainer: Trainer, optimizer: Optimizer) -> None:
        """Waits for the end of the batch, when averaging callbacks have seen the step."""

    def batch_end(self, trainer: Trainer, taken: bool, rests: tuple[str, ...]) -> None:
        """Lets the set grow where it is time for that, and holds what is chosen at zero."""
        self._steps += taken
        if self._taylor is not None and self._due(trainer, taken) and self._taylor.batches:
            self._choice.rank(equal_on_all_ranks(trainer, self._taylor.scores()))
            self._growing.advance(self._progress(trainer), rests)
            self._listen()
        if taken or trainer.is_last_batch:
            self._growing.hold(*self._target.copies(trainer))

    def end(self, trainer: Trainer) -> None:
        """Where the fit ends early: says how far what is zero is from what was asked."""
        self._growing.hold(*self._target.copies(trainer))
        if self._choice.share == 1:
            return
        rank_zero_warn(
            f"GammaSparsity: the fit has ended in epoch {trainer.current_epoch} of {trainer.max_epochs}, at "
            f"{self._choice.share:.0%} of the way to {self._choice.selection}: {self._choice.gone:.1%} of the prunable "
            "channels are zero. A prune that takes more costs accuracy."
        )

    def prepared(self, selection: Selection) -> Selection:
        """What a prune at the end of the fit can ask for: all of it, or what is zero, whatever widths that leaves."""
        if self._choice.share == 1:
            return selection
        return Selection(
            self._choice.gone, min_channels=1, round_to=1, shortcuts=selection.shortcuts, ignore=selection.ignore
        )

    def state_dict(self) -> dict[str, Any]:
        """Plain tensors and numbers from which a resumed fit goes on."""
        return self._choice.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what :meth:`state_dict` gave."""
        self._choice.load_state_dict(state)

    def _listen(self) -> None:
        """Reads gradients from here on, until the set is complete."""
        target = self._target
        self._taylor = Taylor(target.model, target.graph, gammas_only=True) if self._choice.share < 1 else None

    def _progress(self, trainer: Trainer) -> float:
        """How far the growth is now; 1 when the set is complete."""
        done = 1.0 if trainer.is_last_batch else min(1.0, self._steps / self._steps_per_epoch(trainer))
        return (trainer.current_epoch + done) / self._epochs(trainer)

    def _due(self, trainer: Trainer, taken: bool) -> bool:
        """Whether the set grows at the end of a batch: at the last one of an epoch, and after steps evenly before."""
        steps = self._steps_per_epoch(trainer)
        if trainer.is_last_batch or not taken or math.isinf(steps):
            return bool(trainer.is_last_batch)
        times = max(1, min(round(self.TIMES / self._epochs(trainer)), int(steps) // self.STEPS))
        return self._steps * times // int(steps) > (self._steps - 1) * times // int(steps)

    def _steps_per_epoch(self, trainer: Trainer) -> float:
        batches = float(trainer.num_training_batches)
        return batches if math.isinf(batches) else math.ceil(batches / trainer.accumulate_grad_batches)

    def _epochs(self, trainer: Trainer) -> float:
        return max(1.0, self.COMPLETE * (trainer.max_epochs or 1))
