"""Files for stock Ultralytics: what is in them, and what is not."""

from __future__ import annotations

import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from ultralytics import YOLO
from ultralytics.nn.tasks import load_checkpoint

from tests.helpers.stock.nets import slim_with_statistics
from yolo_slim.detection.files.stock import save_ultralytics
from yolo_slim.detection.files.weights import load_network
from yolo_slim.detection.network.tracing import raw_outputs

NAMES = {0: "car", 1: "bus"}
FORMS = [(half, fused) for half in (False, True) for fused in (False, True)]


@pytest.fixture
def net() -> nn.Module:
    """A slim network with statistics of its own."""
    return slim_with_statistics(NAMES)


def read(path: Path) -> dict:
    return torch.load(path, weights_only=False)


@pytest.mark.parametrize(("half", "fused"), FORMS)
def test_stock_classes_and_plain_data_only(net, tmp_path, half, fused):
    save_ultralytics(net, tmp_path / "x.pt", imgsz=64, half=half, fused=fused)
    needed = set(torch.serialization.get_unsafe_globals_in_checkpoint(tmp_path / "x.pt"))
    strange = {name for name in needed if not name.startswith(("ultralytics.nn.", "torch.nn.modules."))}
    assert strange == ({"builtins.getattr"} if fused else set())  # how a bound method is pickled


@pytest.mark.parametrize(("half", "fused"), FORMS)
def test_outputs_are_those_of_the_network(net, tmp_path, half, fused):
    save_ultralytics(net, tmp_path / "x.pt", imgsz=64, half=half, fused=fused)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = raw_outputs(net.eval(), images)
        for back in (load_checkpoint(tmp_path / "x.pt")[0], load_network(tmp_path / "x.pt").eval()):
            for a, b in zip(expected, raw_outputs(back, images), strict=True):
                assert (a - b).abs().max() < (1e-2 if half else 1e-5) * a.abs().max()


def test_full_precision_is_exact_and_half_is_rounded(net, tmp_path):
    for half in (False, True):
        save_ultralytics(net, tmp_path / "x.pt", imgsz=64, half=half)
        saved = read(tmp_path / "x.pt")["model"].state_dict()
        for name, value in net.state_dict().items():
            assert torch.equal(saved[name], value.half() if half and value.is_floating_point() else value)


def test_the_network_stays_as_it_is(net, tmp_path):
    net.args = SimpleNamespace(box=1.0)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    save_ultralytics(net, tmp_path / "x.pt", imgsz=64, fused=True)
    assert net.training
    assert net.args == SimpleNamespace(box=1.0)
    assert [name for name, p in net.named_parameters() if not p.requires_grad] == ["model.22.dfl.conv.weight"]
    assert before.keys() == net.state_dict().keys()
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_what_a_file_says_of_itself(net, tmp_path):
    save_ultralytics(net, tmp_path / "x.pt", imgsz=96)
    content = read(tmp_path / "x.pt")
    assert content["epoch"] == -1
    assert content["ema"] is None
    assert content["optimizer"] is None
    assert content["train_args"] == {"task": "detect", "imgsz": 96}
    model = YOLO(tmp_path / "x.pt")
    assert (model.task, model.names, model.overrides["imgsz"]) == ("detect", NAMES, 96)
    assert model.model.yaml["nc"] == model.model.model[-1].nc == 2
    assert model.model.stride.tolist() == [8, 16, 32]
    assert model.info()[1] == sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("kind", [dict, SimpleNamespace])
def test_nothing_of_this_machine_or_an_earlier_training(net, tmp_path, kind):
    net.args, net.pt_path = kind(data="/home/secret/data.yaml", task="detect"), "/home/secret/old.pt"
    net.criterion = net.init_criterion() if kind is SimpleNamespace else None
    net.eval()(torch.rand(1, 3, 320, 320))  # leaves anchors of this size behind
    save_ultralytics(net, tmp_path / "x.pt", imgsz=64)
    with zipfile.ZipFile(tmp_path / "x.pt") as archive:
        (pickled,) = (archive.read(name) for name in archive.namelist() if name.endswith("data.pkl"))
    assert b"secret" not in pickled
    assert b"Loss" not in pickled
    assert read(tmp_path / "x.pt")["model"].model[-1].anchors.numel() == 0


@pytest.mark.parametrize(("value", "half", "why"), [(1e6, True, "65504"), (float("nan"), False, "diverged")])
def test_values_that_a_file_cannot_hold(net, tmp_path, value, half, why):
    net.model[0].bn.running_var[0] = value
    with pytest.raises(ValueError, match=f"x.pt is not written: model.0.bn.running_var.*{why}"):
        save_ultralytics(net, tmp_path / "x.pt", imgsz=64, half=half)
    assert not list(tmp_path.iterdir())


def test_large_values_fit_full_precision(net, tmp_path):
    net.model[0].bn.running_var[0] = 1e6
    save_ultralytics(net, tmp_path / "x.pt", imgsz=64, half=False)
    assert load_network(tmp_path / "x.pt").model[0].bn.running_var[0] == 1e6


def test_whole_or_not_at_all(net, tmp_path, monkeypatch):
    def fails(path, content):
        with path.open("wb") as file:
            file.write(content[:9])
        raise OSError("disk full")

    (tmp_path / "x.pt").write_text("before")
    monkeypatch.setattr(Path, "write_bytes", fails)
    with pytest.raises(OSError, match="disk full"):
        save_ultralytics(net, tmp_path / "x.pt", imgsz=64)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"before"]
