"""Another activation for a whole network: everywhere but in the head's scores and in attention, and it stays."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from torch import nn
from ultralytics import YOLO

from tests.helpers.hostile.pickles import write_small
from tests.helpers.hostile.refused import refused
from yolo_slim.callbacks import prune_module
from yolo_slim.commands.entry import main
from yolo_slim.detection import YOLODetector, load_network, save_ultralytics
from yolo_slim.detection.data.shapes import CLASSES
from yolo_slim.detection.export.export import export_network
from yolo_slim.detection.export.formats import ExportOptions
from yolo_slim.detection.files.checkpoints import save_weights
from yolo_slim.detection.network.activation import CHOICES, activation_of, spelled, with_activation
from yolo_slim.detection.network.build import build_network
from yolo_slim.pruning import Importance, Selection

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def answers(net: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return net.eval()(IMAGES)[0]


def kinds(net: nn.Module) -> set[str]:
    known = {"SiLU", "ReLU", "ReLU6", "LeakyReLU", "Hardswish"}
    return {type(module).__name__ for module in net.modules()} & known


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    net = build_network("yolov8n.yaml", 2)
    net.names = {0: "a", 1: "b"}
    return net


@pytest.mark.parametrize("model", ["yolov8n", "yolo11n", "yolov9t", "yolov10n", "yolo12n", "yolo26n"])
def test_no_layer_of_a_detector_keeps_the_old_one(model):
    net = build_network(f"{model}.yaml", 2)
    swapped = with_activation(net, "nn.ReLU()")
    assert kinds(swapped) == {"ReLU"}
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in swapped.state_dict().items())
    assert not torch.equal(answers(swapped), answers(net))
    back = with_activation(swapped, "SiLU")
    assert torch.equal(answers(back), answers(net))


def test_the_same_activation_changes_nothing(net):
    assert with_activation(net, "nn.SiLU()") is net
    assert with_activation(net, "silu") is net


@pytest.mark.parametrize("choice", CHOICES)
def test_each_of_them_is_what_it_says(net, choice):
    swapped = with_activation(net, choice)
    activation = swapped.model[0].act
    wanted = eval(choice, {"nn": nn})
    x = torch.linspace(-8, 8, 50)
    assert torch.equal(activation(x.clone()), wanted(x.clone()))
    assert activation_of(swapped) == choice


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("ReLU", "nn.ReLU()"),
        ("torch.nn.ReLU6()", "nn.ReLU6()"),
        ("nn.leakyrelu(0.1)", "nn.LeakyReLU(0.1)"),
        ("nn.Hardswish", "nn.Hardswish()"),
    ],
)
def test_ways_to_write_it(written, meant):
    assert spelled(written) == meant


@pytest.mark.parametrize("activation", ["nn.GELU()", "nn.LeakyReLU(0.2)", "__import__('os')", ""])
def test_unknown_ones_are_refused(activation):
    with pytest.raises(ValueError, match=r"model.activation=.* is unknown, expected one of nn.SiLU\(\), nn.ReLU\(\)"):
        YOLODetector("yolov8n.yaml", activation=activation)


def test_a_layer_with_an_activation_of_its_own_is_named():
    with pytest.raises(ValueError, match="has its own SiLU, which cannot become it"):
        with_activation(build_network("yolov10n.yaml", 2), "nn.LeakyReLU(0.1)")


@pytest.mark.parametrize("model", ["yolov8n", "yolov10n"])
def test_files_rebuild_it(model, tmp_path):
    torch.manual_seed(0)
    detector = YOLODetector(f"{model}.yaml", {0: "a", 1: "b"}, imgsz=64, activation="ReLU")
    prune_module(detector, Selection(ratio=0.3), importance=Importance("l1"))
    wanted = answers(detector.net)
    save_weights(detector.net, tmp_path / "own.ckpt", imgsz=64)
    save_ultralytics(detector.net, tmp_path / "stock.pt", imgsz=64)
    own, reread = load_network(tmp_path / "own.ckpt"), load_network(tmp_path / "stock.pt")
    assert torch.equal(answers(own), wanted)
    assert kinds(own) == kinds(reread) == {"ReLU"}
    stock = YOLO(tmp_path / "stock.pt").model.float()
    assert kinds(stock) == {"ReLU"}
    assert torch.equal(answers(reread), answers(stock))  # both in the half precision of the file


def test_an_onnx_file_holds_no_sigmoid_outside_of_the_head(net, tmp_path):
    onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install .[export]")
    pytest.importorskip("onnxslim", reason="onnxslim is not installed: pip install .[export]")
    counts = {}
    for choice in ("nn.SiLU()", "nn.ReLU()"):
        file = export_network(with_activation(net, choice), "onnx", ExportOptions(imgsz=64), tmp_path, choice[3:7])
        counts[choice] = sum(node.op_type == "Sigmoid" for node in onnx.load(file).graph.node)
    assert counts["nn.SiLU()"] > 50
    assert counts["nn.ReLU()"] == 1  # that of the scores


@pytest.fixture
def weights(tmp_path) -> Path:
    torch.manual_seed(0)
    net = build_network(yaml.safe_load(write_small(tmp_path).read_text()), nc=len(CLASSES))
    net.names = dict(enumerate(CLASSES))
    save_weights(net, tmp_path / "small.ckpt", imgsz=64)
    return tmp_path / "small.ckpt"


def test_a_fit_says_that_it_is_needed_and_keeps_it(weights, tmp_path, monkeypatch, shapes_dir, capsys, caplog):
    monkeypatch.chdir(tmp_path)
    data = str(shapes_dir / "data.yaml")
    rest = [data, "workers=0", "batch=4", "device=cpu"]
    command = ["fit", str(weights), *rest, "epochs=2"]
    main([*command[:-1], "epochs=1", "--model.activation", "ReLU"])
    said = capsys.readouterr()
    assert "was trained with nn.SiLU() and has nn.ReLU() now: it needs a fit" in said.out + said.err + caplog.text
    assert kinds(load_network("runs/fit/last.ckpt")) == {"ReLU"}
    main(["fit", *rest, "epochs=2", "--model.activation", "ReLU", "--ckpt_path", "runs/fit/last.ckpt"])
    assert kinds(load_network("runs/fit-2/last.ckpt")) == {"ReLU"}
    main(["slim", str(weights), *rest, "--epochs", "2", "--model.activation", "nn.Hardswish()"])
    assert kinds(load_network("runs/slim/finetune/last.ckpt")) == {"Hardswish"}
    assert "is unknown" in refused(capsys, [*command, "--model.activation", "nn.Tanh()"])
