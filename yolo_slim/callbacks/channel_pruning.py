"""Surgery between two fits: the channels that the sparse phase made dispensable are taken away."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from torch.optim import Optimizer

from yolo_slim.callbacks.foresight import foreseen_troubles
from yolo_slim.callbacks.framework import (
    Callback,
    LightningModule,
    MisconfigurationException,
    Trainer,
    callbacks_of,
    check_strategy,
    rank_zero_info,
    rank_zero_warn,
)
from yolo_slim.callbacks.gamma_sparsity import GammaSparsity
from yolo_slim.callbacks.plain_look import observe_step, plain_taylor
from yolo_slim.callbacks.slim_checkpoint import in_float32, module_checkpoint, prune_alike, prune_module, save_slim
from yolo_slim.callbacks.sparse_phase.checks import differing
from yolo_slim.callbacks.taken_steps import TakenSteps
from yolo_slim.callbacks.target import Target, make_selection
from yolo_slim.pruning import (
    SMALL_GAMMA,
    Compensation,
    Importance,
    PruningReport,
    Selection,
    Taylor,
    check_prune,
    expect_compensation,
    save_whole,
)

#: Of the weights as they were, while they are being pruned.
_UNPRUNED = "unpruned.ckpt"


class ChannelPruning(Callback):
    """Prunes the module when a fit has ended, and saves it.

    What is pruned are the weights that would be deployed: the average where an averaging callback keeps one. The
    module is ready for the next ``fit`` of a new optimizer, and ``dirpath`` holds ``slim.ckpt``, the plan and the
    report. Rank 0 decides and writes, every rank does the same surgery.

    Beside a :class:`GammaSparsity` it takes what that has prepared: layers that the fit did not train stay, and where
    ``growing`` was cut short, no more is removed than is zero.

    Args:
        ratio: Share of the prunable channels to remove, in [0, 1), 0.5 by default.
        min_channels: Channels that every layer keeps, at least 1, 8 by default.
        shortcuts: ``couple``, the default, prunes residual channels together, ``spare`` leaves them alone.
        ignore: Patterns of module names (``fnmatch``) that are left alone; none by default.
        selection: Everything a :class:`yolo_slim.pruning.Selection` can ask for, such as a budget, in place of the
            four arguments above.
        importance: How channels are scored; by default by |gamma|. ``Importance("taylor")`` takes the gradients of
            ``pl_module.plain_losses()`` at the end of the fit, see :class:`GammaSparsity`, or those of its last epoch.
        compensation: What becomes of the constants that channels with a small gamma pass on: "none", "fold", "exact"
            or "auto", which is exact where the selection allows it, see :func:`yolo_slim.pruning.prune`.
        target: Path of the submodule; by default ``pl_module.pruning_target`` or the whole module.
        dirpath: Folder of the files; by default the Trainer's ``default_root_dir``.

    Raises:
        MisconfigurationException: If an argument is out of range, a pattern matches nothing, or a selection is given
            beside the arguments that it replaces.
    """

    def __init__(
        self,
        ratio: float | None = None,
        min_channels: int | None = None,
        shortcuts: Literal["couple", "spare"] | None = None,
        ignore: Sequence[str] | None = None,
        selection: Selection | None = None,
        importance: Importance | None = None,
        compensation: Compensation = "auto",
        target: str | None = None,
        dirpath: str | None = None,
    ) -> None:
        self.selection = make_selection(selection, ratio, min_channels, shortcuts, ignore)
        try:
            expect_compensation(compensation)
        except ValueError as error:
            raise MisconfigurationException(str(error)) from error
        self.importance = importance or Importance()
        self.compensation = compensation
        self.target = target
        self.dirpath = dirpath
        self.report: PruningReport | None = None
        self._target: Target | None = None
        self._taylor: Taylor | None = None
        self._steps: TakenSteps | None = None
        self._sparsity: GammaSparsity | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuses what the smaller network would not come back from."""
        if stage == "fit":
            check_strategy(trainer, type(self).__name__, spawned=False)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finds out before the fit, not after it, whether the prune can be done."""
        self.report = self._taylor = None
        self._target = target = Target(pl_module, self.target)
        graph = target.graph
        beside = [c for c in callbacks_of(trainer) if isinstance(c, GammaSparsity)]
        self._sparsity = next((c for c in beside if Target(pl_module, c.target).model is target.model), None)
        if self._sparsity is not None and (what := differing(self._sparsity.selection, self.selection)):
            rank_zero_warn(
                f"ChannelPruning will not take the channels that GammaSparsity prepares ({what}), which costs "
                "accuracy: give both the same selection"
            )
        example = target.example_for(self.selection)
        try:
            check_prune(target.model, graph, self.selection, example, self.compensation)
        except ValueError as error:
            raise MisconfigurationException(str(error)) from error
        if self.importance.kind == "taylor":
            self._steps = TakenSteps(trainer)
        for warning in foreseen_troubles(target):
            rank_zero_warn(f"ChannelPruning: {warning}.")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forgets the gradients of earlier epochs: any epoch may be the last."""
        if self.importance.kind == "taylor" and self._target is not None:
            self._taylor = Taylor(self._target.model, self._target.graph)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Observes the complete gradients of a step, where they are asked for."""
        if self._taylor is not None:
            observe_step(self._taylor, trainer, optimizer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prunes; averaging callbacks have put their weights into the module by now."""
        if trainer.interrupted:
            rank_zero_info("ChannelPruning: the fit was interrupted, nothing is pruned.")
            return
        folder = Path(self.dirpath or trainer.default_root_dir)
        self.report = report = self._prune(trainer, pl_module, folder)
        message = (
            f"ChannelPruning: {report.reached:.1%} of the prunable channels removed ({report.request} asked), "
            f"{report.parameters_before / 1e6:.3f} M -> {report.parameters_after / 1e6:.3f} M parameters"
        )
        if trainer.is_global_zero:
            path = save_slim(pl_module, report, folder)
            (folder / _UNPRUNED).unlink(missing_ok=True)
            message += f"; saved {path}"
        rank_zero_info(message + ".")
        if self._sparsity is not None and self.importance.kind == "gamma" and report.threshold > SMALL_GAMMA:
            rank_zero_warn(
                f"ChannelPruning took channels of |gamma| up to {report.threshold:.2g}, which the sparse phase "
                f"has not brought below {SMALL_GAMMA:g}: accuracy has been lost. Prune less, or sparse-train longer or "
                "more strongly."
            )
        trainer.strategy.barrier("ChannelPruning")

    def _prune(self, trainer: Trainer, pl_module: LightningModule, folder: Path) -> PruningReport:
        selection = self.selection if self._sparsity is None else self._sparsity.prepared(self.selection)
        with in_float32(pl_module) as converted:
            if self._target is None or converted:  # traced anew with inputs of the other type
                self._target = Target(pl_module, self.target)
            target = self._target
            if trainer.is_global_zero:
                folder.mkdir(parents=True, exist_ok=True)
                save_whole(module_checkpoint(pl_module), folder / _UNPRUNED)
            taylor = self._taylor
            if self.importance.kind == "taylor":
                taylor = plain_taylor(trainer, target) or taylor
            try:
                return prune_alike(
                    trainer,
                    target,
                    lambda: prune_module(
                        pl_module,
                        selection,
                        importance=self.importance,
                        taylor=taylor,
                        compensation=self.compensation,
                        target=target,
                    ),
                )
            except (RuntimeError, ValueError) as error:
                raise type(error)(
                    f"{error}. The weights at the end of the fit are in {folder / _UNPRUNED}: load them, and prune "
                    "without the layers in doubt (ignore) or with another selection"
                ) from error

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Lets go of the module."""
        self._let_go()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Lets go of the module; ``teardown`` is not called after an exception."""
        self._let_go()

    def _let_go(self) -> None:
        if self._steps is not None:
            self._steps.stop()
        self._target = self._taylor = self._steps = self._sparsity = None
