"""Milliseconds as a budget: foreseen from the times of the layers, measured on the smaller model."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256

import torch
from torch import Tensor, nn

from yolo_slim.pruning.graph.graph import ChannelGraph
from yolo_slim.pruning.measure.layer_times import layer_times
from yolo_slim.pruning.measure.runtimes import Latency, forward_in, times_in_turn
from yolo_slim.pruning.measure.times_cache import TimesCache
from yolo_slim.pruning.repair.stand_ins import Found
from yolo_slim.pruning.selection.budgets import AIM
from yolo_slim.pruning.selection.cost import CostModel
from yolo_slim.pruning.selection.select import select
from yolo_slim.pruning.selection.selection import Selection
from yolo_slim.pruning.surgery.apply import apply_plan
from yolo_slim.pruning.surgery.plan import make_plan

#: Turns a copy of a model into what is deployed; may change the copy.
Deployed = Callable[[nn.Module], nn.Module]

#: A latency is met between these shares of the limit: measured once more, the same model takes 1% more or less.
MET, SAFE = 0.97, 0.99
#: How often a smaller model is measured before the best of them is taken.
TRIES = 8


class Stopwatch:
    """Times a model without given groups, as it is deployed, in turn with the model as it is.

    Args:
        model: The model; stays as it is.
        graph: Its channel graph.
        example_inputs: Inputs of the size and batch that will be used.
        latency: The runtime.
        deployed: Prepares a copy for it.
    """

    def __init__(
        self,
        model: nn.Module,
        graph: ChannelGraph,
        example_inputs: object,
        latency: Latency,
        deployed: Deployed | None = None,
    ) -> None:
        self._model, self._graph, self._inputs = model, graph, latency.inputs(example_inputs)
        self._latency, self._deployed = latency, deployed or (lambda model: model)
        self._dense: Callable[[], object] | None = None

    def times(self, dropped: Tensor) -> tuple[float, float]:
        """Milliseconds of the model as it is, and without the groups in ``dropped``, bool (num_groups,)."""
        self._dense = self._dense or self._forward(None)
        found = times_in_turn({False: self._dense, True: self._forward(dropped)})
        return found[False], found[True]

    def _forward(self, dropped: Tensor | None) -> Callable[[], object]:
        net = copy.deepcopy(self._model)
        if dropped is not None:
            apply_plan(net, make_plan(self._graph, dropped))
        return forward_in(self._latency, self._deployed(net.eval()), self._inputs)


def timed_cost(
    model: nn.Module, graph: ChannelGraph, example_inputs: object, selection: Selection, stopwatch: Stopwatch
) -> CostModel:
    """The cost of a model with milliseconds that fit it, and half of it, as measured.

    The times of layers are measured where this machine has not done so before, and said so on standard error.

    Args:
        model: The model; comes back as it was.
        graph: Its channel graph.
        example_inputs: Inputs of the size that operations are counted for.
        selection: Its rules are those of the half that is measured, its runtime is timed.
        stopwatch: Times the model.
    """
    latency = selection.latency
    cache = TimesCache.of_machine(latency)
    if not len(cache):
        print(f"timing the layers in {latency.runtime}, once for this machine: about a minute", file=sys.stderr)
    cost = CostModel(
        model, graph, example_inputs, layer_times(model, latency.inputs(example_inputs), latency, cache=cache)
    )
    half = replace(selection, ratio=0.5, ratios=None, scope="local", per="channel")
    half = replace(half, max_params=None, max_flops=None, max_latency=None, max_latency_ms=None)
    scores = torch.rand(graph.num_groups, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    probe, none = select(graph, scores, half).dropped, torch.zeros(graph.num_groups, dtype=torch.bool)
    layers = cost.layers_ms(none), cost.layers_ms(probe)
    about = sha256(f"{layers}{sorted(p.shape for p in model.parameters())}".encode() + probe.numpy().tobytes())
    keys = [f"model {about.hexdigest()[:16]}: {state}" for state in ("dense", "half")]
    if not all(key in cache for key in keys):
        cache.update(zip(keys, stopwatch.times(probe), strict=True))
        cache.save()
    cost.fit_times(layers, (cache[keys[0]], cache[keys[1]]))
    return cost


def select_within(
    choose: Callable[[Selection], Found], selection: Selection, cost: CostModel, stopwatch: Stopwatch
) -> Found:
    """Selects until a latency is met as measured: at most the limit, and within 3% where steps are as small as that.

    Args:
        choose: Selects, by what ``cost`` foresees.
        selection: Has a latency; a share is one of the model as measured in turn with the smaller one.
        cost: Foresees milliseconds.
        stopwatch: Measures.

    Returns:
        The slowest of the measured models that meet it, with its ``latency_ms``.

    Raises:
        ValueError: If the latency cannot be reached.
    """
    dense = cost.dense()["max_latency_ms"]
    asked = selection.limits["max_latency_ms"]
    limit = asked.of_dense(dense)
    # Of a model that met the limit and of one that did not what is foreseen; what is asked for next lies between.
    met, missed = 0.0, float("inf")
    best, slowest, reached, aim = None, 0.0, 0.0, limit
    for _ in range(TRIES):
        try:
            found = choose(replace(selection, max_latency=None, max_latency_ms=aim))
        except ValueError:
            if best is None:
                raise
            break
        selected = found.selected
        foreseen = cost.latency_ms(selected.dropped) / AIM
        before, now = stopwatch.times(selected.dropped)
        reached = now / before * dense if asked.share else now
        fits = reached <= SAFE * limit
        if fits and reached > slowest:
            told = replace(selected, latency_ms=reached, request=str(selection))
            best, slowest = replace(found, selected=told), reached
        if fits and (reached >= MET * limit or not bool(selected.dropped.any())):
            break
        met, missed = (max(met, foreseen), missed) if fits else (met, min(missed, foreseen))
        if missed - met < (1 - MET) * limit / 4 and best is not None:
            break  # one step of the selection is larger than that
        wanted = aim + AIM * limit - reached
        between = (met + missed) / 2 if met else MET * missed
        aim = wanted if met < wanted < missed else between
    if best is None:
        raise ValueError(
            f"{selection}: {TRIES} models that should take {limit:.3g} ms took longer, the last one {reached:.3g} ms; "
            "times vary as much as that here: measure on a quiet machine, or give max_flops"
        )
    return best


def cost_of(
    model: nn.Module,
    graph: ChannelGraph,
    selection: Selection,
    example_inputs: object,
    deployed: Deployed | None = None,
) -> tuple[CostModel | None, Stopwatch | None]:
    """What a selection counts with: the cost of the model, and a stopwatch where it is about milliseconds.

    Args:
        model: The model; comes back as it was.
        graph: Its channel graph.
        selection: What will be asked for.
        example_inputs: Inputs of the size that operations are counted for; None if unknown.
        deployed: Prepares a copy of the model for its runtime.

    Raises:
        ValueError: If the selection needs example inputs and there are none, or a runtime that is not installed.
    """
    if example_inputs is None:
        if selection.needs_example:
            raise ValueError(
                f"{selection} counts what channels cost: pass example_inputs of the size that will be used"
            )
        return None, None
    if not selection.needs_times:
        return CostModel(model, graph, example_inputs), None
    stopwatch = Stopwatch(model, graph, example_inputs, selection.latency, deployed)
    return timed_cost(model, graph, example_inputs, selection, stopwatch), stopwatch
