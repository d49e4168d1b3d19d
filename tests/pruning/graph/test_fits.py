"""What does not belong together is said in one line before anything is computed."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from yolo_slim.pruning import Selection, prune, select, trace
from yolo_slim.pruning.pipeline import check_prune


def net(channels: int = 12, layers: int = 2) -> nn.Sequential:
    torch.manual_seed(0)
    parts: list[nn.Module] = []
    for index in range(layers):
        parts += [nn.Conv2d(channels if index else 3, channels, 3), nn.BatchNorm2d(channels), nn.ReLU()]
    return nn.Sequential(*parts, nn.Conv2d(channels, 4, 1))


IMAGES = torch.rand(2, 3, 12, 12)


def pruned(model: nn.Module) -> nn.Module:
    prune(model, trace(model, IMAGES), Selection(0.5, min_channels=2))
    return model


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (lambda: net(16), r"0.weight has shape \(16, 3, 3, 3\); trace it anew"),
        (lambda: net(layers=1), r"is missing; trace it anew|has shape"),
        (lambda: pruned(net()), "has shape"),
        (lambda: nn.Sequential(), "0.weight is missing"),
        (lambda: "yolov8n.pt", "model='yolov8n.pt': expected the nn.Module"),
    ],
)
def test_a_graph_of_another_model(other, said):
    graph = trace(net(), IMAGES)
    model = other()
    for function in (prune, check_prune):
        with pytest.raises(ValueError, match=said) as stop:
            function(model, graph, Selection(0.5, min_channels=2))
        assert "\n" not in str(stop.value)


@pytest.mark.parametrize("selection", [0.5, None, "half", {"ratio": 0.5}])
def test_a_selection_that_is_none(selection):
    model = net()
    graph = trace(model, IMAGES)
    for call in (
        lambda: prune(model, graph, selection),
        lambda: check_prune(model, graph, selection),
        lambda: select(graph, torch.zeros(graph.num_groups), selection),
    ):
        with pytest.raises(ValueError, match="expected a Selection, such as Selection"):
            call()


@pytest.mark.parametrize("scores", [None, 3.0, "x", [1.0], torch.zeros(3), torch.full((40,), float("nan"))])
def test_scores_that_do_not_fit(scores):
    graph = trace(net(), IMAGES)
    with pytest.raises(ValueError, match="expected"):
        select(graph, scores, Selection(0.5))


def test_a_graph_that_is_none():
    with pytest.raises(ValueError, match="expected the ChannelGraph that trace"):
        prune(net(), IMAGES, Selection(0.5))


@pytest.mark.parametrize("selection", [Selection(max_params=1e3), Selection(max_flops=1e3), Selection(per="flops")])
def test_what_is_missing_is_called_as_the_caller_knows_it(selection):
    model = net()
    with pytest.raises(ValueError, match="pass example_inputs"):
        prune(model, trace(model, IMAGES), selection)


class Amplifies(nn.Module):
    """A steep function at its end: its own rounding in single precision is more than a wrong channel's trace."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.body, self.scale = net(24), 1e4

    def forward(self, images):
        return (self.body(images) * self.scale).sin()


def test_a_network_that_amplifies_its_own_rounding_is_judged_in_double_precision():
    model = Amplifies()
    graph = trace(model, IMAGES)
    wrong = copy.deepcopy(graph)
    for axis, groups in wrong.axes["body.3.weight"].items():
        wrong.axes["body.3.weight"][axis] = groups.flip(0) if axis == 1 else groups
    with pytest.raises(RuntimeError, match="differs from the dense one"):
        prune(copy.deepcopy(model), wrong, Selection(0.3, min_channels=2))
    assert prune(model, graph, Selection(0.3, min_channels=2)).error < 1e-4


def test_its_rounding_alone_would_have_been_refused():
    from yolo_slim.pruning.surgery.apply import apply_plan
    from yolo_slim.pruning.surgery.plan import make_plan
    from yolo_slim.pruning.surgery.silence import silence
    from yolo_slim.pruning.surgery.verify import TOLERANCE, _difference, difference

    model = Amplifies()
    graph = trace(model, IMAGES)
    dropped = torch.zeros(graph.num_groups, dtype=torch.bool)
    dropped[graph.gammas["body.1"][:7]] = True
    dense, slim = copy.deepcopy(model), copy.deepcopy(model)
    silence(dense, graph, dropped)
    apply_plan(slim, make_plan(graph, dropped))
    assert _difference(slim, dense, graph.passes[0]) > TOLERANCE
    assert difference(slim, dense, graph.passes[0]) < 1e-7
