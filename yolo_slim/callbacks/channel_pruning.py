"""Surgery between two fits: the channels that the sparse phase made dispensable are taken away."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch
import torch
import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from yolo_slim.callbacks.target import find_target, trace_target
from yolo_slim.pruning import PruningReport, Selection, prune, store_structure


def prune_module(pl_module: LightningModule, selection: Selection, target: str | None = None) -> PruningReport:
    """Prunes the target of a LightningModule in place and keeps the new structure in its hyper-parameters.

    Args:
        pl_module: The module; gets smaller.
        selection: Which channels go.
        target: Path of the submodule; by default ``pl_module.pruning_target`` or the whole module.

    Returns:
        What was asked and what was done.

    Raises:
        ValueError: If an ``ignore`` pattern matches nothing.
        RuntimeError: If the pruned module does not compute what it should; it is untouched then.
    """
    report = prune(find_target(pl_module, target), trace_target(pl_module, target), selection)
    store_structure(pl_module, report.structure)
    return report


def slim_checkpoint(pl_module: LightningModule) -> dict[str, Any]:
    """A Lightning checkpoint of the weights alone: plain tensors and primitives, loads with ``weights_only=True``."""
    checkpoint: dict[str, Any] = {
        "epoch": 0,
        "global_step": 0,
        "pytorch-lightning_version": lightning.pytorch.__version__,
        "state_dict": {name: value.detach().cpu() for name, value in pl_module.state_dict().items()},
        "hyper_parameters": dict(pl_module.hparams),
    }
    pl_module.on_save_checkpoint(checkpoint)
    return checkpoint


def save_slim(pl_module: LightningModule, report: PruningReport, folder: str | Path) -> Path:
    """Writes ``slim.ckpt``, ``plan.yaml`` and ``pruning.yaml`` (the report with its layer table) into a folder.

    Each file appears whole or not at all.

    Returns:
        The path of the checkpoint.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    report.plan.save(folder / "plan.yaml")
    _write(folder / "pruning.yaml", yaml.safe_dump(report.to_dict(), sort_keys=False).encode())
    temporary = folder / f".slim.{os.getpid()}.ckpt"
    try:
        torch.save(slim_checkpoint(pl_module), temporary)
        os.replace(temporary, folder / "slim.ckpt")
    finally:
        temporary.unlink(missing_ok=True)
    return folder / "slim.ckpt"


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class ChannelPruning(Callback):
    """Prunes the module when a fit has ended, and saves it.

    What is pruned are the weights that would be deployed: the average where an averaging callback keeps one. The
    module is ready for the next ``fit`` of a new optimizer, and ``dirpath`` holds ``slim.ckpt``, the plan and the
    report. Every rank does the same surgery; rank 0 writes.

    Args:
        ratio: Share of the prunable channels to remove, in [0, 1).
        min_channels: Channels that every layer keeps, at least 1.
        shortcuts: ``couple`` prunes residual channels together, ``spare`` leaves them alone.
        ignore: Patterns of module names (``fnmatch``) that are left alone.
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
        target: str | None = None,
        dirpath: str | None = None,
    ) -> None:
        try:
            self.selection = Selection(
                ratio=ratio, min_channels=min_channels, shortcuts=shortcuts, ignore=tuple(ignore)
            )
        except ValueError as error:
            raise MisconfigurationException(str(error)) from error
        self.target = target
        self.dirpath = dirpath
        self.report: PruningReport | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finds out before the fit, not after it, whether the prune can be done."""
        self.report = None
        try:
            trace_target(pl_module, self.target).prunable_gammas(self.selection.shortcuts, self.selection.ignore)
        except ValueError as error:
            raise MisconfigurationException(str(error)) from error

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prunes; averaging callbacks have put their weights into the module by now."""
        if trainer.interrupted:
            rank_zero_info("ChannelPruning: the fit was interrupted, nothing is pruned.")
            return
        self.report = prune_module(pl_module, self.selection, self.target)
        before, after = self.report.parameters_before, self.report.parameters_after
        message = f"ChannelPruning: {self.report.reached:.1%} of the prunable channels removed"
        message += f" ({self.selection.ratio:.1%} asked), {before / 1e6:.3f} M -> {after / 1e6:.3f} M parameters"
        if trainer.is_global_zero:
            path = save_slim(pl_module, self.report, self.dirpath or trainer.default_root_dir)
            message += f"; saved {path}"
        rank_zero_info(message + ".")
        trainer.strategy.barrier("ChannelPruning")
