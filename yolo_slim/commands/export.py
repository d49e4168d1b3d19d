"""The verb export: a checkpoint in, files for other programs out, with their sizes, latencies and mAP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from jsonargparse import ArgumentParser
from rich.console import Console

from yolo_slim.commands.keys import add_measuring_data, parsed, verb_parser
from yolo_slim.detection import (
    OWN_FORMATS,
    ExportOptions,
    YOLODataModule,
    check_formats,
    expect_given,
    split_formats,
)
from yolo_slim.reporting import exports_table
from yolo_slim.wording import say
from yolo_slim.workflow import discard_untrained, export, new_run_folder


def parser() -> ArgumentParser:
    """The keys of the verb ``export``."""
    keys = verb_parser("export", "Write a detector as ONNX, TorchScript, OpenVINO, ... and measure what became of it.")
    keys.add_argument("--model.weights", type=str, required=True, help="Checkpoint or Ultralytics .pt file to export.")
    keys.add_argument(
        "--before",
        type=str | None,
        default=None,
        help="Another checkpoint or .pt file, such as the baseline: it is exported too, measured and not kept.",
    )
    stock, weights_alone = OWN_FORMATS
    keys.add_argument(
        "--format",
        type=str,
        nargs="+",
        action="extend",
        required=True,
        help="One or more of onnx, torchscript, openvino, engine (TensorRT), ncnn, coreml, ... by the names of "
        f"Ultralytics' exporter, {stock} (a .pt for stock Ultralytics), {weights_alone} (a checkpoint with weights "
        "alone).",
    )
    keys.add_class_arguments(ExportOptions)
    add_measuring_data(keys)
    return keys


def main(arguments: Sequence[str]) -> None:
    """Runs the verb ``export``; ``arguments`` begin with the verb."""
    values = parsed(parser(), arguments[1:])
    options = ExportOptions(**{field.name: values[field.name] for field in fields(ExportOptions)})
    formats, weights, data = split_formats(values.format), values.model.weights, None
    check_formats(formats, options, values.data.data is not None)
    paths = {"model.weights": weights, "before": values.before, "data.data": values.data.data}
    expect_given(project=values.project, **paths)
    if values.data.data is not None:
        data = YOLODataModule(**vars(values.data))
    folder = new_run_folder(values.project, values.name)
    try:
        result = export(weights, formats, options, folder, data, values.before)
    except BaseException:
        if not any(folder.iterdir()):
            discard_untrained(folder)
        raise
    Console().print(exports_table(result.rows))
    say(result.note)
    say(f"Everything is in {folder}: " + ", ".join(sorted(file.name for file in folder.iterdir())))
