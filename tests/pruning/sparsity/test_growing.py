"""What a growing set does to gammas and betas."""

from __future__ import annotations

import torch

from tests.helpers.pruned import toy
from yolo_slim.pruning import Choice, Growing, Selection


def grown(*points, ratio=0.5):
    model, graph = toy("plain")
    growing = Growing(model, graph, Choice(graph, Selection(ratio, min_channels=1)))
    sizes = []
    for seed, point in enumerate(points):
        growing.choice.rank(torch.rand(graph.num_groups, generator=torch.Generator().manual_seed(seed)))
        growing.advance(point)
        growing.hold(model)
        sizes.append(int(growing.choice.chosen.sum()))
    return model, graph, growing, sizes


def test_the_set_grows_on_a_cubic_ramp_and_is_complete_at_one():
    _, _, growing, sizes = grown(0.1, 0.3, 1.0, 1.2)
    assert 0 < sizes[0] < sizes[1] < sizes[2] == sizes[3]
    assert growing.choice.share == 1.0


def test_what_is_chosen_is_zero_with_its_beta_and_the_others_stay():
    before, _ = toy("plain")
    model, graph, growing, _ = grown(0.2, 1.0)
    for name in ("b1", "b2"):
        chosen = growing.choice.chosen[graph.gammas[name]]
        norm, old = getattr(model, name), getattr(before, name)
        for now, then in ((norm.weight, old.weight), (norm.bias, old.bias)):
            assert (now[chosen] == 0).all()
            assert torch.equal(now[~chosen], then[~chosen])
    assert growing.choice.chosen.any()


def test_it_is_held_in_every_copy():
    model, graph, growing, _ = grown(1.0)
    copy, _ = toy("plain")
    with torch.no_grad():
        for norm in (model.b1, model.b2):
            norm.weight += 1
            norm.bias += 1
    growing.hold(model, copy)
    for name in ("b1", "b2"):
        chosen = growing.choice.chosen[graph.gammas[name]]
        for one in (model, copy):
            assert (getattr(one, name).weight[chosen] == 0).all()
            assert (getattr(one, name).bias[chosen] == 0).all()
            assert (getattr(one, name).weight[~chosen] != 0).all()
