"""One sparse phase from the first look at the model to the last step: what every penalty has in common."""

from __future__ import annotations

from typing import Any, Protocol

from torch.optim import Optimizer

from yolo_slim.callbacks.bn_momentum import BatchNormMomentum, batches_until_used
from yolo_slim.callbacks.framework import LightningModule, MisconfigurationException, Trainer
from yolo_slim.callbacks.sparse_phase.checks import Penalty, expect_prunable_gammas, refuse_sensitivity
from yolo_slim.callbacks.sparse_phase.growing import GrowingPhase
from yolo_slim.callbacks.sparse_phase.l1 import L1Phase
from yolo_slim.callbacks.sparse_phase.preview import Preview
from yolo_slim.callbacks.taken_steps import TakenSteps
from yolo_slim.callbacks.target import Target
from yolo_slim.pruning import Resting, Selection, without


class Phase(Protocol):
    """What a penalty does, and when.

    Attributes:
        name: Key of its state in a checkpoint.
        says: What it does, as a part of a sentence.
    """

    name: str
    says: str

    def check(self, trainer: Trainer) -> None:
        """Refuses a Trainer that it cannot work with, before the first step."""

    def start(self, trainer: Trainer, pl_module: LightningModule, rests: tuple[str, ...]) -> None:
        """Says what is to be expected of the fit that is about to start."""

    def follow(self, selection: Selection) -> None:
        """Works towards this selection from here on: other layers have come to rest."""

    def per_step(self, epoch: int) -> float:
        """How far a gamma can move per optimizer step of an epoch; 0 where that cannot be foreseen."""

    def start_epoch(self, trainer: Trainer, steps: int, rests: tuple[str, ...]) -> dict[str, float]:
        """Prepares an epoch, after one of so many steps; returns what is logged."""

    def before_step(self, trainer: Trainer, optimizer: Optimizer) -> None:
        """Reads or changes the complete gradients of a step."""

    def after_step(self, trainer: Trainer, optimizer: Optimizer) -> None:
        """Changes what a step has updated, before averages see it."""

    def batch_end(self, trainer: Trainer, taken: bool, rests: tuple[str, ...]) -> None:
        """Changes the model and its averages at the end of a batch, after which a step has been taken or not."""

    def end(self, trainer: Trainer) -> None:
        """Ends the fit."""

    def prepared(self, selection: Selection) -> Selection:
        """What a prune at the end of the fit can ask for."""

    def state_dict(self) -> dict[str, Any]:
        """Plain tensors and numbers from which a resumed fit goes on."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what :meth:`state_dict` gave."""


