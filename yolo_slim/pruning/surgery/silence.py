"""The dense counterpart of removing channels: making them zero."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from yolo_slim.pruning.graph.graph import ChannelGraph


@torch.no_grad()
def silence(model: nn.Module, graph: ChannelGraph, dropped: Tensor) -> None:
    """Makes the dropped channels zero, in place, by the least that does it.

    Gamma and beta of a gated group; of any other group also all that makes its channels, such as rows of weights.

    Args:
        model: The model the graph was traced on, or a copy of it.
        graph: Its channel graph.
        dropped: Bool (num_groups,).

    Example:
        >>> graph = trace(net, torch.rand(1, 3, 9, 9))
        >>> dropped = torch.zeros(graph.num_groups, dtype=torch.bool)
        >>> dropped[2] = True
        >>> silence(net, graph, dropped)
        >>> [round(gamma, 3) for gamma in net[1].weight.tolist()]
        [0.5, 0.0, 0.0, 0.1]
    """
    for name, groups in graph.gammas.items():
        layer = model.get_submodule(name)
        for vector in (layer.weight, layer.bias):
            if isinstance(vector, Tensor):
                vector[dropped[groups].to(vector.device)] = 0
    ungated = dropped & ~graph.gated
    if not ungated.any():
        return
    tensors = {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }
    # A variance is divided by; what it divides becomes zero.
    tensors = {name: t for name, t in tensors.items() if t.is_floating_point() and not name.endswith("running_var")}
    for name, axes in graph.axes.items():
        for axis, groups in axes.items():
            silent = ungated[groups]
            if (name, axis) not in graph.summed and name in tensors and silent.any():
                tensors[name].movedim(axis, 0)[silent.to(tensors[name].device)] = 0
