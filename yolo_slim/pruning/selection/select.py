"""Which groups of channels are dropped, given a score per group."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from yolo_slim.pruning.graph.graph import ChannelGraph
from yolo_slim.pruning.selection.allocate import Sensitivities
from yolo_slim.pruning.selection.budgets import Budgets
from yolo_slim.pruning.selection.constraints import Constraints
from yolo_slim.pruning.selection.cost import CostModel
from yolo_slim.pruning.selection.curves import read_curves
from yolo_slim.pruning.selection.pools import Pool, UnreachableError, asked_ratio, make_pools
from yolo_slim.pruning.selection.selection import Selected, Selection, Widths, expect_selection
from yolo_slim.pruning.selection.units import prunable_members
from yolo_slim.wording import brief


def select(
    graph: ChannelGraph,
    scores: Tensor,
    selection: Selection,
    cost: CostModel | None = None,
) -> Selected:
    """Drops the groups with the lowest scores, as many as the ratio asks for or the budgets need.

    Every layer keeps its best ``min_channels`` channels. Parts that must stay equal keep as many channels as the part
    that keeps most. Every layer keeps a multiple of ``round_to``, see :class:`Constraints`; "auto" is the largest of
    16, 8 and 1 that what is asked can be reached with. A ratio counts a group that has a score as often as it has
    prunable channels; the largest number not above the asked one is dropped (with ``round_to``, what the lowest
    threshold within 1% of it gives). A budget is met with the lowest threshold that does; if that ends more than 1%
    below, because ``round_to`` makes large steps, the best channels are taken back where the budget has room for a
    step. A latency is met as ``cost`` foresees it, less a margin of 2% for what is measured then. Equal scores are
    dropped in the order of the groups.

    With scope "local" every layer, or part that must stay equal, loses the largest number of its channels not above
    the ratio, less what the rules keep; a budget searches for one ratio. Channels that ``ratios`` concerns are dropped
    first, at their ratios; a budget is then reached with the others.

    With a ``sensitivity`` the scores only say which channels of a unit go first. How many of each go follows from what
    was measured, by ``allocate``: it makes other scores of them, which are then compared as above.

    Args:
        graph: The channel graph.
        scores: (num_groups,), higher = keep; groups with +inf are always kept.
        selection: What to drop.
        cost: Counts parameters and operations, foresees milliseconds; needed by budgets of these and by ``per``.

    Raises:
        ValueError: If the scores do not fit the graph or contain NaN, no channel is prunable, a pattern matches
            nothing, ``cost`` is missing, or a budget cannot be reached.

    Example:
        >>> graph = trace(net, torch.rand(1, 3, 9, 9))  # gammas 0.5, 0, 2 and 0.1
        >>> selected = select(graph, gamma_importance(net, graph), Selection(ratio=0.5, min_channels=1))
        >>> selected.dropped.nonzero().flatten()
        tensor([1, 3])
        >>> selected.reached, round(selected.threshold, 3)
        (0.5, 0.1)
    """
    expect_selection(selection)
    values = _values(graph, scores, selection.per, cost)
    members = scored_members(graph, selection, values)
    if selection.sensitivity is None:
        return _lowest(graph, values, members, selection, cost)
    curves, channels = read_curves(selection.sensitivity), prunable_members(graph, selection)
    measured = Sensitivities(graph, curves, members, channels, _values(graph, scores, "channel", None))
    # What units save is not quite a sum: where one ceiling for all units is better than the knapsack, it is taken.
    tried = ("knapsack", "equal_loss") if selection.allocate == "knapsack" else (selection.allocate,)
    found = []
    for allocate in tried:
        values = measured.values(allocate, cost, list(selection.limits))
        if selection.per != "channel":
            values = _values(graph, torch.from_numpy(values), selection.per, cost)
        rise = measured.highest if allocate == "equal_loss" else measured.predicted
        selected = _lowest(graph, values, members, selection, cost, rise)
        found.append(replace(selected, predicted_rise=measured.predicted(selected.dropped.numpy())))
    return min(found, key=lambda selected: selected.predicted_rise or 0.0)


def _lowest(
    graph: ChannelGraph,
    values: np.ndarray,
    members: np.ndarray,
    selection: Selection,
    cost: CostModel | None,
    rise: Callable[[np.ndarray], float] | None = None,
) -> Selected:
    """Drops the groups with the lowest values; arguments as of :func:`make_pools`."""
    dense = cost.dense() if cost is not None and selection.limits else {}
    limits = {name: limit.of_dense(dense.get(name)) for name, limit in selection.limits.items()}
    budgets = Budgets(limits, cost)
    pools, order = make_pools(graph, selection, members, values, budgets, rise)
    rank = np.full(graph.num_groups, len(order))
    rank[order] = np.arange(len(order))
    for widths in selection.widths:
        constraints = Constraints(graph, members > 0, rank, selection.min_channels, widths)
        chosen, counts, unreachable = np.zeros(graph.num_groups, bool), [], ""
        for pool in pools:
            try:
                count, chosen = pool.choose(chosen, constraints)
            except UnreachableError:
                unreachable = _unreachable(graph, pool, chosen, constraints, budgets, selection.min_channels, widths)
                break
            counts.append(count)
        dropped = constraints.dropped(chosen)
        if not unreachable and not any(pool.capped(count, dropped) for pool, count in zip(pools, counts, strict=True)):
            break
    if unreachable:
        raise ValueError(unreachable)

    below = np.zeros(graph.num_groups, bool)
    for pool, count in zip(pools, counts, strict=True):
        below[pool.order[: pool.below(count, dropped)]] = True
    reached = float(members[dropped].sum() / members.sum())
    groups = torch.from_numpy(dropped)
    return Selected(
        dropped=groups,
        request=str(selection),
        asked=reached if limits or selection.max_rise is not None else asked_ratio(pools),
        reached=reached,
        threshold=float(values[dropped].max()) if dropped.any() else 0.0,
        held=_per_layer(graph, below & constraints.protected),
        bound=_per_layer(graph, below & chosen & ~constraints.protected & ~dropped),
        round_to=widths.multiple,
        kept_below=int(members[below & ~dropped].sum()),
        params=None if cost is None else cost.params(groups),
        flops=None if cost is None else cost.flops(groups),
        latency_ms=cost.latency_ms(groups) if cost is not None and "max_latency_ms" in limits else None,
        emptying=_emptying(graph, values, members) if selection.scope == "global" and rise is None else None,
    )


def scored_members(graph: ChannelGraph, selection: Selection, values: np.ndarray) -> np.ndarray:
    """How many prunable channels each group has, as a ratio counts them, int64 (num_groups,); none without a score.

    Args:
        graph: The channel graph.
        selection: What it spares and ignores.
        values: float64 (num_groups,), the scores, +inf where there is none.

    Raises:
        ValueError: If there is no prunable channel, or none with a score.
    """
    members = prunable_members(graph, selection)
    if not members.any():
        raise ValueError("no channel is prunable: see graph.reasons, and the patterns in ignore")
    members[values == np.inf] = 0
    if not members.any():
        raise ValueError("no prunable channel has a score: score models without BatchNorm by 'l1', 'l2' or 'taylor'")
    return members


def _values(graph: ChannelGraph, scores: Tensor, per: str, cost: CostModel | None) -> np.ndarray:
    """The scores, checked, and divided by what each group saves relative to the mean of the groups that have a score.

    A group that saves nothing counts as saving one parameter or operation, or a thousandth of the mean time.
    """
    if not isinstance(scores, Tensor) or scores.is_complex():
        raise ValueError(f"scores={brief(scores)}: expected a tensor of one number per group, ({graph.num_groups},)")
    if scores.shape != (graph.num_groups,) or bool(scores.isnan().any()):
        raise ValueError(
            f"expected one score per group, ({graph.num_groups},), without NaN; got {tuple(scores.shape)}"
            f" with {int(scores.isnan().sum())} NaN"
        )
    values = scores.detach().to("cpu", torch.float64).numpy()
    if per == "channel":
        return values
    if cost is None:
        raise ValueError(f"per={per!r} needs the cost of the channels: pass cost=CostModel(model, graph, inputs)")
    saving, finite = cost.saving(per).numpy(), np.isfinite(values)
    least = 1e-3 * saving[finite].mean() if per == "latency" and saving[finite].any() else 1.0
    saving = saving.clip(min=least)
    return values / (saving / saving[finite].mean()) if finite.any() else values


def _emptying(graph: ChannelGraph, values: np.ndarray, members: np.ndarray) -> tuple[float, float] | None:
    """The highest threshold below which no layer has all of its channels, and the ratio of the channels below it."""
    prunable = [groups for groups in graph.arrays.layers.values() if (members[groups] > 0).all()]
    if not prunable:
        return None
    threshold = min(float(values[groups].max()) for groups in prunable)
    return threshold, float(members[values < threshold].sum() / members.sum())


def _per_layer(graph: ChannelGraph, groups: np.ndarray) -> dict[str, int]:
    counts = {name: int(groups[channels].sum()) for name, channels in graph.arrays.layers.items()}
    return {name: count for name, count in counts.items() if count}


def _unreachable(
    graph: ChannelGraph,
    pool: Pool,
    chosen: np.ndarray,
    constraints: Constraints,
    budgets: Budgets,
    min_channels: int,
    widths: Widths,
) -> str:
    """What is reached at best instead of the budgets, and what holds it."""
    free = np.zeros(graph.num_groups, bool)
    free[pool.order] = True
    dropped = constraints.dropped(chosen | free)
    holders = {
        f"min_channels={min_channels}": free & constraints.protected,
        f"equal parts and round_to={widths.multiple}": free & ~constraints.protected & ~dropped,
        "being fixed, spared, ignored, under ratios or without a score": ~free & ~dropped,
    }
    kept = {why: sum(_per_layer(graph, groups).values()) for why, groups in holders.items()}
    held = ", ".join(f"{why} ({count:,} channels)" for why, count in kept.items() if count)
    return f"{'; '.join(budgets.unmet(dropped))}; held by {held}"
