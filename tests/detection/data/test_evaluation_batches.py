"""Images that are held to be looked at many times."""

from __future__ import annotations

import pytest
import torch

from tests.helpers.detectors import data_for
from yolo_slim.detection.data.evaluation_batches import HeldImages


@pytest.mark.parametrize(("images", "held", "batches"), [(6, 6, 6), (100, 12, 6), (1, 1, 1)])
def test_at_most_so_many_images_in_at_least_six_batches(shapes_dir, images, held, batches):
    found = HeldImages(data_for(shapes_dir), "train", images)
    assert len(found) == len(set(found.files)) == held
    assert len(found.batches) == batches
    assert sum(len(batch["img"]) for batch in found.batches) == held
    assert all(batch["img"].dtype == torch.uint8 and batch["img"].shape[1:] == (3, 64, 64) for batch in found.batches)


def test_they_are_the_same_each_time_and_as_they_are(shapes_dir):
    """Whatever the data module says of augmentation, order and workers, which stays as it is."""
    data = data_for(shapes_dir, workers=2)
    torch.manual_seed(1)
    first = HeldImages(data, "train", 7)
    torch.manual_seed(2)
    second = HeldImages(data_for(shapes_dir, batch=3), "train", 7)
    assert first.files == second.files
    for one, other in zip(first.batches, second.batches, strict=True):
        assert torch.equal(one["img"], other["img"])
        assert torch.equal(one["bboxes"], other["bboxes"])
    assert data.workers == 2
    device = torch.device("cpu")
    looks = [torch.cat([batch["img"] for batch in first.each(device)]) for _ in range(2)]
    assert torch.equal(*looks)
    assert 0 <= looks[0].min() < looks[0].max() <= 1
    assert first.batches[0]["img"].dtype == torch.uint8


def test_of_a_split(shapes_dir):
    assert all("val" in file for file in HeldImages(data_for(shapes_dir), "val", 100).files)
    with pytest.raises(ValueError, match="split='all': expected one of train, val, test"):
        HeldImages(data_for(shapes_dir), "all", 1)
    with pytest.raises(ValueError, match="images=0: expected at least 1"):
        HeldImages(data_for(shapes_dir), "train", 0)
