"""One score per group of coupled channels; a higher score is worth keeping more."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from yolo_slim.pruning.graph.graph import ChannelGraph
from yolo_slim.pruning.modules.layers import sides_of

if TYPE_CHECKING:
    from yolo_slim.pruning.scores.taylor import Taylor

KINDS = ("gamma", "l1", "l2", "gamma_l1", "random", "taylor")
REDUCTIONS = ("mean", "sum", "max", "norm")
NORMALISATIONS = ("none", "max", "mean", "norm")


@dataclass
class Importance:
    """How channels are scored."""

    kind: str = "gamma"
    """"gamma": |gamma|; "l1", "l2": norm of the filter that makes the channel; "gamma_l1": product of both; "taylor":
    squared first-order change of the loss without the channel; "random": a control."""
    reduction: str = "mean"
    """"mean", "sum", "max" or "norm" (L2) of the values of channels that are dropped together."""
    normalise: str = "none"
    """Divides the values of each layer by their "max", "mean" or L2 "norm" before channels of different layers are
    combined and compared; a layer of zeros stays zero. "none" compares them as they are."""
    order: str = "smallest"
    """Which end goes first: "smallest", or "largest" as a control."""
    seed: int = 0
    """Seed of "random"."""

    def __post_init__(self) -> None:
        """Checks the values."""
        for name, allowed in (
            ("kind", KINDS),
            ("reduction", REDUCTIONS),
            ("normalise", NORMALISATIONS),
            ("order", ("smallest", "largest")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r}: expected one of {', '.join(allowed)}")


class Values(NamedTuple):
    """One value per channel of a layer: groups int64 (C,), values float64 (C,) of at least 0."""

    groups: Tensor
    values: Tensor


class Filters(NamedTuple):
    """A layer that makes channels, the axis of its weight they lie along, and int64 (C,) their groups."""

    layer: nn.Module
    axis: int
    groups: Tensor


def importance_scores(
    model: nn.Module, graph: ChannelGraph, importance: Importance, taylor: Taylor | None = None
) -> Tensor:
    """Scores every group as ``importance`` says.

    Args:
        model: the model the graph was traced on, or a copy of it.
        graph: its channel graph.
        importance: the kind of score, and how values of several layers are combined.
        taylor: has observed the gradients of some batches; for ``kind="taylor"``.

    Returns:
        float64 (num_groups,), +inf for groups without a value. The kinds with gamma have none for groups that are not
        gated: zero gammas would not silence them.

    Raises:
        ValueError: if the kind is "taylor" and ``taylor`` is missing or has observed nothing.
    """
    how = (importance.reduction, importance.normalise)
    if importance.kind == "gamma":
        scores = combined(graph, gamma_values(model, graph), *how)
    elif importance.kind == "l1":
        scores = combined(graph, l1_values(model, graph), *how)
    elif importance.kind == "l2":
        scores = combined(graph, l2_values(model, graph), *how)
    elif importance.kind == "gamma_l1":
        scores = gamma_l1_scores(model, graph, *how)
    elif importance.kind == "random":
        scores = random_scores(graph, importance.seed)
    elif taylor is None:
        raise ValueError("kind='taylor' needs gradients: pass a Taylor that has observed some backward passes")
    else:
        scores = taylor.scores(*how)
    return torch.where(scores.isinf(), scores, -scores) if importance.order == "largest" else scores


def gamma_importance(model: nn.Module, graph: ChannelGraph) -> Tensor:
    """The mean |gamma| of each group (Liu et al. 2017, "Learning Efficient Convolutional Networks through Network
    Slimming").

    Args:
        model: the model the graph was traced on, or a copy of it.
        graph: its channel graph.

    Returns:
        float64 (num_groups,), +inf for groups without a gamma and for groups that are not gated.
    """  # noqa: D205
    return combined(graph, gamma_values(model, graph))


def gamma_values(model: nn.Module, graph: ChannelGraph) -> Iterator[Values]:
    """|gamma| of every BatchNorm layer's gated channels (Liu et al., ICCV 2017)."""
    modules = dict(model.named_modules())
    for name, groups in graph.gammas.items():
        gamma = modules[name].weight
        assert isinstance(gamma, Tensor)
        gated = graph.gated[groups]
        yield Values(groups[gated], _plain(gamma).abs()[gated])


def l1_values(model: nn.Module, graph: ChannelGraph) -> Iterator[Values]:
    """The sum of the absolute weights of every filter (Li et al., "Pruning Filters for Efficient ConvNets", 2017)."""
    for filters in filters_of(model, graph):
        yield Values(filters.groups, rows(filters).abs().sum(1))


def l2_values(model: nn.Module, graph: ChannelGraph) -> Iterator[Values]:
    """The L2 norm of every filter (He et al., "Soft Filter Pruning", 2018, section 3.2)."""
    for filters in filters_of(model, graph):
        yield Values(filters.groups, rows(filters).norm(dim=1))


def gamma_l1_scores(model: nn.Module, graph: ChannelGraph, reduction: str = "mean", normalise: str = "none") -> Tensor:
    """|gamma| of a group times the L1 norm of the filters that feed it, each combined over the group first.

    BatchNorm divides by the size of what a filter gives, so that |gamma| alone does not see the filter; the product
    ranks channels that are small in both (Liu et al. 2017 for gamma, Li et al. 2017 for the norm).

    Returns:
        float64 (num_groups,), +inf for groups without a gamma or a filter, and for groups that are not gated.
    """
    gamma = combined(graph, gamma_values(model, graph), reduction, normalise)
    filters = combined(graph, l1_values(model, graph), reduction, normalise)
    return (gamma * filters).masked_fill(gamma.isinf() | filters.isinf(), float("inf"))


def random_scores(graph: ChannelGraph, seed: int = 0) -> Tensor:
    """Uniform numbers in [0, 1), the control of Mittal et al. ("Recovering from Random Pruning", 2018).

    Returns:
        float64 (num_groups,), the same for the same seed and number of groups; +inf for groups of no layer.
    """
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(graph.num_groups, generator=generator, dtype=torch.float64)
    made = torch.zeros(graph.num_groups, dtype=torch.bool)
    for groups in graph.layers.values():
        made[groups] = True
    return scores.masked_fill(~made, float("inf"))


def reduce_to_groups(graph: ChannelGraph, per_gamma: Mapping[str, Tensor], reduction: str = "mean") -> Tensor:
    """Combines one value per gamma into one per group.

    Args:
        graph: the channel graph.
        per_gamma: BatchNorm layer -> (C,), one value per gamma. Layers may be left out.
        reduction: "mean", "sum", "max" or "norm" (L2) over the members of a group.

    Returns:
        float64 (num_groups,), +inf for groups without a value and for groups that are not gated.

    Raises:
        ValueError: if a layer is unknown or has another number of channels, or the reduction is none of the four.
    """
    found = []
    for name, values in per_gamma.items():
        groups = graph.gammas.get(name)
        if groups is None:
            raise ValueError(f"{name!r} is no BatchNorm layer of the graph; its layers are {', '.join(graph.gammas)}")
        if values.shape != groups.shape:
            raise ValueError(f"{name}: got values of shape {tuple(values.shape)} for {len(groups)} gammas")
        gated = graph.gated[groups]
        found.append(Values(groups[gated], _plain(values)[gated]))
    return combined(graph, found, reduction)


def combined(graph: ChannelGraph, layers: Iterable[Values], reduction: str = "mean", normalise: str = "none") -> Tensor:
    """Combines values of layers into one per group, float64 (num_groups,), +inf for groups without a value.

    Args:
        graph: the channel graph.
        layers: the values of each layer.
        reduction: "mean", "sum", "max" or "norm" (L2) over the members of a group.
        normalise: divides each layer's values by their "max", "mean" or L2 "norm" first, where that is above zero.

    Raises:
        ValueError: if the reduction or the normalisation is unknown.
    """
    if reduction not in REDUCTIONS or normalise not in NORMALISATIONS:
        raise ValueError(
            f"reduction={reduction!r}, normalise={normalise!r}: expected one of {', '.join(REDUCTIONS)}, and one of "
            + ", ".join(NORMALISATIONS)
        )
    total = torch.zeros(graph.num_groups, dtype=torch.float64)
    members = torch.zeros(graph.num_groups, dtype=torch.float64)
    for groups, given in layers:
        values = _normalised(given, normalise)
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
        if axes is None or not isinstance(layer, (_ConvNd, nn.Linear)):
            continue
        axis = (sides_of(layer) or {})["weight"].index("out")
        if axis in axes:
            yield Filters(layer, axis, axes[axis])


def rows(filters: Filters, tensor: Tensor | None = None) -> Tensor:
    """The layer's weight, or a tensor of the same shape, as float64 (C, n): one row per output channel."""
    given = filters.layer.weight if tensor is None else tensor
    assert isinstance(given, Tensor)
    return _plain(given).movedim(filters.axis, 0).flatten(1)


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float64)


def _normalised(values: Tensor, normalise: str) -> Tensor:
    if normalise == "none" or not len(values):
        return values
    size = {"max": values.max(), "mean": values.mean(), "norm": values.norm()}[normalise]
    return values / size if size > 0 else values
