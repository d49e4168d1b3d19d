"""Tables of what is found of each class."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table

from yolo_slim.reporting.cells import markdown_table, number, rich_table
from yolo_slim.wording import printable

CLASSES_HEADER = ("Class", "mAP50", "mAP50-95")
#: Lines of a table in a terminal, and how many of its columns stand side by side where there are more classes.
MOST_LINES, MOST_COLUMNS = 30, 3


@dataclass(frozen=True)
class ClassRow:
    """What is found of a class; nan where none of its objects is labelled."""

    name: str
    """Its name."""
    map50: float
    """Average precision at an IoU of 0.5, in [0, 1]."""
    map: float
    """Mean of the average precisions at IoUs from 0.5 to 0.95, in [0, 1]."""


def classes_table(rows: Sequence[ClassRow]) -> Table:
    """The classes in their order, for a terminal; many of them go on in further columns, and the last are left out."""
    blocks = min(math.ceil(len(rows) / MOST_LINES), MOST_COLUMNS) or 1
    lines = min(math.ceil(len(rows) / blocks), MOST_LINES)
    cells = [[printable(row.name), number(row.map50, ".3f"), number(row.map, ".3f")] for row in rows]
    empty = [""] * len(CLASSES_HEADER)
    cells += [empty] * (lines * blocks - len(cells))
    side_by_side = [sum(cells[line : lines * blocks : lines], []) for line in range(lines)]
    return rich_table(CLASSES_HEADER * blocks, side_by_side, max(len(rows) - lines * blocks, 0))


def class_changes_cells(models: Mapping[str, Sequence[ClassRow]], falling: bool = False) -> list[list[str]]:
    """The mAP50-95 of each class in several models, and how the last differs from the first.

    Args:
        models: By what the column is called, the classes of a model; those of one name belong together.
        falling: Begin with the class that falls most, in place of the order of the classes.

    Returns:
        The header, then one list per class; empty without classes. ``0`` is a change of exactly nothing.

    Example:
        >>> before = [ClassRow("cat", 0.9, 0.7), ClassRow("dog", 0.9, 0.6), ClassRow("emu", math.nan, math.nan)]
        >>> after = [ClassRow("cat", 0.9, 0.7), ClassRow("dog", 0.8, 0.5), ClassRow("emu", math.nan, math.nan)]
        >>> for line in class_changes_cells({"dense": before, "slim": after}, falling=True):
        ...     print(line)
        ['Class (mAP50-95)', 'dense', 'slim', 'Change']
        ['dog', '0.600', '0.500', '-0.100']
        ['cat', '0.700', '0.700', '0']
        ['emu', '-', '-', '-']
    """
    classes = class_changes(models, falling)
    changes = ["Change"] if len(models) > 1 else []
    header = ["Class (mAP50-95)", *models, *changes]
    rows = [
        [printable(name), *(number(value, ".3f") for value in values), *[_signed(change) for _ in changes]]
        for name, values, change in classes
    ]
    return [header, *rows] if rows else []


def class_changes(
    models: Mapping[str, Sequence[ClassRow]], falling: bool = False
) -> list[tuple[str, list[float], float]]:
    """What :func:`class_changes_cells` shows: name, mAP50-95 in each model, and the change, nan where unknown."""
    found: dict[tuple[str, int], dict[str, float]] = {}
    for model, rows in models.items():
        seen: Counter[str] = Counter()
        for row in rows:  # a name can stand for several classes
            seen[row.name] += 1
            found.setdefault((row.name, seen[row.name]), {})[model] = row.map
    classes = []
    for (name, _), scores in found.items():
        values = [scores.get(model, math.nan) for model in models]
        classes.append((name, values, values[-1] - values[0]))
    if falling:
        classes.sort(key=lambda entry: (math.isnan(entry[2]), 0.0 if math.isnan(entry[2]) else entry[2]))
    return classes


def class_changes_table(models: Mapping[str, Sequence[ClassRow]], falling: bool = False) -> Table | None:
    """The same for a terminal, the first lines; None without classes."""
    cells = class_changes_cells(models, falling)
    if not cells:
        return None
    shown = cells[1 : MOST_LINES + 1]
    return rich_table(cells[0], shown, len(cells) - 1 - len(shown))


def class_changes_markdown(models: Mapping[str, Sequence[ClassRow]], falling: bool = False) -> str:
    """The same as a GitHub table that ends with a newline; empty without classes."""
    cells = class_changes_cells(models, falling)
    return markdown_table(cells[0], cells[1:]) if cells else ""


def _signed(change: float) -> str:
    return "0" if change == 0 else number(change, "+.3f")
