"""Whatever comes from outside is shown on one line, in bounded time and without control characters."""

from __future__ import annotations

from typing import Any

import pytest

from yolo_slim.wording import brief, printable


def nested(levels: int, copies: int) -> Any:
    value: Any = ["x"]
    for _ in range(levels):
        value = [value] * copies
    return value


@pytest.mark.parametrize(
    "value",
    [nested(40, 2), nested(10_000, 1), "x" * 10_000_000, 2**200_000, {i: i for i in range(100_000)}, "\x1b[2J" * 99],
    ids=["wide", "deep", "text", "number", "long", "escapes"],
)
def test_any_value_is_shown_in_a_line(value: Any) -> None:
    shown = brief(value)
    assert 0 < len(shown) <= 80
    assert shown.isprintable()


@pytest.mark.parametrize("value", [None, True, 3, -2.5, "it's", ["a", 1], ("a",), {"a": {"b": [1]}}])
def test_small_values_are_shown_as_they_are(value: Any) -> None:
    assert brief(value) == repr(value)


def test_an_object_is_named_and_not_asked() -> None:
    class Hostile:
        def __repr__(self) -> str:
            raise AssertionError("asked")

    assert brief([Hostile()]) == "[<Hostile>]"


@pytest.mark.parametrize(
    ("text", "shown"), [("naïve 日本", "naïve 日本"), ("a\nb\tc", r"a\nb\tc"), ("\udcff", r"\udcff")]
)
def test_printable_text_stays(text: str, shown: str) -> None:
    assert printable(text) == shown
