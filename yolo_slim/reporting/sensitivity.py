"""How sensitive the units of a network are: a heat map, and a summary in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import SymLogNorm
from matplotlib.figure import Figure

from yolo_slim.files import whole
from yolo_slim.pruning import Row
from yolo_slim.wording import printable

#: Units in each list of the summary.
LISTED = 8


def heat_map(rows: Sequence[Row], path: str | Path) -> None:
    """Draws the rise of the loss of each unit at each ratio, and beside it what of the operations that saves.

    Args:
        rows: All rows of a measurement.
        path: The PNG to write.
    """
    units, ratios = list(dict.fromkeys(row.unit for row in rows)), sorted({row.ratio for row in rows})
    rises = np.full((len(units), len(ratios)), np.nan)
    saved = np.zeros(len(units))
    for row in rows:
        place = units.index(row.unit)
        saved[place] = max(saved[place], row.flops_saved / 1e6)
        if row.rise is not None:
            rises[place, ratios.index(row.ratio)] = 100 * row.rise
    figure = Figure(figsize=(9, 1.6 + 0.19 * len(units)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(2, 1))
    limit = max(float(np.nanmax(np.abs(rises), initial=0)), 1.0)
    colors = left.pcolormesh(
        np.arange(len(ratios) + 1) - 0.5,
        np.arange(len(units) + 1) - 0.5,
        np.ma.masked_invalid(rises),
        cmap="RdBu_r",
        norm=SymLogNorm(linthresh=1.0, vmin=-limit, vmax=limit),
        edgecolors="white",
        linewidth=0.3,
    )
    left.set_facecolor("#bbbbbb")
    left.set(xticks=range(len(ratios)), xticklabels=[f"{ratio:.0%}" for ratio in ratios], yticks=range(len(units)))
    left.set_yticklabels([printable(unit) for unit in units], fontsize=7, parse_math=False)
    left.set(xlabel="channels silenced (grey: skipped)", ylim=(len(units) - 0.5, -0.5))
    bar = figure.colorbar(colors, ax=left, location="top", shrink=0.8, label=f"{_what(rows)}, %", format="%g")
    bar.ax.minorticks_off()
    right.barh(range(len(units)), saved, color="#4c72b0")
    right.set(xlabel=f"MFLOPs saved at {ratios[-1]:.0%}")
    right.grid(axis="x", alpha=0.3)
    with whole(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _what(rows: Sequence[Row]) -> str:
    """What the rises are of."""
    measured = next((row.figures for row in rows if row.figures), {})
    return "rise of the loss" if "loss" in measured or not measured else "fall of mAP50-95"


def sensitivity_markdown(rows: Sequence[Row], about: Mapping[str, Any]) -> str:
    """A short summary: what was measured, and which units bear most and least.

    Args:
        rows: All rows of a measurement.
        about: What is in its ``sensitivity.yaml``.
    """
    measured = [row for row in rows if row.rise is not None]
    noise = float(about.get("noise", 0.0))
    worst: dict[str, Row] = {}
    for row in measured:
        if row.unit not in worst or row.ratio > worst[row.unit].ratio:
            worst[row.unit] = row
    # Sensitive units were not measured at large ratios: what they lose per channel removed tells them apart.
    order = sorted(worst.values(), key=lambda row: (row.rise or 0.0) / max(row.removed / row.channels, 1e-9))
    data, dense = about["data"], about.get("dense", {})
    figures = ", ".join(f"{printable(str(name))} {float(value):.4g}" for name, value in dense.items())
    inside = sum(1 for row in measured if row.rise is not None and row.rise <= noise)
    lines = [
        "# Sensitivity",
        "",
        f"{len(worst)} units of `{printable(str(about['weights']['file']))}`, one at a time, on {data['images']} "
        f"{data['split']} images of `{printable(str(data['file']))}` at {about['imgsz']} px. As it is: {figures}.",
        "",
        f"{len(measured)} rows measured, {len(rows) - len(measured)} skipped because a smaller ratio raised the loss "
        f"by more than {about['settings']['stop_rise']:.0%}. The loss of three thirds of the images lies "
        f"{noise:.1%} apart; {inside} rows rise by no more than that.",
        "",
        "![](sensitivity.png)",
        "",
    ]
    for title, chosen in (("Least sensitive", order[:LISTED]), ("Most sensitive", order[::-1][:LISTED])):
        lines += [
            f"## {title}",
            "",
            f"| unit | channels | silenced | {_what(rows)} | MFLOPs saved |",
            "| --- | ---: | ---: | ---: | ---: |",
        ]
        for row in chosen:
            lines.append(
                f"| `{printable(row.unit)}` | {row.channels} | {row.removed} | {row.rise:+.1%} | "
                f"{row.flops_saved / 1e6:.1f} |"
            )
        lines.append("")
    seconds = sum(row.seconds for row in rows)
    lines += [f"Measured in {seconds / 60:.1f} minutes. All rows are in `sensitivity.csv`.", ""]
    return "\n".join(lines)
