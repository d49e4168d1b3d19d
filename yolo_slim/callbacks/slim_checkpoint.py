"""Pruning a LightningModule, and the files that it leaves."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from yolo_slim.callbacks.framework import LightningModule, Trainer, lightning_version
from yolo_slim.callbacks.target import example_inputs, find_target, trace_target
from yolo_slim.files import write_whole
from yolo_slim.pruning import (
    ChannelGraph,
    Importance,
    PruningReport,
    Selection,
    Taylor,
    apply_plan,
    importance_scores,
    prune,
    store_structure,
)


def prune_module(
    pl_module: LightningModule,
    selection: Selection,
    target: str | None = None,
    importance: Importance | None = None,
    taylor: Taylor | None = None,
    compensation: str = "none",
    graph: ChannelGraph | None = None,
) -> PruningReport:
    """Prunes the target of a LightningModule in place and keeps the new structure in its hyper-parameters.

    Args:
        pl_module: The module; gets smaller.
        selection: Which channels go.
        target: Path of the submodule; by default ``pl_module.pruning_target`` or the whole module.
        importance: How channels are scored; by default by |gamma|.
        taylor: Has observed gradients of the target, for ``Importance("taylor")``.
        compensation: "none", "fold", "exact" or "auto", see :func:`yolo_slim.pruning.prune`.
        graph: The channel graph of the target where it is known; by default it is traced.

    Returns:
        What was asked and what was done.

    Raises:
        ValueError: If a pattern matches nothing, or a budget cannot be reached.
        RuntimeError: If the pruned module does not compute what it should; it is untouched then.
    """
    model = find_target(pl_module, target)
    graph = trace_target(pl_module, target) if graph is None else graph
    scores = importance_scores(model, graph, importance or Importance(), taylor)
    given = example_inputs(pl_module) if needs_example(selection) else None
    report = prune(model, graph, selection, scores, example_inputs=given, compensation=compensation)
    store_structure(pl_module, report.structure)
    return report


def needs_example(selection: Selection) -> bool:
    """Whether a selection depends on the size of the inputs that the model will be used with."""
    return bool(selection.budgets) or selection.per != "channel"


def weights_checkpoint(pl_module: LightningModule) -> dict[str, Any]:
    """A Lightning checkpoint of the weights alone: plain tensors and primitives, loads with ``weights_only=True``."""
    checkpoint: dict[str, Any] = {
        "epoch": 0,
        "global_step": 0,
        "pytorch-lightning_version": lightning_version,
        "state_dict": {name: value.detach().cpu() for name, value in pl_module.state_dict().items()},
        "hyper_parameters": dict(pl_module.hparams),
    }
    if name := getattr(pl_module, "_hparams_name", None):  # of the argument that a module takes them by
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
    return save_weights(pl_module, folder / "slim.ckpt")


def save_weights(pl_module: LightningModule, path: Path) -> Path:
    """Writes a checkpoint of the weights alone, which appears whole or not at all, and returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    torch.save(weights_checkpoint(pl_module), content)
    write_whole(path, content.getvalue())
    return path


@contextmanager
def in_float32(pl_module: LightningModule) -> Iterator[bool]:
    """Holds weights of 16 bits in 32 bits while they are changed and compared; says whether there are any."""

    def tensors() -> Iterator[tuple[str, torch.Tensor]]:
        return chain(pl_module.named_parameters(), pl_module.named_buffers())

    given = {name: tensor.dtype for name, tensor in tensors() if tensor.dtype in (torch.float16, torch.bfloat16)}
    if given:
        nn.Module.float(pl_module)
    try:
        yield bool(given)
    finally:
        for name, tensor in tensors():
            if name in given:
                tensor.data = tensor.data.to(given[name])


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
