"""Dead channels that stay where a budget or a multiple allows no more channels than it says."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from yolo_slim.pruning.graph.graph import ChannelGraph
from yolo_slim.pruning.repair.compensate import compensate
from yolo_slim.pruning.selection.cost import CostModel
from yolo_slim.pruning.selection.select import select
from yolo_slim.pruning.selection.selection import Selected, Selection
from yolo_slim.pruning.selection.units import prunable_members
from yolo_slim.pruning.sparsity.penalty import small_share


def stand_ins(model: nn.Module, graph: ChannelGraph, dropped: Tensor, kept: Tensor) -> Tensor:
    """The dead channels that an exact :func:`compensate` keeps.

    Args:
        model: The dense model, which is left as it is.
        graph: Its channel graph.
        dropped: Bool (num_groups,), the groups to drop.
        kept: Bool (num_groups,), dead channels that stay in any case.

    Returns:
        Bool (num_groups,), those of ``kept`` included.
    """
    done = compensate(copy.deepcopy(model), graph, dropped, exact=True, kept=kept)
    return (dropped | kept) & ~done.dropped


def mostly_small(model: nn.Module, graph: ChannelGraph, dropped: Tensor) -> bool:
    """Whether most of the gammas of dropped groups are small, so that their channels really are constants."""
    gammas = [
        model.get_submodule(name).weight[dropped[groups]]  # type: ignore[index]
        for name, groups in graph.gammas.items()
    ]
    return small_share(torch.cat([gamma.detach().abs().cpu() for gamma in gammas])) > 0.5 if gammas else False


def select_beside_stand_ins(
    model: nn.Module,
    graph: ChannelGraph,
    scores: Tensor,
    selection: Selection,
    cost: CostModel | None,
    selected: Selected,
) -> tuple[Selected, Tensor]:
    """Selects anew until the dead channels that exact compensation keeps are among those that stay.

    A budget is met with others in their place; of a ratio they are missing, so that none that lives goes for them.

    Returns:
        The selection, and bool (num_groups,), these channels.

    Raises:
        ValueError: If a budget cannot be reached with them, or only by leaving a layer none that lives; they count
            among the ``min_channels`` of their layer.
    """
    kept = torch.zeros_like(selected.dropped)
    while bool(((needed := stand_ins(model, graph, selected.dropped, kept)) & ~kept).any()):
        kept = needed
        asked = selection if selection.limits else _without(graph, selection, scores, kept)
        selected = select(graph, scores.masked_fill(kept.to(scores.device), float("inf")), asked, cost)
    for name, groups in graph.layers.items():
        if bool(kept[groups].any()) and not bool((~selected.dropped[groups] & ~kept[groups]).any()):
            raise ValueError(
                f"compensation='exact' leaves {name} no living channel with {selection}; use 'fold', or a larger "
                "min_channels"
            )
    return selected, kept


def _without(graph: ChannelGraph, selection: Selection, scores: Tensor, kept: Tensor) -> Selection:
    """What is left of a ratio for the channels that are not among ``kept``."""
    members = torch.from_numpy(prunable_members(graph, selection))
    members[scores.isinf().cpu()] = 0
    total, stay = int(members.sum()), int(members[kept].sum())
    return replace(selection, ratio=max(0.0, selection.ratio * total - stay) / max(1, total - stay))


@dataclass(frozen=True)
class Found:
    """What goes, and what is done about its constants.

    Attributes:
        selected: What goes.
        kept: Bool (num_groups,), dead channels that stay for exact compensation.
        compensation: "none", "fold" or "exact".
    """

    selected: Selected
    kept: Tensor
    compensation: str


def select_compensated(
    model: nn.Module,
    graph: ChannelGraph,
    scores: Tensor,
    selection: Selection,
    cost: CostModel | None,
    compensation: str,
) -> Found:
    """Selects with room for the dead channels that exact compensation keeps, where a budget or a multiple counts them.

    Args:
        model: The model; stays as it is.
        graph: Its channel graph.
        scores: (num_groups,), higher = keep.
        selection: What to drop.
        cost: As for :func:`select`.
        compensation: "none", "fold", "exact", or "auto": exact, but "fold" where a budget or multiple counts and most
            of the dropped channels live, or dead ones are too many for it.

    Raises:
        ValueError: As :func:`select` and :func:`select_beside_stand_ins` do.
    """
    selected = select(graph, scores, selection, cost)
    kept = torch.zeros_like(selected.dropped)
    if compensation not in ("auto", "exact"):
        return Found(selected, kept, compensation)
    if not selection.limits and selected.round_to == 1:
        return Found(selected, kept, "exact")
    if compensation == "auto" and not mostly_small(model, graph, selected.dropped):
        return Found(selected, kept, "fold")
    try:
        return Found(*select_beside_stand_ins(model, graph, scores, selection, cost, selected), "exact")
    except ValueError:
        if compensation == "exact":
            raise
        return Found(selected, kept, "fold")
