"""Boxes and scores to precision, recall and mAP, equal for any number of processes."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.distributed
from torch import Tensor, nn
from torchmetrics.detection import MeanAveragePrecision

#: The values are the same; the faster one takes about a quarter of the time.
BACKEND: Literal["faster_coco_eval", "pycocotools"] = (
    "faster_coco_eval" if find_spec("faster_coco_eval") else "pycocotools"
)
#: What :meth:`DetectionScores.compute` returns, each in [0, 1].
SCORE_NAMES = ("precision", "recall", "map50", "map")


class ClassScores(NamedTuple):
    """What is found of one class, each in [0, 1]."""

    map50: float
    map: float


class Scores(NamedTuple):
    """What is found, of all classes and of each.

    Attributes:
        overall: By :data:`SCORE_NAMES`, means over the classes that occur.
        classes: By rising index the classes that occur, which are those with a label.
    """

    overall: dict[str, float]
    classes: dict[int, ClassScores]


def nothing_found(labels: list[int]) -> Scores:
    """The scores where there are no boxes, or no labels.

    Args:
        labels: The classes that are labelled.
    """
    return Scores(dict.fromkeys(SCORE_NAMES, 0.0), {label: ClassScores(0.0, 0.0) for label in sorted(set(labels))})


class DetectionScores(nn.Module):
    """COCO's box mAP over all ranks, with precision and recall at the best F1.

    TorchMetrics' own synchronisation needs shards of equal length; here the lists of all ranks are gathered as objects,
    so that no image has to be counted twice to fill a shard up.

    Args:
        max_detections: Detections per image that count, the best scored first.
    """

    def __init__(self, max_detections: int = 300) -> None:
        super().__init__()
        # A plain list keeps the metric's states out of the module's buffers and device moves.
        self._metric = [
            MeanAveragePrecision(
                box_format="xyxy",
                iou_type="bbox",
                # By default they are in single precision, where a recall of exactly 0.8 does not reach 0.8.
                iou_thresholds=np.linspace(0.5, 0.95, 10).tolist(),
                rec_thresholds=np.linspace(0, 1, 101).tolist(),
                max_detection_thresholds=[1, 10, max_detections],
                extended_summary=True,
                backend=BACKEND,
                sync_on_compute=False,
            )
        ]
        self._metric[0].warn_on_many_detections = False

    def update(self, predictions: list[dict[str, Tensor]], targets: list[dict[str, Tensor]]) -> None:
        """Adds images.

        Args:
            predictions: Per image ``boxes`` (n, 4) as x1 y1 x2 y2 in pixels, ``scores`` (n,) and ``labels`` (n,).
            targets: Per image ``boxes`` (m, 4) and ``labels`` (m,).
        """
        self._metric[0].update(on_cpu(predictions), on_cpu(targets))

    def compute(self) -> dict[str, float]:
        """Scores of all images of all ranks.

        Returns:
            ``map50`` and ``map`` (mean over IoU 0.50 to 0.95) as in COCO; ``precision`` and ``recall`` at IoU 0.50, per
            class where F1 is best on COCO's 101-point curve, then averaged over the classes that occur.
        """
        return self.evaluate().overall

    def evaluate(self) -> Scores:
        """Scores of all images of all ranks as :meth:`compute` has them, and of each class."""
        metric = self._metric[0]
        self._gather(metric)
        if not metric.groundtruth_labels or not sum(len(labels) for labels in metric.groundtruth_labels):
            return nothing_found([])
        curves = metric.compute()["precision"][:, :, :, 0, -1]  # (IoU thresholds, recall points, classes)
        curves = curves[:, :, (curves > -1).any(0).any(0)].double()
        recall = torch.linspace(0, 1, curves.shape[1], dtype=torch.float64)[:, None]
        f1 = 2 * curves[0] * recall / (curves[0] + recall).clamp(min=1e-12)
        best = f1.argmax(0)  # (classes,)
        reached = f1.amax(0) > 0
        overall = {
            "precision": (curves[0].gather(0, best[None])[0] * reached).mean().item(),
            "recall": (recall[best, 0] * reached).mean().item(),
            "map50": curves[0].mean().item(),
            "map": curves.mean().item(),
        }
        areas = zip(curves[0].mean(0).tolist(), curves.mean((0, 1)).tolist(), strict=True)
        labels = torch.cat(metric.groundtruth_labels).unique().tolist()  # in the order of the curves
        return Scores(overall, dict(zip(labels, map(ClassScores._make, areas), strict=True)))

    def reset(self) -> None:
        """Forgets all images."""
        self._metric[0].reset()

    @staticmethod
    def _gather(metric: MeanAveragePrecision) -> None:
        names = [name for name, state in metric.metric_state.items() if isinstance(state, list)]
        ranks = from_all_ranks({name: getattr(metric, name) for name in names})
        for name in names:
            setattr(metric, name, [image for rank in ranks for image in rank[name]])


def on_cpu(images: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
    """What there is of each image, moved to the CPU in one copy per kind and not in one per image."""
    if not images or not images[0]:
        return images
    counts = [len(next(iter(image.values()))) for image in images]
    moved = {name: torch.cat([image[name] for image in images]).cpu().split(counts) for name in images[0]}
    return [dict(zip(moved, parts, strict=True)) for parts in zip(*moved.values(), strict=True)]


def from_all_ranks(own: Any) -> list[Any]:
    """What each of the ranks has, in their order; of a process on its own, what it has."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [own]
    ranks: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(ranks, own)
    return ranks
