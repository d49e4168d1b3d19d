"""train.py export: a checkpoint in, files for other programs out, with their sizes, latencies and mAP."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from jsonargparse import ArgumentParser
from rich.console import Console

from yolo_slim.commands.keys import add_measuring_data, verb_parser
from yolo_slim.detection import (
    OWN_FORMATS,
    ExportedDetector,
    ExportOptions,
    YOLODataModule,
    check_formats,
    expect_given,
    export_network,
    file_scores,
    match_classes,
    read_weights,
    save_ultralytics,
    split_formats,
)
from yolo_slim.files import write_whole
from yolo_slim.pruning import latency
from yolo_slim.reporting import ExportRow, exports_markdown, exports_table
from yolo_slim.wording import say
from yolo_slim.workflow.run_folder import discard_untrained, new_run_folder

#: How often each file gets its turn when they are timed, and forwards in a turn.
ROUNDS, REPEATS = 5, 10


def parser() -> ArgumentParser:
    """The keys of ``train.py export``."""
    found = verb_parser("export", "Write a detector as ONNX, TorchScript, OpenVINO, ... and measure what became of it.")
    found.add_argument("--model.weights", type=str, required=True, help="Checkpoint or Ultralytics .pt file to export.")
    found.add_argument(
        "--before",
        type=str | None,
        default=None,
        help="Another checkpoint or .pt file, such as the baseline: it is exported too, measured and not kept.",
    )
    found.add_argument(
        "--format",
        type=str,
        nargs="+",
        action="extend",
        required=True,
        help="One or more of onnx, torchscript, openvino, engine (TensorRT), ncnn, coreml, ... by the names of "
        f"Ultralytics' exporter, {OWN_FORMATS[0]} (a .pt for stock Ultralytics), {OWN_FORMATS[1]} (a checkpoint with weights alone).",
    )
    found.add_class_arguments(ExportOptions)
    add_measuring_data(found)
    return found


def main(arguments: Sequence[str]) -> None:
    """Runs ``train.py export``; ``arguments`` begin with the verb."""
    given = parser().parse_args(list(arguments[1:]))
    options = ExportOptions(**{field.name: given[field.name] for field in fields(ExportOptions)})
    formats = split_formats(given.format)
    check_formats(formats, options, given.data.data is not None)
    weights = given.model.weights
    paths = {"model.weights": weights, "before": given.before, "data.data": given.data.data}
    expect_given(project=given.project, **paths)
    models = {"before": given.before, "after": weights} if given.before else {Path(weights).stem: weights}
    nets = {}
    for model, path in models.items():
        nets[model], trained_with = read_weights(path)
    imgsz = options.imgsz or trained_with
    options = replace(options, imgsz=imgsz)
    data = None
    if given.data.data is not None:
        data = YOLODataModule(imgsz=imgsz, workers=0, **vars(given.data))
        _expect_classes(nets, models, data)
    folder = new_run_folder(given.project, given.name)
    try:
        with tempfile.TemporaryDirectory(dir=folder) as place:
            files = {model: Path(place) / model for model in nets}
            exported = []
            for model, net in nets.items():
                files[model].mkdir()
                exported += export_all(net, model, formats, options, files[model], Path(weights).stem, data)
            rows = measure(exported, options, data)
            for file in (e.file for e in exported if e.file.parent == files[list(nets)[-1]] and e.format != "PyTorch"):
                file.rename(folder / file.name)
    except BaseException:
        discard_untrained(folder)
        raise
    Console().print(exports_table(rows))
    write_whole(folder / "results.md", exports_markdown(rows) + "\n" + note(options, data) + "\n")
    say(note(options, data))
    say(f"Everything is in {folder}: " + ", ".join(sorted(file.name for file in folder.iterdir())))


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
    plain = folder / "plain.pt"
    save_ultralytics(net, plain, options.imgsz, half=False)
    found = [Exported(model, "PyTorch", plain)]
    for name in formats:
        file = export_network(net, name, options, folder, stem, data)
        found.append(Exported(model, name + (" int8" if options.int8 else " half" if options.half else ""), file))
    return found


def measure(
    exported: Sequence[Exported], options: ExportOptions, data: YOLODataModule | None = None
) -> list[ExportRow]:
    """Size and latency of files, and with data their mAP on its validation images.

    Files that cannot be run here, because their runtime or hardware is elsewhere, have a size alone.

    Args:
        exported: The files; those of one format come to stand together.
        options: What they were exported with.
        data: Validation images, set up for ``validate``.
    """
    found = {e.file: _opened(e, options) for e in exported}
    runs = {file: detector for file, detector in found.items() if detector is not None}
    times = latencies(runs, options)
    judged = {file: file_scores(detector, data) if data is not None else {} for file, detector in runs.items()}
    order = list(dict.fromkeys(e.format for e in exported))
    return [
        ExportRow(
            e.format,
            e.model,
            "-" if e.format == "PyTorch" or e.model == "before" else e.file.name,  # what is kept
            megabytes(e.file),
            times.get(e.file, math.nan),
            judged.get(e.file, {}).get("map50", math.nan),
            judged.get(e.file, {}).get("map", math.nan),
        )
        for e in sorted(exported, key=lambda e: order.index(e.format))
    ]


def latencies(detectors: Mapping[Path, ExportedDetector], options: ExportOptions) -> dict[Path, float]:
    """Median milliseconds of a forward, the files taken in turn so that a busy machine slows all alike."""
    assert options.imgsz is not None
    times: dict[Path, list[float]] = {file: [] for file in detectors}
    for _ in range(ROUNDS):
        for file, detector in detectors.items():
            images = torch.rand(1, 3, options.imgsz, options.imgsz, device=detector.device)
            times[file].append(1000 * latency(detector, images, REPEATS))
    return {file: median(values) for file, values in times.items()}


def megabytes(path: Path) -> float:
    """Size of a file, or of all files in a folder, in 1e6 bytes."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files) / 1e6


def note(options: ExportOptions, data: YOLODataModule | None) -> str:
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


def _expect_classes(nets: Mapping[str, Any], models: Mapping[str, str], data: YOLODataModule) -> None:
    """Refuses data of other classes than the models', before anything is written; broken images and labels too."""
    for model, net in nets.items():
        match_classes(net.names, data.names or {}).indices(models[model])
    data.prepare_data()
    data.setup("validate")
