"""Running a model so that a tracer can watch it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from yolo_slim.pruning.modules.torch_private import BatchNorm

Pass = Callable[[nn.Module], Any]


def train_but_statistics(model: nn.Module) -> nn.Module:
    """Puts a model into train mode and its BatchNorm layers into eval mode, and returns it."""
    model.train()
    for module in model.modules():
        if isinstance(module, BatchNorm):
            module.eval()
    return model


def default_passes(example_inputs: object) -> list[Pass]:
    """A forward in eval mode, and one in train mode with the BatchNorm layers in eval mode."""
    if example_inputs is None:
        raise ValueError("trace needs example_inputs (a tensor or a tuple of arguments) or passes; got neither")
    inputs = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)

    def evaluate(model: nn.Module) -> Any:
        return model.eval()(*inputs)

    def train(model: nn.Module) -> Any:
        return train_but_statistics(model)(*inputs)

    return [evaluate, train]
