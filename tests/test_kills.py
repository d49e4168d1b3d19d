"""Killed at any moment, a training goes on to the very weights of one that nothing disturbed."""

from __future__ import annotations

import random

import pytest

from benchmarks.reliability.interruptions import kills, straight_run
from benchmarks.reliability.work import works


@pytest.mark.parametrize(
    ("verb", "count"),
    [("fit", 3), pytest.param("fit", 12, marks=pytest.mark.slow), pytest.param("slim", 12, marks=pytest.mark.slow)],
)
def test_a_killed_training_goes_on_to_the_same_weights(tmp_path, shapes_dir, verb, count):
    """While a file is being written, and at any other moment; with a process that loads images."""
    unused = tmp_path / "unused.ckpt"
    work = next(w for w in works(shapes_dir / "data.yaml", unused, unused) if w.verb == verb)
    straight, seconds = straight_run(work, tmp_path)
    tried = list(kills(work, straight, seconds, count, tmp_path, random.Random(count)))
    assert len(tried) == count
    assert {what: wrong for what, wrong in tried if wrong} == {}
