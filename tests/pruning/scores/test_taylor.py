from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tests.helpers.pruned import raw_chain, toy
from tests.helpers.toy_nets import Net, bn, conv, out, randomised
from yolo_slim.pruning import Importance, Taylor, importance_scores, trace


def backward(model, seed):
    torch.manual_seed(seed)
    model.zero_grad()
    model(torch.rand(2, 3, 8, 8, dtype=torch.float64)).square().mean().backward()


def term(parameter):
    return (parameter * parameter.grad).detach()


def test_the_mean_over_batches_of_the_squared_term_of_gamma_and_beta():
    model, graph = toy("plain")
    taylor = Taylor(model, graph)
    expected = torch.zeros(4, dtype=torch.float64)
    for seed in range(3):
        backward(model, seed)
        taylor.observe()
        expected += (term(model.b1.weight) + term(model.b1.bias)).square() / 3
    assert taylor.batches == 3
    scores = taylor.scores()
    assert scores.dtype == torch.float64
    assert torch.allclose(scores[graph.gammas["b1"]], expected, rtol=1e-12)
    assert scores[graph.axes["c1.weight"][1]].isinf().all()  # the image


def test_it_predicts_what_the_loss_changes_by():
    model, graph = toy("plain")
    images = torch.rand(2, 3, 8, 8, dtype=torch.float64)

    def loss():
        return model(images).square().mean()

    model.zero_grad()
    before = loss()
    before.backward()
    taylor = Taylor(model, graph)
    taylor.observe()
    step = 1e-4  # the first order of becoming zero, from a small part of the way
    with torch.no_grad():
        for parameter in (model.b2.weight, model.b2.bias):
            parameter[2] *= 1 - step
        change = (loss() - before) / step
    assert taylor.scores()[graph.gammas["b2"][2]] == pytest.approx(float(change) ** 2, rel=1e-2)


def test_members_of_a_group_are_reduced():
    model, graph = toy("residual")
    taylor = Taylor(model, graph)
    backward(model, 0)
    taylor.observe()
    b1, b3 = ((term(b.weight) + term(b.bias)).square() for b in (model.b1, model.b3))
    groups = graph.gammas["b1"]
    assert torch.allclose(taylor.scores("sum")[groups], b1 + b3)
    assert torch.allclose(taylor.scores("max")[groups], torch.maximum(b1, b3))
    assert torch.allclose(taylor.scores("sum", "max")[groups], b1 / b1.max() + b3 / b3.max())


@pytest.mark.parametrize("bias", [True, False])
def test_without_gammas_the_filters_count(bias):
    model, graph = raw_chain(bias)
    taylor = Taylor(model, graph)
    backward(model, 0)
    taylor.observe()
    scores = taylor.scores()
    for name, axes in (("c1", (1, 2, 3)), ("up", (0, 2, 3)), ("fc", (1,))):
        layer = model.get_submodule(name)
        expected = term(layer.weight).sum(axes) + (term(layer.bias) if bias else 0)
        assert torch.allclose(scores[graph.layers[name]], expected.square(), rtol=1e-12), name


def test_a_layer_with_gammas_on_some_of_its_channels_counts_each_channel_once():
    def run(net, x):
        a, b = net.c1(x).chunk(2, 1)
        return net.head(torch.cat([F.relu(net.b1(a)), F.relu(b)], 1))

    model = Net(run, c1=conv(3, 8), b1=bn(4), head=out(8))
    model = randomised(model)
    graph = trace(model, torch.rand(1, 3, 8, 8, dtype=torch.float64))
    groups = graph.layers["c1"]
    assert graph.gated[groups].tolist() == [True] * 4 + [False] * 4
    taylor = Taylor(model, graph)
    backward(model, 0)
    taylor.observe()
    gammas = (term(model.b1.weight) + term(model.b1.bias)).square()
    filters = term(model.c1.weight).sum((1, 2, 3)).square()
    assert torch.allclose(taylor.scores("sum")[groups], torch.cat([gammas, filters[4:]]), rtol=1e-12)


def test_a_layer_without_gradients_has_no_value():
    model, graph = toy("plain")
    for parameter in model.b2.parameters():
        parameter.requires_grad_(False)
    taylor = Taylor(model, graph)
    backward(model, 0)
    taylor.observe()
    assert taylor.scores()[graph.gammas["b2"]].isinf().all()
    assert taylor.scores()[graph.gammas["b1"]].isfinite().all()


def test_it_is_a_kind_of_importance():
    model, graph = toy("residual")
    taylor = Taylor(model, graph)
    with pytest.raises(ValueError, match="has observed no finite gradients: call observe"):
        taylor.scores()
    with pytest.raises(ValueError, match="kind='taylor' needs gradients: pass a Taylor"):
        importance_scores(model, graph, Importance("taylor"))
    model.zero_grad()
    with pytest.raises(ValueError, match="no layer has a gradient: call observe"):
        taylor.observe()
    assert taylor.batches == 0
    backward(model, 0)
    taylor.observe()
    found = importance_scores(model, graph, Importance("taylor", "sum", "mean"), taylor)
    assert torch.equal(found, taylor.scores("sum", "mean"))


def test_only_the_layers_of_an_optimizer_are_read_at_its_step():
    """The gradients of the others are of another size, as under a loss scale, and say nothing."""
    model, graph = toy("plain")
    expected = {}
    for name in ("b1", "b2"):
        backward(model, 0)
        taylor = Taylor(model, graph, gammas_only=True)
        taylor.observe()
        expected[name] = taylor.scores()[graph.gammas[name]]
    taylor = Taylor(model, graph, gammas_only=True)
    for mine, other in (("b1", "b2"), ("b2", "b1")):
        backward(model, 0)
        getattr(model, other).weight.grad *= 1024
        taylor.observe({id(p) for p in getattr(model, mine).parameters()})
    assert taylor.batches == 2
    for name, scores in expected.items():
        assert torch.allclose(taylor.scores()[graph.gammas[name]], scores)
