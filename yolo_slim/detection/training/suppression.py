"""From a network's answers to boxes, and boxes beside the labels that they are judged by."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from ultralytics.utils.nms import non_max_suppression

Boxes = list[dict[str, Tensor]]


def suppress(predictions: Tensor, confidence: float, iou: float, multi_label: bool) -> list[Tensor]:
    """Boxes after non-maximum suppression, at most 300 per image.

    Args:
        predictions: Boxes and class scores, (B, 4 + nc, anchors); boxes as centre and size in pixels. Or the boxes of
            an end-to-end head, (B, n, 6), which need no suppression.
        confidence: Lowest score, in [0, 1].
        iou: Overlap in [0, 1] above which the lower box of a class goes.
        multi_label: Whether an anchor may give a box of each class; so Ultralytics validates, but it predicts the best.

    Returns:
        Per image (n, 6): x1, y1, x2, y2 in pixels, score, class.
    """
    return non_max_suppression(
        predictions.float(), confidence, iou, multi_label=multi_label, max_det=300, max_time_img=math.inf
    )


def beside_labels(predictions: Tensor, batch: dict[str, Any]) -> tuple[Boxes, Boxes]:
    """What a network finds in a batch and what is labelled there, as :class:`DetectionScores` takes it.

    Labels are sorted into images on the CPU, in one go: on a GPU each image would have to be waited for.
    """
    detections = suppress(predictions, confidence=0.001, iou=0.7, multi_label=True)  # as Ultralytics validates
    height, width = batch["img"].shape[2:]
    rows = torch.cat([batch[name].reshape(len(batch["cls"]), -1) for name in ("batch_idx", "cls", "bboxes")], 1).cpu()
    boxes = rows[:, 2:] * rows.new_tensor([width, height, width, height])
    corners = torch.cat((boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2), 1)
    targets = []
    for image in range(len(detections)):
        mine = rows[:, 0] == image
        targets.append({"boxes": corners[mine], "labels": rows[mine, 1].long()})
    boxes_found = [{"boxes": d[:, :4], "scores": d[:, 4], "labels": d[:, 5].long()} for d in detections]
    return boxes_found, targets
