"""Which groups of channels are dropped, given a score per group."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from yolo_slim.pruning.graph.graph import ChannelGraph
from yolo_slim.pruning.selection.budgets import Budgets
from yolo_slim.pruning.selection.constraints import KeepRules
from yolo_slim.pruning.selection.cost import CostModel
from yolo_slim.pruning.selection.pools import Pool, make_pools
from yolo_slim.pruning.selection.selection import Selected, Selection, expect_selection
from yolo_slim.wording import brief


def select(
    graph: ChannelGraph,
    scores: Tensor,
    selection: Selection,
    cost: CostModel | None = None,
    measure: Callable[[Tensor], float] | None = None,
) -> Selected:
    """Drops the groups with the lowest scores, as many as the ratio asks for or the budgets need.

    Every layer keeps its best ``min_channels`` channels. Parts that must stay equal keep as many channels as the part
    that keeps most. Every layer keeps a multiple of ``round_to``, see :class:`KeepRules`. A ratio counts a group that
    has a score as often as it has prunable channels; the largest number not above the asked one is dropped (with
    ``round_to``, of what one threshold gives). A budget is met with the lowest threshold that does; if that ends more
    than 1% below, because ``round_to`` makes large steps, the best channels are taken back where the budget has room
    for a step. A latency is met as measured, and as closely as measurements are steady. Equal scores are dropped in
    the order of the groups.

    With scope "local" every layer, or part that must stay equal, loses the largest number of its channels not above
    the ratio, less what the rules keep; a budget searches for one ratio. Channels that ``ratios`` concerns are dropped
    first, at their ratios; a budget is then reached with the others.

    Args:
        graph: the channel graph.
        scores: (num_groups,), higher = keep; groups with +inf are always kept.
        selection: what to drop.
        cost: counts parameters and operations; needed by budgets of these and by ``per``.
        measure: bool (num_groups,), the dropped groups -> milliseconds of a forward; needed by ``max_latency_ms``.

    Raises:
        ValueError: if the scores do not fit the graph or contain NaN, no channel is prunable, a pattern matches
            nothing, ``cost`` or ``measure`` is missing, or a budget cannot be reached.
    """
    expect_selection(selection)
    values = _values(graph, scores, selection.per, cost)
    budgets = Budgets(selection.budgets, cost, measure)
    members = np.zeros(graph.num_groups, np.int64)
    for layer in graph.prunable_layers(selection.shortcuts, selection.ignore):
        np.add.at(members, layer.groups[layer.prunable].numpy(), 1)
    if not members.any():
        raise ValueError("no channel is prunable: see graph.reasons, and the patterns in ignore")
    members[values == np.inf] = 0
    candidates = members > 0
    total = int(members.sum())
    if total == 0:
        raise ValueError("no prunable channel has a score: score models without BatchNorm by 'l1', 'l2' or 'taylor'")
    ratio = None if selection.budgets else selection.ratio
    local = selection.scope == "local"
    pools, order = make_pools(graph, members, candidates, values, ratio, selection.ratio_list, local)
    rank = np.full(graph.num_groups, len(order))
    rank[order] = np.arange(len(order))
    rules = KeepRules(graph, candidates, rank, selection.min_channels, selection.round_to)
    chosen = np.zeros(graph.num_groups, bool)
    counts = []
    for pool in pools:
        count = _count(pool, chosen, rules, budgets)
        if count is None:
            raise ValueError(_unreachable(graph, pool, chosen, rules, budgets, selection))
        counts.append(count)
        chosen[pool.order[:count]] = True
        if pool.ratio is None:
            layers = [groups.numpy() for groups in graph.layers.values()]
            chosen = budgets.give_back(chosen, pool.order[:count], rules.dropped, layers)
        elif not local and selection.round_to == 1:
            chosen[_further(pool, count, chosen, rules)] = True
    dropped = rules.dropped(chosen)

    below = np.zeros(graph.num_groups, bool)
    for pool, count in zip(pools, counts, strict=True):
        below[pool.order[: _below_threshold(pool, count, dropped)]] = True
    reached = float(members[dropped].sum() / total)
    groups = torch.from_numpy(dropped)
    return Selected(
        dropped=groups,
        request=str(selection),
        asked=reached if budgets.limits else _asked(pools),
        reached=reached,
        threshold=float(values[dropped].max()) if dropped.any() else 0.0,
        held=_per_layer(graph, below & rules.protected),
        bound=_per_layer(graph, below & chosen & ~rules.protected & ~dropped),
        kept_below=int(members[below & ~dropped].sum()),
        params=None if cost is None else cost.params(groups),
        flops=None if cost is None else cost.flops(groups),
        latency_ms=budgets.value("max_latency_ms", dropped) if "max_latency_ms" in budgets.limits else None,
    )


def _values(graph: ChannelGraph, scores: Tensor, per: str, cost: CostModel | None) -> np.ndarray:
    """The scores, checked, and divided by what each group saves relative to the mean of the groups that have a score.

    A group that saves nothing counts as saving one parameter or operation.
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
    saving = cost.saving(per).numpy().clip(min=1.0)
    finite = np.isfinite(values)
    return values / (saving / saving[finite].mean()) if finite.any() else values


