from __future__ import annotations

import math
from io import StringIO

import pytest
from rich.console import Console

from yolo_slim.reporting.classes import (
    MOST_COLUMNS,
    MOST_LINES,
    ClassRow,
    class_changes_cells,
    class_changes_markdown,
    class_changes_table,
    classes_table,
)

NAN = math.nan


def terminal(table, width=80):
    file = StringIO()
    Console(width=width, file=file).print(table)
    return file.getvalue()


def classes(count):
    return [ClassRow(f"kind {i}", i / 1000, i / 2000) for i in range(count)]


@pytest.mark.parametrize("count", [0, 1, MOST_LINES, MOST_LINES + 1, 80, MOST_LINES * MOST_COLUMNS])
def test_all_classes_are_there_in_few_lines(count):
    text = terminal(classes_table(classes(count)))
    assert len(text.splitlines()) <= MOST_LINES + 3
    words = text.split()
    assert [i for i in range(count) if str(i) not in words] == []
    assert "more" not in text
    if count == 80:
        blocks = [line.split("kind ")[1:] for line in text.splitlines() if "kind" in line]
        assert [[int(block.split()[0]) for block in line] for line in blocks[:2]] == [[0, 27, 54], [1, 28, 55]]


def test_how_many_are_left_out_is_said():
    count = MOST_LINES * MOST_COLUMNS + 275
    text = terminal(classes_table(classes(count)))
    assert "... and 275 more" in text
    assert len(text.splitlines()) <= MOST_LINES + 4


def test_a_class_without_labels_is_a_dash_and_names_are_text():
    text = terminal(classes_table([ClassRow("[red]\x1b[31m", 0.0, 0.0), ClassRow("gone", NAN, NAN)]))
    lines = [line.split() for line in text.splitlines() if line.strip()]
    assert lines[-2:] == [[r"[red]\x1b[31m", "0.000", "0.000"], ["gone", "-", "-"]]


BEFORE = [ClassRow("cat", 0.9, 0.7), ClassRow("dog", 0.9, 0.6), ClassRow("emu", NAN, NAN), ClassRow("fly", 0.5, 0.4)]
AFTER = [ClassRow("cat", 0.9, 0.7), ClassRow("dog", 0.9, 0.5), ClassRow("emu", NAN, NAN), ClassRow("fly", 0.5, 0.1)]


def test_the_largest_fall_comes_first_and_what_is_unknown_last():
    names = [line[0] for line in class_changes_cells({"a": BEFORE, "b": AFTER}, falling=True)]
    assert names == ["Class (mAP50-95)", "fly", "dog", "cat", "emu"]
    assert [line[0] for line in class_changes_cells({"a": BEFORE, "b": AFTER})][1:] == ["cat", "dog", "emu", "fly"]


def test_the_change_is_from_the_first_to_the_last():
    cells = class_changes_cells({"a": BEFORE, "between": BEFORE[1:], "b": AFTER})
    assert cells[:3] == [
        ["Class (mAP50-95)", "a", "between", "b", "Change"],
        ["cat", "0.700", "-", "0.700", "0"],
        ["dog", "0.600", "0.600", "0.500", "-0.100"],
    ]
    assert class_changes_cells({"a": BEFORE})[1] == ["cat", "0.700"]
    tiny = [ClassRow("cat", 0.9, 0.7 + 1e-9)]
    assert class_changes_cells({"a": BEFORE[:1], "b": tiny})[1][-1] == "+0.000"  # and not nothing


def test_a_name_that_occurs_twice_stands_for_two_classes():
    twice = [ClassRow("cat", 0.5, 0.5), ClassRow("cat", 0.5, 0.25)]
    assert class_changes_cells({"a": twice, "b": twice})[1:] == [
        ["cat", "0.500", "0.500", "0"],
        ["cat", "0.250", "0.250", "0"],
    ]


def test_nothing_and_many():
    assert class_changes_cells({}) == []
    assert class_changes_markdown({"a": []}) == ""
    assert class_changes_table({}) is None
    table = class_changes_table({"a": classes(80), "b": classes(80)})
    assert "... and 50 more" in terminal(table)
    assert len(class_changes_markdown({"a": classes(80), "b": classes(80)}).splitlines()) == 82
