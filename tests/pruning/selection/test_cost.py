from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tests.helpers.pruned import random_drop, toy
from tests.helpers.toy_nets import Net, bn, conv, randomised
from tests.helpers.toys import TOYS
from tests.helpers.yolo_nets import yolo, yolo_passes
from yolo_slim.pruning import CostModel, apply_plan, make_plan, profile, trace


def check(model, graph, example, dropped):
    """Counts of the cost model equal those of the pruned model."""
    cost = CostModel(model, graph, example)
    pruned = copy.deepcopy(model)
    apply_plan(pruned, make_plan(graph, dropped))
    found = profile(pruned, example)
    assert (cost.params(dropped), cost.flops(dropped)) == (found.parameters, 2 * found.macs)
    return found


@pytest.mark.parametrize("name", [t.name for t in TOYS])
@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.6])
def test_it_agrees_with_pruning_and_profiling(name, ratio):
    model, graph = toy(name)
    example = next(t for t in TOYS if t.name == name).example()
    dropped = torch.zeros(graph.num_groups, dtype=torch.bool)
    if any(bool(layer.prunable.any()) for layer in graph.prunable_layers()):
        dropped = random_drop(graph, ratio, 0, min_channels=1)
    check(model, graph, example, dropped)


@pytest.mark.parametrize("name", ["yolov8n", "yolo11n"])
def test_it_agrees_on_detectors(name):
    model, images = yolo(name), torch.rand(2, 3, 64, 96, dtype=torch.float64)
    graph = trace(model, passes=yolo_passes())
    dense = check(model, graph, images, torch.zeros(graph.num_groups, dtype=torch.bool))
    for ratio in (0.2, 0.7):
        pruned = check(model, graph, images, random_drop(graph, ratio, 1))
        assert pruned.parameters < dense.parameters
        assert pruned.macs < dense.macs


def test_layers_by_hand():
    def run(net, x):
        x = net.b1(net.c1(x))
        x = net.b2(net.dw(x))
        x = net.b3(net.up(x))
        return net.fc(net.b4(net.gr(x)).mean((2, 3)))

    layers = {
        "c1": conv(3, 8, stride=2),
        "b1": bn(8),
        "dw": conv(8, 8, groups=8),
        "b2": bn(8),
        "up": nn.ConvTranspose2d(8, 6, 2, stride=2),
        "b3": bn(6),
        "gr": conv(6, 4, groups=2),
        "b4": bn(4),
        "fc": nn.Linear(4, 5),
    }
    model, example = randomised(Net(run, **layers)), torch.rand(2, 3, 8, 8, dtype=torch.float64)
    graph = trace(model, example)
    cost = CostModel(model, graph, example)
    dropped = torch.zeros(graph.num_groups, dtype=torch.bool)
    dropped[graph.layers["b1"][:3]] = True  # 5 of c1 and dw
    dropped[graph.layers["b3"][:1]] = True  # one of each group of gr: 4 of up
    assert cost.params(dropped) == 3 * 5 * 9 + 10 + 5 * 9 + 10 + (5 * 4 * 4 + 4) + 8 + 4 * 2 * 9 + 8 + 25
    macs = 16 * 3 * 5 * 9 + 16 * 5 * 9 + 16 * 5 * 4 * 4 + 64 * 4 * 2 * 9 + 4 * 5
    assert cost.flops(dropped) == 2 * 2 * macs
    check(model, graph, example, dropped)


def test_a_shared_layer_counts_each_time_it_runs():
    def run(net, x):
        x = net.b1(net.c1(x))
        return net.head(net.b2(net.c2(x)) + net.b2(net.c2(nn.functional.avg_pool2d(x, 2))).mean((2, 3), keepdim=True))

    layers = {"c1": conv(3, 4), "b1": bn(4), "c2": conv(4, 5), "b2": bn(5), "head": nn.Conv2d(5, 2, 1)}
    model, example = randomised(Net(run, **layers)), torch.rand(1, 3, 8, 8, dtype=torch.float64)
    graph = trace(model, example)
    dropped = torch.zeros(graph.num_groups, dtype=torch.bool)
    dropped[torch.cat([graph.layers["b1"][:1], graph.layers["b2"][:2]])] = True
    check(model, graph, example, dropped)
    expected = 64 * 3 * 3 * 9 + (64 + 16) * 3 * 3 * 9 + 64 * 3 * 2
    assert CostModel(model, graph, example).flops(dropped) == 2 * expected


@pytest.mark.parametrize("name", ["plain", "residual", "depthwise", "grouped", "classifier", "preactivation", "shared"])
def test_the_saving_of_a_group_is_what_dropping_it_alone_saves(name):
    model, graph = toy(name)
    cost = CostModel(model, graph, next(t for t in TOYS if t.name == name).example())
    nothing = torch.zeros(graph.num_groups, dtype=torch.bool)
    for kind, count in (("params", cost.params), ("flops", cost.flops)):
        saving = cost.saving(kind)
        assert saving.shape == (graph.num_groups,)
        for group in range(graph.num_groups):
            alone = nothing.clone()
            alone[group] = True
            assert saving[group] == count(nothing) - count(alone)


def test_one_flag_per_group():
    model, graph = toy("plain")
    with pytest.raises(ValueError, match=r"expected bool \(\d+,\), one per group; got \(3,\)"):
        CostModel(model, graph, torch.rand(1, 3, 8, 8, dtype=torch.float64)).params(torch.zeros(3, dtype=torch.bool))
