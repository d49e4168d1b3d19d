"""Milliseconds of several networks in every runtime that is installed."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from yolo_slim.callbacks.slim_checkpoint import module_checkpoint
from yolo_slim.detection import YOLODetector
from yolo_slim.pruning import save_whole
from yolo_slim.workflow import measuring


@pytest.fixture
def paths(tmp_path):
    save_whole(module_checkpoint(YOLODetector("yolov8n.yaml", {0: "a"}, imgsz=64)), tmp_path / "a.ckpt")
    return {"one": tmp_path / "a.ckpt", "the same": tmp_path / "a.ckpt"}


def test_every_runtime_that_is_installed(paths):
    found = measuring.deployed_latencies(paths, 64)
    installed = [name for name in ("onnxruntime", "openvino") if find_spec(name) and find_spec("onnx")]
    assert list(found) == ["torch", *installed]
    assert all(set(times) == set(paths) and min(times.values()) > 0 for times in found.values())


def test_a_runtime_that_fails_costs_no_results(paths, monkeypatch, capsys):
    real = measuring.forward_in

    def fails(latency, net, images):
        if latency.runtime == "onnxruntime":
            raise RuntimeError("no kernel for it\nand more")
        return real(latency, net, images)

    monkeypatch.setattr(measuring, "forward_in", fails)
    monkeypatch.setattr(measuring, "unavailable", lambda latency, device: latency.runtime in ("openvino", "tensorrt"))
    assert list(measuring.deployed_latencies(paths, 64)) == ["torch"]
    assert capsys.readouterr().out == "not timed in onnxruntime: no kernel for it\n"
