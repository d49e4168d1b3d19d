"""Ultralytics' loss of a batch, before it is divided by the batch's target scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

HALVES = (torch.float16, torch.bfloat16)


class DetectionLoss:
    """The loss of a network, in single precision where the network computes in half precision.

    An end-to-end head has one loss for each of its two pairs of branches. The first counts most when a fit begins, the
    second, which is the one in use, when it ends.

    Args:
        net: The network.
    """

    def __init__(self, net: nn.Module) -> None:
        self._net = net
        self._criterion: Any = None
        self._pairs: list[Any] = []
        self._target_scores: dict[Any, Tensor] = {}
        self._class_weights: Tensor | None = None
        self._progress = (0, 1)

    def start_epoch(self, epoch: int, epochs: int) -> None:
        """Shifts the weight between the two losses of an end-to-end head, by the epoch and the epochs of the fit."""
        self._progress = (epoch, epochs)
        if len(self._pairs) > 1:
            criterion = self._criterion
            criterion.one2one.hyp.epochs = epochs
            criterion.o2m = criterion.decay(epoch)
            criterion.o2o = max(criterion.total - criterion.o2m, 0)

    def weigh_classes(self, weights: Sequence[float]) -> None:
        """Multiplies the loss of each class by a weight."""
        self._class_weights = torch.tensor(weights, dtype=torch.float32)
        self._pairs = []  # the criterion is made anew

    def __call__(self, outputs: Any, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """The loss of what the network has given for a batch.

        Args:
            outputs: What the network gave, in either mode.
            batch: Its labels.

        Returns:
            Ultralytics' three losses times the images, (1, 3), or (2, 3) for the two pairs of branches of an end-to-end
            head; those of the pair in use by their names for logging; and for each pair the sum of the target scores,
            by which its losses have been divided.
        """
        with single_precision():
            device = next(self._net.parameters()).device
            if not self._pairs or self._pairs[0].device != device:
                self._make()
            wide = widened(outputs)
            if len(self._pairs) == 1:
                loss, items = self._criterion(wide, batch)
                losses = loss[None]
            else:
                raw = self._pairs[0].parse_output(wide)
                (first, _), (second, items) = (
                    pair.loss(raw[name], batch) for pair, name in zip(self._pairs, ("one2many", "one2one"), strict=True)
                )
                losses = torch.stack((first * self._criterion.o2m, second * self._criterion.o2o))
        return losses, items, torch.stack([self._target_scores[pair.assigner] for pair in self._pairs])

    def _make(self) -> None:
        with torch.inference_mode(False):  # a fit may follow the validation that makes it
            self._criterion = criterion = self._net.init_criterion()  # type: ignore[operator]
        self._pairs = [criterion.one2many, criterion.one2one] if hasattr(criterion, "one2one") else [criterion]
        self._target_scores.clear()
        for pair in self._pairs:
            pair.assigner.register_forward_hook(self._keep_target_scores)
            if self._class_weights is not None:
                pair.class_weights = self._class_weights.to(pair.device).view(1, 1, -1)
        self.start_epoch(*self._progress)

    def _keep_target_scores(self, assigner: nn.Module, inputs: object, outputs: tuple[Tensor, ...]) -> None:
        # (labels, boxes, scores, foreground, indices); the loss divides by this very sum, or by 1 if that is more.
        self._target_scores[assigner] = outputs[2].sum()


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


def set_loss_gains(net: Any, box: float, cls: float, dfl: float) -> None:
    """Tells the network's loss its gains; Ultralytics reads them as attributes of ``net.args``."""
    net.args = SimpleNamespace(box=box, cls=cls, dfl=dfl)
