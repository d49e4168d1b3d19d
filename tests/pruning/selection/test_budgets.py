from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.pruned import chain, kept, scores_for
from tests.helpers.yolo_nets import yolo, yolo_passes
from yolo_slim.pruning import CostModel, Selection, gamma_importance, make_plan, select, trace
from yolo_slim.pruning.selection.budgets import Budgets

IMAGES = torch.rand(1, 3, 64, 64, dtype=torch.float64)


@pytest.fixture(scope="module")
def detector():
    model = yolo()
    graph = trace(model, passes=yolo_passes())
    return graph, gamma_importance(model, graph), CostModel(model, graph, IMAGES)


def costs(graph, cost):
    nothing = torch.zeros(graph.num_groups, dtype=torch.bool)
    return {"max_params": cost.params(nothing), "max_flops": cost.flops(nothing)}


def reached(selected, name):
    return selected.params if name == "max_params" else selected.flops


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(["max_params", "max_flops"]),
    share=st.floats(0.1, 1.1),
    scope=st.sampled_from(["global", "local"]),
    per=st.sampled_from(["channel", "flops", "params"]),
    seed=st.integers(0, 10**6),
)
def test_a_budget_is_met_within_one_percent_below(detector, name, share, scope, per, seed):
    graph, _, cost = detector
    limit = share * costs(graph, cost)[name]
    scores = torch.rand(graph.num_groups, generator=torch.Generator().manual_seed(seed))
    selected = select(graph, scores, Selection(**{name: limit}, scope=scope, per=per, round_to=1), cost)
    make_plan(graph, selected.dropped)
    assert min(0.99 * limit, costs(graph, cost)[name]) <= reached(selected, name) <= limit
    assert selected.dropped.any() == (share < 1)
    assert selected.asked == selected.reached
    for axes in graph.axes.values():
        for groups in axes.values():
            assert (~selected.dropped[groups]).sum() >= min(8, len(groups))


@settings(max_examples=20, deadline=None)
@given(first=st.floats(0.1, 1), second=st.floats(0.1, 1), name=st.sampled_from(["max_params", "max_flops"]))
def test_a_tighter_budget_never_keeps_what_a_looser_one_drops(detector, first, second, name):
    graph, scores, cost = detector
    dense = costs(graph, cost)[name]
    looser, tighter = (
        select(graph, scores, Selection(**{name: share * dense}, round_to=1), cost)
        for share in (max(first, second), min(first, second))
    )
    assert not (looser.dropped & ~tighter.dropped).any()
    assert reached(tighter, name) <= reached(looser, name)
    assert tighter.threshold >= looser.threshold


def test_the_search_finds_the_smallest_number():
    class Left:
        def params(self, dropped):
            return len(dropped) - int(dropped.sum())

    for limit in range(1, 41):
        budgets = Budgets({"max_params": limit}, Left())
        assert budgets.search(39, lambda count: np.arange(40) < count) == 40 - limit
    assert Budgets({"max_params": 0.5}, Left()).search(39, lambda count: np.arange(40) < count) is None


def test_no_more_is_dropped_than_the_budget_needs():
    model, graph = chain(8, 8)
    cost = CostModel(model, graph, torch.rand(1, 3, 8, 8, dtype=torch.float64))
    scores = scores_for(graph, b0=range(0, 16, 2), b1=range(1, 17, 2))
    for limit in range(100, 950, 25):
        selected = select(graph, scores, Selection(max_params=limit, min_channels=1), cost)
        assert selected.params <= limit
        fewer = selected.dropped.clone()
        fewer[torch.where(selected.dropped, scores, -1.0).argmax()] = False
        assert cost.params(fewer) > limit


def test_several_budgets_are_all_met(detector):
    graph, scores, cost = detector
    dense = costs(graph, cost)
    for params, flops in ((0.5, 0.9), (0.9, 0.5), (0.4, 0.4)):
        limits = {"max_params": params * dense["max_params"], "max_flops": flops * dense["max_flops"]}
        selected = select(graph, scores, Selection(**limits), cost)
        shares = [reached(selected, name) / limit for name, limit in limits.items()]
        assert 0.99 <= max(shares) <= 1


def test_a_budget_beside_ratios_is_reached_with_the_other_layers(detector):
    graph, scores, cost = detector
    limit = 0.5 * cost.params(torch.zeros(graph.num_groups, dtype=torch.bool))
    selected = select(graph, scores, Selection(max_params=limit, ratios={"model.22": 0, "model.21": 0.3}), cost)
    head = [groups for name, groups in graph.layers.items() if name.startswith("model.22.")]
    assert not any(selected.dropped[groups].any() for groups in head)
    assert 0.99 * limit <= selected.params <= limit


@pytest.mark.parametrize("name", ["max_params", "max_flops"])
def test_what_cannot_be_reached(detector, name):
    graph, scores, cost = detector
    with pytest.raises(
        ValueError, match=rf"{name}=10,000: the smallest that can be reached is [\d,]+; held by"
    ) as error:
        select(graph, scores, Selection(**{name: 10_000}, round_to=1), cost)
    message = str(error.value)
    assert "min_channels=8 (" in message
    smallest = float(message.split("reached is ")[1].split(";")[0].replace(",", ""))
    assert reached(select(graph, scores, Selection(**{name: smallest}, round_to=1), cost), name) == smallest
    with pytest.raises(ValueError, match="the smallest that can be reached"):
        select(graph, scores, Selection(**{name: smallest - 1}, round_to=1), cost)
    assert select(graph, scores, Selection(**{name: smallest - 1}, min_channels=4, round_to=1), cost).dropped.any()


def test_what_else_holds_a_budget():
    model, graph = chain(8, 8)
    cost = CostModel(model, graph, torch.rand(1, 3, 8, 8, dtype=torch.float64))
    scores = scores_for(graph, b0=range(8), b1=range(8))
    with pytest.raises(ValueError, match=r"; held by min_channels=2 \(2 channels\), being fixed.* \(10 channels\)$"):
        select(graph, scores, Selection(max_params=1, min_channels=2, ignore=("c1",)), cost)


def test_what_a_budget_needs():
    model, graph = chain(8)
    scores = scores_for(graph, b0=range(8))
    with pytest.raises(ValueError, match="max_params=100 needs the cost of the model: pass cost="):
        select(graph, scores, Selection(max_params=100))
    with pytest.raises(ValueError, match="max_latency_ms=5 needs the times of layers: pass cost=CostModel"):
        select(graph, scores, Selection(max_latency_ms=5), CostModel(model, graph, torch.rand(1, 3, 8, 8).double()))


def test_a_budget_that_is_met_already_drops_nothing():
    model, graph = chain(8)
    cost = CostModel(model, graph, torch.rand(1, 3, 8, 8, dtype=torch.float64))
    selected = select(graph, scores_for(graph, b0=range(8)), Selection(max_params=1e9), cost)
    assert kept(graph, selected, "b0") == list(range(8))
    assert (selected.reached, selected.threshold) == (0.0, 0.0)
