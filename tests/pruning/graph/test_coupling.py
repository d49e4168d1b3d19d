from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from yolo_slim.pruning.graph.coupling import connected, fixed_by_equal_counts


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40), st.data())
def test_components_equal_those_of_a_search(count, data):
    ends = st.integers(0, count - 1)
    pairs = data.draw(st.lists(st.tuples(ends, ends), max_size=60))
    edges = [(np.array([a]), np.array([b])) for a, b in pairs]
    number, group_of = connected(count, edges)
    neighbours = {i: {i} for i in range(count)}
    for a, b in pairs:
        merged = neighbours[a] | neighbours[b]
        for i in merged:
            neighbours[i] = merged
    assert number == len({min(s) for s in neighbours.values()}) == group_of.max() + 1
    assert all((group_of[i] == group_of[j]) == (j in neighbours[i]) for i in range(count) for j in range(count))


def test_a_long_chain():
    labels = np.random.default_rng(0).permutation(10_000)
    assert connected(10_000, [(labels[:-1], labels[1:])])[0] == 1


def test_a_fixed_part_fixes_the_others_step_by_step():
    parts = [np.arange(i, i + 2) for i in range(0, 8, 2)]
    equal = [[parts[2], parts[3]], [parts[1], parts[2]], [parts[0], parts[1]]]
    fixed = np.zeros(8, bool)
    fixed[parts[0]] = True
    for found in fixed_by_equal_counts(fixed, equal):
        for part in found:
            fixed[part] = True
    assert fixed.all()


def test_a_partly_fixed_part_leaves_room():
    fixed = np.array([True, False, False, False])
    assert list(fixed_by_equal_counts(fixed, [[np.array([0, 1]), np.array([2, 3])]])) == []
