"""How the loss rises when channels of one unit at a time are silenced."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from yolo_slim.pruning.graph.graph import ChannelGraph, expect_fit
from yolo_slim.pruning.modules.restored import restored
from yolo_slim.pruning.scores.importance import gamma_importance
from yolo_slim.pruning.selection.cost import CostModel
from yolo_slim.pruning.selection.curves import MEASURED, SKIPPED
from yolo_slim.pruning.selection.select import scored_members, select
from yolo_slim.pruning.selection.selection import Selection
from yolo_slim.pruning.selection.units import Unit, units_of
from yolo_slim.pruning.surgery.apply import apply_plan
from yolo_slim.pruning.surgery.plan import make_plan
from yolo_slim.pruning.surgery.silence import silence

#: Shares of a unit's channels that are silenced.
RATIOS = (0.1, 0.3, 0.5, 0.7, 0.9)
#: A figure of a model by its name; "loss" or "map" among them.
Evaluate = Callable[[nn.Module], Mapping[str, float]]


@dataclass(frozen=True)
class Row:
    """One unit at one ratio.

    Attributes:
        unit: Name of the unit, that of its first layer.
        layers: Its layers.
        channels: How many channels it has, as a ratio counts them.
        ratio: What was asked for.
        removed: How many of the channels are silent.
        parameters_saved: Parameters that the model would have less.
        flops_saved: Operations of a forward that it would have less.
        status: "measured", or "skipped": a smaller ratio raised the loss too far.
        rise: Of the loss, relative to that of the dense model; where only mAP was measured, of its fall. None where
            skipped.
        figures: What was measured.
        seconds: How long that took.
    """

    unit: str
    layers: tuple[str, ...]
    channels: int
    ratio: float
    removed: int
    parameters_saved: int
    flops_saved: int
    status: str
    rise: float | None = None
    figures: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0


class Sensitivity:
    """The measurement of a model's units, ratio by ratio over all of them, so that a first picture is there early.

    The channels of a unit that are silenced are those that :func:`select` takes of it alone; a unit's parts that must
    stay equal shrink together. What a row costs is what a prune of the same channels costs.

    Args:
        model: The model; comes back as it was after every measurement.
        graph: Its channel graph.
        evaluate: Measures it as it is then, by the same data each time: "loss", lower is better, or "map".
        example_inputs: Inputs of the size that operations are counted for.
        ratios: Shares of a unit's channels, ascending in [0, 1).
        scores: (num_groups,), higher = keep; default: the mean |gamma| of a group.
        selection: Its ``min_channels``, ``round_to``, ``shortcuts`` and ``ignore``; default: any width.
        stop_rise: Larger ratios of a unit are skipped once the loss has risen by more, relative to the dense one.
        part: Which part of how many: every so-manieth unit.
        measure_cut: Measures a copy from which the channels are really gone, such as its latency.

    Attributes:
        units: The units that are measured.
        dense: The figures of the model as it is, once measured.

    Raises:
        ValueError: If a ratio or the part is out of range, or nothing is prunable, or has a score.

    Example:
        >>> graph, images = trace(net, torch.rand(1, 3, 9, 9)), torch.rand(4, 3, 9, 9)
        >>> def evaluate(model):
        ...     return {"loss": float(model.eval()(images).square().mean())}
        >>> rules = Selection(round_to=1, min_channels=1)
        >>> measurement = Sensitivity(net, graph, evaluate, images, ratios=(0, 0.5), selection=rules, stop_rise=9)
        >>> [(row.unit, row.ratio, row.removed, row.rise == 0) for row in measurement.rows()]
        [('1', 0, 0, True), ('1', 0.5, 2, False)]
    """

    def __init__(
        self,
        model: nn.Module,
        graph: ChannelGraph,
        evaluate: Evaluate,
        example_inputs: Any,
        *,
        ratios: Sequence[float] = RATIOS,
        scores: Tensor | None = None,
        selection: Selection | None = None,
        stop_rise: float = 1.0,
        part: tuple[int, int] = (1, 1),
        measure_cut: Evaluate | None = None,
    ) -> None:
        expect_fit(model, graph)
        check_ratios(ratios)
        if not 1 <= part[0] <= part[1]:
            raise ValueError(
                f"part={part[0]}/{part[1]}: expected the number of a part and how many there are, e.g. 2/4"
            )
        rules = selection or Selection(round_to=1)
        self._rules = Selection(
            scope="local",
            min_channels=rules.min_channels,
            round_to=rules.round_to,
            shortcuts=rules.shortcuts,
            ignore=rules.ignore,
        )
        scores = gamma_importance(model, graph) if scores is None else scores
        self._scores = scores.detach().double().cpu()
        self._members = scored_members(graph, self._rules, self._scores.numpy())
        self.units = units_of(graph, self._members)[part[0] - 1 :: part[1]]
        self.dense: Mapping[str, float] = {}
        self._model, self._graph, self._evaluate, self._measure_cut = model, graph, evaluate, measure_cut
        self._ratios, self._stop_rise = tuple(ratios), stop_rise
        self._cost = CostModel(model, graph, example_inputs)
        self._whole = torch.zeros(graph.num_groups, dtype=torch.bool)

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.units) * len(self._ratios)

    def evaluate_dense(self) -> Mapping[str, float]:
        """The figures of the model as it is, measured once.

        Raises:
            ValueError: If there is no loss or mAP among them that others can be compared with.
        """
        if not self.dense:
            with _unchanged(self._model):
                dense = dict(self._evaluate(self._model))
            relative_rise(dense, dense)
            if self._measure_cut is not None:
                dense |= self._measure_cut(copy.deepcopy(self._model))
            self.dense = dense
        return self.dense

    def rows(self, done: Sequence[Row] = ()) -> Iterator[Row]:
        """Measures row by row.

        Args:
            done: Rows that an earlier run has left, the first ones; they are not measured again, nor yielded.

        Raises:
            ValueError: If ``done`` is of another measurement.
        """
        self.evaluate_dense()
        lost: dict[str, bool] = {}
        left = list(done)
        for ratio in self._ratios:
            for unit in self.units:
                dropped = self.dropped(unit, ratio)
                if left:
                    row = left.pop(0)
                    if (row.unit, row.ratio, row.removed) != (unit.name, ratio, self._removed(dropped)):
                        raise ValueError(f"a row of {row.unit} at {row.ratio:g} stands where {unit.name} is expected")
                else:
                    row = self._row(unit, ratio, dropped, skip=lost.get(unit.name, False))
                    yield row
                skipped = row.status == SKIPPED
                lost[unit.name] = skipped or (row.rise is not None and row.rise > self._stop_rise)

    def dropped(self, unit: Unit, ratio: float) -> Tensor:
        """The groups of a unit that go at a ratio, bool (num_groups,)."""
        own = torch.full_like(self._scores, torch.inf)
        groups = torch.from_numpy(unit.groups)
        own[groups] = self._scores[groups]
        return select(self._graph, own, replace(self._rules, ratio=ratio)).dropped

    def _removed(self, dropped: Tensor) -> int:
        return int(self._members[dropped.numpy()].sum())

    def _row(self, unit: Unit, ratio: float, dropped: Tensor, skip: bool) -> Row:
        row = Row(
            unit=unit.name,
            layers=unit.layers,
            channels=unit.channels,
            ratio=ratio,
            removed=self._removed(dropped),
            parameters_saved=self._cost.params(self._whole) - self._cost.params(dropped),
            flops_saved=self._cost.flops(self._whole) - self._cost.flops(dropped),
            status=SKIPPED if skip else MEASURED,
        )
        if skip:
            return row
        started = time.perf_counter()
        figures = self._figures(dropped)
        seconds = time.perf_counter() - started
        return replace(row, figures=figures, rise=relative_rise(figures, self.dense), seconds=seconds)

    def _figures(self, dropped: Tensor) -> dict[str, float]:
        model = self._model
        with _unchanged(model):
            silence(model, self._graph, dropped)
            figures = dict(self._evaluate(model))
        if self._measure_cut is not None:
            smaller = copy.deepcopy(model)
            apply_plan(smaller, make_plan(self._graph, dropped))
            figures |= self._measure_cut(smaller)
        return figures


@contextmanager
def _unchanged(model: nn.Module) -> Iterator[None]:
    """Without gradients; the model comes back as it was, values of parameters included."""
    with restored(model), torch.no_grad():
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        try:
            yield
        finally:
            for name, tensor in model.state_dict().items():
                tensor.copy_(before[name])


def relative_rise(figures: Mapping[str, float], dense: Mapping[str, float]) -> float:
    """How much worse a model is than the dense one, as a share of the dense one's figure.

    Args:
        figures: "loss" of the model, or its "map" where there is no loss; what is not finite counts as 1e9.
        dense: The same of the dense model.

    Raises:
        ValueError: If both are missing, or the dense model's figure is no finite number but 0.

    Example:
        >>> relative_rise({"loss": 3.0}, {"loss": 2.0}), relative_rise({"map": 0.375}, {"map": 0.5})
        (0.5, 0.25)
    """
    name = next((name for name in ("loss", "map") if name in dense and name in figures), None)
    if name is None:
        raise ValueError("evaluate(model) returned neither 'loss' nor 'map'")
    before, now = float(dense[name]), float(figures[name])
    if not 0 < abs(before) < float("inf"):
        raise ValueError(f"the {name} of the model as it is is {before}: there is nothing to compare with")
    rise = (now - before if name == "loss" else before - now) / abs(before)
    return rise if abs(rise) < float("inf") else 1e9


def check_ratios(ratios: Sequence[float]) -> None:
    """Refuses ratios that are none, or not ascending.

    Raises:
        ValueError: With what is expected.
    """
    ascending = all(a < b for a, b in zip(ratios, ratios[1:], strict=False))
    if not ratios or not ascending or not all(0 <= ratio < 1 for ratio in ratios):
        raise ValueError(f"ratios={list(ratios)}: expected ascending shares in [0, 1), e.g. 0.3 0.5 0.7")
