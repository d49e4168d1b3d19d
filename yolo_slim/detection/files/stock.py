"""Writing detectors for stock Ultralytics: a ``.pt`` file that opens where yolo_slim is not installed."""

from __future__ import annotations

import copy
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn
from ultralytics import __version__
from ultralytics.nn.tasks import DetectionModel

from yolo_slim.detection.network.build import head_of, not_finite
from yolo_slim.detection.network.fresh_head import expect_trained_head
from yolo_slim.pruning import save_whole

#: Attributes of a network that training and reading leave behind: its loss, and paths on this machine.
_LEFTOVERS = ("criterion", "pt_path", "class_weights")


def save_ultralytics(net: DetectionModel, path: str | Path, imgsz: int, half: bool = True, fused: bool = False) -> None:
    """Writes a network as an Ultralytics ``.pt`` file of stock classes, whatever its structure.

    ``yolo val|predict|track|export model=...`` and ``YOLO(path)`` open it. Stock ``yolo train`` would rebuild the full
    model from its YAML; :class:`yolo_slim.detection.SlimTrainer` keeps the structure.

    Args:
        net: The network; stays as it is.
        path: The file; appears whole or not at all.
        imgsz: Image size that it was trained with, in pixels; Ultralytics' default for this file.
        half: Write half precision, as Ultralytics does, at half the size; otherwise float32.
        fused: Fold BatchNorm into the convolutions. Such a network can be used and exported, not trained or pruned.

    Raises:
        ValueError: If a weight is not finite, or too large for half precision, or the head has not been trained.
    """
    path = Path(path)
    expect_trained_head(net, f"a file for Ultralytics ({path})")
    copied: Any = copy.deepcopy(net).cpu().float().eval().requires_grad_(False)
    for name in _LEFTOVERS:
        if hasattr(copied, name):
            delattr(copied, name)
    copied.criterion = None  # Ultralytics' trainer looks for it
    head = head_of(copied)
    head.shape, head.anchors, head.strides = None, torch.empty(0), torch.empty(0)  # of the last image size
    if fused:
        copied.fuse(verbose=False)
    if half:
        copied.half()
    _expect_finite(copied, path, half)
    copied.args = {"task": "detect", "imgsz": imgsz}
    content = {
        "epoch": -1,  # not one to resume from
        "model": copied,
        "ema": None,
        "optimizer": None,
        "train_args": dict(copied.args),
        "date": datetime.now().astimezone().isoformat(),
        "version": __version__,
    }
    save_whole(content, path)


def _expect_finite(net: nn.Module, path: Path, half: bool) -> None:
    for name in not_finite(net.state_dict()):
        why = "half precision ends at 65504, write full precision" if half else "the training has diverged"
        raise ValueError(f"{path} is not written: {name} holds values that are not finite ({why})")
