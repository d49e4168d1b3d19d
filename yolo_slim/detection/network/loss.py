"""Ultralytics' loss of a batch, before it is divided by the batch's target scores."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

HALVES = (torch.float16, torch.bfloat16)


class DetectionLoss:
    """The loss of a network, in single precision where the network computes in half precision.

    Args:
        net: The network.
    """

    def __init__(self, net: nn.Module) -> None:
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

    def _keep_target_scores(self, assigner: object, inputs: object, outputs: tuple[Tensor, ...]) -> None:
        # (labels, boxes, scores, foreground, indices); the loss divides by this very sum, or by 1 if that is more.
        self._target_scores = outputs[2].sum()


def widened(value: object) -> Any:
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


def make_loss(net: Any) -> Any:
    """The network's loss by Ultralytics, with gains as :func:`set_loss_gains` said.

    Raises:
        ValueError: If the head is an end-to-end one, whose loss is of another kind.
    """
    with torch.inference_mode(False):  # a fit may follow the validation that makes it
        loss = net.init_criterion()
    if not hasattr(loss, "assigner"):
        raise ValueError("the network has an end-to-end head (YOLO26), which cannot be trained here; take YOLOv8 to 12")
    return loss


def set_loss_gains(net: Any, box: float, cls: float, dfl: float) -> None:
    """Tells the network's loss its gains; Ultralytics reads them as attributes of ``net.args``."""
    net.args = SimpleNamespace(box=box, cls=cls, dfl=dfl)
