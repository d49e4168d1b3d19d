"""Which groups share a ratio or the budgets, and how many of them go."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from yolo_slim.pruning.graph.graph import ChannelGraph
from yolo_slim.pruning.selection.budgets import CLOSE, Budgets
from yolo_slim.pruning.selection.constraints import Constraints
from yolo_slim.pruning.selection.selection import Selection
from yolo_slim.pruning.selection.units import cells, shares


@dataclass(frozen=True)
class Pool:
    """Groups of which so many are dropped as one request asks for.

    Attributes:
        members: int64 (num_groups,), how often a ratio counts each group of the pool; 0 for other groups.
        order: int64 (n,), its candidates in the order of dropping.
    """

    members: np.ndarray
    order: np.ndarray

    @property
    def asked(self) -> float:
        """The share of its channels that is asked for, in [0, 1); 0 where no ratio decides."""
        return 0.0

    def choose(self, chosen: np.ndarray, constraints: Constraints) -> tuple[int, np.ndarray]:
        """Chooses what goes, beside what other pools have chosen.

        Args:
            chosen: Bool (num_groups,), what other pools have chosen.
            constraints: What stays of what is chosen.

        Returns:
            How many of the candidates it took to meet the request, and bool (num_groups,), all that is chosen then.

        Raises:
            UnreachableError: If the request cannot be met.
        """
        raise NotImplementedError

    def capped(self, count: int, dropped: np.ndarray) -> bool:
        """Whether the rules keep so many that the request is missed.

        Args:
            count: As :meth:`choose` returned it.
            dropped: Bool (num_groups,), what is dropped in the end.
        """
        return False

    def below(self, count: int, dropped: np.ndarray) -> int:
        """How many of the candidates score below the highest dropped one, or were all asked to go.

        Args:
            count: As :meth:`choose` returned it.
            dropped: Bool (num_groups,), what is dropped in the end.
        """
        return int(np.flatnonzero(dropped[self.order]).max(initial=0))

    def first(self, count: int, chosen: np.ndarray) -> np.ndarray:
        """What is chosen with the first ``count`` candidates added."""
        more = chosen.copy()
        more[self.order[:count]] = True
        return more


class UnreachableError(Exception):
    """A request cannot be met, even by dropping all candidates of its pool."""


@dataclass(frozen=True)
class RatioPool(Pool):
    """The lowest groups, as many as make up the largest number of channels that is not above the ratio.

    Where layers keep multiples, the lowest threshold that comes within 1% of it is taken, with all groups that score
    as much: what lies above, such as channels that live above those that are zero, is worth more than the rest of the
    1%. Where any width is allowed, further groups fill up what one threshold leaves.

    Attributes:
        ratio: Share of the channels to drop.
        values: float64 (n,), ascending: the score of each candidate.
        layers: The groups of each layer.
    """

    ratio: float
    values: np.ndarray
    layers: tuple[np.ndarray, ...]

    @property
    def asked(self) -> float:
        """The ratio."""
        return self.ratio

    @property
    def wanted(self) -> int:
        """How many channels the ratio asks for."""
        return int(self.ratio * int(self.members.sum()) + 1e-9)

    def choose(self, chosen: np.ndarray, constraints: Constraints) -> tuple[int, np.ndarray]:
        """Finds the threshold by bisection."""
        order, values = self.order, self.values

        def first(count: int) -> np.ndarray:
            more = chosen.copy()
            more[order[:count]] = True
            return more

        def gone(count: int) -> int:
            return int(self.members[constraints.dropped(first(count))].sum())

        most = bisect_right(range(len(order) + 1), self.wanted, key=gone) - 1
        if constraints.any_width:
            chosen = first(most)
            chosen[self._further(most, chosen, constraints)] = True
            return most, chosen
        while most < len(order) and gone(most) < CLOSE * self.wanted:
            # The step that comes next is too large: its layers stay as they are, and others have smaller ones.
            blocked = [layer for layer in self.layers if order[most] in layer]
            stay = ~np.isin(order, np.concatenate([order[most : most + 1], *blocked]))
            stay[:most] = True
            order, values = order[stay], values[stay]
            most = bisect_right(range(len(order) + 1), self.wanted, lo=most, key=gone) - 1
        fewest = bisect_left(range(len(order) + 1), CLOSE * self.wanted, hi=most, key=gone)
        if 0 < fewest < most:
            most = min(most, int(np.searchsorted(values, values[fewest - 1], side="right")))
        last = int(np.flatnonzero(self.order == order[most - 1])[0]) + 1 if most else 0
        return last, first(most)

    def capped(self, count: int, dropped: np.ndarray) -> bool:
        """Whether all candidates were asked to go and too many had to stay."""
        return count == len(self.order) and int(self.members[dropped].sum()) < self.wanted

    def below(self, count: int, dropped: np.ndarray) -> int:
        """All candidates where all were asked to go and some had to stay."""
        if self.capped(count, dropped):
            return count
        return super().below(count, dropped)

    def _further(self, count: int, chosen: np.ndarray, constraints: Constraints) -> list[int]:
        """Further groups that fit into what is left of the number; those in constraints would not fit alone."""
        left = self.wanted - int(self.members[constraints.dropped(chosen)].sum())
        rest = self.order[count:]
        further = []
        for group in rest[~(constraints.protected | constraints.equal)[rest]]:
            if self.members[group] <= left:
                further.append(int(group))
                left -= int(self.members[group])
            if left == 0:
                break
        return further


@dataclass(frozen=True)
class LocalPool(Pool):
    """The same share of every layer.

    Attributes:
        ratio: Share of the channels of each layer to drop.
        share: float64 (n,), ascending: share of a layer's channels that is gone once it loses this candidate and all
            that go before it.
    """

    ratio: float
    share: np.ndarray

    @property
    def asked(self) -> float:
        """The ratio."""
        return self.ratio

    def choose(self, chosen: np.ndarray, constraints: Constraints) -> tuple[int, np.ndarray]:
        """Takes what does not exceed the ratio in its layer."""
        count = int(np.searchsorted(self.share, self.ratio + 1e-9, side="right"))
        return count, self.first(count, chosen)

    def below(self, count: int, dropped: np.ndarray) -> int:
        """All that were asked to go: there is no threshold."""
        return count


@dataclass(frozen=True)
class BudgetPool(Pool):
    """The fewest groups with which the budgets are met.

    Attributes:
        budgets: The limits.
        layers: The groups of each layer.
    """

    budgets: Budgets
    layers: tuple[np.ndarray, ...]

    def choose(self, chosen: np.ndarray, constraints: Constraints) -> tuple[int, np.ndarray]:
        """Searches by what the model costs then, and takes back what there is room for."""
        count = self.budgets.search(len(self.order), lambda n: constraints.dropped(self.first(n, chosen)))
        if count is None:
            raise UnreachableError
        chosen = self.first(count, chosen)
        return count, self.budgets.give_back(chosen, self.order[:count], constraints.dropped, self.layers)


@dataclass(frozen=True)
class RisePool(Pool):
    """The lowest groups, as long as what is foreseen of the loss stays within a limit.

    Attributes:
        rise: Bool (num_groups,), what is dropped -> the figure that is limited.
        most: The limit.
    """

    rise: Callable[[np.ndarray], float]
    most: float

    def choose(self, chosen: np.ndarray, constraints: Constraints) -> tuple[int, np.ndarray]:
        """Finds the largest number by bisection."""
        beyond = range(len(self.order) + 1)
        count = bisect_right(beyond, self.most, key=lambda n: self.rise(constraints.dropped(self.first(n, chosen)))) - 1
        return max(count, 0), self.first(max(count, 0), chosen)


def make_pools(
    graph: ChannelGraph,
    selection: Selection,
    members: np.ndarray,
    values: np.ndarray,
    budgets: Budgets,
    rise: Callable[[np.ndarray], float] | None = None,
) -> tuple[list[Pool], np.ndarray]:
    """One pool for each pattern of ``selection.ratios``, and one for all groups that none of them concerns, the last.

    A pattern concerns the channels that the matched layers make, with all that is coupled to them and the parts that
    must keep as many channels as theirs. Of several patterns the last one wins.

    Args:
        graph: The channel graph.
        selection: What to drop.
        members: int64 (num_groups,), prunable channels of each group; a candidate has some.
        values: (num_groups,), lowest first.
        budgets: The limits of the selection.
        rise: What its ``max_rise`` limits, as a function of bool (num_groups,), what is dropped.

    Returns:
        The pools, and int64 (n,), the candidates of all pools in the order of dropping.

    Raises:
        ValueError: If a pattern matches no layer, or asks to drop from layers that may not lose a channel.
    """
    ratios = selection.ratio_list
    pool_of = np.full(graph.num_groups, len(ratios))
    for i, (pattern, asked) in enumerate(ratios):
        concerned = _with_equal_parts(graph.arrays.equal_counts, graph.made_in(pattern, "ratios").numpy())
        if asked > 0 and not members[concerned].any():
            raise ValueError(f"ratios: no channel that {pattern!r} matches is prunable, see graph.reasons and ignore")
        pool_of[concerned] = i
    order = np.flatnonzero(members)
    order = order[np.argsort(values[order], kind="stable")]
    local = selection.scope == "local"
    if local:
        share = shares(cells(graph, pool_of), order, members)
        order = order[np.argsort(share[order], kind="stable")]
    layers = tuple(graph.arrays.layers.values())
    pools: list[Pool] = []
    for i, asked_here in enumerate([*(asked for _, asked in ratios), selection.ratio]):
        own, counted = order[pool_of[order] == i], np.where(pool_of == i, members, 0)
        if i == len(ratios) and rise is not None and selection.max_rise is not None:
            pools.append(RisePool(counted, own, rise, selection.max_rise))
        elif i == len(ratios) and budgets.limits:
            pools.append(BudgetPool(counted, own, budgets, layers))
        elif local:
            pools.append(LocalPool(counted, own, asked_here, share[own]))
        else:
            pools.append(RatioPool(counted, own, asked_here, values[own], layers))
    return pools, order


def asked_ratio(pools: Iterable[Pool]) -> float:
    """The ratio that all pools together ask for, by their channels."""
    asked = [(pool.asked, int(pool.members.sum())) for pool in pools if pool.members.any()]
    return asked[0][0] if len(asked) == 1 else sum(r * n for r, n in asked) / sum(n for _, n in asked)


def _with_equal_parts(equal_counts: list[list[np.ndarray]], groups: np.ndarray) -> np.ndarray:
    """``groups`` with the parts that must keep as many channels as a part with one of them."""
    waiting = list(equal_counts)
    while touched := [parts for parts in waiting if any(groups[part].any() for part in parts)]:
        waiting = [parts for parts in waiting if not any(parts is other for other in touched)]
        for parts in touched:
            for part in parts:
                groups[part] = True
    return groups
