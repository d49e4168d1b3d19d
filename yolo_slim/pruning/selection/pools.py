"""Which groups share a ratio, and in what order they go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from yolo_slim.pruning.graph.coupling import connected
from yolo_slim.pruning.graph.graph import ChannelGraph


@dataclass(frozen=True)
class Pool:
    """Groups that are dropped at one ratio.

    Attributes:
        ratio: share of their channels to drop; None where a budget decides.
        members: int64 (num_groups,), how often a ratio counts each group of the pool; 0 for other groups.
        order: int64 (n,), its candidates in the order of dropping.
        share: with scope "local", float64 (n,): share of a layer's channels that is gone once it loses this candidate
            and all that go before it; ascending. None with scope "global".
    """

    ratio: float | None
    members: np.ndarray
    order: np.ndarray
    share: np.ndarray | None

    @property
    def wanted(self) -> int:
        """How many channels the ratio asks for."""
        return int((self.ratio or 0.0) * int(self.members.sum()) + 1e-9)


def make_pools(
    graph: ChannelGraph,
    members: np.ndarray,
    candidates: np.ndarray,
    values: np.ndarray,
    ratio: float | None,
    ratios: Sequence[tuple[str, float]],
    local: bool,
) -> tuple[list[Pool], np.ndarray]:
    """One pool for each pattern of ``ratios``, and one for all groups that none of them concerns, the last.

    A pattern concerns the channels that the matched layers make, with all that is coupled to them and the parts that
    must keep as many channels as theirs. Of several patterns the last one wins.

    Args:
        graph: the channel graph.
        members: int64 (num_groups,), prunable channels of each group.
        candidates: bool (num_groups,), groups that may be dropped.
        values: (num_groups,), lowest first.
        ratio: ratio of the last pool.
        ratios: pairs of a pattern and a ratio.
        local: whether the order goes by the share of a layer rather than by the values.

    Returns:
        The pools, and int64 (n,), the candidates of all pools in the order of dropping.

    Raises:
        ValueError: if a pattern matches no layer, or asks to drop from layers that may not lose a channel.
    """
    pool_of = np.full(graph.num_groups, len(ratios))
    for i, (pattern, asked) in enumerate(ratios):
        concerned = _with_equal_parts(graph, graph.made_in(pattern, "ratios").numpy())
        if asked > 0 and not members[concerned].any():
            raise ValueError(f"ratios: no channel that {pattern!r} matches is prunable, see graph.reasons and ignore")
        pool_of[concerned] = i
    order = np.flatnonzero(candidates)
    order = order[np.argsort(values[order], kind="stable")]
    share = None
    if local:
        share = _shares(_cells(graph, pool_of), order, members)
        order = order[np.argsort(share[order], kind="stable")]
    pools = []
    for i, asked_here in enumerate([*(asked for _, asked in ratios), ratio]):
        own = order[pool_of[order] == i]
        pools.append(Pool(asked_here, np.where(pool_of == i, members, 0), own, None if share is None else share[own]))
    return pools, order


def _with_equal_parts(graph: ChannelGraph, groups: np.ndarray) -> np.ndarray:
    """``groups`` with the parts that must keep as many channels as a part with one of them."""
    waiting = [[part.numpy() for part in parts] for parts in graph.equal_counts]
    while touched := [parts for parts in waiting if any(groups[part].any() for part in parts)]:
        waiting = [parts for parts in waiting if not any(parts is other for other in touched)]
        for parts in touched:
            for part in parts:
                groups[part] = True
    return groups


def _cells(graph: ChannelGraph, pool_of: np.ndarray) -> np.ndarray:
    """Int64 (num_groups,): equal for groups of layers that share groups, apart by pool and by parts kept equal."""
    edges = [(groups[:-1].numpy(), groups[1:].numpy()) for groups in graph.layers.values()]
    _, cell = connected(graph.num_groups, edges)
    tags = [pool_of]
    for parts in graph.equal_counts:
        tags.append(np.zeros(graph.num_groups, np.int64))
        for i, part in enumerate(parts, start=1):
            tags[-1][part.numpy()] = i
    for tag in tags:
        cell = np.unique(cell * (int(tag.max()) + 1) + tag, return_inverse=True)[1].reshape(-1)
    return cell


def _shares(cell: np.ndarray, order: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Share of a cell's channels in each candidate and those before it in ``order``, float64 (num_groups,)."""
    total = np.bincount(cell, weights=members)
    by_cell = order[np.argsort(cell[order], kind="stable")]
    running = np.cumsum(members[by_cell])
    first = np.searchsorted(cell[by_cell], cell[by_cell])
    before = running[first] - members[by_cell[first]]
    share = np.ones(len(cell))
    share[by_cell] = (running - before) / total[cell[by_cell]]
    return share
