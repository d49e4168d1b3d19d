"""What a checkpoint says of its network becomes a description, or is refused in one line."""

from __future__ import annotations

import pytest

from yolo_slim.detection.files.record import NetworkRecord


@pytest.mark.parametrize("key", [None, "x", (1, 2), 1.5, 7])
def test_class_names_are_numbered_whatever_their_keys_are(key):
    described = {"model": {"nc": 2}, "names": {0: "car", key: "bus"}, "structure": {}}
    with pytest.raises(ValueError, match="^last.ckpt: class names are not numbered from 0$"):
        NetworkRecord.parse(described, "last.ckpt")


def test_class_names_are_text_in_order():
    described = {"model": {"nc": 2}, "names": {1: "bus", 0: 5}, "structure": {}}
    assert NetworkRecord.parse(described, "last.ckpt").names == {0: "5", 1: "bus"}
