"""Watching every operation of a model that runs, so that each can be told to the ledger."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from yolo_slim.pruning.graph.axes import Axis, Call, Unsupported, leaves, tensors_in
from yolo_slim.pruning.graph.cheap_layers import CHEAP, first_channel_repeated
from yolo_slim.pruning.graph.ledger import Ledger, Place
from yolo_slim.pruning.graph.rules.table import NEUTRAL, RULES, SIZED, operation_name
from yolo_slim.pruning.graph.tagged_int import DimSource, TaggedInt, untag
from yolo_slim.pruning.modules.torch_private import (
    DispatchMode,
    is_transformed,
    running_module,
    unhidden,
    untransformed,
)


class Tracer(TorchFunctionMode):
    """Carries a label per channel through every operation of a model that runs under it.

    Args:
        names: The names of the model's modules.

    Attributes:
        ledger: What has been found out.
    """

    def __init__(self, names: Mapping[nn.Module, str]) -> None:
        super().__init__()
        self._names = names
        self._operation = ""
        self.ledger = Ledger(names, self._here)

    def _here(self) -> Place:
        return Place(running_module(self._names), self._operation)

    def __torch_function__(self, func: object, types: object, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        name = operation_name(func)
        with unhidden():
            result = _run(func, name, tuple([untag(a) for a in args]), {k: untag(v) for k, v in kwargs.items()})
        if name in NEUTRAL:
            return result
        ledger, self._operation = self.ledger, name
        tensors = tensors_in(args) + tensors_in(kwargs)
        if any(map(is_transformed, tensors)):
            why = "is used under torch.vmap or another torch.func transform"
            ledger.fix_tensors(list(map(untransformed, tensors)), why)
            ledger.use_all((args, kwargs))
            return result
        if name not in SIZED and not any(map(ledger.is_labelled, tensors)):
            ledger.use_all((args, kwargs))
            return result
        if name in ("shape", "size"):
            return self._tag_sizes(args[0], result, *args[1:], **kwargs)
        written = tensors[0] if name == "setitem" else next((t for t in tensors if t is result), None)
        before = None if written is None else ledger.axes(written, values_used=False)
        try:
            if name not in RULES:
                raise Unsupported("no rule for this operation")
            if kwargs.get("out") is not None:
                raise Unsupported("writes into out=")
            RULES[name](ledger, Call(name, args, kwargs, result))
        except (Unsupported, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            ledger.fix_tensors(tensors, str(error) or type(error).__name__)
            ledger.use_all((args, kwargs))
            for tensor in leaves(result):
                if isinstance(tensor, Tensor):
                    ledger.forget(tensor)
        if written is not None and before is not None:
            ledger.written_into(written, before)
        return result

    def _tag_sizes(self, tensor: Tensor, result: Any, dim: int | None = None) -> Any:
        def tag(size: int, axis: Axis | None) -> int:
            return size if axis is None else TaggedInt(size, (DimSource(axis.labels),), self.ledger.use)

        axes = self.ledger.axes(tensor, values_used=False)
        if dim is not None:
            return tag(result, axes[dim])
        return torch.Size([tag(size, axis) for size, axis in zip(result, axes, strict=True)])


def _run(func: Any, name: str, args: tuple, kwargs: dict[str, Any]) -> Any:
    if name in CHEAP:
        with contextlib.suppress(Unsupported):
            result = first_channel_repeated(func, Call(name, args, kwargs, None))
            if result is not None:
                return result
    return func(*args, **kwargs)


class HiddenOperations(DispatchMode):
    """Fixes what is touched by operations that no function mode sees, such as those of a scripted function.

    Args:
        ledger: What has been found out.
        names: The names of the model's modules.
    """

    def __init__(self, ledger: Ledger, names: Mapping[nn.Module, str]) -> None:
        super().__init__()
        self._ledger, self._names = ledger, names

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        at = Place(running_module(self._names), str(func))
        self._ledger.fix_tensors((args, kwargs), "no rule for this operation", at)
        return func(*args, **(kwargs or {}))
