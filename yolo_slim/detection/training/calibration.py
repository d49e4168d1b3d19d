"""What a prune can learn from images: gradients for its importance, BatchNorm statistics afterwards."""

from __future__ import annotations

from typing import Any

import torch

from yolo_slim.detection.data.plain import to_device
from yolo_slim.detection.network.fresh_head import expect_trained_head
from yolo_slim.detection.training.detector import YOLODetector
from yolo_slim.pruning import ChannelGraph, Taylor, restored, train_but_statistics


def relabelled(batches: list[dict[str, Any]], indices: list[int]) -> list[dict[str, Any]]:
    """Batches whose classes have other indices: ``indices`` gives the new one of each."""
    new = torch.tensor(indices)
    return [{**batch, "cls": new[batch["cls"].long()].to(batch["cls"].dtype)} for batch in batches]


def observe_gradients(detector: YOLODetector, graph: ChannelGraph, batches: list[dict[str, Any]]) -> Taylor:
    """Taylor importance of a detector's channels, from the gradients of its loss on some batches.

    BatchNorm uses its running statistics; the detector comes back as it was, without gradients.
    """
    net = detector.net
    expect_trained_head(net, "Taylor importance takes gradients of the loss")
    device = next(net.parameters()).device
    taylor = Taylor(net, graph)
    with restored(detector):
        train_but_statistics(net)
        taylor.observe_losses(detector.loss(to_device(batch, device)) for batch in batches)
    net.zero_grad(set_to_none=True)
    return taylor
