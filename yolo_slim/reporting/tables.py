"""Tables of states and layers, for the terminal and for Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rich.table import Table

from yolo_slim.reporting.cells import markdown_table, number, percent, rich_table
from yolo_slim.reporting.classes import ClassRow

STATES_HEADER = (
    "State",
    "Params",
    "GFLOPs",
    "Precision",
    "Recall",
    "mAP50",
    "mAP50-95",
    "Latency",
    "Small gammas",
)
LAYERS_HEADER = ("Layer", "Before", "After", "Kept")
EXPORTS_HEADER = ("Format", "Model", "Size", "Latency", "mAP50", "mAP50-95", "File")


@dataclass(frozen=True)
class StateRow:
    """What was measured of one model on its way from baseline to finetuned."""

    state: str
    """One of baseline, sparse, slim, finetuned."""
    parameters: int
    """Number of parameters."""
    gflops: float
    """Floating-point operations of one forward pass, in 1e9 (a multiply-accumulate counts as two)."""
    precision: float
    """In [0, 1]; nan where it was not measured, as for the other scores and the latency."""
    recall: float
    """In [0, 1]."""
    map50: float
    """Mean average precision at an IoU of 0.5, in [0, 1]."""
    map: float
    """Mean average precision over IoUs from 0.5 to 0.95, in [0, 1]."""
    latency_ms: float
    """Median milliseconds of one forward pass."""
    small_gammas: float | None = None
    """Share of the gammas with an absolute value below 1e-2, in [0, 1]."""
    runtimes: Mapping[str, float] = field(default_factory=dict)
    """Milliseconds of one forward pass in other runtimes, by their names."""
    classes: Sequence[ClassRow] = ()
    """Scores of each class; none where they were not kept."""


@dataclass(frozen=True)
class ExportRow:
    """What was measured of an exported file."""

    format: str
    """What it is."""
    model: str
    """What it was made of; ``before`` for the one that another is compared with."""
    file: str
    """Its name."""
    megabytes: float
    """Its size in 1e6 bytes."""
    latency_ms: float
    """Median milliseconds of one image; nan where it was not measured, as for the scores."""
    map50: float
    """Mean average precision at an IoU of 0.5, in [0, 1]."""
    map: float
    """Mean average precision over IoUs from 0.5 to 0.95, in [0, 1]."""


class LayerRow(Protocol):
    """A layer whose channels were counted before and after the prune."""

    @property
    def module(self) -> str:
        """Name of the module."""

    @property
    def before(self) -> int:
        """Channels before the prune."""

    @property
    def after(self) -> int:
        """Channels after the prune."""


def states_cells(rows: Sequence[StateRow]) -> list[list[str]]:
    """Formats the rows as text, with the change in size and cost against the first row called baseline.

    Returns:
        One list per row, in the order of ``STATES_HEADER``.

    Example:
        >>> baseline = StateRow("baseline", 3_140_000, 2.19, 0.98, 0.97, 0.992, 0.730, 21.04)
        >>> slim = StateRow("slim", 471_000, 1.04, 0.97, 0.97, 0.990, 0.737, 12.5, 0.004)
        >>> states_cells([baseline, slim])[1]
        ['slim', '0.471 M (-85.0%)', '1.04 (-52.5%)', '0.970', '0.970', '0.990', '0.737', '12.5 ms', '0.4%']
    """
    baseline = next((row for row in rows if row.state == "baseline"), None)
    return [
        [
            row.state,
            f"{row.parameters / 1e6:.3f} M{_change(row, baseline, 'parameters')}",
            f"{row.gflops:.2f}{_change(row, baseline, 'gflops')}",
            *(number(score, ".3f") for score in (row.precision, row.recall, row.map50, row.map)),
            number(row.latency_ms, ".1f", " ms"),
            number(row.small_gammas, ".1%"),
        ]
        for row in rows
    ]


def states_table(rows: Sequence[StateRow]) -> Table:
    """The states side by side, for a terminal; the changes stand below their numbers, so 80 columns are enough."""
    header = [name.replace("mAP", "mAP\n").replace(" ", "\n") for name in STATES_HEADER]
    return rich_table(header, [[cell.replace(" (", "\n(") for cell in cells] for cells in states_cells(rows)])


def states_markdown(rows: Sequence[StateRow]) -> str:
    """The states side by side, as a GitHub table that ends with a newline."""
    return markdown_table(STATES_HEADER, states_cells(rows))


def runtimes_cells(rows: Sequence[StateRow]) -> list[list[str]]:
    """Milliseconds in every runtime, with the change against the first row called baseline.

    Returns:
        The header, then one list per row; empty where nothing but PyTorch was measured.

    Example:
        >>> baseline = StateRow("baseline", 3_140_000, 2.19, 0.9, 0.9, 0.9, 0.7, 20.0, runtimes={"onnxruntime": 10.0})
        >>> slim = StateRow("slim", 471_000, 1.04, 0.9, 0.9, 0.9, 0.7, 12.0, runtimes={"onnxruntime": 5.5})
        >>> runtimes_cells([baseline, slim])[2]
        ['slim', '12.0 ms (-40.0%)', '5.5 ms (-45.0%)']
    """
    names = list(dict.fromkeys(name for row in rows for name in row.runtimes))
    if not names:
        return []
    columns = [{"torch": row.latency_ms, **row.runtimes} for row in rows]
    first = next((times for row, times in zip(rows, columns, strict=True) if row.state == "baseline"), {})
    cells = [["State", "torch", *names]]
    for row, times in zip(rows, columns, strict=True):
        line = [row.state]
        for name in cells[0][1:]:
            now, before = times.get(name, math.nan), first.get(name, math.nan)
            line.append(number(now, ".1f", f" ms{percent(now, before)}"))
        cells.append(line)
    return cells


def runtimes_table(rows: Sequence[StateRow]) -> Table | None:
    """Milliseconds in every runtime, for a terminal; None where nothing but PyTorch was measured."""
    cells = runtimes_cells(rows)
    return rich_table(cells[0], cells[1:]) if cells else None


def runtimes_markdown(rows: Sequence[StateRow]) -> str:
    """The same as a GitHub table that ends with a newline; empty where nothing but PyTorch was measured."""
    cells = runtimes_cells(rows)
    return markdown_table(cells[0], cells[1:]) if cells else ""


def classes_by_state(rows: Sequence[StateRow]) -> dict[str, Sequence[ClassRow]]:
    """The classes of those states whose classes are known."""
    return {row.state: row.classes for row in rows if row.classes}


def layers_cells(layers: Sequence[LayerRow]) -> list[list[str]]:
    """Formats the channels of each layer before and after the prune as text, and of all layers in a last row.

    Returns:
        One list per row, in the order of ``LAYERS_HEADER``; empty without layers.
    """
    counts = [(layer.module, layer.before, layer.after) for layer in layers]
    if counts:
        counts.append(("all layers", sum(before for _, before, _ in counts), sum(after for _, _, after in counts)))
    return [
        [module, str(before), str(after), f"{after / before:.1%}" if before else "-"]
        for module, before, after in counts
    ]


def layers_table(layers: Sequence[LayerRow]) -> Table:
    """The channels of each layer before and after the prune, for a terminal."""
    return rich_table(LAYERS_HEADER, layers_cells(layers))


def exports_cells(rows: Sequence[ExportRow]) -> list[list[str]]:
    """Formats the rows as text, with changes against the same format of ``before``, or else against the first row.

    Returns:
        One list per row, in the order of ``EXPORTS_HEADER``.

    Example:
        >>> dense = ExportRow("onnx", "before", "best.onnx", 12.6, 12.5, 0.990, 0.715)
        >>> slim = ExportRow("onnx", "after", "best.onnx", 1.42, 8.0, 0.993, float("nan"))
        >>> exports_cells([dense, slim])[1]
        ['onnx', 'after', '1.42 MB (-88.7%)', '8.0 ms (-36.0%)', '0.993', '-', 'best.onnx']
    """
    befores = {row.format: row for row in rows if row.model == "before"}
    cells = []
    for row in rows:
        other = befores.get(row.format, rows[0])
        size, time = _change(row, other, "megabytes"), _change(row, other, "latency_ms")
        figures = [f"{row.megabytes:.2f} MB{size}", number(row.latency_ms, ".1f", f" ms{time}")]
        cells.append([row.format, row.model, *figures, number(row.map50, ".3f"), number(row.map, ".3f"), row.file])
    return cells


def exports_table(rows: Sequence[ExportRow]) -> Table:
    """Exported files side by side, for a terminal; changes stand below their numbers."""
    cells = [[cell.replace(" (", "\n(") for cell in line] for line in exports_cells(rows)]
    return rich_table([name.replace("mAP50-", "mAP50\n-") for name in EXPORTS_HEADER], cells)


def exports_markdown(rows: Sequence[ExportRow]) -> str:
    """Exported files side by side, as a GitHub table that ends with a newline."""
    return markdown_table(EXPORTS_HEADER, exports_cells(rows))


def _change(row: StateRow | ExportRow, baseline: StateRow | ExportRow | None, field: str) -> str:
    """The change against the baseline in percent, or nothing where there is none."""
    return "" if baseline is None else percent(getattr(row, field), getattr(baseline, field))
