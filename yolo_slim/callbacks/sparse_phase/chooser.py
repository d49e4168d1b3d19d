"""Ranks the channels of an L1 phase: once, before anything shrinks."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from yolo_slim.callbacks.framework import MisconfigurationException, Trainer, rank_zero_info
from yolo_slim.callbacks.plain_look import equal_on_all_ranks, observe_step, plain_taylor
from yolo_slim.callbacks.target import Target
from yolo_slim.pruning import Choice, CostModel, Selection, Taylor


class Chooser:
    """Ranks by first-order Taylor importance: on plain images before the first step where the module offers them, else
    by the gradients of the first epoch.

    Where layers come to rest or begin to train, what is left to choose is ranked anew.

    Args:
        target: What is made sparse.
        selection: What the prune will be asked for.
        cost: Counts parameters and operations, where the selection needs it.

    Attributes:
        choice: The channels that are chosen.

    Raises:
        ValueError: If the selection is not one that channels can be chosen for.
    """  # noqa: D205

    def __init__(self, target: Target, selection: Selection, cost: CostModel | None) -> None:
        self.choice = Choice(target.graph, selection, cost)
        self._target = target
        self._taylor: Taylor | None = None
        self._ranked_for: tuple[str, ...] | None = None

    def start(self, trainer: Trainer, rests: tuple[str, ...]) -> None:
        """Looks at plain images, where that has not been done for a model with these layers at rest."""
        if self._ranked_for == rests:
            return
        taylor = plain_taylor(trainer, self._target)
        # Rank 0 says whether there are such images, to all: a rank that went its own way would wait for ever.
        looked = None if taylor is None else (taylor.batches, taylor.scores() if taylor.batches else None)
        looked = trainer.strategy.broadcast(looked, src=0)
        if looked is None:
            self._taylor = self._taylor or Taylor(self._target.model, self._target.graph, gammas_only=True)
            return
        batches, scores = looked
        if scores is None:
            raise MisconfigurationException(
                f"{type(self._target.pl_module).__name__}.plain_losses() gave no loss with finite gradients: channels "
                "cannot be chosen by it; let it return None to have them chosen by the gradients of the first epoch"
            )
        self._take(scores, rests)
        rank_zero_info(f"GammaSparsity: channels are ranked by their gradients on {batches} plain batches.")

    def before_step(self, trainer: Trainer, optimizer: Optimizer) -> None:
        """Reads the complete gradients of a step that will be taken, where they are needed."""
        if self._taylor is not None:
            observe_step(self._taylor, trainer, optimizer)

    def batch_end(self, trainer: Trainer, rests: tuple[str, ...]) -> None:
        """Ranks at the end of an epoch whose gradients have been read."""
        if self._taylor is not None and trainer.is_last_batch and self._taylor.batches:
            self._take(equal_on_all_ranks(trainer, self._taylor.scores()), rests)

    def _take(self, scores: Tensor, rests: tuple[str, ...]) -> None:
        self.choice.rank(scores)
        self._taylor, self._ranked_for = None, rests

    def state_dict(self) -> dict[str, Any]:
        """Plain tensors and numbers from which a resumed fit goes on."""
        ranked_for = None if self._ranked_for is None else list(self._ranked_for)
        return {**self.choice.state_dict(), "ranked_for": ranked_for}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what :meth:`state_dict` gave.

        Raises:
            ValueError: If the state is of another model, or damaged.
        """
        self.choice.load_state_dict(state)
        ranked_for = state.get("ranked_for")
        self._ranked_for = None if ranked_for is None else tuple(map(str, ranked_for))
