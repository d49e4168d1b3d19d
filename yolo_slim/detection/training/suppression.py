"""From a network's answers to boxes, and boxes beside the labels that they are judged by."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from ultralytics.utils.nms import non_max_suppression

Boxes = list[dict[str, Tensor]]


@dataclass(frozen=True)
class Suppression:
    """Which of the boxes count, with the names and defaults of Ultralytics.

    Raises:
        ValueError: If a value is out of range.
    """

    conf: float | None = None
    """Lowest score, in [0, 1]; by default 0.001 in validation and test, and 0.25 where boxes are asked for."""
    iou: float = 0.7
    """Overlap in [0, 1] above which the lower of two boxes of a class goes. End-to-end heads do without."""
    max_det: int = 300
    """Most boxes of an image; the metric counts as many."""
    agnostic_nms: bool = False
    """Whether boxes of other classes go too."""

    def __post_init__(self) -> None:
        """Checks the ranges."""
        for name in ("conf", "iou"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"nms.{name}={value} is out of range; expected a share from 0 to 1")
        if self.max_det < 1:
            raise ValueError(f"nms.max_det={self.max_det} is out of range; expected at least 1 box of an image")

    def judged(self, predictions: Tensor) -> list[Tensor]:
        """Boxes for a metric, see :meth:`boxes`; an anchor may give one of each class, as for Ultralytics' metric."""
        return self.boxes(predictions, 0.001, multi_label=True)

    def boxes(self, predictions: Tensor, conf: float = 0.25, multi_label: bool = False) -> list[Tensor]:
        """Boxes after non-maximum suppression.

        Args:
            predictions: Boxes and class scores, (B, 4 + nc, anchors); boxes as centre and size in pixels. Or the boxes
                of an end-to-end head, (B, n, 6), which need no suppression.
            conf: Lowest score where none is set.
            multi_label: Whether an anchor may give a box of each class, not of the best alone.

        Returns:
            Per image (n, 6): x1, y1, x2, y2 in pixels, score, class; best first.
        """
        return non_max_suppression(
            predictions.float(),
            conf if self.conf is None else self.conf,
            self.iou,
            agnostic=self.agnostic_nms,
            multi_label=multi_label,
            max_det=self.max_det,
            max_time_img=math.inf,
        )


DEFAULT_SUPPRESSION = Suppression()


def beside_labels(detections: list[Tensor], batch: dict[str, Any]) -> tuple[Boxes, Boxes]:
    """What was found in a batch and what is labelled there, as :class:`DetectionScores` takes it.

    Labels are sorted into images on the CPU, in one go: on a GPU each image would have to be waited for.
    """
    height, width = batch["img"].shape[2:]
    columns = (batch["batch_idx"].view(-1, 1), batch["cls"].view(-1, 1), batch["bboxes"].view(-1, 4))
    rows = torch.cat(columns, 1).cpu()
    boxes = rows[:, 2:] * rows.new_tensor([width, height, width, height])
    corners = torch.cat((boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2), 1)
    targets = []
    for image in range(len(detections)):
        mine = rows[:, 0] == image
        targets.append({"boxes": corners[mine], "labels": rows[mine, 1].long()})
    boxes_found = [{"boxes": d[:, :4], "scores": d[:, 4], "labels": d[:, 5].long()} for d in detections]
    return boxes_found, targets
