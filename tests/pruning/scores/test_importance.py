from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.helpers.pruned import raw_chain, toy
from tests.helpers.toy_nets import Net, bn, conv, out, randomised
from yolo_slim.pruning import (
    Importance,
    Selection,
    gamma_importance,
    importance_scores,
    make_plan,
    select,
    trace,
)
from yolo_slim.pruning.scores.values import reduce_to_groups

KINDS = ["gamma", "l1", "l2", "gamma_l1", "random"]


def test_the_score_of_a_group_is_the_mean_of_its_gammas():
    model, graph = toy("residual")
    model.b1.weight.data = torch.tensor([1.0, -2.0, 3.0, 4.0], dtype=torch.float64)
    model.b3.weight.data = torch.tensor([3.0, 2.0, -5.0, 0.0], dtype=torch.float64)
    scores = gamma_importance(model, graph)
    assert scores.dtype == torch.float64
    assert scores[graph.gammas["b1"]].tolist() == [2.0, 2.0, 4.0, 2.0]
    assert torch.equal(scores[graph.gammas["b2"]], model.b2.weight.abs())
    members = torch.cat(list(graph.gammas.values())).unique()
    assert int(scores.isinf().sum()) == graph.num_groups - len(members)
    assert torch.equal(importance_scores(model, graph, Importance()), scores)


def test_channels_of_one_layer_in_the_same_group_all_count():
    _, graph = toy("grouped")  # b1 is abab
    values = {"b1": torch.tensor([1.0, 2.0, 5.0, 8.0])}
    for reduction, expected in (
        ("mean", [3.0, 5.0]),
        ("sum", [6.0, 10.0]),
        ("max", [5.0, 8.0]),
        ("norm", [26**0.5, 68**0.5]),
    ):
        assert reduce_to_groups(graph, values, reduction)[graph.gammas["b1"]].tolist() == expected * 2
    assert reduce_to_groups(graph, values)[graph.gammas["b2"]].isinf().all()


@pytest.mark.parametrize(("kind", "p"), [("l1", 1), ("l2", 2)])
def test_norms_of_the_filters_that_make_a_channel(kind, p):
    model, graph = raw_chain()
    scores = importance_scores(model, graph, Importance(kind))
    for name, axis in (("c1", 0), ("up", 1), ("fc", 0)):
        weight = model.get_submodule(name).weight
        expected = [weight.select(axis, c).flatten().norm(p).item() for c in range(weight.shape[axis])]
        assert scores[graph.layers[name]].tolist() == pytest.approx(expected), name


@pytest.mark.parametrize("name", ["depthwise", "grouped"])
def test_depthwise_and_grouped_filters_are_members(name):
    model, graph = toy(name)
    second = model.dw if name == "depthwise" else model.c2
    scores = importance_scores(model, graph, Importance("l1", "sum"))
    for layer, batch_norm in ((model.c1, "b1"), (second, "b2")):
        assert layer.weight.shape[0] == len(graph.gammas[batch_norm])
    expected = torch.zeros(graph.num_groups, dtype=torch.float64)
    for layer, batch_norm in ((model.c1, "b1"), (second, "b2")):
        for group, row in zip(graph.gammas[batch_norm].tolist(), layer.weight, strict=True):
            expected[group] += float(row.detach().abs().sum())
    finite = torch.cat([graph.gammas["b1"], graph.gammas["b2"]])
    assert torch.allclose(scores[finite], expected[finite], rtol=1e-12)


def test_gamma_times_l1():
    model, graph = toy("residual")
    scores = importance_scores(model, graph, Importance("gamma_l1"))
    l1 = model.c2.weight.detach().abs().sum((1, 2, 3))
    assert torch.allclose(scores[graph.gammas["b2"]], model.b2.weight.abs() * l1)
    gamma, norm = (importance_scores(model, graph, Importance(kind)) for kind in ("gamma", "l1"))
    assert torch.allclose(scores[graph.gammas["b1"]], (gamma * norm)[graph.gammas["b1"]])
    model.b2.weight.data[0] = 0
    scores = importance_scores(model, graph, Importance("gamma_l1"))
    assert scores[graph.gammas["b2"][0]] == 0
    assert not scores.isnan().any()


