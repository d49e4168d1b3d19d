"""A sparse phase whose penalty is an L1 term on the gammas."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor
from torch.optim import Optimizer

from yolo_slim.callbacks.framework import LightningModule, MisconfigurationException, Trainer
from yolo_slim.callbacks.sparse_phase.checks import Penalty, check_owners
from yolo_slim.callbacks.sparse_phase.chooser import Chooser
from yolo_slim.callbacks.sparse_phase.preview import Preview
from yolo_slim.callbacks.sparse_phase.strength import Strength
from yolo_slim.callbacks.target import Target
from yolo_slim.pruning import PenalisedGammas, Proximal, Selection, Subgradient


class L1Phase:
    """Adds the term to the gradients before each step, or shrinks the gammas after it.

    Args:
        target: What is made sparse.
        penalty: Of the kind ``subgradient`` or ``proximal``.
        preview: What the prune will be asked for less the layers that rest, and the share of the gammas it would take.
        asked: What the prune will be asked for.
    """

    #: Key of its state.
    name = "strength"
    #: What it does to the gammas, by the kind of the penalty.
    GAMMAS: ClassVar[dict[str, type[PenalisedGammas]]] = {"subgradient": Subgradient, "proximal": Proximal}

    def __init__(self, target: Target, penalty: Penalty, preview: Preview, asked: Selection) -> None:
        self._gammas = self.GAMMAS[penalty.kind](target.model, target.graph, preview.selection)
        self._chooser = Chooser(target, asked, preview.cost) if penalty.choose == "taylor" else None
        self._target, self._preview = target, preview
        self._strength = Strength(penalty.strength, penalty.final_fraction, self._gammas, self._share)
        self._beta_strength = penalty.beta_strength
        self.says = f"{penalty.kind} L1 of strength {penalty.strength}, falling to {penalty.final_fraction:.0%} of it"
        if self._chooser is not None:
            self.says += f", on the channels that a prune of {asked} would take by Taylor importance"

    def check(self, trainer: Trainer) -> None:
        """Refuses optimizers that would apply the term twice."""
        check_owners(trainer.optimizers, [id(p) for p in self._gammas.parameters])

    def start(self, trainer: Trainer, pl_module: LightningModule, rests: tuple[str, ...]) -> None:
        """Chooses the channels, where that can be done, and says how far a gamma can travel in the fit."""
        if self._chooser is not None:
            self._choose(self._chooser, trainer, rests)
            if not (self._chooser.choice.ranked or trainer.fast_dev_run) and trainer.max_epochs == 1:  # type: ignore[attr-defined]
                raise MisconfigurationException(
                    "choose='taylor' chooses by the gradients of the first epoch where the module has no "
                    "plain_losses(), and acts from the second one on, got max_epochs=1; set max_epochs to 2 or more"
                )
            if self._chooser.choice.ranked and not bool(self._chooser.choice.chosen.any()):
                asked = self._chooser.choice.selection
                raise MisconfigurationException(f"choose='taylor' has nothing to act on: a prune of {asked} takes none")
        self._strength.start(trainer, pl_module)

    def follow(self, selection: Selection) -> None:
        """Acts on the gammas that this selection ranks from here on."""
        self._gammas.follow(selection, self._chosen)

    def per_step(self, epoch: int) -> float:
        """How far a gamma can move per step of an epoch; 0 where that cannot be foreseen."""
        return self._strength.per_step(epoch)

    def start_epoch(self, trainer: Trainer, steps: int, rests: tuple[str, ...]) -> dict[str, float]:
        """Chooses the channels, where that has not been done, and sets the strength; returns what is logged."""
        if self._chooser is None:
            return {"sparsity/strength": self._now(trainer)}
        reached = self._choose(self._chooser, trainer, rests)
        strength = self._now(trainer) if self._acts else 0.0
        return {"sparsity/strength": strength, "sparsity/chosen": reached}

    def before_step(self, trainer: Trainer, optimizer: Optimizer) -> None:
        """Adds the term to the complete gradients of the step, and reads them where channels are not ranked yet."""
        if self._chooser is not None:
            self._chooser.before_step(trainer, optimizer)
        if self._acts and isinstance(self._gammas, Subgradient):
            owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
            self._gammas.add_to_gradients(self._now(trainer), owned, self._beta_strength)

    def after_step(self, trainer: Trainer, optimizer: Optimizer) -> None:
        """Shrinks what a step has updated."""
        if self._acts and isinstance(self._gammas, Proximal):
            self._gammas.shrink(optimizer, self._now(trainer), self._beta_strength)

    def batch_end(self, trainer: Trainer, taken: bool, rests: tuple[str, ...]) -> None:
        """Ranks the channels where that could not be done before; averages become zero where the weights are."""
        if taken and isinstance(self._gammas, Proximal):
            self._gammas.copy_zeros(*self._target.copies(trainer)[1:])
        if self._chooser is not None:
            self._chooser.batch_end(trainer, rests)

    def end(self, trainer: Trainer) -> None:
        """Leaves the weights as they are."""

    def prepared(self, selection: Selection) -> Selection:
        """What a prune at the end of the fit can ask for."""
        return selection

    def state_dict(self) -> dict[str, Any]:
        """Plain tensors and numbers from which a resumed fit goes on."""
        chosen = {} if self._chooser is None else {"choice": self._chooser.state_dict()}
        return self._strength.state_dict() | chosen

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what :meth:`state_dict` gave."""
        self._strength.load_state_dict(state)
        if self._chooser is not None and "choice" in state:
            self._chooser.load_state_dict(state["choice"])
            self.follow(self._preview.selection)

    def _choose(self, chooser: Chooser, trainer: Trainer, rests: tuple[str, ...]) -> float:
        chooser.start(trainer, rests)
        reached = chooser.choice.advance(1.0, rests)
        self.follow(self._preview.selection)
        return reached

    @property
    def _acts(self) -> bool:
        """Whether the channels are known: all, or those that have been chosen."""
        return self._chooser is None or self._chooser.choice.ranked

    @property
    def _chosen(self) -> Tensor | None:
        """The groups that are penalised; None for all."""
        return self._chooser.choice.chosen if self._chooser is not None and self._chooser.choice.ranked else None

    def _share(self) -> float:
        """Share of the penalised gammas that are to go, in [0, 1]."""
        return self._preview.share() if self._chooser is None else 1.0

    def _now(self, trainer: Trainer) -> float:
        return self._strength.at(trainer.current_epoch, trainer.max_epochs or 1)
