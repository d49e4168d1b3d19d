"""The sizes of a model's layers as plain data, and building a model of these sizes from a larger one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from yolo_slim.pruning.modules.layers import counts, install, set_counts, sides_of, submodule, tensors_of, weight_shape
from yolo_slim.wording import brief

Structure = dict[str, dict[str, Any]]


def structure_of(model: nn.Module, attributes: Iterable[str] = ()) -> Structure:
    """Reads the sizes of all layers.

    Args:
        model: The model.
        attributes: "module:name" of integer (or list of integers) attributes that follow a channel count.

    Returns:
        Plain data, ``{module: {"out_channels": 13, "in_channels": 3, "groups": 1}}``; ``num_features`` for BatchNorm,
        ``in_features`` and ``out_features`` for Linear, the shape of each own parameter and buffer for modules outside
        ``torch.nn``, and the attributes.

    Raises:
        ValueError: If the model has no such attribute.

    Example:
        >>> structure_of(net)["3"]
        {'in_channels': 4, 'out_channels': 2, 'groups': 1}
    """
    structure: Structure = {}
    for name, module in model.named_modules():
        sizes: dict[str, Any] = dict(counts(module))
        if sides_of(module) is None and not type(module).__module__.startswith("torch.nn"):
            sizes = {key: list(tensor.shape) for key, tensor in tensors_of(module).items() if tensor.dim() > 0}
        if sizes:
            structure[name] = sizes
    for attribute in attributes:
        name, _, key = attribute.rpartition(":")
        value = getattr(submodule(model, name, "structure"), key, None)
        if not _is_attribute(value):
            raise ValueError(
                f"attribute {brief(attribute)} is {brief(value)}, expected an integer or a list of integers"
            )
        structure.setdefault(name, {})[key] = list(value) if isinstance(value, (list, tuple)) else value
    return structure


def apply_structure(model: nn.Module, structure: Mapping[str, Mapping[str, Any]]) -> None:
    """Gives every listed layer the listed size.

    A layer that changes is initialised anew (dtype, device and ``requires_grad`` stay), so weights must be loaded
    afterwards; a layer that has the size already is untouched.

    Args:
        model: The model, changed in place.
        structure: From :func:`structure_of`.

    Raises:
        ValueError: If the structure does not fit the model, which is then untouched.

    Example:
        >>> small, large = nn.Linear(3, 2), nn.Linear(5, 2)
        >>> apply_structure(large, structure_of(small))
        >>> large.weight.shape
        torch.Size([2, 3])
    """
    shapes: dict[int, tuple[Tensor, tuple[int, ...]]] = {}
    layers: list[tuple[nn.Module, dict[str, int]]] = []
    attributes: list[tuple[nn.Module, str, Any]] = []
    for name, sizes in structure.items():
        module = submodule(model, name, "structure")
        own, rest = tensors_of(module), {key: value for key, value in sizes.items() if key not in counts(module)}
        wanted = {key: sizes[key] for key in counts(module) if key in sizes}
        if wanted and wanted != counts(module):
            _check(name, module, wanted)
            layers.append((module, wanted))
            for key, shape in _shapes(module, {**counts(module), **wanted}).items():
                shapes[id(own[key])] = (own[key], shape)
        for key, value in rest.items():
            if key in own:
                _check_shape(name, key, own[key], value)
                shapes[id(own[key])] = (own[key], tuple(value))
            elif not _is_attribute(getattr(module, key, None)) or not _is_attribute(value):
                present = getattr(module, key, "missing")
                raise ValueError(
                    f"structure does not fit: {name}.{key} is {brief(present)}, the structure has {brief(value)}"
                )
            else:
                attributes.append((module, key, value))
    install(model, {key: _resized(t, shape) for key, (t, shape) in shapes.items() if tuple(t.shape) != shape})
    for module, wanted in layers:
        set_counts(module, wanted)
        module.reset_parameters()  # type: ignore[operator]
    for module, key, value in attributes:
        setattr(module, key, type(getattr(module, key))(value))


def _check(name: str, module: nn.Module, sizes: Mapping[str, Any]) -> None:
    merged = {**counts(module), **sizes}
    if any(type(value) is not int or value < 1 for value in merged.values()):
        raise ValueError(f"structure does not fit: {name} has sizes {brief(dict(sizes))}, expected positive integers")
    groups = merged.get("groups", 1)
    if any(value % groups for value in merged.values() if value != groups):
        raise ValueError(f"structure does not fit: {name} has sizes {brief(dict(sizes))} that its groups do not divide")


def _check_shape(name: str, key: str, tensor: Tensor, shape: object) -> None:
    if not isinstance(shape, (list, tuple)) or len(shape) != tensor.dim():
        raise ValueError(
            f"structure does not fit: {name}.{key} has shape {tuple(tensor.shape)}, the structure has {brief(shape)}"
        )


def _shapes(module: nn.Module, sizes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor of a stock layer with the given counts."""
    weight = weight_shape(module, sizes)
    out = sizes.get("out_channels", sizes.get("out_features", next(iter(sizes.values()))))
    vectors = dict.fromkeys(sides_of(module) or {}, (out,))
    return {key: shape for key, shape in {**vectors, "weight": weight}.items() if key in tensors_of(module)}


def _resized(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A tensor of another shape that starts with the old values where both have an element, else with zero."""
    new = torch.zeros(shape, dtype=tensor.dtype, device=tensor.device)
    common = tuple(slice(min(a, b)) for a, b in zip(shape, tensor.shape, strict=True))
    new[common] = tensor.detach()[common]
    return nn.Parameter(new, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else new


def _is_attribute(value: object) -> bool:
    return type(value) is int or (isinstance(value, (list, tuple)) and all(type(item) is int for item in value))
