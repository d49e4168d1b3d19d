from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.helpers.pruned import difference, random_drop, silenced
from tests.helpers.toy_nets import Net, bn, conv, out, randomised
from yolo_slim.pruning import apply_plan, make_plan, trace


def shuffle(n: Net, x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    return x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)


def shuffle_where_the_number_is_used(n: Net, x: Tensor) -> Tensor:
    return shuffle(n, x) * (x.shape[1] // 2)


def heads(n: Net, x: Tensor) -> Tensor:
    b, _, h, w = x.shape
    return (x.view(b, n.heads, -1, h, w) * x.mean((2, 3)).view(b, n.heads, -1, 1, 1)).view(b, -1, h, w)


def heads_of_attribute_size(n: Net, x: Tensor) -> Tensor:
    b, _, h, w = x.shape
    return x.view(b, 2, n.size, h, w).transpose(1, 2).reshape(b, -1, h, w)


def heads_and_sizes_of_attributes(n: Net, x: Tensor) -> Tensor:
    b, _, h, w = x.shape
    return x.view(b, n.heads, n.size, h, w).transpose(1, 2).reshape(b, -1, h, w)


def halves_with_their_pixels(n: Net, x: Tensor) -> Tensor:
    first, second = x.reshape(x.shape[0], 2, -1).unbind(1)
    return torch.stack((second, first), 1).view_as(x)


def halves_as_long_as_the_channels_are_many(n: Net, x: Tensor) -> Tensor:
    return halves_with_their_pixels(n, x[..., :1, :2])


def half_of_more_channels(n: Net, x: Tensor) -> Tensor:
    b, _, h, w = x.shape
    return x.view(b, n.c3(x).shape[1] // 2, h, w)


def written_sizes(n: Net, x: Tensor) -> Tensor:
    return x.view(-1, 2, 4, 8, 8).transpose(1, 2).reshape(-1, 8, 8, 8)


def the_size_of_another_axis(n: Net, x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    return x.view(b, c // 4, 4, h, w).sum(2).repeat(1, 4, 1, 1)[:, : c // 2]


def half_of_another_layer(n: Net, x: Tensor) -> Tensor:
    b, _, h, w = x.shape
    return x.view(b, 2, n.c2(x).shape[1] // 2, h, w).transpose(1, 2).reshape(b, -1, h, w)


# Letters of the groups of the layer's eight channels, capitals where they are fixed.
NETS: dict[Callable[[Net, Tensor], Tensor], str] = {
    shuffle: "abcdabcd",
    shuffle_where_the_number_is_used: "ABCDABCD",
    heads: "abcdabcd",
    heads_of_attribute_size: "abcdabcd",
    heads_and_sizes_of_attributes: "ABCDEFGH",
    halves_with_their_pixels: "abcdabcd",
    halves_as_long_as_the_channels_are_many: "abcdabcd",
    half_of_more_channels: "ABCDEFGH",
    written_sizes: "ABCDEFGH",
    the_size_of_another_axis: "AAAABBBB",
    half_of_another_layer: "ABCDEFGH",
}


@torch.no_grad()
@pytest.mark.parametrize("reshape", NETS, ids=lambda reshape: reshape.__name__)
def test_channels_that_a_reshape_takes_apart(reshape):
    def run(n: Net, x: Tensor) -> Tensor:
        return n.head(reshape(n, n.b1(n.c1(x)).relu()))

    channels = 4 if reshape is the_size_of_another_axis else 8
    layers = {"c1": conv(3, 8), "b1": bn(8), "c2": conv(8, 8), "c3": conv(8, 16), "head": out(channels)}
    net = randomised(Net(run, **layers, heads=2, size=4))
    example = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    graph = trace(net, example)
    letters, groups = NETS[reshape], graph.gammas["b1"].tolist()
    assert [letter.isupper() for letter in letters] == graph.fixed[groups].tolist()
    if letters.isupper():
        return
    assert [letters.index(letter) for letter in letters] == [groups.index(group) for group in groups]
    for seed in range(4):
        dropped = random_drop(graph, 0.5, seed, min_channels=1)
        slim = copy.deepcopy(net)
        apply_plan(slim, make_plan(graph, dropped))
        assert slim.c1.out_channels == 4
        assert slim.size == (2 if reshape is heads_of_attribute_size else 4)
        assert difference(slim(example), silenced(net, graph, dropped)(example)) < 1e-10
