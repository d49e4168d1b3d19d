"""Tables and picture of a study of recipes."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import yaml

Row = dict[str, Any]
DENSE = "dense"


def read_rows(folder: Path) -> list[Row]:
    """What has been run."""
    return [yaml.safe_load(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*/row.yaml"))]


def table(folder: Path, picture: str) -> str:
    """A table for each length of the fits; draws the picture where it has a name."""
    rows = read_rows(folder)
    lengths = sorted({row["epochs"] for row in rows})
    if picture:
        draw(rows, lengths, picture)
    return "\n\n".join(_one_table([row for row in rows if row["epochs"] == epochs], epochs) for epochs in lengths)


def _one_table(rows: list[Row], epochs: int) -> str:
    sets = sorted({row["data"] for row in rows})
    dense = {(row["data"], row["seed"]): row for row in rows if row["arm"] == DENSE}
    cells = defaultdict(list)
    for row in rows:
        cells[row["arm"], 0 if row["arm"].startswith(DENSE) else row["share"]].append(row)
    lines = [
        f"{epochs} epochs after the baseline, {rows[0]['imgsz']} px:",
        "",
        f"| arm | GFLOPs | parameters, M | {' | '.join(sets)} | to dense | runs |",
        f"| --- | ---: | ---: | {' | '.join('---:' for _ in sets)} | ---: | ---: |",
    ]
    for (arm, _), found in sorted(cells.items(), key=lambda item: (-(item[0][1] or 1), item[0][0])):
        per_set = [_pair([row for row in found if row["data"] == name]) for name in sets]
        pairs = [(row, dense.get((row["data"], row["seed"]))) for row in found]
        apart = [tuple(row[key] - control[key] for key in ("best", "last")) for row, control in pairs if control]
        away = f"{mean(a for a, _ in apart):+.3f}, {mean(b for _, b in apart):+.3f}" if apart and arm != DENSE else ""
        size = f"{mean(row['parameters'] for row in found) / 1e6:.2f}"
        part = f"{mean(row['of_dense'] for row in found):.2f}"
        lines.append(f"| {arm} | {part} | {size} | {' | '.join(per_set)} | {away} | {len(found)} |")
    return "\n".join(lines)


def _pair(rows: list[Row]) -> str:
    """Best and mean of the last epochs, and how far the runs are apart."""
    if not rows:
        return ""
    best, last = ([row[key] for row in rows] for key in ("best", "last"))
    spread = f" (± {(max(last) - min(last)) / 2:.3f})" if len(rows) > 1 else ""
    return f"{mean(best):.3f}, {mean(last):.3f}{spread}"


def draw(rows: list[Row], lengths: list[int], picture: str) -> None:
    """How far every run is from the dense model, and the mean of each arm: a row per arm, a colour per share."""
    mpl.use("Agg")
    arms = sorted({row["arm"] for row in rows if not row["arm"].startswith(DENSE)}, reverse=True)
    shares = sorted({row["share"] for row in rows if row["arm"] in arms}, reverse=True)
    colours = dict(zip(shares, mpl.colormaps["tab10"].colors, strict=False))
    size = (5.5 * len(lengths) + 1.5, 0.4 * len(arms) + 1.2)
    figure, axes = plt.subplots(1, len(lengths), figsize=size, squeeze=False, sharex=True, sharey=True)
    for axis, epochs in zip(axes[0], lengths, strict=True):
        own = [row for row in rows if row["epochs"] == epochs]
        dense = {(row["data"], row["seed"]): row["last"] for row in own if row["arm"] == DENSE}
        for place, arm in enumerate(arms):
            for share in shares:
                cell = [row for row in own if row["arm"] == arm and row["share"] == share]
                apart = [row["last"] - dense[key] for row in cell if (key := (row["data"], row["seed"])) in dense]
                if apart:
                    axis.plot(apart, [place] * len(apart), "|", color=colours[share], markersize=10)
                    axis.plot(mean(apart), place, "o", color=colours[share])
        axis.axvline(0, color="black", linewidth=0.8)
        axis.set_yticks(range(len(arms)), arms)
        axis.set_title(f"{epochs} epochs after the baseline")
        axis.set_xlabel("mAP50-95 of the last epochs, less dense")
    marks = [plt.Line2D([], [], marker="o", ls="", color=colours[s], label=f"{s:.2f} of the GFLOPs") for s in shares]
    axes[0][0].legend(handles=marks, fontsize=8, loc="lower left")
    figure.tight_layout()
    figure.savefig(picture, dpi=110)
    plt.close(figure)
