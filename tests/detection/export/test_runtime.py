"""An exported file as a detector: what it returns, and its mAP by the measure of all other tables."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import pytest
import torch

from tests.helpers.export_nets import NAMES, lively, shapes_data, shapes_images
from yolo_slim.detection.export.export import export_network
from yolo_slim.detection.export.formats import ExportOptions
from yolo_slim.detection.export.runtime import ExportedDetector, file_scores
from yolo_slim.detection.training.metrics import SCORE_NAMES
from yolo_slim.pruning import latency_ms


@pytest.fixture(scope="module")
def detector(shapes_dir: Path):
    return lively(shapes_images(shapes_dir), ratio=0.5)


@pytest.fixture(scope="module")
def file(detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_network(
        detector.net, "torchscript", ExportOptions(imgsz=64), tmp_path_factory.mktemp("exported"), "best"
    )


def test_scores_are_those_of_the_detector(detector, file, shapes_dir, monkeypatch):
    data = shapes_data(shapes_dir)
    data.setup("validate")
    logged = {}
    monkeypatch.setattr(detector, "log", lambda name, value, **keys: logged.update({name: value}))
    monkeypatch.setattr(detector, "log_dict", lambda *arguments, **keys: None)
    detector.eval()
    with torch.no_grad():
        for batch in data.val_dataloader():
            detector.validation_step(data.on_after_batch_transfer(batch, 0), 0)
    detector.on_validation_epoch_end()
    found = file_scores(ExportedDetector(file), data)
    assert list(found) == list(SCORE_NAMES)
    assert found["map50"] > 0  # by chance, but not nothing
    for name in SCORE_NAMES:
        assert found[name] == pytest.approx(logged[f"val/{name}"], abs=1e-3)


def test_scores_leave_the_random_numbers_of_a_run_alone(file, shapes_dir):
    data = shapes_data(shapes_dir)
    data.setup("validate")
    L.seed_everything(3, verbose=False)
    first = file_scores(ExportedDetector(file), data)
    L.seed_everything(4, verbose=False)
    assert file_scores(ExportedDetector(file), data) == first


def test_it_can_be_timed_and_has_names(file):
    exported = ExportedDetector(file)
    assert exported.names == NAMES
    assert 0 < latency_ms(exported, torch.rand(1, 3, 64, 64), repeats=1) < 60_000
    assert exported(torch.rand(1, 3, 64, 64)).shape == (1, 4 + len(NAMES), 84)


def test_suppression_in_the_file_is_scored_too(detector, shapes_dir, tmp_path):
    data = shapes_data(shapes_dir)
    data.setup("validate")
    options = ExportOptions(imgsz=64, nms=True, conf=0.001)
    file = export_network(detector.net, "torchscript", options, tmp_path, "best")
    assert ExportedDetector(file)(torch.rand(2, 3, 64, 64)).shape == (2, 300, 6)
    assert set(file_scores(ExportedDetector(file), data)) == set(SCORE_NAMES)


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"best\.onnx does not exist; write one with the verb 'export'"):
        ExportedDetector(tmp_path / "best.onnx")
