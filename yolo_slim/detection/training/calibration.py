"""What a prune can learn from images: gradients for its importance, BatchNorm statistics afterwards."""

from __future__ import annotations

from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from yolo_slim.detection.data.augmentation import UNCHANGED
from yolo_slim.detection.data.datamodule import YOLODataModule
from yolo_slim.detection.training.detector import YOLODetector
from yolo_slim.pruning import ChannelGraph, Taylor, restored, train_but_statistics


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
    if count < 1:
        raise ValueError(f"batches={count}: expected at least 1 batch of training images")
    still = data.fresh(imgsz=data.imgsz, workers=0, cache="none", augment=UNCHANGED)
    still.prepare_data()
    still.setup("fit")
    return [still.on_after_batch_transfer(batch, 0) for batch in islice(still.train_dataloader(), count)]


def relabelled(batches: list[dict[str, Any]], indices: list[int]) -> list[dict[str, Any]]:
    """Batches whose classes have other indices: ``indices`` gives the new one of each."""
    new = torch.tensor(indices)
    return [{**batch, "cls": new[batch["cls"].long()].to(batch["cls"].dtype)} for batch in batches]


def observe_gradients(detector: YOLODetector, graph: ChannelGraph, batches: list[dict[str, Any]]) -> Taylor:
    """Taylor importance of a detector's channels, from the gradients of its loss on some batches.

    BatchNorm uses its running statistics; the detector comes back as it was, without gradients.
    """
    net = detector.net
    taylor = Taylor(net, graph)
    with restored(detector):
        train_but_statistics(net)
        for batch in batches:
            net.zero_grad(set_to_none=True)
            detector.loss(to_device(batch, net)).backward()
            taylor.observe()
    net.zero_grad(set_to_none=True)
    return taylor


def to_device(batch: dict[str, Any], net: nn.Module) -> dict[str, Any]:
    """A batch with its tensors on the device of the network."""
    device = next(net.parameters()).device
    return {key: value.to(device) if isinstance(value, Tensor) else value for key, value in batch.items()}
