"""A sparse phase whose penalty is an L1 term on the gammas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from torch import nn
from torch.optim import Optimizer

from yolo_slim.callbacks.framework import LightningModule, Trainer
from yolo_slim.callbacks.sparse_phase.checks import check_owners
from yolo_slim.callbacks.sparse_phase.strength import Strength
from yolo_slim.pruning import ChannelGraph, Selection
from yolo_slim.pruning.sparsity.penalty import Proximal, Subgradient

#: All copies of the target that are to be changed alike.
Copies = Callable[[], list[nn.Module]]


class L1Phase:
    """Adds the term to the gradients before each step, or shrinks the gammas after it.

    Args:
        kind: ``subgradient`` or ``proximal``.
        strength: A number above 0, or ``auto``.
        beta_strength: The same for the betas.
        final_fraction: Share of the strength that is left at the end.
        model: The target.
        graph: Its channel graph.
        selection: What the prune will be asked for.
        share: Gives the share of the gammas that it would take.
    """

    #: Key of its state.
    name = "strength"

    def __init__(
        self,
        kind: str,
        strength: float | Literal["auto"],
        beta_strength: float,
        final_fraction: float,
        model: nn.Module,
        graph: ChannelGraph,
        selection: Selection,
        share: Callable[[], float],
    ) -> None:
        self._gammas = (Proximal if kind == "proximal" else Subgradient)(model, graph, selection)
        self._strength = Strength(strength, final_fraction, self._gammas, share)
        self._beta_strength = beta_strength
        self.says = f"{kind} L1 of strength {strength}, falling to {final_fraction:.0%} of it"

    def check(self, trainer: Trainer) -> None:
        """Refuses optimizers that would apply the term twice."""
        check_owners(trainer.optimizers, [id(p) for p in self._gammas.parameters])

    def start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Says how far a gamma can travel in the fit that is about to start."""
        self._strength.start(trainer, pl_module)

    def follow(self, selection: Selection) -> None:
        """Acts on the gammas that this selection ranks from here on."""
        self._gammas.follow(selection)

    def per_step(self, epoch: int) -> float:
        """How far a gamma can move per step of an epoch; 0 where that cannot be foreseen."""
        return self._strength.per_step(epoch)

    def start_epoch(self, trainer: Trainer, steps: int, rests: tuple[str, ...]) -> dict[str, float]:
        """Sets the strength of the epoch; returns what is logged."""
        return {"sparsity/strength": self._now(trainer)}

    def before_step(self, trainer: Trainer, optimizer: Optimizer) -> None:
        """Adds the term to the complete gradients of the step."""
        if isinstance(self._gammas, Subgradient):
            owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
            self._gammas.add_to_gradients(self._now(trainer), owned, self._beta_strength)

    def after_step(self, trainer: Trainer, optimizer: Optimizer) -> None:
        """Shrinks what a step has updated."""
        if isinstance(self._gammas, Proximal):
            self._gammas.shrink(optimizer, self._now(trainer), self._beta_strength)

    def batch_end(self, trainer: Trainer, taken: bool, copies: Copies) -> None:
        """Leaves the weights as they are."""

    def end(self, trainer: Trainer, copies: Copies) -> None:
        """Leaves the weights as they are."""

    def prepared(self, selection: Selection) -> Selection:
        """What a prune at the end of the fit can ask for."""
        return selection

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers from which a resumed fit goes on."""
        return self._strength.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what :meth:`state_dict` gave."""
        self._strength.load_state_dict(state)

    def _now(self, trainer: Trainer) -> float:
        return self._strength.at(trainer.current_epoch, trainer.max_epochs or 1)
