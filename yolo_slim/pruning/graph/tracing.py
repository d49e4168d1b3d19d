"""The way in: running a model under the tracer, and the graph that follows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from yolo_slim.pruning.graph.axes import leaves
from yolo_slim.pruning.graph.build import build_graph
from yolo_slim.pruning.graph.graph import ChannelGraph, Pass
from yolo_slim.pruning.graph.ledger import Ledger, Place
from yolo_slim.pruning.graph.tagged_int import AttributeSource, TaggedInt
from yolo_slim.pruning.graph.tracer import HiddenOperations, Tracer
from yolo_slim.pruning.modules.restored import Snapshot, usual_algorithms
from yolo_slim.pruning.modules.torch_private import BatchNorm


def trace(model: nn.Module, example_inputs: object = None, *, passes: Sequence[Pass] | None = None) -> ChannelGraph:
    """Finds the groups of coupled channels by running the model on a small input.

    Every operation of a pass carries one label per channel along. An operation without a rule fixes the channels that
    touch it. The model comes back exactly as it was.

    Args:
        model: The model.
        example_inputs: A tensor, or a tuple of positional arguments; small is enough, as only shapes matter. Used by
            the default passes: a forward in eval mode, and one in train mode with the BatchNorm layers in eval mode.
        passes: Callables that run the model in their own way and return the tensors that count as outputs, in any
            nest. They must reach the model through their argument only. The channels of what they return are fixed.

    Raises:
        ValueError: If neither inputs nor passes are given, or a pass returns no tensor.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3))
        >>> graph = trace(net, torch.rand(1, 3, 9, 9))
        >>> graph.layers["1"]  # the group of each channel of the BatchNorm layer
        tensor([0, 1, 2, 3])
        >>> graph.axes["3.weight"]  # the second convolution makes two channels of its own and reads those four
        {0: tensor([7, 8]), 1: tensor([0, 1, 2, 3])}
        >>> [(fixed.channels, fixed.reason) for fixed in graph.reasons]
        [(3, "meets a tensor that follows no channel, e.g. the model's input"), (2, 'is an output of the model')]
    """
    passes = tuple(default_passes(example_inputs) if passes is None else passes)
    if not passes:
        raise ValueError("trace needs at least one pass; got an empty list")
    named = list(model.named_modules(remove_duplicate=False))
    names = {module: name for name, module in reversed(named)}
    tracer = Tracer(names)
    ledger = tracer.ledger
    before, tagged = Snapshot(model), _tagged_attributes(names, ledger)
    for run in passes:
        ledger.start_pass()
        try:
            for attributes, name, value in tagged:
                attributes[name] = value.copy() if isinstance(value, list) else value
            unchanged = torch.random.fork_rng(devices=[])
            with usual_algorithms(), unchanged, torch.no_grad(), HiddenOperations(ledger, names), tracer:
                outputs = run(model)
        finally:
            before.restore()
        tensors = [value for value in leaves(outputs) if isinstance(value, Tensor)]
        if not tensors:
            raise ValueError(f"pass {run!r} returned {type(outputs).__name__} without tensors; return the outputs")
        ledger.fix_tensors(tensors, "is an output of the model", Place("", "output"))
    return build_graph(named, ledger, passes)


def _tagged_attributes(names: Mapping[nn.Module, str], ledger: Ledger) -> list[tuple[dict[str, Any], str, Any]]:
    """The integers that modules of the user's keep, tagged; stock layers read theirs from their weights.

    Returns:
        A module's ``vars``, the name of an attribute in it, and the value to put there for a pass; a list is to be
        copied, so that a pass may change it.
    """
    replaced: list[tuple[dict[str, Any], str, Any]] = []
    for module, name in names.items():
        if type(module).__module__.startswith("torch.nn"):
            continue
        for key, value in vars(module).items():
            if key.startswith("_"):
                continue
            if type(value) is int:
                replaced.append((vars(module), key, TaggedInt(value, (AttributeSource(name, key, None),), ledger.use)))
            elif type(value) in (list, tuple) and value and all(type(item) is int for item in value):
                tags = (TaggedInt(v, (AttributeSource(name, key, i),), ledger.use) for i, v in enumerate(value))
                replaced.append((vars(module), key, type(value)(tags)))
    return replaced


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
