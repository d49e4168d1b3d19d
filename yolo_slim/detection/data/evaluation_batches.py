"""Some images of a split as a detector meets them, held in memory to be looked at many times."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Subset

from yolo_slim.detection.data.augmentation import UNCHANGED
from yolo_slim.detection.data.datamodule import YOLODataModule
from yolo_slim.detection.data.images import collate_labelled, in_precision
from yolo_slim.detection.data.plain import to_device

STAGES = {"train": "fit", "val": "validate", "test": "test"}


class HeldImages:
    """Labelled images of a split without augmentation, as bytes in memory.

    Args:
        data: Where they come from; it is not changed.
        split: "train", "val" or "test".
        images: How many at most, drawn over the whole split, the same each time.

    Attributes:
        files: Their paths.
        batches: Batches as the data module collates them, with images (B, 3, imgsz, imgsz) uint8; at least six where
            there are as many images.

    Raises:
        ValueError: If the split is unknown, fewer than one image is asked for, or the data is malformed.
    """

    def __init__(self, data: YOLODataModule, split: str, images: int) -> None:
        if split not in STAGES:
            raise ValueError(f"split={split!r}: expected one of {', '.join(STAGES)}")
        if images < 1:
            raise ValueError(f"images={images}: expected at least 1")
        still = data.fresh(imgsz=data.imgsz, workers=0, cache="none", augment=UNCHANGED, rect=False)
        still.announces = False
        still.prepare_data()
        still.setup(STAGES[split])
        found = still.datasets[split]
        order = np.random.default_rng(0).permutation(len(found))[:images]
        chosen = sorted(int(index) for index in order)
        self.files = [str(found.im_files[index]) for index in chosen]
        subset: Dataset[Any] = Subset(found, chosen)
        self.batches: list[dict[str, Any]] = list(
            DataLoader(subset, batch_size=max(1, min(data.batch, len(chosen) // 6)), collate_fn=collate_labelled)
        )

    def __len__(self) -> int:
        """The number of images."""
        return len(self.files)

    def each(self, device: torch.device, kind: torch.dtype = torch.float32) -> Iterator[dict[str, Any]]:
        """The batches, one after the other, on a device with images in [0, 1] of a type."""
        for batch in self.batches:
            yield in_precision(to_device(batch, device), kind)
