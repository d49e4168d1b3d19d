"""SlimTrainer: stock Ultralytics trains a slim network and it stays slim."""

from __future__ import annotations

import ast
import importlib.util
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from ultralytics import YOLO
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.nn.tasks import SegmentationModel

from tests.helpers.ddp.launch import run
from tests.helpers.places import ROOT
from tests.helpers.stock.nets import halve, new_detector
from yolo_slim.detection.data.shapes import CLASSES
from yolo_slim.detection.files.stock import save_ultralytics
from yolo_slim.detection.files.weights import load_network
from yolo_slim.detection.network.build import fit_classes
from yolo_slim.detection.training.stock_trainer import SlimTrainer

NAMES = dict(enumerate(CLASSES))
OTHER_NAMES = {0: "dog", 1: "star"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with slim.pt of the classes of the shapes, other.pt of others, fused.pt, and dense ones."""
    folder = tmp_path_factory.mktemp("files")
    for name, names in (("slim", NAMES), ("other", OTHER_NAMES)):
        detector = new_detector(names)
        save_ultralytics(detector.net, folder / f"dense_{name}.pt", imgsz=64, half=False)
        halve(detector)
        save_ultralytics(detector.net, folder / f"{name}.pt", imgsz=64, half=False)
    save_ultralytics(detector.net, folder / "fused.pt", imgsz=64, fused=True)
    many = new_detector({i: f"class {i}" for i in range(40)})  # which makes the branch of the classes wider
    fit_classes(many.net, OTHER_NAMES)
    save_ultralytics(many.net, folder / "dense_wide.pt", imgsz=64, half=False)
    return folder


class Run:
    """One training: the network at its start, the model that YOLO holds after it, and the folder of its files."""

    def __init__(self, file: Path, data: Path, folder: Path, **settings: Any) -> None:
        self.model, self.start = YOLO(file), {}
        self.model.add_callback("on_train_start", self._keep)
        given = {"trainer": SlimTrainer, "data": str(data / "data.yaml"), "epochs": 1, "imgsz": 64, "batch": 6}
        given |= {"device": "cpu", "plots": False, "project": str(folder), "name": "run", "optimizer": "SGD"}
        self.model.train(**{**given, **settings})
        self.weights = folder / "run" / "weights"

    def _keep(self, trainer: Any) -> None:
        self.start = {name: value.clone() for name, value in trainer.model.state_dict().items()}
        self.frozen = [name for name, p in trainer.model.named_parameters() if not p.requires_grad]


def channels(net: Any) -> list[int]:
    return [m.out_channels for m in net.modules() if isinstance(m, nn.Conv2d)]


def test_a_slim_network_is_trained_and_stays_slim(files, shapes_dir, tmp_path):
    slim = load_network(files / "slim.pt")
    run = Run(files / "slim.pt", shapes_dir, tmp_path)
    assert run.start.keys() == slim.state_dict().keys()
    assert all(torch.equal(run.start[name], value) for name, value in slim.state_dict().items())
    assert run.frozen == ["model.22.dfl.conv.weight"]
    last = run.model.trainer.model.state_dict()
    resting = {name for name, p in slim.named_parameters() if torch.equal(last[name], p)}
    assert all(name.startswith("model.22.") for name in resting)  # boxes of sizes that the few images do not have
    assert channels(run.model.model) == channels(slim)
    assert run.model.names == NAMES
    for file in (run.weights / "best.pt", run.weights / "last.pt"):
        assert channels(YOLO(file).model) == channels(load_network(file)) == channels(slim)
        assert len(YOLO(file).predict(torch.rand(1, 3, 64, 64), verbose=False)) == 1


def test_the_stock_trainer_would_rebuild_the_full_network(files, shapes_dir, tmp_path):
    run = Run(files / "slim.pt", shapes_dir, tmp_path, trainer=None)
    assert channels(run.model.model) == channels(load_network(files / "dense_slim.pt"))


def test_classes_of_the_data_are_fitted(files, shapes_dir, tmp_path):
    other = load_network(files / "other.pt")
    run = Run(files / "other.pt", shapes_dir, tmp_path)
    differing = [(a, b) for a, b in zip(channels(other), channels(run.model.model), strict=True) if a != b]
    assert differing == [(2, 5)] * 3
    star = list(NAMES.values()).index("star")
    for branch in range(3):
        name = f"model.22.cv3.{branch}.2.weight"
        assert torch.equal(run.start[name][star], other.state_dict()[name][1])
    assert run.model.names == load_network(run.weights / "best.pt").names == NAMES


def test_the_network_is_trainable_and_a_copy(files):
    trainer: Any = SimpleNamespace(data={"names": NAMES, "channels": 3}, args=SimpleNamespace())
    weights = YOLO(files / "slim.pt").model
    net = SlimTrainer.get_model(trainer, weights=weights)
    assert net.training
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    assert [name for name, p in net.named_parameters() if not p.requires_grad] == ["model.22.dfl.conv.weight"]
    assert not {id(p) for p in net.parameters()} & {id(p) for p in weights.parameters()}
    assert not weights.training


def test_layers_of_another_version_are_kept(files):
    """Of the same shapes as the description's, so that the stock trainer would train another network."""
    trainer: Any = SimpleNamespace(data={"names": NAMES, "channels": 3}, args=SimpleNamespace())
    weights = load_network(files / "dense_slim.pt")
    weights.model[9].cv1.act = nn.Identity()
    assert type(SlimTrainer.get_model(trainer, weights=weights).model[9].cv1.act) is nn.Identity


def test_rows_are_not_matched_by_name_without_cls_remap(files):
    trainer: Any = SimpleNamespace(data={"names": {0: "star", 1: "dog"}, "channels": 3}, args=SimpleNamespace())
    other = load_network(files / "other.pt")
    name, rows = "model.22.cv3.0.2.weight", {}
    for remap in (True, False):
        trainer.args.cls_remap = remap
        rows[remap] = SlimTrainer.get_model(trainer, weights=other).state_dict()[name]
    assert torch.equal(rows[True], other.state_dict()[name].flip(0))
    assert torch.equal(rows[False], other.state_dict()[name])


@pytest.mark.parametrize("file", ["dense_slim.pt", "dense_other.pt", "dense_wide.pt"])
def test_a_dense_network_is_trained_as_by_the_stock_trainer(files, shapes_dir, tmp_path, file):
    runs = [Run(files / file, shapes_dir, tmp_path / t.__name__, trainer=t) for t in (SlimTrainer, DetectionTrainer)]
    for ours, stock in ([r.start for r in runs], [r.model.trainer.model.state_dict() for r in runs]):
        assert ours.keys() == stock.keys()
        assert all(torch.equal(ours[name], stock[name]) for name in ours)


class StoppedError(Exception):
    """The machine is switched off."""


def interrupted(file: Path, data: Path, folder: Path) -> Path:
    """The last.pt of a training of two epochs that was stopped in the second."""

    def stop(trainer: Any) -> None:
        if trainer.epoch == 1:
            raise StoppedError

    model = YOLO(file)
    model.add_callback("on_train_epoch_start", stop)
    settings = {"epochs": 2, "imgsz": 64, "batch": 6, "device": "cpu", "plots": False, "project": str(folder)}
    with pytest.raises(StoppedError):
        model.train(trainer=SlimTrainer, data=str(data / "data.yaml"), name="run", **settings)
    return folder / "run" / "weights" / "last.pt"


def test_resume_stays_slim(files, shapes_dir, tmp_path):
    last = interrupted(files / "slim.pt", shapes_dir, tmp_path)
    saved = torch.load(last, weights_only=False)["ema"].float().state_dict()
    resumed = Run(last, shapes_dir, tmp_path, resume=True)
    assert resumed.model.trainer.start_epoch == 1
    assert all(torch.equal(resumed.start[name], value) for name, value in saved.items())
    assert channels(resumed.model.model) == channels(load_network(last)) == channels(load_network(files / "slim.pt"))


def test_resume_by_the_stock_trainer_fails(files, shapes_dir, tmp_path):
    last = interrupted(files / "slim.pt", shapes_dir, tmp_path)
    with pytest.raises(RuntimeError, match="size mismatch"):
        Run(last, shapes_dir, tmp_path, resume=True, trainer=None)


@pytest.mark.parametrize("model", ["yolov8n.yaml", "slim.pt"])
def test_training_from_scratch_is_refused(files, shapes_dir, tmp_path, model):
    file = files / model if model.endswith(".pt") else model
    with pytest.raises(
        ValueError, match=r"^SlimTrainer keeps the structure of a trained network and got none"
    ) as error:
        Run(file, shapes_dir, tmp_path, pretrained=False)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("network", "channels_of_data", "message"),
    [
        ("fused.pt", 3, "fused.pt has its BatchNorm folded"),
        ("slim.pt", 1, "slim.pt takes images of 3 channels, the data has 1"),
        (SegmentationModel("yolov8n-seg.yaml", verbose=False), 3, "ends in Segment; expected a detection model"),
        (nn.Conv2d(3, 3, 1), 3, "holds a Conv2d; expected a detection model"),
    ],
)
def test_what_cannot_be_trained_is_refused(files, network, channels_of_data, message):
    trainer: Any = SimpleNamespace(data={"names": NAMES, "channels": channels_of_data}, args=SimpleNamespace())
    weights = YOLO(files / network).model if isinstance(network, str) else network
    with pytest.raises(ValueError, match=message):
        SlimTrainer.get_model(trainer, weights=weights)


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("cloudpickle"), reason="Ultralytics starts processes with cloudpickle")
def test_two_processes(files, shapes_dir, tmp_path):
    """Started and resumed by Ultralytics' own launcher; see the helper for what makes it take CPUs."""
    slim, data = channels(load_network(files / "slim.pt")), str(shapes_dir / "data.yaml")
    root = ROOT
    paths = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    environment = {"PYTHONPATH": paths, "STOCK_RECORDS": str(tmp_path), "YOLO_AUTOINSTALL": "false"}

    def job(file: Path, log: str, *settings: str) -> list[int]:
        command = [sys.executable, "-m", "tests.helpers.stock.job", str(file), data, str(tmp_path), *settings]
        printed = run(command, root, tmp_path / log, **environment)
        return list(ast.literal_eval(printed.strip().splitlines()[-1]))

    def records(epoch: int) -> list[dict[str, Any]]:
        return [torch.load(tmp_path / f"epoch{epoch}_rank{rank}.pt") for rank in (0, 1)]

    assert job(files / "slim.pt", "log", "name=two") == slim
    first, second = records(0)
    assert first["trainer"] == "yolo_slim.detection.training.stock_trainer.SlimTrainer"
    assert (first["world_size"], first["images"] + second["images"]) == (2, 12)
    learned = [name for name, _ in load_network(files / "slim.pt").named_parameters()]
    assert all(torch.equal(first["weights"][name], second["weights"][name]) for name in learned)
    assert channels(load_network(tmp_path / "two" / "weights" / "best.pt")) == slim

    last = interrupted(files / "slim.pt", shapes_dir, tmp_path)
    assert job(last, "resumed", "resume=true") == slim
    first, second = records(1)
    assert all(torch.equal(first["weights"][name], second["weights"][name]) for name in learned)
