"""What the proof of the house rests on: every form of an import is read, and a circle is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.imports import imports, no_circle


def test_a_circle_would_be_found() -> None:
    with pytest.raises(AssertionError, match="circle"):
        no_circle({"a": {"b"}, "b": {"c"}, "c": {"a"}})


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import a.b, c as d", {"a.b", "c"}),
        ("from a import b", {"a", "a.b"}),
        ("def f():\n    from a.b import c", {"a.b", "a.b.c"}),
        ("if TYPE_CHECKING:\n    from a import b", {"a", "a.b"}),
        ("from ..detection import x", {"yolo_slim.detection", "yolo_slim.detection.x"}),
        ("from . import y", {"yolo_slim.folder", "yolo_slim.folder.y"}),
        ("importlib.import_module('a.b')", {"a.b"}),
        ("__import__('a')", {"a"}),
        ("print('import a')", set()),
    ],
)
def test_imports_are_found_in_every_form(tmp_path: Path, source: str, names: set[str]) -> None:
    path = tmp_path / "yolo_slim" / "folder" / "module.py"
    path.parent.mkdir(parents=True)
    path.write_text(source)
    assert {name for _, name in imports(path, tmp_path)} == names
