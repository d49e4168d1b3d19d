"""Files of the original YOLOv5 and YOLOv7 repositories: every number of the body arrives, under a head of ours."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from tests.helpers.stock import original
from yolo_slim.detection import has_fresh_head, load_network
from yolo_slim.detection.files.checkpoints import save_weights
from yolo_slim.pruning import Importance, Selection, importance_scores, prune, trace

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
def test_the_body_computes_the_same(name, tmp_path):
    model = built(name)
    net = load_network(original.write(model, tmp_path / "x.pt"))
    assert difference(net, model) < 1e-6
    assert net.names == {0: "ring", 1: "box"}
    assert has_fresh_head(net)


def difference(net: nn.Module, model: nn.Module) -> float:
    """The largest between what the heads read, relative to the largest number of a map."""
    with torch.no_grad():
        wanted = model.maps(IMAGES)
    found = maps(net)
    assert [map_.shape for map_ in found] == [map_.shape for map_ in wanted]
    return max(float((f - w).abs().max() / w.abs().max()) for f, w in zip(found, wanted, strict=True))


def test_names_as_version_7_has_them(tmp_path):
    """Its network is called DetectionModel, its class names are numbered, and all layers share one activation."""
    model = built("yolov5")
    model.names = {0: "ring", 1: "box"}
    act = nn.SiLU()
    for module in model.modules():
        if isinstance(module, original.Conv):
            module.act = act
    net = load_network(original.write(model, tmp_path / "x.pt", models__yolo__DetectionModel=original.Model))
    assert difference(net, model) < 1e-6
    assert net.names == {0: "ring", 1: "box"}
    assert has_fresh_head(net)


@pytest.mark.parametrize("said_as", ["names", "classes"])
def test_files_of_the_pruning_tool(said_as, tmp_path):
    """Its layers have other names and any widths; the description says those of the dense network.

    In place of the names of layers it leaves their classes there.
    """
    model = built("yolov5")
    dense = sum(p.numel() for p in model.parameters())
    graph = trace(model, IMAGES[:1])
    scores = importance_scores(model, graph, Importance("l2"))
    prune(model, graph, Selection(ratio=0.4, min_channels=3, round_to=1), scores, example_inputs=IMAGES[:1])
    assert sum(p.numel() for p in model.parameters()) < 0.6 * dense
    classes = {**vars(original), "nn.Upsample": nn.Upsample}
    for row in model.yaml["backbone"] + model.yaml["head"]:
        if said_as == "classes":
            row[2] = classes[row[2]]
        else:
            row[2] = {"C3": "C3Pruned", "SPPF": "SPPFPruned"}.get(row[2], row[2])
    model.maskbndict, model.from_to_map = {"model.0.bn": torch.ones(16)}, {"model.1.bn": "model.0.bn"}
    net = load_network(original.write(model, tmp_path / "x.pt", **original.PRUNED))
    assert difference(net, model) < 1e-6
    widths = {name: m.out_channels for name, m in model.named_modules() if type(m) is nn.Conv2d and ".24." not in name}
    assert {name: net.get_submodule(name).out_channels for name in widths} == widths
    (tmp_path / "runs").mkdir()
    save_weights(net, tmp_path / "runs/own.ckpt", imgsz=64)
    assert difference(load_network(tmp_path / "runs/own.ckpt"), model) < 1e-6


def test_the_average_is_taken_and_the_optimizer_left(tmp_path):
    average, model = built("yolov5"), built("yolov5")
    for parameter in model.parameters():
        parameter.data.zero_()
    net = load_network(original.write(model, tmp_path / "x.pt", average))
    assert difference(net, average.float()) < 1e-6
    assert {tensor.dtype for tensor in net.state_dict().values() if tensor.dim()} == {torch.float32}


def test_layers_without_batchnorm(tmp_path):
    """As the original repositories' ``fuse`` leaves them, and RepConv as it is deployed."""
    model = built("yolov7")
    for module in model.modules():
        if isinstance(module, original.Conv):
            module.conv, module.bn = fuse_conv_bn_eval(module.conv, module.bn), nn.Identity()
        elif isinstance(module, original.RepConv):
            module.__class__ = Deployed
            module.rbr_reparam = nn.Conv2d(*module.rbr_dense[0].weight.shape[1::-1], 3, 1, 1)
            del module.rbr_dense, module.rbr_1x1, module.rbr_identity
    model.half().float()
    for module in model.modules():
        if isinstance(module, original.Conv):
            del module.bn
    file = original.write(model, tmp_path / "x.pt", models__common__RepConv=Deployed)
    for module in model.modules():
        if isinstance(module, original.Conv):
            module.bn = nn.Identity()
    assert difference(load_network(file), model) < 1e-6


