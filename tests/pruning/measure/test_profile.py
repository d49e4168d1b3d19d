from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tests.helpers.toy_nets import Net, randomised
from tests.helpers.yolo_nets import yolo, yolo_passes
from yolo_slim.pruning import Selection, profile, prune, trace


def torchvision_model(name: str) -> nn.Module:
    return getattr(pytest.importorskip("torchvision").models, name)()


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


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_it_agrees_with_thop_on_classifiers(name):
    thop = pytest.importorskip("thop")
    model, images = torchvision_model(name), torch.rand(2, 3, 64, 64)
    others = {type(module) for module in model.modules() if not [*module.children()]} - {nn.Conv2d, nn.Linear}
    nothing = dict.fromkeys(others, lambda module, args, result: None)
    macs, _ = thop.profile(copy.deepcopy(model), (images,), custom_ops=nothing, verbose=False)
    found = profile(model, images)
    assert found.macs == macs
    assert found.parameters == sum(parameter.numel() for parameter in model.parameters())


def test_it_agrees_with_the_operations_that_pytorch_counts():
    model, images = torchvision_model("resnet18"), torch.rand(2, 3, 64, 64)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(images)
    assert 2 * profile(model, images).macs == counter.get_total_flops()


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


def test_activation_memory_by_hand():
    # 4 bytes each: 4 channels at 8 x 8 are 1024, 8 channels at 8 x 8 are 2048, at 4 x 4 they are 512.
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True), nn.Conv2d(4, 8, 1), nn.MaxPool2d(2), nn.Flatten())
    found = profile(net, torch.rand(1, 3, 8, 8))
    assert {layer.module: layer.activation_bytes for layer in found.layers} == {"0": 1024, "2": 2048}
    assert found.activation_bytes == 3072
    # The second convolution reads 1024 and writes 2048; the pool reads 2048, writes 512, and as much twice in indices.
    assert found.peak_bytes == max(1024 + 2048, 2048 + 512 + 2 * 512)


def test_a_shortcut_keeps_its_map_alive():
    def plain(net, x):
        return net.c3(net.c2(net.c1(x)))

    def shortcut(net, x):
        x = net.c1(x)
        return x + net.c3(net.c2(x))

    for run, maps in ((plain, 2), (shortcut, 3)):
        net = Net(run, c1=nn.Conv2d(3, 4, 1), c2=nn.Conv2d(4, 4, 1), c3=nn.Conv2d(4, 4, 1))
        assert profile(net, torch.rand(1, 3, 8, 8)).peak_bytes == maps * 1024


def test_the_peak_counts_views_once_and_nothing_that_was_there_before():
    net = Net(lambda n, x: [n.c1(x).view(-1), x.view(-1), n.c1.weight.view(-1)], c1=nn.Conv2d(3, 4, 1))
    assert profile(net, torch.rand(1, 3, 8, 8)).peak_bytes == 1024


def test_several_inputs_are_a_tuple():
    net = randomised(Net(lambda n, x: n.c1(x), c1=nn.Conv2d(3, 3, 1)))
    net.forward = lambda x, y: net.c1(x + y)
    x = torch.rand(1, 3, 4, 4, dtype=torch.float64)
    assert profile(net, (x, x)).macs == 9 * 16


def test_rows_are_plain_data():
    found = profile(Net(lambda n, x: n.c1(x), c1=nn.Conv2d(3, 4, 1)), torch.rand(1, 3, 8, 8))
    assert json.loads(json.dumps(found.to_dict())) == {
        "parameters": 16,
        "macs": 768,
        "activation_bytes": 1024,
        "peak_bytes": 1024,
        "layers": [{"module": "c1", "parameters": 16, "macs": 768, "activation_bytes": 1024}],
    }
