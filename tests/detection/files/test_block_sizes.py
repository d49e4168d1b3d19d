"""Networks whose blocks keep sizes of their own, pruned, come back from each kind of file."""

from __future__ import annotations

import pytest
import torch
from ultralytics import YOLO

from tests.helpers.detectors import data_for
from yolo_slim.detection import YOLODetector, load_network, save_ultralytics
from yolo_slim.detection.files.record import NetworkRecord
from yolo_slim.detection.network.build import build_network
from yolo_slim.detection.network.tracing import size_attributes, trace_network
from yolo_slim.pruning import Importance, Selection, importance_scores, prune
from yolo_slim.workflow import PruneSettings, prune_file


@pytest.mark.parametrize("model", ["yolov10n.yaml", "yolo11n.yaml", "yolo26n.yaml"])
def test_pruned_attention_comes_back(tmp_path, shapes_dir, model):
    data = data_for(shapes_dir)
    torch.manual_seed(0)
    save_ultralytics(YOLODetector(model, data.names, imgsz=64).net, tmp_path / "dense.pt", 64, half=False)
    settings = PruneSettings(Selection(ratio=0.5, min_channels=4), Importance("random"))
    prune_file(str(tmp_path / "dense.pt"), settings, tmp_path, data, 64)
    slim = load_network(tmp_path / "slim.ckpt").eval()
    sizes = {
        name: (m.num_heads, m.key_dim, m.head_dim, m.scale) for name, m in slim.named_modules() if hasattr(m, "key_dim")
    }
    dense = load_network(tmp_path / "dense.pt")
    assert sizes
    for name, (heads, key, value, scale) in sizes.items():
        before = dense.get_submodule(name)
        assert (heads, scale) == (before.num_heads, before.scale)
        assert key < before.key_dim
        assert value < before.head_dim
    save_ultralytics(slim, tmp_path / "slim.pt", 64, half=False)
    stock = YOLO(tmp_path / "slim.pt").model.float().eval()
    again = load_network(tmp_path / "slim.pt").eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = slim(images)
        for network in (stock, again):
            found = network(images)
            torch.testing.assert_close(found[0], expected[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "model",
    [
        *("yolov3-tiny", "yolov5n", "yolov6n", "yolov8n", "yolov8n-ghost", "yolov9t", "yolov9e"),
        *("yolov10n", "yolov10x", "yolo11n", "yolo12n", "yolo26n"),
    ],
)
def test_a_file_keeps_every_attribute_that_a_prune_changes(model):
    net = build_network(f"{model}.yaml", 3)
    changed = {f"{attribute.module}:{attribute.name}" for attribute in trace_network(net).attributes}
    assert changed <= set(size_attributes(net))


def test_a_network_that_cuts_a_layer_into_parts_comes_back(tmp_path):
    """YOLOv9-E, of which CBLinear blocks feed several places."""
    torch.manual_seed(0)
    net = build_network("yolov9e.yaml", 3)
    graph = trace_network(net)
    prune(net, graph, Selection(ratio=0.7), importance_scores(net, graph, Importance("random")))
    save_ultralytics(net, tmp_path / "slim.pt", 64, half=False)
    files = [load_network(tmp_path / "slim.pt"), NetworkRecord.of(net, 64).build()]
    files[1].load_state_dict(net.state_dict())
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = net.eval()(images)[0]
        for found in files:
            torch.testing.assert_close(found.eval()(images)[0], expected, rtol=1e-4, atol=1e-4)
