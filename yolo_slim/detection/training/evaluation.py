"""A detector's loss and scores on images that are held in memory, without a Trainer: to look at it many times."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import nn

from yolo_slim.detection.data.datamodule import YOLODataModule
from yolo_slim.detection.data.evaluation_batches import HeldImages
from yolo_slim.detection.network.classes import match_classes
from yolo_slim.detection.network.fresh_head import expect_trained_head
from yolo_slim.detection.training.calibration import relabelled
from yolo_slim.detection.training.detector import YOLODetector
from yolo_slim.detection.training.suppression import beside_labels
from yolo_slim.pruning import recalibrate, restored

#: What is measured: the loss alone, mAP alone, or both.
Metric = Literal["loss", "map", "both"]


class Evaluation:
    """Measures the network of a detector as it is then, always on the same images.

    Args:
        detector: The detector.
        data: Where the images come from.
        split: "train", "val" or "test".
        images: How many at most.
        metric: "loss", "map" or "both"; mAP takes two to three times as long.
        statistics: Whether BatchNorm's statistics are measured anew on the images each time; the network's own come
            back.

    Attributes:
        files: The images.
        image_losses: Per batch its loss, summed over its images, and how many these are; of the last measurement.

    Raises:
        ValueError: If an argument is unknown, or the detector does not know the classes of the data.
    """

    def __init__(
        self,
        detector: YOLODetector,
        data: YOLODataModule,
        split: str = "train",
        images: int = 128,
        metric: Metric = "loss",
        statistics: bool = False,
    ) -> None:
        if metric not in get_args(Metric):
            raise ValueError(f"metric={metric!r}: expected one of {', '.join(get_args(Metric))}")
        expect_trained_head(detector.net, "a measurement of the loss or mAP")
        held = HeldImages(data, split, images)
        known = match_classes(detector.hparams["names"], data.names or {})
        held.batches = relabelled(held.batches, known.indices("the model"))
        self.files, self.image_losses = held.files, [(0.0, 0)]
        self._detector, self._held, self._metric, self._statistics = detector, held, metric, statistics

    @torch.no_grad()
    def __call__(self, network: nn.Module) -> Mapping[str, float]:
        """Measures the detector's network, which ``network`` is.

        Returns:
            "loss" per image; "precision", "recall", "map50", "map" in [0, 1], "nms_ms" per image, and "map of NAME" for
            every class that is labelled. Which of them ``metric`` says.
        """
        detector, device = self._detector, next(network.parameters()).device
        figures: dict[str, float] = {}
        suppression, losses = 0.0, []
        with restored(detector):
            if self._statistics:
                recalibrate(network, self._held.each(device), lambda batch: batch["img"])
            network.eval()
            detector.scores.reset()
            for batch in self._held.each(device):
                outputs = detector.outputs(batch["img"])
                if self._metric != "map":
                    losses.append((detector.loss_of(outputs, batch), len(batch["img"])))
                if self._metric != "loss":
                    started = time.perf_counter()
                    boxes = detector.nms.judged(outputs[0])
                    suppression += time.perf_counter() - started
                    detector.scores.update(*beside_labels(boxes, batch))
        if losses:
            self.image_losses = [(float(loss), images) for loss, images in losses]
            figures["loss"] = sum(loss for loss, _ in self.image_losses) / len(self.files)
        if self._metric != "loss":
            overall, classes = detector.scores.evaluate()
            names = detector.hparams["names"]
            figures |= overall | {"nms_ms": 1000 * suppression / len(self.files)}
            figures |= {f"map of {names[index]}": scores.map for index, scores in classes.items()}
            detector.scores.reset()
        return figures

    def spread(self) -> float:
        """How far the loss of three disjoint thirds of the batches of the last measurement lie apart, relative to it.

        Batches are dealt out in turn; of fewer than three batches it is 0.
        """
        thirds = [self.image_losses[first::3] for first in range(3)]
        if not all(sum(images for _, images in third) for third in thirds):
            return 0.0
        means = [sum(loss for loss, _ in third) / sum(images for _, images in third) for third in thirds]
        return (max(means) - min(means)) / max(abs(sum(means) / 3), 1e-12)
