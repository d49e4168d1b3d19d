"""Units: layers that are pruned together, each prunable channel in exactly one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.models.detection import retinanet_resnet50_fpn

from tests.helpers.pruned import PRUNABLE_NAMES, chain, toy
from tests.helpers.yolo_nets import yolo, yolo_passes
from yolo_slim.pruning import Selection, trace
from yolo_slim.pruning.selection.units import local_shares, prunable_members, units_of


@pytest.fixture(scope="module")
def detector():
    model = yolo()
    return model, trace(model, passes=yolo_passes())


def covered_once(graph, selection: Selection) -> list:
    members = prunable_members(graph, selection)
    units = units_of(graph, members)
    groups = np.concatenate([unit.groups for unit in units])
    assert len(np.unique(groups)) == len(groups)
    assert set(groups) == set(np.flatnonzero(members))
    assert sum(unit.channels for unit in units) == members.sum()
    for layer, own in graph.arrays.layers.items():  # a layer is in the unit of each of its free channels
        homes = [unit for unit in units if set(own[members[own] > 0]) & set(unit.groups)]
        assert len(homes) <= 1
        assert not homes or layer in homes[0].layers
    for parts in graph.arrays.equal_counts:
        free = {int(group) for part in parts for group in part if members[group]}
        assert sum(bool(free & set(unit.groups)) for unit in units) <= 1
    return units


@pytest.mark.parametrize("name", PRUNABLE_NAMES)
def test_units_of_toys_cover_the_prunable_channels_once(name):
    covered_once(toy(name)[1], Selection())


def test_units_of_yolov8n(detector):
    units = covered_once(detector[1], Selection())
    assert len(units) == 51
    first = next(unit for unit in units if unit.name == "model.2.cv1.bn")
    assert first.layers == ("model.2.cv1.bn", "model.2.m.0.cv2.bn")


def test_spared_and_ignored_layers_are_in_no_unit(detector):
    graph = detector[1]
    spared = covered_once(graph, Selection(shortcuts="spare"))
    assert "model.2.cv1.bn" not in {layer for unit in spared for layer in unit.layers}
    left = covered_once(graph, Selection(ignore=("model.22",)))
    assert not any(layer.startswith("model.22") for unit in left for layer in unit.layers)


def test_a_foreign_detector_needs_no_list():
    torch.manual_seed(0)
    model = retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=2).eval()
    graph = trace(model.backbone.body, torch.rand(1, 3, 64, 64))
    assert len(covered_once(graph, Selection())) > 10


def test_the_share_that_is_gone_with_each_channel():
    _, graph = chain(4, 2)
    scores = np.full(graph.num_groups, np.inf)
    scores[graph.gammas["b0"].numpy()] = [3, 1, 2, 4]
    scores[graph.gammas["b1"].numpy()] = [9, 8]
    share = local_shares(graph, prunable_members(graph, Selection()), scores)
    assert share[graph.gammas["b0"].numpy()].tolist() == [0.75, 0.25, 0.5, 1.0]
    assert share[graph.gammas["b1"].numpy()].tolist() == [1.0, 0.5]
