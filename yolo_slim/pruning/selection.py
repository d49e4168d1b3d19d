"""Which groups of channels are dropped, given a score per group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from yolo_slim.pruning.graph import ChannelGraph


@dataclass
class Selection:
    """What to drop."""

    ratio: float = 0.5
    """Fraction of the channels of prunable BatchNorm layers to remove, in [0, 1)."""
    min_channels: int = 8
    """Channels that every layer keeps at least on its input and output side; a smaller layer keeps all it has."""
    shortcuts: str = "couple"
    """"couple" removes channels that meet in a residual addition together; "spare" leaves them all."""
    ignore: tuple[str, ...] = ()
    """Patterns (fnmatch) of module names whose output channels stay, with all modules inside."""

    def __post_init__(self) -> None:
        """Checks the values."""
        if not 0 <= self.ratio < 1:
            raise ValueError(f"ratio={self.ratio}: expected a fraction in [0, 1), e.g. 0.5 to remove half the channels")
        if self.min_channels < 1:
            raise ValueError(f"min_channels={self.min_channels}: expected at least 1, or layers would vanish")
        if self.shortcuts not in ("couple", "spare"):
            raise ValueError(f"shortcuts={self.shortcuts!r}: expected 'couple' or 'spare'")
        if isinstance(self.ignore, str):
            raise ValueError(f"ignore={self.ignore!r}: expected a list of patterns, e.g. ['{self.ignore}']")
        self.ignore = tuple(self.ignore)


@dataclass(frozen=True)
class Selected:
    """The outcome of a selection.

    Attributes:
        dropped: bool (num_groups,), the groups to drop.
        asked: the ratio that was asked for.
        reached: the ratio of dropped to prunable channels.
        threshold: highest score of a dropped group, 0 where none is dropped.
        held: BatchNorm layer -> number of channels that score below the threshold and are kept by ``min_channels``.
    """

    dropped: Tensor
    asked: float
    reached: float
    threshold: float
    held: dict[str, int]


def select(graph: ChannelGraph, scores: Tensor, selection: Selection) -> Selected:
    """Drops the groups with the lowest scores of the whole model, as many as the ratio asks for.

    Every layer keeps its best ``min_channels`` channels. Parts that must stay equal keep as many channels as the part
    that keeps most. The ratio counts a group as often as it has prunable gammas; the largest number of channels not
    above the asked one is dropped. Equal scores are dropped in the order of the groups.

    Args:
        graph: the channel graph.
        scores: (num_groups,), higher = keep; groups with +inf are always kept.
        selection: what to drop.

    Raises:
        ValueError: if the scores do not fit the graph or contain NaN, or if no channel is prunable.
    """
    if scores.shape != (graph.num_groups,) or bool(scores.isnan().any()):
        raise ValueError(
            f"expected one score per group, ({graph.num_groups},), without NaN; got {tuple(scores.shape)}"
            f" with {int(scores.isnan().sum())} NaN"
        )
    gammas = graph.prunable_gammas(selection.shortcuts, selection.ignore)
    members = np.zeros(graph.num_groups, np.int64)
    for gamma in gammas:
        np.add.at(members, gamma.groups[gamma.prunable].numpy(), 1)
    total = int(members.sum())
    if total == 0:
        raise ValueError("no channel is prunable: see graph.reasons, and the patterns in ignore")
    values = scores.detach().to("cpu", torch.float64).numpy()
    candidates = (members > 0) & (values < np.inf)
    order = np.flatnonzero(candidates)
    order = order[np.argsort(values[order], kind="stable")]
    rank = np.full(graph.num_groups, len(order))
    rank[order] = np.arange(len(order))
    equal = [[part.numpy() for part in parts] for parts in graph.equal_counts]
    protected = _protected(graph, candidates, rank, selection.min_channels)

    def drop_lowest(count: int) -> np.ndarray:
        dropped = np.zeros(graph.num_groups, bool)
        dropped[order[:count]] = True
        return _equalised(dropped & ~protected, equal, rank)

    wanted = int(selection.ratio * total + 1e-9)
    low, high = 0, len(order)
    while low < high:
        middle = (low + high + 1) // 2
        if members[drop_lowest(middle)].sum() <= wanted:
            low = middle
        else:
            high = middle - 1
    dropped = drop_lowest(low)
    _fill_up(dropped, order[low:], wanted, members, protected, equal)

    short = low == len(order) and members[dropped].sum() < wanted  # then the floors hold all that is left
    threshold_rank = len(order) if short else rank[dropped].max(initial=-1)
    below = protected & (rank < threshold_rank)
    held = {gamma.module: int(below[gamma.groups.numpy()].sum()) for gamma in gammas}
    return Selected(
        dropped=torch.from_numpy(dropped),
        asked=selection.ratio,
        reached=float(members[dropped].sum() / total),
        threshold=float(values[dropped].max(initial=0.0)),
        held={name: count for name, count in held.items() if count},
    )


def _protected(graph: ChannelGraph, candidates: np.ndarray, rank: np.ndarray, min_channels: int) -> np.ndarray:
    """The best groups of every axis, as many as its floor asks for, and of every part that an attribute counts, one.

    Small axes come first: what they protect also counts for the wider axes that contain them.
    """
    floors = [(groups.numpy(), min_channels) for axes in graph.axes.values() for groups in axes.values()]
    floors += [(attribute.groups.numpy(), 1) for attribute in graph.attributes]
    distinct = {(groups.tobytes(), floor): (groups, floor) for groups, floor in floors}
    protected = np.zeros(graph.num_groups, bool)
    for groups, floor in sorted(distinct.values(), key=lambda item: len(item[0])):
        free = groups[candidates[groups] & ~protected[groups]]
        missing = min(floor, len(groups)) - (len(groups) - len(free))
        protected[_best(free, rank, missing)] = True
    return protected


def _equalised(dropped: np.ndarray, equal: list[list[np.ndarray]], rank: np.ndarray) -> np.ndarray:
    """Takes the best dropped groups back until all parts of every constraint keep the same number of channels."""
    changed = True
    while changed:
        changed = False
        for parts in equal:
            kept = [len(part) - int(dropped[part].sum()) for part in parts]
            for part, count in zip(parts, kept, strict=True):
                if count < max(kept):
                    dropped[_best(part[dropped[part]], rank, max(kept) - count)] = False
                    changed = True
    return dropped


def _best(groups: np.ndarray, rank: np.ndarray, channels: int) -> np.ndarray:
    """The groups of highest rank that together have at least this many channels among ``groups``."""
    if channels <= 0:
        return groups[:0]
    distinct, sizes = np.unique(groups, return_counts=True)
    by_rank = np.argsort(-rank[distinct], kind="stable")
    enough = int(np.searchsorted(np.cumsum(sizes[by_rank]), channels)) + 1
    return distinct[by_rank[:enough]]


def _fill_up(
    dropped: np.ndarray,
    order: np.ndarray,
    wanted: int,
    members: np.ndarray,
    protected: np.ndarray,
    equal: Sequence[Sequence[np.ndarray]],
) -> None:
    """Drops further groups that fit into what is left of the asked number; those in constraints would not fit alone."""
    bound = protected.copy()
    for parts in equal:
        for part in parts:
            bound[part] = True
    left = wanted - int(members[dropped].sum())
    for group in order[~bound[order]]:
        if members[group] <= left:
            dropped[group] = True
            left -= int(members[group])
        if left == 0:
            return
