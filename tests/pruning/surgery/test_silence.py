from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from tests.helpers.toy_nets import Net, bn, conv, out, randomised
from yolo_slim.pruning import trace
from yolo_slim.pruning.surgery.silence import silence


def _net() -> Net:
    def run(n, x):
        return n.head(F.relu(n.raw(F.relu(n.b1(n.c1(x))))) * n.factor)

    layers = {"c1": conv(3, 4), "b1": bn(4), "raw": nn.Conv2d(4, 5, 1), "head": out(5)}
    net = Net(run, **layers)
    net.factor = nn.Parameter(torch.ones(5, 1, 1))
    return randomised(net)


def _zeros_after(dropped_in: str, channel: int) -> tuple[Net, dict[str, torch.Tensor]]:
    model = _net()
    graph = trace(model, torch.rand(1, 3, 8, 8).double())
    assert not graph.fixed[graph.layers[dropped_in]].any()
    dropped = torch.zeros(graph.num_groups, dtype=torch.bool)
    dropped[graph.layers[dropped_in][channel]] = True
    before = {name: t.detach().clone() for name, t in model.state_dict().items()}
    silence(model, graph, dropped)
    return model, {n: t for n, t in model.state_dict().items() if not torch.equal(t, before[n])}


def test_a_gated_channel_is_silenced_by_gamma_and_beta_alone():
    _, changed = _zeros_after("b1", 2)
    assert sorted(changed) == ["b1.bias", "b1.weight"]
    assert all(tensor[2] == 0 and (tensor != 0).sum() == 3 for tensor in changed.values())


def test_any_other_channel_by_all_that_makes_it_and_nothing_that_uses_it():
    model, changed = _zeros_after("raw", 1)
    assert sorted(changed) == ["factor", "raw.bias", "raw.weight"]
    assert all((tensor[1] == 0).all() for tensor in changed.values())
    assert (model.head.weight != 0).all()


def test_a_channel_of_a_raw_convolution_is_no_gamma_to_penalise():
    graph = trace(_net(), torch.rand(1, 3, 8, 8).double())
    assert list(graph.layers) == ["b1", "raw", "head"]
    assert [layer.module for layer in graph.prunable_gammas()] == ["b1"]
    assert [bool(layer.prunable.all()) for layer in graph.prunable_layers()] == [True, True, False]
    assert graph.gated[graph.layers["b1"]].all()
    assert not graph.gated[graph.layers["raw"]].any()
