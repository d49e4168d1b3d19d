"""Pictures of a run: gammas before and after, mAP per epoch."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from yolo_slim.files import whole
from yolo_slim.pruning import SMALL_GAMMA
from yolo_slim.reporting.tables import StateRow

_SMALLEST = 1e-5  # left end of the logarithmic axis; zeros are drawn there
_COLORS = {"baseline": "#4c72b0", "sparse": "#dd8452", "slim": "#55a868", "finetuned": "#c44e52"}


def gamma_histograms(before: ArrayLike, after: ArrayLike, path: str | Path) -> None:
    """Draws how the absolute gammas are distributed before and after the sparse phase, both axes logarithmic.

    Args:
        before: Gammas of all prunable channels before the phase, any shape.
        after: The same after the phase.
        path: The PNG to write.

    Raises:
        ValueError: No gammas, or some that are not finite.
    """
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    series = {"before": _absolute(before, "before"), "after": _absolute(after, "after")}
    largest = max(2.0, *(float(values.max()) for values in series.values()))
    bins = np.geomspace(_SMALLEST, largest * 1.001, 70).tolist()
    for (label, values), color in zip(series.items(), (_COLORS["baseline"], _COLORS["sparse"]), strict=True):
        share = np.mean(values < SMALL_GAMMA)
        axes.hist(
            np.maximum(values, _SMALLEST),
            bins,
            histtype="stepfilled",
            alpha=0.6,
            color=color,
            label=f"{label}: {share:.1%} of {values.size} below {SMALL_GAMMA:g}",
        )
    axes.axvline(SMALL_GAMMA, color="black", linestyle="--", linewidth=1, label=f"cut-off {SMALL_GAMMA:g}")
    axes.set(xscale="log", yscale="log", xlabel=f"|gamma|   (zeros stand at {_SMALLEST:g})", ylabel="channels")
    axes.set_title("Gammas before and after the sparse phase")
    axes.set_ylim(bottom=0.8)
    axes.legend(loc="upper center", framealpha=1)
    with whole(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def training_curves(csv_paths: Mapping[str, Path], path: str | Path) -> None:
    """Draws mAP50-95 per epoch over the phases, one after the other.

    Args:
        csv_paths: For each state, in order, the ``metrics.csv`` that Lightning's ``CSVLogger`` wrote in its phase.
        path: The PNG to write.

    Raises:
        ValueError: No phases, or a file without any value of ``val/map``.
    """
    if not csv_paths:
        raise ValueError("no phases to draw: give at least one metrics.csv")
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    start = 0
    for number, (state, csv_path) in enumerate(csv_paths.items()):
        scores = _scores(csv_path)
        epochs = [start + epoch + 1 for epoch in scores]
        color = _COLORS.get(state.partition(" ")[0], f"C{number}")
        name, _, number_of_round = state.partition(" ")
        label = name if number_of_round in ("", "1") else None  # the rounds follow each other
        axes.plot(epochs, list(scores.values()), marker="o", markersize=3, color=color, label=label)
        if number:
            axes.axvline(start + 0.5, color="gray", linestyle=":", linewidth=1)
        start += max(scores) + 1
    axes.set(xlabel="epoch", ylabel="mAP50-95", xlim=(0.5, start + 0.5), title="mAP50-95 over the phases")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend()
    with whole(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def rounds_plot(rows: Sequence[StateRow], path: str | Path, limit: float | None = None) -> None:
    """Draws mAP50-95 after each prune and after each finetune against parameters and operations.

    Args:
        rows: The states of a recipe in rounds: the baseline, then "slim 1", "finetuned 1", ...
        path: The PNG to write.
        limit: The lowest mAP50-95 that was allowed, drawn as a line.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    costs = (("parameters, M", [row.parameters / 1e6 for row in rows]), ("GFLOPs", [row.gflops for row in rows]))
    for axes, (label, cost) in zip(panels, costs, strict=True):
        points = list(zip(rows, cost, strict=True))
        axes.plot([points[0][1]], [rows[0].map], "*", markersize=14, color=_COLORS["baseline"], label="dense")
        for state, what in (("slim", "after the prune"), ("finetuned", "after the finetune")):
            own = [(at, row) for row, at in points if row.state.partition(" ")[0] == state]
            axes.plot([at for at, _ in own], [row.map for _, row in own], "o-", color=_COLORS[state], label=what)
            for at, row in own if state == "finetuned" else ():
                number = row.state.partition(" ")[2]
                axes.annotate(number, (at, row.map), textcoords="offset points", xytext=(0, 6), ha="center", fontsize=8)
        if limit is not None:
            axes.axhline(limit, color="gray", linestyle="--", linewidth=1, label="lowest allowed")
        axes.set(xlabel=label, xlim=(0, 1.05 * max(cost)))
        axes.grid(alpha=0.3)
    panels[0].set(ylabel="mAP50-95")
    panels[0].set_ylim(0, 1.12 * max(0.01, *(row.map for row in rows)))
    panels[1].legend(loc="lower right")
    with whole(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _absolute(gammas: ArrayLike, name: str) -> np.ndarray:
    """The absolute values as one finite, non-empty row."""
    values = np.abs(np.asarray(gammas, dtype=np.float64)).ravel()
    if not values.size or not np.isfinite(values).all():
        raise ValueError(f"gammas {name} the phase: {values.size} values, expected some, all of them finite")
    return values


def _scores(csv_path: Path) -> dict[int, float]:
    """Epoch -> val/map in rising order; rows of training steps leave the score empty, a resumed epoch counts once."""
    scores: dict[int, float] = {}
    with open(csv_path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row.get("val/map") and row.get("epoch"):
                scores[int(float(row["epoch"]))] = float(row["val/map"])
    if not any(math.isfinite(score) for score in scores.values()):
        raise ValueError(f"{csv_path} has no value of val/map: was there a validation in this phase?")
    return dict(sorted(scores.items()))
