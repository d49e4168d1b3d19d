"""Running a model so that a tracer can watch it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from yolo_slim.pruning.graph.tagged_int import AttributeSource, TaggedInt
from yolo_slim.pruning.graph.tracer import Tracer

Pass = Callable[[nn.Module], Any]


def train_but_statistics(model: nn.Module) -> nn.Module:
    """Puts a model into train mode and its BatchNorm layers into eval mode, and returns it."""
    model.train()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
    return model


def default_passes(example_inputs: Any) -> list[Pass]:
    """A forward in eval mode, and one in train mode with the BatchNorm layers in eval mode."""
    if example_inputs is None:
        raise ValueError("trace needs example_inputs (a tensor or a tuple of arguments) or passes; got neither")
    inputs = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)

    def evaluate(model: nn.Module) -> Any:
        return model.eval()(*inputs)

    def train(model: nn.Module) -> Any:
        return train_but_statistics(model)(*inputs)

    return [evaluate, train]


def tagged_attributes(names: Mapping[nn.Module, str], tracer: Tracer) -> list[tuple[dict[str, Any], str, Any]]:
    """The integers that modules of the user's keep, tagged; stock layers read theirs from their weights.

    Returns:
        A module's ``vars``, the name of an attribute in it, and the value to put there for a pass; a list is to be
        copied, so that a pass may change it.
    """
    found: list[tuple[dict[str, Any], str, Any]] = []
    for module, name in names.items():
        if type(module).__module__.startswith("torch.nn"):
            continue
        for key, value in vars(module).items():
            if key.startswith("_"):
                continue
            if type(value) is int:
                found.append((vars(module), key, TaggedInt(value, (AttributeSource(name, key, None),), tracer.use)))
            elif type(value) in (list, tuple) and value and all(type(item) is int for item in value):
                tags = (TaggedInt(v, (AttributeSource(name, key, i),), tracer.use) for i, v in enumerate(value))
                found.append((vars(module), key, type(value)(tags)))
    return found
