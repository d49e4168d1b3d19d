"""One score per group of coupled channels; a higher score is worth keeping more."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from yolo_slim.pruning.graph import ChannelGraph


def gamma_importance(model: nn.Module, graph: ChannelGraph) -> Tensor:
    """The mean |gamma| of each group (Liu et al. 2017, "Learning Efficient Convolutional Networks through Network
    Slimming").

    Args:
        model: the model the graph was traced on, or a copy of it.
        graph: its channel graph.

    Returns:
        float64 (num_groups,), +inf for groups without a gamma.
    """  # noqa: D205
    return reduce_to_groups(graph, {name: _gamma(model, name) for name in graph.gammas})


def reduce_to_groups(graph: ChannelGraph, per_gamma: Mapping[str, Tensor], reduction: str = "mean") -> Tensor:
    """Combines one value per gamma into one per group.

    Args:
        graph: the channel graph.
        per_gamma: BatchNorm layer -> (C,), one value per gamma. Layers may be left out.
        reduction: "mean" or "sum" over the members of a group.

    Returns:
        float64 (num_groups,), +inf for groups without a value.

    Raises:
        ValueError: if a layer is unknown or has another number of channels, or the reduction is neither of the two.
    """
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction={reduction!r}: expected 'mean' or 'sum'")
    total = torch.zeros(graph.num_groups, dtype=torch.float64)
    members = torch.zeros(graph.num_groups, dtype=torch.float64)
    for name, values in per_gamma.items():
        groups = graph.gammas.get(name)
        if groups is None:
            raise ValueError(f"{name!r} is no BatchNorm layer of the graph; its layers are {', '.join(graph.gammas)}")
        if values.shape != groups.shape:
            raise ValueError(f"{name}: got values of shape {tuple(values.shape)} for {len(groups)} gammas")
        total.index_add_(0, groups, values.detach().to("cpu", torch.float64))
        members.index_add_(0, groups, torch.ones(len(groups), dtype=torch.float64))
    if reduction == "mean":
        total /= members
    return total.masked_fill_(members == 0, float("inf"))


def _gamma(model: nn.Module, name: str) -> Tensor:
    gamma = model.get_submodule(name).weight
    assert isinstance(gamma, Tensor)
    return gamma.detach().abs()
