"""The mAP of each class, beside that of pycocotools for one category at a time and of Ultralytics."""

from __future__ import annotations

import contextlib
import io
import sys

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from ultralytics.models.yolo.detect import DetectionValidator
from ultralytics.utils.metrics import ap_per_class

from tests.helpers.crowd import CLASSES, crowd
from tests.helpers.ddp.launch import ROOT, Process, free_port, run_together
from tests.helpers.detectors import data_for, detector_for, trainer_for
from yolo_slim.detection.training import metrics
from yolo_slim.detection.training.metrics import DetectionScores
from yolo_slim.detection.training.ultralytics_scores import UltralyticsScores

KINDS = [DetectionScores, UltralyticsScores]
SEEDS = range(3)


def evaluated(kind, found, labelled):
    scores = kind()
    scores.update(found, labelled)
    return scores.evaluate()


def annotations(images, category):
    rows = []
    for index, image in enumerate(images):
        for box, label, score in zip(
            image["boxes"].tolist(),
            image["labels"].tolist(),
            image.get("scores", torch.ones(len(image["boxes"]))).tolist(),
            strict=True,
        ):
            if label == category:
                x1, y1, x2, y2 = box
                size = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
                rows.append(size | {"id": len(rows) + 1, "image_id": index, "category_id": 1, "score": score})
    return rows


def by_pycocotools(found, labelled, category):
    """mAP50 and mAP50-95 where there is no other class at all; None where it is not labelled."""
    sides = []
    with contextlib.redirect_stdout(io.StringIO()):
        for images in (labelled, found):
            side = COCO()
            side.dataset = {
                "images": [{"id": index} for index in range(len(images))],
                "categories": [{"id": 1}],
                "annotations": annotations(images, category),
            }
            side.createIndex()
            sides.append(side)
        evaluation = COCOeval(*sides, iouType="bbox")
        evaluation.params.maxDets = [1, 10, 300]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, 0, 0, 2]
    return None if (precision == -1).all() else (precision[0].mean(), precision.mean())


@pytest.mark.parametrize("backend", ["pycocotools", "faster_coco_eval"])
@pytest.mark.parametrize("seed", SEEDS)
def test_each_class_is_what_pycocotools_says_of_it_alone(monkeypatch, seed, backend):
    pytest.importorskip(backend)
    monkeypatch.setattr(metrics, "BACKEND", backend)
    found, labelled = crowd(seed)
    classes = evaluated(DetectionScores, found, labelled).classes
    alone = {label: by_pycocotools(found, labelled, label) for label in range(CLASSES)}
    assert [label for label, scores in alone.items() if scores] == list(classes) == [0, 1, 2]
    for label, scores in classes.items():
        assert tuple(scores) == pytest.approx(alone[label], abs=1e-6)
    assert len({scores.map for scores in classes.values()}) == 3
    assert all(0 < scores.map < scores.map50 < 1 for scores in classes.values())


@pytest.mark.parametrize("seed", SEEDS)
def test_each_class_is_what_ultralytics_says_of_it(seed):
    found, labelled = crowd(seed)
    validator = DetectionValidator(args={"task": "detect", "project": "unused", "save_txt": False})
    validator.iouv = torch.linspace(0.5, 0.95, 10)
    hits = [
        validator._process_batch(
            {"bboxes": f["boxes"], "cls": f["labels"]}, {"bboxes": truth["boxes"], "cls": truth["labels"]}
        )["tp"]
        for f, truth in zip(found, labelled, strict=True)
    ]
    every = ap_per_class(
        np.concatenate(hits),
        torch.cat([image["scores"] for image in found]).numpy(),
        torch.cat([image["labels"] for image in found]).numpy(),
        torch.cat([image["labels"] for image in labelled]).numpy(),
    )
    classes = evaluated(UltralyticsScores, found, labelled).classes
    assert list(classes) == every[6].tolist() == [0, 1, 2]
    for scores, areas in zip(classes.values(), every[5], strict=True):
        assert tuple(scores) == pytest.approx((areas[0], areas.mean()), abs=1e-12)
    assert len({scores.map for scores in classes.values()}) == 3


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_over_the_classes_that_occur_is_that_of_all(kind, seed):
    overall, classes = evaluated(kind, *crowd(seed))
    for name in ("map50", "map"):
        mean = sum(getattr(scores, name) for scores in classes.values()) / len(classes)
        assert mean == pytest.approx(overall[name], abs=1e-12)
    scores = kind()
    scores.update(*crowd(seed))
    assert scores.compute() == overall


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_labelled_and_not_found_is_zero_and_what_is_not_labelled_is_left_out(kind):
    def image(label, *scores):
        count = len(scores) if scores else 1
        found = {"boxes": torch.tensor([[0.0, 0, 9, 9]] * count), "labels": torch.tensor([label] * count)}
        return found | ({"scores": torch.tensor(scores)} if scores else {})

    none = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long), "scores": torch.zeros(0)}
    unlabelled = {key: value for key, value in none.items() if key != "scores"}
    assert evaluated(kind, [], []).classes == {}
    assert evaluated(kind, [image(5, 0.9)], [unlabelled]).classes == {}
    assert evaluated(kind, [none, none], [image(7), image(2)]).classes == {2: (0, 0), 7: (0, 0)}
    overall, classes = evaluated(kind, [image(5, 0.9), image(3, 0.8)], [image(3), image(3)])
    assert list(classes) == [3]
    assert classes[3] == pytest.approx((overall["map50"], overall["map"]), abs=1e-12)


def test_the_scores_of_two_ranks_are_those_of_all_images(tmp_path):
    command = [sys.executable, "-m", "tests.helpers.ddp.scores", str(tmp_path)]
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": "2"}
    run_together([Process(command, ROOT, tmp_path / f"{rank}.log", RANK=str(rank), **where) for rank in range(2)])
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=False) for rank in range(2)]
    for kind in KINDS:
        expected = evaluated(kind, *crowd(0))
        for overall, classes in (rank[kind.__name__] for rank in ranks):
            assert overall == pytest.approx(expected.overall, abs=1e-12)
            assert list(classes) == list(expected.classes)
            for label, scores in classes.items():
                assert tuple(scores) == pytest.approx(tuple(expected.classes[label]), abs=1e-12)


def test_a_detector_keeps_those_of_its_last_validation(shapes_dir, tmp_path):
    data = data_for(shapes_dir)
    detector = detector_for(data)
    assert detector.class_scores == {}
    trainer_for(tmp_path).validate(detector, data, verbose=False)
    labels = [line.split()[0] for file in (shapes_dir / "labels/val").glob("*.txt") for line in file.open()]
    assert sorted(detector.class_scores) == sorted({int(label) for label in labels})
