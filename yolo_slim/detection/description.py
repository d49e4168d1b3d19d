"""Descriptions of networks (model YAMLs, and what checkpoints carry of them), looked at before a network is built."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torchvision
from torch import nn
from ultralytics.nn import tasks

#: Layers with side effects: this one fetches weights from the internet.
_REFUSED_LAYERS = {"TorchVision"}
#: Above any detector: the largest published ones have 100 to 150 million parameters.
_MAX_PARAMETERS = 1_000_000_000
_MAX_REPEATS = 1000
_MAX_NUMBER = 65_536
_MAX_DEPTH = 10


def check_description(description: Mapping[str, Any], what: str) -> None:
    """Refuses a description that names anything but layers, since Ultralytics evaluates parts of it as Python.

    Args:
        description: Content of a model YAML.
        what: What to call it, for the message.

    Raises:
        ValueError: If it is malformed, names something that is no layer, has an ``activation`` that is more than a
            layer with literal arguments, or describes a network far larger than any detector.
    """
    try:
        layers = [*description["backbone"], *description["head"]]
        rows = [(int(repeats), str(layer)) for _, repeats, layer, _ in layers]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{what} is not a model YAML of Ultralytics; expected backbone and head with rows of [from, repeats, "
            f"layer, arguments] ({error!r})"
        ) from error
    for _, layer in rows:
        if not _is_layer(layer):
            raise ValueError(f"{what} names {layer[:80]!r}, which is no layer of Ultralytics, torch.nn or torchvision")
    activation = description.get("activation")
    if activation and not _is_activation(activation):
        raise ValueError(
            f"{what} has the activation {str(activation)[:80]!r}; expected a layer with literal arguments such as "
            "'nn.SiLU()', because Ultralytics runs it as Python"
        )
    depths = [description.get("depth_multiple", 1), *(row[0] for row in (description.get("scales") or {}).values())]
    small = (
        sum(repeats for repeats, _ in rows) <= _MAX_REPEATS
        and max(depths) <= _MAX_DEPTH
        and all(abs(number) <= _MAX_NUMBER for number in _numbers(layers))
    )
    if not small or _parameters(description, what) > _MAX_PARAMETERS:
        raise ValueError(f"{what} describes a network far larger than any detector")


def _is_layer(name: str) -> bool:
    if name.startswith("nn."):
        found = getattr(nn, name[3:], None)
    elif name.startswith("torchvision.ops."):
        found = getattr(torchvision.ops, name[16:], None)
    else:
        found = vars(tasks).get(name)
    return isinstance(found, type) and issubclass(found, nn.Module) and name not in _REFUSED_LAYERS


def _is_activation(text: Any) -> bool:
    try:
        call = ast.parse(str(text).strip(), mode="eval").body
        if not isinstance(call, ast.Call):
            return False
        for value in (*call.args, *(keyword.value for keyword in call.keywords)):
            ast.literal_eval(value)
        prefix, _, name = ast.unparse(call.func).rpartition(".")
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return False
    return prefix in ("nn", "torch.nn") and _is_layer(f"nn.{name}")


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, (int, float)):
        yield value


def _parameters(description: Mapping[str, Any], what: str) -> int:
    """Number of parameters, without making any."""
    try:
        with torch.device("meta"):
            layers, _ = tasks.parse_model(copy.deepcopy(dict(description)), ch=3, verbose=False)
    # A malformed row can make any layer's constructor fail in any way.
    except Exception as error:
        raise ValueError(f"{what} is not a model YAML of Ultralytics ({error!r})") from error
    return sum(parameter.numel() for parameter in layers.parameters())
