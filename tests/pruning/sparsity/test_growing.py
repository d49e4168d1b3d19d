"""What a growing set does to gammas and betas."""

from __future__ import annotations

import torch

from tests.helpers.pruned import toy
from yolo_slim.pruning import Choice, Growing, Selection
from yolo_slim.pruning.sparsity.growing import growing_ratio


def fading(epochs, steps, ratio=0.5):
    model, graph = toy("plain")
    choice = Choice(graph, Selection(ratio, min_channels=1))
    choice.rank(torch.arange(graph.num_groups, dtype=torch.float64))
    growing = Growing(model, graph, choice)
    for epoch in range(epochs):
        growing.start_epoch(epoch, epochs, steps)
        for _ in range(steps):
            growing.shrink(model)
    return model, graph, growing


def test_the_set_is_complete_after_two_fifths_of_the_fit():
    assert [growing_ratio(epoch, 20, 1.0) == 1.0 for epoch in (7, 8, 19)] == [False, True, True]
    assert growing_ratio(1, 2, 0.5) == 0.5


def test_what_is_chosen_fades_with_its_beta_and_the_others_stay():
    before, _ = toy("plain")
    model, graph, growing = fading(epochs=5, steps=3)
    for name in ("b1", "b2"):
        chosen = growing.choice.chosen[graph.gammas[name]]
        norm, old = getattr(model, name), getattr(before, name)
        for now, then in ((norm.weight, old.weight), (norm.bias, old.bias)):
            assert (now[chosen] == 0).all()
            assert torch.equal(now[~chosen], then[~chosen])
    assert growing.choice.chosen.any()


def test_a_fit_that_ends_within_the_first_steps_of_an_epoch_gives_its_new_channels_up():
    model, _, growing = fading(epochs=1, steps=1)
    growing.start_epoch(1, 10, 100)
    growing.shrink(model)
    growing.stop(model)
    assert not growing.choice.chosen.any()
    assert growing.choice.share == 0.0
