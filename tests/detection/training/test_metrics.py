from __future__ import annotations

import pytest
import torch

from tests.helpers.crowd import crowd
from yolo_slim.detection.training import metrics
from yolo_slim.detection.training.metrics import DetectionScores, on_cpu
from yolo_slim.detection.training.ultralytics_scores import UltralyticsScores


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


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_a_recall_that_is_a_threshold_reaches_it(count):
    """Of ten objects some are found, and nothing else: precision 1 up to a recall of exactly count / 10."""
    boxes = [[20 * place, 0, 20 * place + 10, 10] for place in range(10)]
    scores = DetectionScores()
    scores.update([image(boxes[:count], [0] * count, [0.9] * count)], [image(boxes, [0] * 10)])
    assert scores.compute()["map50"] == pytest.approx((10 * count + 1) / 101)


def test_nothing_found_nothing_labelled_and_reset():
    scores = DetectionScores()
    zero = dict.fromkeys(("precision", "recall", "map50", "map"), 0.0)
    scores.update([image([], [], [])], [image([[0, 0, 10, 10]], [0])])
    assert scores.compute() == zero
    scores.reset()
    scores.update([image([[0, 0, 10, 10]], [0], [0.9])], [image([], [])])
    assert scores.compute() == zero


@pytest.mark.parametrize("seed", range(3))
def test_what_computes_it_does_not_matter(monkeypatch, seed):
    pytest.importorskip("faster_coco_eval")
    values = []
    for backend in ("pycocotools", "faster_coco_eval"):
        monkeypatch.setattr(metrics, "BACKEND", backend)
        scores = DetectionScores()
        scores.update(*crowd(seed))
        values.append(scores.compute())
    assert values[0] == pytest.approx(values[1], abs=1e-9)
    assert 0 < values[0]["map"] < values[0]["map50"] < 1


@pytest.mark.parametrize("kind", [DetectionScores, UltralyticsScores])
def test_how_images_are_split_into_batches_does_not_matter(kind):
    found, labelled = crowd(0)
    whole, single = kind(), kind()
    whole.update(found, labelled)
    for one, other in zip(found, labelled, strict=True):
        single.update([one], [other])
    assert whole.compute() == single.compute()


def test_images_reach_the_cpu_in_one_copy_of_each_kind(monkeypatch):
    copies = []
    to_cpu = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: copies.append(tensor.shape) or to_cpu(tensor))
    found, _ = crowd(0)
    moved = on_cpu(found)
    assert len(copies) == 3
    for image, same in zip(found, moved, strict=True):
        assert all(torch.equal(image[name], same[name]) for name in image)
    assert on_cpu([]) == []
