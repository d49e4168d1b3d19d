"""Leaving a model exactly as it was found."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

_CONTAINERS = (list, dict, set, OrderedDict)


@contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """Gives back, whatever happens inside: modes, attributes, buffers, parameters' identity and requires_grad.

    A list, dictionary or set that is an attribute gets its items back, but not what these hold in turn.
    """
    modules = list(model.modules())
    attributes = [dict(vars(m)) for m in modules]
    containers = [(v, copy.copy(v)) for values in attributes for v in values.values() if type(v) in _CONTAINERS]
    buffers = [(b, b.clone()) for m in modules for b in m._buffers.values() if b is not None]
    flags = [(p, p.requires_grad) for m in modules for p in m._parameters.values() if p is not None]
    try:
        yield
    finally:
        for module, values in zip(modules, attributes, strict=True):
            vars(module).clear()
            vars(module).update(values)
        for container, items in containers:
            container.clear()
            (container.extend if isinstance(container, list) else container.update)(items)
        with torch.no_grad():
            for buffer, before in buffers:
                if not torch.equal(buffer, before):
                    buffer.copy_(before)
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
