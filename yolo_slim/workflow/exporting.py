"""Exporting detectors, and measuring what became of them."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from yolo_slim.detection import (
    ExportedDetector,
    ExportOptions,
    YOLODataModule,
    check_formats,
    export_network,
    file_scores,
    match_classes,
    read_weights,
    save_ultralytics,
)
from yolo_slim.files import write_whole
from yolo_slim.pruning import latencies_ms
from yolo_slim.reporting import ExportRow, exports_markdown
from yolo_slim.wording import say
from yolo_slim.workflow.run_folder import expect_empty


class ExportResult(NamedTuple):
    """What was exported: a row for each file, and how its figures were taken."""

    rows: list[ExportRow]
    note: str


def export(
    weights: str | Path,
    formats: Sequence[str],
    options: ExportOptions,
    folder: str | Path,
    data: YOLODataModule | None = None,
    before: str | Path | None = None,
) -> ExportResult:
    """Writes a detector in several formats and measures what became of it.

    Args:
        weights: Checkpoint or ``.pt`` file.
        formats: Names of formats, see :func:`yolo_slim.detection.split_formats`.
        options: What the files shall be like.
        folder: Where they go, with the table in ``results.md``; an empty one, or none yet.
        data: Training images for 8 bits, and validation images to measure mAP on.
        before: Another file, such as the baseline: it is exported too, measured and not kept.

    Returns:
        A row for each file and for the network in PyTorch, and how the figures were taken.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no detector, or a format does not take the options, lacks a package or hardware, or fails;
            or if there is something in the folder.
    """
    check_formats(formats, options, data is not None)
    folder = expect_empty(folder)
    paths = {"before": before, "after": weights} if before else {Path(weights).stem: weights}
    nets = {}
    for model, path in paths.items():
        nets[model], trained_with = read_weights(path)
    options = replace(options, imgsz=options.imgsz or trained_with)
    if data is not None:
        data = data.fresh(imgsz=options.imgsz, workers=0)
        for model, net in nets.items():
            match_classes(dict(net.names), data.names or {}).indices(str(paths[model]))
        data.prepare_data()  # broken images and labels are refused before anything is written
        data.setup("validate")
    with tempfile.TemporaryDirectory(dir=folder) as place:
        exported = []
        for model, net in nets.items():
            files = Path(place) / model
            files.mkdir()
            exported += export_all(net, model, formats, options, files, Path(weights).stem, data)
        rows, note = measure_exports(exported, options, data), _how_measured(options, data)
        for entry in exported:
            if entry.file.parent == files and entry.format != REFERENCE:
                entry.file.rename(folder / entry.file.name)
    write_whole(folder / "results.md", exports_markdown(rows) + "\n" + note + "\n")
    return ExportResult(rows, note)


#: What the others are compared with: the network in single precision.
REFERENCE = "PyTorch"


@dataclass(frozen=True)
class Exported:
    """A file, and what it was made of."""

    model: str
    format: str
    file: Path


def export_all(
    net: Any,
    model: str,
    formats: Sequence[str],
    options: ExportOptions,
    folder: Path,
    stem: str,
    data: YOLODataModule | None = None,
) -> list[Exported]:
    """Writes a network in several formats, after a .pt in single precision that the others are compared with.

    Args:
        net: The network, a ``DetectionModel``.
        model: What the table calls it.
        formats: Their names.
        options: What the files shall be like.
        folder: Where they go.
        stem: What they are called.
        data: Training images for 8 bits.
    """
    assert options.imgsz is not None
    single = folder / "single.pt"
    save_ultralytics(net, single, options.imgsz, half=False)
    exported = [Exported(model, REFERENCE, single)]
    for name in formats:
        file = export_network(net, name, options, folder, stem, data)
        exported.append(Exported(model, name + (" int8" if options.int8 else " half" if options.half else ""), file))
    return exported


def measure_exports(
    exported: Sequence[Exported], options: ExportOptions, data: YOLODataModule | None = None
) -> list[ExportRow]:
    """Size and latency of files, and with data their mAP on its validation images.

    Files that cannot be run here, because their runtime or hardware is elsewhere, have a size alone.

    Args:
        exported: The files; those of one format come to stand together.
        options: What they were exported with.
        data: Validation images, set up for ``validate``.
    """
    detectors = {e.file: _opened(e, options) for e in exported}
    runs = {file: detector for file, detector in detectors.items() if detector is not None}
    times = latencies_ms({file: (run, _image(run, options)) for file, run in runs.items()})
    judged = {file: file_scores(detector, data) if data is not None else {} for file, detector in runs.items()}
    order = list(dict.fromkeys(e.format for e in exported))
    return [
        ExportRow(
            e.format,
            e.model,
            "-" if e.format == REFERENCE or e.model == "before" else e.file.name,  # what is kept
            megabytes(e.file),
            times.get(e.file, math.nan),
            judged.get(e.file, {}).get("map50", math.nan),
            judged.get(e.file, {}).get("map", math.nan),
        )
        for e in sorted(exported, key=lambda e: order.index(e.format))
    ]


def megabytes(path: Path) -> float:
    """Size of a file, or of all files in a folder, in 1e6 bytes."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files) / 1e6


def _how_measured(options: ExportOptions, data: YOLODataModule | None) -> str:
    """How the figures were taken."""
    where = "the CPU" if options.device == "cpu" else torch.cuda.get_device_name()
    judged = f"mAP on the validation images of {data.data}. " if data is not None else ""
    threads = torch.get_num_threads()
    return (
        f"Images of {options.imgsz} pixels. Size in 1e6 bytes, of PyTorch the weights alone in single precision. "
        f"Latency: median of one image on {where}, all files in turn; PyTorch with BatchNorm fused on "
        f"{threads} thread{'s' * (threads > 1)}, the other runtimes as they are by default. {judged}"
        "Changes are against the same format of `before`, or else against the first row."
    )


def _opened(exported: Exported, options: ExportOptions) -> ExportedDetector | None:
    device = f"cuda:{options.device}" if options.device.isdigit() else options.device
    try:
        return ExportedDetector(exported.file, device)
    except Exception as error:  # whatever a runtime raises that is missing, or meant for another machine
        if exported.file.suffix in (".pt", ".ckpt"):
            raise
        say(f"{exported.file.name} cannot be run here, so it is not timed: {str(error).splitlines()[0]}")
        return None


def _image(detector: ExportedDetector, options: ExportOptions) -> torch.Tensor:
    assert options.imgsz is not None
    return torch.rand(1, 3, options.imgsz, options.imgsz, device=detector.device)
