"""YOLOv8 as Ultralytics builds it, and the ways in which it is run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from ultralytics.nn.tasks import DetectionModel

from tests.helpers.toy_nets import randomised


def yolo(name: str = "yolov8n", seed: int = 0) -> nn.Module:
    """A double-precision model with random weights and BatchNorm statistics."""
    torch.manual_seed(seed)
    return randomised(DetectionModel(f"{name}.yaml", verbose=False), seed)


def yolo_passes(size: int = 64, dtype: torch.dtype = torch.float64) -> list[Callable[[nn.Module], Any]]:
    """Eval, train, and the exporter's way with ``forward_split``; the raw outputs count, not the feature maps."""
    images = torch.rand(1, 3, size, size, dtype=dtype)

    def raw(outputs: Any) -> Any:
        raw = outputs if isinstance(outputs, dict) else outputs[1]
        return raw["boxes"], raw["scores"]

    def evaluate(model: nn.Module) -> Any:
        model.eval()
        model.model[-1].shape = None
        return raw(model(images))

    def train(model: nn.Module) -> Any:
        model.train()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return raw(model(images))

    def export(model: nn.Module) -> Any:
        for module in model.modules():
            if hasattr(module, "forward_split"):
                module.forward = module.forward_split
        return evaluate(model)

    return [evaluate, train, export]
