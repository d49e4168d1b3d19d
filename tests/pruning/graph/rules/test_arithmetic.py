from __future__ import annotations

import copy

import pytest
import torch

from tests.helpers.pruned import difference, random_drop, silenced
from tests.helpers.toy_nets import Net, bn, conv, out, randomised
from yolo_slim.pruning import apply_plan, make_plan, trace

NUMBERS = {
    "plus 0": (lambda x: x + 0, True),
    "0 plus": (lambda x: 0 + x, True),
    "minus 0.0": (lambda x: x - 0.0, True),
    "in place": (lambda x: x.add_(0), True),
    "sum of a list": (lambda x: sum([x, x]), True),
    "plus 1": (lambda x: x + 1, False),
    "1 minus": (lambda x: 1 - x, False),
    "plus 0 times 1": (lambda x: x + torch.zeros(()), False),  # a value that could be another one
}


@torch.no_grad()
@pytest.mark.parametrize("number", NUMBERS)
def test_a_channel_stays_zero_where_zero_is_added(number):
    add, prunable = NUMBERS[number]
    layers = {"c1": conv(3, 6), "b1": bn(6), "c2": conv(3, 6), "b2": bn(6)}
    net = randomised(Net(lambda n, x: n.head(add(n.b1(n.c1(x)) + n.b2(n.c2(x)))), **layers, head=out(6)))
    example = torch.rand(1, 3, 8, 8, dtype=torch.float64)
    graph = trace(net, example)
    assert [bool(layer.prunable.all()) for layer in graph.prunable_gammas()] == [prunable] * 2
    assert [bool(layer.prunable.any()) for layer in graph.prunable_gammas()] == [prunable] * 2
    if prunable:
        dropped = random_drop(graph, 0.5, 0, min_channels=1)
        slim = copy.deepcopy(net)
        apply_plan(slim, make_plan(graph, dropped))
        assert slim.c1.out_channels == slim.c2.out_channels == 3
        assert difference(slim(example), silenced(net, graph, dropped)(example)) < 1e-10
