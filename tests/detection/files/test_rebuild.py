"""Networks that files hold: what is built anew computes the same, and what would compute something else is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from ultralytics.nn.modules import Conv
from ultralytics.nn.tasks import DetectionModel, RTDETRDetectionModel, SegmentationModel

from tests.helpers.stock.nets import narrow_yaml, slim_with_statistics
from tests.helpers.stock.old_files import example, write_old_file
from yolo_slim.detection.files.checkpoints import save_weights
from yolo_slim.detection.files.rebuild import rebuild
from yolo_slim.detection.files.stock import save_ultralytics
from yolo_slim.detection.files.weights import load_network, read_weights

NAMES = {0: "car", 1: "bus"}


@pytest.fixture(scope="module")
def built() -> Any:
    """A slim network with statistics of its own."""
    return slim_with_statistics(NAMES).eval()


@pytest.fixture
def net(built) -> Any:
    """One to be changed."""
    return copy.deepcopy(built)


def outputs(net: nn.Module, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    net = copy.deepcopy(net).to(dtype).eval()
    with torch.no_grad():
        return net(example().to(dtype))[0]


def written(content: Any, folder: Path) -> Path:
    torch.save(content, folder / "x.pt")
    return folder / "x.pt"


def refusal(content: Any, folder: Path) -> str:
    with pytest.raises(ValueError, match="x.pt") as error:
        load_network(written(content, folder))
    assert "\n" not in str(error.value)
    return str(error.value)


def set_stride(net: Any) -> None:
    net.model[1].conv.stride, net.model[3].conv.stride = (1, 1), (4, 4)


def insert_layer(net: Any) -> None:
    net.model[1].conv = nn.Sequential(net.model[1].conv, nn.Identity())


def leave_out_layer(net: Any) -> None:
    del net.model[2].m[0].cv2


def put_identity(net: Any) -> None:
    net.model[2].m[0] = nn.Identity()


def wider(net: Any) -> None:
    net.model[0].conv.weight = nn.Parameter(torch.cat([net.model[0].conv.weight] * 2))


CHANGES = {
    "stride": (set_stride, "model.1.conv has stride"),
    "padding": (lambda net: setattr(net.model[1].conv, "padding", (0, 0)), "model.1.conv has padding"),
    "padding mode": (lambda net: setattr(net.model[1].conv, "padding_mode", "reflect"), "has padding_mode"),
    "dilation": (lambda net: setattr(net.model[1].conv, "dilation", (2, 2)), "has dilation"),
    "eps": (lambda net: setattr(net.model[4].cv1.bn, "eps", 1e-5), "model.4.cv1.bn has eps 1e-05"),
    "pool": (lambda net: setattr(net.model[9].m, "kernel_size", 7), "model.9.m has kernel_size 7"),
    "shortcut": (lambda net: setattr(net.model[2].m[0], "add", False), "model.2.m.0 has add False"),
    "source": (lambda net: setattr(net.model[11], "f", [-1, 4]), r"model.11 has f [-1, 4]"),
    "upsampling": (lambda net: setattr(net.model[10], "mode", "bilinear"), "model.10 has mode 'bilinear'"),
    "an extra layer": (lambda net: net.model.append(nn.Identity()), "model.23 is Identity"),
    "a layer within": (insert_layer, "model.1.conv is Sequential"),
    "a missing layer": (leave_out_layer, "model.2.m.0.cv2 is nothing"),
    "another layer": (put_identity, "model.2.m.0 is Identity"),
    "another norm": (lambda net: setattr(net.model[1], "bn", nn.InstanceNorm2d(4)), "model.1.bn is InstanceNorm2d"),
    "an activation with settings": (lambda net: setattr(net.model[1], "act", nn.LeakyReLU(0.1)), "act is LeakyReLU"),
    "an activation with parameters": (lambda net: setattr(net.model[1], "act", nn.PReLU()), "act is PReLU"),
    "settings of an activation": (lambda net: setattr(net.model[1], "act", nn.GELU("tanh")), "has approximate 'tanh'"),
    "a size": (wider, "do not fit"),
    "names": (lambda net: setattr(net, "names", {0: "car", 2: "bus"}), "not numbered from 0"),
    "more names": (lambda net: setattr(net, "names", {0: "car", 1: "bus", 2: "van"}), "has nc 2"),
    "the YAML": (lambda net: setattr(net, "yaml", {"nc": 2}), "is not a model YAML"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_its_description_does_not_give_is_refused(what, net, tmp_path):
    change, message = CHANGES[what]
    change(net)
    assert message in refusal({"model": net}, tmp_path)


def test_another_task_or_head_is_refused(net, tmp_path):
    assert "class SegmentationModel" in refusal({"model": skeleton(SegmentationModel)}, tmp_path)
    assert "class RTDETRDetectionModel" in refusal({"model": skeleton(RTDETRDetectionModel)}, tmp_path)
    for head in (["Segment", ["nc", 32, 64]], ["RTDETRDecoder", ["nc"]]):
        config = narrow_yaml()
        config["head"][-1][2:] = head
        changed = copy.deepcopy(net)
        changed.yaml = config
        assert f"ends in {head[0]}" in refusal({"model": changed}, tmp_path)


def skeleton(kind: type) -> Any:
    net = kind.__new__(kind)
    nn.Module.__init__(net)
    return net


@pytest.mark.parametrize("part", ["model", "ema"])
def test_files_without_a_network_are_refused(net, tmp_path, part):
    assert "class OrderedDict" in refusal({part: net.state_dict(), "prune_ratio": 0.4}, tmp_path)
    assert "no model" in refusal({part: None}, tmp_path)


def test_masks_are_refused_until_they_are_made_permanent(net, tmp_path):
    whole, conv = copy.deepcopy(net), net.model[1].conv
    prune.l1_unstructured(conv, "weight", 0.3)
    conv.weight = conv.weight.detach()
    assert "wants torch.nn.utils.prune.L1Unstructured" in refusal({"model": net}, tmp_path)
    conv._forward_pre_hooks.clear()
    assert "do not fit" in refusal({"model": net}, tmp_path)  # weight_orig and weight_mask are left

    prune.l1_unstructured(whole.model[1].conv, "weight", 0.3)
    prune.remove(whole.model[1].conv, "weight")
    assert (load_network(written({"model": whole}, tmp_path)).model[1].conv.weight == 0).float().mean() > 0.29


def test_old_format_of_torch_is_refused(net, tmp_path):
    torch.save({"model": net}, tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match="weights file .*x.pt is "):
        load_network(tmp_path / "x.pt")


@pytest.mark.parametrize("names", [NAMES, ["car", "bus"], ("car", "bus"), None])
def test_class_names(net, tmp_path, names):
    net.names = names
    if names is None:
        del net.names
    assert load_network(written({"model": net}, tmp_path)).names == (NAMES if names else {0: "0", 1: "1"})


@pytest.mark.parametrize("kind", ["ReLU", "Hardswish", "Identity", "Mish"])
def test_another_activation_survives(net, tmp_path, kind):
    net.model[9].cv1.act = getattr(nn, kind)()
    expected, variants = outputs(net), {"model.9.cv1.act": kind}
    back = load_network(written({"model": net}, tmp_path))
    save_weights(back, tmp_path / "x.ckpt", 64)
    save_ultralytics(back, tmp_path / "stock.pt", 64, half=False)
    for again in (back, load_network(tmp_path / "x.ckpt"), load_network(tmp_path / "stock.pt")):
        assert again.variants == variants
        assert outputs(again).equal(expected)


def test_averaged_weights_come_first(net, tmp_path):
    averaged = copy.deepcopy(net)
    for parameter in averaged.parameters():
        parameter.data += 0.01
    back = load_network(written({"model": net, "ema": averaged}, tmp_path))
    assert outputs(back).equal(outputs(averaged))
    assert outputs(load_network(written({"model": net, "ema": None}, tmp_path))).equal(outputs(net))


def test_network_alone(net, tmp_path):
    assert outputs(load_network(written(net, tmp_path))).equal(outputs(net))


def test_halves_of_a_file_that_forgot_them(net, tmp_path):
    """Tools that cut layers in place leave C2f.c as it was; the exporter's forward_split reads it."""
    for module in net.modules():
        if hasattr(module, "forward_split"):
            module.c = 1000
    back = load_network(written({"model": net}, tmp_path))
    assert all(m.c * 2 == m.cv1.conv.out_channels for m in back.modules() if hasattr(m, "forward_split"))
    for module in back.modules():
        if hasattr(module, "forward_split"):
            module.forward = module.forward_split
    with torch.no_grad():
        assert back.eval()(example())[0].equal(outputs(net))


