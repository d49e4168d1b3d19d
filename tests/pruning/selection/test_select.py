from __future__ import annotations

import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.pruned import PRUNABLE_NAMES, chain, kept, scores_for, toy
from tests.helpers.toy_nets import Net, bn, conv, out, randomised
from tests.helpers.yolo_nets import yolo, yolo_passes
from yolo_slim.pruning import CostModel, Selection, gamma_importance, make_plan, select, trace


@pytest.fixture(scope="module")
def detector():
    model = yolo()
    return model, trace(model, passes=yolo_passes())


@pytest.fixture(scope="module")
def toys():
    return {name: toy(name)[1] for name in PRUNABLE_NAMES}


def test_the_lowest_scores_of_the_whole_model_go():
    _, graph = chain(4, 4)
    scores = scores_for(graph, b0=[8, 1, 7, 2], b1=[3, 9, 4, 6])
    selected = select(graph, scores, Selection(0.5, min_channels=1))
    assert kept(graph, selected, "b0") == [0, 2]
    assert kept(graph, selected, "b1") == [1, 3]
    assert (selected.asked, selected.reached, selected.threshold, selected.held) == (0.5, 0.5, 4.0, {})


def test_a_layer_keeps_its_best_and_others_make_up_for_it():
    _, graph = chain(4, 8)
    scores = scores_for(graph, b0=[1, 2, 3, 4], b1=range(10, 18))
    selected = select(graph, scores, Selection(0.5, min_channels=3))
    assert kept(graph, selected, "b0") == [1, 2, 3]
    assert kept(graph, selected, "b1") == [5, 6, 7]
    assert (selected.reached, selected.threshold, selected.held) == (0.5, 14.0, {"b0": 3})


def test_floors_that_hold_are_reported_with_what_was_reached():
    _, graph = chain(4, 12)
    selected = select(graph, scores_for(graph, b0=range(4), b1=range(12)), Selection(0.99, min_channels=8))
    assert kept(graph, selected, "b0") == [0, 1, 2, 3]
    assert kept(graph, selected, "b1") == list(range(4, 12))
    assert selected.reached == pytest.approx(4 / 16)
    assert selected.held == {"b0": 4, "b1": 8}
    assert (selected.bound, selected.kept_below, selected.request) == ({}, 12, "99.0% of the channels")


def test_halves_keep_as_many_as_the_half_that_keeps_most():
    _, graph = toy("split")
    scores = scores_for(graph, b1=[1, 2, 3, 9, 4, 10, 11, 12], b2=[20, 21, 22, 23])
    selected = select(graph, scores, Selection(4 / 12, min_channels=1))
    # Of the four lowest, three are in one half and one in the other: one of each goes, then 3 and 9.
    assert kept(graph, selected, "b1") == [2, 3, 6, 7]
    halves = [selected.dropped[part].sum().item() for part in graph.equal_counts[0]]
    assert halves[0] == halves[1] == 2
    assert selected.reached == pytest.approx(4 / 12)


def test_what_equal_parts_keep_is_reported():
    _, graph = toy("split")
    scores = scores_for(graph, b1=[1, 2, 3, 9, 10, 11, 12, 4], b2=[5, 21, 22, 23])
    selected = select(graph, scores, Selection(3 / 12, min_channels=1))
    # 2 and 3 are below the threshold, but their half may lose no more than the other one does.
    assert kept(graph, selected, "b1") == [1, 2, 3, 4, 5, 6]
    assert kept(graph, selected, "b2") == [1, 2, 3]
    assert selected.threshold == 5.0
    assert (selected.bound, selected.held, selected.kept_below) == ({"b1": 2}, {}, 2)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_threshold_is_the_highest_score_dropped_also_below_zero(sign):
    _, graph = chain(4, 4)
    scores = scores_for(graph, b0=[sign * v for v in (8, 1, 7, 2)], b1=[sign * v for v in (3, 9, 4, 6)])
    assert select(graph, scores, Selection(0.5, min_channels=1)).threshold == (4.0 if sign > 0 else -6.0)


