"""The sparse phase: a penalty on the BatchNorm gammas while a detector trains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch.optim import Optimizer

from yolo_slim.callbacks.framework import (
    Callback,
    LightningModule,
    MisconfigurationException,
    Trainer,
    callbacks_of,
    rank_zero_info,
)
from yolo_slim.callbacks.gamma_monitor import GammaMonitor
from yolo_slim.callbacks.sparse_phase.checks import Choosing, Penalty, PenaltyKind, check_trainer, refuse_line_search
from yolo_slim.callbacks.sparse_phase.fit import SparseFit
from yolo_slim.callbacks.sparse_phase.full_precision import FullPrecision
from yolo_slim.callbacks.sparse_phase.preview import foreseen, logged, tell_what_became
from yolo_slim.callbacks.target import Target, make_selection
from yolo_slim.pruning import Selection, expect_runtime, gamma_magnitudes


class GammaSparsity(Callback):
    """Makes channels dispensable during a fit, so that :class:`ChannelPruning` can take them away.

    ``penalty="subgradient"`` is Network Slimming (Liu et al., ICCV 2017): once per optimizer step, after accumulation
    and after DDP has averaged the gradients, ``strength * (1 - (1 - final_fraction) * epoch / epochs) * sign(gamma)``
    is added to the gradient of every prunable gamma. Mixed precision and gradient clipping would distort the term and
    are off during the fit; both come back after it, also after an exception.

    ``penalty="proximal"`` has the same schedule, but moves the gammas after the step by rate x strength, and stops
    them at exactly zero (:class:`yolo_slim.pruning.Proximal`). No optimizer scales it and clipping does not see it:
    mixed precision and clipping stay on.

    Both act on all prunable gammas, and the data says which of them resist. ``choose="taylor"`` has them act on those
    channels alone that a prune of the model as it is would take by first-order Taylor importance: what the loss says
    before the phase is a better choice than what a penalty that must reach zero in some hundred steps leaves.

    ``penalty="growing"`` makes more and more channels exactly zero while the others take over
    (:class:`yolo_slim.pruning.Growing`), within the first third of the fit, or its first epoch where that is more: each
    time those that are the least important by the gradients of the steps since the last time. A prune with the same
    selection then removes channels that do nothing. It works with any optimizer, mixed precision and clipping.

    For ``choose="taylor"`` channels are chosen once, before the first step, where the module offers a method
    ``plain_losses() -> Iterable[Tensor] | None``: its losses on some batches of images as they are when the network is
    used. Where it does not, or gives None, the gradients of the first epoch choose, and the penalty begins with the
    second one.

    The gammas that are penalised are those that pruning with the same ``shortcuts`` and ``ignore`` ranks. Every epoch
    logs their distribution (as :class:`GammaMonitor` does) and what a prune by |gamma| with the same selection would
    leave: ``sparsity/slim_params``, ``sparsity/slim_gflops``, and ``sparsity/threshold``, the largest importance that
    it would remove.

    Args:
        penalty: ``subgradient``, ``proximal`` or ``growing``.
        strength: Lambda of the L1 term, above 0 (not for ``growing``). ``auto`` chooses it anew every epoch, so that
            the share of the gammas that the selection removes reaches zero, or all that are chosen
            (:class:`Strength`).
        beta_strength: The same for the betas of the penalised channels, constant over the fit, at least 0 (not for
            ``growing``). Published tools for YOLOv5 use ten times the strength.
        final_fraction: Share of ``strength`` that is left at the end of the fit, in [0, 1] (not for ``growing``).
        ratio: Share of the prunable channels that the prune will remove, in [0, 1), 0.5 by default: what ``growing``
            and ``auto`` work towards and the log reports.
        min_channels: Channels that every layer keeps, at least 1, 8 by default.
        shortcuts: ``couple``, the default, penalises residual channels too, ``spare`` leaves them alone.
        ignore: Patterns of module names (``fnmatch``) that are left alone; none by default.
        selection: What the prune will be asked for, in place of the four arguments above; no channels can be chosen for
            a latency.
        target: Path of the submodule to make sparse; by default ``pl_module.pruning_target`` or the whole module.
        choose: Which gammas an L1 penalty acts on: ``none`` for all, or ``taylor``.

    Attributes:
        gammas_before: |gamma| of all BatchNorm layers when the fit began, float32 (channels,).
        gammas_after: The same when it ended.

    Raises:
        MisconfigurationException: If an argument is out of range, or the Trainer's strategy, optimizers or number of
            epochs do not allow the penalty.
    """

    def __init__(
        self,
        penalty: PenaltyKind = "subgradient",
        strength: float | Literal["auto"] = 1e-2,
        beta_strength: float = 0.0,
        final_fraction: float = 0.1,
        ratio: float | None = None,
        min_channels: int | None = None,
        shortcuts: Literal["couple", "spare"] | None = None,
        ignore: Sequence[str] | None = None,
        selection: Selection | None = None,
        target: str | None = None,
        choose: Choosing = "none",
    ) -> None:
        self._penalty = Penalty(penalty, strength, beta_strength, final_fraction, choose)
        self.selection = make_selection(selection, ratio, min_channels, shortcuts, ignore)
        self.target = target
        self.gammas_before = self.gammas_after = torch.zeros(0)
        self._precision = FullPrecision()
        self._fit: SparseFit | None = None
        self._resumed: dict[str, Any] = {}
        self._left: dict[str, Any] | None = None

    @property
    def penalty(self) -> PenaltyKind:
        """The kind of the penalty."""
        return self._penalty.kind

    # Before the first step

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Checks the Trainer, and switches off what would distort the penalty."""
        if stage != "fit":
            return
        self._left = None
        check_trainer(trainer)
        # Weights of 16 bits cannot take the small steps of an L1 term: 1.0 - 0.001 is 1.0 in bfloat16.
        half = trainer.strategy.precision_plugin.precision in ("16-true", "bf16-true")
        if self.penalty == "subgradient" or (self.penalty == "proximal" and half):
            self._precision.switch_on(trainer, pl_module, clipping=self.penalty == "proximal")

    def check(self, target: Target) -> None:
        """Finds out, before there is a Trainer, whether a fit of a target as it is would be refused.

        Raises:
            MisconfigurationException: If it would.
        """
        if self.selection.needs_times:
            try:
                expect_runtime(self.selection.latency)
            except ValueError as error:
                raise MisconfigurationException(str(error)) from error
        SparseFit(target, self._penalty, self.selection.without_times())

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Traces the target as it is now: a resumed fit has rebuilt its structure by this time."""
        refuse_line_search(trainer.optimizers)
        fit = SparseFit(Target(pl_module, self.target), self._penalty, self.selection, trainer)
        fit.attach(trainer, self._resumed)
        self._fit = fit
        rank_zero_info(f"GammaSparsity: {fit.says}.")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes where the fit stands, and says how far a gamma can travel in it."""
        self.gammas_before = gamma_magnitudes(self._running.target.model).cpu()
        self._running.start(trainer, pl_module)

    # During the fit

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Sets the strength or the chosen channels of the epoch."""
        pl_module.log_dict(self._running.start_epoch(trainer), sync_dist=True)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        """Sets the momentum of BatchNorm's statistics."""
        self._running.begin_batch(trainer, batch_idx)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Adds the L1 term to, or reads the importance from, the complete gradients of the step."""
        self._running.before_step(trainer, optimizer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """After an optimizer step: lets the chosen channels become more, and keeps them at zero."""
        self._running.batch_end(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs how the gammas are distributed, and what a prune would leave."""
        if not any(isinstance(callback, GammaMonitor) for callback in callbacks_of(trainer)):
            GammaMonitor(self.target).on_train_epoch_end(trainer, pl_module)
        selected = self._running.preview.now()
        if selected is not None:
            pl_module.log_dict(logged(selected), sync_dist=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Says what the phase did to the gammas, and what a prune would leave."""
        fit = self._running
        fit.end(trainer)
        self.gammas_after = gamma_magnitudes(fit.target.model).cpu()
        selected = fit.preview.now()
        dropped, living = (0, 0) if selected is None else (int(selected.dropped.sum()), fit.preview.living(selected))
        outlook = foreseen(self.selection, selected)
        tell_what_became(self.gammas_before, self.gammas_after, outlook, dropped, living)

    @property
    def _running(self) -> SparseFit:
        assert self._fit is not None, "on_fit_start comes first"
        return self._fit

    # After the fit

    def prepared(self, selection: Selection) -> Selection:
        """What a prune at the end of this fit can ask for.

        Layers that rest stay, and where ``growing`` has been cut short, the selection is as far on its way as the
        channels that are zero.
        """
        return selection if self._fit is None else self._fit.prepared(selection)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed fit needs, as plain tensors and numbers."""
        if self._left is not None:
            return self._left
        return {} if self._fit is None else self._fit.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keeps the state for ``on_fit_start``, when the graph is known."""
        self._resumed = state_dict

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Gives precision, clipping and momenta back."""
        self._give_back(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Gives the same back; ``teardown`` is not called after an exception."""
        self._left = self.state_dict()  # for a checkpoint that is saved because of it
        self._give_back(trainer)

    def _give_back(self, trainer: Trainer) -> None:
        self._precision.give_back(trainer)
        if self._fit is not None:
            self._fit.detach()
        self._fit, self._resumed = None, {}
