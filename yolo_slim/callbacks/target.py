"""Which part of a LightningModule is made sparse and pruned, its channel graph, and which channels go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map_only

from yolo_slim.callbacks.framework import LightningModule, MisconfigurationException, Trainer
from yolo_slim.pruning import ChannelGraph, Pass, Selection, trace
from yolo_slim.pruning.graph.passes import default_passes


def find_target(pl_module: nn.Module, target: str | None) -> nn.Module:
    """The submodule at the path ``target``; by default ``pl_module.pruning_target`` or the whole module.

    Raises:
        MisconfigurationException: If there is no such submodule.
    """
    path = getattr(pl_module, "pruning_target", "") if target is None else target
    try:
        return pl_module.get_submodule(path)
    except AttributeError as error:
        raise MisconfigurationException(
            f"target={path!r} is not a submodule of {type(pl_module).__name__}; "
            f"give one of {[name for name, _ in pl_module.named_children()]} or a path below"
        ) from error


def trace_target(pl_module: LightningModule, target: str | None) -> ChannelGraph:
    """The channel graph of the target.

    A module that knows better how its network is run offers a method ``trace_channels() -> ChannelGraph``. Every other
    is traced with its ``example_input_array``, in eval mode and in train mode. A detector whose ``forward`` ends in
    NMS, or needs labels in train mode, offers a method ``pruning_forward`` beside it: it takes what ``forward`` takes
    and returns the network's raw outputs.

    Raises:
        MisconfigurationException: If the module has neither, or cannot be run with its ``example_input_array``.
    """
    own: Callable[[], ChannelGraph] | None = getattr(pl_module, "trace_channels", None)  # type: ignore[assignment]
    if target is None and own is not None:
        return own()
    example = example_inputs(pl_module)
    if example is None:
        raise MisconfigurationException(
            f"{type(pl_module).__name__} has no example_input_array to trace its channels with; "
            "set self.example_input_array = torch.rand(1, 3, height, width) in its __init__"
        )
    model, passes = find_target(pl_module, target), default_passes(example)
    if hasattr(model, "pruning_forward"):
        passes = [_raw(run) for run in passes]
    try:
        return trace(model, passes=passes)
    except Exception as error:  # whatever the user's own forward raises
        first_line = str(error).partition("\n")[0]
        raise MisconfigurationException(
            f"{type(model).__name__} could not be traced with its example_input_array in eval and in train mode "
            f"({type(error).__name__}: {first_line}); a network that needs labels in train mode can offer a method "
            "pruning_forward, which takes what forward takes and returns the raw outputs"
        ) from error


def _raw(run: Pass) -> Pass:
    """The same pass over ``pruning_forward``, called as the module itself is so that hooks on it see the call."""

    def run_raw(model: nn.Module) -> Any:
        model.forward = model.pruning_forward  # type: ignore[assignment]  # whoever runs a pass restores the model
        return run(model)

    return run_raw


def example_inputs(pl_module: LightningModule) -> Any:
    """Inputs of the size that operations are counted for, on the module's device and of its type; None without any.

    A module whose network takes other inputs than its own ``example_input_array`` offers ``pruning_example``.
    """
    example = getattr(pl_module, "pruning_example", None)
    example = pl_module.example_input_array if example is None else example
    real = next((p.dtype for p in pl_module.parameters() if p.is_floating_point()), torch.get_default_dtype())

    def fitted(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(pl_module.device, real if tensor.is_floating_point() else None)

    return tree_map_only(torch.Tensor, fitted, example)


def copies_of_target(trainer: Trainer, pl_module: LightningModule, target: str | None) -> list[nn.Module]:
    """The target, and its average where an averaging callback keeps one."""
    copies = [find_target(pl_module, target)]
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        average = getattr(callback, "_average_model", None)
        if average is not None:
            copies.append(find_target(average.module, target))
    return copies


def make_selection(
    selection: Selection | None, ratio: float, min_channels: int, shortcuts: str, ignore: Sequence[str]
) -> Selection:
    """The selection of a callback: given as a whole, or by the arguments that most users need.

    Raises:
        MisconfigurationException: If a value is out of range.
    """
    if selection is not None:
        return selection
    try:
        return Selection(ratio, min_channels=min_channels, shortcuts=shortcuts, ignore=tuple(ignore))
    except ValueError as error:
        raise MisconfigurationException(str(error)) from error
