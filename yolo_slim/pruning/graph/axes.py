"""What the tracer hands to the rules: the channels along an axis, and a call to an operation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor


class Unsupported(Exception):  # noqa: N818 - control flow between a rule and the tracer
    """Raised by a rule that cannot follow a call; everything that the call touches is then fixed."""


class Zero:
    """When a channel is exactly zero, from never to soonest."""

    NEVER = 0
    #: Once all that makes it is zero: the rows of its convolutions, their biases, gammas, betas.
    BY_WEIGHTS = 1
    #: Once its gammas and betas are.
    BY_GAMMA = 2


@dataclass(frozen=True)
class Axis:
    """The channels along one axis of a tensor.

    Attributes:
        labels: int64 (C,), one label per channel.
        zero: int8 (C,), the :class:`Zero` of each channel. A channel that is never zero cannot be removed from a
            convolution's input without a change of the output.
    """

    labels: np.ndarray
    zero: np.ndarray

    def take(self, index: Any) -> Axis:
        """The channels at ``index`` (anything numpy takes)."""
        return Axis(self.labels[index], self.zero[index])

    def with_zero(self, zero: int | np.ndarray) -> Axis:
        """The same channels, zero in other cases."""
        return Axis(self.labels, np.full(len(self.labels), zero, np.int8) if isinstance(zero, int) else zero)


#: The channels along every axis of a tensor; None for an axis that follows no channel.
Axes = list[Axis | None]


def leaves(values: object) -> Iterator[Any]:
    """Every value in a nest of tuples (sizes too), lists, dictionaries and slices."""
    if isinstance(values, (tuple, list)):
        for value in values:
            if isinstance(value, (tuple, list, dict, slice)):
                yield from leaves(value)
            else:
                yield value
    elif isinstance(values, dict):
        yield from leaves(list(values.values()))
    elif isinstance(values, slice):
        yield from (values.start, values.stop, values.step)
    else:
        yield values


def tensors_in(values: Any) -> list[Tensor]:
    """The tensors in a nest, as :func:`leaves` finds them."""
    tensors: list[Tensor] = []
    for value in values.values() if isinstance(values, dict) else values:
        if isinstance(value, Tensor):
            tensors.append(value)
        elif isinstance(value, (tuple, list, dict)):
            tensors += tensors_in(value)
    return tensors


def words(text: str) -> list[str]:
    """The words of a text, for tables of operations."""
    return text.split()


_MISSING = object()


@dataclass(frozen=True)
class Call:
    """A call to an operation: its name, its arguments (sizes still tagged) and its result."""

    name: str
    args: tuple
    kwargs: dict[str, Any]
    result: Any

    def get(self, position: int, *names: str, default: object = _MISSING) -> Any:
        """An argument by its position or by any of its names."""
        if position < len(self.args):
            return self.args[position]
        for name in names:
            if name in self.kwargs:
                return self.kwargs[name]
        if default is _MISSING:
            raise Unsupported(f"called without {names[0]}")
        return default

    @property
    def input(self) -> Tensor:
        """The first argument, a tensor."""
        tensor = self.get(0, "input", "self")
        if not isinstance(tensor, Tensor):
            raise Unsupported("its first argument is not a tensor")
        return tensor

    def rest(self, position: int, *names: str) -> list[Any]:
        """Sizes or dimensions given either one by one or as one sequence, from ``position`` on."""
        values = self.args[position:] or (self.get(position, *names),)
        return list(values[0]) if len(values) == 1 and isinstance(values[0], (tuple, list)) else list(values)
