"""What is chosen to fade: by the first ranking, and never given back."""

from __future__ import annotations

import pytest
import torch

from tests.helpers.pruned import chain, toy
from tests.helpers.yolo_nets import yolo, yolo_passes
from yolo_slim.pruning import Choice, CostModel, Selection, make_plan, trace


def ranked(graph, selection, cost=None, seed=0):
    choice = Choice(graph, selection, cost)
    choice.rank(torch.rand(graph.num_groups, generator=torch.Generator().manual_seed(seed)))
    return choice


def test_nothing_is_chosen_before_there_are_scores():
    _, graph = toy("plain")
    choice = Choice(graph, Selection(0.5, min_channels=1))
    assert not choice.ranked
    assert choice.advance(1.0) == 0.0
    assert (choice.chosen.any(), choice.share) == (False, 0.0)


@pytest.mark.parametrize("per_layer", [None, {"b2": 0.8}])
def test_the_chosen_set_grows_to_the_ratio(per_layer):
    _, graph = toy("plain")
    choice = ranked(graph, Selection(0.5 if per_layer is None else 0, ratios=per_layer, min_channels=1))
    sets = []
    for share in (0.3, 0.6, 1.0):
        reached = choice.advance(share)
        sets.append(set(choice.chosen.nonzero().flatten().tolist()))
    assert sets[0] < sets[1] < sets[2]
    assert reached == pytest.approx(0.5, abs=0.1)
    assert choice.share == 1.0
    if per_layer:
        assert not choice.chosen[graph.gammas["b1"]].any()


@pytest.mark.parametrize("name", ["max_flops", "max_params"])
def test_towards_a_budget_what_is_chosen_stays_chosen_whatever_is_ranked_later(name):
    model = yolo()
    graph = trace(model, passes=yolo_passes())
    cost = CostModel(model, graph, torch.rand(1, 3, 64, 64, dtype=torch.float64))
    nothing = torch.zeros(graph.num_groups, dtype=torch.bool)
    limit = 0.4 * (cost.flops if name == "max_flops" else cost.params)(nothing)
    choice = ranked(graph, Selection(**{name: limit}, min_channels=2), cost)
    before = choice.chosen
    for step in range(1, 6):
        choice.rank(torch.rand(graph.num_groups, generator=torch.Generator().manual_seed(step)))
        choice.advance(step / 5)
        assert not (before & ~choice.chosen).any(), "a faded channel was given back"
        before = choice.chosen
    make_plan(graph, choice.chosen)  # floors and equal parts hold
    assert 0.9 * limit < (cost.flops if name == "max_flops" else cost.params)(choice.chosen) <= limit


def test_a_branch_that_has_half_faded_is_not_ranked_by_what_is_left_of_it():
    """The scores are those of the dense model: the least important halves of both layers go, not one whole layer."""
    _, graph = chain(8, 8)
    scores = torch.full((graph.num_groups,), float("inf"))
    scores[graph.gammas["b0"]] = torch.arange(8.0)
    scores[graph.gammas["b1"]] = torch.arange(8.0) + 0.5
    choice = Choice(graph, Selection(0.5, min_channels=1))
    choice.rank(scores)
    for share in (0.25, 0.5, 0.75, 1.0):
        choice.advance(share)
    assert [int(choice.chosen[graph.gammas[name]].sum()) for name in ("b0", "b1")] == [4, 4]


def test_layers_at_rest_are_left_alone_until_they_train():
    _, graph = toy("plain")
    choice = ranked(graph, Selection(0.5, min_channels=1))
    choice.advance(1.0, resting=["b1"])
    assert not choice.chosen[graph.gammas["b1"]].any()
    choice.advance(1.0)
    assert choice.chosen[graph.gammas["b1"]].any()


def test_channels_that_no_gamma_silences_are_not_chosen():
    _, graph = toy("classifier")
    choice = ranked(graph, Selection(0.9, min_channels=1))
    choice.advance(1.0)
    assert choice.chosen.any()
    assert not (choice.chosen & ~graph.gated).any()


def test_a_resumed_choice_goes_on_as_it_would_have():
    _, graph = toy("plain")
    selection = Selection(0.5, min_channels=1)
    straight, broken = ranked(graph, selection), ranked(graph, selection)
    broken.advance(0.5)
    resumed = Choice(graph, selection)
    resumed.load_state_dict(broken.state_dict())
    for choice in (straight, resumed):
        choice.advance(0.5)
        choice.advance(1.0)
    assert torch.equal(straight.chosen, resumed.chosen)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"chosen": torch.zeros(3, dtype=torch.bool)}, "it has 3 channel groups, this model has"),
        ({"scores": torch.zeros(3)}, "channel groups, this model has"),
        ({"share": 1.5}, "its choice of channels is damaged"),
    ],
)
def test_a_state_of_another_model_is_refused(change, said):
    _, graph = toy("plain")
    choice = ranked(graph, Selection(0.5))
    with pytest.raises(ValueError, match=said):
        choice.load_state_dict(choice.state_dict() | change)


def test_scores_that_are_no_numbers_are_refused():
    _, graph = toy("plain")
    choice = ranked(graph, Selection(0.5))
    with pytest.raises(ValueError, match="damaged"):
        choice.load_state_dict(choice.state_dict() | {"scores": torch.full((graph.num_groups,), float("nan"))})


@pytest.mark.parametrize("selection", [Selection(max_flops=100), Selection(per="params"), Selection(max_latency="50%")])
def test_what_a_choice_needs(selection):
    _, graph = chain(8)
    with pytest.raises(ValueError, match=r"choosing channels for .* needs the cost of the model: pass cost="):
        Choice(graph, selection)
