from __future__ import annotations

import pytest
import torch

from tests.helpers.pruned import chain, kept, scores_for, toy
from tests.helpers.yolo_nets import yolo, yolo_passes
from yolo_slim.pruning import Selection, gamma_importance, make_plan, select, trace


@pytest.fixture(scope="module")
def detector():
    model = yolo()
    return model, trace(model, passes=yolo_passes())


def share_kept(graph, selected, name):
    return len(kept(graph, selected, name)) / len(graph.layers[name])


def test_local_takes_the_ratio_from_every_layer():
    _, graph = chain(4, 8, 5)
    scores = scores_for(graph, b0=range(4), b1=range(100, 108), b2=range(200, 205))
    selected = select(graph, scores, Selection(0.5, min_channels=1, scope="local"))
    assert kept(graph, selected, "b0") == [2, 3]
    assert kept(graph, selected, "b1") == [4, 5, 6, 7]
    assert kept(graph, selected, "b2") == [2, 3, 4]
    assert selected.reached == pytest.approx(8 / 17)


def test_local_has_nobody_make_up_for_a_floor():
    _, graph = chain(4, 8)
    scores = scores_for(graph, b0=range(4), b1=range(100, 108))
    selected = select(graph, scores, Selection(0.5, min_channels=3, scope="local"))
    assert [len(kept(graph, selected, name)) for name in ("b0", "b1")] == [3, 4]
    assert (selected.held, selected.bound) == ({"b0": 1}, {})


def test_local_takes_coupled_layers_together_and_halves_apart():
    _, graph = toy("residual")
    scores = scores_for(graph, b1=[4, 1, 2, 3], b2=[7, 5, 6])
    selected = select(graph, scores, Selection(0.5, min_channels=1, scope="local"))
    assert kept(graph, selected, "b1") == kept(graph, selected, "b3") == [0, 3]
    assert kept(graph, selected, "b2") == [0, 2]
    _, graph = toy("split")
    scores = scores_for(graph, b1=[1, 2, 3, 4, 5, 6, 7, 8], b2=[9, 10, 11, 12])
    selected = select(graph, scores, Selection(0.5, min_channels=1, scope="local"))
    assert kept(graph, selected, "b1") == [2, 3, 6, 7]
    assert selected.bound == {}


def test_local_ratio_of_a_detector(detector):
    model, graph = detector
    selected = select(graph, gamma_importance(model, graph), Selection(0.5, min_channels=1, round_to=1, scope="local"))
    prunable = [layer for layer in graph.prunable_layers() if layer.prunable.all()]
    assert len(prunable) == 57
    assert all(share_kept(graph, selected, layer.module) == 0.5 for layer in prunable)


def test_ratios_override_layers_and_the_last_one_wins():
    _, graph = chain(8, 8, 8)
    scores = scores_for(graph, b0=range(8), b1=range(8), b2=range(8))
    given = [("b*", 0.25), ("b1", 0.75)]
    selected = select(graph, scores, Selection(0.5, ratios=given, min_channels=1))
    assert [len(kept(graph, selected, name)) for name in ("b0", "b1", "b2")] == [6, 2, 6]
    assert selected.asked == pytest.approx((0.25 * 16 + 0.75 * 8) / 24)
    assert selected.reached == selected.asked
    selected = select(graph, scores, Selection(0.5, ratios=given[::-1], min_channels=1))
    assert [len(kept(graph, selected, name)) for name in ("b0", "b1", "b2")] == [6, 6, 6]


def test_ratio_zero_makes_ratios_an_explicit_list():
    _, graph = chain(8, 8, 8)
    scores = scores_for(graph, b0=range(8), b1=range(8), b2=range(8))
    for given in ({"b0": 0.5, "b2": 0.25}, {"c0": 0.5, "c2": 0.25}):
        selected = select(graph, scores, Selection(0, ratios=given, min_channels=1))
        assert [len(kept(graph, selected, name)) for name in ("b0", "b1", "b2")] == [4, 8, 6]


