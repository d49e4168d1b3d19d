"""Leaving a model exactly as it was found."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from operator import is_
from typing import Any

import torch
from torch import nn

_CONTAINERS = (list, dict, set, OrderedDict)


class Snapshot:
    """What a model was like: modes, attributes, buffers' values, parameters' identity and requires_grad.

    Of a list, dictionary or set that is an attribute it keeps the items, but not what these hold in turn. Values of
    parameters are not kept.

    Args:
        model: The model.
    """

    def __init__(self, model: nn.Module) -> None:
        self._attributes = [(vars(module), dict(vars(module))) for module in model.modules()]
        values = [value for _, before in self._attributes for value in before.values()]
        self._containers = [(value, value.copy()) for value in values if type(value) in _CONTAINERS and value]
        self._empty = [value for value in values if type(value) in _CONTAINERS and not value]
        self._buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
        self._flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]

    def restore(self) -> None:
        """Makes the model what it was."""
        for container in self._empty:
            container.clear()
        for now, before in (*self._attributes, *self._containers):
            if not _same(now, before):
                now.clear()
                (now.extend if isinstance(now, list) else now.update)(before)
        with torch.no_grad():
            for buffer, values in self._buffers:
                if not torch.equal(buffer, values):
                    buffer.copy_(values)
        for parameter, flag in self._flags:
            parameter.requires_grad_(flag)


@contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """Gives back, whatever happens inside, what a :class:`Snapshot` of the model holds."""
    snapshot = Snapshot(model)
    try:
        yield
    finally:
        snapshot.restore()


@contextmanager
def usual_algorithms() -> Iterator[None]:
    """Outside of deterministic mode, in which torchvision puts operations together from parts that couple channels."""
    mode = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("default")
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)


def _same(now: Any, before: Any) -> bool:
    """Whether two containers hold the very same items in the same order."""
    if len(now) != len(before):
        return False
    if isinstance(now, dict):
        return all(map(is_, now, before)) and all(map(is_, now.values(), before.values()))
    return all(map(is_, now, before))
