"""The picture of a comparison: mAP against cost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from yolo_slim.files import whole
from yolo_slim.reporting.comparison import ModelRow
from yolo_slim.wording import printable

_LEAST_SPARE = 0.01  # above and below the scores: what differs by less is not drawn as if it were far apart


def draw_trade_offs(rows: Sequence[ModelRow], path: str | Path) -> None:
    """Draws the mAP50-95 of models against their operations, and against their milliseconds in each runtime.

    Args:
        rows: The models; each is labelled with its name.
        path: The PNG to write.
    """
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    by_gflops, by_time = figure.subplots(1, 2, sharey=True)
    scores = [row.map for row in rows]
    by_gflops.scatter([row.gflops for row in rows], scores, color="black", zorder=2)
    _label(by_gflops, [(row.gflops, row.map, row.name) for row in rows])
    for runtime in rows[0].latencies:
        by_time.scatter([row.latencies[runtime] for row in rows], scores, label=runtime, zorder=2)
    for row in rows:  # what is of one model is joined, and labelled once
        times = row.latencies.values()
        by_time.plot([min(times), max(times)], [row.map, row.map], color="lightgray", zorder=1)
    _label(by_time, [(max(row.latencies.values()), row.map, row.name) for row in rows])
    by_gflops.set(xlabel="GFLOPs", ylabel="mAP50-95")
    by_time.set(xlabel="milliseconds of one image")
    by_time.legend()
    spare = max(0.2 * (max(scores) - min(scores)), _LEAST_SPARE)
    for axes in (by_gflops, by_time):
        axes.set(xlim=(0, None), ylim=(min(scores) - spare, max(scores) + spare))
        axes.grid(alpha=0.3)
    with whole(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _label(axes: Axes, points: Sequence[tuple[float, float, str]]) -> None:
    """Writes names beside points, towards the middle; those of one point together."""
    names: dict[tuple[float, float], list[str]] = {}
    for x, y, name in points:
        names.setdefault((x, y), []).append(printable(name))
    furthest = max(x for x, _ in names)
    for (x, y), here in names.items():
        side, shift = ("left", 6) if x < furthest / 2 else ("right", -6)
        axes.annotate(", ".join(here), (x, y), xytext=(shift, 6), textcoords="offset points", ha=side, parse_math=False)
