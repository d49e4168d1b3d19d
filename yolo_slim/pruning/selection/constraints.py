"""What stays whatever its score: the best of every layer, equal parts, multiples."""

from __future__ import annotations

import numpy as np

from yolo_slim.pruning.graph.graph import ChannelGraph, GroupArrays
from yolo_slim.pruning.selection.selection import Widths


class Constraints:
    """The rules that a set of chosen groups must pass before it is dropped.

    1. Floors: every axis of every layer keeps its best ``min_channels``, a part that an attribute counts its best one.
    2. Equal parts: all parts of a constraint keep as many channels as the part that keeps most.
    3. Widths: every layer, and every part of a constraint or that an attribute counts, keeps a number of channels that
       ``round_to`` allows, rounded up.

    Groups are only ever taken back, the best first, so that a layer never keeps more when more is chosen.

    Args:
        graph: The channel graph.
        candidates: Bool (num_groups,), groups that may be dropped.
        rank: int64 (num_groups,), place of each candidate in the order of dropping.
        min_channels: Rule 1.
        widths: Rule 3.

    Attributes:
        protected: Bool (num_groups,), what rule 1 keeps.
        equal: Bool (num_groups,), what rule 2 concerns.
    """

    def __init__(
        self, graph: ChannelGraph, candidates: np.ndarray, rank: np.ndarray, min_channels: int, widths: Widths
    ) -> None:
        self._rank, self._widths = rank, widths
        arrays = graph.arrays
        self._constraints = arrays.equal_counts
        parts = [part for constraint in self._constraints for part in constraint]
        self.equal = np.zeros(graph.num_groups, bool)
        for part in parts:
            self.equal[part] = True
        self.protected = _protected(arrays, candidates, rank, min_channels)
        rounded = [*arrays.layers.values(), *parts, *arrays.counted]
        distinct = {groups.tobytes(): groups for groups in rounded if candidates[groups].any()}
        wide = [groups for groups in distinct.values() if len(groups) >= widths.least]
        self._rounded = sorted(wide, key=len) if widths.multiple > 1 else []
        self._all_rounded = np.concatenate(self._rounded) if self._rounded else np.zeros(0, np.int64)
        self._sizes = np.array([len(layer) for layer in self._rounded], np.int64)
        self._starts = np.cumsum(self._sizes) - self._sizes

    @property
    def any_width(self) -> bool:
        """Whether layers may keep any number of channels."""
        return not self._rounded

    def dropped(self, chosen: np.ndarray) -> np.ndarray:
        """What of the chosen groups, bool (num_groups,), can be dropped."""
        dropped = chosen & ~self.protected
        changed = True
        while changed:
            changed = False
            for parts in self._constraints:
                kept = [len(part) - int(dropped[part].sum()) for part in parts]
                for part, count in zip(parts, kept, strict=True):
                    changed |= self._take_back(dropped, part, max(kept) - count)
            for layer in self._uneven(dropped):
                stay = len(layer) - int(dropped[layer].sum())
                changed |= self._take_back(dropped, layer, self._widths.rounded(stay, len(layer)) - stay)
        return dropped

    def _uneven(self, dropped: np.ndarray) -> list[np.ndarray]:
        """The layers that rule 3 has something to say of; all are counted at once, since most are in order."""
        if not self._rounded:
            return []
        stay = self._sizes - np.add.reduceat(dropped[self._all_rounded].astype(np.int64), self._starts)
        uneven = (stay % self._widths.multiple != 0) & (stay < self._sizes)
        return [self._rounded[i] for i in np.flatnonzero(uneven)]

    def _take_back(self, dropped: np.ndarray, groups: np.ndarray, channels: int) -> bool:
        if channels > 0:
            dropped[_best(groups[dropped[groups]], self._rank, channels)] = False
        return channels > 0


def _protected(
    arrays: GroupArrays,
    candidates: np.ndarray,
    rank: np.ndarray,
    min_channels: int,
) -> np.ndarray:
    """The best groups of every axis, as many as its floor asks for, and of every part that an attribute counts, one.

    Small axes come first: what they protect also counts for the wider axes that contain them.
    """
    floors = [(groups, min_channels) for axes in arrays.axes.values() for groups in axes.values()]
    floors += [(groups, 1) for groups in arrays.counted]
    distinct = {(groups.tobytes(), floor): (groups, floor) for groups, floor in floors}
    protected = np.zeros(len(rank), bool)
    for groups, floor in sorted(distinct.values(), key=lambda item: len(item[0])):
        free = groups[candidates[groups] & ~protected[groups]]
        missing = min(floor, len(groups)) - (len(groups) - len(free))
        protected[_best(free, rank, missing)] = True
    return protected


def _best(groups: np.ndarray, rank: np.ndarray, channels: int) -> np.ndarray:
    """The groups of highest rank that together have at least this many channels among ``groups``."""
    if channels <= 0:
        return groups[:0]
    distinct, sizes = np.unique(groups, return_counts=True)
    by_rank = np.argsort(-rank[distinct], kind="stable")
    enough = int(np.searchsorted(np.cumsum(sizes[by_rank]), channels)) + 1
    return distinct[by_rank[:enough]]
