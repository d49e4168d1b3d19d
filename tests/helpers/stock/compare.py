"""What stock Ultralytics makes of files, run where there is no yolo_slim, beside what our detector makes of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from ultralytics.models.yolo.detect import DetectionValidator
from ultralytics.utils.metrics import ap_per_class
from ultralytics.utils.nms import non_max_suppression
from ultralytics.utils.ops import scale_boxes

from yolo_slim.detection.data.images import ImageFolder
from yolo_slim.detection.training.detector import YOLODetector

SCRIPT = Path(__file__).parent / "use.py"


def use_elsewhere(folder: Path, *verbs: str) -> subprocess.CompletedProcess[str]:
    """Runs the script in a fresh interpreter, in a folder of its own and blind to this checkout."""
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    others = os.pathsep.join(path for path in paths if path and not (Path(path) / "yolo_slim").exists())
    environment = {**os.environ, "PYTHONPATH": others, "YOLO_AUTOINSTALL": "false"}
    command = [sys.executable, str(SCRIPT), str(folder), *verbs]
    return subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True, check=False)


def our_boxes(detector: YOLODetector, frames: Path, imgsz: int) -> list[np.ndarray]:
    """What our detector finds in a folder of frames, (n, 6) each, in pixels of the frame."""
    found = []
    for frame in ImageFolder(frames, imgsz):
        (boxes,) = detector.detect(frame["img"][None].float() / 255, confidence=0.25, iou=0.7)
        scale_boxes((imgsz, imgsz), boxes[:, :4], cv2.imread(frame["path"]).shape)
        found.append(boxes.numpy())
    return found


def same_boxes(first: Any, second: Any, pixels: float, score: float) -> int:
    """Checks that two sides found the same in all frames; returns how much that is."""
    assert len(first) == len(second) > 0
    for a, b in zip(first, second, strict=True):
        a, b = (np.asarray(side, dtype=float).reshape(-1, 6) for side in (a, b))
        assert a.shape == b.shape
        assert np.abs(a[:, :4] - b[:, :4]).max(initial=0) < pixels
        assert np.abs(a[:, 4] - b[:, 4]).max(initial=0) < score
        assert (a[:, 5] == b[:, 5]).all()
    return sum(map(len, first))


def our_scores(detector: YOLODetector, batch: dict[str, Any]) -> dict[str, float]:
    """Our mAP of what our detector finds."""
    detector.scores.reset()
    with torch.no_grad():
        detector.test_step(batch, 0)
    return detector.scores.compute()


def ultralytics_scores(detector: YOLODetector, batch: dict[str, Any], imgsz: int) -> dict[str, float]:
    """Ultralytics' own mAP of what our detector finds."""
    validator = DetectionValidator(args={"task": "detect", "imgsz": imgsz, "project": "unused", "save_txt": False})
    validator.iouv = torch.linspace(0.5, 0.95, 10)
    hits, found, labels = [], [], []
    with torch.no_grad():
        everything = non_max_suppression(detector(batch["img"]), 0.001, 0.7, multi_label=True, max_det=300)
    for index, boxes in enumerate(everything):
        mine = batch["batch_idx"] == index
        centre, size = batch["bboxes"][mine].split(2, 1)
        corners = imgsz * torch.cat((centre - size / 2, centre + size / 2), 1)
        truth = {"bboxes": corners, "cls": batch["cls"][mine].view(-1)}
        seen = {"bboxes": boxes[:, :4], "cls": boxes[:, 5]}
        hits.append(validator._process_batch(seen, truth)["tp"])
        found.append(boxes)
        labels.append(truth["cls"])
    boxes = torch.cat(found).numpy()
    every = ap_per_class(np.concatenate(hits), boxes[:, 4], boxes[:, 5], torch.cat(labels).numpy())
    return {"map50": every[5][:, 0].mean(), "map": every[5].mean()}
