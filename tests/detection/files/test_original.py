"""Files of the original YOLOv5 and YOLOv7 repositories: every number of the body arrives, under a head of ours."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.helpers.hostile.refused import refused
from tests.helpers.stock import original
from yolo_slim.commands.entry import main
from yolo_slim.detection import YOLODetector, load_network
from yolo_slim.detection.data.shapes import CLASSES
from yolo_slim.detection.network.fresh_head import has_fresh_head

FILES = {"yolov5": original.YOLOV5, "yolov7-tiny": original.TINY, "yolov7": original.YOLOV7}
IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def built(name: str) -> nn.Module:
    torch.manual_seed(0)
    return original.lively(original.Model(copy.deepcopy(FILES[name]), ["ring", "box"]))


def maps(net: nn.Module) -> list[torch.Tensor]:
    """What the head of a network of ours reads."""
    read = []
    hook = net.model[-1].register_forward_pre_hook(lambda module, arguments: read.extend(arguments[0]))
    with torch.no_grad():
        net.eval()(IMAGES)
    hook.remove()
    return read


@pytest.mark.parametrize("name", FILES)
def test_the_body_computes_the_same(name, tmp_path, caplog):
    model = built(name)
    net = load_network(original.write(model, tmp_path / "x.pt"))
    with torch.no_grad():
        wanted = model.maps(IMAGES)
    for found, map_ in zip(maps(net), wanted, strict=True):
        assert found.shape == map_.shape
        assert float((found - map_).abs().max() / map_.abs().max()) < 1e-6
    assert net.names == {0: "ring", 1: "box"}
    assert has_fresh_head(net)


@pytest.mark.parametrize("kind", ["models__yolo__DetectionModel", "models__yolo__ModelPruned"])
def test_other_names_of_the_network(kind, tmp_path):
    model = built("yolov5")
    net = load_network(original.write(model, tmp_path / "x.pt", **{kind: original.Model}))
    assert has_fresh_head(net)


def test_files_of_the_pruning_tool(tmp_path):
    """Its layers have other names and any widths; the description says those of the dense network."""
    model = built("yolov5")
    block = model.model[2]
    keep = torch.tensor([0, 2, 3, 5, 6])  # of the inner channels of a bottleneck
    first, second = block.m[0].cv1, block.m[0].cv2
    first.conv.weight.data, second.conv.weight.data = first.conv.weight[keep].data, second.conv.weight[:, keep].data
    for key in ("weight", "bias"):
        getattr(first.bn, key).data = getattr(first.bn, key)[keep].data
    for key in ("running_mean", "running_var"):
        setattr(first.bn, key, getattr(first.bn, key)[keep])
    first.conv.out_channels = first.bn.num_features = second.conv.in_channels = len(keep)
    for part in ("backbone", "head"):
        for row in model.yaml[part]:
            row[2] = {"C3": "C3Pruned", "SPPF": "SPPFPruned"}.get(row[2], row[2])
    renamed = {
        "models__yolo__ModelPruned": original.Model,
        "models__pruned_common__C3Pruned": original.C3,
        "models__pruned_common__SPPFPruned": original.SPPF,
        "models__pruned_common__BottleneckPruned": original.Bottleneck,
    }
    net = load_network(original.write(model, tmp_path / "x.pt", **renamed))
    assert net.model[2].m[0].cv1.conv.out_channels == 5
    with torch.no_grad():
        wanted = model.maps(IMAGES)
    for found, map_ in zip(maps(net), wanted, strict=True):
        assert float((found - map_).abs().max() / map_.abs().max()) < 1e-6


class Stranger(nn.Module):
    """A layer that no original repository has."""


@pytest.mark.parametrize("name", ["models__common__Conv2", "models__yolo__ModelX", "models__commonx__Conv"])
def test_a_likeness_is_no_name_of_theirs(name, tmp_path):
    model = built("yolov7-tiny")
    model.model[1].extra = Stranger()
    if "commonx" in name:
        with original.importable():
            import sys
            from types import ModuleType

            sys.modules["models.commonx"] = ModuleType("models.commonx")
            Stranger.__module__, Stranger.__qualname__ = "models.commonx", "Conv"
            sys.modules["models.commonx"].Conv = Stranger
            torch.save({"model": model}, tmp_path / "x.pt")
            del sys.modules["models.commonx"]
            Stranger.__module__, Stranger.__qualname__ = __name__, "Stranger"
    else:
        original.write(model, tmp_path / "x.pt", **{name: Stranger})
    with pytest.raises(ValueError, match="which no Ultralytics detector consists of; it is a file of an original YOLO"):
        load_network(tmp_path / "x.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda y: y["backbone"][0].__setitem__(2, "GhostConv"), "has the layer 'GhostConv'"),
        (lambda y: y["backbone"][1].__setitem__(0, 7), "row 1 reads row 7, which does not come before it"),
        (lambda y: y["head"][-1].__setitem__(2, "Segment"), "its last layer is 'Segment'; expected Detect or IDetect"),
        (lambda y: y["backbone"][1].__setitem__(3, [16, "k", 2]), "expected channels, kernel, stride and padding"),
        (lambda y: y["backbone"][1].__setitem__(3, [16, 3, 1]), "has stride"),
        (lambda y: y.pop("head"), "cannot be read"),
    ],
)
def test_a_description_that_is_not_the_files_is_refused_in_one_line(change, message, tmp_path):
    model = built("yolov7-tiny")
    change(model.yaml)
    file = original.write(model, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"x\.pt") as error:
        load_network(file)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    model = built("yolov5")
    model.names = list(CLASSES)
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
    ],
)
def test_an_untrained_head_is_not_judged(command, file, tmp_path, monkeypatch, shapes_dir, capsys):
    monkeypatch.chdir(tmp_path)
    words = {"FILE": str(file), "DATA": str(shapes_dir / "data.yaml"), "IMAGES": str(shapes_dir / "images/val")}
    line = refused(capsys, [words.get(word, word) for word in command])
    assert "its head is new; train it first" in line


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
