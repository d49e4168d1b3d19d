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
    check_strategy,
    overflowed,
    rank_zero_info,
    rank_zero_warn,
)
from yolo_slim.callbacks.gamma_sparsity import GammaSparsity
from yolo_slim.callbacks.slim_checkpoint import (
    in_float32,
    needs_example,
    prune_alike,
    prune_module,
    save_slim,
    save_weights,
)
from yolo_slim.callbacks.sparse_phase.checks import differing
from yolo_slim.callbacks.taken_steps import TakenSteps
from yolo_slim.callbacks.target import example_inputs, find_target, make_selection, trace_target
from yolo_slim.pruning import (
    ChannelGraph,
    Importance,
    PruningReport,
    Selection,
    Taylor,
)
from yolo_slim.pruning.pipeline import check, check_compensation
from yolo_slim.pruning.sparsity.penalty import SMALL_GAMMA


class ChannelPruning(Callback):
    """Prunes the module when a fit has ended, and saves it.

    What is pruned are the weights that would be deployed: the average where an averaging callback keeps one. The
    module is ready for the next ``fit`` of a new optimizer, and ``dirpath`` holds ``slim.ckpt``, the plan and the
    report. Rank 0 decides and writes, every rank does the same surgery.

    Beside a :class:`GammaSparsity` it takes what that has prepared: layers that the fit did not train stay, and where
    ``growing`` was cut short, no more is removed than has faded.

    Args:
        ratio: Share of the prunable channels to remove, in [0, 1).
        min_channels: Channels that every layer keeps, at least 1.
        shortcuts: ``couple`` prunes residual channels together, ``spare`` leaves them alone.
        ignore: Patterns of module names (``fnmatch``) that are left alone.
        selection: Everything a :class:`yolo_slim.pruning.Selection` can ask for, such as a budget, in place of the
            four arguments above.
        importance: How channels are scored; by default by |gamma|. ``Importance("taylor")`` takes the gradients of
            the fit's last epoch.
        compensation: What becomes of the constants that channels with a small gamma pass on: "none", "fold", "exact"
            or "auto", which is exact where the selection allows it, see :func:`yolo_slim.pruning.prune`.
        target: Path of the submodule; by default ``pl_module.pruning_target`` or the whole module.
        dirpath: Folder of the files; by default the Trainer's ``default_root_dir``.

    Raises:
        MisconfigurationException: If an argument is out of range or a pattern matches nothing.
    """

    def __init__(
        self,
        ratio: float = 0.5,
        min_channels: int = 8,
        shortcuts: Literal["couple", "spare"] = "couple",
        ignore: Sequence[str] = (),
        selection: Selection | None = None,
        importance: Importance | None = None,
        compensation: Literal["auto", "none", "fold", "exact"] = "auto",
        target: str | None = None,
        dirpath: str | None = None,
    ) -> None:
        self.selection = make_selection(selection, ratio, min_channels, shortcuts, ignore)
        try:
            check_compensation(compensation, self.selection)
        except ValueError as error:
            raise MisconfigurationException(str(error)) from error
        self.importance = importance or Importance()
        self.compensation = compensation
        self.target = target
        self.dirpath = dirpath
        self.report: PruningReport | None = None
        self._graph: ChannelGraph | None = None
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
        self._graph = graph = trace_target(pl_module, self.target)
        self._sparsity = self._beside(trainer, pl_module)
        if self._sparsity is not None and (what := differing(self._sparsity.selection, self.selection)):
            rank_zero_warn(
                f"ChannelPruning will not take the channels that GammaSparsity prepares ({what}), which costs "
                "accuracy: give both the same selection"
            )
        given = example_inputs(pl_module) if needs_example(self.selection) else None
        if needs_example(self.selection) and given is None:
            raise MisconfigurationException(
                f"{self.selection} needs an input to count operations for; set self.example_input_array of "
                f"{type(pl_module).__name__} to one of the size that it will be used with"
            )
        try:
            check(find_target(pl_module, self.target), graph, self.selection, given, self.compensation)
        except ValueError as error:
            raise MisconfigurationException(str(error)) from error
        if self.importance.kind == "taylor":
            self._steps = TakenSteps(trainer)
        for warning in foreseen_troubles(pl_module, find_target(pl_module, self.target), graph):
            rank_zero_warn(f"ChannelPruning: {warning}.")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forgets the gradients of earlier epochs: any epoch may be the last."""
        if self.importance.kind == "taylor" and self._graph is not None:
            self._taylor = Taylor(find_target(pl_module, self.target), self._graph)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Observes the complete gradients of a step, where they are asked for."""
        if self._taylor is not None and not overflowed(trainer, optimizer):
            self._taylor.observe()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prunes; averaging callbacks have put their weights into the module by now."""
        if trainer.interrupted:
            rank_zero_info("ChannelPruning: the fit was interrupted, nothing is pruned.")
            return
        with in_float32(pl_module) as converted:
            graph = None if converted else self._graph  # traced anew with inputs of the other type
            arguments = (self.target, self.importance, self._taylor, self.compensation, graph)
            selection = self.selection if self._sparsity is None else self._sparsity.prepared(self.selection)
            folder = Path(self.dirpath or trainer.default_root_dir)
            kept = save_weights(pl_module, folder / "unpruned.ckpt") if trainer.is_global_zero else None
            try:
                self.report = prune_alike(
                    trainer, pl_module, self.target, lambda: prune_module(pl_module, selection, *arguments)
                )
            except (RuntimeError, ValueError) as error:
                raise type(error)(
                    f"{error}. The weights at the end of the fit are in {kept}: load them, and prune without the "
                    "layers in doubt (ignore) or with another selection"
                ) from error
        before, after = self.report.parameters_before, self.report.parameters_after
        message = f"ChannelPruning: {self.report.reached:.1%} of the prunable channels removed"
        message += f" ({self.report.request} asked), {before / 1e6:.3f} M -> {after / 1e6:.3f} M parameters"
        if trainer.is_global_zero:
            path = save_slim(pl_module, self.report, folder)
            (folder / "unpruned.ckpt").unlink(missing_ok=True)
            message += f"; saved {path}"
        rank_zero_info(message + ".")
        if self._sparsity is not None and self.importance.kind == "gamma" and self.report.threshold > SMALL_GAMMA:
            rank_zero_warn(
                f"ChannelPruning took channels of |gamma| up to {self.report.threshold:.2g}, which the sparse phase "
                f"has not brought below {SMALL_GAMMA:g}: accuracy has been lost. Prune less, or sparse-train longer or "
                "more strongly."
            )
        trainer.strategy.barrier("ChannelPruning")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Lets go of the module."""
        self._let_go()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Lets go of the module; ``teardown`` is not called after an exception."""
        self._let_go()

    def _let_go(self) -> None:
        if self._steps is not None:
            self._steps.stop()
        self._graph = self._taylor = self._steps = self._sparsity = None

    def _beside(self, trainer: Trainer, pl_module: LightningModule) -> GammaSparsity | None:
        """The sparse phase of this fit, if it works on what is pruned."""
        model = find_target(pl_module, self.target)
        found = [c for c in trainer.callbacks if isinstance(c, GammaSparsity)]  # type: ignore[attr-defined]
        return next((c for c in found if find_target(pl_module, c.target) is model), None)
