from __future__ import annotations

import pytest
import torch

from yolo_slim.detection.network.build import build_network, fit_classes
from yolo_slim.detection.network.tracing import raw_outputs, trace_network
from yolo_slim.pruning import Selection, prune, structure_of


@pytest.fixture(scope="module")
def slim():
    torch.manual_seed(0)
    net = build_network("yolov8n", nc=3)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.1, 1)
    report = prune(net, trace_network(net), Selection(ratio=0.5))
    return net, report


def test_structure_rebuilds_the_network(slim):
    net, report = slim
    rebuilt = build_network(dict(net.yaml), nc=3, structure=report.structure)
    rebuilt.load_state_dict(net.state_dict())
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(rebuilt.eval()(images)[0], net.eval()(images)[0])


def test_all_layers_are_stock_classes(slim):
    net, report = slim
    assert {type(m).__module__.split(".")[0] for m in net.modules()} == {"torch", "ultralytics"}
    assert report.parameters_after < 0.6 * report.parameters_before
    assert report.error < 1e-5


def test_fixed_are_the_outputs_and_the_dfl(slim):
    net, _ = slim
    graph = trace_network(net)
    prunable = {g.module for g in graph.prunable_gammas() if bool(g.prunable.all())}
    assert len(prunable) == sum(isinstance(m, torch.nn.BatchNorm2d) for m in net.modules())
    sizes = structure_of(net)
    assert all(sizes[f"model.22.cv2.{i}.2"]["out_channels"] == 64 for i in range(3))
    assert all(sizes[f"model.22.cv3.{i}.2"]["out_channels"] == 3 for i in range(3))


def test_other_classes_keep_known_rows():
    net = build_network("yolov8n", nc=3)
    net.names = {0: "cat", 1: "dog", 2: "bird"}
    old = [branch[-1].weight.detach().clone() for branch in net.model[-1].cv3]
    fit_classes(net, {0: "Bird", 1: "horse"})
    head = net.model[-1]
    assert (head.nc, head.no, net.yaml["nc"]) == (2, 66, 2)
    assert net.names == {0: "Bird", 1: "horse"}
    for branch, weight in zip(head.cv3, old, strict=True):
        assert torch.equal(branch[-1].weight[0], weight[2])
        assert not torch.equal(branch[-1].weight[1], weight[1])
    boxes, scores = raw_outputs(net.eval(), torch.rand(1, 3, 64, 64))
    assert (boxes.shape, scores.shape) == ((1, 64, 84), (1, 2, 84))


def test_same_classes_keep_everything():
    net = build_network("yolov8n", nc=2)
    before = [branch[-1] for branch in net.model[-1].cv3]
    fit_classes(net, {0: "a", 1: "b"})
    assert [branch[-1] for branch in net.model[-1].cv3] == before


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        ("yolov8q-nonsense", FileNotFoundError, "not found; expected a YOLOv8 size"),
        ({"nc": 3}, ValueError, "is not a model YAML"),
        ("yolov8n-seg", ValueError, "ends in Segment; expected a detection model"),
    ],
)
def test_bad_models(model, error, message):
    with pytest.raises(error, match=message):
        build_network(model, nc=3)
