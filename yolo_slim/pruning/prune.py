"""The one path from a traced model to a smaller one."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from yolo_slim.pruning.graph import ChannelGraph, Fixed, Pass
from yolo_slim.pruning.importance import gamma_importance
from yolo_slim.pruning.labels import leaves
from yolo_slim.pruning.plan import PruningPlan, make_plan
from yolo_slim.pruning.restored import restored
from yolo_slim.pruning.selection import Selection, select
from yolo_slim.pruning.silence import silence
from yolo_slim.pruning.structure import Structure, structure_of
from yolo_slim.pruning.surgery import apply_plan

TOLERANCE = 1e-4  # float32: a right plan stays below 1e-5, a wrong channel shows at 5e-4 and above


@dataclass(frozen=True)
class LayerChange:
    """Channels of a BatchNorm layer before and after."""

    module: str
    before: int
    after: int


@dataclass(frozen=True)
class PruningReport:
    """What :func:`prune` did.

    Attributes:
        plan: the channels that stay.
        structure: the sizes of the smaller model's layers, for its checkpoints.
        layers: channels of every BatchNorm layer before and after.
        asked: the ratio that was asked for.
        reached: the ratio that was reached.
        threshold: highest score of a dropped group.
        held: BatchNorm layer -> channels that were kept by ``min_channels`` alone.
        error: largest difference to the dense model without the dropped channels, relative to its largest output.
        parameters_before: elements of all parameters of the dense model.
        parameters_after: elements of all parameters of the smaller model.
        fixed: why channels may not be dropped.
    """

    plan: PruningPlan
    structure: Structure
    layers: list[LayerChange]
    asked: float
    reached: float
    threshold: float
    held: dict[str, int]
    error: float
    parameters_before: int
    parameters_after: int
    fixed: list[Fixed]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a YAML or JSON file or a checkpoint."""
        return {**asdict(self), "plan": self.plan.to_dict()}


def prune(model: nn.Module, graph: ChannelGraph, selection: Selection, scores: Tensor | None = None) -> PruningReport:
    """Removes the channels that matter least, in place, once a copy has proved that nothing else changes.

    Args:
        model: the model, in float32 or float64.
        graph: its channel graph, traced on the model or on a copy of it.
        selection: what to drop.
        scores: (num_groups,), higher = keep; default: the mean |gamma| of a group.

    Returns:
        A report of what was done.

    Raises:
        ValueError: if the selection, scores or graph do not fit the model, or its weights are half precision.
        RuntimeError: if the smaller model's outputs differ from the dense model's with the gammas and betas of the
            dropped channels at zero. In every case of an error the model is untouched.
    """
    for name, parameter in model.named_parameters():
        if parameter.dtype in (torch.float16, torch.bfloat16):
            raise ValueError(f"{name} is {parameter.dtype}; prune in float32: call model.float() before tracing")
    selected = select(graph, gamma_importance(model, graph) if scores is None else scores, selection)
    plan = make_plan(graph, selected.dropped)
    error = verify(model, graph, selected.dropped, plan)
    if not error < TOLERANCE:
        raise RuntimeError(
            f"the pruned model differs from the dense one without the dropped channels by {error:.1e} (allowed:"
            f" {TOLERANCE:.0e}); the model is untouched. Ignore the layers in doubt, or report the model as a bug"
        )
    layers = [LayerChange(name, len(g), int((~selected.dropped[g]).sum())) for name, g in graph.gammas.items()]
    before = sum(parameter.numel() for parameter in model.parameters())
    attributes = sorted({f"{a.module}:{a.name}" for a in graph.attributes})
    apply_plan(model, plan)
    return PruningReport(
        plan=plan,
        structure=structure_of(model, attributes),
        layers=layers,
        asked=selected.asked,
        reached=selected.reached,
        threshold=selected.threshold,
        held=selected.held,
        error=error,
        parameters_before=before,
        parameters_after=sum(parameter.numel() for parameter in model.parameters()),
        fixed=graph.reasons,
    )


def verify(model: nn.Module, graph: ChannelGraph, dropped: Tensor, plan: PruningPlan) -> float:
    """Compares copies of the model in the graph's first pass: dropped channels silenced, and removed.

    Returns:
        The largest absolute difference of an output, relative to the largest absolute value of that output; inf where
        the smaller model fails to run or returns other shapes.
    """
    dense, slim = copy.deepcopy(model), copy.deepcopy(model)
    silence(dense, graph, dropped)
    apply_plan(slim, plan)
    expected = _outputs(dense, graph.passes[0])
    try:
        found = _outputs(slim, graph.passes[0])
    except (RuntimeError, ValueError, IndexError):
        return float("inf")
    if [t.shape for t in found] != [t.shape for t in expected]:
        return float("inf")
    errors = [float((a - b).abs().max() / b.abs().max().clamp(min=1e-12)) for a, b in zip(found, expected, strict=True)]
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
