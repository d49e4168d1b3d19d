"""What is timed and exported computes what the network does."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from ultralytics.nn.modules.block import DFL

from tests.helpers.toy_nets import randomised
from yolo_slim.detection import YOLODetector, as_deployed, head_of
from yolo_slim.detection.network.deployed import Expectation


@pytest.mark.parametrize("scale", [0.1, 5.0, 200.0])
def test_the_mean_bin_is_that_of_the_stock_module(scale):
    torch.manual_seed(0)
    logits = scale * torch.randn(2, 64, 50)
    assert torch.allclose(Expectation(16)(logits), DFL(16)(logits), atol=1e-5)


@pytest.mark.parametrize("name", ["yolov8n", "yolo11n", "yolov10n", "yolo26n"])
@torch.no_grad()
def test_a_deployed_network_finds_what_the_network_does(name):
    torch.manual_seed(0)
    detector = YOLODetector(f"{name}.yaml", {0: "a", 1: "b"})
    bins = {name: value.clone() for name, value in detector.net.state_dict().items() if ".dfl." in name}
    randomised(detector.net).load_state_dict(bins, strict=False)  # in double precision
    images = torch.rand(1, 3, 64, 64).double()
    wanted = detector.net.eval()(images)[0]
    deployed = as_deployed(copy.deepcopy(detector.net))
    found = deployed(images)
    assert found.shape == wanted.shape
    assert torch.allclose(found.sort(1).values, wanted.sort(1).values, atol=1e-6)
    assert not any(isinstance(module, (nn.BatchNorm2d, DFL)) for module in deployed.modules())
    assert type(head_of(detector.net)) is type(head_of(deployed))


def test_a_stock_module_with_weights_of_its_own_stays():
    detector = YOLODetector("yolov8n.yaml", {0: "a"})
    head_of(detector.net).dfl.conv.weight.data.mul_(2)
    assert isinstance(head_of(as_deployed(detector.net)).dfl, DFL)
