"""How the layers with parameters carry channels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from yolo_slim.pruning.graph.axes import Axis, Call, Unsupported, Zero
from yolo_slim.pruning.graph.tagged_int import TaggedInt, untag

if TYPE_CHECKING:
    from yolo_slim.pruning.graph.tracer import Tracer


def convolution(tracer: Tracer, call: Call) -> None:
    """Makes new channels; a grouped one removes the same place of every group, a depthwise one couples in and out."""
    x, weight, bias = call.input, call.get(1, "weight"), call.get(2, "bias", default=None)
    groups = untag(given_groups := call.get(6, "groups", default=1))
    channel = x.dim() - weight.dim() + 1  # 0 without a batch axis
    axes = tracer.axes(x)
    for i, axis in enumerate(axes):
        if i != channel:
            tracer.fix(axis, "lies along the batch or a spatial axis of a convolution")
    given, made = axes[channel], tracer.own(weight, 0)
    per_group_in, per_group_out = x.shape[channel] // groups, weight.shape[0] // groups
    if groups > 1 and per_group_in == 1:
        if isinstance(given_groups, TaggedInt):
            tracer.size_axis(given_groups, given)
        repeated = None if given is None else given.take(np.repeat(np.arange(groups), per_group_out))
        tracer.unite(made, repeated)
        if repeated is not None and bias is None:
            made = made.with_zero(np.maximum(made.zero, repeated.zero))
    else:
        tracer.use(given_groups)
        tracer.consume(given)
        taken = tracer.own(weight, 1, summed=True)
        if groups > 1:
            taken = taken.take(np.tile(np.arange(per_group_in), groups))
            tracer.unite(made, made.take(np.tile(np.arange(per_group_out), groups)))
        tracer.unite(given, taken)
    if bias is not None:
        tracer.unite(made, tracer.own(bias, 0))
    out: list[Axis | None] = [None] * x.dim()
    out[channel] = made
    tracer.label(call.result, out)


def transposed_convolution(tracer: Tracer, call: Call) -> None:
    """A convolution whose weight is stored (in, out / groups, ...)."""
    x, weight, bias = call.input, call.get(1, "weight"), call.get(2, "bias", default=None)
    groups = untag(call.get(6, "groups", default=1))
    depthwise = groups > 1 and weight.shape[0] == groups and weight.shape[1] == 1
    if x.dim() != weight.dim() or (groups > 1 and not depthwise):
        raise Unsupported("transposed convolution that is grouped or without a batch axis")
    axes = tracer.axes(x)
    for axis in axes[:1] + axes[2:]:
        tracer.fix(axis, "lies along the batch or a spatial axis of a convolution")
    taken = tracer.own(weight, 0, summed=not depthwise)
    made = taken if depthwise else tracer.own(weight, 1)
    if depthwise and axes[1] is not None and bias is None:
        made = made.with_zero(np.maximum(made.zero, axes[1].zero))
    if not depthwise:
        tracer.consume(axes[1])
    tracer.unite(axes[1], taken)
    if bias is not None:
        tracer.unite(made, tracer.own(bias, 0))
    tracer.label(call.result, [None, made, *[None] * (x.dim() - 2)])


def linear(tracer: Tracer, call: Call) -> None:
    """Sums over the last axis and makes new channels there."""
    x, weight, bias = call.input, call.get(1, "weight"), call.get(2, "bias", default=None)
    *lead, given = tracer.axes(x)
    made = tracer.own(weight, 0)
    tracer.consume(given)
    tracer.unite(given, tracer.own(weight, 1, summed=True))
    if bias is not None:
        tracer.unite(made, tracer.own(bias, 0))
    kept = [axis and (axis if bias is None else axis.with_zero(Zero.NEVER)) for axis in lead]
    tracer.label(call.result, [*kept, made])


def batch_norm(tracer: Tracer, call: Call) -> None:
    """Couples its four vectors with the channels; gamma and beta can make a channel zero."""
    x, gamma = call.input, call.get(3, "weight", default=None)
    axes = tracer.axes(x)
    vectors = [gamma, call.get(4, "bias", default=None), call.get(1, "running_mean", default=None)]
    vectors.append(call.get(2, "running_var", default=None))
    for vector in vectors:
        if vector is not None:
            tracer.unite(axes[1], tracer.own(vector, 0))
    zero = Zero.NEVER if gamma is None else Zero.BY_GAMMA if id(gamma) in tracer.gammas else Zero.BY_WEIGHTS
    axes[1] = axes[1] and axes[1].with_zero(zero)
    tracer.label(call.result, axes)


def mixed_norm(tracer: Tracer, call: Call) -> None:
    """LayerNorm, RMSNorm and GroupNorm take one scale from many channels: without one of them, the others change."""
    axes, shape = tracer.axes(call.input), call.get(1, "normalized_shape", "num_groups")
    tracer.use_all((call.args[1:], call.kwargs))
    first, last = (1, 2) if call.name == "group_norm" else (len(axes) - len(shape), len(axes))
    for vector in (call.get(2, "weight", default=None), call.get(3, "bias", default=None)):
        for i, axis in enumerate(axes[first:last]):
            if isinstance(vector, Tensor):
                tracer.unite(axis, tracer.own(vector, i))
    for axis in axes[first:]:
        tracer.fix(axis, "is normalised together with other channels")
    tracer.label(call.result, [axis and axis.with_zero(Zero.NEVER) for axis in axes[:first]] + axes[first:])


def prelu(tracer: Tracer, call: Call) -> None:
    """An activation with one slope per channel, or one for all."""
    axes, slope = tracer.axes(call.input), call.get(1, "weight")
    if slope.numel() > 1:
        tracer.unite(axes[1], tracer.own(slope, 0))
    tracer.label(call.result, axes)


LAYERS = {
    **{f"conv{n}d": convolution for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": transposed_convolution for n in (1, 2, 3)},
    "linear": linear,
    "batch_norm": batch_norm,
    **dict.fromkeys(("layer_norm", "rms_norm", "group_norm"), mixed_norm),
    "prelu": prelu,
}