def _count(pool: Pool, chosen: np.ndarray, rules: KeepRules, budgets: Budgets) -> int | None:
    """How many of a pool's candidates to choose; None where that does not reach the budgets."""

    def drop(count: int) -> np.ndarray:
        trial = chosen.copy()
        trial[pool.order[:count]] = True
        return rules.dropped(trial)

    if pool.ratio is None:
        return budgets.search(len(pool.order), drop)
    if pool.share is not None:
        return int(np.searchsorted(pool.share, pool.ratio + 1e-9, side="right"))
    low, high = 0, len(pool.order)
    while low < high:
        middle = (low + high + 1) // 2
        if pool.members[drop(middle)].sum() <= pool.wanted:
            low = middle
        else:
            high = middle - 1
    return low


def _further(pool: Pool, count: int, chosen: np.ndarray, rules: KeepRules) -> list[int]:
    """Further groups that fit into what is left of the asked number; those in constraints would not fit alone."""
    left = pool.wanted - int(pool.members[rules.dropped(chosen)].sum())
    rest = pool.order[count:]
    found = []
    for group in rest[~(rules.protected | rules.equal)[rest]]:
        if pool.members[group] <= left:
            found.append(int(group))
            left -= int(pool.members[group])
        if left == 0:
            break
    return found


def _below_threshold(pool: Pool, count: int, dropped: np.ndarray) -> int:
    """How many of a pool's candidates score below its highest dropped one, or were all asked to go."""
    if pool.share is not None and pool.ratio is not None:
        return count
    if pool.ratio is not None and count == len(pool.order) and pool.members[dropped].sum() < pool.wanted:
        return count
    return int(np.flatnonzero(dropped[pool.order]).max(initial=0))


def _asked(pools: list[Pool]) -> float:
    asked = [(pool.ratio or 0.0, int(pool.members.sum())) for pool in pools if pool.members.any()]
    return asked[0][0] if len(asked) == 1 else sum(r * n for r, n in asked) / sum(n for _, n in asked)


def _per_layer(graph: ChannelGraph, groups: np.ndarray) -> dict[str, int]:
    counts = {name: int(groups[channels.numpy()].sum()) for name, channels in graph.layers.items()}
    return {name: count for name, count in counts.items() if count}


def _unreachable(
    graph: ChannelGraph, pool: Pool, chosen: np.ndarray, rules: KeepRules, budgets: Budgets, selection: Selection
) -> str:
    """What is reached at best instead of the budgets, and what holds it."""
    free = np.zeros(graph.num_groups, bool)
    free[pool.order] = True
    dropped = rules.dropped(chosen | free)
    holders = {
        f"min_channels={selection.min_channels}": free & rules.protected,
        f"equal parts and round_to={selection.round_to}": free & ~rules.protected & ~dropped,
        "being fixed, spared, ignored, under ratios or without a score": ~free & ~dropped,
    }
    kept = {why: sum(_per_layer(graph, groups).values()) for why, groups in holders.items()}
    held = ", ".join(f"{why} ({count:,} channels)" for why, count in kept.items() if count)
    return f"{'; '.join(budgets.unmet(dropped))}; held by {held}"
