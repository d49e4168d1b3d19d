"""What the engine knows about the stock layers: which axis of which tensor is a side, and which attribute counts it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor, nn

from yolo_slim.pruning.modules.torch_private import BatchNorm, Convolution, TransposedConvolution, tensor_tables

Sides = dict[str, tuple[str, ...]]  # tensor name -> side of each leading axis

_VECTOR = ("out",)
_KINDS: tuple[tuple[type[nn.Module], Sides], ...] = (
    (TransposedConvolution, {"weight": ("in", "out"), "bias": _VECTOR}),
    (Convolution, {"weight": ("out", "in"), "bias": _VECTOR}),
    (nn.Linear, {"weight": ("out", "in"), "bias": _VECTOR}),
    (BatchNorm, dict.fromkeys(("weight", "bias", "running_mean", "running_var"), _VECTOR)),
    (nn.PReLU, {"weight": _VECTOR}),
)


def sides_of(module: nn.Module) -> Sides | None:
    """The sides of a stock layer's tensors; None for any other module."""
    if is_depthwise(module):  # a transposed one too has one row of its weight per channel
        return {"weight": ("out", "in"), "bias": _VECTOR}
    return next((sides for kind, sides in _KINDS if isinstance(module, kind)), None)


def side(module: nn.Module, tensor: str, axis: int) -> str:
    """The side a tensor's axis belongs to: "in" or "out", or "tensor.axis" where the module is no stock layer."""
    sides = (sides_of(module) or {}).get(tensor, ())
    return sides[axis] if axis < len(sides) else f"{tensor}.{axis}"


def side_axes(module: nn.Module, name: str) -> Iterator[tuple[str, int]]:
    """The (tensor, axis) pairs of a side, the inverse of :func:`side`."""
    if name not in ("in", "out"):
        tensor, _, axis = name.rpartition(".")
        yield tensor, int(axis)
        return
    for tensor, sides in (sides_of(module) or {}).items():
        if getattr(module, tensor, None) is not None and name in sides:
            yield tensor, sides.index(name)


def output_channels(
    named: Sequence[tuple[str, nn.Module]], axes: dict[str, dict[int, Tensor]]
) -> Iterator[tuple[str, Tensor]]:
    """The groups of the output channels of every layer with weights."""
    seen: set[nn.Module] = set()
    for name, module in named:
        key = f"{name}.weight" if name else "weight"
        if isinstance(module, (BatchNorm, Convolution, nn.Linear)) and key in axes and module not in seen:
            seen.add(module)
            axis = (sides_of(module) or {})["weight"].index("out")
            if axis in axes[key]:
                yield name, axes[key][axis]


def is_depthwise(module: nn.Module) -> bool:
    """Whether a convolution has one input channel per group."""
    return isinstance(module, Convolution) and module.groups > 1 and module.groups == module.in_channels


def multiplier(module: nn.Module) -> int:
    """Output channels per input channel of a depthwise convolution."""
    assert isinstance(module, Convolution)
    return module.out_channels // module.in_channels


def counts(module: nn.Module) -> dict[str, int]:
    """The attributes of a stock layer that its tensors' shapes must agree with; empty for any other module."""
    if isinstance(module, Convolution):
        return {name: getattr(module, name) for name in ("in_channels", "out_channels", "groups")}
    if isinstance(module, nn.Linear):
        return {name: getattr(module, name) for name in ("in_features", "out_features")}
    if isinstance(module, BatchNorm):
        return {"num_features": module.num_features}
    return {"num_parameters": module.num_parameters} if isinstance(module, nn.PReLU) else {}


def counts_of_weight(module: nn.Module, shape: Sequence[int], groups: int = 1) -> dict[str, int]:
    """The attributes of :func:`counts` that a stock layer has with a weight of this shape; the inverse of
    :func:`weight_shape`.

    Args:
        module: The layer; only its kind counts.
        shape: Shape of the weight.
        groups: Groups of a convolution.
    """  # noqa: D205
    if isinstance(module, Convolution):
        first, second = shape[0], shape[1] * groups
        made, taken = (shape[1] * groups, first) if isinstance(module, TransposedConvolution) else (first, second)
        return {"in_channels": taken, "out_channels": made, "groups": groups}
    if isinstance(module, nn.Linear):
        return {"in_features": shape[1], "out_features": shape[0]}
    return dict.fromkeys(counts(module), shape[0])


def weight_shape(module: nn.Module, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """The shape of a stock layer's weight with the given :func:`counts`."""
    if isinstance(module, Convolution):
        first, second, groups = sizes["out_channels"], sizes["in_channels"], sizes["groups"]
        if isinstance(module, TransposedConvolution):
            first, second = second, first
        return (first, second // groups, *module.kernel_size)
    if isinstance(module, nn.Linear):
        return sizes["out_features"], sizes["in_features"]
    return (next(iter(sizes.values())),)


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers a module owns itself."""
    parameters, buffers = tensor_tables(module)
    own = {**parameters, **buffers}
    return {name: tensor for name, tensor in own.items() if tensor is not None}


def submodule(model: nn.Module, name: str, what: str) -> nn.Module:
    """A module by its name.

    Raises:
        ValueError: If the model has none of this name; ``what`` is what asked for it.
    """
    try:
        return model.get_submodule(name)
    except AttributeError as error:
        raise ValueError(f"{what} does not fit: the model has no module {name!r}") from error


def install(model: nn.Module, new: Mapping[int, Tensor]) -> list[nn.Module]:
    """Replaces parameters and buffers wherever they occur, so that shared ones stay shared.

    Args:
        model: The model, changed in place.
        new: Id of the tensor to replace -> its replacement.

    Returns:
        The modules that own a replaced tensor.
    """
    changed = []
    for module in model.modules():
        for table in tensor_tables(module):
            tensors = {name: new[id(tensor)] for name, tensor in table.items() if id(tensor) in new}
            if tensors:  # the tables of a scripted module cannot be updated, and none of its tensors is ever replaced
                table.update(tensors)
                changed.append(module)
    return changed


def set_counts(module: nn.Module, values: Mapping[str, int]) -> None:
    """Sets the attributes of :func:`counts`."""
    for name, value in values.items():
        setattr(module, name, value)