def test_sizes_that_the_attributes_do_not_say(net, tmp_path):
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.in_channels = module.out_channels = 1000
        elif isinstance(module, nn.BatchNorm2d):
            module.num_features = 1000
    back = load_network(written({"model": net}, tmp_path))
    assert outputs(back).equal(outputs(net))
    for module in back.modules():
        if isinstance(module, nn.Conv2d):
            assert (module.out_channels, module.in_channels) == module.weight.shape[:2]
        elif isinstance(module, nn.BatchNorm2d):
            assert module.num_features == module.weight.shape[0]


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_our_own_files_for_stock(net, tmp_path, half, fused):
    save_ultralytics(net, tmp_path / "x.pt", imgsz=96, half=half, fused=fused)
    back, imgsz = read_weights(tmp_path / "x.pt")
    assert (imgsz, back.names, back.variants) == (96, NAMES, {})
    assert [*back.state_dict()] == [*net.state_dict()]
    difference = (outputs(back) - outputs(net)).abs().max()
    assert difference < (0.3 if half else 1e-3 if fused else 1e-9)  # pixels


def test_folded_norms_come_back_as_ones_that_change_nothing(net, tmp_path):
    fused = copy.deepcopy(net).fuse(verbose=False)
    back = load_network(written({"model": fused}, tmp_path))
    expected = outputs(fused, torch.float64)
    # A variance of 1 - eps is not a number in single precision: 1e-8 of it is lost in every layer, and no more.
    assert (outputs(back, torch.float64) - expected).abs().max() < 1e-5
    exact = back.double()
    for module in exact.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.fill_(1 - module.eps)
    assert (outputs(exact, torch.float64) - expected).abs().max() < 1e-9


def test_a_real_network_as_trusted_files_give_it(net):
    assert outputs(rebuild(net, "x")).equal(outputs(net))


def test_the_process_stays_as_it_was(tmp_path):
    """YOLOv6's description sets the activation of all layers that are built after it."""
    load_network(write_old_file("8.2.103_yolov6n", tmp_path))
    assert type(Conv.default_act) is nn.SiLU
    assert type(DetectionModel(narrow_yaml(), verbose=False).model[0].act) is nn.SiLU


def test_file_stays_as_it_is(net, tmp_path):
    path = written({"model": net}, tmp_path)
    before = path.read_bytes()
    back = load_network(path)
    with torch.no_grad():
        for parameter in back.parameters():
            parameter.fill_(1.0)
    assert path.read_bytes() == before
    assert np.isfinite(outputs(load_network(path)).numpy()).all()
