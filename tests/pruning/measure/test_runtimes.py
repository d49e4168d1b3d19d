"""A forward in every runtime, of the batch and side that are asked for."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest
import torch
from torch import nn

from tests.helpers.places import ROOT
from yolo_slim.pruning import Latency, expect_runtime, forward_in, times_in_turn
from yolo_slim.pruning.measure import runtimes


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1))


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime", "openvino"])
def test_a_forward_runs_again_and_again_and_leaves_the_model(runtime):
    if runtime != "torch":
        pytest.importorskip("onnx")
        pytest.importorskip(runtime)
    model, threads = net().train(), torch.get_num_threads()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    forward = forward_in(Latency(runtime, threads=1), model, torch.rand(1, 3, 16, 16))
    times = times_in_turn({"it": forward, "the same": forward}, rounds=2, repeats=2)
    assert set(times) == {"it", "the same"}
    assert min(times.values()) > 0
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.get_num_threads() == threads


def test_openvino_computes_what_the_model_does():
    pytest.importorskip("onnx")
    pytest.importorskip("openvino")
    model, images = net().eval(), torch.rand(2, 3, 16, 16)
    (found,) = forward_in(Latency("openvino"), model, images)().values()
    assert torch.allclose(torch.from_numpy(found), model(images), atol=2e-2)  # bfloat16 where that is fast


@pytest.mark.skipif(sys.platform != "linux", reason="signal stacks are read as Linux has them")
@pytest.mark.parametrize("released", ["here", "on another thread"])
def test_signals_are_survived_after_openvino(released):
    pytest.importorskip("onnx")
    pytest.importorskip("openvino")
    code = f"""
import gc, os, signal, threading, torch
from torch import nn
from yolo_slim.pruning import Latency, forward_in
signal.signal(signal.SIGTERM, lambda *about: print("heeded"))
held = [forward_in(Latency("openvino"), nn.Conv2d(3, 8, 3), torch.rand(1, 3, 16, 16))]
held[0]()
os.kill(os.getpid(), signal.SIGTERM)
release = lambda: (held.clear(), gc.collect())
if {released == "here"}:
    release()
else:
    thread = threading.Thread(target=release)
    thread.start()
    thread.join()
os.kill(os.getpid(), signal.SIGTERM)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stdout) == (0, "heeded\nheeded\n"), done.stderr


def test_inputs_of_the_batch_and_side():
    images, other = torch.rand(1, 3, 32, 32), torch.rand(5)
    assert Latency().inputs(images) is images
    assert Latency(batch=4).inputs(images).shape == (4, 3, 32, 32)
    sized = Latency(batch=2, imgsz=64).inputs((images, other, "mode"))
    assert (sized[0].shape, sized[1].shape, sized[2]) == ((2, 3, 64, 64), (2,), "mode")


def test_a_runtime_that_is_not_here(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(runtimes, "find_spec", lambda name: None if name == "openvino" else real(name))
    with pytest.raises(ValueError, match="latency.runtime=openvino needs openvino, not installed here: pip install"):
        expect_runtime(Latency("openvino"))
    monkeypatch.setattr(runtimes, "find_spec", lambda name: object())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="TensorRT runs on NVIDIA GPUs, and PyTorch sees none here"):
        forward_in(Latency("tensorrt"), net(), torch.rand(1, 3, 16, 16))