def test_scores_per_cost_prefer_channels_that_save_more():
    model, graph = chain(4, 16, 4)  # a channel of b1 has 4 + 4 filters of 3 x 3 around it, one of b0 3 + 16
    cost = CostModel(model, graph, torch.rand(1, 3, 8, 8, dtype=torch.float64))
    scores = scores_for(graph, b0=[2] * 4, b1=[1] * 16, b2=[3] * 4)
    plain = select(graph, scores, Selection(4 / 24, min_channels=1, round_to=1), cost)
    assert [len(kept(graph, plain, name)) for name in ("b0", "b1", "b2")] == [4, 12, 4]
    for per in ("params", "flops"):
        divided = select(graph, scores, Selection(4 / 24, min_channels=1, per=per, round_to=1), cost)
        scaled = select(graph, 1e-9 * scores, Selection(4 / 24, min_channels=1, per=per, round_to=1), cost)
        assert [len(kept(graph, divided, name)) for name in ("b0", "b1", "b2")] == [1, 15, 4]
        assert torch.equal(divided.dropped, scaled.dropped)
    model, graph = chain(4)
    cost = CostModel(model, graph, torch.rand(1, 3, 8, 8, dtype=torch.float64))
    selected = select(graph, scores_for(graph, b0=range(4)), Selection(0.5, min_channels=1, per="flops"), cost)
    assert selected.threshold == pytest.approx(1.0)  # costs are relative to their mean
    with pytest.raises(ValueError, match="per='flops' needs the cost of the channels: pass cost="):
        select(graph, torch.ones(graph.num_groups), Selection(per="flops"))


def test_a_cost_model_says_what_is_left():
    model, graph = chain(4, 4)
    cost = CostModel(model, graph, torch.rand(1, 3, 8, 8, dtype=torch.float64))
    selected = select(graph, scores_for(graph, b0=range(4), b1=range(4)), Selection(0.5, min_channels=1), cost)
    assert (selected.params, selected.flops) == (cost.params(selected.dropped), cost.flops(selected.dropped))
    assert select(graph, torch.ones(graph.num_groups), Selection()).params is None


def test_a_part_that_an_attribute_counts_keeps_one_channel():
    def run(net, x):
        a, b = net.b1(net.c1(x)).split(net.sizes, dim=1)
        return net.head(torch.cat([torch.nn.functional.max_pool2d(a, 3, 1, 1), b], 1))

    model = randomised(Net(run, c1=conv(3, 8), b1=bn(8), sizes=[3, 5], head=out(8)))
    x = torch.rand(1, 3, 8, 8, dtype=torch.float64)
    graph = trace(model, x)
    selected = select(graph, scores_for(graph, b1=range(8)), Selection(0.9, min_channels=1))
    assert kept(graph, selected, "b1") == [2, 7]
    assert make_plan(graph, selected.dropped).attributes == {"": {"sizes.0": 1, "sizes.1": 1}}


def test_coupled_channels_count_as_often_as_they_have_gammas():
    _, graph = toy("residual")  # b1 and b3 share their groups: 4 groups of 2, and b2: 3 groups of 1
    scores = scores_for(graph, b1=[1, 2, 3, 4], b2=[5, 6, 7])
    selected = select(graph, scores, Selection(3 / 11, min_channels=1))
    # One pair fits, the next would be one too many, so the best single channel follows.
    assert kept(graph, selected, "b1") == kept(graph, selected, "b3") == [1, 2, 3]
    assert kept(graph, selected, "b2") == [1, 2]
    assert selected.reached == pytest.approx(3 / 11)
    # The three pairs that are left score below the threshold: two did not fit, the floor keeps the last.
    assert (selected.threshold, selected.kept_below, selected.bound) == (5.0, 6, {})
    assert selected.held == {"b1": 1, "b3": 1}


def test_infinite_scores_stay():
    _, graph = chain(4, 4)
    scores = scores_for(graph, b0=[1, 2, float("inf"), 3], b1=[float("inf")] * 4)
    selected = select(graph, scores, Selection(0.9, min_channels=1))
    assert kept(graph, selected, "b0") == [2, 3]  # nine tenths of the three that have a score are two
    assert kept(graph, selected, "b1") == [0, 1, 2, 3]


