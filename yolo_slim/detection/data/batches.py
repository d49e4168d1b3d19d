"""Batches of images and labels, exact in every precision of a fit."""

from __future__ import annotations

from typing import Any

import torch
from ultralytics.data.dataset import YOLODataset

from yolo_slim.detection.network.loss import HALVES

#: Key of the labels as arrays, which Lightning does not convert.
_EXACT = "exact"


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Makes a batch as Ultralytics does, with the labels once more as arrays.

    Lightning's true half precision rounds every tensor of a batch: a box by a pixel or more, a class above 256 to
    another one.
    """
    batch: dict[str, Any] = YOLODataset.collate_fn(samples)
    return batch | {_EXACT: {name: batch[name].numpy() for name in ("cls", "bboxes", "batch_idx")}}


def in_precision(batch: dict[str, Any], kind: torch.dtype) -> dict[str, Any]:
    """A batch on its device with images (B, 3, H, W) uint8 turned into [0, 1] of a type, and labels that are exact."""
    for name, exact in batch.pop(_EXACT, {}).items():
        if batch[name].dtype in HALVES:
            batch[name] = torch.from_numpy(exact).to(batch[name].device)
    batch["img"] = batch["img"].to(kind) / 255
    return batch
