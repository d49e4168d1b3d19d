"""Integers that remember the channel axis or the module attribute they were read from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor
from torch.nn import Parameter


@dataclass(frozen=True, eq=False)
class DimSource:
    """A size read from a labelled axis, as in ``x.shape[1]``."""

    labels: np.ndarray


class AttributeSource(NamedTuple):
    """An integer attribute of a module, as in ``self.c``; ``place`` is where in a list attribute."""

    module: str
    name: str
    place: int | None


Source = DimSource | AttributeSource


class TaggedInt(int):
    """An ``int`` with the sources of its value.

    A plain tag (``exact``) used as a size may shrink together with the axis it sizes. Sums and products keep the
    sources but are no longer exact; a plain tag over a plain number that divides it keeps the number as ``divisor``,
    and a sum of attributes, as in ``2 * self.key + self.value``, how often each of them is in it, as ``counted``.
    A comparison of a plain tag with a plain number counts only if a smaller size could change its outcome: whether
    there is any channel (``n == 0``) is settled. Whatever else is done with the value (another comparison, a division)
    could take another course after pruning, so it is reported to ``on_use``.

    An ``int`` cannot notice all that C code does with it: a float on the left (``1.0 / n``), ``range(n)``,
    ``math.log(n)``, numpy and texts read the value unseen.
    """

    sources: tuple[Source, ...]
    exact: bool
    divisor: int
    counted: Counter[AttributeSource]
    on_use: Callable[[TaggedInt], None]

    def __new__(
        cls,
        value: int,
        sources: tuple[Source, ...],
        on_use: Callable[[TaggedInt], None],
        exact: bool = True,
        divisor: int = 1,
        counted: Counter[AttributeSource] | None = None,
    ) -> TaggedInt:
        """Tags ``value``."""
        tagged = super().__new__(cls, value)
        tagged.sources, tagged.exact, tagged.divisor, tagged.on_use = sources, exact, divisor, on_use
        if counted is None and exact and isinstance(sources[0], AttributeSource):
            counted = Counter({sources[0]: 1})
        tagged.counted = Counter() if counted is None else counted
        return tagged

    def use(self, other: object = None) -> None:
        """Reports this tag, and ``other`` where it is one, as used for something that cannot be followed."""
        for value in (self, other):
            if isinstance(value, TaggedInt):
                value.on_use(value)

    def derive(self, value: object, other: object) -> Any:
        """Tags the result of an integer operation with the sources of both operands."""
        if not isinstance(value, int):
            self.use(other)
            return value
        return TaggedInt(value, self.sources + getattr(other, "sources", ()), self.on_use, exact=False)

    def __eq__(self, other: object) -> bool:
        same = isinstance(other, TaggedInt) and self.exact and other.exact and _same(self.sources[0], other.sources[0])
        if not same and not _settled(self, "eq", other):
            self.use(other)
        return int.__eq__(self, other)  # type: ignore[operator]

    def __ne__(self, other: object) -> bool:
        result = self.__eq__(other)
        return result if result is NotImplemented else not result

    def __hash__(self) -> int:
        self.use()
        return int.__hash__(self)

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        return int, (untag(self),)

    def __copy__(self) -> int:
        return untag(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> int:
        return untag(self)


def _same(first: Source, second: Source) -> bool:
    if isinstance(first, DimSource) and isinstance(second, DimSource):
        return np.array_equal(first.labels, second.labels)
    return first == second


def _followed(name: str) -> Callable[..., Any]:
    operation = getattr(int, name)

    def method(self: TaggedInt, *others: Any) -> Any:
        return self.derive(operation(self, *others), others[0] if others else None)

    return method


def _not_followed(name: str) -> Callable[..., Any]:
    operation = getattr(int, name)

    def method(self: TaggedInt, *others: Any) -> Any:
        self.use(others[0] if others else None)
        return operation(self, *others)

    return method


def _settled(size: TaggedInt, name: str, other: object) -> bool:
    """Whether a comparison comes out alike for every size from 1 to this one."""
    if not size.exact or type(other) is not int:
        return False
    compare = getattr(int, f"__{name}__")
    value = int.__int__(size)
    # Comparisons are monotonic; equality is settled where it holds at neither end nor in between.
    return other < 1 or other > value if name == "eq" else compare(1, other) == compare(value, other)


def _compared(name: str) -> Callable[..., Any]:
    operation = getattr(int, f"__{name}__")

    def method(self: TaggedInt, other: object) -> Any:
        if not _settled(self, name, other):
            self.use(other)
        return operation(self, other)

    return method


def _floordiv(self: TaggedInt, other: Any) -> Any:
    if self.exact and type(other) is int and other > 1 and int.__mod__(self, other) == 0:
        return TaggedInt(int.__floordiv__(self, other), self.sources, self.on_use, exact=False, divisor=other)
    return self.derive(int.__floordiv__(self, other), other)


def _add(self: TaggedInt, other: Any) -> Any:
    total = self.derive(int.__add__(self, other), other)
    if isinstance(other, TaggedInt) and self.counted and other.counted:
        total.counted = self.counted + other.counted
    return total


def _mul(self: TaggedInt, other: Any) -> Any:
    product = self.derive(int.__mul__(self, other), other)
    if type(other) is int and other > 0:
        product.counted = Counter({source: number * other for source, number in self.counted.items()})
    return product


for _name in (
    *("add", "radd", "sub", "rsub", "mul", "rmul", "rfloordiv", "mod", "rmod", "neg", "pos", "abs"),
    *("lshift", "rlshift", "rshift", "rrshift", "and", "rand", "or", "ror", "xor", "rxor", "invert"),
    *("round", "trunc", "floor", "ceil"),
):
    setattr(TaggedInt, f"__{_name}__", _followed(f"__{_name}__"))
TaggedInt.__floordiv__ = _floordiv  # type: ignore[method-assign, assignment]
TaggedInt.__add__ = _add  # type: ignore[method-assign, assignment]
TaggedInt.__mul__ = TaggedInt.__rmul__ = _mul  # type: ignore[method-assign, assignment]
for _name in ("lt", "le", "gt", "ge"):
    setattr(TaggedInt, f"__{_name}__", _compared(_name))
for _name in ("truediv", "rtruediv", "pow", "rpow", "divmod", "rdivmod", "float", "int"):
    setattr(TaggedInt, f"__{_name}__", _not_followed(f"__{_name}__"))
for _name in ("bit_length", "bit_count", "to_bytes", "as_integer_ratio", "conjugate"):
    setattr(TaggedInt, _name, _not_followed(_name))
for _name in ("real", "numerator"):
    setattr(TaggedInt, _name, property(lambda self: self))


def untag(value: Any) -> Any:
    """Removes the tags from a call's arguments (tuples, lists, sizes, slices)."""
    kind = type(value)
    if kind is Tensor or kind is Parameter or kind is int or value is None:
        return value
    if kind is TaggedInt:
        return int.__int__(value)
    if kind is slice:
        return slice(untag(value.start), untag(value.stop), untag(value.step))
    if kind is list or kind is tuple:
        return kind(untag(item) for item in value)
    if isinstance(value, tuple) and any(type(item) is TaggedInt for item in value):
        return tuple(untag(item) for item in value)
    return value
