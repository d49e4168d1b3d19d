"""What must hold for a pruned model of any architecture."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from yolo_slim.pruning import (
    ChannelGraph,
    Pass,
    Selection,
    apply_plan,
    apply_structure,
    make_plan,
    select,
    silence,
    structure_of,
)

TOLERANCE = 1e-10  # relative, float64


def values_in(values: Any) -> Iterator[Any]:
    """Every value in a nest of tuples, lists and dictionaries."""
    if isinstance(values, dict):
        values = list(values.values())
    if isinstance(values, (tuple, list)):
        for value in values:
            yield from values_in(value)
    else:
        yield values


@torch.no_grad()
def randomised(model: nn.Module, passes: Sequence[Pass], seed: int = 0) -> None:
    """Makes a model double, and every tensor of it random, in place: initial values hide mistakes.

    Signals keep a sane size, so that no softmax or sigmoid is saturated: BatchNorm layers get statistics of about the
    scale of what reaches them. Dropout is switched off.
    """
    torch.manual_seed(seed)
    model.double()
    modules: list[Any] = list(model.modules())
    for module in modules:
        if isinstance(module, _DropoutNd) or type(module).__name__ == "StochasticDepth":
            module.p = 0.0
        normalises = isinstance(module, (nn.LayerNorm, nn.GroupNorm)) or hasattr(module, "running_var")
        for key, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            if isinstance(tensor, nn.Parameter) and not tensor.requires_grad:
                continue
            if normalises and key in ("weight", "bias"):
                tensor.uniform_(*((0.5, 1.5) if key == "weight" else (-1.0, 1.0)))
            elif key == "weight" and tensor.dim() > 1:
                tensor.normal_(0, math.sqrt(2 / tensor[0].numel()))
            elif key == "bias":
                tensor.uniform_(-0.3, 0.3)
            elif isinstance(tensor, nn.Parameter) and tensor.numel() > 1 and float(tensor.std()) < 0.02:
                tensor.uniform_(0.2, 0.6)  # a layer scale that starts at 1e-6 would hide its branch
    _calibrate(model, passes)


def _calibrate(model: nn.Module, passes: Sequence[Pass]) -> None:
    def set_statistics(module: Any, args: tuple[Tensor, ...]) -> None:
        if module in waiting:
            waiting.remove(module)
            scale = float(args[0].std(correction=0)) or 1.0
            module.running_mean.uniform_(-0.5 * scale, 0.5 * scale)
            module.running_var.uniform_(0.5 * scale**2, 2 * scale**2)

    layers = [m for m in model.modules() if getattr(m, "running_var", None) is not None]
    waiting = set(layers)
    hooks = [layer.register_forward_pre_hook(set_statistics) for layer in layers]
    for run in passes:
        run(model)
    for hook in hooks:
        hook.remove()
    model.eval()


def random_drop(graph: ChannelGraph, ratio: float, seed: int) -> Tensor:
    """Drops random groups; the floors are 8, 1 and 3 in turn."""
    scores = torch.rand(graph.num_groups, generator=torch.Generator().manual_seed(seed))
    return select(graph, scores, Selection(ratio, min_channels=(8, 1, 3)[seed % 3])).dropped


def silenced(model: nn.Module, graph: ChannelGraph, dropped: Tensor) -> nn.Module:
    """A copy with the dropped channels at zero."""
    dense = copy.deepcopy(model)
    silence(dense, graph, dropped)
    return dense


def pruned(model: nn.Module, graph: ChannelGraph, dropped: Tensor) -> nn.Module:
    """A copy without the dropped channels."""
    slim = copy.deepcopy(model)
    apply_plan(slim, make_plan(graph, dropped))
    return slim


@torch.no_grad()
def outputs(run: Pass, model: nn.Module) -> list[Tensor]:
    """The tensors a pass returns."""
    return [tensor.clone() for tensor in values_in(run(model)) if isinstance(tensor, Tensor)]


def differences(found: Sequence[Tensor], expected: Sequence[Tensor]) -> list[float]:
    """The largest difference of each tensor, relative to its largest expected value; where both are inf it is none."""
    assert [tensor.shape for tensor in found] == [tensor.shape for tensor in expected], "the outputs' shapes differ"
    assert not any(bool(tensor.isnan().any()) for tensor in (*found, *expected)), "an output is not a number"
    errors = []
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a.isinf(), b.isinf()), "one of the outputs is infinite"
        scale = float(b[b.isfinite()].abs().max())
        errors.append(float((a - b)[b.isfinite()].abs().max()) / max(scale, 1e-300))
    return errors


def error_of(model: nn.Module, slim: nn.Module, graph: ChannelGraph, dropped: Tensor) -> float:
    """The largest relative difference in any pass between removing channels and silencing them."""
    dense = silenced(model, graph, dropped)
    return max(max(differences(outputs(run, slim), outputs(run, dense))) for run in graph.passes)


@torch.no_grad()
def changes_with_the_first_layer(model: nn.Module, graph: ChannelGraph, dropped: Tensor) -> None:
    """Every output depends on the whole depth of the model, or else a comparison of outputs proves nothing."""
    dense = silenced(model, graph, dropped)
    first = next(m for m in dense.modules() if isinstance(m, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)))
    for run in graph.passes:
        before = outputs(run, dense)
        first.weight.neg_()
        changes = differences(outputs(run, dense), before)
        assert min(changes) > 1e-6, f"an output changes by {min(changes):.0e} when the first layer does"


def comes_back_from_a_file(model: nn.Module, slim: nn.Module, graph: ChannelGraph) -> None:
    """A pickled pruned model, and a dense one of its structure with its weights, give the same outputs."""
    file = io.BytesIO()
    torch.save(slim, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    rebuilt = copy.deepcopy(model)
    apply_structure(rebuilt, structure_of(slim, sorted({f"{a.module}:{a.name}" for a in graph.attributes})))
    rebuilt.load_state_dict(slim.state_dict())
    for run in graph.passes:
        expected = outputs(run, slim)
        for other in (loaded, rebuilt):
            assert all(torch.equal(a, b) for a, b in zip(outputs(run, other), expected, strict=True)), "files differ"


def trains(loss: Callable[[nn.Module, int], Tensor], model: nn.Module, slim: nn.Module, size: int) -> None:
    """The loss gives finite gradients to every parameter that has one in the dense model."""
    reached: list[set[str]] = []
    for net in (model, slim):
        net = copy.deepcopy(net).float()
        loss(net, size).backward()
        gradients = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
        for name, gradient in gradients.items():
            assert bool(gradient.isfinite().all()), f"the gradient of {name} is not finite"
        reached.append(set(gradients))
    assert reached[0], "the dense model gets no gradient"
    assert reached[0] == reached[1], f"{len(reached[0] ^ reached[1])} parameters get a gradient in one model only"
