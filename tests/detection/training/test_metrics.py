from __future__ import annotations

import pytest
import torch

from yolo_slim.detection.training.metrics import DetectionScores


def image(boxes, labels, scores=None):
    found = {
        "boxes": torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.long),
    }
    if scores is not None:
        found["scores"] = torch.tensor(scores, dtype=torch.float32)
    return found


def test_perfect_detections():
    scores = DetectionScores()
    boxes, labels = [[0, 0, 10, 10], [20, 20, 40, 40]], [0, 1]
    scores.update([image(boxes, labels, [0.9, 0.8])], [image(boxes, labels)])
    assert scores.compute() == pytest.approx({"precision": 1, "recall": 1, "map50": 1, "map": 1})


def test_iou_decides_the_threshold():
    """A box at IoU 2/3 counts at 0.50, 0.55, 0.60 and 0.65: four of ten thresholds."""
    scores = DetectionScores()
    scores.update([image([[0, 0, 10, 10]], [0], [0.9])], [image([[0, 2, 10, 12]], [0])])
    result = scores.compute()
    assert result["map50"] == pytest.approx(1)
    assert result["map"] == pytest.approx(0.4)


def test_false_positives_and_misses():
    """One of two objects found, one false box of lower score: precision 1 and recall 0.5 where F1 is best."""
    scores = DetectionScores()
    scores.update(
        [image([[0, 0, 10, 10], [50, 50, 60, 60]], [0, 0], [0.9, 0.5])],
        [image([[0, 0, 10, 10], [20, 20, 30, 30]], [0, 0])],
    )
    result = scores.compute()
    assert result["precision"] == pytest.approx(1)
    assert result["recall"] == pytest.approx(0.5)
    assert result["map50"] == pytest.approx(51 / 101)


def test_nothing_found_nothing_labelled_and_reset():
    scores = DetectionScores()
    zero = dict.fromkeys(("precision", "recall", "map50", "map"), 0.0)
    scores.update([image([], [], [])], [image([[0, 0, 10, 10]], [0])])
    assert scores.compute() == zero
    scores.reset()
    scores.update([image([[0, 0, 10, 10]], [0], [0.9])], [image([], [])])
    assert scores.compute() == zero