def test_layers_of_one_pattern_compete_with_scope_global_only():
    _, graph = chain(8, 8)
    scores = scores_for(graph, b0=range(8), b1=range(100, 108))
    left = {
        scope: [
            len(kept(graph, select(graph, scores, Selection(0, ratios={"b*": 0.25}, min_channels=1, scope=scope)), b))
            for b in ("b0", "b1")
        ]
        for scope in ("global", "local")
    }
    assert left == {"global": [4, 8], "local": [6, 6]}


def test_what_is_coupled_or_kept_equal_goes_along():
    _, graph = toy("residual")
    scores = scores_for(graph, b1=[1, 2, 3, 4], b2=[5, 6, 7])
    selected = select(graph, scores, Selection(0, ratios={"b3": 0.5}, min_channels=1))
    assert kept(graph, selected, "b1") == kept(graph, selected, "b3") == [2, 3]
    assert kept(graph, selected, "b2") == [0, 1, 2]


def test_a_pattern_that_matches_half_of_a_layer_takes_the_other_half_along(detector):
    model, graph = detector
    half = graph.layers["model.2.m.0.cv2.bn"]  # coupled to the second half of model.2.cv1 by the shortcut
    whole = graph.layers["model.2.cv1.bn"]
    assert set(half.tolist()) < set(whole.tolist())
    given = {"model.2.m.0.cv2": 0.5}
    selected = select(graph, gamma_importance(model, graph), Selection(0, ratios=given, min_channels=1))
    assert share_kept(graph, selected, "model.2.cv1.bn") == share_kept(graph, selected, "model.2.m.0.cv2.bn") == 0.5
    assert int(selected.dropped.sum()) == len(whole) // 2
    make_plan(graph, selected.dropped)


@pytest.mark.parametrize("pattern", ["model.4", "model.4.*", "model.4.cv?.bn"])
def test_containers_match_as_in_ignore(detector, pattern):
    model, graph = detector
    selected = select(graph, gamma_importance(model, graph), Selection(0.5, ratios={pattern: 0}, round_to=1))
    inside = [groups for name, groups in graph.layers.items() if name.startswith("model.4.cv")]
    assert len(inside) == 2
    assert not any(selected.dropped[groups].any() for groups in inside)
    assert selected.reached == pytest.approx(selected.asked, abs=1e-3)


def test_patterns_that_ask_for_nothing_possible():
    _, graph = chain(8)
    scores = scores_for(graph, b0=range(8))
    for pattern in ("b7", "b0.weight", "B0"):
        with pytest.raises(ValueError, match=f"ratios pattern '{pattern}' matches no layer; names look like b0"):
            select(graph, scores, Selection(ratios={pattern: 0.1}))
    with pytest.raises(ValueError, match="ratios: no channel that 'head' matches is prunable"):
        select(graph, scores, Selection(ratios={"head": 0.1}))
    assert not select(graph, scores, Selection(ratios={"head": 0, "b0": 0})).dropped.any()


def test_equal_scores_and_infinite_ones_in_a_local_ratio():
    _, graph = chain(4, 4)
    scores = scores_for(graph, b0=[1, 1, 1, 1], b1=[1, float("inf"), float("inf"), 2])
    selected = select(graph, scores, Selection(0.5, min_channels=1, scope="local"))
    assert kept(graph, selected, "b0") == [2, 3]
    assert kept(graph, selected, "b1") == [1, 2, 3]  # half of the two that have a score
    assert torch.equal(select(graph, scores, Selection(0.5, min_channels=1, scope="local")).dropped, selected.dropped)


@pytest.mark.parametrize("ratio", [0.5, 0.7])
def test_what_is_zero_is_enough_where_it_reaches_the_ratio(detector, ratio):
    """A prune after a sparse phase takes no living channel to come some tenths of a percent nearer to the ratio."""
    _, graph = detector
    scores = torch.rand(graph.num_groups, generator=torch.Generator().manual_seed(1)).double() + 1
    zero = select(graph, scores, Selection(ratio)).dropped
    others = torch.rand(graph.num_groups, generator=torch.Generator().manual_seed(2)).double() + 1
    selected = select(graph, others.masked_fill(zero, 0.0), Selection(ratio))
    assert selected.round_to == 16
    assert torch.equal(selected.dropped, zero)
    assert 0.99 * ratio <= selected.reached <= ratio
