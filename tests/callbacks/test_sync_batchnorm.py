"""Networks whose BatchNorm layers Lightning has converted with ``sync_batchnorm=True``."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from tests.helpers.toy_module import ToyClassifier, toy_loader, toy_trainer
from yolo_slim.callbacks import ChannelPruning, GammaSparsity, Target, WeightEMA
from yolo_slim.detection.training.detector import YOLODetector
from yolo_slim.pruning import Selection, prune, recalibrate, restore_structure, trace


@pytest.fixture
def on_the_cpu(monkeypatch):
    """Its own forward, and DDP with it, want a GPU as soon as there is a process group."""
    monkeypatch.setattr(nn.SyncBatchNorm, "forward", _BatchNorm.forward)
    monkeypatch.setattr(nn.parallel.DistributedDataParallel, "_passing_sync_batchnorm_handle", lambda *given: None)


def test_a_converted_detector_is_as_prunable_as_before():
    detector = YOLODetector("yolov8n.yaml")
    before = Target(detector).graph
    after = Target(nn.SyncBatchNorm.convert_sync_batchnorm(detector)).graph
    assert torch.equal(before.fixed, after.fixed)
    assert [g.module for g in before.prunable_gammas()] == [g.module for g in after.prunable_gammas()]


def test_a_converted_network_is_pruned_exactly_and_recalibrated():
    torch.manual_seed(0)
    model = nn.SyncBatchNorm.convert_sync_batchnorm(ToyClassifier())
    images = torch.rand(4, 3, 8, 8)
    report = prune(model, trace(model, images), Selection(0.5, min_channels=2), example_inputs=images)
    assert report.error < 1e-5
    norms = [m for m in model.modules() if isinstance(m, nn.SyncBatchNorm)]
    assert len(norms) == 3
    assert all(m.num_features == len(m.weight) for m in norms)
    assert recalibrate(model, [images]) == 1


class SlimToy(ToyClassifier):
    def on_load_checkpoint(self, checkpoint):
        restore_structure(self, checkpoint)


@pytest.mark.parametrize("penalty", ["subgradient", "proximal", "growing"])
@pytest.mark.usefixtures("on_the_cpu")
def test_the_whole_way_under_ddp(tmp_path, penalty):
    """Lightning converts before the fit and reverts after the prune."""
    torch.manual_seed(0)
    module, seen = SlimToy(), []

    class Kinds(ChannelPruning):
        def on_fit_start(self, trainer, pl_module):
            super().on_fit_start(trainer, pl_module)
            seen.extend(type(m).__name__ for m in pl_module.modules() if isinstance(m, _BatchNorm))

    callbacks = [
        WeightEMA(),
        GammaSparsity(penalty, strength=0.5, min_channels=2),
        Kinds(min_channels=2, compensation="fold", dirpath=str(tmp_path)),
    ]
    strategy = DDPStrategy(process_group_backend="gloo")
    settings = {"strategy": strategy, "devices": 1, "sync_batchnorm": True, "max_epochs": 4, "callbacks": callbacks}
    toy_trainer(tmp_path, **settings).fit(module, toy_loader())
    torch.distributed.destroy_process_group()
    assert set(seen) == {"SyncBatchNorm"}
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
    assert not any(isinstance(m, nn.SyncBatchNorm) for m in norms)
    assert [m.num_features for m in norms] == [len(m.weight) for m in norms]
    assert sum(m.num_features for m in norms) == 20
    again = SlimToy.load_from_checkpoint(tmp_path / "slim.ckpt").eval()
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(again(images), module.eval()(images))
    toy_trainer(tmp_path, max_epochs=1).fit(module, toy_loader())
