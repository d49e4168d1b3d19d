"""The one path from a traced model to a smaller one."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from yolo_slim.pruning.graph.graph import ChannelGraph, Fixed, expect_fit
from yolo_slim.pruning.latency_budget import Deployed, cost_of, select_within
from yolo_slim.pruning.measure.runtimes import expect_runtime
from yolo_slim.pruning.repair.compensate import Compensated, compensate
from yolo_slim.pruning.repair.dead_inputs import leave_constants
from yolo_slim.pruning.repair.stand_ins import Found, select_compensated
from yolo_slim.pruning.scores.importance import gamma_importance
from yolo_slim.pruning.selection.select import select
from yolo_slim.pruning.selection.selection import Selection, expect_selection
from yolo_slim.pruning.surgery.apply import apply_plan
from yolo_slim.pruning.surgery.plan import PruningPlan, make_plan
from yolo_slim.pruning.surgery.structure import Structure, structure_of
from yolo_slim.pruning.surgery.verify import TOLERANCE, cut, difference

#: What becomes of the constants that dropped channels with a gamma near zero pass on.
Compensation = Literal["auto", "none", "fold", "exact"]


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
        plan: The channels that stay.
        structure: The sizes of the smaller model's layers, for its checkpoints.
        layers: Channels of every layer before and after, except of those that may lose none and have no gamma.
        request: What was asked for, in words.
        asked: The ratio that was asked for; where a budget was given, the one it took.
        reached: The ratio that was reached, dead channels that exact compensation keeps included.
        threshold: Highest score of a dropped group.
        held: Layer -> channels that score below the threshold and are kept by ``min_channels`` alone.
        bound: Layer -> channels that are kept because parts must stay equal, or by ``round_to``.
        kept_below: Number of channels that score below the threshold and are kept: what these rules cost.
        error: Largest difference of an output to the dense model in which the dropped channels are zero, after the
            compensation, and for ``exact`` also to the one in which they are their constants; relative to its largest.
        compensation: What was done with the constants of the dropped channels; None where nothing was.
        parameters_before: Elements of all parameters of the dense model.
        parameters_after: Elements of all parameters of the smaller model.
        flops_before: Operations of a forward of the dense model, None where no example inputs were given.
        flops_after: The same of the smaller model.
        latency_ms: Of a forward of the smaller model, None without a budget for it.
        predicted_rise: How far a sensitivity foresees the loss to rise, relative to the dense model's; None without.
        measured_rise: How far it rose, None where that was not measured.
        emptying: The highest threshold that would have emptied no layer, and the ratio that it is; None where layers
            are not compared by these scores.
        fixed: Why channels may not be dropped.
    """

    plan: PruningPlan
    structure: Structure
    layers: list[LayerChange]
    request: str
    asked: float
    reached: float
    threshold: float
    held: dict[str, int]
    bound: dict[str, int]
    kept_below: int
    error: float
    compensation: Compensated | None
    parameters_before: int
    parameters_after: int
    flops_before: int | None
    flops_after: int | None
    latency_ms: float | None
    predicted_rise: float | None
    measured_rise: float | None
    emptying: tuple[float, float] | None
    fixed: list[Fixed]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a YAML or JSON file or a checkpoint."""
        done = self.compensation and {k: v for k, v in vars(self.compensation).items() if k != "dropped"}
        plain = asdict(replace(self, compensation=None, emptying=None))
        emptying = self.emptying and dict(zip(("threshold", "ratio"), self.emptying, strict=True))
        return {**plain, "plan": self.plan.to_dict(), "compensation": done, "emptying": emptying}


def prune(
    model: nn.Module,
    graph: ChannelGraph,
    selection: Selection,
    scores: Tensor | None = None,
    *,
    example_inputs: object = None,
    compensation: str = "none",
    deployed: Deployed | None = None,
) -> PruningReport:
    """Removes the channels that matter least, in place, once a copy has proved that nothing else changes.

    Args:
        model: The model, in float32 or float64.
        graph: Its channel graph, traced on the model or on a copy of it.
        selection: What to drop.
        scores: (num_groups,), higher = keep; default: the mean |gamma| of a group.
        example_inputs: A tensor, or a tuple of positional arguments, of the size that operations are counted and
            forwards are timed for; needed by budgets and by ``per``.
        compensation: What becomes of the constants that dropped channels with a gamma near zero pass on: "none"
            forgets them, "fold" gives them to the layers that read them, "exact" does so at zero-padded borders too,
            where some dead channels stay for it, see :func:`compensate`. With a budget these count: channels that
            live go in their place. "auto" is exact, but "fold" where that would be in vain: with a
            budget or ``round_to`` where most of the dropped channels live.
        deployed: Turns a copy of the model into what is timed, such as one with BatchNorm folded in.

    Returns:
        A report of what was done.

    Raises:
        ValueError: If the selection, scores or graph do not fit the model, or its weights are half precision.
        RuntimeError: If the smaller model's outputs differ from the dense model's with the dropped channels at zero.
            In every case of an error the model is untouched.

    Example:
        >>> graph = trace(net, torch.rand(1, 3, 9, 9))
        >>> report = prune(net, graph, Selection(ratio=0.5, min_channels=1))
        >>> report.layers, report.reached, report.error < 1e-5
        ([LayerChange(module='1', before=4, after=2)], 0.5, True)
        >>> net(torch.rand(1, 3, 9, 9)).shape
        torch.Size([1, 2, 5, 5])
    """
    expect_selection(selection)
    expect_fit(model, graph)
    _expect_precision(model)
    expect_compensation(compensation)
    scores = gamma_importance(model, graph) if scores is None else scores
    cost, stopwatch = cost_of(model, graph, selection, example_inputs, deployed)

    def choose(asked: Selection) -> Found:
        return select_compensated(model, graph, scores, asked, cost, compensation)

    if stopwatch is not None and cost is not None and "max_latency_ms" in selection.limits:
        found = select_within(choose, selection, cost, stopwatch)
    else:
        found = choose(selection)
    selected, kept, compensation = found.selected, found.kept, found.compensation
    slim = copy.deepcopy(model)
    compensated = None
    if compensation != "none":
        compensated = compensate(slim, graph, selected.dropped, exact=compensation == "exact", kept=kept)
    dropped = selected.dropped if compensated is None else compensated.dropped
    plan = make_plan(graph, dropped)
    error = cut(slim, graph, dropped, plan)
    if compensated is not None and compensation == "exact" and not compensated.uncompensated:
        error = max(error, _compensation_error(slim, model, graph, selected.dropped | kept))
    if not error < TOLERANCE:
        raise RuntimeError(
            f"the pruned model differs from the dense one without the dropped channels by {error:.1e} (allowed:"
            f" {TOLERANCE:.0e}); the model is untouched. Ignore the layers in doubt, or report the model as a bug"
        )
    before = _parameters(model)
    apply_plan(model, plan)
    if compensated is not None:
        model.load_state_dict(slim.state_dict())
    return PruningReport(
        plan=plan,
        structure=structure_of(model, sorted({f"{a.module}:{a.name}" for a in graph.attributes})),
        layers=_layer_changes(graph, dropped),
        request=selected.request,
        asked=selected.asked,
        reached=selected.reached,
        threshold=selected.threshold,
        held=selected.held,
        bound=selected.bound,
        kept_below=selected.kept_below,
        error=error,
        compensation=compensated,
        parameters_before=before,
        parameters_after=_parameters(model),
        flops_before=None if cost is None else cost.flops(torch.zeros_like(dropped)),
        flops_after=None if cost is None else cost.flops(dropped),
        latency_ms=selected.latency_ms,
        predicted_rise=selected.predicted_rise,
        measured_rise=None,
        emptying=selected.emptying,
        fixed=graph.reasons,
    )


def _expect_precision(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if parameter.dtype in (torch.float16, torch.bfloat16):
            raise ValueError(f"{name} is {parameter.dtype}; prune in float32: call model.float() before tracing")


def _compensation_error(slim: nn.Module, model: nn.Module, graph: ChannelGraph, dropped: Tensor) -> float:
    """How far a compensated model is from the dense one in which the dropped channels are constants."""
    constant = copy.deepcopy(model)
    leave_constants(constant, graph, dropped)
    return difference(slim, constant, graph.passes[0])


def _layer_changes(graph: ChannelGraph, dropped: Tensor) -> list[LayerChange]:
    return [
        LayerChange(name, len(groups), int((~dropped[groups]).sum()))
        for name, groups in graph.layers.items()
        if name in graph.gammas or not graph.fixed[groups].all()
    ]


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def check_prune(
    model: nn.Module,
    graph: ChannelGraph,
    selection: Selection,
    example_inputs: object = None,
    compensation: str = "none",
) -> None:
    """Finds out, before a long training, whether :func:`prune` can do what it will be asked for, whatever the scores.

    A latency is not looked at: how long the layers take is measured when it is needed.

    Args:
        model: The model.
        graph: Its channel graph.
        selection: What shall be dropped after the training.
        example_inputs: As for :func:`prune`.
        compensation: As for :func:`prune`.

    Raises:
        ValueError: If a pattern matches nothing, a budget cannot be reached, example inputs are needed, or the
            compensation does not go with the selection or the passes of the graph.
    """
    expect_selection(selection)
    expect_fit(model, graph)
    expect_compensation(compensation)
    untimed = selection.without_times()
    if selection.needs_times:
        if example_inputs is None:
            raise ValueError(f"{selection} needs example_inputs to time a forward with")
        expect_runtime(selection.latency)
    cost, _ = cost_of(model, graph, untimed, example_inputs)
    scores = torch.arange(graph.num_groups, dtype=torch.float64)
    dropped = select(graph, scores, untimed, cost).dropped
    if compensation != "none":
        compensate(copy.deepcopy(model), graph, dropped, exact=compensation in ("auto", "exact"))


def expect_compensation(compensation: str) -> None:
    """Refuses an unknown compensation.

    Raises:
        ValueError: With those that there are.
    """
    if compensation not in get_args(Compensation):
        raise ValueError(f"compensation={compensation!r}: expected one of {', '.join(get_args(Compensation))}")
