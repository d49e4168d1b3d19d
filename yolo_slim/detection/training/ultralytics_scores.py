"""Precision, recall and mAP as `yolo val` computes them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.ops import box_iou
from ultralytics.engine.validator import BaseValidator
from ultralytics.utils.metrics import ap_per_class

from yolo_slim.detection.training.metrics import SCORE_NAMES, ClassScores, Scores, from_all_ranks, nothing_found, on_cpu

#: IoU at and above which a box has found an object: 0.50 to 0.95.
THRESHOLDS = torch.linspace(0.5, 0.95, 10)


class UltralyticsScores(nn.Module):
    """Box mAP over all ranks with Ultralytics' matching and its area under straight lines between points of the curve.

    COCO's, :class:`DetectionScores`, takes the steps of that curve. A detection is matched with the object that
    it overlaps most among those that are left, the best scored first.
    """

    def __init__(self) -> None:
        super().__init__()
        self._matcher: Any = SimpleNamespace(iouv=THRESHOLDS)
        self.reset()

    def update(self, predictions: list[dict[str, Tensor]], targets: list[dict[str, Tensor]]) -> None:
        """Adds images; arguments as of :meth:`DetectionScores.update`, detections by falling score."""
        for found, labelled in zip(on_cpu(predictions), on_cpu(targets), strict=True):
            boxes, scores, labels = found["boxes"], found["scores"], found["labels"]
            objects, classes = labelled["boxes"], labelled["labels"]
            overlap = box_iou(objects.float(), boxes.float())
            hits = BaseValidator.match_predictions(self._matcher, labels, classes, overlap)
            self._images.append((hits.numpy(), scores.numpy(), labels.numpy(), classes.numpy()))

    def compute(self) -> dict[str, float]:
        """Scores of all images of all ranks.

        Returns:
            ``map50`` and ``map`` (mean over IoU 0.50 to 0.95); ``precision`` and ``recall`` at IoU 0.50, at the score
            where F1, averaged over the classes, is best.
        """
        return self.evaluate().overall

    def evaluate(self) -> Scores:
        """Scores of all images of all ranks as :meth:`compute` has them, and of each class."""
        images = [image for rank in from_all_ranks(self._images) for image in rank]
        labels = np.concatenate([image[3] for image in images]) if images else np.zeros(0)
        found = sum(len(image[1]) for image in images)
        if not len(labels) or not found:
            return nothing_found(labels.tolist())
        hits, scores, classes = (np.concatenate([image[part] for image in images]) for part in range(3))
        # Areas under the curves are of shape (classes that occur, IoU thresholds).
        _, _, precision, recall, _, areas, occurring, *_ = ap_per_class(hits, scores, classes, labels)
        values = (precision.mean(), recall.mean(), areas[:, 0].mean(), areas.mean())
        each = map(ClassScores._make, zip(areas[:, 0].tolist(), areas.mean(1).tolist(), strict=True))
        overall = dict(zip(SCORE_NAMES, map(float, values), strict=True))
        return Scores(overall, dict(zip(occurring.tolist(), each, strict=True)))

    def reset(self) -> None:
        """Forgets all images."""
        self._images: list[tuple[np.ndarray, ...]] = []
