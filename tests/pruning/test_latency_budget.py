"""Budgets in milliseconds: what is foreseen, what is measured, and how the search ends."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.helpers.clocks import count_time, model_ms
from tests.helpers.yolo_nets import yolo, yolo_passes
from yolo_slim.pruning import Latency, Selection, apply_plan, cost_of, gamma_importance, make_plan, prune, select, trace
from yolo_slim.pruning.latency_budget import MET, TRIES, select_within
from yolo_slim.pruning.repair.stand_ins import Found

SIDE = 64


@pytest.fixture
def counted(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    seen = count_time(monkeypatch)
    model = yolo()
    return model, trace(model, passes=yolo_passes()), torch.rand(1, 3, SIDE, SIDE).double(), seen


@pytest.mark.parametrize("limit", ["85%", "60%", "45%"])
@pytest.mark.parametrize("round_to", [1, "auto"])
def test_a_share_is_met_within_three_percent_and_never_exceeded(counted, limit, round_to):
    model, graph, images, seen = counted
    before = model_ms(model.eval(), images)
    report = prune(model, graph, Selection(max_latency=limit, round_to=round_to), example_inputs=images)
    after = model_ms(model.eval(), images)
    share = float(limit.rstrip("%")) / 100
    assert report.latency_ms == pytest.approx(after)
    assert MET * share * before <= after <= share * before
    assert report.request == f"at most {limit} of the latency"
    assert len(seen) <= 2 * (TRIES + 1)


def test_milliseconds_are_met_beside_other_budgets(counted):
    model, graph, images, _ = counted
    limit = 0.7 * model_ms(model.eval(), images)
    parameters = sum(p.numel() for p in model.parameters())
    report = prune(model, graph, Selection(max_latency_ms=limit, max_params="60%"), example_inputs=images)
    assert model_ms(model.eval(), images) <= limit
    assert report.parameters_after <= 0.6 * parameters


def test_what_a_budget_in_milliseconds_foresees_is_what_its_model_takes(counted):
    model, graph, images, _ = counted
    cost, _ = cost_of(model, graph, Selection(max_latency="50%"), images)
    for share in ("80%", "50%", "35%"):
        dropped = select(graph, gamma_importance(model, graph), Selection(max_flops=share), cost).dropped
        slim = yolo()
        apply_plan(slim, make_plan(graph, dropped))
        assert cost.latency_ms(dropped) == pytest.approx(model_ms(slim.eval(), images), rel=0.1)


def test_a_limit_that_is_met_already_drops_nothing(counted):
    model, graph, images, _ = counted
    limit = 2 * model_ms(model.eval(), images)
    report = prune(model, graph, Selection(max_latency_ms=limit), example_inputs=images)
    assert report.reached == 0


def test_a_limit_that_cannot_be_reached_leaves_the_model(counted):
    model, graph, images, _ = counted
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"max_latency_ms=[\d.]+: the smallest that can be reached is [\d.]+; held by"):
        prune(model, graph, Selection(max_latency="2%"), example_inputs=images)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_exact_compensation_counts_the_dead_channels_that_it_keeps(counted):
    model, graph, images, _ = counted
    generator = torch.Generator().manual_seed(0)
    for name in graph.gammas:
        gamma = model.get_submodule(name).weight.data
        gamma[torch.rand(len(gamma), generator=generator) < 0.7] = 0
    limit = 0.6 * model_ms(model.eval(), images)
    report = prune(model, graph, Selection(max_latency_ms=limit), example_inputs=images, compensation="exact")
    assert report.compensation.kept_dead > 0
    assert report.error < 1e-9
    assert report.latency_ms == pytest.approx(model_ms(model.eval(), images))
    assert report.latency_ms <= limit


def test_scores_per_millisecond_take_more_where_more_is_saved(counted):
    model, graph, images, _ = counted
    scores = torch.rand(graph.num_groups, generator=torch.Generator().manual_seed(0)).double()
    cost, _ = cost_of(model, graph, Selection(per="latency"), images)
    dropped = {}
    for per in ("channel", "latency"):
        dropped[per] = select(graph, scores, Selection(max_latency="60%", per=per, round_to=1), cost).dropped
    assert cost.saving("latency").min() >= 0
    assert sum(dropped["latency"]) < sum(dropped["channel"])  # fewer channels for the same milliseconds


def test_what_is_timed_is_what_is_deployed(counted, monkeypatch):
    model, graph, images, seen = counted

    def deployed(copy: nn.Module) -> nn.Module:
        assert copy is not model
        return copy.fuse(verbose=False)

    prune(model, graph, Selection(max_latency="70%"), example_inputs=images, deployed=deployed)
    assert any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    assert seen


class Wandering:
    """A stopwatch of a machine that is disturbed: every third time is half as long again."""

    def __init__(self, cost) -> None:
        self.cost, self.looks = cost, 0

    def times(self, dropped: Tensor) -> tuple[float, float]:
        self.looks += 1
        dense = self.cost.latency_ms(torch.zeros_like(dropped))
        return dense, self.cost.latency_ms(dropped) * (1.5 if self.looks % 3 == 1 else 1.0)


def test_a_disturbed_measurement_is_no_end(counted):
    model, graph, images, _ = counted
    selection = Selection(max_latency="60%", round_to=1)
    cost, _ = cost_of(model, graph, selection, images)
    scores, watch = gamma_importance(model, graph), Wandering(cost)

    def choose(asked):
        return Found(select(graph, scores, asked, cost), torch.zeros(graph.num_groups, dtype=torch.bool), "none")

    found = select_within(choose, selection, cost, watch)
    assert found.selected.latency_ms <= 0.6 * cost.dense()["max_latency_ms"]
    watch.times = lambda dropped: (1.0, 2.0)
    with pytest.raises(ValueError, match="times vary as much as that here: measure on a quiet machine"):
        select_within(choose, selection, cost, watch)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"runtime": "tflite"}, "runtime='tflite': expected one of torch, onnxruntime, openvino, tensorrt"),
        ({"threads": 0}, "threads=0: expected at least 1"),
        ({"imgsz": -1}, "imgsz=-1: expected at least 1"),
    ],
)
def test_a_latency_is_checked(values, message):
    with pytest.raises(ValueError, match=message):
        Latency(**values)
