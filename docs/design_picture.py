"""Draws ``design.png``: the network of ``design.md``, its labels, and the groups that they become.

``python docs/design_picture.py`` writes it beside this file.
"""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle

COLOURS = ["#4c72b0", "#dd8452", "#55a868", "#c44e52"]
FIXED = "#bbbbbb"
#: Name, place, colours of the rows (what a layer makes), colours of the columns (what it reads).
LAYERS = [
    ("stem", 0.0, COLOURS, [FIXED] * 3),
    ("norm1", 2.0, COLOURS, []),
    ("body", 4.0, COLOURS, COLOURS),
    ("norm2", 6.0, COLOURS, []),
    ("head", 9.2, [FIXED] * 2, COLOURS),
]
SIDE = 0.28


def draw(axes: Axes) -> None:
    """Draws layers as weights, from left to right, with the arrows that feature maps take."""
    for name, x, rows, columns in LAYERS:
        top = SIDE * len(rows) / 2
        for i, colour in enumerate(rows):
            square(axes, (x - SIDE, top - SIDE * (i + 1)), colour)
            for j in range(len(columns)):
                square(axes, (x + SIDE * (j + 0.3), top - SIDE * (i + 1)), "#eeeeee")
        for j, colour in enumerate(columns):
            square(axes, (x + SIDE * (j + 0.3), top + 0.1), colour)
        axes.text(x + SIDE * (len(columns) - 1) / 2, -1.0, name, ha="center", fontsize=11)
    for start, end in [(-1.4, -0.4), (1.3, 1.6), (2.2, 3.6), (5.3, 5.6), (6.2, 7.4), (7.9, 8.8), (10.6, 11.4)]:
        arrow(axes, (start, 0), (end, 0))
    arrow(axes, (2.4, 0.05), (7.6, 0.3), bend=-0.5)
    for x, text in [(-1.45, "x"), (3.1, "a"), (6.8, "b")]:
        axes.text(x, 0 if text == "x" else 0.1, text, ha="right", va="center" if text == "x" else "bottom", fontsize=12)
    axes.text(7.65, 0, "+", ha="center", va="center", fontsize=20)
    note = "left of a weight: the channels that it makes; above it: those that it reads; "
    axes.text(5.0, -1.75, note + "one colour is one group, grey is fixed", ha="center", fontsize=9, color="#444444")


def square(axes: Axes, place: tuple[float, float], colour: str) -> None:
    """Draws one entry."""
    axes.add_patch(Rectangle(place, SIDE, SIDE, facecolor=colour, edgecolor="white"))


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], bend: float = 0.0) -> None:
    """Draws the way of a feature map."""
    style = {"connectionstyle": f"arc3,rad={bend}", "arrowstyle": "-|>", "mutation_scale": 12, "color": "#444444"}
    axes.add_patch(FancyArrowPatch(start, end, **style))


def main() -> None:
    """Writes the picture."""
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    axes = figure.subplots()
    draw(axes)
    axes.set(xlim=(-2, 12), ylim=(-2, 2.2), aspect="equal")
    axes.axis("off")
    figure.savefig(Path(__file__).with_name("design.png"), dpi=110)


if __name__ == "__main__":
    main()
