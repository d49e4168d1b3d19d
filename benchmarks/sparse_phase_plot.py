"""Picture and tables of ``benchmarks.sparse_phase``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

#: Name of a run -> setting -> result.
Results = dict[str, dict[str, dict[str, Any]]]
PENALTIES = ("subgradient", "proximal", "growing")
COLORS = ("#3182bd", "#fdae6b", "#f16913", "#a63603", "#31a354", "#756bb1")
QUANTITIES = {"gamma/small": "share of |gamma| < 0.01", "val/map": "mAP50-95"}


def draw(results: Results, path: Path) -> None:
    """Draws, for each run, share of small gammas and mAP per epoch: a column per penalty, a line per strength."""
    rows = [(name, quantity) for name in results for quantity in QUANTITIES]
    figure = Figure(figsize=(11, 2.6 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), len(PENALTIES), sharex=True, sharey="row", squeeze=False)
    for line, (name, quantity) in enumerate(rows):
        for column, penalty in enumerate(PENALTIES):
            axes, share = grid[line, column], quantity == "gamma/small"
            dense = results[name].get("dense", {}).get("curves")
            if dense and not share:
                axes.plot(_epochs(dense[quantity]), dense[quantity], color="gray", linestyle=":", label="no penalty")
            for color, (setting, result) in zip(COLORS, _of(results[name], penalty), strict=False):
                values, label = result["curves"][quantity], setting if share else None
                axes.plot(_epochs(values), values, color=color, marker="o", markersize=3, label=label)
            axes.set_ylim(0, 1 if share else None)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.grid(alpha=0.3)
            if share or dense:
                axes.legend(fontsize=8, loc="upper left" if share and penalty != "growing" else "lower right")
            if not line:
                axes.set_title(penalty)
            if not column:
                axes.set_ylabel(f"{name}\n{QUANTITIES[quantity]}")
    for axes in grid[-1]:
        axes.set_xlabel("epoch of the sparse phase")
    figure.savefig(path, format="png", dpi=110)


def tables(results: Results) -> str:
    """Two markdown tables per run: phases that are pruned at one ratio, and those pruned at several."""
    lines = []
    for name, found in results.items():
        lines += [
            f"**{name}**",
            "",
            "| phase | mAP50-95 | channels removed | parameters | GFLOPs | pruned | finetuned |",
            "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        ]
        one = {setting: result for setting, result in found.items() if len(result.get("prunes", [])) == 1}
        for setting, result in one.items():
            (row,) = result["prunes"]
            size = f"{row['ratio']:.0%} | {row['parameters'] / 1e6:.3f} M | {row['gflops']:.2f}"
            scores = f"{row['fold']:.3f} | {row['best']:.3f}, {row['mean']:.3f}"
            lines.append(f"| {setting} | {result['curves']['val/map'][-1]:.3f} | {size} | {scores} |")
        several = {setting: result for setting, result in found.items() if len(result.get("prunes", [])) > 1}
        ratios = [f"{row['ratio']:.0%}" for row in next(iter(several.values()), {"prunes": []})["prunes"]]
        lines += ["", f"| phase | small gammas | mAP50-95 | {' | '.join(ratios)} |"]
        lines.append("| --- | ---: | ---: |" + " --- |" * len(ratios))
        for setting, result in several.items():
            last = f"{result['curves']['gamma/small'][-1]:.1%} | {result['curves']['val/map'][-1]:.3f}"
            lines.append(f"| {setting} | {last} | {' | '.join(_cell(row) for row in result['prunes'])} |")
        lines.append("")
    return "\n".join(lines)


def _cell(row: dict[str, Any]) -> str:
    scores = ", ".join(f"{row[name]:.3f}" for name in ("none", "fold", "exact") if name in row)
    return scores + (f"; {row['best']:.3f}" if "best" in row else "")


def _of(found: dict[str, dict[str, Any]], penalty: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for setting, result in found.items():
        if setting.startswith(penalty) and result:
            yield setting.removeprefix(penalty).strip(), result


def _epochs(values: list[float]) -> list[int]:
    return list(range(1, len(values) + 1))
