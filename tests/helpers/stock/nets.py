"""A detector a quarter as wide as YOLOv8n, which learns a few images by heart in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn
from ultralytics.nn.tasks import yaml_model_load

from yolo_slim.callbacks.slim_checkpoint import prune_module
from yolo_slim.detection.data.datamodule import YOLODataModule
from yolo_slim.detection.training.detector import YOLODetector
from yolo_slim.pruning import Importance, Selection


def narrow_yaml() -> dict[str, Any]:
    """YOLOv8 at half the width of its smallest size."""
    config = yaml_model_load("yolov8n.yaml")
    config["scales"] = {"n": [0.33, 0.125, 1024]}
    return config


def by_heart_data(data: Path) -> Path:
    """A data YAML beside the given one whose validation images are the training images."""
    content = yaml.safe_load(data.read_text(encoding="utf-8"))
    content |= {"path": str(data.parent), "val": content["train"]}
    content.pop("test", None)
    file = data.with_name("by_heart.yaml")
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    return file


def all_images(data: Path, imgsz: int = 64) -> dict[str, Any]:
    """The validation images of a data YAML as one batch in [0, 1]."""
    module = YOLODataModule(str(data), imgsz=imgsz, batch=100, workers=0)
    module.setup("validate")
    return module.on_after_batch_transfer(next(iter(module.val_dataloader())), 0)


def learn(detector: YOLODetector, batch: dict[str, Any], steps: int) -> None:
    """Trains on one batch; quick statistics and not too rare objects make this take seconds."""
    for module in detector.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1
    optimizer = torch.optim.AdamW(detector.net.parameters(), lr=0.01)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, steps)
    detector.train()
    for _ in range(steps):
        optimizer.zero_grad()
        detector.loss(batch).backward()
        nn.utils.clip_grad_norm_(detector.parameters(), 10.0)
        optimizer.step()
        rates.step()
    detector.eval()


def new_detector(names: dict[int, str], imgsz: int = 64) -> YOLODetector:
    """An untrained narrow detector that expects an object at an anchor in eight."""
    torch.manual_seed(0)
    detector = YOLODetector(narrow_yaml(), names=names, imgsz=imgsz)
    for branch in detector.net.model[-1].cv3:
        nn.init.constant_(branch[-1].bias, -2.0)
    return detector


def halve(detector: YOLODetector) -> None:
    """Removes half of the channels, those with the smallest filters."""
    prune_module(detector, Selection(ratio=0.5), importance=Importance("l1"))


def slim_with_statistics(names: dict[int, str]) -> nn.Module:
    """A slim network with statistics of its own."""
    detector = new_detector(names)
    halve(detector)
    generator = torch.Generator().manual_seed(1)
    for module in detector.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    return detector.net
