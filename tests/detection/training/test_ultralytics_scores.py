"""With ``metric="ultralytics"`` validation gives what `yolo val` gives for the same weights, square or rectangular."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from ultralytics import YOLO

from tests.helpers.detectors import trainer_for
from tests.helpers.export_nets import NAMES, lively, shapes_images
from yolo_slim.detection.data.datamodule import YOLODataModule
from yolo_slim.detection.files.stock import save_ultralytics
from yolo_slim.detection.training.detector import YOLODetector
from yolo_slim.detection.training.suppression import Suppression, beside_labels
from yolo_slim.detection.training.ultralytics_scores import UltralyticsScores

SHAPES = [(64, 64), (64, 48), (40, 64), (64, 32), (56, 64), (64, 60), (32, 64)]


@pytest.fixture(scope="module")
def found_and_missed(tmp_path_factory, shapes_dir):
    """A network's file, and images of several shapes that are labelled with most of what it finds, a little off."""
    folder = tmp_path_factory.mktemp("judged")
    detector = lively(shapes_images(shapes_dir))
    save_ultralytics(detector.net, folder / "net.pt", 64, half=False)
    generator = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (folder / kind).mkdir()
    for index, (height, width) in enumerate(SHAPES):
        image = cv2.resize(generator.integers(0, 255, (8, 8, 3), dtype=np.uint8), (width, height))
        cv2.imwrite(str(folder / f"images/{index}.png"), image)
        tensor = torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1)[None] / 255
        square = torch.full((1, 3, 64, 64), 114 / 255)
        top, left = (64 - height) // 2, (64 - width) // 2
        square[:, :, top : top + height, left : left + width] = tensor
        boxes = detector.detect(square, confidence=0.3)[0].numpy()
        boxes = boxes[generator.random(len(boxes)) < 0.7]
        corners = boxes[:, :4] - [left, top, left, top] + generator.normal(0, 0.5, (len(boxes), 4))
        corners = corners.clip(0, [width, height, width, height]) / [width, height, width, height]
        lines = [
            f"{int(label)} {(x1 + x2) / 2:.6f} {(y1 + y2) / 2:.6f} {x2 - x1:.6f} {y2 - y1:.6f}"
            for (x1, y1, x2, y2), label in zip(corners, boxes[:, 5], strict=True)
            if x2 - x1 > 0.05 and y2 - y1 > 0.05
        ]
        (folder / f"labels/{index}.txt").write_text("\n".join(lines), encoding="utf-8")
    (folder / "data.yaml").write_text(f"path: {folder}\ntrain: images\nval: images\nnames: {NAMES}\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("rect", "nms"),
    [
        (False, {}),
        (True, {}),
        (False, {"iou": 0.2}),
        (False, {"max_det": 5}),
        (False, {"conf": 0.4}),
        (False, {"agnostic_nms": True, "iou": 0.3}),
    ],
    ids=str,
)
def test_the_scores_are_those_of_yolo_val(found_and_missed, tmp_path, rect, nms):
    folder = found_and_missed
    common = {"imgsz": 64, "batch": 4, "workers": 0}
    theirs = YOLO(folder / "net.pt").val(
        data=str(folder / "data.yaml"),
        rect=rect,
        plots=False,
        verbose=False,
        device="cpu",
        project=str(tmp_path),
        **common,
        **nms,
    )
    expected = (theirs.box.mp, theirs.box.mr, theirs.box.map50, theirs.box.map)
    assert 0.01 < theirs.box.map < 0.9
    detector = YOLODetector(weights=str(folder / "net.pt"), metric="ultralytics", nms=Suppression(**nms))
    data = YOLODataModule(str(folder / "data.yaml"), rect=rect, **common)
    found = trainer_for(tmp_path).validate(detector, data, verbose=False)[0]
    assert [found[f"val/{name}"] for name in ("precision", "recall", "map50", "map")] == pytest.approx(
        expected, abs=5e-4
    )


def test_nothing_found_nothing_labelled_and_reset():
    scores, zero = UltralyticsScores(), dict.fromkeys(("precision", "recall", "map50", "map"), 0.0)
    none = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long), "scores": torch.zeros(0)}
    one = {"boxes": torch.tensor([[0.0, 0, 9, 9]]), "labels": torch.tensor([0]), "scores": torch.tensor([0.9])}
    assert scores.compute() == zero
    scores.update([none], [one])
    assert scores.compute() == zero
    scores.reset()
    scores.update([one], [none])
    assert scores.compute() == zero
    scores.reset()
    scores.update([one], [one])
    assert scores.compute() == pytest.approx(dict.fromkeys(zero, 1.0), abs=0.006)


def test_each_setting_of_the_suppression_matters(found_and_missed, shapes_dir):
    detector = YOLODetector(weights=str(found_and_missed / "net.pt")).eval()
    images = shapes_images(shapes_dir)

    def found(**settings):
        detector.nms = Suppression(**settings)
        return [len(boxes) for boxes in detector.predict_step({"img": images}, 0)]

    usual = found(conf=0.01)
    middle = float(torch.cat(detector.detect(images, confidence=0.01))[:, 4].median())
    assert found() == [len(boxes) for boxes in detector.detect(images)]
    assert 0 < sum(found(conf=middle)) < sum(usual)
    assert sum(found(conf=0.01, iou=0.1)) < sum(usual)
    assert max(found(conf=0.01, max_det=3)) == 3
    assert sum(found(conf=0.01, iou=0.1, agnostic_nms=True)) < sum(found(conf=0.01, iou=0.1))
    detector.nms = Suppression(conf=0.01, max_det=3)
    assert [len(boxes) for boxes in detector.detect(images, confidence=middle)] == found(conf=middle, max_det=3)


@pytest.mark.parametrize("wrong", [{"conf": -0.1}, {"conf": 1.5}, {"iou": 7}, {"max_det": 0}])
def test_settings_of_the_suppression_out_of_range(wrong):
    with pytest.raises(ValueError, match=rf"nms\.{next(iter(wrong))}=.* is out of range"):
        Suppression(**wrong)


def test_images_without_any_label():
    batch = {"img": torch.zeros(2, 3, 64, 64), "batch_idx": torch.zeros(0), "cls": torch.zeros(0, 1)}
    found, labelled = beside_labels([torch.zeros(0, 6), torch.ones(2, 6)], {**batch, "bboxes": torch.zeros(0, 4)})
    assert [len(image["boxes"]) for image in found] == [0, 2]
    assert [len(image["boxes"]) for image in labelled] == [0, 0]


def test_an_unknown_metric_is_refused():
    with pytest.raises(ValueError, match="expected 'coco' or 'ultralytics'"):
        YOLODetector(metric="voc")
