"""What tables consist of, for the terminal and for Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from yolo_slim.wording import printable_lines


def number(value: float | None, form: str, unit: str = "") -> str:
    """The number and its unit, or a dash where nothing was measured."""
    return "-" if value is None or math.isnan(value) else f"{value:{form}}{unit}"


def percent(now: float, before: float) -> str:
    """How much more or less it is than before, such as `` (-12.3%)``; nothing where it is the same or was unknown."""
    if math.isnan(now) or math.isnan(before) or now == before:
        return ""
    return f" ({round(100 * (now / before - 1), 1) + 0.0:+.1f}%)"  # + 0.0 turns -0.0 into 0.0


def rich_table(header: Sequence[str], rows: Sequence[Sequence[str]], left_out: int = 0) -> Table:
    """A table of plain text: brackets in names are no markup, and nothing in them is obeyed by a terminal.

    Args:
        header: What the columns are.
        rows: The lines below.
        left_out: How many more there are, which is said below the table.
    """
    caption = f"... and {left_out} more" if left_out else None
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, collapse_padding=True, pad_edge=False, caption=caption)
    table.caption_justify = "left"
    for column, name in enumerate(header):
        table.add_column(Text(printable_lines(name)), justify="right" if column else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable_lines(cell)) for cell in row))
    return table


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A GitHub table with numbers to the right, that ends with a newline."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |\n" for line in lines)
