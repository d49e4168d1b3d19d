"""What a model costs once channels are dropped, without pruning it."""

from __future__ import annotations

from math import prod

import numpy as np
import torch
from torch import Tensor, nn

from yolo_slim.pruning.graph.graph import ChannelGraph
from yolo_slim.pruning.measure.profile import profile


class CostModel:
    """Parameters and floating-point operations as functions of the dropped groups; agrees with :func:`profile`.

    A tensor has as many elements as the product of the channels kept along its axes. A convolution or linear layer
    multiplies each element of its weight once per position, in every call. Positions are taken to stay the same: a
    linear layer that runs along an axis whose positions are channels themselves (an MLP-Mixer's token mixing) counts
    as if none of these were dropped.

    Args:
        model: The model the graph was traced on, or a copy of it.
        graph: Its channel graph.
        example_inputs: A tensor, or a tuple of positional arguments, of the size to count operations for.
    """

    def __init__(self, model: nn.Module, graph: ChannelGraph, example_inputs: object) -> None:
        self._num_groups = graph.num_groups
        self._axes: dict[bytes, int] = {}
        self._groups: list[np.ndarray] = []
        parameters = [self._term(graph, name, parameter.numel()) for name, parameter in model.named_parameters()]
        weights = [
            self._term(graph, f"{layer.module}.weight".lstrip("."), layer.flops)
            for layer in profile(model, example_inputs).layers
        ]
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

    def saving(self, kind: str) -> Tensor:
        """What dropping one group alone saves in the dense model.

        Args:
            kind: "params" or "flops".

        Returns:
            float64 (num_groups,), at least 0.
        """
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
            key = groups.tobytes()
            if key not in self._axes:
                self._axes[key] = len(self._groups)
                self._groups.append(groups)
            places.append(self._axes[key])
            channels *= len(groups)
        return total // channels, places

    def _total(self, kind: str, dropped: Tensor) -> int:
        if dropped.shape != (self._num_groups,):
            raise ValueError(f"expected bool ({self._num_groups},), one per group; got {tuple(dropped.shape)}")
        kept = np.ones(len(self._starts) + 1, np.int64)
        if len(self._starts):
            kept[:-1] = np.add.reduceat((~dropped.numpy())[self._flat].astype(np.int64), self._starts)
        factors, places = self._terms[kind]
        return int((factors * kept[places].prod(axis=1)).sum())


def _table(terms: list[tuple[int, list[int]]], width: int, none: int) -> tuple[np.ndarray, np.ndarray]:
    """Factors int64 (n,), and places int64 (n, width) filled up with ``none``."""
    places = np.full((len(terms), width), none, np.int64)
    for row, (_, values) in zip(places, terms, strict=True):
        row[: len(values)] = values
    return np.array([factor for factor, _ in terms], np.int64), places