class SparseFit:
    """A penalty at work on a target.

    Args:
        target: What is made sparse.
        penalty: How.
        selection: What the prune will be asked for.
        trainer: The Trainer of the fit, all ranks of which take the milliseconds that the first one measures.

    Attributes:
        target: What is made sparse.
        preview: What the prune will be asked for, and what it would leave now.
        rests: Names of the layers that the fit does not train, and that are left alone.
        says: What the penalty acts on, and how.

    Raises:
        MisconfigurationException: If there is nothing to act on, or the selection cannot be worked towards.
    """

    def __init__(self, target: Target, penalty: Penalty, selection: Selection, trainer: Trainer | None = None) -> None:
        refuse_sensitivity(selection)
        self.target = target
        self._asked = selection
        self._resting = Resting(target.model)
        self.rests = self._resting.names()
        left = without(selection, self.rests)
        channels, layers = expect_prunable_gammas(target.model, target.graph, left, self.rests)
        try:
            self.preview = Preview(target, left, trainer)
            self.preview.select()
            self._phase = self._make_phase(penalty)
        except ValueError as error:
            raise MisconfigurationException(str(error)) from error
        rest = f" ({len(self.rests)} more are frozen or in eval mode and left alone)" if self.rests else ""
        acts_on = f"{channels} prunable gammas in {layers - len(self.rests)} BatchNorm layers{rest}"
        self.says = f"{acts_on}; {self._phase.says}"
        self._momentum: BatchNormMomentum | None = None
        self._steps: TakenSteps | None = None
        self._epoch_steps = 0

    def _make_phase(self, penalty: Penalty) -> Phase:
        if penalty.kind == "growing":
            return GrowingPhase(self.target, self._asked, self.preview.cost)
        assert penalty.kind in L1Phase.GAMMAS, f"no phase for {penalty.kind}"
        return L1Phase(self.target, penalty, self.preview, self._asked)

    def attach(self, trainer: Trainer, resumed: dict[str, Any]) -> None:
        """Watches the optimizers of a Trainer, as in ``on_fit_start``, and goes on from a state where there is one.

        Raises:
            MisconfigurationException: If the Trainer does not allow the penalty, or the state is not one of this phase.
        """
        self._phase.check(trainer)
        self._momentum = BatchNormMomentum(self.target.model)
        if resumed:
            self._take_up(resumed, self._momentum)
        self._steps = TakenSteps(trainer, lambda optimizer: self._phase.after_step(trainer, optimizer))

    def _take_up(self, state: dict[str, Any], momentum: BatchNormMomentum) -> None:
        try:
            self._epoch_steps = int(state.get("epoch_steps", 0))
            if "resting" in state:
                self._resting.load_state_dict(state["resting"])
                self._see_who_rests()
            for part, name in ((self._phase, self._phase.name), (momentum, "pace")):
                if name in state:
                    part.load_state_dict(state[name])
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise MisconfigurationException(
                f"GammaSparsity's state in the checkpoint is damaged, or of another model or penalty ({error}); take "
                "another checkpoint, or start a new training from its weights"
            ) from error

    def start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Says what is to be expected."""
        self._phase.start(trainer, pl_module, self.rests)

    def start_epoch(self, trainer: Trainer) -> dict[str, float]:
        """Sets the strength or the chosen channels of the epoch; returns what is logged."""
        assert self._momentum is not None, "attach() comes first"
        steps, self._epoch_steps = self._epoch_steps, 0  # those of the epoch that is over
        expected = 0.0 if steps else self._phase.per_step(trainer.current_epoch)
        values = {"sparsity/drift": self._momentum.follow(steps, expected)}
        return values | self._phase.start_epoch(trainer, steps, self.rests)

    def begin_batch(self, trainer: Trainer, batch_idx: int) -> None:
        """Has BatchNorm's statistics fit the weights when these are validated or saved."""
        assert self._momentum is not None, "attach() comes first"
        self._momentum.begin_batch(*batches_until_used(trainer, batch_idx))

    def before_step(self, trainer: Trainer, optimizer: Optimizer) -> None:
        """Looks who rests, once the gradients are there: modes may have changed, layers may turn out to be unused."""
        self._resting.observe()
        self._see_who_rests()
        self._phase.before_step(trainer, optimizer)

    def _see_who_rests(self) -> None:
        rests = self._resting.names()
        if rests != self.rests:
            self.rests = rests
            self.preview.selection = without(self._asked, rests)
            self._phase.follow(self.preview.selection)

    def batch_end(self, trainer: Trainer) -> None:
        """After a batch: counts the steps that were taken."""
        taken = self._steps is not None and self._steps.passed()
        self._epoch_steps += taken
        self._phase.batch_end(trainer, taken, self.rests)

    def end(self, trainer: Trainer) -> None:
        """Ends the fit."""
        self._phase.end(trainer)

    def detach(self) -> None:
        """Leaves the optimizers and BatchNorm's momenta as they were found."""
        if self._momentum is not None:
            self._momentum.give_back()
        if self._steps is not None:
            self._steps.stop()

    def prepared(self, selection: Selection) -> Selection:
        """What a prune at the end of this fit can ask for: layers that rest stay."""
        return self._phase.prepared(without(selection, self.rests))

    def state_dict(self) -> dict[str, Any]:
        """What a resumed fit needs, as plain tensors and numbers."""
        state: dict[str, Any] = {"epoch_steps": self._epoch_steps, self._phase.name: self._phase.state_dict()}
        state["resting"] = self._resting.state_dict()
        if self._momentum is not None:
            state["pace"] = self._momentum.state_dict()
        return state
