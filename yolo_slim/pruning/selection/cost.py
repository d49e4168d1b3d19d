"""What a model costs once channels are dropped, without pruning it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor, nn

from yolo_slim.pruning.graph.graph import ChannelGraph
from yolo_slim.pruning.measure.layer_times import WidthTimes
from yolo_slim.pruning.measure.profile import profile
from yolo_slim.pruning.modules.torch_private import TransposedConvolution


@dataclass(frozen=True)
class _Timing:
    """The times of a layer, and the places of its input and output; -1 where the graph follows no channel."""

    times: WidthTimes
    ins: int
    outs: int

    def at(self, kept: np.ndarray) -> float:
        ins = self.times.ins[-1] if self.ins < 0 else kept[self.ins]
        return self.times.at(ins, self.times.outs[-1] if self.outs < 0 else kept[self.outs])


class CostModel:
    """Parameters, operations and milliseconds as functions of the dropped groups; counts agree with :func:`profile`.

    A tensor has as many elements as the product of the channels kept along its axes. A convolution or linear layer
    multiplies each element of its weight once per position, in every call. Positions are taken to stay the same: a
    linear layer that runs along an axis whose positions are channels themselves (an MLP-Mixer's token mixing) counts
    as if none of these were dropped. Milliseconds are a line over the sum of what the layers take alone: what a
    runtime does beside and between them comes with ``offset`` and ``slope``.

    Args:
        model: The model the graph was traced on, or a copy of it.
        graph: Its channel graph.
        example_inputs: A tensor, or a tuple of positional arguments, of the size to count operations for.
        times: By the name of each layer what it takes over its widths; needed by ``latency_ms``.

    Attributes:
        offset: Milliseconds that no layer accounts for.
        slope: Milliseconds of the model for each of its layers'.
    """

    offset, slope = 0.0, 1.0

    def __init__(
        self,
        model: nn.Module,
        graph: ChannelGraph,
        example_inputs: object,
        times: Mapping[str, WidthTimes] | None = None,
    ) -> None:
        self._num_groups = graph.num_groups
        self._axes: dict[bytes, int] = {}
        self._groups: list[np.ndarray] = []
        parameters = [self._term(graph, name, parameter.numel()) for name, parameter in model.named_parameters()]
        weights = [
            self._term(graph, f"{layer.module}.weight".lstrip("."), layer.flops)
            for layer in profile(model, example_inputs).layers
        ]
        self._times = None if times is None else [self._timed(model, graph, *item) for item in times.items()]
        # A place that always counts one channel stands for the axes that a tensor does not have.
        width = max((len(places) for _, places in parameters + weights), default=0)
        self._terms = {
            "params": _table(parameters, width, len(self._groups)),
            "flops": _table(weights, width, len(self._groups)),
        }
        sizes = [len(groups) for groups in self._groups]
        self._flat = np.concatenate(self._groups) if sizes else np.zeros(0, np.int64)
        self._starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64) if sizes else np.zeros(0, np.int64)

    def params(self, dropped: Tensor) -> int:
        """Elements of all parameters once the groups in ``dropped``, bool (num_groups,), are gone."""
        return self._total("params", dropped)

    def flops(self, dropped: Tensor) -> int:
        """Operations of the convolutions and linear layers for the whole batch then, two per multiply-accumulate."""
        return self._total("flops", dropped)

    def latency_ms(self, dropped: Tensor) -> float:
        """Milliseconds of a forward then, as ``offset`` and ``slope`` foresee them.

        Raises:
            ValueError: If the model was made without ``times``.
        """
        return self.offset + self.slope * self.layers_ms(dropped)

    def layers_ms(self, dropped: Tensor) -> float:
        """The sum of what the layers take alone then; errors as for :meth:`latency_ms`."""
        kept = self._kept(dropped)
        return sum(timing.at(kept) for timing in self._timings)

    def fit_times(self, layers: tuple[float, float], measured: tuple[float, float]) -> None:
        """Lays the line of milliseconds through two models.

        Args:
            layers: What the layers of the larger and of the smaller one take, as :meth:`layers_ms` says.
            measured: Milliseconds of both.
        """
        down, saved = layers[0] - layers[1], measured[0] - measured[1]
        # Where noise says that the smaller one takes longer, all of the time is the layers'.
        self.slope = saved / down if down > 0 and saved > 0 else measured[0] / layers[0]
        self.offset = measured[0] - self.slope * layers[0]

    @property
    def timed(self) -> bool:
        """Whether it foresees milliseconds."""
        return self._times is not None

    def dense(self) -> dict[str, float]:
        """What the model costs as it is, by the names of the budgets."""
        none = torch.zeros(self._num_groups, dtype=torch.bool)
        costs: dict[str, float] = {"max_params": self.params(none), "max_flops": self.flops(none)}
        return costs if self._times is None else costs | {"max_latency_ms": self.latency_ms(none)}

    def saving(self, kind: str) -> Tensor:
        """What dropping one group alone saves in the dense model.

        Args:
            kind: "params", "flops" or "latency".

        Returns:
            float64 (num_groups,), at least 0.

        Raises:
            ValueError: If the kind is "latency" and the model was made without ``times``.
        """
        if kind == "latency":
            return self._time_saved()
        factors, places = self._terms[kind]
        counts = [np.bincount(groups, minlength=self._num_groups).astype(np.float64) for groups in self._groups]
        saved = np.zeros(self._num_groups)
        for factor, row in zip(factors, places, strict=True):
            axes = [place for place in row if place < len(self._groups)]
            left = [len(self._groups[place]) - counts[place] for place in axes]
            if axes:
                saved += factor * (prod(len(self._groups[place]) for place in axes) - np.prod(left, axis=0))
        return torch.from_numpy(saved)

    def _term(self, graph: ChannelGraph, tensor: str, total: int) -> tuple[int, list[int]]:
        """What one channel of each axis costs, and the places of these axes; their product is ``total``."""
        places, channels = [], 1
        for groups in graph.arrays.axes.get(tensor, {}).values():
            places.append(self._place(groups))
            channels *= len(groups)
        return total // channels, places

    def _timed(self, model: nn.Module, graph: ChannelGraph, name: str, times: WidthTimes) -> _Timing:
        """The times of a layer with the places of its channels."""
        axes = graph.arrays.axes.get(f"{name}.weight".lstrip("."), {})
        layer = model.get_submodule(name)
        sides = (0, 1) if isinstance(layer, TransposedConvolution) else (1, 0)
        places = []
        for side, channels in zip(sides, (times.ins[-1], times.outs[-1]), strict=True):
            groups = axes.get(side)
            places.append(-1 if groups is None or len(groups) != channels else self._place(groups))
        return _Timing(times, *places)

    def _time_saved(self) -> Tensor:
        saved = np.zeros(self._num_groups)
        for timing in self._timings:
            for place, slope in zip((timing.ins, timing.outs), timing.times.slopes(), strict=True):
                if place >= 0:
                    np.add.at(saved, self._groups[place], self.slope * slope)
        return torch.from_numpy(saved)

    @property
    def _timings(self) -> list[_Timing]:
        if self._times is None:
            raise ValueError("latency needs the times of the layers: pass times=layer_times(...)")
        return self._times

    def _place(self, groups: np.ndarray) -> int:
        key = groups.tobytes()
        if key not in self._axes:
            self._axes[key] = len(self._groups)
            self._groups.append(groups)
        return self._axes[key]

    def _kept(self, dropped: Tensor) -> np.ndarray:
        """Channels that are left at each place, and 1 at one more."""
        if dropped.shape != (self._num_groups,):
            raise ValueError(f"expected bool ({self._num_groups},), one per group; got {tuple(dropped.shape)}")
        kept = np.ones(len(self._starts) + 1, np.int64)
        if len(self._starts):
            kept[:-1] = np.add.reduceat((~dropped.numpy())[self._flat].astype(np.int64), self._starts)
        return kept

    def _total(self, kind: str, dropped: Tensor) -> int:
        factors, places = self._terms[kind]
        return int((factors * self._kept(dropped)[places].prod(axis=1)).sum())


def _table(terms: list[tuple[int, list[int]]], width: int, none: int) -> tuple[np.ndarray, np.ndarray]:
    """Factors int64 (n,), and places int64 (n, width) filled up with ``none``."""
    places = np.full((len(terms), width), none, np.int64)
    for row, (_, values) in zip(places, terms, strict=True):
        row[: len(values)] = values
    return np.array([factor for factor, _ in terms], np.int64), places
