"""Whether what is handed to the engine belongs together, said before anything is computed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from yolo_slim.pruning.modules.layers import tensors_of
from yolo_slim.pruning.selection.selection import Selection
from yolo_slim.wording import brief

if TYPE_CHECKING:
    from yolo_slim.pruning.graph.graph import ChannelGraph


def expect_fit(model: nn.Module, graph: ChannelGraph) -> None:
    """Refuses a graph that was traced on a model with other layers or channels.

    Raises:
        ValueError: With the first tensor that differs.
    """
    axes = getattr(graph, "axes", None)
    if axes is None:
        raise ValueError(f"graph={brief(graph)}: expected the ChannelGraph that trace(model, inputs) returns")
    if not isinstance(model, nn.Module):
        raise ValueError(f"model={brief(model)}: expected the nn.Module that the graph was traced on")
    shapes = {
        (f"{name}.{key}" if name else key): tuple(tensor.shape)
        for name, module in model.named_modules(remove_duplicate=False)
        for key, tensor in tensors_of(module).items()
    }
    for name, found in axes.items():
        shape = shapes.get(name)
        if shape is None or any(axis >= len(shape) or len(groups) != shape[axis] for axis, groups in found.items()):
            what = "is missing" if shape is None else f"has shape {shape}"
            raise ValueError(
                f"the graph belongs to another model, or this one was changed since: {name} {what}; trace it anew"
            )


def expect_selection(selection: Any) -> None:
    """Refuses what is no selection.

    Raises:
        ValueError: With what would be one.
    """
    if not isinstance(selection, Selection):
        shown = brief(selection)
        raise ValueError(f"selection={shown}: expected a Selection, such as Selection(ratio=0.5)")
