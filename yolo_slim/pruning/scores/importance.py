"""One score per group of coupled channels; a higher score is worth keeping more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from yolo_slim.pruning.graph.graph import ChannelGraph
from yolo_slim.pruning.scores.values import NORMALISATIONS, REDUCTIONS, combined, gamma_values, l1_values, l2_values

if TYPE_CHECKING:
    from yolo_slim.pruning.scores.taylor import Taylor

KINDS = ("gamma", "l1", "l2", "gamma_l1", "random", "taylor")


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


def importance_scores(
    model: nn.Module, graph: ChannelGraph, importance: Importance, taylor: Taylor | None = None
) -> Tensor:
    """Scores every group as ``importance`` says.

    Args:
        model: The model the graph was traced on, or a copy of it.
        graph: Its channel graph.
        importance: The kind of score, and how values of several layers are combined.
        taylor: Has observed the gradients of some batches; for ``kind="taylor"``.

    Returns:
        float64 (num_groups,), +inf for groups without a value. The kinds with gamma have none for groups that are not
        gated: zero gammas would not silence them.

    Raises:
        ValueError: If the kind is "taylor" and ``taylor`` is missing or has observed nothing.

    Example:
        With the network that :func:`yolo_slim.pruning.trace` shows, and gammas of 0.5, 0, 2 and 0.1:

        >>> graph = trace(net, torch.rand(1, 3, 9, 9))
        >>> [round(score, 3) for score in importance_scores(net, graph, Importance("gamma")).tolist()]
        [0.5, 0.0, 2.0, 0.1, inf, inf, inf, inf, inf]
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
        model: The model the graph was traced on, or a copy of it.
        graph: Its channel graph.

    Returns:
        float64 (num_groups,), +inf for groups without a gamma and for groups that are not gated.
    """  # noqa: D205
    return combined(graph, gamma_values(model, graph))


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
