"""YOLOv7 and YOLOv7-tiny: the published bodies, heads of any width, and all that a model goes through."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from ultralytics import YOLO
from ultralytics.nn.modules import Conv

from yolo_slim.callbacks import prune_module
from yolo_slim.commands.entry import main
from yolo_slim.detection import YOLODetector, load_network, save_ultralytics
from yolo_slim.detection.files.checkpoints import save_weights
from yolo_slim.detection.network.build import build_network
from yolo_slim.detection.network.shipped import shipped_model
from yolo_slim.documents import read_yaml
from yolo_slim.pruning import Importance, Selection

IMAGES = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def described(name: str, **keys) -> dict:
    return {**read_yaml(shipped_model(f"{name}.yaml")), **keys}


def answers(net: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return net.eval()(IMAGES)[0]


@pytest.mark.parametrize(("name", "layers", "parameters"), [("yolov7-tiny", 55, 5_997_856), ("yolov7", 89, 36_470_688)])
def test_the_body_is_the_published_one(name, layers, parameters, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # found from anywhere
    body = build_network(f"{name}.yaml", 80).model[:-1]
    assert sum(isinstance(module, Conv) for module in body.modules()) == layers
    assert sum(parameter.numel() for parameter in body.parameters()) == parameters
    activation = "LeakyReLU" if name == "yolov7-tiny" else "SiLU"
    assert {type(module.act).__name__ for module in body.modules() if isinstance(module, Conv)} == {activation}


def test_a_head_of_other_widths():
    net = build_network(described("yolov7-tiny", head_width=[24, 16]), 3)
    head = net.model[-1]
    for branch, width, outputs in ((head.cv2, 24, 64), (head.cv3, 16, 3)):
        for level, taken in zip(branch, (128, 256, 512), strict=True):
            sizes = [(layer.conv.in_channels, layer.conv.out_channels, layer.bn.num_features) for layer in level[:2]]
            assert sizes == [(taken, width, width), (width, width, width)]
            assert (level[2].in_channels, level[2].out_channels) == (width, outputs)
    assert head.cv3[0][2].bias.mean() < -5  # few objects, to begin with
    assert answers(net).shape == (1, 7, 84)


@pytest.mark.parametrize("widths", [[16], [0, 16], ["a", 16], 16, [16, 5000]])
def test_widths_that_are_none(widths):
    with pytest.raises(ValueError, match="expected channels of both branches"):
        build_network(described("yolov7-tiny", head_width=widths), 3)


def test_a_head_of_another_kind_has_no_widths():
    net = build_network("yolo11n.yaml", 3)
    with pytest.raises(ValueError, match="a head of another kind than YOLOv8's"):
        build_network({**net.yaml, "head_width": [16, 16]}, 3)


@pytest.mark.parametrize("keys", [{}, {"head_width": [16, 24]}, {"activation": "nn.ReLU()"}])
def test_it_is_pruned_and_reloaded(keys, tmp_path):
    torch.manual_seed(0)
    detector = YOLODetector(described("yolov7-tiny", **keys), {0: "a", 1: "b"}, imgsz=64)
    dense = copy.deepcopy(detector.net)
    report = prune_module(detector, Selection(max_flops="50%"), importance=Importance("l1"))
    assert report.error < 1e-4
    assert report.flops_after <= 0.5 * report.flops_before
    assert sum(layer.before > layer.after for layer in report.layers) > 20
    for net in (dense, detector.net):
        save_weights(net, tmp_path / "own.ckpt", imgsz=64)
        save_ultralytics(net, tmp_path / "stock.pt", imgsz=64)
        assert torch.equal(answers(load_network(tmp_path / "own.ckpt")), answers(net))
        stock = YOLO(tmp_path / "stock.pt").model.float()
        assert torch.equal(answers(load_network(tmp_path / "stock.pt")), answers(stock))
        assert answers(stock).shape == answers(net).shape


def test_yolov7_is_pruned_exactly():
    torch.manual_seed(0)
    detector = YOLODetector(described("yolov7", head_width=[16, 16]), {0: "a"}, imgsz=64)
    report = prune_module(detector, Selection(ratio=0.5), importance=Importance("l1"))
    assert report.error < 1e-4
    assert report.parameters_after < 0.5 * report.parameters_before


def test_the_recipe_takes_it(tmp_path, monkeypatch, shapes_dir):
    monkeypatch.chdir(tmp_path)
    data = str(shapes_dir / "data.yaml")
    quick = ["imgsz=64", "workers=0", "batch=4", "device=cpu", "--sparse.enabled", "false"]
    main(["slim", "yolov7-tiny.yaml", data, *quick, "--epochs", "1", "--max-flops", "60%"])
    slim = load_network(Path("runs/slim/finetune/best.ckpt"))
    assert type(slim.model[0].act).__name__ == "LeakyReLU"
    assert sum(parameter.numel() for parameter in slim.parameters()) < 6_000_000
