"""How the layers with parameters carry channels."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from yolo_slim.pruning.graph.axes import Axis, Call, Unsupported, Zero
from yolo_slim.pruning.graph.ledger import Ledger
from yolo_slim.pruning.graph.tagged_int import TaggedInt, untag


def convolution(ledger: Ledger, call: Call) -> None:
    """Makes new channels; a grouped one removes the same place of every group, a depthwise one couples in and out."""
    x, weight, bias = call.input, call.get(1, "weight"), call.get(2, "bias", default=None)
    groups = untag(tagged_groups := call.get(6, "groups", default=1))
    channel = x.dim() - weight.dim() + 1  # 0 without a batch axis
    axes = ledger.axes(x)
    for i, axis in enumerate(axes):
        if i != channel:
            ledger.fix(axis, "lies along the batch or a spatial axis of a convolution")
    incoming, made = axes[channel], ledger.own(weight, 0)
    per_group_in, per_group_out = x.shape[channel] // groups, weight.shape[0] // groups
    if groups > 1 and per_group_in == 1:
        if isinstance(tagged_groups, TaggedInt):
            ledger.size_axis(tagged_groups, incoming)
        repeated = None if incoming is None else incoming.take(np.repeat(np.arange(groups), per_group_out))
        ledger.unite(made, repeated)
        if repeated is not None and bias is None:
            made = made.with_zero(np.maximum(made.zero, repeated.zero))
    else:
        ledger.use(tagged_groups)
        ledger.consume(incoming)
        taken = ledger.own(weight, 1, summed=True)
        if groups > 1:
            taken = taken.take(np.tile(np.arange(per_group_in), groups))
            ledger.unite(made, made.take(np.tile(np.arange(per_group_out), groups)))
        ledger.unite(incoming, taken)
    if bias is not None:
        ledger.unite(made, ledger.own(bias, 0))
    out: list[Axis | None] = [None] * x.dim()
    out[channel] = made
    ledger.label(call.result, out)


def transposed_convolution(ledger: Ledger, call: Call) -> None:
    """A convolution whose weight is stored (in, out / groups, ...)."""
    x, weight, bias = call.input, call.get(1, "weight"), call.get(2, "bias", default=None)
    groups = untag(call.get(6, "groups", default=1))
    depthwise = groups > 1 and weight.shape[0] == groups and weight.shape[1] == 1
    if x.dim() != weight.dim() or (groups > 1 and not depthwise):
        raise Unsupported("transposed convolution that is grouped or without a batch axis")
    axes = ledger.axes(x)
    for axis in axes[:1] + axes[2:]:
        ledger.fix(axis, "lies along the batch or a spatial axis of a convolution")
    taken = ledger.own(weight, 0, summed=not depthwise)
    made = taken if depthwise else ledger.own(weight, 1)
    if depthwise and axes[1] is not None and bias is None:
        made = made.with_zero(np.maximum(made.zero, axes[1].zero))
    if not depthwise:
        ledger.consume(axes[1])
    ledger.unite(axes[1], taken)
    if bias is not None:
        ledger.unite(made, ledger.own(bias, 0))
    ledger.label(call.result, [None, made, *[None] * (x.dim() - 2)])


def linear(ledger: Ledger, call: Call) -> None:
    """Sums over the last axis and makes new channels there."""
    x, weight, bias = call.input, call.get(1, "weight"), call.get(2, "bias", default=None)
    *lead, incoming = ledger.axes(x)
    made = ledger.own(weight, 0)
    ledger.consume(incoming)
    ledger.unite(incoming, ledger.own(weight, 1, summed=True))
    if bias is not None:
        ledger.unite(made, ledger.own(bias, 0))
    kept = [axis and (axis if bias is None else axis.with_zero(Zero.NEVER)) for axis in lead]
    ledger.label(call.result, [*kept, made])


def matmul(ledger: Ledger, call: Call) -> None:
    """Sums over the last axis of one tensor and the last but one of the other, which live and die together."""
    first, second = call.input, call.get(1, "other", "mat2", "tensor2")
    if min(first.dim(), second.dim()) < 2 or id(first) in ledger.owned or id(second) in ledger.owned:
        raise Unsupported("a product with a vector or a parameter")
    *before, rows, ours = ledger.axes(first)
    *others, theirs, columns = ledger.axes(second)
    for axis in (*before, *others):
        ledger.fix(axis, "lies along the batch axes of a matrix product")
    ledger.unite(ours, theirs)
    if ours is not None and theirs is not None:  # a product is zero where either of its factors is
        ledger.consume(ours.with_zero(np.maximum(ours.zero, theirs.zero)))
    ledger.label(call.result, [*[None] * (call.result.dim() - 2), rows, columns])


def batch_norm(ledger: Ledger, call: Call) -> None:
    """Couples its four vectors with the channels; gamma and beta can make a channel zero."""
    x, gamma = call.input, call.get(3, "weight", default=None)
    axes = ledger.axes(x)
    vectors = [gamma, call.get(4, "bias", default=None), call.get(1, "running_mean", default=None)]
    vectors.append(call.get(2, "running_var", default=None))
    for vector in vectors:
        if vector is not None:
            ledger.unite(axes[1], ledger.own(vector, 0))
    zero = Zero.NEVER if gamma is None else Zero.BY_GAMMA if id(gamma) in ledger.gammas else Zero.BY_WEIGHTS
    axes[1] = axes[1] and axes[1].with_zero(zero)
    ledger.label(call.result, axes)


def mixed_norm(ledger: Ledger, call: Call) -> None:
    """LayerNorm, RMSNorm and GroupNorm take one scale from many channels: without one of them, the others change."""
    axes, shape = ledger.axes(call.input), call.get(1, "normalized_shape", "num_groups")
    ledger.use_all((call.args[1:], call.kwargs))
    first, last = (1, 2) if call.name == "group_norm" else (len(axes) - len(shape), len(axes))
    for vector in (call.get(2, "weight", default=None), call.get(3, "bias", default=None)):
        for i, axis in enumerate(axes[first:last]):
            if isinstance(vector, Tensor):
                ledger.unite(axis, ledger.own(vector, i))
    for axis in axes[first:]:
        ledger.fix(axis, "is normalised together with other channels")
    ledger.label(call.result, [axis and axis.with_zero(Zero.NEVER) for axis in axes[:first]] + axes[first:])


def prelu(ledger: Ledger, call: Call) -> None:
    """An activation with one slope per channel, or one for all."""
    axes, slope = ledger.axes(call.input), call.get(1, "weight")
    if slope.numel() > 1:
        ledger.unite(axes[1], ledger.own(slope, 0))
    ledger.label(call.result, axes)


LAYERS = {
    **{f"conv{n}d": convolution for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": transposed_convolution for n in (1, 2, 3)},
    "linear": linear,
    **dict.fromkeys(("matmul", "bmm"), matmul),
    "batch_norm": batch_norm,
    **dict.fromkeys(("layer_norm", "rms_norm", "group_norm"), mixed_norm),
    "prelu": prelu,
}
