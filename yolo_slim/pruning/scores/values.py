"""One value per channel of a layer, and how values of several layers become one score per group."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from yolo_slim.pruning.graph.graph import ChannelGraph
from yolo_slim.pruning.modules.layers import sides_of
from yolo_slim.pruning.modules.torch_private import Convolution

REDUCTIONS = ("mean", "sum", "max", "norm")


NORMALISATIONS = ("none", "max", "mean", "norm")


class Values(NamedTuple):
    """One value per channel of a layer: groups int64 (C,), values float64 (C,) of at least 0."""

    groups: Tensor
    values: Tensor


class Filters(NamedTuple):
    """A layer that makes channels, the axis of its weight they lie along, and int64 (C,) their groups."""

    layer: nn.Module
    axis: int
    groups: Tensor


def gamma_values(model: nn.Module, graph: ChannelGraph) -> Iterator[Values]:
    """|gamma| of every BatchNorm layer's gated channels (Liu et al., ICCV 2017)."""
    modules = dict(model.named_modules())
    for name, groups in graph.gammas.items():
        gamma = modules[name].weight
        assert isinstance(gamma, Tensor)
        gated = graph.gated[groups]
        yield Values(groups[gated], in_double(gamma).abs()[gated])


def l1_values(model: nn.Module, graph: ChannelGraph) -> Iterator[Values]:
    """The sum of the absolute weights of every filter (Li et al., "Pruning Filters for Efficient ConvNets", 2017)."""
    for filters in filters_of(model, graph):
        yield Values(filters.groups, rows(filters).abs().sum(1))


def l2_values(model: nn.Module, graph: ChannelGraph) -> Iterator[Values]:
    """The L2 norm of every filter (He et al., "Soft Filter Pruning", 2018, section 3.2)."""
    for filters in filters_of(model, graph):
        yield Values(filters.groups, rows(filters).norm(dim=1))


def reduce_to_groups(graph: ChannelGraph, per_gamma: Mapping[str, Tensor], reduction: str = "mean") -> Tensor:
    """Combines one value per gamma into one per group.

    Args:
        graph: The channel graph.
        per_gamma: BatchNorm layer -> (C,), one value per gamma. Layers may be left out.
        reduction: "mean", "sum", "max" or "norm" (L2) over the members of a group.

    Returns:
        float64 (num_groups,), +inf for groups without a value and for groups that are not gated.

    Raises:
        ValueError: If a layer is unknown or has another number of channels, or the reduction is none of the four.
    """
    layers = []
    for name, values in per_gamma.items():
        groups = graph.gammas.get(name)
        if groups is None:
            raise ValueError(f"{name!r} is no BatchNorm layer of the graph; its layers are {', '.join(graph.gammas)}")
        if values.shape != groups.shape:
            raise ValueError(f"{name}: got values of shape {tuple(values.shape)} for {len(groups)} gammas")
        gated = graph.gated[groups]
        layers.append(Values(groups[gated], in_double(values)[gated]))
    return combined(graph, layers, reduction)


def combined(graph: ChannelGraph, layers: Iterable[Values], reduction: str = "mean", normalise: str = "none") -> Tensor:
    """Combines values of layers into one per group, float64 (num_groups,), +inf for groups without a value.

    Args:
        graph: The channel graph.
        layers: The values of each layer.
        reduction: "mean", "sum", "max" or "norm" (L2) over the members of a group.
        normalise: Divides each layer's values by their "max", "mean" or L2 "norm" first, where that is above zero.

    Raises:
        ValueError: If the reduction or the normalisation is unknown.
    """
    if reduction not in REDUCTIONS or normalise not in NORMALISATIONS:
        raise ValueError(
            f"reduction={reduction!r}, normalise={normalise!r}: expected one of {', '.join(REDUCTIONS)}, and one of "
            + ", ".join(NORMALISATIONS)
        )
    total = torch.zeros(graph.num_groups, dtype=torch.float64)
    members = torch.zeros(graph.num_groups, dtype=torch.float64)
    for groups, layer in layers:
        values = _normalised(layer, normalise)
        if reduction == "max":
            total.scatter_reduce_(0, groups, values, "amax")
        else:
            total.index_add_(0, groups, values.square() if reduction == "norm" else values)
        members.index_add_(0, groups, torch.ones_like(values))
    if reduction == "mean":
        total /= members
    elif reduction == "norm":
        total.sqrt_()
    return total.masked_fill_(members == 0, float("inf"))


def filters_of(model: nn.Module, graph: ChannelGraph) -> Iterator[Filters]:
    """Every convolution, transposed convolution and linear layer, with the axis of its weight that makes channels."""
    for name, layer in model.named_modules():
        axes = graph.axes.get(f"{name}.weight" if name else "weight")
        if axes is None or not isinstance(layer, (Convolution, nn.Linear)):
            continue
        axis = (sides_of(layer) or {})["weight"].index("out")
        if axis in axes:
            yield Filters(layer, axis, axes[axis])


def rows(filters: Filters, tensor: Tensor | None = None) -> Tensor:
    """The layer's weight, or a tensor of the same shape, as float64 (C, n): one row per output channel."""
    values = filters.layer.weight if tensor is None else tensor
    assert isinstance(values, Tensor)
    return in_double(values).movedim(filters.axis, 0).flatten(1)


def in_double(tensor: Tensor) -> Tensor:
    """A tensor without its history, in double precision on the CPU."""
    return tensor.detach().to("cpu", torch.float64)


def _normalised(values: Tensor, normalise: str) -> Tensor:
    if normalise == "none" or not len(values):
        return values
    size = {"max": values.max(), "mean": values.mean(), "norm": values.norm()}[normalise]
    return values / size if size > 0 else values
