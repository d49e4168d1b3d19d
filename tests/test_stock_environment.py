"""Slim files where there is no yolo_slim: stock Ultralytics alone validates, predicts, tracks and exports them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from tests.helpers.stock.compare import our_boxes, our_scores, same_boxes, ultralytics_scores, use_elsewhere
from tests.helpers.stock.nets import all_images, by_heart_data, halve, learn, new_detector
from yolo_slim.detection.data.shapes import CLASSES, generate_shapes
from yolo_slim.detection.files.stock import save_ultralytics
from yolo_slim.detection.training.detector import YOLODetector

pytestmark = pytest.mark.slow  # the quick part is in test_matrix.py
FILES = ("dense", "slim", "finetuned", "finetuned_half", "finetuned_fused", "finetuned_fused_half")
IMGSZ = 64
has_lap = importlib.util.find_spec("lap") is not None
has_onnx = all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime"))


def write_frames(images: Path, folder: Path) -> None:
    """Makes the images look like letterboxed ones of 64 x 48 pixels, and writes six of these, and a still film."""
    frames, film = folder / "frames", folder / "film"
    frames.mkdir()
    film.mkdir()
    for index, path in enumerate(sorted(images.iterdir())):
        picture = cv2.imread(str(path))
        picture[:8], picture[56:] = 114, 114
        assert cv2.imwrite(str(path), picture)
        if index < 6:
            assert cv2.imwrite(str(frames / f"{index}.png"), picture[8:56])
        assert cv2.imwrite(str(film / f"{index}.png"), cv2.imread(str(frames / "0.png")))


class World:
    """The detectors that files were written of, and what stock Ultralytics made of the files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        data = generate_shapes(folder / "shapes", train=8, val=1, imgsz=IMGSZ)
        write_frames(data.parent / "images" / "train", folder)
        self.data = by_heart_data(data)
        self.batch = all_images(self.data)
        (folder / "data.yaml").write_text(self.data.read_text())
        (folder / "imgsz.txt").write_text(str(IMGSZ))
        self._write_files()
        verbs = ["predict", "val", *(["track"] if has_lap else []), *(["export"] if has_onnx else [])]
        done = use_elsewhere(folder, *verbs)
        assert done.returncode == 0, done.stderr[-4000:]
        self.found: dict[str, Any] = {name: json.loads((folder / f"{name}.json").read_text()) for name in FILES}

    def _write_files(self) -> None:
        detector = new_detector(dict(enumerate(CLASSES)))
        learn(detector, self.batch, steps=240)
        self.dense_channels = channels(detector.net)
        self._save(detector, "dense")
        halve(detector)
        self._save(detector, "slim")
        learn(detector, self.batch, steps=80)
        self.slim_channels = channels(detector.net)
        self._save(detector, "finetuned")
        self._save(detector, "finetuned_half", half=True)
        self._save(detector, "finetuned_fused", fused=True)
        self._save(detector, "finetuned_fused_half", half=True, fused=True)

    def _save(self, detector: YOLODetector, name: str, half: bool = False, fused: bool = False) -> None:
        save_ultralytics(detector.net, self.folder / f"{name}.pt", IMGSZ, half=half, fused=fused)

    def detector(self, name: str) -> YOLODetector:
        """Our detector with the weights of a file."""
        return YOLODetector(weights=str(self.folder / f"{name}.pt"), imgsz=IMGSZ).eval()

    def our_boxes(self, name: str) -> list[np.ndarray]:
        """What our detector finds in the frames, in pixels of the frames."""
        return our_boxes(self.detector(name), self.folder / "frames", IMGSZ)


def channels(net: torch.nn.Module) -> list[int]:
    return [m.out_channels for m in net.modules() if isinstance(m, torch.nn.Conv2d)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("stock"))


@pytest.mark.parametrize("name", FILES)
def test_what_a_file_is(world: World, name: str) -> None:
    found, detector = world.found[name], world.detector(name)
    assert found["channels"] == (world.dense_channels if name == "dense" else world.slim_channels)
    assert sum(world.slim_channels) < 0.7 * sum(world.dense_channels)
    assert found["names"] == {str(i): label for i, label in enumerate(CLASSES)}
    assert found["imgsz"] == IMGSZ
    parameters = sum(p.numel() for p in detector.net.parameters())
    fewer = sum(m.num_features for m in detector.net.modules() if isinstance(m, torch.nn.BatchNorm2d))
    assert found["info"]["parameters"] == parameters - ("fused" in name) * fewer
    assert found["info"]["gradients"] == 0


@pytest.mark.parametrize("name", FILES)
def test_boxes_are_ours(world: World, name: str) -> None:
    """To 1e-4 of the image's side: Ultralytics folds BatchNorm before it predicts, which rounds differently."""
    count = same_boxes(world.found[name]["predict"], world.our_boxes(name), pixels=1e-4 * IMGSZ, score=1e-4)
    assert count >= 6 or name == "slim"


@pytest.mark.parametrize("name", FILES)
def test_map_is_ours(world: World, name: str) -> None:
    """Equal by the same metric; COCO's, which we use, takes the curve's steps where Ultralytics draws lines."""
    found, detector = world.found[name]["val"], world.detector(name)
    by_ultralytics = ultralytics_scores(detector, world.batch, IMGSZ)
    ours = our_scores(detector, world.batch)
    for key in ("map50", "map"):
        assert found[key] == pytest.approx(by_ultralytics[key], abs=1e-3)
        assert found[key] == pytest.approx(ours[key], abs=0.01)
    assert found["map"] > 0.2 or name == "slim"


@pytest.mark.skipif(not has_lap, reason="Ultralytics tracks with the package lap")
@pytest.mark.parametrize("name", [name for name in FILES if name != "slim"])
def test_track(world: World, name: str) -> None:
    tracked = [np.asarray(frame, dtype=float) for frame in world.found[name]["track"]]
    assert all(frame.shape[1] == 7 for frame in tracked)  # an identity for every box
    assert set(tracked[0][:, 4]) == set(tracked[-1][:, 4])  # which it keeps to the last frame


@pytest.mark.skipif(not has_onnx, reason="ONNX needs the packages onnx and onnxruntime")
@pytest.mark.parametrize("name", FILES)
def test_export(world: World, name: str) -> None:
    found = world.found[name]
    assert (world.folder / f"{name}.onnx").is_file()
    same_boxes(found["export"], found["predict"], pixels=1e-3 * IMGSZ, score=1e-3)


@pytest.mark.slow
def test_a_class_of_ours_would_be_noticed(world: World, tmp_path: Path) -> None:
    content = torch.load(world.folder / "dense.pt", weights_only=False)
    content["model"].extra = new_detector({0: "one"}).hyp
    torch.save(content, tmp_path / "ours.pt")
    (tmp_path / "imgsz.txt").write_text(str(IMGSZ))
    done = use_elsewhere(tmp_path, "info")
    assert done.returncode != 0
    assert "No module named 'yolo_slim'" in done.stderr
