"""One prune for all ranks of a distributed fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from yolo_slim.callbacks.framework import LightningModule, Trainer
from yolo_slim.callbacks.target import find_target
from yolo_slim.pruning import PruningReport, apply_plan, store_structure


def prune_alike(
    trainer: Trainer, pl_module: LightningModule, target: str | None, prune: Callable[[], PruningReport]
) -> PruningReport:
    """Prunes on rank 0 and repeats its plan on the others: each would measure other milliseconds.

    Args:
        trainer: The Trainer of the fit.
        pl_module: The module; gets smaller, and has the weights of rank 0 on every rank.
        target: Path of the pruned submodule, see :func:`yolo_slim.callbacks.target.find_target`.
        prune: Prunes the module and keeps its new structure; called on rank 0.

    Returns:
        The report of rank 0.
    """
    done: Any = None
    if trainer.is_global_zero:
        report = prune()
        done = report, {name: value.detach().cpu() for name, value in pl_module.state_dict().items()}
    report, weights = trainer.strategy.broadcast(done)
    if not trainer.is_global_zero:
        apply_plan(find_target(pl_module, target), report.plan)
        store_structure(pl_module, report.structure)
        pl_module.load_state_dict(weights)
    return report
