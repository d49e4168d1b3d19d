"""How operations that join, cut, pad and reshape tensors carry channels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from yolo_slim.pruning.graph.axes import Axes, Axis, Call, Unsupported, Zero
from yolo_slim.pruning.graph.ledger import Ledger
from yolo_slim.pruning.graph.rules.reshape import flatten, view
from yolo_slim.pruning.graph.tagged_int import AttributeSource, DimSource, TaggedInt, untag


def cat(ledger: Ledger, call: Call) -> None:
    """Joins the channels along its axis and couples them along the others."""
    dim = call.get(1, "dim", "axis", default=0) % call.result.dim()
    parts = [t for t in call.get(0, "tensors") if t.dim() == call.result.dim()]
    axes = [ledger.axes(t) for t in parts]
    out: Axes = [_coupled(ledger, [a[i] for a in axes]) if i != dim else None for i in range(call.result.dim())]
    if any(a[dim] is not None for a in axes):
        known = [a[dim] or _anonymous(ledger, t.shape[dim]) for t, a in zip(parts, axes, strict=True)]
        out[dim] = Axis(np.concatenate([a.labels for a in known]), np.concatenate([a.zero for a in known]))
    ledger.label(call.result, out)


def stack(ledger: Ledger, call: Call) -> None:
    """Couples the channels of all tensors."""
    dim = call.get(1, "dim", default=0) % call.result.dim()
    axes = [ledger.axes(t) for t in call.get(0, "tensors")]
    out: Axes = [_coupled(ledger, list(meeting)) for meeting in zip(*axes, strict=True)]
    ledger.label(call.result, out[:dim] + [None] + out[dim:])


def chunk(ledger: Ledger, call: Call) -> None:
    """Cuts an axis into equal parts, which must stay equal."""
    count, dim = call.get(1, "chunks"), call.get(2, "dim", default=0) % call.input.dim()
    parts = _cut(ledger, call, dim)
    if parts and (len({len(p.labels) for p in parts}) > 1 or len(parts) != untag(count)):
        for part in parts:
            ledger.fix(part, "is cut into unequal chunks")
    elif len(parts) > 1:
        ledger.use(count)
        ledger.keep_equal([p.labels for p in parts])


def split(ledger: Ledger, call: Call) -> None:
    """Cuts an axis at given sizes: sizes given by attributes or shapes may shrink with their part."""
    sizes = call.get(1, "split_size_or_sections", "split_size", "split_sizes")
    dim = call.get(2, "dim", default=0) % call.input.dim()
    parts = _cut(ledger, call, dim)
    if not parts:
        ledger.use_all(sizes)
    elif isinstance(sizes, (tuple, list)):
        for size, part in zip(sizes, parts, strict=True):
            ledger.size_axis(size, part)
    else:
        # One size for all parts: the number of parts must not change with it.
        follows = isinstance(sizes, TaggedInt) and sizes.exact and isinstance(sizes.sources[0], AttributeSource)
        if follows and all(len(p.labels) == untag(sizes) for p in parts):
            for part in parts:
                ledger.size_axis(sizes, part)
        else:
            ledger.use(sizes)
            for part in parts:
                ledger.fix(part, f"is split into parts of {sizes}")


def getitem(ledger: Ledger, call: Call) -> None:
    """Passes whole axes on; channels that are picked by number are fixed."""
    x, index = call.input, call.get(1, "index")
    index = index if isinstance(index, tuple) else (index,)
    if any(not (i is None or i is Ellipsis or type(i) in (int, slice, TaggedInt)) for i in index):
        raise Unsupported("indexed by a tensor or a list")
    unnamed = x.dim() - sum(i is not None and i is not Ellipsis for i in index)
    place = next((n for n, i in enumerate(index) if i is Ellipsis), len(index))
    index = (*index[:place], *[slice(None)] * unnamed, *index[place + 1 :])
    axes, out = iter(ledger.axes(x)), []
    ledger.use_all(index)
    for i in index:
        axis = None if i is None else next(axes)
        if isinstance(i, slice):
            if axis is not None and untag(i) not in (slice(None), slice(0, None)):
                ledger.fix(axis, "is sliced at written positions")
                axis = axis.take(untag(i))
            out.append(axis)
        elif i is None:
            out.append(None)
        else:
            ledger.fix(axis, "is indexed by number")
    ledger.label(call.result, out)


def expand(ledger: Ledger, call: Call) -> None:
    """Repeats axes of size 1."""
    x, sizes = call.input, call.rest(1, "size")
    out: Axes = [None] * (call.result.dim() - x.dim())
    for axis, size, old in zip(ledger.axes(x), sizes[len(out) :], x.shape, strict=True):
        grows = axis is not None and untag(size) not in (-1, old)
        if grows:
            ledger.fix(axis, "a single channel that is expanded")
        elif untag(size) != -1:
            ledger.size_axis(size, axis)
        out.append(None if grows else axis)
    ledger.use_all(sizes[: len(sizes) - x.dim()])
    ledger.label(call.result, out)


def like(ledger: Ledger, call: Call) -> None:
    """``expand_as``, ``view_as`` and ``reshape_as``: the sizes are those of another tensor."""
    other = call.get(1, "other")
    sizes = [
        size if axis is None else TaggedInt(size, (DimSource(axis.labels),), ledger.use)
        for size, axis in zip(other.shape, ledger.axes(other, values_used=False), strict=True)
    ]
    (expand if call.name == "expand_as" else view)(ledger, replace(call, args=(call.input, *sizes), kwargs={}))


def pad(ledger: Ledger, call: Call) -> None:
    """Pads the last axes; padded channels are fixed, and a value other than 0 fills masked channels."""
    amounts, value = call.get(1, "pad"), call.get(3, "value", default=None)
    ledger.use_all(amounts)
    axes = ledger.axes(call.input)
    for i in range(len(amounts) // 2):
        if (amounts[2 * i] or amounts[2 * i + 1]) and axes[-1 - i] is not None:
            ledger.fix(axes[-1 - i], "is padded")
            axes[-1 - i] = None
    ledger.label(call.result, [axis and (axis.with_zero(Zero.NEVER) if value else axis) for axis in axes])


def narrow(ledger: Ledger, call: Call) -> None:
    """Cuts a written range out of an axis."""
    dim, start, length = call.get(1, "dim"), call.get(2, "start"), call.get(3, "length")
    ledger.use_all((start, length))
    axes = ledger.axes(call.input)
    axis = axes[dim]
    if axis is not None:
        ledger.fix(axis, "is sliced at written positions")
        axes[dim] = axis.take(slice(untag(start), untag(start) + untag(length)))
    ledger.label(call.result, axes)


def unbind(ledger: Ledger, call: Call) -> None:
    """Takes an axis apart."""
    axes = ledger.axes(call.input)
    dim = call.get(1, "dim", default=0) % len(axes)
    ledger.fix(axes.pop(dim), "is taken apart by unbind")
    for part in call.result:
        ledger.label(part, axes)


def length(ledger: Ledger, call: Call) -> None:
    """``len(x)``: the size of the first axis."""
    ledger.fix(ledger.axes(call.input)[0], "is counted by len()")


def _coupled(ledger: Ledger, meeting: Axes) -> Axis | None:
    """Couples axes that are laid beside each other."""
    known = [axis for axis in meeting if axis is not None]
    if not known:
        return None
    for other in known[1:]:
        ledger.unite(known[0], other)
    if len(known) < len(meeting):
        ledger.fix(known[0], "is laid beside a tensor that follows no channel")
    return known[0].with_zero(np.minimum.reduce([axis.zero for axis in known]))


def _anonymous(ledger: Ledger, size: int) -> Axis:
    labels = ledger.new_labels(size)
    ledger.fix(labels, "belongs to a tensor that follows no channel, e.g. the model's input")
    return Axis(labels, np.full(size, Zero.NEVER, np.int8))


def _cut(ledger: Ledger, call: Call, dim: int) -> list[Axis]:
    """Labels the parts of an axis that was cut; empty where the axis follows no channel."""
    axes, parts, start = ledger.axes(call.input), [], 0
    whole = axes[dim]
    for tensor in call.result:
        if whole is not None:
            parts.append(whole.take(slice(start, start + tensor.shape[dim])))
            start += tensor.shape[dim]
            axes = [*axes[:dim], parts[-1], *axes[dim + 1 :]]
        ledger.label(tensor, axes)
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
