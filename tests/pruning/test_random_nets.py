"""Nets of random blocks: whatever they are, a plan must give the dense net without the dropped channels."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules import module as module_hooks

from tests.helpers.blocks.random_nets import BLOCKS, Alone, RandomNet
from tests.helpers.pruned import difference, random_drop, silenced, with_one_wrong_channel
from tests.helpers.toy_nets import randomised
from yolo_slim.pruning import PruningPlan, apply_plan, apply_structure, make_plan, structure_of, trace
from yolo_slim.pruning.graph.graph import ChannelGraph


def plain(value: Any) -> Any:
    """A value that can be compared later: containers by their content, tensors and objects by identity."""
    if isinstance(value, (list, tuple)):
        return type(value), [plain(item) for item in value]
    if isinstance(value, dict):
        return type(value), {key: plain(item) for key, item in value.items()}
    return type(value), value if isinstance(value, (int, float, str)) else id(value)


def state(model: nn.Module) -> tuple[dict[str, Tensor], list[Any]]:
    """Copies of all tensors, and all attributes, of a model."""
    tensors = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    flags = [parameter.requires_grad for parameter in model.parameters()]
    hooks = len(module_hooks._global_forward_hooks) + len(module_hooks._global_forward_pre_hooks)
    return tensors, [*[plain(vars(module)) for module in model.modules()], flags, hooks, torch.is_grad_enabled()]


def traced(model: nn.Module, x: Tensor) -> ChannelGraph:
    """The graph; the model must come back as it was."""
    tensors, attributes = state(model)
    random_state = torch.get_rng_state()
    graph = trace(model, x)
    after, attributes_after = state(model)
    assert after.keys() == tensors.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in tensors.items())
    assert attributes_after == attributes
    assert torch.equal(torch.get_rng_state(), random_state)
    return graph


def run_without_traces(model: nn.Module, run: Any) -> Tensor:
    """The output of a pass of a copy: state that one forward leaves must not reach the next."""
    torch.manual_seed(0)
    return run(copy.deepcopy(model))


def check_pruned(model: nn.Module, graph: ChannelGraph, dropped: Tensor, passes: int) -> PruningPlan:
    """The pruned net equals the silenced one, can be trained, and is rebuilt from its structure."""
    plan, slim, dense = make_plan(graph, dropped), copy.deepcopy(model), silenced(model, graph, dropped)
    apply_plan(slim, plan)
    for run in graph.passes[:passes]:
        expected = run_without_traces(dense, run)
        assert expected.isfinite().all()
        assert difference(run_without_traces(slim, run), expected) < 1e-9
    fresh = copy.deepcopy(model)
    apply_structure(fresh, structure_of(slim, sorted({f"{a.module}:{a.name}" for a in graph.attributes})))
    fresh.load_state_dict(slim.state_dict())
    assert torch.equal(run_without_traces(fresh, graph.passes[0]), run_without_traces(slim, graph.passes[0]))
    with torch.enable_grad():
        graph.passes[1](slim).square().mean().backward()
    for parameter in slim.parameters():
        assert parameter.grad is None or parameter.grad.shape == parameter.shape
    assert slim.head.weight.grad is not None
    return plan


def notices(model: nn.Module, graph: ChannelGraph, dropped: Tensor, plan: PruningPlan, seed: int) -> bool | None:
    """Whether the outputs tell that one layer reads a wrong channel; None where no layer can be given one."""
    layers = [name for name, sides in plan.entries.items() if "in" in sides]
    random.Random(seed).shuffle(layers)
    for layer in layers:
        slim = copy.deepcopy(model)
        try:
            apply_plan(slim, with_one_wrong_channel(plan, layer))
        except ValueError:  # its weight is shared
            continue
        run = graph.passes[0]
        return (
            difference(run_without_traces(slim, run), run_without_traces(silenced(model, graph, dropped), run)) > 1e-6
        )
    return None


@torch.no_grad()
def check(model: RandomNet | Alone, seed: int) -> list[bool]:
    """All properties of one net; for each pruned version, whether a wrong channel would have been noticed."""
    x = torch.rand(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    model = randomised(model, seed)
    graph, found = traced(model, x), []
    if any(layer.prunable.any() for layer in graph.prunable_layers()):
        for ratio in (0.9, 0.3):
            dropped = random_drop(graph, ratio, seed, min_channels=1)
            plan = check_pruned(model, graph, dropped, passes=1 if model.random else 2)
        found.append(notices(model, graph, dropped, plan, seed))
    return [noticed for noticed in found if noticed is not None]


def check_nets(seeds: range) -> None:
    noticed = []
    for seed in seeds:
        model = RandomNet(seed)
        try:
            noticed += check(model, seed)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {model.kinds}, {model.sources}") from error
    assert len(noticed) > 0.6 * len(seeds)
    assert sum(noticed) > 0.85 * len(noticed)


def test_there_are_many_kinds_of_blocks():
    assert len(BLOCKS) > 200


@pytest.mark.parametrize("kind", BLOCKS)
def test_a_block_alone(kind):
    model = Alone(kind)
    check(model, seed=0)
    graph, expected = trace(model, torch.rand(2, 3, 8, 8, dtype=torch.float64)), BLOCKS[kind].prunable
    prunable = bool((~graph.fixed[graph.gammas["before.1"]]).any())
    assert expected is None or prunable == expected, [r for r in graph.reasons if r.module.startswith("step")]


@pytest.mark.parametrize("start", range(0, 150, 30))
def test_random_nets(start):
    check_nets(range(start, start + 30))


@pytest.mark.slow
@pytest.mark.parametrize("start", range(1000, 4000, 100))
def test_many_random_nets(start):
    check_nets(range(start, start + 100))
