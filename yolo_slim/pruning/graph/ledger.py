"""What is written down about channels while a model runs: which of them live and die together, and which must stay."""

from __future__ import annotations

import weakref
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn

from yolo_slim.pruning.graph.axes import Axes, Axis, Unsupported, Zero, leaves
from yolo_slim.pruning.graph.tagged_int import AttributeSource, DimSource, TaggedInt
from yolo_slim.pruning.modules.layers import tensors_of
from yolo_slim.pruning.modules.torch_private import BatchNorm


class Place(NamedTuple):
    """Where something was found out about channels: the name of a module, and an operation in it."""

    module: str
    operation: str


class Fix(NamedTuple):
    """Labels that may never be dropped, int64 (n,), where that was found, and why."""

    labels: np.ndarray
    at: Place
    reason: str


class _Mark:
    """The channels of an activation, kept on the tensor itself; a copy of the tensor carries none."""

    __slots__ = ("axes", "owner")

    def __init__(self, owner: object, axes: Axes) -> None:
        self.owner, self.axes = owner, axes

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        return None

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()


class Ledger:
    """One label per channel of every tensor, and what the rules of the operations report about labels.

    Labels that must live and die together are collected as ``edges``; labels that may never be dropped as ``fixes``;
    sets of channels that must keep the same number as ``equal``; sizes given by a module's attribute as ``attributes``.
    Parameters and buffers keep their labels from one pass to the next, activations lose theirs.

    Args:
        names: The names of the model's modules.
        here: Says where the model is at; asked when a rule reports something.

    Attributes:
        count: Number of labels so far.
        edges: Pairs of int64 arrays of the same length; the labels at the same place are coupled.
        fixes: Labels that may never be dropped.
        equal: Lists of int64 arrays that must keep the same number of labels, and the module that asks for it.
        attributes: Integer attribute of a module -> the labels that it counts.
        used_attributes: Attributes that are also used in a way that cannot be followed.
        sums: Labels whose number is a sum of attributes, how often each attribute is in it, and where.
        residual: Labels that pass through an addition of two feature maps.
        ungated: Labels that zero gammas and betas do not make zero.
        summed: (id of a parameter, axis) of the axes that an operation sums over.
        not_summed: The same of those that it does not.
        owned: Parameters and buffers of the model by their ``id()``.
        owned_axes: Id of a parameter or buffer -> axis -> its channels.
        gammas: ``id()`` of the gammas of BatchNorm layers.
    """

    def __init__(self, names: Mapping[nn.Module, str], here: Callable[[], Place]) -> None:
        self._here = here
        self.count = 0
        self.edges: list[tuple[np.ndarray, np.ndarray]] = []
        self.fixes: list[Fix] = []
        self.equal: list[tuple[list[np.ndarray], str]] = []
        self.attributes: dict[AttributeSource, list[np.ndarray]] = defaultdict(list)
        self.used_attributes: set[AttributeSource] = set()
        self.sums: list[tuple[np.ndarray, Counter[AttributeSource], Place]] = []
        self.residual: list[np.ndarray] = []
        self.ungated: list[np.ndarray] = []
        self.summed: set[tuple[int, int]] = set()
        self.not_summed: set[tuple[int, int]] = set()
        self.owned = {id(t): t for module in names for t in tensors_of(module).values()}
        self.owned_axes: dict[int, dict[int, Axis]] = {}
        self.gammas = {id(m.weight) for m in names if isinstance(m, BatchNorm) and m.weight is not None}
        self.start_pass()

    def start_pass(self) -> None:
        """Forgets the activations of an earlier pass."""
        self._pass = object()
        self._marked: list[weakref.ref[Tensor]] = []

    # Labels of tensors

    def new_labels(self, size: int) -> np.ndarray:
        """Makes ``size`` labels that were not used before."""
        self.count += size
        return np.arange(self.count - size, self.count)

    def own(self, tensor: Tensor, axis: int, summed: bool = False, values_used: bool = True) -> Axis:
        """The channels along an axis of a parameter or buffer; made at the first call.

        Args:
            tensor: The parameter or buffer.
            axis: The axis.
            summed: Whether an operation sums over the axis; else zeros along it make zeros.
            values_used: Whether the operation uses the tensor's values at all.
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

    def axes(self, tensor: Tensor, values_used: bool = True) -> Axes:
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

    def label(self, tensor: Tensor, axes: Axes) -> None:
        """Sets the channels of an operation's result."""
        if len(axes) != tensor.dim() or any(a and len(a.labels) != n for a, n in zip(axes, tensor.shape, strict=True)):
            raise Unsupported(f"labels do not fit a result of shape {tuple(tensor.shape)}")
        if id(tensor) in self.owned:
            raise Unsupported("writes into a parameter or buffer")
        self.forget(tensor)
        if any(axis is not None for axis in axes):
            tensor.yolo_slim_axes = _Mark(self._pass, axes)  # type: ignore[attr-defined]
            self._marked.append(weakref.ref(tensor))

    def forget(self, tensor: Tensor) -> None:
        """Removes the labels of an activation."""
        if self._mark(tensor) is not None:
            del tensor.yolo_slim_axes  # type: ignore[attr-defined]

    def _mark(self, tensor: Tensor) -> _Mark | None:
        mark: _Mark | None = getattr(tensor, "yolo_slim_axes", None)
        return mark if mark is not None and mark.owner is self._pass else None

    def written_into(self, tensor: Tensor, before: Axes) -> None:
        """Takes notice that an operation wrote into a tensor: other activations that share its memory show it too.

        Args:
            tensor: What was written into, with its new labels.
            before: Its channels before.
        """
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

    # What rules report

    def unite(self, first: Axis | None, second: Axis | None) -> None:
        """Couples the channels at the same place of both axes: they live and die together."""
        if first is None or second is None:
            self.fix(first or second, "meets a tensor that follows no channel, e.g. the model's input")
        elif len(first.labels) != len(second.labels):
            raise Unsupported("couples axes of different sizes")
        elif first.labels is not second.labels:
            self.edges.append((first.labels, second.labels))

    def fix(self, axis: Axis | np.ndarray | None, reason: str, at: Place | None = None) -> None:
        """Keeps the channels of an axis from ever being dropped.

        Args:
            axis: The channels, or their labels; None for none.
            reason: Why they stay, as the end of a sentence about them.
            at: Where that was found; by default where the model is at.
        """
        if axis is not None:
            labels = axis.labels if isinstance(axis, Axis) else axis
            self.fixes.append(Fix(labels, self._here() if at is None else at, reason))

    def fix_tensors(self, values: object, reason: str, at: Place | None = None) -> None:
        """Applies :meth:`fix` to all channels of every tensor in a nest of values."""
        for tensor in leaves(values):
            if isinstance(tensor, Tensor):
                for axis in self.axes(tensor):
                    self.fix(axis, reason, at)

    def consume(self, axis: Axis | None) -> None:
        """Takes notice that a layer sums over these channels: those that are never zero may not be dropped."""
        if axis is None or axis.zero.min(initial=Zero.BY_GAMMA) == Zero.BY_GAMMA:
            return
        never = axis.zero == Zero.NEVER
        if never.any():
            self.fix(axis.take(never), "is never zero, so it is not removable exactly")
        self.ungated.append(axis.labels[axis.zero == Zero.BY_WEIGHTS])

    def keep_equal(self, parts: list[np.ndarray]) -> None:
        """Has all parts, int64 arrays of labels, keep the same number of channels."""
        self.equal.append((parts, self._here().module))

    def use(self, value: object) -> None:
        """Takes notice of a value that may be a channel count, used in a way that cannot be followed: it must stay."""
        if not isinstance(value, TaggedInt):
            return
        for source in value.sources:
            if isinstance(source, DimSource):
                self.fix(source.labels, "its size is used in arithmetic, a comparison or another tensor's shape")
            else:
                self.used_attributes.add(source)

    def use_all(self, values: object) -> None:
        """Applies :meth:`use` to every value in a nest."""
        for value in leaves(values):
            self.use(value)

    def size_axis(self, size: object, axis: Axis | None) -> None:
        """Takes notice that an axis gets its size from a value: it may only shrink where the value shrinks with it."""
        if axis is not None and isinstance(size, TaggedInt) and not size.exact and size.counted:
            self.sums.append((axis.labels, size.counted, self._here()))
            return
        if axis is None or not isinstance(size, TaggedInt) or not size.exact:
            self.use(size)
            self.fix(axis, f"its size is written as {size}")
            return
        source = size.sources[0]
        if isinstance(source, AttributeSource):
            self.attributes[source].append(axis.labels)
        elif source.labels is not axis.labels:
            self.keep_equal([source.labels, axis.labels])
