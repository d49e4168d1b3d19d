"""Training images as a detector meets them when it is used: whole, letterboxed, without augmentation."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from yolo_slim.detection.data.augmentation import UNCHANGED
from yolo_slim.detection.data.datamodule import YOLODataModule


def training_batches(data: YOLODataModule, count: int) -> list[dict[str, Any]]:
    """Batches of training images without augmentation, drawn by the data module's seed.

    Args:
        data: Where the images come from; it is not changed.
        count: Number of batches, fewer where the data has fewer.

    Returns:
        Batches of the data module with images (B, 3, imgsz, imgsz) in [0, 1].

    Raises:
        ValueError: If ``count`` is below 1, or the data is malformed.
    """
    return list(each_training_batch(data, count))


def each_training_batch(data: YOLODataModule, count: int = 16) -> Iterator[dict[str, Any]]:
    """The same batches, one after the other, so that no more than one is in memory."""
    if count < 1:
        raise ValueError(f"batches={count}: expected at least 1 batch of training images")
    still = data.fresh(imgsz=data.imgsz, workers=0, cache="none", augment=UNCHANGED)
    still.announces = False
    still.prepare_data()
    still.setup("fit")
    for batch in islice(still.train_dataloader(), count):
        yield still.on_after_batch_transfer(batch, 0)


def to_device(batch: dict[str, Any], device: torch.device, kind: torch.dtype | None = None) -> dict[str, Any]:
    """A batch with its tensors on a device, and its images of another type where one is given."""
    moved = {key: value.to(device) if isinstance(value, Tensor) else value for key, value in batch.items()}
    return moved if kind is None else moved | {"img": moved["img"].to(kind)}
