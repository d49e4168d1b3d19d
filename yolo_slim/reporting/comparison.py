"""Models side by side: the table of a comparison, and its picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table

from yolo_slim.reporting.cells import markdown_table, number, percent, rich_table
from yolo_slim.reporting.classes import ClassRow


@dataclass(frozen=True)
class ModelRow:
    """What was measured of a model in a file."""

    name: str
    """What the table calls it."""
    parameters: int
    """Number of parameters."""
    gflops: float
    """Floating-point operations of one image, in 1e9."""
    megabytes: float
    """Size of the file in 1e6 bytes; nan where there is none."""
    latencies: Mapping[str, float]
    """Milliseconds of one image by runtime, in the same runtimes for all models."""
    precision: float
    """In [0, 1], as the other scores."""
    recall: float
    """In [0, 1]."""
    map50: float
    """Mean average precision at an IoU of 0.5."""
    map: float
    """Mean average precision over IoUs from 0.5 to 0.95."""
    classes: Sequence[ClassRow] = ()
    """Scores of each class."""


def comparison_cells(rows: Sequence[ModelRow]) -> list[list[str]]:
    """Formats models as text, with changes against the first one: in percent, of mAP50-95 as a difference.

    Returns:
        The header, then one list per model.

    Example:
        >>> dense = ModelRow("dense", 3_140_000, 2.2, 12.6, {"torch": 20.0}, 0.9, 0.9, 0.99, 0.700)
        >>> slim = ModelRow("slim", 314_000, 1.1, 12.6, {"torch": 12.0}, 0.9, 0.9, 0.98, 0.690)
        >>> comparison_cells([dense, slim])[2][1:5]
        ['0.314 M (-90.0%)', '1.10 (-50.0%)', '12.60 MB', '12.0 ms (-40.0%)']
        >>> comparison_cells([dense, slim])[2][5:]
        ['0.900', '0.900', '0.980', '0.690 (-0.010)']
    """
    runtimes = list(rows[0].latencies)
    header = ["File", "Params", "GFLOPs", "Size", *runtimes, "Precision", "Recall", "mAP50", "mAP50-95"]
    cells, first = [header], rows[0]
    for row in rows:
        gain = row.map - first.map
        times = [number(ms, ".1f", f" ms{percent(ms, first.latencies[name])}") for name, ms in row.latencies.items()]
        cells.append(
            [
                row.name,
                f"{row.parameters / 1e6:.3f} M{percent(row.parameters, first.parameters)}",
                f"{row.gflops:.2f}{percent(row.gflops, first.gflops)}",
                number(row.megabytes, ".2f", f" MB{percent(row.megabytes, first.megabytes)}"),
                *times,
                *(number(score, ".3f") for score in (row.precision, row.recall, row.map50)),
                f"{row.map:.3f}" + (f" ({gain:+.3f})" if gain else ""),
            ]
        )
    return cells


def comparison_table(rows: Sequence[ModelRow]) -> Table:
    """The models side by side for a terminal: a column for each, so that several files fit into 80 columns."""
    header, *lines = zip(*comparison_cells(rows), strict=True)
    # Names are folded between folders, and changes stand below their numbers.
    return rich_table(
        [name.replace("/", "/\n") for name in header], [[cell.replace(" (", "\n(") for cell in line] for line in lines]
    )


def comparison_markdown(rows: Sequence[ModelRow]) -> str:
    """The models as a GitHub table, a line for each, that ends with a newline."""
    header, *lines = comparison_cells(rows)
    return markdown_table(header, lines)
