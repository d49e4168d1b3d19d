"""The engine on torchvision's models: what it may remove, and that nothing else changes when it does."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.ops import roi_align

from benchmarks import architectures, checks
from benchmarks.zoo_torchvision import MODELS, detector_inputs
from tests.helpers.toy_nets import Net, bn, conv, randomised
from yolo_slim.pruning import trace

#: Channels that may be pruned, of all: of BatchNorm layers, and of layers whose channels have no gamma.
PRUNABLE = {
    "resnet18": ((4800, 4800), (0, 10)),
    "resnext50_32x4d": ((34112, 34112), (0, 10)),
    "mobilenet_v3_small": ((6056, 6056), (1616, 1626)),
    "densenet121": ((41824, 41824), (0, 10)),
    "googlenet": ((7536, 7536), (2048, 2078)),
    "shufflenet_v2_x0_5": ((3976, 3976), (0, 10)),
    "squeezenet1_1": ((0, 0), (2944, 2954)),
    "convnext_tiny": ((0, 0), (26496, 41194)),
    "vision_transformer": ((0, 0), (128, 298)),
    "swin": ((0, 0), (768, 1834)),
    "swin_v2": ((0, 0), (2816, 3894)),
    "ssdlite320_mobilenet_v3_large": ((16472, 16472), (784, 1108)),
    "fcos_resnet50_fpn": ((26560, 26560), (2048, 4106)),
    "retinanet_resnet50_fpn_v2": ((26560, 26560), (2048, 4177)),
}
SMALL = ["squeezenet1_1", "vision_transformer"]
DETECTORS = [name for name, entry in MODELS.items() if entry.family == "torchvision detectors"]


def check(name: str, ratios: tuple[float, ...]) -> None:
    row = architectures.examine(MODELS[name], ratios)
    assert row.good, row
    assert row.parameters_after < row.parameters
    assert (row.gammas, row.others) == PRUNABLE.get(name, (row.gammas, row.others))


@pytest.mark.parametrize("name", SMALL)
def test_small_models(name):
    check(name, (0.5,))


@pytest.mark.slow
@pytest.mark.parametrize("name", list(MODELS))
def test_every_model(name):
    check(name, (0.5, 0.9, 0.2))


@pytest.mark.slow
@pytest.mark.parametrize("name", DETECTORS)
def test_tracing_what_a_user_runs_is_as_good_as_tracing_the_raw_outputs(name):
    """Eval mode ends in NMS, train mode in matching and losses; neither may loosen or tighten anything before."""
    entry = MODELS[name]
    model = entry.build()
    passes = entry.passes(model, entry.size, torch.float64)
    checks.randomised(model, passes)
    images, targets = detector_inputs(entry.size)
    if "keypoint" not in name:
        targets = [{key: value for key, value in target.items() if key != "keypoints"} for target in targets]
    graph, raw = trace(model, (images, targets)), trace(model, passes=passes)
    for found, expected in zip(graph.prunable_layers(), raw.prunable_layers(), strict=True):
        assert found.module == expected.module
        assert found.prunable.tolist() == expected.prunable.tolist(), found.module
    dropped = checks.random_drop(graph, 0.5, 1)
    slim, dense = checks.pruned(model, graph, dropped), checks.silenced(model, graph, dropped)
    for run in passes:
        errors = checks.differences(checks.outputs(run, slim), checks.outputs(run, dense))
        assert max(errors) < checks.TOLERANCE
    assert set(slim.eval()(images)[0]) >= {"boxes", "labels", "scores"}


@pytest.mark.parametrize("deterministic", [False, True])
@torch.no_grad()
def test_regions_follow_the_channels_of_the_map_they_are_cut_from(deterministic):
    torch.use_deterministic_algorithms(deterministic)
    box = torch.tensor([[0, 1.0, 1.0, 6.0, 7.0], [1, 0.0, 2.0, 5.0, 5.0]], dtype=torch.float64)
    model = Net(
        lambda n, x: n.head(torch.flatten(roi_align(n.b1(n.c1(x)), box, (2, 2)), 1)),
        c1=conv(3, 4),
        b1=bn(4),
        head=nn.Linear(16, 2),
    )
    model, image = randomised(model), torch.rand(2, 3, 8, 8, dtype=torch.float64)
    graph = trace(model, image)
    assert torch.are_deterministic_algorithms_enabled() == deterministic
    assert graph.prunable_gammas()[0].prunable.all()
    dropped = checks.random_drop(graph, 0.5, 1)
    slim = checks.pruned(model, graph, dropped)
    assert slim.head.in_features == 8
    assert checks.error_of(model, slim, graph, dropped) < checks.TOLERANCE


def test_why_channels_stay_is_said_where_it_happens():
    graph = trace(MODELS["vision_transformer"].build(), torch.rand(1, 3, 320, 320))
    found = {(fix.module.rpartition(".")[2], fix.operation, fix.reason) for fix in graph.reasons}
    assert ("ln_2", "layer_norm", "is normalised together with other channels") in found
    assert ("self_attention", "multi_head_attention_forward", "no rule for this operation") in found
    assert not any(module == "mlp.0" for module, _, _ in found)
