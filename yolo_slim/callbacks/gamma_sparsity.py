"""The sparse phase: a penalty on the BatchNorm gammas while a detector trains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer

from yolo_slim.callbacks.framework import Callback, LightningModule, MisconfigurationException, Trainer, rank_zero_info
from yolo_slim.callbacks.gamma_monitor import GammaMonitor
from yolo_slim.callbacks.sparse_phase.bn_momentum import StatisticsPace
from yolo_slim.callbacks.sparse_phase.checks import (
    check_arguments,
    check_trainer,
    expect_prunable_gammas,
    refuse_line_search,
)
from yolo_slim.callbacks.sparse_phase.full_precision import FullPrecision
from yolo_slim.callbacks.sparse_phase.growing import GrowingPhase
from yolo_slim.callbacks.sparse_phase.l1 import L1Phase
from yolo_slim.callbacks.sparse_phase.preview import Preview, foreseen, logged, tell_what_became
from yolo_slim.callbacks.taken_steps import TakenSteps
from yolo_slim.callbacks.target import copies_of_target, find_target, make_selection, trace_target
from yolo_slim.pruning import ChannelGraph, Selected, Selection
from yolo_slim.pruning.sparsity.growing import check_growing
from yolo_slim.pruning.sparsity.penalty import gamma_magnitudes
from yolo_slim.pruning.sparsity.resting import Resting, without


class GammaSparsity(Callback):
    """Makes channels dispensable during a fit, so that :class:`ChannelPruning` can take them away.

    ``penalty="subgradient"`` is Network Slimming (Liu et al., ICCV 2017): once per optimizer step, after accumulation
    and after DDP has averaged the gradients, ``strength * (1 - (1 - final_fraction) * epoch / epochs) * sign(gamma)``
    is added to the gradient of every prunable gamma. Mixed precision and gradient clipping would distort the term and
    are off during the fit; both come back after it, also after an exception.

    ``penalty="proximal"`` has the same schedule, but moves the gammas after the step by rate x strength, and stops
    them at exactly zero (:class:`yolo_slim.pruning.Proximal`). No optimizer scales it and clipping does not see it:
    mixed precision and clipping stay on.

    ``penalty="growing"`` lets a growing set of channels, the least important ones by first-order Taylor importance,
    fade to exactly zero while the others adapt (:class:`yolo_slim.pruning.Growing`); a prune with the same
    ``ratio`` then removes channels that do nothing. It works with any optimizer, mixed precision and clipping.

    The gammas that are penalised are those that pruning with the same ``shortcuts`` and ``ignore`` ranks. Every epoch
    logs their distribution (as :class:`GammaMonitor` does) and what a prune by |gamma| with the same selection would
    leave: ``sparsity/slim_params``, ``sparsity/slim_gflops``, and ``sparsity/threshold``, the largest importance that
    it would remove.

    Args:
        penalty: ``subgradient``, ``proximal`` or ``growing``.
        strength: Lambda of the L1 term, above 0 (not for ``growing``). ``auto`` chooses it anew every epoch, so that
            the share of the gammas that the selection removes reaches zero (:class:`Strength`).
        beta_strength: The same for the betas of the penalised channels, constant over the fit, at least 0 (not for
            ``growing``). Published tools for YOLOv5 use ten times the strength.
        final_fraction: Share of ``strength`` that is left at the end of the fit, in [0, 1] (not for ``growing``).
        ratio: Share of the prunable channels that the prune will remove, in (0, 1): what ``growing`` and ``auto`` work
            towards and the log reports.
        min_channels: Channels that every layer keeps, at least 1.
        shortcuts: ``couple`` penalises residual channels too, ``spare`` leaves them alone.
        ignore: Patterns of module names (``fnmatch``) that are left alone.
        selection: What the prune will be asked for, in place of the four arguments above; ``growing`` cannot work
            towards a latency.
        target: Path of the submodule to make sparse; by default ``pl_module.pruning_target`` or the whole module.

    Attributes:
        gammas_before: |gamma| of all BatchNorm layers when the fit began, float32 (channels,).
        gammas_after: the same when it ended.

    Raises:
        MisconfigurationException: If an argument is out of range, or the Trainer's strategy, optimizers or number of
            epochs do not allow the penalty.
    """

    def __init__(
        self,
        penalty: Literal["subgradient", "proximal", "growing"] = "subgradient",
        strength: float | Literal["auto"] = 1e-2,
        beta_strength: float = 0.0,
        final_fraction: float = 0.1,
        ratio: float = 0.5,
        min_channels: int = 8,
        shortcuts: Literal["couple", "spare"] = "couple",
        ignore: Sequence[str] = (),
        selection: Selection | None = None,
        target: str | None = None,
    ) -> None:
        check_arguments(penalty, strength, beta_strength, final_fraction)
        self.selection = make_selection(selection, ratio, min_channels, shortcuts, ignore)
        if penalty == "growing":
            try:
                check_growing(self.selection)
            except ValueError as error:
                raise MisconfigurationException(str(error)) from error
        self.penalty = penalty
        self.strength = strength
        self.beta_strength = beta_strength
        self.final_fraction = final_fraction
        self.target = target
        self.gammas_before = self.gammas_after = torch.zeros(0)
        self._precision = FullPrecision()
        self._resumed: dict[str, Any] = {}
        self._left: dict[str, Any] | None = None
        self._forget()

    def _forget(self) -> None:
        """Lets go of everything that belongs to one fit."""
        self._phase: L1Phase | GrowingPhase | None = None
        self._preview: Preview | None = None
        self._pace: StatisticsPace | None = None
        self._steps: TakenSteps | None = None
        self._resting: Resting | None = None
        self._rests: tuple[str, ...] = ()
        self._epoch_steps = 0

    # Before the first step

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Checks the Trainer, and switches off what would distort the penalty."""
        if stage != "fit":
            return
        self._left = None
        check_trainer(trainer, self.penalty)
        # Weights of 16 bits cannot take the small steps of an L1 term: 1.0 - 0.001 is 1.0 in bfloat16.
        half = trainer.strategy.precision_plugin.precision in ("16-true", "bf16-true")
        if self.penalty == "subgradient" or (self.penalty == "proximal" and half):
            self._precision.switch_on(trainer, pl_module, clipping=self.penalty == "proximal")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Traces the target as it is now: a resumed fit has rebuilt its structure by this time."""
        refuse_line_search(trainer.optimizers)
        says = self.check(pl_module)
        phase = self._phase
        assert phase is not None
        phase.check(trainer)
        self._pace = StatisticsPace(find_target(pl_module, self.target))
        if self._resumed:
            self._take_up(phase, self._pace)
        self._steps = TakenSteps(trainer, lambda optimizer: phase.after_step(trainer, optimizer))
        rank_zero_info(f"GammaSparsity: {says}; {phase.says}.")

    def check(self, pl_module: LightningModule) -> str:
        """Traces a module and finds what the penalty acts on, as at the start of a fit; says what that is.

        Raises:
            MisconfigurationException: If a fit of the module, as it is, would be refused.
        """
        model = find_target(pl_module, self.target)
        graph = trace_target(pl_module, self.target)
        self._resting = Resting(model)
        self._rests = self._resting.names()
        selection = without(self.selection, self._rests)
        channels, layers = expect_prunable_gammas(model, graph, selection, self._rests)
        try:
            self._preview = Preview(pl_module, self.target, graph, selection)
            self._preview.select()
            self._phase = self._make_phase(model, graph, self._preview)
        except ValueError as error:
            raise MisconfigurationException(str(error)) from error
        rest = f" ({len(self._rests)} more are frozen or in eval mode and left alone)" if self._rests else ""
        return f"{channels} prunable gammas in {layers - len(self._rests)} BatchNorm layers{rest}"

    def _make_phase(self, model: nn.Module, graph: ChannelGraph, preview: Preview) -> L1Phase | GrowingPhase:
        if self.penalty == "growing":
            return GrowingPhase(model, graph, self.selection, preview.cost)
        how = (self.strength, self.beta_strength, self.final_fraction)
        return L1Phase(self.penalty, *how, model, graph, preview.selection, self._share)

    def _take_up(self, phase: L1Phase | GrowingPhase, pace: StatisticsPace) -> None:
        try:
            self._epoch_steps = int(self._resumed.get("epoch_steps", 0))
            for part, name in ((phase, phase.name), (pace, "pace")):
                if name in self._resumed:
                    part.load_state_dict(self._resumed[name])
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise MisconfigurationException(
                f"GammaSparsity's state in the checkpoint is damaged, or of another model or penalty ({error}); take "
                "another checkpoint, or start a new training from its weights"
            ) from error

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes where the fit stands, and says how far a gamma can travel in it."""
        self.gammas_before = gamma_magnitudes(find_target(pl_module, self.target)).cpu()
        if self._phase is not None:
            self._phase.start(trainer, pl_module)

    # During the fit

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Sets the strength or the chosen channels of the epoch."""
        assert self._phase is not None
        assert self._pace is not None
        steps, self._epoch_steps = self._epoch_steps, 0  # those of the epoch that is over
        expected = 0.0 if steps else self._phase.per_step(trainer.current_epoch)
        values = {"sparsity/drift": self._pace.follow(steps, expected)}
        pl_module.log_dict(values | self._phase.start_epoch(trainer, steps, self._rests), sync_dist=True)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Adds the L1 term to, or reads the importance from, the complete gradients of the step."""
        self._look_who_rests()
        if self._phase is not None:
            self._phase.before_step(trainer, optimizer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After an optimizer step: shrinks the chosen channels, and at the end of the fit makes them zero."""
        taken = self._steps is not None and self._steps.passed()
        self._epoch_steps += taken
        if self._phase is not None:
            self._phase.batch_end(trainer, taken, lambda: copies_of_target(trainer, pl_module, self.target))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs how the gammas are distributed, and what a prune would leave."""
        if not any(isinstance(callback, GammaMonitor) for callback in trainer.callbacks):  # type: ignore[attr-defined]
            GammaMonitor(self.target).on_train_epoch_end(trainer, pl_module)
        selected = self._selected()
        if selected is not None:
            pl_module.log_dict(logged(selected), sync_dist=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Says what the phase did to the gammas, and what a prune would leave."""
        if self._phase is not None:
            self._phase.end(trainer, lambda: copies_of_target(trainer, pl_module, self.target))
        self.gammas_after = gamma_magnitudes(find_target(pl_module, self.target)).cpu()
        tell_what_became(self.gammas_before, self.gammas_after, foreseen(self.selection, self._selected()))

    # After the fit

    def prepared(self, selection: Selection) -> Selection:
        """What a prune at the end of this fit can ask for.

        Layers that rest stay, and where ``growing`` has been cut short, the selection is as far on its way as the
        channels that have faded.
        """
        found = without(selection, self._rests)
        return found if self._phase is None else self._phase.prepared(found)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed fit needs, as plain tensors and numbers."""
        if self._left is not None:
            return self._left
        state: dict[str, Any] = {"epoch_steps": self._epoch_steps}
        if self._phase is not None:
            state[self._phase.name] = self._phase.state_dict()
        if self._pace is not None:
            state["pace"] = self._pace.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keeps the state for ``on_fit_start``, when the graph is known."""
        self._resumed = state_dict

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Gives precision and clipping back."""
        self._give_back(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Gives precision and clipping back; ``teardown`` is not called after an exception."""
        self._left = self.state_dict()  # for a checkpoint that is saved because of it
        self._give_back(trainer)

    def _give_back(self, trainer: Trainer) -> None:
        self._precision.give_back(trainer)
        if self._pace is not None:
            self._pace.give_back()
        if self._steps is not None:
            self._steps.stop()
        self._resumed = {}
        self._forget()

    def _look_who_rests(self) -> None:
        """Once the gradients of a step are there: modes may have changed, layers may turn out to be unused."""
        assert self._resting is not None
        assert self._preview is not None
        assert self._phase is not None
        self._resting.observe()
        rests = self._resting.names()
        if rests != self._rests:
            self._rests = rests
            self._preview.selection = without(self.selection, rests)
            self._phase.follow(self._preview.selection)

    def _share(self) -> float:
        """Share of the gammas that a prune would take; half of them where it cannot be foreseen."""
        selected = self._selected()
        return 0.5 if selected is None else selected.reached

    def _selected(self) -> Selected | None:
        try:
            return None if self._preview is None else self._preview.select()
        except ValueError:  # so many layers have come to rest that it cannot be had
            return None