class Stripes(nn.Module):
    """Channels that no filter makes: multiples of the mean of the input."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.linspace(0.5, 2, 4))

    def forward(self, x):
        return x.mean(1, keepdim=True) * self.factor.view(1, -1, 1, 1)


def test_gamma_times_l1_without_a_filter_is_no_score():
    model = randomised(Net(lambda n, x: n.head(n.b1(n.stripes(x))), stripes=Stripes(), b1=bn(4), head=out(4)))
    graph = trace(model, torch.rand(1, 3, 8, 8, dtype=torch.float64))
    model.b1.weight.data[0] = 0
    assert importance_scores(model, graph, Importance())[graph.gammas["b1"]].isfinite().all()
    for kind in ("l1", "gamma_l1"):
        assert importance_scores(model, graph, Importance(kind))[graph.gammas["b1"]].isinf().all()


def test_depthwise_transposed_filters_are_members():
    up = nn.ConvTranspose2d(4, 4, 2, stride=2, groups=4, bias=False)
    model = Net(lambda n, x: n.head(n.b2(n.up(n.c1(x)))), c1=conv(3, 4), up=up, b2=bn(4), head=out(4))
    model = randomised(model)
    graph = trace(model, torch.rand(1, 3, 8, 8, dtype=torch.float64))
    expected = (model.c1.weight.abs().sum((1, 2, 3)) + up.weight.abs().sum((1, 2, 3))).tolist()
    found = importance_scores(model, graph, Importance("l1", "sum"))[graph.gammas["b2"]]
    assert found.tolist() == pytest.approx(expected)


def test_channels_with_a_gamma_and_a_raw_part_have_no_gamma_score():
    def run(net, x):
        return net.head(F.relu(net.b1(net.c1(x)) + net.c2(x)))

    model = randomised(Net(run, c1=conv(3, 4), b1=bn(4), c2=nn.Conv2d(3, 4, 3, padding=1), head=out(4)))
    graph = trace(model, torch.rand(1, 3, 8, 8, dtype=torch.float64))
    groups = graph.gammas["b1"]
    assert not graph.gated[groups].any()
    for scores in (gamma_importance(model, graph), reduce_to_groups(graph, {"b1": torch.ones(4)})):
        assert scores[groups].isinf().all()
    assert importance_scores(model, graph, Importance("l1"))[groups].isfinite().all()


def test_random_scores_follow_the_seed():
    model, graph = toy("plain")
    first, again, other = (importance_scores(model, graph, Importance("random", seed=s)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    known = first[torch.cat(list(graph.layers.values()))]
    assert ((known >= 0) & (known < 1)).all()
    assert len(known.unique()) == len(known)


def test_values_are_normalised_within_each_layer():
    model, graph = toy("plain")
    gamma = model.b1.weight.detach().abs()
    model.b2.weight.data.zero_()
    for normalise, size in (("max", gamma.max()), ("mean", gamma.mean()), ("norm", gamma.square().sum().sqrt())):
        scores = importance_scores(model, graph, Importance(normalise=normalise))
        assert torch.allclose(scores[graph.gammas["b1"]], gamma / size)
        assert (scores[graph.gammas["b2"]] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("normalise", ["none", "max", "mean", "norm"])
def test_the_largest_first_is_the_reverse(kind, normalise):
    model, graph = toy("residual")
    smallest, largest = (
        importance_scores(model, graph, Importance(kind, normalise=normalise, order=order))
        for order in ("smallest", "largest")
    )
    finite = smallest.isfinite()
    assert torch.equal(largest[finite], -smallest[finite])
    assert (largest[~finite] == float("inf")).all()
    dropped = select(graph, largest, Selection(1 / 11, min_channels=1)).dropped
    assert dropped.any()
    left = {int(group) for group in graph.gammas["b2"]}  # one channel of b2 is what fits
    assert smallest[dropped].item() == max(float(smallest[group]) for group in left)


def mixed():
    """b1 gates its channels, those of c2 have no gamma."""

    def run(net, x):
        return net.head(F.relu(net.c2(F.relu(net.b1(net.c1(x))))))

    model = randomised(Net(run, c1=conv(3, 4), b1=bn(4), c2=nn.Conv2d(4, 5, 3, padding=1), head=out(5)))
    return model, trace(model, torch.rand(1, 3, 8, 8, dtype=torch.float64))


@pytest.mark.parametrize("kind", KINDS)
def test_gammas_do_not_rank_channels_they_cannot_silence(kind):
    model, graph = mixed()
    assert not graph.gated[graph.layers["c2"]].any()
    scores = importance_scores(model, graph, Importance(kind))
    assert bool(scores[graph.layers["c2"]].isinf().all()) == kind.startswith("gamma")
    assert scores[graph.layers["b1"]].isfinite().all()
    selected = select(graph, scores, Selection(0.7, min_channels=1))
    assert selected.dropped[graph.layers["c2"]].any() != kind.startswith("gamma")
    make_plan(graph, selected.dropped)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "l3"}, "kind='l3': expected one of gamma, l1, l2, gamma_l1, random, taylor"),
        ({"reduction": "median"}, "reduction='median': expected one of mean, sum, max, norm"),
        ({"normalise": "layer"}, "normalise='layer': expected one of none, max, mean, norm"),
        ({"order": "lowest"}, "order='lowest': expected one of smallest, largest"),
    ],
)
def test_settings_are_checked(values, message):
    with pytest.raises(ValueError, match=message):
        Importance(**values)


def test_bad_values():
    _, graph = toy("plain")
    with pytest.raises(ValueError, match="'c1' is no BatchNorm layer of the graph; its layers are b1, b2"):
        reduce_to_groups(graph, {"c1": torch.ones(4)})
    with pytest.raises(ValueError, match=r"b1: got values of shape \(5,\) for 4 gammas"):
        reduce_to_groups(graph, {"b1": torch.ones(5)})
    with pytest.raises(ValueError, match="reduction='median'"):
        reduce_to_groups(graph, {}, "median")
