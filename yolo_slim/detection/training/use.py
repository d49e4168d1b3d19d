"""What a detector is used for: validation, test, prediction."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from yolo_slim.detection.training.losses import DetectorLosses
from yolo_slim.detection.training.metrics import ClassScores, DetectionScores
from yolo_slim.detection.training.suppression import Suppression, beside_labels
from yolo_slim.detection.training.ultralytics_scores import UltralyticsScores


class DetectorUse(DetectorLosses):
    """A network's boxes, and their scores beside the labels.

    Attributes:
        nms: Which of the boxes count.
        scores: Collects what is found and what is labelled.
        class_scores: After a validation or a test: by index, the scores of the classes that occur there.
    """

    nms: Suppression
    scores: DetectionScores | UltralyticsScores
    class_scores: dict[int, ClassScores]

    def forward(self, images: Tensor) -> Tensor:
        """Decoded boxes and class scores of images (B, 3, H, W) in [0, 1]: (B, 4 + nc, anchors), boxes in pixels.

        Of an end-to-end head (B, n, 6): x1, y1, x2, y2, score, class of at most 300 boxes.
        """
        outputs = self.outputs(images)
        return outputs[0] if isinstance(outputs, tuple) else outputs

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Loss and detections of a batch."""
        outputs = self.outputs(batch["img"])
        _, items, _ = self._loss(outputs, batch)
        self.log_dict({f"val/{k}": v for k, v in items.items()}, batch_size=len(batch["img"]), sync_dist=True)
        self.scores.update(*beside_labels(self.nms.judged(outputs[0]), batch))

    def on_validation_epoch_end(self) -> None:
        """Logs ``val/precision``, ``val/recall``, ``val/map50`` and ``val/map``."""
        self._log_scores("val")

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Detections of a batch."""
        self.scores.update(*beside_labels(self.nms.judged(self(batch["img"])), batch))

    def on_test_epoch_end(self) -> None:
        """Logs ``test/precision``, ``test/recall``, ``test/map50`` and ``test/map``."""
        self._log_scores("test")

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> list[Tensor]:
        """Detections per image, (n, 6) each: x1, y1, x2, y2 in pixels of the network's input, score, class."""
        return self.nms.boxes(self(batch["img"]))

    @torch.no_grad()
    def detect(self, images: Tensor, confidence: float | None = None, iou: float | None = None) -> list[Tensor]:
        """Boxes of images (B, 3, H, W) in [0, 1], as :meth:`predict_step` gives them.

        Args:
            images: The images.
            confidence: Lowest score; by default that of ``nms``, or 0.25.
            iou: Overlap above which the lower of two boxes of a class goes; by default that of ``nms``.
        """
        conf = self.nms.conf if confidence is None else confidence
        return replace(self.nms, conf=conf, iou=self.nms.iou if iou is None else iou).boxes(self(images))

    def _log_scores(self, split: str) -> None:
        overall, self.class_scores = self.scores.evaluate()
        for name, value in overall.items():
            self.log(f"{split}/{name}", value, prog_bar=name == "map", sync_dist=True)
        self.scores.reset()
