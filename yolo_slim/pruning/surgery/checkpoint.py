"""Lightning checkpoints of networks whose sizes have changed: what they carry, and how they are written."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from yolo_slim.files import write_whole
from yolo_slim.pruning.surgery.structure import Structure, apply_structure

#: Where a Lightning checkpoint carries the structure.
STRUCTURE_KEY = "yolo_slim_structure"


def store_structure(module: Any, structure: Structure) -> None:
    """Has the checkpoints of a LightningModule carry the structure, under a key of its own.

    A module that keeps it in its own way offers a method ``keep_structure(structure)``.

    Raises:
        ValueError: If the module has no ``on_save_checkpoint``.
    """
    own = getattr(module, "keep_structure", None)
    if own is not None:
        own(structure)
        return
    if not hasattr(module, "on_save_checkpoint"):
        raise ValueError(f"{type(module).__name__} has no on_save_checkpoint; pass a LightningModule")
    module.slim_structure = structure
    module.on_save_checkpoint = MethodType(_save_with_structure, module)


def _save_with_structure(module: Any, checkpoint: dict[str, Any]) -> None:
    """What the module's own hook does, and the structure beside it: not among the arguments of its ``__init__``."""
    type(module).on_save_checkpoint(module, checkpoint)  # what stands in its place here belongs to the instance
    checkpoint[STRUCTURE_KEY] = module.slim_structure


def restore_structure(module: Any, checkpoint: Mapping[str, Any], target: nn.Module | None = None) -> None:
    """Gives a module the structure of a checkpoint, if it carries one; for ``LightningModule.on_load_checkpoint``.

    Args:
        module: The LightningModule; keeps the structure for its own checkpoints.
        checkpoint: A Lightning checkpoint.
        target: The module that the structure's names are relative to; default: ``module``.

    Raises:
        ValueError: If the structure does not fit.
    """
    structure = checkpoint.get(STRUCTURE_KEY) or _among_hparams(checkpoint)
    if structure:
        apply_structure(module if target is None else target, structure)
        store_structure(module, structure)


def _among_hparams(checkpoint: Mapping[str, Any]) -> Structure | None:
    """Where earlier versions kept it."""
    structure = (checkpoint.get("hyper_parameters") or {}).get("structure")
    if isinstance(structure, Mapping) and all(isinstance(sizes, Mapping) for sizes in structure.values()):
        return dict(structure)
    return None


def weights_checkpoint(
    state: Mapping[str, Tensor], hyper_parameters: Mapping[str, Any], lightning_version: str
) -> dict[str, Any]:
    """A Lightning checkpoint of weights alone, which ``load_from_checkpoint`` reads and no fit resumes from.

    Args:
        state: Tensors by name; they are copied to the CPU.
        hyper_parameters: Plain data from which the module is built.
        lightning_version: Of the Lightning that will read it first.
    """
    return {
        "epoch": 0,
        "global_step": 0,
        "pytorch-lightning_version": lightning_version,
        "state_dict": {name: value.detach().cpu() for name, value in state.items()},
        "hyper_parameters": dict(hyper_parameters),
    }


def save_whole(content: object, path: str | Path) -> None:
    """Does what ``torch.save`` does, with a file that appears whole or not at all.

    Raises:
        OSError: If it cannot be written; what was there before is unchanged.
    """
    buffer = io.BytesIO()  # torch itself does not survive a full disk
    torch.save(content, buffer)
    write_whole(path, buffer.getvalue())
