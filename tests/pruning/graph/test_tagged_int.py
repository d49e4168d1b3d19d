from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest
import torch

from yolo_slim.pruning.graph.tagged_int import AttributeSource, DimSource, TaggedInt, untag


def tag(value, used, source=None):
    return TaggedInt(value, (source or DimSource(np.arange(value)),), used.append)


@pytest.mark.parametrize(
    ("operation", "value"),
    [
        (lambda n: n + 1, 9),
        (lambda n: 1 - n, -7),
        (lambda n: n * n, 64),
        (lambda n: 17 // n, 2),
        (lambda n: n % 3, 2),
        (lambda n: -n, -8),
        (lambda n: n >> 1, 4),
        (lambda n: n & 12, 8),
        (lambda n: 1 << n, 256),
        (lambda n: abs(n), 8),
        (lambda n: round(n), 8),
        (lambda n: math.ceil(n), 8),
    ],
)
def test_integer_arithmetic_is_followed_but_no_longer_exact(operation, value):
    used = []
    result = operation(tag(8, used))
    assert isinstance(result, TaggedInt)
    assert (result, result.exact, used[:-1]) == (value, False, [])  # the comparison itself is a use


@pytest.mark.parametrize(
    ("operation", "value"),
    [
        (lambda n: n / 2, 4.0),
        (lambda n: n**0.5, 8**0.5),
        (lambda n: 2**n, 256),
        (lambda n: n + 0.5, 8.5),
        (lambda n: float(n), 8.0),
        (lambda n: int(n), 8),
        (lambda n: hash(n), 8),
        (lambda n: n.bit_length(), 4),
        (lambda n: n == 8, True),
        (lambda n: n == 7, False),
        (lambda n: n != 8, False),
        (lambda n: n > 3, True),
        (lambda n: n in (3, 8), True),
        (lambda n: divmod(n, 3), (2, 2)),
    ],
)
def test_what_cannot_be_followed_is_reported(operation, value):
    used = []
    result = operation(tag(8, used))
    assert used
    assert not isinstance(result, TaggedInt)
    assert result == value


def test_sizes_that_move_together_may_be_compared():
    used = []
    labels = np.arange(8)
    first, second = (TaggedInt(8, (DimSource(source),), used.append) for source in (labels, labels.copy()))
    assert first == second
    assert not used
    assert tag(8, used) == TaggedInt(8, (DimSource(np.arange(8, 16)),), used.append)
    assert len(used) == 2


def test_both_sources_of_a_sum_are_kept():
    used = []
    attribute = AttributeSource("block", "c", None)
    assert (tag(8, used) + tag(4, used, attribute)).sources[1] is attribute


def test_a_tag_is_an_int_and_does_not_outlive_a_copy():
    n = tag(3, [])
    assert [0, 1, 2, 5][n] == 5
    assert list(range(n)) == [0, 1, 2]
    assert type(copy.copy(n)) is type(copy.deepcopy([n])[0]) is type(pickle.loads(pickle.dumps(n))) is int


def test_untag_goes_into_every_container():
    n = tag(3, [])
    values = untag([n, (n, "a"), slice(n, None), torch.Size([n, 2]), 2.5])
    assert values == [3, (3, "a"), slice(3, None), (3, 2), 2.5]
    assert not any(type(value) is TaggedInt for value in (values[0], *values[1], values[2].start, *values[3]))


@pytest.mark.parametrize(
    ("compare", "settled"),
    [
        (lambda n: n == 0, True),
        (lambda n: n != 0, True),
        (lambda n: n > 0, True),
        (lambda n: n >= 1, True),
        (lambda n: n < 1, True),
        (lambda n: n == 9, True),  # it only shrinks
        (lambda n: n < 9, True),
        (lambda n: n == 8, False),
        (lambda n: n == 4, False),
        (lambda n: n == 1, False),
        (lambda n: n > 4, False),
        (lambda n: n <= 7, False),
        (lambda n: n - 8 == 0, False),
        (lambda n: n == 0.5, False),
    ],
)
def test_a_comparison_counts_only_if_a_smaller_size_could_change_it(compare, settled):
    used = []
    size = TaggedInt(8, (DimSource(np.arange(8)),), used.append)
    assert compare(size) == compare(8)
    assert bool(used) != settled
