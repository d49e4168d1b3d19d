from __future__ import annotations

import copy
import time

import pytest
import torch
from torch import nn

from tests.helpers.toy_nets import Net, randomised
from tests.helpers.yolo_nets import yolo, yolo_passes
from yolo_slim.pruning import Selection, latency, profile, prune, trace


def test_it_agrees_with_thop_on_a_detector():
    thop = pytest.importorskip("thop")
    model = yolo().float()
    images = torch.rand(1, 3, 64, 96)
    nothing = dict.fromkeys((nn.BatchNorm2d, nn.Upsample), lambda module, args, result: None)
    # On a copy: it leaves buffers in the modules, and Ultralytics' models share their activation.
    macs, parameters = thop.profile(copy.deepcopy(model), (images,), custom_ops=nothing, verbose=False)
    found = profile(model, images)
    assert found.macs == macs
    assert found.parameters == parameters
    assert found.gflops == pytest.approx(2 * macs / 1e9)


def test_published_figures_of_yolov8n():
    # 8.7 GFLOPs at 640 x 640 for the fused model, and costs are proportional to the area.
    found = profile(yolo().float(), torch.rand(1, 3, 64, 64))
    assert found.gflops * 100 == pytest.approx(8.7, abs=0.1)
    assert found.parameters == 3157200


def test_layers_by_hand():
    def run(net, x):
        return net.fc(net.up(net.dw(net.c1(x))).mean((2, 3)))

    layers = {
        "c1": nn.Conv2d(3, 4, 3, stride=2, padding=1),
        "dw": nn.Conv2d(4, 4, 3, padding=1, groups=4),
        "up": nn.ConvTranspose2d(4, 5, 2, stride=2),
        "fc": nn.Linear(5, 6),
    }
    found = profile(Net(run, **layers), torch.rand(2, 3, 8, 8))
    assert {layer.module: layer.macs for layer in found.layers} == {
        "c1": 2 * 4 * 16 * 3 * 9,
        "dw": 2 * 4 * 16 * 9,
        "up": 2 * 4 * 16 * 5 * 4,
        "fc": 2 * 5 * 6,
    }
    assert {layer.module: layer.parameters for layer in found.layers} == {"c1": 112, "dw": 40, "up": 85, "fc": 36}
    assert found.macs == sum(layer.macs for layer in found.layers)


def test_a_shared_layer_counts_each_time_it_runs():
    net = Net(lambda n, x: n.c1(n.c1(x)), c1=nn.Conv2d(3, 3, 1))
    assert profile(net, torch.rand(1, 3, 4, 4)).macs == 2 * 9 * 16


def test_a_pruned_model_costs_less_and_nothing_is_left_behind():
    model, images = yolo(), torch.rand(1, 3, 64, 64, dtype=torch.float64)
    model.train()
    dense = profile(model, images)
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())
    prune(model, trace(model, passes=yolo_passes()), Selection(0.5))
    assert profile(model, images).macs < 0.6 * dense.macs


def test_latency_is_the_median_of_the_repeats():
    calls = []

    def run(net, x):
        calls.append(net.training)
        time.sleep(0.02 if len(calls) <= 3 else 0.002)
        return x

    net = Net(run, c1=nn.Conv2d(3, 3, 1)).train()
    assert 0.002 <= latency(net, torch.rand(1), repeats=5) < 0.01
    assert calls == [False] * 8
    assert net.training
    with pytest.raises(ValueError, match="repeats=0: expected at least 1"):
        latency(net, torch.rand(1), repeats=0)


def test_several_inputs_are_a_tuple():
    net = randomised(Net(lambda n, x: n.c1(x), c1=nn.Conv2d(3, 3, 1)))
    net.forward = lambda x, y: net.c1(x + y)
    x = torch.rand(1, 3, 4, 4, dtype=torch.float64)
    assert profile(net, (x, x)).macs == 9 * 16
