from __future__ import annotations

import base64
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from yolo_slim.reporting.classes import ClassRow
from yolo_slim.reporting.html import write_report
from yolo_slim.reporting.tables import StateRow

ROWS = [
    StateRow("baseline", 3_151_904, 8.86, 0.951, 0.944, 0.984, 0.702, 40.26),
    StateRow("slim", 787_976, 3.544, 0.9, 0.9, 0.95, 0.65, 9.04, 0.5),
]
PNG = b"\x89PNG\r\n\x1a\n and the rest"
VOID = {"meta", "img", "br"}


@dataclass
class Change:
    module: str
    before: int
    after: int


class Page(HTMLParser):
    """Collects the tags and the text of a page and checks that every tag is closed in its turn."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_page_holds_tables_pictures_and_notes(tmp_path: Path) -> None:
    (tmp_path / "gammas.png").write_bytes(PNG)
    images = {"Gammas": tmp_path / "gammas.png"}
    write_report(tmp_path / "report.html", "A run", ROWS, [Change("model.0", 16, 8)], images, ["First note."])
    page = Page((tmp_path / "report.html").read_text())
    assert page.open == []
    assert {"A run", "First note.", "0.788 M (-75.0%)", "model.0", "50.0%", "Gammas"} <= set(page.text)
    assert page.tags.count("tr") == 3 + 3
    source = dict(page.attributes)["src"]
    assert source is not None
    assert base64.b64decode(source.removeprefix("data:image/png;base64,")) == PNG


def test_classes_are_folded(tmp_path: Path) -> None:
    rows = [replace(row, classes=[ClassRow("<cat>", 0.9, score)]) for row, score in zip(ROWS, (0.7, 0.6), strict=True)]
    write_report(tmp_path / "report.html", "A run", [*rows, ROWS[0]], [], {}, [])
    page = Page((tmp_path / "report.html").read_text())
    assert page.tags.count("details") == 1
    start = page.text.index("mAP50-95 of each class")
    words = [text for text in page.text[start:] if text.strip()]
    assert words[1:] == ["Class (mAP50-95)", "baseline", "slim", "Change", "<cat>", "0.700", "0.600", "-0.100"]
    write_report(tmp_path / "report.html", "A run", ROWS, [], {}, [])
    assert "<details>" not in (tmp_path / "report.html").read_text()


def test_page_stands_alone(tmp_path: Path) -> None:
    (tmp_path / "gammas.png").write_bytes(PNG)
    write_report(tmp_path / "report.html", "A run", ROWS, [], {"Gammas": tmp_path / "gammas.png"}, [])
    text = (tmp_path / "report.html").read_text()
    page = Page(text)
    assert not {"script", "link", "a", "iframe"} & set(page.tags)
    assert "http" not in text
    assert str(tmp_path) not in text


def test_text_is_escaped(tmp_path: Path) -> None:
    evil = '<script>alert("1")</script>'
    (tmp_path / "i.png").write_bytes(PNG)
    rows = [StateRow(evil, 1, 1.0, 0.5, 0.5, 0.5, 0.5, 1.0)]
    images = {evil: tmp_path / "i.png"}
    write_report(tmp_path / "report.html", evil, rows, [Change(evil, 2, 1)], images, [evil])
    page = Page((tmp_path / "report.html").read_text())
    assert "script" not in page.tags
    assert page.text.count(evil) == 6  # title, heading, note, state, caption, layer


def test_page_is_replaced_whole(tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    write_report(report, "first", [], [], {}, [])
    (tmp_path / "no.png").write_bytes(b"GIF89a")
    with pytest.raises(ValueError, match=r"no\.png is no PNG file"):
        write_report(report, "second", [], [], {"bad": tmp_path / "no.png"}, [])
    assert "first" in report.read_text()
    write_report(report, "third", [], [], {}, [])
    assert "third" in report.read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["no.png", "report.html"]


def test_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_report(tmp_path / "report.html", "a folder is in the way", [], [], {}, [])
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
