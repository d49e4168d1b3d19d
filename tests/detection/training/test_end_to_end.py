"""Heads with two pairs of branches (YOLOv10, YOLO26): trained, pruned and used without non-maximum suppression."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace

import pytest
import torch
from ultralytics import YOLO

from tests.helpers.detectors import data_for, detector_for, trainer_for
from tests.helpers.export_nets import shapes_images
from yolo_slim.callbacks import ChannelPruning, GammaSparsity, WeightEMA
from yolo_slim.detection.export.export import export_network
from yolo_slim.detection.export.formats import ExportOptions
from yolo_slim.detection.export.runtime import ExportedDetector
from yolo_slim.detection.files.stock import save_ultralytics
from yolo_slim.detection.files.weights import load_network
from yolo_slim.detection.network.build import build_network, class_branches, fit_classes, head_of, parameters_by_pair
from yolo_slim.detection.network.loss import DetectionLoss, set_loss_gains
from yolo_slim.detection.training.detector import YOLODetector
from yolo_slim.pruning import profile

NETWORKS = ["yolov10n", "yolo26n"]


def labelled(images: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "img": torch.rand(images, 3, 64, 64, generator=generator),
        "batch_idx": torch.arange(images).repeat_interleave(2).float(),
        "cls": torch.randint(0, 2, (2 * images, 1), generator=generator).float(),
        "bboxes": torch.tensor([[0.3, 0.4, 0.3, 0.4], [0.7, 0.6, 0.4, 0.5]]).repeat(images, 1),
    }


def network(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    net = build_network(name, 2)
    set_loss_gains(net, 7.5, 0.5, 1.5)
    return net


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("epoch", "epochs"), [(0, 1), (0, 5), (2, 5), (4, 5)])
def test_the_losses_are_those_of_ultralytics(name, epoch, epochs):
    net, batch = network(name), labelled()
    outputs = net(batch["img"])
    losses = DetectionLoss(net)
    losses.start_epoch(epoch, epochs)
    found, items, target_scores = losses(outputs, batch)

    net.args = SimpleNamespace(box=7.5, cls=0.5, dfl=1.5, epochs=epochs)
    stock = net.init_criterion()
    for _ in range(epoch):  # once after every epoch
        stock.update()
    expected, expected_items = stock(outputs, batch)
    assert found.shape == (2, 3)
    assert target_scores.shape == (2,)
    assert torch.allclose(found.sum(0), expected)
    assert items.keys() == expected_items.keys()
    assert all(torch.equal(items[key], expected_items[key]) for key in items)


@pytest.mark.parametrize("name", NETWORKS)
def test_each_pair_has_the_gradients_of_its_own_loss(name):
    net, batch = network(name), labelled()
    first, second = parameters_by_pair(net)
    assert {id(p) for p in net.parameters()} == {id(p) for p in first} | {id(p) for p in second}
    assert not {id(p) for p in first} & {id(p) for p in second}
    losses, _, _ = DetectionLoss(net)(net(batch["img"]), batch)
    losses[1].sum().backward(retain_graph=True)
    assert not any(p.grad is not None and bool(p.grad.any()) for p in first)
    assert any(bool(p.grad.any()) for p in second)
    net.zero_grad()
    losses[0].sum().backward()
    assert any(p.grad is not None and bool(p.grad.any()) for p in first)
    assert not any(p.grad is not None and bool(p.grad.any()) for p in second)


@pytest.mark.parametrize("name", NETWORKS)
def test_both_pairs_get_the_classes(name):
    net = build_network(name, 2)
    net.names = {0: "a", 1: "b"}
    kept = [branches[0][-1].weight[1].clone() for branches in class_branches(net)]
    fit_classes(net, {0: "b", 1: "c", 2: "d"})
    for branches, row in zip(class_branches(net), kept, strict=True):
        assert {branch[-1].out_channels for branch in branches} == {3}
        assert torch.equal(branches[0][-1].weight[0], row)


@pytest.mark.parametrize("end_to_end", [True, False])
def test_a_fused_file_is_refused_in_one_line(tmp_path, end_to_end):
    net = network("yolo26n")
    net.names = {0: "a", 1: "b"}
    net.end2end = end_to_end
    save_ultralytics(net, tmp_path / "fused.pt", 64, fused=True)
    with pytest.raises(ValueError, match=r"fused\.pt is fused: its head has lost one of its two pairs of branches"):
        load_network(tmp_path / "fused.pt")


@pytest.mark.parametrize("name", NETWORKS)
def test_operations_are_those_of_the_pair_in_use(name):
    net, example = network(name), torch.zeros(1, 3, 64, 64)
    counted = profile(net, example)
    head = head_of(net)
    names = {layer.module for layer in counted.layers}
    assert any(".one2one_cv2." in name for name in names)
    assert not any(".cv3.0." in name and "one2one" not in name for name in names if name.startswith("model.23"))
    head.cv2 = head.cv3 = None  # as fusing leaves it
    assert profile(net, example).flops == counted.flops


def in_place(found: torch.Tensor) -> torch.Tensor:
    """The boxes of each image by class and place: equal scores may change places."""
    return torch.stack([rows[(rows[:, :4].double().sum(1) + 1e4 * rows[:, 5]).argsort()] for rows in found])


@pytest.mark.parametrize("name", NETWORKS)
def test_sparse_fit_prune_finetune_and_every_destination(name, tmp_path, shapes_dir):
    data = data_for(shapes_dir)
    sparsity, prune = GammaSparsity("growing", ratio=0.5), ChannelPruning(ratio=0.5, dirpath=str(tmp_path))
    detector = detector_for(data, model=f"{name}.yaml")
    dense = profile(detector.net, detector.pruning_example)
    trainer_for(tmp_path, max_epochs=3, callbacks=[WeightEMA(), sparsity, prune]).fit(detector, data)
    assert prune.report.reached == pytest.approx(0.5, abs=0.01)
    assert prune.report.threshold == 0

    slim = YOLODetector.load_from_checkpoint(tmp_path / "slim.ckpt")
    assert profile(slim.net, slim.pruning_example).flops < 0.8 * dense.flops
    trainer = trainer_for(tmp_path, max_epochs=1, callbacks=[WeightEMA()])
    trainer.fit(slim, data)
    assert {"val/map", "train/box_loss", "train/cls_loss"} <= trainer.callback_metrics.keys()

    images = shapes_images(shapes_dir)
    with torch.no_grad():
        wanted = slim.eval()(images)
    assert wanted.shape == (6, 84, 6)
    assert all(len(found) == 84 for found in slim.detect(images, confidence=0))
    save_ultralytics(slim.net, tmp_path / "slim.pt", 64, half=False)
    stock = YOLO(tmp_path / "slim.pt").model.eval()
    stock.end2end = True  # as `yolo predict nms=False` sets it
    with torch.no_grad():
        torch.testing.assert_close(in_place(stock(images)[0]), in_place(wanted))
        back = YOLODetector(weights=str(tmp_path / "slim.pt")).eval()
        torch.testing.assert_close(in_place(back(images)), in_place(wanted))
    if importlib.util.find_spec("onnxruntime"):
        file = export_network(slim.net, "onnx", ExportOptions(imgsz=64), tmp_path, "slim", None)
        found = torch.cat([ExportedDetector(file)(image[None]) for image in images])
        torch.testing.assert_close(found[..., 4], wanted[..., 4], rtol=1e-3, atol=1e-5)  # ties may change places
