"""Networks whose head is new: what refuses them, and what makes them like any other."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from tests.helpers.hostile.pickles import write_tiny
from tests.helpers.hostile.refused import refused
from tests.helpers.stock import original
from yolo_slim.commands.entry import main
from yolo_slim.commands.words import spelled_out
from yolo_slim.detection import YOLODetector, has_fresh_head, load_network, save_ultralytics
from yolo_slim.detection.data.shapes import CLASSES


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    model = original.lively(original.Model(copy.deepcopy(original.YOLOV5), list(CLASSES)))
    return original.write(model, tmp_path_factory.mktemp("original") / "yolov5n.pt")


@pytest.mark.parametrize(
    "command",
    [
        ["validate", "--model.weights", "FILE", "--data.data", "DATA"],
        ["test", "--model.weights", "FILE", "--data.data", "DATA"],
        ["predict", "--model.weights", "FILE", "--data.source", "IMAGES"],
        ["export", "--model.weights", "FILE", "--format", "onnx"],
        ["prune", "--model.weights", "FILE", "--data.data", "DATA", "--importance.kind", "taylor"],
        ["sensitivity", "--model.weights", "FILE", "--data.data", "DATA"],
        ["compare", "FILE", "FILE", "--data.data", "DATA"],
        ["fit", "FILE", "DATA", "epochs=2", "batch=4", "workers=0", "imgsz=64", "device=cpu", "-c", "sparse.yaml"],
        ["slim", "FILE", "DATA", "--baseline.enabled", "false", "--epochs", "2", "workers=0", "imgsz=64"],
    ],
)
def test_an_untrained_head_is_not_judged(command, file, tmp_path, monkeypatch, shapes_dir, capsys):
    monkeypatch.chdir(tmp_path)
    words = {"FILE": str(file), "DATA": str(shapes_dir / "data.yaml"), "IMAGES": str(shapes_dir / "images/val")}
    line = refused(capsys, [words.get(word, word) for word in command])
    assert "its head is new; train it first" in line


def test_slim_begins_with_the_baseline(file, tmp_path, monkeypatch):
    assert "--baseline.enabled" not in spelled_out(["slim", str(file), "shapes"])
    monkeypatch.chdir(tmp_path)
    write_tiny(tmp_path, CLASSES)
    assert "--baseline.enabled" in spelled_out(["slim", "tiny.ckpt", "shapes"])


def test_no_file_for_ultralytics(file, tmp_path):
    with pytest.raises(ValueError, match="its head is new; train it first"):
        save_ultralytics(load_network(file), tmp_path / "stock.pt", imgsz=64)
    assert not list(tmp_path.iterdir())


def test_a_fit_trains_the_head(file, tmp_path, monkeypatch, shapes_dir, capsys):
    monkeypatch.chdir(tmp_path)
    data = str(shapes_dir / "data.yaml")
    main(["fit", str(file), data, "epochs=1", "imgsz=64", "batch=4", "workers=0", "device=cpu"])
    trained = load_network("runs/fit/last.ckpt")
    assert not has_fresh_head(trained)
    main(["validate", "runs/fit", "workers=0", "device=cpu"])
    assert "map" in capsys.readouterr().out


def test_a_slim_file_of_one_is_as_fresh(file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["prune", "--model.weights", str(file), "--selection.ratio", "0.2"])
    assert has_fresh_head(load_network("runs/prune/slim.ckpt"))
    line = refused(capsys, ["export", "runs/prune", "--format", "onnx"])
    assert "its head is new; train it first" in line
    detector = YOLODetector(weights="runs/prune/slim.ckpt")
    assert has_fresh_head(detector.net)
