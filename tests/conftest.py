"""What every test shares: one thread, no network, a settings folder of its own, and a tiny data set."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Ultralytics reads these when it is imported, so they are set before any test module is.
_settings = tempfile.TemporaryDirectory(prefix="yolo_slim-tests-")
os.environ["YOLO_CONFIG_DIR"] = _settings.name
os.environ["YOLO_OFFLINE"] = "true"
os.environ["YOLO_VERBOSE"] = "false"
os.environ["OMP_NUM_THREADS"] = "1"

import pytest  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(1)
collect_ignore_glob = ["helpers/*"]  # no tests in there; looking for doctests would import them a second time


@pytest.fixture(scope="session")
def shapes_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a shapes set of 12 and 6 images at 64 px. Tests read it; one that changes it copies it first."""
    from yolo_slim.detection.data.shapes import generate_shapes

    return generate_shapes(tmp_path_factory.mktemp("data") / "shapes", train=12, val=6, imgsz=64).parent


@pytest.fixture
def shapes_copy(shapes_dir: Path, tmp_path: Path) -> Path:
    """Folder of a copy of the shapes that a test may spoil, without what reading them left beside the labels."""
    return Path(shutil.copytree(shapes_dir, tmp_path / "set", ignore=shutil.ignore_patterns("*.cache")))


@pytest.fixture(autouse=True)
def usual_algorithms() -> Iterator[None]:
    """A trainer of Ultralytics, or Lightning's with ``deterministic``, leaves torch in that mode."""
    yield
    torch.use_deterministic_algorithms(False)
