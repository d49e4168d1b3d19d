"""How operations that join, cut and rearrange tensors carry channels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from yolo_slim.pruning.labels import Axis, Call, Unsupported, Zero
from yolo_slim.pruning.tagged_int import AttributeSource, TaggedInt, untag

if TYPE_CHECKING:
    from yolo_slim.pruning.tracer import Tracer

Axes = list[Axis | None]


def cat(tracer: Tracer, call: Call) -> None:
    """Joins the channels along its axis and couples them along the others."""
    dim = call.get(1, "dim", "axis", default=0) % call.result.dim()
    parts = [t for t in call.get(0, "tensors") if t.dim() == call.result.dim()]
    axes = [tracer.axes(t) for t in parts]
    out: Axes = [_coupled(tracer, [a[i] for a in axes]) if i != dim else None for i in range(call.result.dim())]
    if any(a[dim] is not None for a in axes):
        known = [a[dim] or _anonymous(tracer, t.shape[dim]) for t, a in zip(parts, axes, strict=True)]
        out[dim] = Axis(np.concatenate([a.labels for a in known]), np.concatenate([a.zero for a in known]))
    tracer.label(call.result, out)


def stack(tracer: Tracer, call: Call) -> None:
    """Couples the channels of all tensors."""
    dim = call.get(1, "dim", default=0) % call.result.dim()
    axes = [tracer.axes(t) for t in call.get(0, "tensors")]
    out: Axes = [_coupled(tracer, list(meeting)) for meeting in zip(*axes, strict=True)]
    tracer.label(call.result, out[:dim] + [None] + out[dim:])


def chunk(tracer: Tracer, call: Call) -> None:
    """Cuts an axis into equal parts, which must stay equal."""
    count, dim = call.get(1, "chunks"), call.get(2, "dim", default=0) % call.input.dim()
    parts = _cut(tracer, call, dim)
    if parts and (len({len(p.labels) for p in parts}) > 1 or len(parts) != int(count)):
        for part in parts:
            tracer.fix(part, "is cut into unequal chunks")
    elif len(parts) > 1:
        tracer.use(count)
        tracer.keep_equal([p.labels for p in parts])


def split(tracer: Tracer, call: Call) -> None:
    """Cuts an axis at given sizes: sizes given by attributes or shapes may shrink with their part."""
    sizes = call.get(1, "split_size_or_sections", "split_size", "split_sizes")
    dim = call.get(2, "dim", default=0) % call.input.dim()
    parts = _cut(tracer, call, dim)
    if not parts:
        tracer.use_all(sizes)
    elif isinstance(sizes, (tuple, list)):
        for size, part in zip(sizes, parts, strict=True):
            tracer.size_axis(size, part)
    else:
        # One size for all parts: the number of parts must not change with it.
        follows = isinstance(sizes, TaggedInt) and sizes.exact and isinstance(sizes.sources[0], AttributeSource)
        if follows and all(len(p.labels) == int(sizes) for p in parts):
            for part in parts:
                tracer.size_axis(sizes, part)
        else:
            tracer.use(sizes)
            for part in parts:
                tracer.fix(part, f"is split into parts of {sizes}")


def getitem(tracer: Tracer, call: Call) -> None:
    """Passes whole axes on; channels that are picked by number are fixed."""
    x, index = call.input, call.get(1, "index")
    index = index if isinstance(index, tuple) else (index,)
    if any(not (i is None or i is Ellipsis or type(i) in (int, slice, TaggedInt)) for i in index):
        raise Unsupported("indexed by a tensor or a list")
    given = x.dim() - sum(i is not None and i is not Ellipsis for i in index)
    place = next((n for n, i in enumerate(index) if i is Ellipsis), len(index))
    index = (*index[:place], *[slice(None)] * given, *index[place + 1 :])
    axes, out = iter(tracer.axes(x)), []
    tracer.use_all(index)
    for i in index:
        axis = None if i is None else next(axes)
        if isinstance(i, slice):
            if axis is not None and untag(i) not in (slice(None), slice(0, None)):
                tracer.fix(axis, "is sliced at written positions")
                axis = axis.take(untag(i))
            out.append(axis)
        elif i is None:
            out.append(None)
        else:
            tracer.fix(axis, "is indexed by number")
    tracer.label(call.result, out)


def permute(tracer: Tracer, call: Call) -> None:
    """Reorders the axes."""
    axes = tracer.axes(call.input)
    tracer.label(call.result, [axes[d] for d in call.rest(1, "dims")])


def transpose(tracer: Tracer, call: Call) -> None:
    """Swaps two axes, by default the last two."""
    axes = tracer.axes(call.input)
    first, second = call.get(1, "dim0", "axis0", default=-1), call.get(2, "dim1", "axis1", default=-2)
    axes[first], axes[second] = axes[second], axes[first]
    tracer.label(call.result, axes)


def unsqueeze(tracer: Tracer, call: Call) -> None:
    """Adds an axis."""
    axes = tracer.axes(call.input)
    axes.insert(call.get(1, "dim") % call.result.dim(), None)
    tracer.label(call.result, axes)


def squeeze(tracer: Tracer, call: Call) -> None:
    """Removes axes of size 1; without a ``dim`` another axis that shrinks to 1 would vanish too."""
    x, dim = call.input, call.get(1, "dim", default=None)
    dims = range(x.dim()) if dim is None else dim if isinstance(dim, (tuple, list)) else [dim]
    gone = {d % x.dim() for d in dims if x.shape[d] == 1}
    axes = tracer.axes(x)
    for d in range(x.dim()) if dim is None else gone:
        tracer.fix(axes[d], "would vanish in squeeze() at size 1")
    tracer.label(call.result, [axis for i, axis in enumerate(axes) if i not in gone])


def flatten(tracer: Tracer, call: Call) -> None:
    """Merges neighbouring axes."""
    rank = call.input.dim()
    first, last = call.get(1, "start_dim", default=0) % rank, call.get(2, "end_dim", default=-1) % rank
    _reshape(tracer, call, [-1] * (rank - (last - first)))


def view(tracer: Tracer, call: Call) -> None:
    """Reads the same elements with another shape."""
    sizes = call.rest(1, "shape", "size")
    if not all(isinstance(size, int) for size in sizes):
        raise Unsupported("reads the elements as another type")
    _reshape(tracer, call, sizes)


def expand(tracer: Tracer, call: Call) -> None:
    """Repeats axes of size 1."""
    x, sizes = call.input, call.rest(1, "size")
    out: Axes = [None] * (call.result.dim() - x.dim())
    for axis, size, old in zip(tracer.axes(x), sizes[len(out) :], x.shape, strict=True):
        grows = axis is not None and untag(size) not in (-1, old)
        if grows:
            tracer.fix(axis, "a single channel that is expanded")
        elif untag(size) != -1:
            tracer.size_axis(size, axis)
        out.append(None if grows else axis)
    tracer.use_all(sizes[: len(sizes) - x.dim()])
    tracer.label(call.result, out)


def pad(tracer: Tracer, call: Call) -> None:
    """Pads the last axes; padded channels are fixed, and a value other than 0 fills masked channels."""
    amounts, value = call.get(1, "pad"), call.get(3, "value", default=None)
    tracer.use_all(amounts)
    axes = tracer.axes(call.input)
    for i in range(len(amounts) // 2):
        if (amounts[2 * i] or amounts[2 * i + 1]) and axes[-1 - i] is not None:
            tracer.fix(axes[-1 - i], "is padded")
            axes[-1 - i] = None
    tracer.label(call.result, [axis and (axis.with_zero(Zero.NEVER) if value else axis) for axis in axes])


def narrow(tracer: Tracer, call: Call) -> None:
    """Cuts a written range out of an axis."""
    dim, start, length = call.get(1, "dim"), call.get(2, "start"), call.get(3, "length")
    tracer.use_all((start, length))
    axes = tracer.axes(call.input)
    axis = axes[dim]
    if axis is not None:
        tracer.fix(axis, "is sliced at written positions")
        axes[dim] = axis.take(slice(int(start), int(start) + int(length)))
    tracer.label(call.result, axes)


def unbind(tracer: Tracer, call: Call) -> None:
    """Takes an axis apart."""
    axes = tracer.axes(call.input)
    dim = call.get(1, "dim", default=0) % len(axes)
    tracer.fix(axes.pop(dim), "is taken apart by unbind")
    for part in call.result:
        tracer.label(part, axes)


def length(tracer: Tracer, call: Call) -> None:
    """``len(x)``: the size of the first axis."""
    tracer.fix(tracer.axes(call.input)[0], "is counted by len()")


def _coupled(tracer: Tracer, meeting: Axes) -> Axis | None:
    """Couples axes that are laid beside each other."""
    known = [axis for axis in meeting if axis is not None]
    if not known:
        return None
    for other in known[1:]:
        tracer.unite(known[0], other)
    if len(known) < len(meeting):
        tracer.fix(known[0], "is laid beside a tensor that follows no channel")
    return known[0].with_zero(np.minimum.reduce([axis.zero for axis in known]))


def _anonymous(tracer: Tracer, size: int) -> Axis:
    labels = tracer.new_labels(size)
    tracer.fix(labels, "belongs to a tensor that follows no channel, e.g. the model's input")
    return Axis(labels, np.full(size, Zero.NEVER, np.int8))


def _cut(tracer: Tracer, call: Call, dim: int) -> list[Axis]:
    """Labels the parts of an axis that was cut; empty where the axis follows no channel."""
    axes, parts, start = tracer.axes(call.input), [], 0
    whole = axes[dim]
    for tensor in call.result:
        if whole is not None:
            parts.append(whole.take(slice(start, start + tensor.shape[dim])))
            start += tensor.shape[dim]
            axes = [*axes[:dim], parts[-1], *axes[dim + 1 :]]
        tracer.label(tensor, axes)
    return parts


def _reshape(tracer: Tracer, call: Call, sizes: list[Any]) -> None:
    """Matches runs of old axes with runs of new axes of the same number of elements.

    A run with one labelled axis keeps it where it is the only axis larger than 1, repeats its labels where it is merged
    with others, and fixes it where it is taken apart.
    """
    x, result = call.input, call.result
    axes: Axes = tracer.axes(x)
    out: Axes = [None] * result.dim()
    sized = set()
    for old, new in _runs(list(map(int, x.shape)), list(map(int, result.shape))):
        labelled = [i for i in old if axes[i] is not None]
        large = [j for j in new if result.shape[j] != 1]
        if not labelled:
            continue
        if len(labelled) > 1 or len(large) > 1 or not new:
            for i in labelled:
                tracer.fix(axes[i], "is taken apart or merged with other channels by a reshape")
            continue
        axis, target = axes[labelled[0]], large[0] if large else new[0]
        assert axis is not None
        shape = [1] * len(old)
        shape[old.index(labelled[0])] = -1
        merged = np.broadcast_to(np.arange(len(axis.labels)).reshape(shape), [x.shape[i] for i in old]).reshape(-1)
        out[target] = axis if len(merged) == len(axis.labels) else axis.take(merged)
        sized.add(target)
        if untag(sizes[target]) != -1:
            tracer.size_axis(sizes[target], out[target])
    tracer.use_all([size for j, size in enumerate(sizes) if j not in sized])
    tracer.label(result, out)


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


SHAPES = {
    **dict.fromkeys(("cat", "concat", "concatenate"), cat),
    "stack": stack,
    "chunk": chunk,
    **dict.fromkeys(("split", "split_with_sizes"), split),
    "getitem": getitem,
    "permute": permute,
    **dict.fromkeys(("transpose", "swapaxes", "swapdims", "t", "T", "mT"), transpose),
    "unsqueeze": unsqueeze,
    "squeeze": squeeze,
    "flatten": flatten,
    **dict.fromkeys(("view", "reshape"), view),
    "expand": expand,
    "pad": pad,
    "narrow": narrow,
    "unbind": unbind,
    "len": length,
}
