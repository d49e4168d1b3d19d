from __future__ import annotations

import math
from dataclasses import dataclass, replace
from io import StringIO

import pytest
from rich.console import Console
from rich.table import Table

from yolo_slim.reporting.tables import (
    STATES_HEADER,
    StateRow,
    layers_cells,
    layers_table,
    states_cells,
    states_markdown,
    states_table,
)

BASELINE = StateRow("baseline", 3_151_904, 8.86, 0.951, 0.944, 0.984, 0.702, 40.26)
SPARSE = replace(BASELINE, state="sparse", precision=0.9, small_gammas=0.6912)
SLIM = StateRow("slim", 787_976, 3.544, 0.0, 1.0, 0.5, 0.25, 9.04, 0.0)


@dataclass
class Change:
    module: str
    before: int
    after: int


LAYERS = [Change("model.0", 16, 8), Change("model.[1]|cv1", 48, 40)]


def terminal(table: Table, width: int) -> str:
    file = StringIO()
    Console(width=width, file=file).print(table)
    return file.getvalue()


def test_numbers_and_changes() -> None:
    assert states_cells([BASELINE, SPARSE, SLIM]) == [
        ["baseline", "3.152 M", "8.86", "0.951", "0.944", "0.984", "0.702", "40.3 ms", "-"],
        ["sparse", "3.152 M", "8.86", "0.900", "0.944", "0.984", "0.702", "40.3 ms", "69.1%"],
        ["slim", "0.788 M (-75.0%)", "3.54 (-60.0%)", "0.000", "1.000", "0.500", "0.250", "9.0 ms", "0.0%"],
    ]


def test_growth_has_a_sign_and_no_minus_zero() -> None:
    grown = replace(BASELINE, state="sparse", parameters=BASELINE.parameters * 2, gflops=8.8599)
    assert states_cells([BASELINE, grown])[1][1:3] == ["6.304 M (+100.0%)", "8.86 (+0.0%)"]


def test_without_a_baseline_there_is_no_change() -> None:
    assert states_cells([SLIM])[0][1:3] == ["0.788 M", "3.54"]
    assert states_cells([]) == []


def test_what_was_not_measured_is_a_dash() -> None:
    row = replace(SLIM, map=math.nan, latency_ms=math.nan, small_gammas=None)
    assert states_cells([row])[0][-3:] == ["-", "-", "-"]


def test_markdown_of_states_is_a_table() -> None:
    lines = states_markdown([BASELINE, SLIM]).splitlines()
    assert len(lines) == 4
    assert {line.count("|") for line in lines} == {len(STATES_HEADER) + 1}
    assert lines[1].startswith("| --- | ---: |")
    assert "0.788 M (-75.0%)" in lines[3]


def test_layers_end_with_all_of_them() -> None:
    assert layers_cells(LAYERS) == [
        ["model.0", "16", "8", "50.0%"],
        ["model.[1]|cv1", "48", "40", "83.3%"],
        ["all layers", "64", "48", "75.0%"],
    ]
    assert layers_cells([]) == []


@pytest.mark.parametrize("width", [80, 120])
def test_a_terminal_shows_every_number(width: int) -> None:
    text = terminal(states_table([BASELINE, SPARSE, SLIM, replace(SLIM, state="finetuned")]), width)
    for word in ("Precision", "gammas", "baseline", "finetuned", "0.788 M", "(-75.0%)", "(-60.0%)", "40.3 ms", "69.1%"):
        assert word in text
    assert "model.[1]|cv1" in terminal(layers_table(LAYERS), width)
