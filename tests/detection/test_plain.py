"""Plain data and nothing else, taken from what a file says."""

from __future__ import annotations

import pytest
import torch

from yolo_slim.detection.plain import MAX_OBJECTS, Inert, plain


def test_plain_copies_plain_data():
    value = {"a": [1, 2.5, None, True, "x"], "b": ({3}, {"c": ()})}
    copied = plain(value)
    assert copied == value
    assert copied["a"] is not value["a"]


def test_plain_refuses_what_holds_itself_or_stands_for_too_much():
    itself: list = []
    itself.append(itself)
    with pytest.raises(ValueError, match="nested"):
        plain(itself)
    laughs: list = [0]
    for _ in range(40):
        laughs = [laughs, laughs]
    with pytest.raises(ValueError, match="nested"):
        plain(laughs)
    with pytest.raises(ValueError, match="nested"):
        plain([0] * MAX_OBJECTS)


@pytest.mark.parametrize("value", [Inert(), b"x", 1j, object(), torch.zeros(1), len, bytearray(2), range(3)])
def test_plain_refuses_objects(value):
    with pytest.raises(ValueError, match="expected plain data"):
        plain({"a": [value]})
