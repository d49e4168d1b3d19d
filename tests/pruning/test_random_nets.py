"""Nets of random operations: whatever they are, a plan must give the dense net without the dropped channels."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.helpers.toy_nets import Net, bn, conv, randomised
from tests.pruning.test_surgery import difference, random_drop, silenced
from yolo_slim.pruning import apply_plan, make_plan, trace

ALONE: dict[str, Callable[[Net, Tensor], Tensor]] = {
    "relu": lambda n, a: F.relu(a),
    "silu": lambda n, a: F.silu(a),
    "sigmoid": lambda n, a: a.sigmoid(),
    "offset": lambda n, a: a + 0.25,
    "softmax": lambda n, a: a.softmax(1),
    "pool": lambda n, a: F.max_pool2d(a, 3, 1, 1),
    "centred": lambda n, a: a - a.mean((2, 3), keepdim=True),
    "slice": lambda n, a: torch.cat([a[:, :1], a], 1),
    "flip": lambda n, a: a.flip(1),
    "split by chunk": lambda n, a: torch.cat(a.chunk(2, 1)[::-1], 1),
    "reshape": lambda n, a: a.flatten(2).reshape(a.shape[0], a.shape[1], 8, 8),
    "merge": lambda n, a: a.view(1, a.shape[0], -1, 8, 8).transpose(1, 2).flatten(0, 1).transpose(0, 1),
    "permute": lambda n, a: a.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
}
TOGETHER: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - 0.5 * b,
    "mul": lambda a, b: a * b,
    "max": torch.maximum,
    "gate": lambda a, b: a * b.mean((2, 3), keepdim=True).sigmoid(),
}
LAYERS = ("conv", "conv", "conv", "depthwise", "grouped", "transposed", "bare", "linear", "scale", "halves", "prelu")


def make(name: str, a: Tensor, b: Tensor, width: int) -> Net:
    """One step of a net as a module that takes two feature maps; their shapes are only looked at here."""
    channels = a.shape[1]
    if name in ALONE:
        return Net(lambda n, x: ALONE[name](n, x[0]))
    if name in TOGETHER:
        fit = nn.Identity() if a.shape == b.shape else nn.Sequential(conv(b.shape[1], channels), bn(channels))
        return Net(lambda n, x: TOGETHER[name](x[0], n.fit(x[1])), fit=fit)
    if name == "cat":
        return Net(lambda n, x: torch.cat(x, 1))
    if name == "scale":
        factor = nn.ParameterList([torch.linspace(0.5, 1.5, channels).view(-1, 1, 1)])
        return Net(lambda n, x: x[0] * n.factor[0], factor=factor)
    if name == "halves" and channels % 2 == 0:

        def swap(n: Net, x: tuple[Tensor, Tensor]) -> Tensor:
            left, right = x[0].split((n.half, n.half), 1)
            return torch.cat([right, left * right], 1)

        return Net(swap, half=channels // 2)
    if name == "linear":
        layers = {"fc": nn.Linear(channels, width), "norm": bn(width)}
        return Net(lambda n, x: n.norm(n.fc(x[0].permute(0, 2, 3, 1)).permute(0, 3, 1, 2)), **layers)
    groups = {"depthwise": channels, "grouped": 2 if channels % 2 == 0 else 1}.get(name, 1)
    width = channels * (width // 2) if name == "depthwise" else width
    layer: nn.Module = conv(channels, width, groups=groups)
    if name == "transposed":
        layer = nn.ConvTranspose2d(channels, width, 3, padding=1)
    if name == "prelu":
        return Net(lambda n, x: n.act(x[0]), act=nn.PReLU(channels))
    return Net(lambda n, x: n.norm(n.layer(x[0])), layer=layer, norm=nn.Identity() if name == "bare" else bn(width))


class RandomNet(nn.Module):
    """Applies random steps, each to two of the last three results."""

    def __init__(self, seed: int, x: Tensor) -> None:
        super().__init__()
        draw = random.Random(seed)
        names = (*ALONE, *TOGETHER, *LAYERS, *LAYERS, "cat")
        self.names = [draw.choice(names) for _ in range(draw.randint(3, 12))]
        self.sources = [(draw.randint(-3, -1), draw.randint(-3, -1)) for _ in self.names]
        self.steps = nn.ModuleList()
        found = [x, x, x]
        for name, (first, second) in zip(self.names, self.sources, strict=True):
            a, b = found[first], found[second]
            self.steps.append(make(name, a, b, 2 * draw.randint(1, 4)))
            found.append(self.steps[-1]((a, b)))
        self.head = nn.Conv2d(found[-1].shape[1], 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        found = [x, x, x]
        for step, (first, second) in zip(self.steps, self.sources, strict=True):
            found.append(step((found[first], found[second])))
        return self.head(found[-1])


@torch.no_grad()
@pytest.mark.parametrize("start", range(0, 100, 20))
def test_a_pruned_random_net_equals_the_dense_one_without_the_dropped_channels(start):
    prunable = 0
    for seed in range(start, start + 20):
        torch.manual_seed(seed)
        x = torch.rand(2, 3, 8, 8)
        model, x = randomised(RandomNet(seed, x), seed), x.double()
        graph = trace(model, x)
        if not any(gamma.prunable.any() for gamma in graph.prunable_gammas()):
            continue
        for ratio in (0.4, 0.95):
            dropped = random_drop(graph, ratio, seed, min_channels=1)
            slim = copy.deepcopy(model)
            apply_plan(slim, make_plan(graph, dropped))
            error = difference(slim(x), silenced(model, graph, dropped)(x))
            assert error < 1e-9, f"seed {seed}: {model.names}, {model.sources}"
            prunable += int(dropped.any())
    assert prunable > 5
