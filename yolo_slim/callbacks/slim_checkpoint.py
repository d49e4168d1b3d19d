"""Pruning a LightningModule, and the files that it leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from yolo_slim.callbacks.framework import LightningModule, Trainer, hparams_name, lightning_version
from yolo_slim.callbacks.target import Target
from yolo_slim.files import write_whole
from yolo_slim.pruning import (
    Compensation,
    Importance,
    PruningReport,
    Selection,
    Taylor,
    apply_plan,
    importance_scores,
    prune,
    save_whole,
    store_structure,
    weights_checkpoint,
)


def prune_module(
    pl_module: LightningModule,
    selection: Selection,
    *,
    importance: Importance | None = None,
    taylor: Taylor | None = None,
    compensation: Compensation = "none",
    target: Target | None = None,
) -> PruningReport:
    """Prunes a LightningModule in place, and has its checkpoints carry the new structure.

    Args:
        pl_module: The module; gets smaller.
        selection: Which channels go.
        importance: How channels are scored; by default by |gamma|.
        taylor: Has observed gradients of the target, for ``Importance("taylor")``.
        compensation: "none", "fold", "exact" or "auto", see :func:`yolo_slim.pruning.prune`.
        target: The part of it that is pruned; by default ``pl_module.pruning_target`` or the whole module.

    Returns:
        What was asked and what was done.

    Raises:
        MisconfigurationException: If the module cannot be traced, or has no input to count operations for.
        ValueError: If a pattern matches nothing, or a budget cannot be reached.
        RuntimeError: If the pruned module does not compute what it should; it is untouched then.
    """
    target = target or Target(pl_module)
    model, graph, example = target.model, target.graph, target.example_for(selection)
    scores = importance_scores(model, graph, importance or Importance(), taylor)
    report = prune(
        model, graph, selection, scores, example_inputs=example, compensation=compensation, deployed=target.deployed
    )
    store_structure(pl_module, report.structure)
    return report


def module_checkpoint(pl_module: LightningModule) -> dict[str, Any]:
    """A Lightning checkpoint of the weights alone: plain tensors and primitives, loads with ``weights_only=True``."""
    checkpoint = weights_checkpoint(pl_module.state_dict(), dict(pl_module.hparams), lightning_version)
    if name := hparams_name(pl_module):
        checkpoint["hparams_name"] = name
    pl_module.on_save_checkpoint(checkpoint)
    return checkpoint


def save_slim(pl_module: LightningModule, report: PruningReport, folder: str | Path) -> Path:
    """Writes ``slim.ckpt``, ``plan.yaml`` and ``pruning.yaml`` (the report with its layer table) into a folder.

    Each file appears whole or not at all; the plan and the report come first.

    Returns:
        The path of the checkpoint.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    report.plan.save(folder / "plan.yaml")
    write_whole(folder / "pruning.yaml", yaml.safe_dump(report.to_dict(), sort_keys=False))
    save_whole(module_checkpoint(pl_module), folder / "slim.ckpt")
    return folder / "slim.ckpt"


@contextmanager
def in_float32(pl_module: LightningModule) -> Iterator[bool]:
    """Holds weights of 16 bits in 32 bits while they are changed and compared; says whether there are any."""

    def tensors() -> Iterator[tuple[str, torch.Tensor]]:
        return chain(pl_module.named_parameters(), pl_module.named_buffers())

    stored = {name: tensor.dtype for name, tensor in tensors() if tensor.dtype in (torch.float16, torch.bfloat16)}
    if stored:
        nn.Module.float(pl_module)
    try:
        yield bool(stored)
    finally:
        for name, tensor in tensors():
            if name in stored:
                tensor.data = tensor.data.to(stored[name])


def prune_alike(trainer: Trainer, target: Target, prune_it: Callable[[], PruningReport]) -> PruningReport:
    """Prunes on rank 0 and repeats its plan on the others: each would measure other milliseconds.

    Args:
        trainer: The Trainer of the fit.
        target: What is pruned; its module has the weights of rank 0 on every rank afterwards.
        prune_it: Prunes the module and keeps its new structure; called on rank 0.

    Returns:
        The report of rank 0.
    """
    pl_module = target.pl_module
    done: Any = None
    if trainer.is_global_zero:
        report = prune_it()
        done = report, {name: value.detach().cpu() for name, value in pl_module.state_dict().items()}
    report, weights = trainer.strategy.broadcast(done)
    if not trainer.is_global_zero:
        apply_plan(target.model, report.plan)
        store_structure(pl_module, report.structure)
        pl_module.load_state_dict(weights)
    return report
