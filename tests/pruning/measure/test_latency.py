from __future__ import annotations

import builtins
import itertools
import time

import pytest
import torch
from torch import Tensor, nn

from tests.helpers.toy_nets import Net, randomised
from tests.helpers.yolo_nets import yolo
from yolo_slim.pruning import latency_ms as in_pytorch
from yolo_slim.pruning.graph.axes import leaves
from yolo_slim.pruning.measure.latency import onnx_latency_ms, onnx_session


def small_net() -> nn.Module:
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 5)]
    return randomised(nn.Sequential(*layers)).float()


def outputs_of(session, *tensors: Tensor) -> list[Tensor]:
    feeds = {entry.name: tensor.numpy() for entry, tensor in zip(session.get_inputs(), tensors, strict=True)}
    return [torch.from_numpy(array) for array in session.run(None, feeds)]


def test_latency_is_the_median_of_the_repeats(monkeypatch):
    calls, clock = [], itertools.accumulate([0, 9, 0, 9, 0, 9, 0, 1, 0, 5, 0, 2, 0, 4, 0, 3])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))

    def run(net, x):
        calls.append((net.training, torch.is_grad_enabled()))
        return x

    net = Net(run, c1=nn.Conv2d(3, 3, 1)).train()
    assert in_pytorch(net, torch.rand(1), repeats=5) == 3000
    assert calls == [(False, False)] * 8
    assert net.training


@pytest.mark.parametrize("measure", [in_pytorch, onnx_latency_ms])
def test_no_repeats(measure):
    with pytest.raises(ValueError, match="repeats=0: expected at least 1"):
        measure(small_net(), torch.rand(1, 3, 8, 8), repeats=0)


def test_onnx_runtime_computes_the_same():
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    model, images = small_net().train(), torch.rand(2, 3, 8, 8)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert onnx_latency_ms(model, images, repeats=2) > 0
    session = onnx_session(model, images)
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert session.get_session_options().intra_op_num_threads == torch.get_num_threads()
    (found,) = outputs_of(session, images)
    expected = model.eval()(images)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_onnx_runtime_runs_a_detector():
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    model, images = yolo().float().eval(), torch.rand(1, 3, 64, 64)
    assert onnx_latency_ms(model, images, repeats=1) > 0
    found = outputs_of(onnx_session(model, images), images)
    expected = [t for t in leaves(model(images)) if isinstance(t, Tensor)]
    assert [t.shape for t in found] == [t.shape for t in expected]
    for a, b in zip(found, expected, strict=True):
        scale = b.abs().max()
        assert scale > 0
        torch.testing.assert_close(a / scale, b / scale, rtol=0, atol=1e-4)


def test_several_inputs():
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    net = Net(lambda n, x: x, c1=nn.Conv2d(3, 3, 1))
    net.forward = lambda x, y: net.c1(x) - y
    x, y = torch.rand(1, 3, 4, 4), torch.rand(1, 3, 4, 4)
    assert in_pytorch(net, (x, y), repeats=1) > 0
    assert onnx_latency_ms(net, (x, y), repeats=1) > 0
    (found,) = outputs_of(onnx_session(net, (x, y)), x, y)
    torch.testing.assert_close(found, net(x, y), rtol=0, atol=1e-4)


def test_double_precision_is_refused():
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    with pytest.raises(ValueError, match=r"0.weight is float64.*call model.float\(\) first"):
        onnx_latency_ms(small_net().double(), torch.rand(1, 3, 8, 8, dtype=torch.float64))


def test_what_to_install_is_said(monkeypatch):
    imported = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "onnxruntime":
            raise ImportError("No module named 'onnxruntime'")
        return imported(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match="pip install onnx onnxruntime"):
        onnx_latency_ms(small_net(), torch.rand(1, 3, 8, 8))


def test_a_device_that_onnx_runtime_does_not_know():
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    with pytest.raises(ValueError, match="the model is on meta, where the installed ONNX Runtime has no meta"):
        onnx_latency_ms(small_net().to("meta"), torch.rand(1, 3, 8, 8, device="meta"))
