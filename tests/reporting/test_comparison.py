from __future__ import annotations

import math
from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from yolo_slim.reporting.comparison import ModelRow, comparison_cells, comparison_markdown, comparison_table

TIMES = {"torch": 20.0, "onnxruntime": 10.0, "openvino": 8.0}
DENSE = ModelRow("runs/dense/best.ckpt", 3_140_000, 2.2, 12.6, TIMES, 0.9, 0.8, 0.95, 0.7)
SLIM = replace(DENSE, name="slim", parameters=314_000, latencies={k: v / 2 for k, v in TIMES.items()}, map=0.69)


def test_changes_are_against_the_first():
    assert comparison_cells([DENSE, SLIM]) == [
        ["File", "Params", "GFLOPs", "Size", *TIMES, "Precision", "Recall", "mAP50", "mAP50-95"],
        ["runs/dense/best.ckpt", "3.140 M", "2.20", "12.60 MB"]
        + ["20.0 ms", "10.0 ms", "8.0 ms", "0.900", "0.800", "0.950", "0.700"],
        ["slim", "0.314 M (-90.0%)", "2.20", "12.60 MB"]
        + ["10.0 ms (-50.0%)", "5.0 ms (-50.0%)", "4.0 ms (-50.0%)", "0.900", "0.800", "0.950", "0.690 (-0.010)"],
    ]


def test_the_same_has_no_change_and_what_is_not_known_is_a_dash():
    same, unknown = replace(DENSE, name="same"), replace(DENSE, name="far", megabytes=math.nan)
    cells = comparison_cells([DENSE, same, unknown])
    assert cells[2][1:] == cells[1][1:]
    assert cells[3][3] == "-"


@pytest.mark.parametrize("count", [2, 5])
def test_a_terminal_of_80_columns_shows_every_number(count):
    file = StringIO()
    rows = [DENSE, *[replace(SLIM, name=f"runs/slim{i}/best.ckpt") for i in range(count - 1)]]
    Console(width=80, file=file).print(comparison_table(rows))
    text = file.getvalue()
    for word in ("onnxruntime", "Precision", "0.314 M", "(-90.0%)", "4.0 ms", "(-0.010)"):
        assert text.count(word) >= (1 if word in ("onnxruntime", "Precision") else count - 1)
    assert text.count("best.ckpt") == count


def test_markdown_has_a_line_for_each():
    lines = comparison_markdown([DENSE, SLIM, SLIM]).splitlines()
    assert len(lines) == 5
    assert len({line.count("|") for line in lines}) == 1
