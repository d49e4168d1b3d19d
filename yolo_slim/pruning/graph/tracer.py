"""One forward pass that carries a label per channel through every operation."""

from __future__ import annotations

import contextlib
import sys
import weakref
from collections import defaultdict
from collections.abc import Mapping
from types import FrameType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from yolo_slim.pruning.graph.axes import Axis, Call, Unsupported, Zero, leaves, tensors_in
from yolo_slim.pruning.graph.cheap_layers import NAMES as STAND_INS
from yolo_slim.pruning.graph.cheap_layers import stand_in
from yolo_slim.pruning.graph.rules.table import NEUTRAL, RULES, SIZED, operation_name
from yolo_slim.pruning.graph.tagged_int import AttributeSource, DimSource, TaggedInt, untag
from yolo_slim.pruning.modules.layers import tensors_of


class Fix(NamedTuple):
    """Labels that may never be dropped, and where this was found."""

    labels: np.ndarray
    module: str
    operation: str
    reason: str


class _Mark:
    """The channels of an activation, kept on the tensor itself; a copy of the tensor carries none."""

    __slots__ = ("axes", "owner")

    def __init__(self, owner: object, axes: list[Axis | None]) -> None:
        self.owner, self.axes = owner, axes

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        return None

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()


class Tracer(TorchFunctionMode):
    """Collects how channels depend on each other while a model runs under it.

    Labels that must live and die together are collected as ``edges``; labels that may never be dropped as ``fixes``;
    sets of channels that must keep the same number as ``equal``; sizes given by a module's attribute as ``attributes``.
    Parameters and buffers keep their labels from one pass to the next, activations lose theirs.

    Args:
        names: the names of the model's modules.
    """

    def __init__(self, names: Mapping[nn.Module, str]) -> None:
        super().__init__()
        self.names = names
        self.count = 0
        self.edges: list[tuple[np.ndarray, np.ndarray]] = []
        self.fixes: list[Fix] = []
        self.equal: list[tuple[list[np.ndarray], str]] = []
        self.attributes: dict[AttributeSource, list[np.ndarray]] = defaultdict(list)
        self.used_attributes: set[AttributeSource] = set()
        self.residual: list[np.ndarray] = []
        self.ungated: list[np.ndarray] = []
        self.summed: set[tuple[int, int]] = set()
        self.not_summed: set[tuple[int, int]] = set()
        self.owned = {id(t): t for module in names for t in tensors_of(module).values()}
        self.owned_axes: dict[int, dict[int, Axis]] = {}
        self.gammas = {id(m.weight) for m in names if isinstance(m, _BatchNorm) and m.weight is not None}
        self.module: str | None = None
        self.operation = ""
        self.start_pass()

    def start_pass(self) -> None:
        """Forgets the activations of an earlier pass."""
        self._pass = object()
        self._marked: list[weakref.ref[Tensor]] = []

    # ---- labels
    def new_labels(self, size: int) -> np.ndarray:
        """Makes ``size`` labels that were not used before."""
        self.count += size
        return np.arange(self.count - size, self.count)

    def own(self, tensor: Tensor, axis: int, summed: bool = False, values_used: bool = True) -> Axis:
        """The channels along an axis of a parameter or buffer; made at the first call.

        Args:
            tensor: the parameter or buffer.
            axis: the axis.
            summed: whether an operation sums over the axis; else zeros along it make zeros.
            values_used: whether the operation uses the tensor's values at all.
        """
        if id(tensor) not in self.owned:
            raise Unsupported("its weight is computed, not a parameter")
        axes = self.owned_axes.setdefault(id(tensor), {})
        if axis not in axes:
            size = tensor.shape[axis]
            axes[axis] = Axis(self.new_labels(size), np.full(size, Zero.BY_WEIGHTS, np.int8))
        if values_used:
            (self.summed if summed else self.not_summed).add((id(tensor), axis))
        return axes[axis]

    def axes(self, tensor: Tensor, values_used: bool = True) -> list[Axis | None]:
        """The channels along every axis of a tensor, None for an axis that follows no channel."""
        mark = self._mark(tensor)
        if mark is not None:
            return list(mark.axes)
        if id(tensor) in self.owned:
            sizes = enumerate(tensor.shape)
            return [self.own(tensor, i, values_used=values_used) if size > 1 else None for i, size in sizes]
        return [None] * tensor.dim()

    def is_labelled(self, tensor: Tensor) -> bool:
        """Whether some axis of the tensor follows channels."""
        return self._mark(tensor) is not None or id(tensor) in self.owned

    def label(self, tensor: Tensor, axes: list[Axis | None]) -> None:
        """Sets the channels of an operation's result."""
        if len(axes) != tensor.dim() or any(a and len(a.labels) != n for a, n in zip(axes, tensor.shape, strict=True)):
            raise Unsupported(f"labels do not fit a result of shape {tuple(tensor.shape)}")
        if id(tensor) in self.owned:
            raise Unsupported("writes into a parameter or buffer")
        self.forget(tensor)
        if any(axis is not None for axis in axes):
            tensor._channels = _Mark(self._pass, axes)  # type: ignore[attr-defined]
            self._marked.append(weakref.ref(tensor))

    def forget(self, tensor: Tensor) -> None:
        """Removes the labels of an activation."""
        if self._mark(tensor) is not None:
            del tensor._channels  # type: ignore[attr-defined]

    def _mark(self, tensor: Tensor) -> _Mark | None:
        mark: _Mark | None = getattr(tensor, "_channels", None)
        return mark if mark is not None and mark.owner is self._pass else None

    # ---- what rules report
    def unite(self, first: Axis | None, second: Axis | None) -> None:
        """The channels at the same place of both axes live and die together."""
        if first is None or second is None:
            self.fix(first or second, "meets a tensor that follows no channel, e.g. the model's input")
        elif len(first.labels) != len(second.labels):
            raise Unsupported("couples axes of different sizes")
        elif first.labels is not second.labels:
            self.edges.append((first.labels, second.labels))

    def fix(self, axis: Axis | np.ndarray | None, reason: str) -> None:
        """The channels of this axis may never be dropped."""
        if axis is not None:
            labels = axis.labels if isinstance(axis, Axis) else axis
            self.fixes.append(Fix(labels, self._running(), self.operation, reason))

    def fix_tensors(self, values: Any, reason: str) -> None:
        """No channel of any tensor in a nest of values may be dropped."""
        for tensor in leaves(values):
            if isinstance(tensor, Tensor):
                for axis in self.axes(tensor):
                    self.fix(axis, reason)

    def consume(self, axis: Axis | None) -> None:
        """A layer sums over these channels: those that are never zero may not be dropped."""
        if axis is None or axis.zero.min(initial=Zero.BY_GAMMA) == Zero.BY_GAMMA:
            return
        never = axis.zero == Zero.NEVER
        if never.any():
            self.fix(axis.take(never), "is never zero, so it is not removable exactly")
        self.ungated.append(axis.labels[axis.zero == Zero.BY_WEIGHTS])

    def keep_equal(self, parts: list[np.ndarray]) -> None:
        """All parts must keep the same number of channels."""
        self.equal.append((parts, self._running()))

    def _running(self) -> str:
        """The name of the innermost module of the model whose code is running; hooks would slow every module down."""
        if self.module is not None:
            return self.module
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            owner = frame.f_locals.get("self")
            if isinstance(owner, nn.Module) and owner in self.names:
                return self.names[owner]
            frame = frame.f_back
        return ""

    def use(self, value: object) -> None:
        """A value may be a channel count that is used in a way that cannot be followed: then it may not change."""
        if not isinstance(value, TaggedInt):
            return
        for source in value.sources:
            if isinstance(source, DimSource):
                self.fix(source.labels, "its size is used in arithmetic, a comparison or another tensor's shape")
            else:
                self.used_attributes.add(source)

    def use_all(self, values: Any) -> None:
        """Applies :meth:`use` to every value in a nest."""
        for value in leaves(values):
            self.use(value)

    def size_axis(self, size: object, axis: Axis | None) -> None:
        """An axis is given its size by a value: it may only shrink where the value shrinks with it."""
        if axis is None or not isinstance(size, TaggedInt) or not size.exact:
            self.use(size)
            self.fix(axis, f"its size is written as {size}")
            return
        source = size.sources[0]
        if isinstance(source, AttributeSource):
            self.attributes[source].append(axis.labels)
        elif source.labels is not axis.labels:
            self.keep_equal([source.labels, axis.labels])

    # ---- the mode
    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        name = operation_name(func)
        with torch._C._DisableTorchDispatch():  # what is called in here is not hidden
            result = self._run(func, name, tuple([untag(a) for a in args]), {k: untag(v) for k, v in kwargs.items()})
        if name in NEUTRAL:
            return result
        tensors = tensors_in(args) + tensors_in(kwargs)
        if any(torch._C._functorch.is_functorch_wrapped_tensor(t) for t in tensors):
            self.operation = name
            self.fix_tensors(
                [_unwrapped(t) for t in tensors], "is used under torch.vmap or another torch.func transform"
            )
            self.use_all((args, kwargs))
            return result
        self.operation = name
        if name not in SIZED and not any(self.is_labelled(t) for t in tensors):
            self.use_all((args, kwargs))
            return result
        if name in ("shape", "size"):
            return self._tag_sizes(args[0], result, *args[1:], **kwargs)
        rule = RULES.get(name)
        written = tensors[0] if name == "setitem" else next((t for t in tensors if t is result), None)
        before = None if written is None else self.axes(written, values_used=False)
        try:
            if rule is None:
                raise Unsupported("no rule for this operation")
            if kwargs.get("out") is not None:
                raise Unsupported("writes into out=")
            rule(self, Call(name, args, kwargs, result))
        except (Unsupported, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            self.fix_tensors(tensors, str(error) or type(error).__name__)
            self.use_all((args, kwargs))
            for tensor in leaves(result):
                if isinstance(tensor, Tensor):
                    self.forget(tensor)
        if written is not None and before is not None:
            self._update_views(written, before)
        return result

    def _update_views(self, tensor: Tensor, before: list[Axis | None]) -> None:
        """What an operation wrote into a tensor is seen through the other activations that share its memory."""
        pairs = list(zip(before, self.axes(tensor, values_used=False), strict=False))
        same = len(before) == tensor.dim() and all(a is b or (a and b and a.labels is b.labels) for a, b in pairs)
        lowest = [b.zero.min(initial=Zero.BY_GAMMA) for a, b in pairs if a and b and (b.zero < a.zero).any()]
        if same and not lowest:
            return
        memory = tensor.untyped_storage().data_ptr()
        for other in {id(t): t for reference in self._marked if (t := reference()) is not None}.values():
            mark = self._mark(other)
            if mark is not None and other is not tensor and other.untyped_storage().data_ptr() == memory:
                if not same:
                    self.fix_tensors([other], "is overwritten through another view of its memory")
                zero = min(lowest, default=Zero.BY_GAMMA)
                mark.axes = [a and a.with_zero(np.minimum(a.zero, zero)) for a in mark.axes]

    @staticmethod
    def _run(func: Any, name: str, args: tuple, kwargs: dict[str, Any]) -> Any:
        if name in STAND_INS:
            with contextlib.suppress(Unsupported):
                result = stand_in(func, Call(name, args, kwargs, None))
                if result is not None:
                    return result
        return func(*args, **kwargs)

    def _tag_sizes(self, tensor: Tensor, result: Any, dim: int | None = None) -> Any:
        def tag(size: int, axis: Axis | None) -> int:
            return size if axis is None else TaggedInt(size, (DimSource(axis.labels),), self.use)

        axes = self.axes(tensor, values_used=False)
        if dim is not None:
            return tag(result, axes[dim])
        return torch.Size([tag(size, axis) for size, axis in zip(result, axes, strict=True)])


def _unwrapped(tensor: Tensor) -> Tensor:
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor
