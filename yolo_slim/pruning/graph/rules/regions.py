"""How the features of regions carry channels: they are cut out of maps and written into a tensor made for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from yolo_slim.pruning.graph.axes import Axis, Call, Unsupported, Zero
from yolo_slim.pruning.graph.tagged_int import DimSource, TaggedInt

if TYPE_CHECKING:
    from yolo_slim.pruning.graph.tracer import Tracer


def new_tensor(tracer: Tracer, call: Call) -> None:
    """Makes a tensor of one value; an axis whose size was read from channels follows them."""
    first = 1 if call.name.startswith("new_") else 0
    full = call.name.endswith("full")
    sizes = list(call.get(first, "size")) if full else call.rest(first, "size")
    others = {name: value for name, value in call.kwargs.items() if name != "size"}
    tracer.use_all((call.args[first + 1 :] if full else (), others))
    tracer.fix_tensors((call.args[first:], others), "gives its values to a new tensor")
    axes: list[Axis | None] = []
    for size in sizes:
        source = size.sources[0] if isinstance(size, TaggedInt) and size.exact else None
        if isinstance(source, DimSource):
            zero = Zero.BY_GAMMA if call.name.endswith("zeros") else Zero.NEVER
            axes.append(Axis(source.labels, np.full(len(source.labels), zero, np.int8)))
        else:
            tracer.use(size)
            axes.append(None)
    tracer.label(call.result, axes)


def setitem(tracer: Tracer, call: Call) -> None:
    """Writes at places along the first axes, given by a tensor; couples the other axes with what is written."""
    x, index, value = call.input, call.get(1, "index"), call.get(2, "value")
    if not isinstance(index, Tensor) or tracer.is_labelled(index):
        raise Unsupported("is written into at written positions")
    axes = tracer.axes(x)
    first = index.dim() if index.dtype in (torch.bool, torch.uint8) else 1
    given = tracer.axes(value) if isinstance(value, Tensor) else []
    sizes = list(value.shape) if isinstance(value, Tensor) else []
    after = len(axes) - first
    for axis in axes[:first] + given[: max(len(given) - after, 0)]:
        tracer.fix(axis, "is indexed by a tensor")
    writes_zero = not isinstance(value, Tensor) and value == 0
    for place in range(-min(after, len(axes)), 0):
        mine, theirs = axes[place], given[place] if -place <= len(given) else None
        whole = -place <= len(given) and sizes[place] == x.shape[place]
        if theirs is not None and (mine is None or not whole):
            tracer.fix(theirs, "is written into a tensor that does not follow it")
        elif mine is not None and theirs is not None:
            tracer.unite(mine, theirs)
            axes[place] = mine.with_zero(np.minimum(mine.zero, theirs.zero))
            continue
        elif mine is not None and whole:
            tracer.fix(mine, "a tensor of its size that follows no channel is written into it")
        axes[place] = mine and (mine if writes_zero else mine.with_zero(Zero.NEVER))
    tracer.label(x, axes)


def roi_align(tracer: Tracer, call: Call) -> None:
    """Passes on the channels, not the pixels."""
    tracer.use_all((call.args[1:], call.kwargs))
    tracer.fix_tensors((call.args[1:], call.kwargs), "places the regions of roi_align")
    axes = tracer.axes(call.input)
    for axis in (axes[0], *axes[2:]):
        tracer.fix(axis, "lies along the batch or a spatial axis of roi_align")
    tracer.label(call.result, [None, axes[1], None, None])


NEW_TENSORS = [f"{new}{name}" for new in ("", "new_") for name in ("zeros", "ones", "full", "empty")]
REGIONS = {**dict.fromkeys(NEW_TENSORS, new_tensor), "setitem": setitem, "torchvision.roi_align": roi_align}
