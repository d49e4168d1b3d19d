"""Ultralytics' loss of a batch, before it is divided by the batch's target scores."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from yolo_slim.detection.network.build import make_loss

HALVES = (torch.float16, torch.bfloat16)


class DetectionLoss:
    """The loss of a network, in single precision where the network computes in half precision.

    Args:
        net: The network.
    """

    def __init__(self, net: Any) -> None:
        self._net = net
        self._criterion: Any = None
        self._target_scores: Tensor | None = None

    def __call__(self, outputs: Any, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """The loss of what the network has given for a batch.

        Args:
            outputs: What the network gave, in either mode.
            batch: Its labels.

        Returns:
            Ultralytics' three losses times the images (3,), the same by their names for logging, and the sum of the
            target scores, by which the loss has been divided.
        """
        with single_precision():
            device = next(self._net.parameters()).device
            if self._criterion is None or self._criterion.device != device:
                self._criterion = make_loss(self._net)
                self._criterion.assigner.register_forward_hook(self._keep_target_scores)
            loss, items = self._criterion(widened(outputs), batch)
        assert self._target_scores is not None, "the assigner was not called"
        return loss, items, self._target_scores

    def _keep_target_scores(self, assigner: Any, inputs: Any, outputs: tuple[Tensor, ...]) -> None:
        # (labels, boxes, scores, foreground, indices); the loss divides by this very sum, or by 1 if that is more.
        self._target_scores = outputs[2].sum()


def widened(value: Any) -> Any:
    """A nest of tensors with those of half precision in single precision."""
    if isinstance(value, Tensor):
        return value.float() if value.dtype in HALVES else value
    if isinstance(value, dict):
        return {key: widened(item) for key, item in value.items()}
    return type(value)(widened(item) for item in value) if isinstance(value, (list, tuple)) else value


@contextmanager
def single_precision() -> Iterator[None]:
    """Has new tensors made in single precision where Lightning's true half precision made that the default."""
    default = torch.get_default_dtype()
    if default not in HALVES:
        yield
        return
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(default)
