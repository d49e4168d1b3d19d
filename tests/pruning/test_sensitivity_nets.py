"""Sensitivity of networks that nobody has listed: a row says what a prune does, and the network comes back."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator

from benchmarks.zoo_torchvision import detector_inputs
from tests.helpers.blocks.random_nets import RandomNet
from tests.helpers.toy_nets import bn, conv, randomised
from tests.helpers.yolo_nets import yolo, yolo_passes
from yolo_slim.pruning import Row, Selection, Sensitivity, gamma_importance, profile, prune, trace
from yolo_slim.pruning.selection.units import Unit, prunable_members, units_of

IMAGES = torch.rand(2, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
RULES = Selection(round_to=1, min_channels=1)


def expect_as_pruned(model, graph, unit: Unit, row: Row, evaluate, example, rules: Selection = RULES) -> None:
    """A prune of the unit alone, at the row's ratio, leaves the parameters, the operations and the loss of the row."""
    alone = torch.full((graph.num_groups,), torch.inf, dtype=torch.float64)
    alone[unit.groups] = gamma_importance(model, graph).double()[unit.groups]
    slim, dense = copy.deepcopy(model), profile(copy.deepcopy(model), example)
    report = prune(slim, graph, replace(rules, ratio=row.ratio, scope="local"), alone, example_inputs=example)
    cut = profile(copy.deepcopy(slim), example)
    assert sum(layer.before - layer.after for layer in report.layers) == row.removed
    assert (dense.parameters - cut.parameters, dense.flops - cut.flops) == (row.parameters_saved, row.flops_saved)
    assert evaluate(slim)["loss"] == pytest.approx(row.figures["loss"], rel=1e-5)


def state(model: nn.Module) -> tuple[dict[str, Tensor], list[bool]]:
    return copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]


def is_same(model: nn.Module, before: tuple[dict[str, Tensor], list[bool]]) -> bool:
    tensors, modes = state(model)
    same = all(torch.equal(value, before[0][name]) for name, value in tensors.items())
    return same and tensors.keys() == before[0].keys() and modes == before[1]


@pytest.fixture(scope="module")
def yolo11():
    model = yolo("yolo11n")
    return model, trace(model, passes=yolo_passes())


def yolo_loss(model) -> dict[str, float]:
    return {"loss": float(model.eval()(IMAGES)[1]["scores"].detach().square().mean())}


@pytest.mark.parametrize(
    "rules",
    [RULES, Selection(round_to=1, shortcuts="spare"), Selection(round_to=1, ignore=("model.2?", "model.6"))],
    ids=["all", "spare", "ignore"],
)
def test_rows_of_a_network_with_attention(yolo11, rules):
    model, graph = yolo11
    measurement = Sensitivity(model, graph, yolo_loss, IMAGES[:1], ratios=(0.4,), selection=rules, stop_rise=1e9)
    members = prunable_members(graph, rules)
    groups = np.concatenate([unit.groups for unit in measurement.units])
    assert sorted(groups) == list(np.flatnonzero(members))
    assert sum(unit.channels for unit in measurement.units) == members.sum()
    measurement.units = [unit for unit in measurement.units if len(unit.layers) > 1][:2] + measurement.units[-1:]
    for unit, row in zip(measurement.units, measurement.rows(), strict=True):
        assert row.unit == unit.name
        assert row.removed > 0
        expect_as_pruned(model, graph, unit, row, yolo_loss, IMAGES[:1], rules)


def test_rows_of_random_networks():
    compared = 0
    for seed in range(24):
        example = torch.rand(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        model = randomised(RandomNet(seed), seed)
        graph = trace(model, example)
        members = prunable_members(graph, RULES)
        units = units_of(graph, members)
        assert sorted(group for unit in units for group in unit.groups) == list(np.flatnonzero(members))
        if not (gamma_importance(model, graph).isfinite().numpy() & (members > 0)).any():
            continue

        def evaluate(net, example=example) -> dict[str, float]:
            torch.manual_seed(0)
            return {"loss": float(net.eval()(example).detach().square().mean())}

        measurement = Sensitivity(*(model, graph, evaluate, example), ratios=(0, 0.5), selection=RULES, stop_rise=1e9)
        before = state(model)
        for unit, row in zip(2 * measurement.units, measurement.rows(), strict=True):
            assert is_same(model, before), (seed, model.kinds)
            assert row.ratio or row.rise == 0.0
            if row.removed and not model.random:
                expect_as_pruned(model, graph, unit, row, evaluate, example)
                compared += 1
    assert compared > 30


class Backbone(nn.Sequential):
    """Three convolutions, what RetinaNet asks of a backbone."""

    out_channels = 8

    def __init__(self) -> None:
        super().__init__(conv(3, 6), bn(6), nn.ReLU(), conv(6, 10), bn(10), nn.ReLU(), conv(10, 8), bn(8))


def test_a_foreign_detector_with_its_own_losses():
    anchors = AnchorGenerator(((16,),), ((1.0,),))
    model = RetinaNet(Backbone(), 3, min_size=32, max_size=32, anchor_generator=anchors)
    model = randomised(model.double())
    images, labels = detector_inputs(32)
    labels = [{key: label[key] for key in ("boxes", "labels")} for label in labels]
    graph = trace(model, (images, labels))

    def evaluate(net) -> dict[str, float]:
        net.train()
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return {"loss": float(sum(value.detach() for value in net(images, labels).values()))}

    measurement = Sensitivity(*(model, graph, evaluate, (images, labels)), ratios=(0, 0.5), selection=RULES)
    before = state(model)
    rows = list(measurement.rows())
    assert is_same(model, before)
    assert {"backbone.1", "backbone.4", "backbone.7"} <= {row.unit for row in rows}
    assert all(row.rise == 0.0 for row in rows if row.ratio == 0)
    for unit, row in zip(2 * measurement.units, rows, strict=True):
        if row.rise is not None and row.removed:
            expect_as_pruned(model, graph, unit, row, evaluate, (images, labels))
