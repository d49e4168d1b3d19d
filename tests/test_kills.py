"""Killed at any moment, a training goes on to the very weights of one that nothing disturbed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.helpers.places import ROOT


@pytest.mark.parametrize(
    ("verb", "count"),
    [("fit", 3), pytest.param("fit", 12, marks=pytest.mark.slow), pytest.param("slim", 12, marks=pytest.mark.slow)],
)
def test_a_killed_training_goes_on_to_the_same_weights(tmp_path, shapes_dir, verb, count):
    """While a file is being written, and at any other moment; with a process that loads images."""
    command = [
        sys.executable,
        "-m",
        "tests.helpers.kills",
        verb,
        str(count),
        str(shapes_dir / "data.yaml"),
        str(tmp_path),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    tried = [line for line in done.stdout.splitlines() if line.startswith(("survived", "FAILED"))]
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(tried) == count
    assert all(line.startswith("survived") for line in tried), tried
