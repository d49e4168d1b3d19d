"""How element-wise operations, reductions and pooling carry channels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from yolo_slim.pruning.graph.axes import Axes, Axis, Call, Unsupported, Zero, words
from yolo_slim.pruning.graph.ledger import Ledger

# f(0) = 0, element by element; and plain copies.
KEEPS_ZERO = words(
    """
    relu relu6 silu hardswish gelu leaky_relu rrelu elu celu selu mish tanh softsign softshrink hardshrink
    tanhshrink abs absolute neg negative sqrt sin asin atan square sign floor ceil round trunc expm1 log1p erf
    nan_to_num dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout clone contiguous detach
    data to type type_as float half double bfloat16 cpu cuda alias positive zeros_like
    """
)
LOSES_ZERO = words(
    """
    sigmoid hardsigmoid softplus exp cos logsigmoid rsqrt reciprocal log ones_like full_like rand_like randn_like
    empty_like
    """
)
SUMS = words("add sub subtract rsub maximum minimum")
PRODUCTS = words("mul multiply")
QUOTIENTS = words("div divide true_divide truediv")
REDUCTIONS = words("mean sum amax amin max min var std norm prod median")
POOLS = [f"{kind}_pool{n}d" for kind in ("max", "avg", "adaptive_avg", "adaptive_max", "lp") for n in (1, 2, 3)]


def keep(ledger: Ledger, call: Call) -> None:
    """Passes the channels on; zero stays zero."""
    ledger.use_all((call.args[1:], call.kwargs))
    if call.result is not call.input:
        ledger.label(call.result, ledger.axes(call.input))


def keep_nonzero(ledger: Ledger, call: Call) -> None:
    """Passes the channels on; zero becomes something else."""
    ledger.use_all((call.args[1:], call.kwargs))
    ledger.label(call.result, _nonzero(ledger.axes(call.input)))


def clamp(ledger: Ledger, call: Call) -> None:
    """Cuts off at two numbers, which hardtanh sets to -1 and 1."""
    ledger.use_all((call.args[1:], call.kwargs))
    edge = 1 if call.name == "hardtanh" else None
    low = call.get(1, "min", "min_val", default=edge and -edge)
    high = call.get(2, "max", "max_val", default=edge)
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        raise Unsupported("clamps at tensors")
    axes = ledger.axes(call.input)
    zero_stays = (low is None or low <= 0) and (high is None or high >= 0)
    ledger.label(call.result, axes if zero_stays else _nonzero(axes))


def power(ledger: Ledger, call: Call) -> None:
    """A power with a positive exponent keeps zero."""
    exponent = call.get(1, "exponent")
    ledger.use(exponent)
    if not isinstance(exponent, (int, float)) or exponent <= 0:
        raise Unsupported("exponent that is not a positive number")
    ledger.label(call.result, ledger.axes(call.input))


def binary(ledger: Ledger, call: Call) -> None:
    """Couples the channels of both operands where they meet; a broadcast operand has none to couple."""
    if call.kwargs.get("out") is not None:
        raise Unsupported("writes into out=")
    operands = [call.get(0, "input", "self"), call.get(1, "other", "value")]
    ledger.use_all((operands, call.kwargs))
    tensors = [o for o in operands if isinstance(o, Tensor)]
    if call.name in QUOTIENTS and (
        operands[0] is not tensors[0] or (len(tensors) == 2 and any(a is not None for a in ledger.axes(tensors[1])))
    ):
        raise Unsupported("divides by channels")
    maps = len(tensors) == 2 and all(t.shape == call.result.shape and id(t) not in ledger.owned for t in tensors)
    adds_nothing = any(type(o) in (int, float) and o == 0 for o in operands)
    out: Axes = []
    for i, size in enumerate(call.result.shape):
        meeting = [_aligned(ledger, t, i - call.result.dim(), size) for t in tensors]
        labelled = [axis for axis, _ in meeting if axis is not None]
        if not labelled:
            out.append(None)
            continue
        if any(axis is None and full for axis, full in meeting):
            ledger.fix(labelled[0], "meets a tensor of its size that follows no channel")
        for other in labelled[1:]:
            ledger.unite(labelled[0], other)
        if maps and len(labelled) == 2 and call.name in SUMS:
            ledger.residual.append(labelled[0].labels)
        zeros = [axis.zero for axis in labelled]
        if call.name in SUMS and not adds_nothing:
            out.append(labelled[0].with_zero(np.minimum(*zeros) if len(zeros) == 2 else Zero.NEVER))
        else:
            out.append(labelled[0].with_zero(np.maximum.reduce(zeros)))
    ledger.label(call.result, out)


def reduction(ledger: Ledger, call: Call) -> None:
    """Passes on the channels of the axes that stay; channels that are reduced over are fixed."""
    other = call.get(1, "other", "dim", "axis", default=None)
    if isinstance(other, Tensor):
        return binary(ledger, replace(call, name={"max": "maximum", "min": "minimum"}[call.name]))
    x = call.input
    if call.name == "norm":
        other = call.get(2, "dim", default=None)
    kept = call.get(3 if call.name in ("norm", "var", "std") else 2, "keepdim", default=False)
    dims = range(x.dim()) if other is None else other if isinstance(other, (tuple, list)) else [other]
    reduced = {int(d) % x.dim() for d in dims}
    axes = ledger.axes(x)
    for d in reduced:
        ledger.fix(axes[d], "is reduced over")
    out = [None if i in reduced else axis for i, axis in enumerate(axes) if kept or i not in reduced]
    _label_values_and_places(ledger, call, out)
    return None


def pool(ledger: Ledger, call: Call) -> None:
    """Passes on the channels, not the pixels."""
    spatial = int(call.name.partition("pool")[2][0])
    axes = ledger.axes(call.input)
    for axis in axes[-spatial:]:
        ledger.fix(axis, "is pooled over")
    _label_values_and_places(ledger, call, axes[:-spatial] + [None] * spatial)


def interpolate(ledger: Ledger, call: Call) -> None:
    """Passes on the channels, not the pixels."""
    ledger.use_all((call.args[1:], call.kwargs))
    axes = ledger.axes(call.input)
    for axis in axes[2:]:
        ledger.fix(axis, "is interpolated over")
    ledger.label(call.result, axes[:2] + [None] * (len(axes) - 2))


def factory(ledger: Ledger, call: Call) -> None:
    """Makes a tensor that takes only dtype and device from the first argument."""
    ledger.fix_tensors((call.args[1:], call.kwargs), "gives its values to a new tensor")
    ledger.use_all((call.args[1:], call.kwargs))


def _label_values_and_places(ledger: Ledger, call: Call, axes: Axes) -> None:
    """Labels a result, and the indices that come with it: the place of a maximum among zeros is any number."""
    values, *places = call.result if isinstance(call.result, tuple) else (call.result,)
    ledger.label(values, axes)
    for place in places:
        ledger.label(place, _nonzero(axes))


def _nonzero(axes: Axes) -> Axes:
    return [axis and axis.with_zero(Zero.NEVER) for axis in axes]


def _aligned(ledger: Ledger, tensor: Tensor, place: int, size: int) -> tuple[Axis | None, bool]:
    """The channels a tensor brings to an axis of the result, counted from the end, and whether it has its size."""
    if -place > tensor.dim():
        return None, False
    axis, full = ledger.axes(tensor)[place], tensor.shape[place] != 1
    if axis is not None and tensor.shape[place] != size:
        ledger.fix(axis, "a single channel that is broadcast")
        return None, False
    return axis, full


def _same(rule: object, names: list[str]) -> dict[str, Any]:
    return dict.fromkeys(names, rule)


ARITHMETIC = {
    **_same(keep, KEEPS_ZERO),
    **_same(keep_nonzero, LOSES_ZERO),
    **_same(clamp, ["clamp", "clip", "hardtanh"]),
    **_same(power, ["pow"]),
    **_same(binary, SUMS + PRODUCTS + QUOTIENTS),
    **_same(reduction, REDUCTIONS),
    **_same(pool, POOLS + [f"{name}_with_indices" for name in POOLS if "max" in name]),
    **_same(interpolate, ["interpolate", "upsample"]),
    **_same(factory, ["new_tensor"]),
}
