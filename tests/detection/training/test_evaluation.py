"""A detector that is measured many times, without a Trainer."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tests.helpers.detectors import data_for, detector_for, trainer_for
from yolo_slim.detection.data.evaluation_batches import HeldImages
from yolo_slim.detection.training.evaluation import Evaluation


@pytest.fixture(scope="module")
def data(shapes_dir):
    found = data_for(shapes_dir)
    found.prepare_data()
    return found


@pytest.fixture(scope="module")
def detector(data):
    return detector_for(data, model="yolov8n.yaml")


def see_nearly_all(monkeypatch, detector, held: HeldImages) -> None:
    """Has the detector find what is labelled, a pixel aside, by what an image looks like."""
    known, seen = {}, []
    for batch in held.batches:
        for place, image in enumerate(batch["img"]):
            own = batch["batch_idx"] == place
            x, y, width, height = (64 * batch["bboxes"][own]).unbind(1)
            sides = (x - width / 2 + 1, y - height / 2, x + width / 2 + 1, y + height / 2)
            scores = torch.linspace(0.9, 0.5, len(x))
            known[int(image.sum())] = torch.stack([*sides, scores, batch["cls"][own].flatten()], 1)
    usual = detector.outputs
    monkeypatch.setattr(detector, "outputs", lambda images: seen.append(images) or usual(images))

    def judged(nms: object, predictions: torch.Tensor) -> list[torch.Tensor]:
        return [known[int((255 * image).round().sum())] for image in seen[-1]]

    monkeypatch.setattr(type(detector.nms), "judged", judged)


def test_every_look_is_the_same_and_leaves_nothing(detector, data):
    evaluate = Evaluation(detector, data, "train", 7, "both", statistics=True)
    before = copy.deepcopy(detector.net.state_dict())
    detector.train()
    first, second = evaluate(detector.net), evaluate(detector.net)
    same = first.keys() - {"nms_ms"}
    assert {"loss", "precision", "recall", "map50", "map"} <= same
    assert {name: first[name] for name in same} == {name: second[name] for name in same}
    assert all(torch.equal(value, before[name]) for name, value in detector.net.state_dict().items())
    assert all(module.training for module in detector.modules() if isinstance(module, nn.BatchNorm2d))
    usual = Evaluation(detector, data, "train", 7)(detector.net)
    assert usual.keys() == {"loss"}
    assert usual["loss"] != first["loss"]  # the statistics of the images are others than those of the network


def test_the_scores_are_those_of_a_validation(detector, data, tmp_path, monkeypatch):
    see_nearly_all(monkeypatch, detector, HeldImages(data, "val", 100))
    figures = Evaluation(detector, data, "val", 100, "map")(detector.net)
    assert "loss" not in figures
    assert 0.3 < figures["map"] < 1
    (found,) = trainer_for(tmp_path).validate(detector, data, verbose=False)
    for name in ("precision", "recall", "map50", "map"):
        assert figures[name] == pytest.approx(found[f"val/{name}"], abs=1e-6)
    classes = [value for name, value in figures.items() if name.startswith("map of ")]
    assert sum(classes) / len(classes) == pytest.approx(figures["map"], abs=1e-6)


def test_how_far_thirds_lie_apart(detector, data):
    evaluate = Evaluation(detector, data, "train", 6)
    assert evaluate.spread() == 0.0
    evaluate.image_losses = [(2.0, 2), (4.4, 4), (1.2, 1), (1.0, 1)]  # thirds of 1.0, 1.1 and 1.2 for each image
    assert evaluate.spread() == pytest.approx(0.2 / 1.1)
    evaluate.image_losses = [(2.0, 2), (4.0, 2)]
    assert evaluate.spread() == 0.0
    loss = evaluate(detector.net)["loss"]
    assert loss == pytest.approx(sum(summed for summed, _ in evaluate.image_losses) / 6)


def test_what_cannot_be_measured(detector, data, shapes_dir):
    with pytest.raises(ValueError, match="metric='f1': expected one of loss, map, both"):
        Evaluation(detector, data, metric="f1")
    other = data_for(shapes_dir, single_cls=True)
    other.prepare_data()
    with pytest.raises(ValueError, match="class"):
        Evaluation(detector, other, images=2)
