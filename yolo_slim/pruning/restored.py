"""Leaving a model exactly as it was found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

_TABLES = ("_parameters", "_buffers", "_modules")


@contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """Gives back, whatever happens inside: modes, attributes, buffers, parameters' identity and requires_grad.

    Values inside a container attribute (a list that ``forward`` appends to) are not copied.
    """
    modules = list(model.modules())
    attributes = [dict(vars(m)) for m in modules]
    tables = [{name: dict(vars(m)[name]) for name in _TABLES} for m in modules]
    buffers = [(b, b.clone()) for table in tables for b in table["_buffers"].values() if b is not None]
    flags = [(p, p.requires_grad) for table in tables for p in table["_parameters"].values() if p is not None]
    try:
        yield
    finally:
        for module, values, table in zip(modules, attributes, tables, strict=True):
            vars(module).clear()
            vars(module).update(values)
            for name, entries in table.items():
                vars(module)[name].clear()
                vars(module)[name].update(entries)
        with torch.no_grad():
            for buffer, before in buffers:
                if not torch.equal(buffer, before):
                    buffer.copy_(before)
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
