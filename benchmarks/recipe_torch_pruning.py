"""Torch-Pruning on a detector of ours, for the arm of the study that uses it."""

from __future__ import annotations

import torch

from benchmarks.pruning_models import images, output_layers, split_chunks
from yolo_slim.detection import TRACE_SIZE, YOLODataModule, YOLODetector, raw_outputs, training_batches
from yolo_slim.pruning import profile

#: Into how many steps the way to no channels at all is divided.
STEPS = 200


def prune_by_torch_pruning(detector: YOLODetector, data: YOLODataModule, flops: float) -> None:
    """Prunes to a budget by group Taylor over the whole network, from the gradients of plain training images.

    It has no budgets, so the network is pruned in small steps until the budget holds. C2f is rewritten, as its
    documentation asks for.

    Args:
        detector: Pruned in place.
        data: Training images.
        flops: The budget.

    Raises:
        RuntimeError: If Torch-Pruning is not installed.
    """
    try:
        import torch_pruning
    except ImportError:
        raise RuntimeError("this arm needs Torch-Pruning: pip install --no-deps torch-pruning==1.6.1") from None
    net = detector.net
    split_chunks(net)
    pruner = torch_pruning.pruner.BasePruner(
        net.eval(),
        images(TRACE_SIZE),
        importance=torch_pruning.importance.GroupTaylorImportance(normalizer=None),
        global_pruning=True,
        pruning_ratio=1.0,
        iterative_steps=STEPS,
        ignored_layers=output_layers(net),
        forward_fn=raw_outputs,
    )
    net.requires_grad_(True)
    for batch in training_batches(data, 16):
        detector.loss(batch).backward()
    with torch.no_grad():
        while profile(net, detector.pruning_example).flops > flops:
            pruner.step()
    net.zero_grad()
