"""A measurement of sensitivity that several files read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from tests.helpers.hostile.pickles import write_small
from yolo_slim.commands.entry import main
from yolo_slim.detection.data.shapes import CLASSES
from yolo_slim.detection.files.checkpoints import save_weights
from yolo_slim.detection.network.build import build_network


@pytest.fixture(scope="session")
def measured_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small detector whose gammas are of many sizes."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    net = build_network(yaml.safe_load(write_small(folder).read_text()), nc=len(CLASSES))
    net.names = dict(enumerate(CLASSES))
    for module in net.modules():  # gammas of one size would all be cut alike
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    save_weights(net, folder / "small.ckpt", imgsz=64)
    return folder / "small.ckpt"


@pytest.fixture(scope="session")
def measuring(measured_weights: Path, shapes_dir: Path) -> list[str]:
    """The command that measures it."""
    data = ["--data.data", str(shapes_dir / "data.yaml"), "--data.batch", "4"]
    return ["sensitivity", "--model.weights", str(measured_weights), *data, "--images", "6", "--ratios", "0.3", "0.6"]


@pytest.fixture(scope="session")
def measured_run(tmp_path_factory: pytest.TempPathFactory, measuring: list[str]) -> Path:
    """Folder of an uninterrupted measurement of loss and mAP. Tests read it; one that changes it copies it first."""
    folder = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        main([*measuring, "--metric", "both"])
    return folder / "runs" / "sensitivity"
