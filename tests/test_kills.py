"""Killed at any moment, a training goes on to the very weights of one that nothing disturbed."""

from __future__ import annotations

import os
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
    # Whatever tests before this one have started in this process: these name the rank and the folder of a launch.
    launch = ("RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "YOLO_SLIM_RUN_DIR")
    own = {name: value for name, value in os.environ.items() if name not in launch}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=own)
    tried = [line for line in done.stdout.splitlines() if line.startswith(("survived", "FAILED"))]
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(tried) == count
    assert all(line.startswith("survived") for line in tried), tried
