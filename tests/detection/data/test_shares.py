"""How images are shared out among training processes and loading processes."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import cv2
import pytest

from tests.helpers.detectors import data_for


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_rectangles_are_shared_out_in_whole_batches(mixed_shapes: Path, processes: int) -> None:
    """Every image once, each with those that it shares its shape with."""
    single = data_for(mixed_shapes, batch=2, rect=True)
    single.setup("validate")
    expected = sorted(tuple(batch["im_file"]) for batch in single.val_dataloader())
    shapes = {batch["img"].shape[2:] for batch in single.val_dataloader()}
    found = []
    for rank in range(processes):
        data = data_for(mixed_shapes, batch=2, rect=True)
        data.trainer = SimpleNamespace(world_size=processes, global_rank=rank, num_devices=1)  # type: ignore[assignment]
        data.setup("validate")
        found += [tuple(batch["im_file"]) for batch in data.val_dataloader()]
    assert sorted(found) == expected
    assert len(shapes) > 1
    data.trainer = SimpleNamespace(world_size=5, global_rank=0, num_devices=1)  # type: ignore[assignment]
    with pytest.raises(ValueError, match="4 batches of val images do not suffice for 5 processes"):
        data.val_dataloader()


@pytest.fixture
def mixed_shapes(shapes_copy: Path) -> Path:
    """The shapes with validation images of several aspect ratios, seven of them."""
    images, labels = shapes_copy / "images/val", shapes_copy / "labels/val"
    shutil.copy(images / "00000.jpg", images / "extra.jpg")
    shutil.copy(labels / "00000.txt", labels / "extra.txt")
    for index, file in enumerate(sorted(images.iterdir())):
        cv2.imwrite(str(file), cv2.resize(cv2.imread(str(file)), (64, 64 - 8 * index)))
    return shapes_copy


def test_no_more_workers_than_cores(shapes_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(6)), raising=False)
    data = data_for(shapes_dir)
    for asked, devices, expected in ((8, 1, 6), (8, 2, 3), (2, 2, 2), (0, 1, 0), (8, 7, 1)):
        data.workers = asked
        data.setup("validate")
        data.trainer = SimpleNamespace(world_size=1, global_rank=0, num_devices=devices)  # type: ignore[assignment]
        loader = data.val_dataloader()
        assert (loader.num_workers, loader.persistent_workers) == (expected, expected > 0)
        assert data.predict_dataloader().num_workers == expected
        data.trainer = None
