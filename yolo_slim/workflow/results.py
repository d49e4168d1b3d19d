"""What the recipe leaves when it is done: the table, the plots and the page."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from yolo_slim.detection import SCORE_NAMES, load_network
from yolo_slim.documents import read_yaml
from yolo_slim.files import whole, write_whole
from yolo_slim.pruning import gamma_magnitudes
from yolo_slim.reporting import (
    StateRow,
    class_changes_markdown,
    classes_by_state,
    gamma_histograms,
    rounds_plot,
    runtimes_markdown,
    states_markdown,
    training_curves,
    write_report,
)
from yolo_slim.workflow.class_scores import from_plain
from yolo_slim.workflow.measuring import how_timed
from yolo_slim.workflow.phases import Phase

METRICS = "metrics.csv"
FIGURES = ("state", "checkpoint", "parameters", "gflops", "small_gammas", *SCORE_NAMES)


def write_results(
    folder: Path,
    phases: Sequence[Phase],
    rows: Sequence[StateRow],
    checkpoints: Mapping[str, str],
    data: str,
    imgsz: int,
    result: str,
    lowest: float | None = None,
) -> None:
    """Writes ``results.md``, ``report.html`` and the plots into the run folder.

    Args:
        folder: The run folder.
        phases: Those that are complete.
        rows: One row per state.
        checkpoints: The file of each state.
        data: What it was trained on, for the page.
        imgsz: Side of the images in pixels.
        result: The state that is the result.
        lowest: The lowest mAP50-95 that was allowed.
    """
    told = f"The result is {result}: `{checkpoints[result]}`\n" if result != rows[-1].state else None
    by_class = class_changes_markdown(classes_by_state(rows))
    tables = filter(None, (states_markdown(rows), runtimes_markdown(rows), by_class, told))
    write_whole(folder / "results.md", "\n".join(tables))
    layers = _layers([folder / phase.folder / "pruning.yaml" for phase in phases if phase.kind == "prune"])
    notes = [f"Data: {data}, images of {imgsz} pixels.", how_timed()]
    if told:
        notes.append(f"The result is {result}: the rounds after it lost more mAP than was allowed.")
    title = f"yolo_slim: {folder.name}"
    page, images = folder / "report.html", _plots(folder, phases, rows, checkpoints, lowest)
    write_report(page, title, rows, [SimpleNamespace(**x) for x in layers], images, notes)


def _layers(reports: Sequence[Path]) -> list[dict[str, Any]]:
    """Channels of every layer before the first prune and after the last one; without a report, none."""
    remedy = "delete it, and the page comes without the table of its layers"
    tables = [read_mapping(file, ("layers",), remedy)["layers"] for file in reports if file.is_file()]
    if not tables:
        return []
    before = {layer["module"]: layer["before"] for layer in tables[0]}
    return [{**layer, "before": before.get(layer["module"], layer["before"])} for layer in tables[-1]]


def read_result(file: Path) -> dict[str, Any]:
    """What a phase has left: state, checkpoint, figures, and ``classes``: a row for each, none in files of before.

    Raises:
        ValueError: If the file is damaged.
    """
    remedy = "delete it and start again: what it held is measured anew"
    result = read_mapping(file, FIGURES, remedy)
    try:
        return result | {"classes": from_plain(result.get("classes") or [])}
    except ValueError as error:
        raise ValueError(f"{file} is damaged ({error}); {remedy}") from error


def read_mapping(file: Path, keys: Sequence[str], remedy: str) -> dict[str, Any]:
    """A YAML file that an earlier start has left.

    Raises:
        ValueError: If it is damaged or lacks one of the keys; the message ends with the remedy.
    """
    try:
        mapping = read_yaml(file)
    except ValueError:
        mapping = None
    if not isinstance(mapping, dict) or not set(keys) <= mapping.keys():
        raise ValueError(f"{file} is damaged; {remedy}")
    return mapping


def set_metrics_aside(folder: Path) -> None:
    """Before a fit is resumed: keeps the metrics it has logged, which a new logger would delete."""
    file = folder / METRICS
    if file.is_file():
        file.rename(folder / f"metrics-{max(_numbered(folder), default=0) + 1}.csv")


def merge_metrics(folder: Path) -> None:
    """After a fit: joins what its interrupted parts have logged to one ``metrics.csv``, each epoch once.

    An epoch that was interrupted has been trained again: the part that has it last counts. A kill at any moment loses
    nothing, since the parts are there until all of them stand in one file.
    """
    numbered = _numbered(folder)
    if not numbered:
        return
    epochs: dict[int, list[dict[str, str]]] = {}
    for part in [*(numbered[number] for number in sorted(numbered)), folder / METRICS]:
        if part.is_file():
            epochs |= _epochs(part)
    rows = [row for epoch in sorted(epochs) for row in epochs[epoch]]
    names = list(dict.fromkeys(name for row in rows for name in row))
    with whole(folder / METRICS) as temporary, temporary.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, names, restval="")
        writer.writeheader()
        writer.writerows(rows)
    for part in numbered.values():
        part.unlink(missing_ok=True)


def _numbered(folder: Path) -> dict[int, Path]:
    """The parts that have been set aside, by their numbers."""
    return {int(p.stem.split("-")[1]): p for p in folder.glob("metrics-*.csv") if p.stem.split("-")[1].isdecimal()}


def _epochs(file: Path) -> dict[int, list[dict[str, str]]]:
    """The rows of a file by epoch; without a row that a kill has cut off, whose epoch is trained again."""
    rows: dict[int, list[dict[str, str]]] = {}
    with file.open(newline="", encoding="utf-8", errors="replace") as stream:
        for row in csv.DictReader(stream):
            epoch = row.get("epoch") or ""
            if epoch.isdecimal() and None not in row and None not in row.values():
                rows.setdefault(int(epoch), []).append(row)
    return rows


def _is_validated(file: Path) -> bool:
    """Whether metrics of a phase hold a score: one of few epochs may have had no validation."""
    return file.is_file() and any(row.get("val/map") for rows in _epochs(file).values() for row in rows)


def _plots(
    folder: Path,
    phases: Sequence[Phase],
    rows: Sequence[StateRow],
    checkpoints: Mapping[str, str],
    lowest: float | None,
) -> dict[str, Path]:
    images = {}
    if {"baseline", "sparse"} <= checkpoints.keys():
        before, after = (gamma_magnitudes(load_network(checkpoints[s])).numpy() for s in ("baseline", "sparse"))
        images["Gammas before and after the sparse phase"] = folder / "gammas.png"
        gamma_histograms(before, after, folder / "gammas.png")
    files = {phase.state: folder / phase.folder / METRICS for phase in phases if phase.kind != "prune"}
    curves = {state: file for state, file in files.items() if _is_validated(file)}
    if curves:
        images["mAP50-95 per epoch"] = folder / "curves.png"
        training_curves(curves, folder / "curves.png")
    if max((phase.round for phase in phases), default=0) > 1:
        images["mAP50-95 after each prune and each finetune"] = folder / "rounds.png"
        rounds_plot(rows, folder / "rounds.png", lowest)
    return images
