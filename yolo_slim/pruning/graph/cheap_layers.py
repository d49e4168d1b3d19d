"""Results of convolutions and linear layers without their arithmetic: the tracer needs shapes, not values."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from yolo_slim.pruning.graph.axes import Call

CONVOLUTIONS = frozenset(f"conv{n}d" for n in (1, 2, 3))
TRANSPOSED = frozenset(f"conv_transpose{n}d" for n in (1, 2, 3))
CHEAP = CONVOLUTIONS | TRANSPOSED | {"linear"}


def first_channel_repeated(function: Callable[..., Tensor], call: Call) -> Tensor | None:
    """The result for the first channel in and out, repeated for all others.

    The function itself is called for this one channel, so that sizes follow its own rules.

    Args:
        function: A convolution, transposed convolution or linear function of torch.
        call: Its name and arguments, without tags.

    Returns:
        A tensor of the shape, type and device that the function would give; None where the arguments do not fit each
        other, so that the caller gets the function's own error from it.
    """
    x, weight = call.input, call.get(1, "weight")
    if call.name == "linear":
        if x.shape[-1:] != weight.shape[1:] or x.dtype != weight.dtype:
            return None
        return x[..., :1].expand(*x.shape[:-1], weight.shape[0]).clone()
    transposed = call.name in TRANSPOSED
    groups = call.get(6, "groups", default=1)
    channel = x.dim() - weight.dim() + 1
    taken, made = weight.shape[0 if transposed else 1], weight.shape[1 if transposed else 0]
    if channel not in (0, 1) or x.shape[channel] != taken * (1 if transposed else groups):
        return None
    values = dict(zip(_POSITIONS[transposed], call.args[3:], strict=False)) | call.kwargs
    options = {k: v for k, v in values.items() if k in _POSITIONS[transposed] and k != "groups"}
    one = function(x.narrow(channel, 0, 1), weight[:1, :1], None, **options)
    shape = list(one.shape)
    shape[channel] = made * (groups if transposed else 1)
    return one.expand(shape).clone()


_POSITIONS = {
    False: ("stride", "padding", "dilation", "groups"),
    True: ("stride", "padding", "output_padding", "groups", "dilation"),
}
