"""Attention whose parts have sizes of their own: keys and values are pruned inside every head alike."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from yolo_slim.pruning import Selection, prune, select, trace


class Attention(nn.Module):
    """Keys and values of given sizes per head.

    Args:
        cut: In which parts the sum of the sizes is cut.
        read: Whether the size of a key is read for something else too.
    """

    def __init__(self, cut: str = "sizes", read: bool = False) -> None:
        super().__init__()
        self.heads, self.key, self.value, self.cut, self.read = 2, 4, 6, cut, read
        self.enter = nn.Sequential(nn.Conv2d(3, 12, 1, bias=False), nn.BatchNorm2d(12))
        self.qkv = nn.Sequential(nn.Conv2d(12, 2 * (2 * 4 + 6), 1, bias=False), nn.BatchNorm2d(28))
        self.project = nn.Conv2d(12, 5, 1)

    def forward(self, images: Tensor) -> Tensor:
        x = self.enter(images)
        b, _, height, width = x.shape
        whole = self.qkv(x).view(b, self.heads, 2 * self.key + self.value, height * width)
        sizes = {
            "sizes": [self.key, self.key, self.value],
            "numbers": [4, 4, 6],
            "half": [self.key + self.value, self.key],
        }
        if self.cut == "not":
            return self.project(whole[:, :, :6].reshape(b, -1, height, width))
        parts = whole.split(sizes[self.cut], dim=2)
        q, k, v = parts if len(parts) == 3 else (parts[0][:, :, :4], parts[1], parts[0][:, :, 4:])
        scale = self.key**-0.5 if self.read else 0.5
        attention = ((q * scale).transpose(-2, -1) @ k).softmax(-1)
        return self.project((v @ attention.transpose(-2, -1)).view(b, -1, height, width))


def test_keys_and_values_go_in_every_head() -> None:
    torch.manual_seed(0)
    net, images = Attention().eval(), torch.rand(2, 3, 5, 5)
    graph = trace(net, images)
    assert not graph.fixed[graph.gammas["qkv.1"]].any()
    heads = graph.gammas["qkv.1"].view(2, 14)
    assert torch.equal(heads[0], heads[1])
    assert torch.equal(heads[0][:4], heads[0][4:8])  # a key of the query and one of the key
    scores = torch.full((graph.num_groups,), torch.inf, dtype=torch.float64)
    scores[heads[0][:4]] = torch.tensor([1.0, 2.0, 5.0, 6.0], dtype=torch.float64)
    scores[heads[0][8:]] = torch.tensor([5.0, 1.0, 6.0, 7.0, 2.0, 3.0], dtype=torch.float64)
    prune(net, graph, Selection(ratio=5 / int((scores < torch.inf).sum()), min_channels=1, round_to=1), scores)
    assert (net.heads, net.key, net.value) == (2, 2, 3)
    assert net.qkv[0].weight.shape[0] == 2 * (2 * 2 + 3)
    assert net.project.weight.shape[1] == 2 * 3
    assert net(images).shape == (2, 5, 5, 5)


@pytest.mark.parametrize(
    ("cut", "read", "reason"),
    [
        ("numbers", False, "written as 4"),
        ("half", False, "sum of attributes that do not cut it"),
        ("not", False, "sum of attributes that do not cut it"),
        ("sizes", True, "also used in arithmetic"),
    ],
)
def test_what_would_not_fit_afterwards_stays(cut: str, read: bool, reason: str) -> None:
    net, images = Attention(cut, read).eval(), torch.rand(2, 3, 5, 5)
    graph = trace(net, images)
    assert graph.fixed[graph.gammas["qkv.1"]].all()
    assert not graph.fixed[graph.gammas["enter.1"]].any()
    assert any(reason in fixed.reason for fixed in graph.reasons)


class Halves(nn.Module):
    """A layer that is cut by an attribute, in each of several passes."""

    def __init__(self) -> None:
        super().__init__()
        self.c = 8
        self.enter = nn.Sequential(nn.Conv2d(3, 16, 1, bias=False), nn.BatchNorm2d(16))
        self.leave = nn.Conv2d(16, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        first, second = self.enter(images).split((self.c, self.c), 1)
        return self.leave(torch.cat((first, second * 2), 1))


def test_parts_that_several_passes_report_count_once() -> None:
    """Else each of them takes as many channels back as are missing, and all come back."""
    images = torch.rand(1, 3, 4, 4)
    graph = trace(Halves(), passes=[lambda net: net(images)] * 3)
    assert [len(parts) for parts in graph.equal_counts] == [2]
    scores = torch.full((graph.num_groups,), torch.inf, dtype=torch.float64)
    groups = graph.gammas["enter.1"]
    scores[groups[:8]] = torch.tensor([1.0, 2, 3, 4, 9, 9, 9, 9], dtype=torch.float64)
    scores[groups[8:]] = torch.tensor([1.5, 2.5, 8, 8, 8, 8, 8, 8], dtype=torch.float64)
    dropped = select(graph, scores, Selection(ratio=6 / 16, min_channels=1, round_to=1)).dropped
    assert [int(dropped[half].sum()) for half in groups.view(2, 8)] == [3, 3]
