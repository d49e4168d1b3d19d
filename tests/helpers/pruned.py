"""Models without some of their channels, and how far their outputs are from what they should be."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.helpers.toy_nets import Net, bn, conv, out, randomised
from tests.helpers.toys import TOYS
from yolo_slim.pruning import PruningPlan, Selection, apply_plan, make_plan, select, trace
from yolo_slim.pruning.graph.graph import ChannelGraph
from yolo_slim.pruning.repair.compensate import Compensated, compensate
from yolo_slim.pruning.repair.dead_inputs import leave_constants
from yolo_slim.pruning.surgery.silence import silence

PRUNABLE = [toy for toy in TOYS if any(letter.islower() for letters in toy.groups.values() for letter in letters)]
PRUNABLE_NAMES = [toy.name for toy in PRUNABLE]


def random_drop(graph: ChannelGraph, ratio: float, seed: int, **options) -> Tensor:
    scores = torch.rand(graph.num_groups, generator=torch.Generator().manual_seed(seed))
    return select(graph, scores, Selection(ratio, **{"round_to": 1, **options})).dropped


def silenced(model: nn.Module, graph: ChannelGraph, dropped: Tensor) -> nn.Module:
    model = copy.deepcopy(model)
    silence(model, graph, dropped)
    return model


def difference(found, expected) -> float:
    """Largest difference relative to the largest output."""
    found, expected = (o if isinstance(o, tuple) else (o,) for o in (found, expected))
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, expected, strict=True))


def with_one_wrong_channel(plan: PruningPlan, module: str) -> PruningPlan:
    """Keeps a dropped input channel of a layer instead of the first kept one."""
    entries = copy.deepcopy(plan.entries)
    keep = entries[module]["in"]
    gone = next(i for i in range(plan.sizes[module]["in"]) if i not in keep)
    keep[:] = sorted([*keep[1:], gone])
    return PruningPlan(entries, plan.sizes, plan.attributes)


def chain(*widths: int):
    """Layers that are coupled to nothing, and their graph."""
    layers = {}
    for i, (inputs, outputs) in enumerate(zip((3, *widths), widths, strict=False)):
        layers |= {f"c{i}": conv(inputs, outputs), f"b{i}": bn(outputs)}

    def run(net, x):
        for i in range(len(widths)):
            x = getattr(net, f"b{i}")(getattr(net, f"c{i}")(x))
        return net.head(x)

    model = randomised(Net(run, **layers, head=out(widths[-1])))
    return model, trace(model, torch.rand(1, 3, 8, 8, dtype=torch.float64))


def scores_for(graph, **values):
    scores = torch.full((graph.num_groups,), float("inf"), dtype=torch.float64)
    for name, given_scores in values.items():
        scores[graph.gammas[name]] = torch.tensor(given_scores, dtype=torch.float64)
    return scores


def kept(graph, selected, name):
    return (~selected.dropped[graph.gammas[name]]).nonzero().flatten().tolist()


def compensated(
    model: nn.Module, graph: ChannelGraph, dropped: Tensor, example: object = None, exact: bool = True
) -> tuple[nn.Module, nn.Module, Compensated]:
    """The dense model without the dropped gammas, the pruned one that makes up for it, and what was done."""
    dense, slim = copy.deepcopy(model), copy.deepcopy(model)
    leave_constants(dense, graph, dropped)
    found = compensate(slim, graph, dropped, example, exact)
    apply_plan(slim, make_plan(graph, found.dropped))
    return dense, slim, found


def drop_some(graph: ChannelGraph, channels: dict[str, list[int]]) -> Tensor:
    dropped = torch.zeros(graph.num_groups, dtype=torch.bool)
    for name, indices in channels.items():
        dropped[graph.layers[name][indices]] = True
    return dropped


def images(*shape: int) -> Tensor:
    return torch.rand(shape or (2, 3, 9, 9), dtype=torch.float64)


def toy(name: str):
    toy = next(toy for toy in TOYS if toy.name == name)
    model = randomised(toy.build())
    example = toy.example()
    passes = [lambda m: m.eval()(example)]
    if name == "split":
        passes.append(lambda m: m.eval().forward_split(example))
    return model, trace(model, passes=passes)


def raw_chain(bias=True):
    """Two convolutions without BatchNorm and a head."""
    layers = {
        "c1": nn.Conv2d(3, 4, 3, padding=1, bias=bias),
        "up": nn.ConvTranspose2d(4, 5, 2, stride=2, bias=bias),
        "fc": nn.Linear(5, 6, bias=bias),
        "head": nn.Linear(6, 2),
    }
    model = Net(lambda n, x: n.head(F.relu(n.fc(F.relu(n.up(F.relu(n.c1(x)))).mean((2, 3))))), **layers)
    model = randomised(model)
    return model, trace(model, torch.rand(1, 3, 8, 8, dtype=torch.float64))
