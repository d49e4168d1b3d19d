from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.pruned import PRUNABLE_NAMES, chain, kept, scores_for, toy
from tests.helpers.yolo_nets import yolo, yolo_passes
from yolo_slim.pruning import CostModel, Selection, gamma_importance, make_plan, select, trace
from yolo_slim.pruning.selection.constraints import Constraints
from yolo_slim.pruning.selection.selection import Widths


@pytest.fixture(scope="module")
def detector():
    model = yolo()
    return model, trace(model, passes=yolo_passes())


def all_kept_as_multiples(graph, dropped, round_to):
    """Of layers, equal parts and counted parts; what is no multiple is a whole layer."""
    parts = [part for parts in graph.equal_counts for part in parts] + [a.groups for a in graph.attributes]
    for groups in [*graph.layers.values(), *parts]:
        left = int((~dropped[groups]).sum())
        assert left % round_to == 0 or left == len(groups)


def test_every_layer_keeps_a_multiple_rounded_up():
    _, graph = chain(12, 10, 6)
    scores = scores_for(graph, b0=range(12), b1=range(10), b2=range(6))
    selected = select(graph, scores, Selection(0.9, min_channels=3, round_to=4))
    assert kept(graph, selected, "b0") == list(range(8, 12))
    assert kept(graph, selected, "b1") == list(range(6, 10))
    assert kept(graph, selected, "b2") == list(range(2, 6))
    # Of each layer three are the floor's, the fourth is the multiple's.
    assert (selected.held, selected.bound) == ({"b0": 3, "b1": 3, "b2": 3}, {"b0": 1, "b1": 1, "b2": 1})


def test_a_layer_that_is_no_multiple_loses_nothing_before_it_can_lose_enough():
    _, graph = chain(10, 16)
    scores = scores_for(graph, b0=range(10), b1=range(100, 116))
    left = [
        len(kept(graph, select(graph, scores, Selection(n / 26, min_channels=1, round_to=8)), "b0")) for n in range(11)
    ]
    assert left == [10, 10, *[8] * 9]


def test_halves_are_multiples_too():
    _, graph = toy("split")
    selected = select(graph, torch.arange(graph.num_groups), Selection(0.99, min_channels=1, round_to=2))
    assert [int((~selected.dropped[part]).sum()) for part in graph.equal_counts[0]] == [2, 2]
    assert len(kept(graph, selected, "b2")) == 2


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(PRUNABLE_NAMES),
    ratio=st.floats(0, 0.999),
    floor=st.integers(1, 4),
    round_to=st.integers(1, 5),
    scope=st.sampled_from(["global", "local"]),
    seed=st.integers(0, 10**6),
)
def test_all_rules_hold_for_any_ratio(name, ratio, floor, round_to, scope, seed):
    _, graph = toy(name)
    scores = torch.rand(graph.num_groups, generator=torch.Generator().manual_seed(seed))
    selected = select(graph, scores, Selection(ratio, min_channels=floor, round_to=round_to, scope=scope))
    make_plan(graph, selected.dropped)  # raises where a fixed channel goes or halves differ
    all_kept_as_multiples(graph, selected.dropped, round_to)
    for axes in graph.axes.values():
        for groups in axes.values():
            assert (~selected.dropped[groups]).sum() >= min(floor, len(groups))
    assert selected.reached <= ratio + 1e-9


@pytest.mark.parametrize("scope", ["global", "local"])
@pytest.mark.parametrize("round_to", [4, 8, 16])
def test_a_detector_keeps_multiples(detector, round_to, scope):
    model, graph = detector
    selected = select(graph, gamma_importance(model, graph), Selection(0.5, round_to=round_to, scope=scope))
    all_kept_as_multiples(graph, selected.dropped, round_to)
    plan = make_plan(graph, selected.dropped)
    assert plan.entries
    assert all(len(keep) % round_to == 0 for sides in plan.entries.values() for keep in sides.values())


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    widths=st.sampled_from([Widths(1), Widths(8), Widths(16, least=16)]),
    first=st.floats(0, 1),
    second=st.floats(0, 1),
)
def test_more_that_is_chosen_is_never_less_that_is_dropped(detector, seed, widths, first, second):
    _, graph = detector
    candidates = ~graph.fixed.numpy()
    order = np.flatnonzero(candidates)
    np.random.default_rng(seed).shuffle(order)
    rank = np.full(graph.num_groups, len(order))
    rank[order] = np.arange(len(order))
    rules = Constraints(graph, candidates, rank, 8, widths)
    fewer, more = (np.zeros(graph.num_groups, bool) for _ in range(2))
    fewer[order[: int(min(first, second) * len(order))]] = True
    more[order[: int(max(first, second) * len(order))]] = True
    assert not (rules.dropped(fewer) & ~rules.dropped(more)).any()


def test_rounding_costs_little_of_a_budget(detector):
    model, graph = detector
    cost = CostModel(model, graph, torch.rand(1, 3, 64, 64, dtype=torch.float64))
    for share in (0.5, 0.35, 0.2):
        limit = share * cost.flops(torch.zeros(graph.num_groups, dtype=torch.bool))
        selected = select(graph, gamma_importance(model, graph), Selection(max_flops=limit, round_to=8), cost)
        all_kept_as_multiples(graph, selected.dropped, 8)
        assert 0.99 * limit <= selected.flops <= limit