class Deployed(nn.Module):
    """RepConv as it is deployed."""

    def forward(self, x):
        return self.act(self.rbr_reparam(x))


def test_what_is_kept_is_said_once(tmp_path, caplog):
    file = original.write(built("yolov5"), tmp_path / "x.pt")
    with caplog.at_level("INFO"):
        load_network(file)
        load_network(file)
    assert caplog.text.count("M numbers of its body are kept; its head is new and has to be trained") == 1


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
        (lambda y: y["backbone"][1].__setitem__(0, 7), "row 1 reads 7, and its layer -1"),
        (lambda y: y["backbone"][6].__setitem__(3, [3]), "model.6 has kernel_size 2, its description gives 3"),
        (lambda y: y["head"][2].__setitem__(3, [7]), "model.14 has kernel_size 5, its description gives 7"),
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


def _row(model: nn.Module, index: int, source: int) -> None:
    rows = model.yaml["backbone"]
    rows[index][0] = model.model[index].f = source


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: _row(m, 1, 7), "row 1 reads row 7, which does not come before it"),
        (lambda m: setattr(m.model[3], "gate", nn.Conv2d(16, 16, 1)), "model.3 (MP) has 'gate', which no such layer"),
        (lambda m: setattr(m.model[10], "gate", nn.ReLU()), "model.10 (SPPCSPC) has 'gate', which no such layer has"),
        (lambda m: m.model[10].m.append(nn.MaxPool2d(3)), "model.10 (SPPCSPC) has 'm.3', which no such layer has"),
        (lambda m: m.model[10].m[1].__setattr__("stride", 2), "model.14 has stride 2, its description gives 1"),
        (lambda m: m.model[15].rbr_dense.append(nn.ReLU()), "model.15 (RepConv) has 'rbr_dense.2'"),
        (lambda m: setattr(m.model[7], "d", 2), "model.7 has d 2, its description gives 1"),
        (lambda m: delattr(m.model[15], "rbr_1x1"), "a RepConv lacks rbr_1x1.0.weight"),
        (lambda m: m.model[15].register_parameter("scale", nn.Parameter(torch.ones(1))), "(RepConv) has 'scale'"),
        (lambda m: setattr(m.model[15].rbr_dense[0], "bias", nn.Parameter(torch.ones(32))), "has a bias"),
        (lambda m: setattr(m.model[2], "act", nn.GELU()), "its activation is nn.GELU(), nn.SiLU(); expected one of"),
    ],
)
def test_layers_that_are_not_those_of_the_description_are_refused(change, message, tmp_path):
    model = built("yolov7")
    change(model)
    with pytest.raises(ValueError, match=r"x\.pt") as error:
        load_network(original.write(model, tmp_path / "x.pt"))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def _resize(model: nn.Module, **sizes: tuple[int, ...]) -> None:
    """Gives tensors of a RepConv other shapes, by their names with double underscores."""
    for name, shape in sizes.items():
        owner, _, key = name.replace("__", ".").rpartition(".")
        module = model.model[15].get_submodule(owner)
        kept = module._buffers if key in module._buffers else module._parameters
        kept[key] = torch.ones(shape) if key in module._buffers else nn.Parameter(torch.ones(shape))


@pytest.mark.parametrize(
    "sizes",
    [
        {"rbr_dense__1__running_var": (300_000, 1)},
        {"rbr_dense__1__weight": (1, 300_000)},
        {"rbr_dense__0__weight": (32, 16, 1, 1)},
        {"rbr_dense__0__weight": (32,)},
        {"rbr_dense__0__weight": (1, 1, 3, 3)},
        {"rbr_1x1__0__weight": (32, 1, 1, 1)},
        {"rbr_1x1__0__weight": (32, 32, 1, 300)},
        {f"rbr_identity__{key}": (300_000,) for key in ("weight", "bias", "running_mean", "running_var")},
    ],
)
def test_branches_cannot_claim_more_than_the_file_holds(sizes, tmp_path):
    """Numbers of other shapes would be spread over each other, to tensors of any size."""
    model = built("yolov7")
    _resize(model, **sizes)
    with pytest.raises(ValueError, match="of a RepConv have sizes that do not fit each other"):
        load_network(original.write(model, tmp_path / "x.pt"))
