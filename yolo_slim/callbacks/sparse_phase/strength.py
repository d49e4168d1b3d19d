"""How strong the L1 penalty is in each epoch, and whether that can work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch

from yolo_slim.callbacks.framework import (
    LightningModule,
    MisconfigurationException,
    Trainer,
    rank_zero_info,
    rank_zero_warn,
)
from yolo_slim.callbacks.sparse_phase.travel import Travel, normalises, unit_travel
from yolo_slim.pruning import PenalisedGammas, Proximal, small_share, strength_at


class Strength:
    """The strength of an L1 penalty over one fit: given and decaying, or chosen anew at the start of every epoch.

    ``auto`` takes the largest |gamma| of the share that is to go, divides it by how far a penalty of strength 1
    can still move a gamma, and so spreads the travel to zero over four fifths of the fit. What the loss pulls back in
    one epoch is added to the strength of the next ones. After that it only holds: it weakens while the share is there,
    and strengthens while it is not, up to three times what it was.

    Args:
        strength: A number above 0, or "auto".
        final_fraction: Share of it that is left at the end of the fit, in [0, 1].
        gammas: What is penalised.
        share: Gives the share of the gammas that are to go, in [0, 1).
    """

    #: With "auto": share of the fit after which the target should be reached.
    AUTO_UNTIL = 0.8
    #: By how much the strength changes per epoch then, and the most that it may be of what it was when that was due.
    HOLD, HIGHEST = 0.7, 3.0
    #: With fewer steps to zero, a penalty on all gammas outweighs the loss: fits of up to 600 ended far below dense.
    ENOUGH_FOR_ALL = 1000

    def __init__(
        self,
        strength: float | Literal["auto"],
        final_fraction: float,
        gammas: PenalisedGammas,
        share: Callable[[], float],
    ) -> None:
        self._strength = strength
        self._final_fraction = final_fraction
        self._gammas = gammas
        self._share = share
        self._travel: Travel | None = None
        self._chosen: list[float] = []  # epoch, its strength before the decay, and the highest allowed later

    def start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finds out how far a gamma can travel in the fit that is about to start, and says so.

        Raises:
            MisconfigurationException: If "auto" cannot know what its strength will do.
        """
        ids = {id(p) for p in self._gammas.parameters}
        proximal = isinstance(self._gammas, Proximal)
        if self._travel is None or len(self._travel.distances) != trainer.max_epochs:
            self._travel = unit_travel(trainer, pl_module, ids, self._final_fraction, proximal)
        divides = [] if proximal else [o for o in trainer.optimizers if normalises(o.param_groups[0])]
        if self._strength == "auto":
            if self._travel is None:
                raise MisconfigurationException(
                    "strength='auto' must foresee the optimizer's steps, which it cannot with manual optimization, "
                    "several optimizers or an epoch of unknown length; give the strength as a number"
                )
            if divides:
                raise MisconfigurationException(
                    f"strength='auto' has no hold on {type(divides[0]).__name__}, which divides the gradient by its "
                    "size and with it the penalty; use SGD, or penalty='proximal'"
                )
        self._tell(type(divides[0]).__name__ if divides else "", self._strength)

    def at(self, epoch: int, epochs: int) -> float:
        """Strength of one epoch; in the fit's own order of epochs."""
        base: float = self._auto(epoch, epochs) if self._strength == "auto" else self._strength
        return strength_at(epoch, epochs, base, self._final_fraction)

    def per_step(self, epoch: int) -> float:
        """How far a gamma can move per optimizer step of an epoch; 0 where that cannot be foreseen."""
        if self._travel is None or not self._travel.steps[epoch]:
            return 0.0
        base = self._auto(epoch, len(self._travel.distances)) if self._strength == "auto" else self._strength
        return base * self._travel.distances[epoch] / self._travel.steps[epoch]

    def state_dict(self) -> dict[str, Any]:
        """What was foreseen and what "auto" has chosen, as plain numbers."""
        # "reach" and "ways" are what checkpoints have called them from the start.
        reach = None if self._travel is None else {"ways": self._travel.distances, "steps": self._travel.steps}
        return {"chosen": list(self._chosen), "reach": reach}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what :meth:`state_dict` gave."""
        self._chosen = list(state.get("chosen", []))
        if state.get("reach"):
            self._travel = Travel(state["reach"]["ways"], state["reach"]["steps"])

    def _auto(self, epoch: int, epochs: int) -> float:
        assert self._travel is not None, "start() comes first"
        if self._chosen and self._chosen[0] == epoch:
            return self._chosen[1]
        until = max(1, round(self.AUTO_UNTIL * epochs))
        if epoch >= until and self._chosen:
            reached = small_share(self._gammas.magnitudes()) >= self._share()
            _, base, highest = self._chosen
            base = min(base * (self.HOLD if reached else 1 / self.HOLD), highest)
        else:
            distance = sum(self._travel.distances[epoch : max(until, epoch + 1)])
            base = self._largest_to_go() / distance if distance else 0.0
            highest = self.HIGHEST * base
        self._chosen = [epoch, base, highest]
        return base

    def _largest_to_go(self) -> float:
        magnitudes = self._gammas.magnitudes()
        return torch.quantile(magnitudes, self._share()).item() if len(magnitudes) else 0.0

    def _tell(self, divides: str, strength: float | Literal["auto"]) -> None:
        if self._travel is None:
            rank_zero_info(
                "GammaSparsity: how far a gamma can move in this fit cannot be foreseen with manual optimization, "
                "several optimizers or an epoch of unknown length."
            )
        elif divides:
            rank_zero_warn(
                f"GammaSparsity: {divides} divides the gradient by its size and with it the penalty, so that the "
                f"strength says little: a gamma moves by {sum(self._travel.distances):.3g} at most, the sum of the "
                "rates. Use SGD, penalty='proximal' or penalty='growing'."
            )
        elif strength == "auto":
            self._tell_aim(self._share(), round(self.AUTO_UNTIL * sum(self._travel.steps)))
        else:
            self._tell_travel(strength, strength * sum(self._travel.distances), strength * max(self._travel.distances))

    def _tell_aim(self, share: float, steps: int) -> None:
        aimed = "the chosen gammas" if share == 1 else f"{share:.0%} of the gammas"
        rank_zero_info(
            f"GammaSparsity: the strength of every epoch is chosen so that {aimed}, now up to "
            f"{self._largest_to_go():.3g}, reach zero by {self.AUTO_UNTIL:.0%} of the fit."
        )
        if share < 1 and steps < self.ENOUGH_FOR_ALL:
            rank_zero_warn(
                f"GammaSparsity: {steps} steps to zero are too few for a penalty on all gammas: they fall alike, "
                f"whatever the loss says, and the accuracy with them. Use choose='taylor' or penalty='growing', or "
                f"{self.ENOUGH_FOR_ALL} steps or more."
            )

    def _tell_travel(self, strength: float, travel: float, in_one_epoch: float) -> None:
        share, largest = self._share(), self._largest_to_go()
        message = f"GammaSparsity: in this fit the penalty moves a gamma by {travel:.3g} at most; "
        message += f"the smallest {share:.0%} of them, which the prune would take, are up to {largest:.3g}."
        if travel < largest:
            needed = strength * largest / travel
            rank_zero_warn(f"{message} That is too little: try strength={needed:.2g} or more, or penalty='growing'.")
        elif in_one_epoch > largest:
            needed = strength * largest / in_one_epoch
            rank_zero_warn(
                f"{message} It can take them to zero within one epoch, before the loss has said which matter: "
                f"try a strength below {needed:.2g}, or more epochs."
            )
        else:
            rank_zero_info(message)
