"""The proof on a copy that a smaller model computes what it should."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from yolo_slim.pruning.graph.axes import leaves
from yolo_slim.pruning.graph.graph import ChannelGraph, Pass
from yolo_slim.pruning.modules.restored import restored
from yolo_slim.pruning.modules.torch_private import tree_map_only
from yolo_slim.pruning.surgery.apply import apply_plan
from yolo_slim.pruning.surgery.plan import PruningPlan
from yolo_slim.pruning.surgery.silence import silence

TOLERANCE = 1e-4  # float32: a right plan stays below 1e-5, a wrong channel shows at 5e-4 and above
#: In double precision: a right plan stays below 1e-9.
_TOLERANCE_DOUBLE = 1e-7


def verify(model: nn.Module, graph: ChannelGraph, dropped: Tensor, plan: PruningPlan) -> float:
    """Compares copies of a model in the graph's first pass: dropped channels are zero in one, and gone in the other.

    Args:
        model: The model that the graph was traced on.
        graph: Its channel graph, whose first pass is run.
        dropped: Bool (num_groups,), the groups that the plan drops.
        plan: What stays.

    Returns:
        The largest absolute difference of an output, relative to the largest absolute value of that output; inf where
        the smaller model fails to run or returns other shapes.

    Example:
        >>> graph = trace(net, torch.rand(1, 3, 9, 9))
        >>> dropped = torch.zeros(graph.num_groups, dtype=torch.bool)
        >>> dropped[2] = True
        >>> verify(net, graph, dropped, make_plan(graph, dropped)) < 1e-5
        True
    """
    return cut(copy.deepcopy(model), graph, dropped, plan)


def cut(model: nn.Module, graph: ChannelGraph, dropped: Tensor, plan: PruningPlan) -> float:
    """Removes channels in place, and gives the difference from a copy in which they are zero; see :func:`verify`."""
    dense = copy.deepcopy(model)
    silence(dense, graph, dropped)
    apply_plan(model, plan)
    return difference(model, dense, graph.passes[0])


def difference(slim: nn.Module, dense: nn.Module, run: Pass) -> float:
    """The largest absolute difference of an output, relative to the largest absolute value of that output of ``dense``.

    Where that is more than single precision should leave, both are run once more in double precision on copies: some
    networks amplify their own rounding, such as a softmax over large values, and only there a wrong channel tells
    itself from it.

    Returns:
        The difference; inf where ``slim`` fails to run, returns other shapes, or NaN.
    """
    error = _difference(slim, dense, run)
    if TOLERANCE <= error < float("inf"):
        try:
            exact = _difference(_in_double(slim), _in_double(dense), run)
        # Not every network, and not every device, can do it.
        except (RuntimeError, TypeError, ValueError):
            return error
        return exact if exact < _TOLERANCE_DOUBLE else max(error, exact)
    return error


def _in_double(model: nn.Module) -> nn.Module:
    """A copy in double precision whose layers take inputs of any."""

    def cast(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, Any]:
        return tree_map_only(Tensor, lambda t: t.double() if t.is_floating_point() else t, (inputs, named))

    model = copy.deepcopy(model).double()
    for module in model.modules():
        module.register_forward_pre_hook(cast, with_kwargs=True)
    return model


def _difference(slim: nn.Module, dense: nn.Module, run: Pass) -> float:
    expected = _outputs(dense, run)
    try:
        outputs = _outputs(slim, run)
    except (RuntimeError, ValueError, IndexError):
        return float("inf")
    if [t.shape for t in outputs] != [t.shape for t in expected]:
        return float("inf")
    errors = [
        float((a - b).abs().max() / b.abs().max().clamp(min=1e-12)) for a, b in zip(outputs, expected, strict=True)
    ]
    return max(errors, default=0.0) if all(error == error for error in errors) else float("inf")


def _outputs(model: nn.Module, run: Pass) -> list[Tensor]:
    with restored(model), torch.random.fork_rng(devices=[]), torch.no_grad(), _full_precision(model):
        return [t.clone() for t in leaves(run(model)) if isinstance(t, Tensor) and t.is_floating_point() and t.numel()]


@contextmanager
def _full_precision(model: nn.Module) -> Iterator[None]:
    """Without autocast and TF32, whose rounding would hide or feign a wrong channel."""
    device = next((parameter.device.type for parameter in model.parameters()), "cpu")
    allow_tf32 = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.autocast(device, enabled=False), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allow_tf32
