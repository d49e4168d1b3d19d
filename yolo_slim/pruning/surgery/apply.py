"""Removing channels from a model in place, as a plan says."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from yolo_slim.pruning.modules.layers import (
    counts_of_weight,
    install,
    is_depthwise,
    multiplier,
    set_counts,
    side_axes,
    tensors_of,
)
from yolo_slim.pruning.modules.torch_private import TransposedConvolution
from yolo_slim.pruning.surgery.plan import PruningPlan


def apply_plan(model: nn.Module, plan: PruningPlan) -> None:
    """Removes the channels that the plan does not keep.

    Layers stay objects of their own classes; their parameters are replaced by smaller ones with the same
    ``requires_grad``, so an optimizer must be built afterwards. Tensors that are shared stay shared.

    Args:
        model: The model, changed in place.
        plan: From :func:`make_plan`, on this model or on another copy of it.

    Raises:
        ValueError: If the plan does not fit the model, which is then untouched.

    Example:
        >>> plan = PruningPlan({"0": {"out": [0, 2]}, "1": {"out": [0, 2]}, "3": {"in": [0, 2]}},
        ...                    sizes={"0": {"out": 4}, "1": {"out": 4}, "3": {"in": 4}}, attributes={})
        >>> apply_plan(net, plan)
        >>> net[0].weight.shape, net[1].weight, net[3].in_channels
        (torch.Size([2, 3, 3, 3]), Parameter containing:
        tensor([0.5000, 2.0000], requires_grad=True), 2)
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    cuts = _cuts(modules, plan)
    attributes = [
        (_module(modules, module), name, value)
        for module, values in plan.attributes.items()
        for name, value in values.items()
    ]
    for module, name, value in attributes:
        _set_attribute(module, name, value, dry_run=True)
    multipliers = {m: multiplier(m) for m in modules.values() if is_depthwise(m)}
    indices: dict[int, Tensor] = {}
    new = {key: _cut(tensor, keep, indices) for key, (tensor, keep) in cuts.items()}
    changed = install(model, new)
    for module in changed:
        set_counts(module, _counts_from_shapes(module, multipliers.get(module, 0)))
    for module, name, value in attributes:
        _set_attribute(module, name, value)


def _module(modules: Mapping[str, nn.Module], name: str) -> nn.Module:
    if name not in modules:
        raise ValueError(f"plan does not fit: the model has no module {name!r}")
    return modules[name]


def _cuts(modules: Mapping[str, nn.Module], plan: PruningPlan) -> dict[int, tuple[Tensor, dict[int, list[int]]]]:
    """Identity of a tensor -> the tensor, and the indices to keep along each of its axes."""
    cuts: dict[int, tuple[Tensor, dict[int, list[int]]]] = {}
    for name, sides in plan.entries.items():
        module = _module(modules, name)
        tensors = tensors_of(module)
        for side, keep in sides.items():
            size, axes = plan.sizes[name][side], list(side_axes(module, side))
            if not axes:
                raise ValueError(f"plan does not fit: {name} ({type(module).__name__}) has no side {side!r}")
            for key, axis in axes:
                shape = tuple(tensors[key].shape) if key in tensors else ()
                if axis >= len(shape) or shape[axis] != size:
                    raise ValueError(
                        f"plan does not fit: {name}.{key} has shape {shape}, the plan expects {size} at axis {axis}"
                    )
                tensor, cut = cuts.setdefault(id(tensors[key]), (tensors[key], {}))
                if cut.setdefault(axis, keep) != keep:
                    raise ValueError(f"plan does not fit: {name}.{key} is shared, and kept in two ways")
    return cuts


def _cut(tensor: Tensor, keep: dict[int, list[int]], indices: dict[int, Tensor]) -> Tensor:
    """The channels to keep of a tensor; ``indices`` remembers the lists of the plan as tensors."""
    new = tensor.detach()
    for axis, chosen in keep.items():
        if id(chosen) not in indices:
            indices[id(chosen)] = torch.tensor(chosen)
        new = new.index_select(axis, indices[id(chosen)].to(tensor.device))
    return nn.Parameter(new, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else new


def _counts_from_shapes(module: nn.Module, per_group: int) -> dict[str, int]:
    """A layer's counts after its tensors were cut; ``per_group`` is the multiplier of a depthwise one, else 0."""
    shape = next(iter(tensors_of(module).values())).shape
    groups = getattr(module, "groups", 1)
    if per_group:  # one row of the weight per channel, and that many per group
        groups = shape[0] // (1 if isinstance(module, TransposedConvolution) else per_group)
    return counts_of_weight(module, shape, groups)


def _set_attribute(module: nn.Module, name: str, value: int, dry_run: bool = False) -> None:
    key, _, index = name.partition(".")
    current = getattr(module, key, None)
    if index:
        if not isinstance(current, (list, tuple)) or int(index) >= len(current):
            raise ValueError(f"plan does not fit: {type(module).__name__}.{key} is {current!r}, expected a list")
        items = list(current)
        items[int(index)] = value
        new: object = type(current)(items)
    elif type(current) is not int:
        raise ValueError(f"plan does not fit: {type(module).__name__}.{key} is {current!r}, expected an integer")
    else:
        new = value
    if not dry_run:
        setattr(module, key, new)
