"""How operations that join, cut, pad and reshape tensors carry channels."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from yolo_slim.pruning.graph.axes import Axis, Call, Unsupported, Zero
from yolo_slim.pruning.graph.rules.reshape import flatten, view
from yolo_slim.pruning.graph.tagged_int import AttributeSource, DimSource, TaggedInt, untag

if TYPE_CHECKING:
    from yolo_slim.pruning.graph.tracer import Tracer

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
    if parts and (len({len(p.labels) for p in parts}) > 1 or len(parts) != untag(count)):
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
        if follows and all(len(p.labels) == untag(sizes) for p in parts):
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


def like(tracer: Tracer, call: Call) -> None:
    """``expand_as``, ``view_as`` and ``reshape_as``: the sizes are those of another tensor."""
    other = call.get(1, "other")
    sizes = [
        size if axis is None else TaggedInt(size, (DimSource(axis.labels),), tracer.use)
        for size, axis in zip(other.shape, tracer.axes(other, values_used=False), strict=True)
    ]
    (expand if call.name == "expand_as" else view)(tracer, replace(call, args=(call.input, *sizes), kwargs={}))


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
        axes[dim] = axis.take(slice(untag(start), untag(start) + untag(length)))
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


SHAPES = {
    **dict.fromkeys(("cat", "concat", "concatenate"), cat),
    "stack": stack,
    "chunk": chunk,
    **dict.fromkeys(("split", "split_with_sizes"), split),
    "getitem": getitem,
    **dict.fromkeys(("expand_as", "view_as", "reshape_as"), like),
    "flatten": flatten,
    **dict.fromkeys(("view", "reshape"), view),
    "expand": expand,
    "pad": pad,
    "narrow": narrow,
    "unbind": unbind,
    "len": length,
}
