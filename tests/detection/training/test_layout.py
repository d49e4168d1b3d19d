"""Channels side by side in memory, or not: the same values, faster."""

from __future__ import annotations

import platform

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from tests.helpers.detectors import data_for, detector_for, trainer_for
from yolo_slim.callbacks import GammaSparsity
from yolo_slim.detection import YOLODetector, load_network
from yolo_slim.detection.network.layout import channels_lie_last, lay_images_out
from yolo_slim.pruning import Selection
from yolo_slim.workflow import PruneSettings, prune_file

LAST = torch.channels_last


def test_where_it_is_faster(monkeypatch):
    monkeypatch.setattr("sys.platform", "linux")
    assert channels_lie_last("cuda")
    assert not channels_lie_last("mps")
    monkeypatch.setattr("sys.platform", "win32")
    assert not channels_lie_last("cuda")
    for machine, expected in (("x86_64", True), ("AMD64", True), ("aarch64", False)):
        monkeypatch.setattr(platform, "machine", lambda machine=machine: machine)
        assert channels_lie_last("cpu") == expected
        images = lay_images_out(torch.rand(2, 3, 4, 4), None)
        assert images.is_contiguous(memory_format=LAST) == expected


@pytest.mark.parametrize("model", ["yolov8n.yaml", "yolo11n.yaml", "yolov10n.yaml"])
def test_values_and_gradients_do_not_depend_on_it(shapes_dir, model):
    data = data_for(shapes_dir)
    data.setup("fit")
    batch = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    batch["img"] = batch["img"].double()
    found = []
    for asked in (False, True):
        torch.manual_seed(0)
        detector = YOLODetector(model, data.names, imgsz=64, channels_last=asked).double()
        seen = []
        detector.net.register_forward_pre_hook(
            lambda net, inputs, seen=seen: seen.append(inputs[0].is_contiguous(memory_format=LAST))
        )
        with torch.no_grad():
            boxes = detector.eval()(batch["img"])
        detector.train().loss(dict(batch)).backward()
        assert seen == [asked, asked]
        found.append((boxes, {name: p.grad for name, p in detector.net.named_parameters() if p.grad is not None}))
    (plain, gradients), (last, others) = found
    torch.testing.assert_close(plain, last, rtol=1e-6, atol=1e-6)
    assert gradients.keys() == others.keys()
    largest = max(float(gradient.abs().max()) for gradient in gradients.values())
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, others[name], rtol=1e-6, atol=1e-8 * largest)


def test_weights_laid_out_so_are_saved_pruned_and_resumed_like_others(tmp_path, shapes_dir):
    def fit(folder, resumed=None):
        data = data_for(shapes_dir)
        detector = detector_for(data, channels_last=True)
        saver = ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)
        sparsity = GammaSparsity("proximal", 0.5, ratio=0.5)
        settings = {"limit_val_batches": 0, "enable_checkpointing": True, "callbacks": [sparsity, saver]}
        trainer_for(folder, max_epochs=2, **settings).fit(detector, data, ckpt_path=resumed)
        weight = detector.net.model[1].conv.weight
        assert weight.is_contiguous(memory_format=LAST)
        assert not weight.is_contiguous()
        return detector.net.state_dict()

    straight = fit(tmp_path / "straight")
    gone_on = fit(tmp_path / "on", resumed=tmp_path / "straight" / "epoch=0.ckpt")
    assert all(torch.equal(value, gone_on[name]) for name, value in straight.items())
    last = tmp_path / "straight" / "epoch=1.ckpt"
    loaded = load_network(last).state_dict()
    assert all(torch.equal(value, straight[name]) for name, value in loaded.items())
    prune_file(str(last), PruneSettings(Selection(ratio=0.3)), tmp_path, data_for(shapes_dir), 64)
    slim = load_network(tmp_path / "slim.ckpt")
    assert sum(p.numel() for p in slim.parameters()) < 0.8 * sum(value.numel() for value in loaded.values())
