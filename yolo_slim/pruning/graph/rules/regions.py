"""How the features of regions carry channels: they are cut out of maps and written into a tensor made for them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from yolo_slim.pruning.graph.axes import Axis, Call, Unsupported, Zero
from yolo_slim.pruning.graph.ledger import Ledger
from yolo_slim.pruning.graph.tagged_int import DimSource, TaggedInt


def new_tensor(ledger: Ledger, call: Call) -> None:
    """Makes a tensor of one value; an axis whose size was read from channels follows them."""
    first = 1 if call.name.startswith("new_") else 0
    full = call.name.endswith("full")
    sizes = list(call.get(first, "size")) if full else call.rest(first, "size")
    others = {name: value for name, value in call.kwargs.items() if name != "size"}
    ledger.use_all((call.args[first + 1 :] if full else (), others))
    ledger.fix_tensors((call.args[first:], others), "gives its values to a new tensor")
    axes: list[Axis | None] = []
    for size in sizes:
        source = size.sources[0] if isinstance(size, TaggedInt) and size.exact else None
        if isinstance(source, DimSource):
            zero = Zero.BY_GAMMA if call.name.endswith("zeros") else Zero.NEVER
            axes.append(Axis(source.labels, np.full(len(source.labels), zero, np.int8)))
        else:
            ledger.use(size)
            axes.append(None)
    ledger.label(call.result, axes)


def setitem(ledger: Ledger, call: Call) -> None:
    """Writes at places along the first axes, given by a tensor; couples the other axes with what is written."""
    x, index, value = call.input, call.get(1, "index"), call.get(2, "value")
    if not isinstance(index, Tensor) or ledger.is_labelled(index):
        raise Unsupported("is written into at written positions")
    axes = ledger.axes(x)
    first = index.dim() if index.dtype in (torch.bool, torch.uint8) else 1
    written = ledger.axes(value) if isinstance(value, Tensor) else []
    sizes = list(value.shape) if isinstance(value, Tensor) else []
    after = len(axes) - first
    for axis in axes[:first] + written[: max(len(written) - after, 0)]:
        ledger.fix(axis, "is indexed by a tensor")
    writes_zero = not isinstance(value, Tensor) and value == 0
    for place in range(-min(after, len(axes)), 0):
        mine, theirs = axes[place], written[place] if -place <= len(written) else None
        whole = -place <= len(written) and sizes[place] == x.shape[place]
        if theirs is not None and (mine is None or not whole):
            ledger.fix(theirs, "is written into a tensor that does not follow it")
        elif mine is not None and theirs is not None:
            ledger.unite(mine, theirs)
            axes[place] = mine.with_zero(np.minimum(mine.zero, theirs.zero))
            continue
        elif mine is not None and whole:
            ledger.fix(mine, "a tensor of its size that follows no channel is written into it")
        axes[place] = mine and (mine if writes_zero else mine.with_zero(Zero.NEVER))
    ledger.label(x, axes)


def roi_align(ledger: Ledger, call: Call) -> None:
    """Passes on the channels, not the pixels."""
    ledger.use_all((call.args[1:], call.kwargs))
    ledger.fix_tensors((call.args[1:], call.kwargs), "places the regions of roi_align")
    axes = ledger.axes(call.input)
    for axis in (axes[0], *axes[2:]):
        ledger.fix(axis, "lies along the batch or a spatial axis of roi_align")
    ledger.label(call.result, [None, axes[1], None, None])


NEW_TENSORS = [f"{new}{name}" for new in ("", "new_") for name in ("zeros", "ones", "full", "empty")]
REGIONS = {**dict.fromkeys(NEW_TENSORS, new_tensor), "setitem": setitem, "torchvision.roi_align": roi_align}
