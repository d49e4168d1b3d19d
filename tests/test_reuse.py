"""The callbacks in projects that have little else installed, or the other of Lightning's two packages."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from tests.helpers.places import ROOT

NOT_NEEDED = [f"-{name}" for name in ("ultralytics", "jsonargparse", "torchvision", "matplotlib", "pycocotools")]
needs_both = pytest.mark.skipif(
    importlib.util.find_spec("pytorch_lightning") is None, reason="pytorch_lightning is not installed"
)


def job(package: str, *settings: str) -> dict:
    """Runs the whole flow in a fresh interpreter, see ``tests/helpers/reuse_job.py``."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-W", "ignore", "-m", "tests.helpers.reuse_job", package, *settings]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def whole_flow_works(found: dict) -> None:
    for penalty in ("subgradient", "growing"):
        channels, precision, clip = found[penalty]
        assert sum(channels) == 12, penalty  # of 24
        assert (precision, clip) == ("bf16-mixed", 10.0), penalty
    assert found["reloaded"] == found["growing"][0]
    assert [found[name] for name in ("equal", "same score", "version")] == [True] * 3


def test_with_lightning_and_little_else() -> None:
    found = job("lightning.pytorch", *NOT_NEEDED, "-pytorch_lightning")
    whole_flow_works(found)
    assert found["framework"] == "lightning"
    assert found["loaded"] == ["lightning"]


@needs_both
def test_with_pytorch_lightning_alone() -> None:
    found = job("pytorch_lightning", *NOT_NEEDED, "-lightning")
    whole_flow_works(found)
    assert found["framework"] == "pytorch_lightning"
    assert found["loaded"] == ["pytorch_lightning"]


@needs_both
@pytest.mark.parametrize("package", [pytest.param("lightning.pytorch", marks=pytest.mark.slow), "pytorch_lightning"])
def test_callbacks_of_one_package_in_a_trainer_of_the_other(package: str) -> None:
    other = {"lightning.pytorch": "pytorch_lightning", "pytorch_lightning": "lightning.pytorch"}[package]
    found = job(package, f"+{other}")
    whole_flow_works(found)
    assert found["framework"] == other.split(".")[0]
    assert found["loaded"] == ["lightning", "pytorch_lightning"]