def test_equal_scores_are_dropped_in_order():
    _, graph = chain(4, 4)
    selected = select(graph, torch.ones(graph.num_groups), Selection(0.25, min_channels=1))
    assert kept(graph, selected, "b0") == [2, 3]
    assert kept(graph, selected, "b1") == [0, 1, 2, 3]


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(PRUNABLE_NAMES),
    ratio=st.floats(0, 0.999),
    floor=st.integers(1, 9),
    shortcuts=st.sampled_from(["couple", "spare"]),
    seed=st.integers(0, 10**6),
)
def test_every_ratio_gives_a_plan_that_keeps_the_floors(toys, name, ratio, floor, shortcuts, seed):
    graph = toys[name]
    selection = Selection(ratio, min_channels=floor, shortcuts=shortcuts)
    gammas = graph.prunable_gammas(shortcuts)
    if not any(gamma.prunable.any() for gamma in gammas):
        return
    scores = torch.rand(graph.num_groups, generator=torch.Generator().manual_seed(seed))
    selected = select(graph, scores, selection)
    make_plan(graph, selected.dropped)  # raises where a fixed channel goes or halves differ
    for axes in graph.axes.values():
        for groups in axes.values():
            assert (~selected.dropped[groups]).sum() >= min(floor, len(groups))
    assert not any(selected.dropped[gamma.groups[~gamma.prunable]].any() for gamma in gammas)
    assert selected.reached <= ratio + 1e-9
    assert torch.equal(select(graph, scores, selection).dropped, selected.dropped)


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.3, 0.5, 0.7, 0.8])
def test_a_detector_reaches_the_ratio_to_one_channel(detector, ratio):
    model, graph = detector
    selected = select(graph, gamma_importance(model, graph), Selection(ratio, min_channels=1, round_to=1))
    assert selected.reached == pytest.approx(ratio, abs=1.01 / 5296)
    assert selected.reached <= ratio


def test_a_higher_ratio_never_reaches_less(detector):
    model, graph = detector
    scores = gamma_importance(model, graph)
    reached = [select(graph, scores, Selection(ratio)).reached for ratio in (0.2, 0.5, 0.8, 0.9, 0.95, 0.99)]
    assert reached == sorted(reached)


def test_spared_and_ignored_channels_do_not_count(detector):
    model, graph = detector
    options = {"shortcuts": "spare", "ignore": ("model.22",)}
    selected = select(graph, gamma_importance(model, graph), Selection(0.5, **options, round_to=1))
    gammas = graph.prunable_gammas(**options)
    total = sum(int(gamma.prunable.sum()) for gamma in gammas)
    gone = sum(int(selected.dropped[gamma.groups].sum()) for gamma in gammas)
    assert total == 5296 - 816 - sum(len(g.groups) for g in gammas if g.module.startswith("model.22."))
    assert selected.reached == pytest.approx(gone / total)
    assert gone / total == pytest.approx(0.5, abs=2 / total)


def test_it_is_fast_enough_for_every_epoch(detector):
    model, graph = detector
    scores = gamma_importance(model, graph)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        select(graph, scores, Selection(0.6))
        times.append(time.perf_counter() - start)
    assert min(times) < 0.1


def test_scores_are_checked():
    _, graph = chain(4)
    with pytest.raises(ValueError, match=r"one score per group, \(\d+,\).*got \(3,\)"):
        select(graph, torch.ones(3), Selection())
    with pytest.raises(ValueError, match=r"with 1 NaN"):
        select(graph, scores_for(graph, b0=[1, float("nan"), 2, 3]), Selection())


def test_a_model_without_prunable_channels_is_refused():
    _, graph = toy("attribute in arithmetic")
    with pytest.raises(ValueError, match="no channel is prunable"):
        select(graph, torch.ones(graph.num_groups), Selection())


def test_the_highest_threshold_that_empties_no_layer():
    _, graph = chain(4, 4)
    scores = scores_for(graph, b0=[1, 5, 2, 3], b1=[9, 4, 8, 7])
    # Below 5 lie 1, 2, 3 and 4; the next threshold would take all of b0. What the rules keep does not matter.
    assert select(graph, scores, Selection(0.2, min_channels=1)).emptying == (5.0, 0.5)
    assert select(graph, scores, Selection(0.2, min_channels=4)).emptying == (5.0, 0.5)
    assert select(graph, scores, Selection(0.2, scope="local")).emptying is None
    # A layer that is ignored cannot be emptied, and its channels are not counted.
    assert select(graph, scores, Selection(0.2, ignore=("b0",), min_channels=1)).emptying == (9.0, 0.75)
    _, graph = toy("residual")  # b1 and b3 are coupled: together they have one highest score
    scores = scores_for(graph, b1=[1, 2, 3, 6], b2=[4, 5, 9])
    assert select(graph, scores, Selection(0.2, min_channels=1)).emptying == (6.0, pytest.approx(8 / 11))
