"""How reshapes carry channels: axes that are kept, merged or taken apart."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from yolo_slim.pruning.graph.axes import Axes, Axis, Call, Unsupported
from yolo_slim.pruning.graph.ledger import Ledger
from yolo_slim.pruning.graph.tagged_int import DimSource, TaggedInt, untag


def flatten(ledger: Ledger, call: Call) -> None:
    """Merges neighbouring axes."""
    rank = call.input.dim()
    first, last = call.get(1, "start_dim", default=0) % rank, call.get(2, "end_dim", default=-1) % rank
    _reshape(ledger, call, [-1] * (rank - (last - first)))


def view(ledger: Ledger, call: Call) -> None:
    """Reads the same elements with another shape."""
    sizes = call.rest(1, "shape", "size")
    if not all(isinstance(size, int) for size in sizes):
        raise Unsupported("reads the elements as another type")
    _reshape(ledger, call, sizes)


def _reshape(ledger: Ledger, call: Call, sizes: list[Any]) -> None:
    """Matches runs of old axes with runs of new axes of the same number of elements.

    A run with one labelled axis keeps it where it is the only axis larger than 1, and repeats its labels where it is
    merged with others. Where it is taken apart and one of the new sizes can shrink with it, as in
    ``view(b, heads, -1, h, w)``, the channels at the same place of every other new axis are coupled.
    """
    x, result = call.input, call.result
    axes: Axes = ledger.axes(x)
    out: Axes = [None] * result.dim()
    sized = set()
    for old, new in _runs(list(map(int, x.shape)), list(map(int, result.shape))):
        labelled = [i for i in old if axes[i] is not None]
        if not labelled:
            continue
        large = [j for j in new if result.shape[j] != 1]
        target = large[0] if len(large) == 1 else new[0] if not large and new else None
        whole = target is not None
        if len(labelled) == 1 and not whole:
            target = _free(sizes, [int(result.shape[j]) for j in new], new, axes[labelled[0]])
        if len(labelled) > 1 or target is None:
            for i in labelled:
                ledger.fix(axes[i], "is taken apart or merged with other channels by a reshape")
            continue
        axis = axes[labelled[0]]
        assert axis is not None
        shape = [1] * len(old)
        shape[old.index(labelled[0])] = -1
        merged = np.broadcast_to(np.arange(len(axis.labels)).reshape(shape), [x.shape[i] for i in old]).reshape(-1)
        rows = np.moveaxis(merged.reshape([result.shape[j] for j in new]), new.index(target), -1)
        rows = rows.reshape(-1, result.shape[target])
        parts = [axis] if len(merged) == len(axis.labels) and len(rows) == 1 else [axis.take(row) for row in rows]
        for part in parts[1:]:
            ledger.unite(parts[0], part)
        out[target] = parts[0].with_zero(np.minimum.reduce([part.zero for part in parts]))
        sized.add(target)
        size = sizes[target]
        if untag(size) != -1 and (whole or size.exact or size.counted):
            ledger.size_axis(size, out[target])
    ledger.use_all([size for j, size in enumerate(sizes) if j not in sized])
    ledger.label(result, out)


def _free(sizes: list[Any], shape: list[int], new: list[int], axis: Axis | None) -> int | None:
    """The one new axis whose size shrinks with the channels.

    It is -1, a sum of attributes (which cut it later), an attribute, or their number over the other sizes.
    """
    inferred = [j for j in new if untag(sizes[j]) == -1]
    sums = [j for j in new if isinstance(sizes[j], TaggedInt) and not sizes[j].exact and sizes[j].counted]
    free = inferred or sums
    for j, length in zip(new if not free else [], shape, strict=False):
        size = sizes[j]
        if isinstance(size, TaggedInt) and size.exact:
            free.append(j)
        elif isinstance(size, TaggedInt) and size.divisor > 1:
            source = size.sources[0]
            own = isinstance(source, DimSource) and axis is not None and np.array_equal(source.labels, axis.labels)
            if own and size.divisor * length == math.prod(shape):
                free.append(j)
    return free[0] if len(free) == 1 and shape[new.index(free[0])] > 1 else None


def _runs(old: list[int], new: list[int]) -> list[tuple[list[int], list[int]]]:
    """Splits two shapes with the same number of elements into the shortest runs of axes with equal products."""
    runs, i, j = [], 0, 0
    while i < len(old) or j < len(new):
        start_i, start_j = i, j
        size_i, i = (old[i], i + 1) if i < len(old) else (1, i)
        size_j, j = (new[j], j + 1) if j < len(new) else (1, j)
        while size_i != size_j:
            if size_i < size_j:
                size_i, i = size_i * old[i], i + 1
            else:
                size_j, j = size_j * new[j], j + 1
        runs.append((list(range(start_i, i)), list(range(start_j, j))))
    return runs
