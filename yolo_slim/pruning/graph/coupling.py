"""Union of coupled labels into groups, and what follows for groups from constraints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np


def connected(count: int, edges: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[int, np.ndarray]:
    """Finds connected components by repeated minimum over edges and pointer jumping.

    Args:
        count: Number of labels.
        edges: Pairs of int64 arrays of the same length; the labels at the same place are connected.

    Returns:
        The number of components and int64 (count,), the component of each label, numbered from 0.
    """
    root = np.arange(count)
    if edges:
        first = np.concatenate([a for a, _ in edges])
        second = np.concatenate([b for _, b in edges])
        while not np.array_equal(root[first], root[second]):
            low = np.minimum(root[first], root[second])
            for end in (first, second):
                np.minimum.at(root, root[end], low)
            while not np.array_equal(root, root[root]):
                root = root[root]
    roots, group_of = np.unique(root, return_inverse=True)
    return len(roots), group_of.reshape(-1).astype(np.int64)


def fixed_by_equal_counts(
    fixed: np.ndarray, equal_counts: Sequence[Sequence[np.ndarray]]
) -> Iterator[list[np.ndarray]]:
    """Constraints with a part that is wholly fixed: none of their parts can shrink.

    The caller marks the parts of each constraint it receives as fixed, which may bring up further constraints.

    Args:
        fixed: Bool (num_groups,), read again after each constraint.
        equal_counts: Lists of int64 arrays of groups.
    """
    waiting = list(equal_counts)
    while waiting:
        ready = [parts for parts in waiting if any(fixed[part].all() for part in parts)]
        if not ready:
            return
        waiting = [parts for parts in waiting if not any(parts is other for other in ready)]
        for parts in ready:
            if not all(fixed[part].all() for part in parts):
                yield list(parts)
