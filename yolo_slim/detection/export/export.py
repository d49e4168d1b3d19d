"""Detectors as files for other programs: ONNX, TorchScript, OpenVINO and all else that Ultralytics exports."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from ultralytics import YOLO
from ultralytics.nn.tasks import DetectionModel

from yolo_slim.detection.data import checks as data_checks
from yolo_slim.detection.data.datamodule import SHAPES_ROOT, YOLODataModule
from yolo_slim.detection.export.formats import OWN_FORMATS, ExportOptions, check_formats, needs_data
from yolo_slim.detection.export.onnx_int8 import calibration_images, quantize_onnx
from yolo_slim.detection.export.undisturbed import undisturbed
from yolo_slim.detection.files import checkpoints
from yolo_slim.detection.files.stock import save_ultralytics
from yolo_slim.detection.network.build import is_end_to_end
from yolo_slim.detection.network.deployed import quicken
from yolo_slim.detection.network.fresh_head import expect_trained_head

#: Formats whose runtimes take the box decode as plain arithmetic; those of single makers get what these expect.
QUICKENED = ("onnx", "openvino", "torchscript", "engine")


def export_network(
    net: DetectionModel,
    name: str,
    options: ExportOptions,
    folder: Path,
    stem: str,
    data: YOLODataModule | None = None,
) -> Path:
    """Writes a network in one format.

    Args:
        net: The network; stays as it is.
        name: The format, one of :data:`yolo_slim.detection.OWN_FORMATS` or of Ultralytics' exporter.
        options: What the file shall be like; ``imgsz`` is needed.
        folder: Where it goes.
        stem: What it is called, without the ending of the format.
        data: Training images for 8 bits.

    Returns:
        The file, or the folder of a format that is one.

    Raises:
        ValueError: If the format does not take the options, lacks a package or hardware, or fails.
        FileExistsError: If there is such a file already.
    """
    check_formats([name], options, data is not None)
    expect_trained_head(net, f"export to {name}")
    assert options.imgsz is not None, "the image size is not known"
    with tempfile.TemporaryDirectory(dir=folder) as place:
        if name in OWN_FORMATS:
            made = Path(place) / ("model.pt" if name == "ultralytics" else "model.ckpt")
            if name == "ultralytics":
                save_ultralytics(net, made, options.imgsz, half=options.half, fused=options.fused)
            else:
                checkpoints.save_weights(net, made, options.imgsz, half=options.half)
        else:
            made = _by_ultralytics(net, name, options, Path(place), data)
        target = folder / made.name.replace("model", stem, 1)
        if target.exists():
            raise FileExistsError(f"{target} exists already; give another folder")
        shutil.move(made, target)
    return target


def _by_ultralytics(
    net: DetectionModel, name: str, options: ExportOptions, folder: Path, data: YOLODataModule | None
) -> Path:
    """Writes a stock .pt file and has Ultralytics turn it into another format."""
    assert options.imgsz is not None
    stock = folder / "model.pt"
    save_ultralytics(net, stock, options.imgsz, half=False)
    keys: dict[str, Any] = {"imgsz": options.imgsz, "batch": options.batch, "device": options.device}
    if options.nms:
        keys |= {"nms": True, "conf": options.conf, "iou": options.iou, "max_det": options.max_det}
    elif is_end_to_end(net):
        keys["nms"] = False  # the branches that need none
    keys |= {"dynamic": options.dynamic, "opset": options.opset, "simplify": options.simplify}
    ours = name == "onnx" and options.int8
    if not ours and (options.half or options.int8):
        keys["quantize"] = 8 if options.int8 else 16
    if not ours and needs_data(name, options):
        assert data is not None
        assert data.data is not None
        file = SHAPES_ROOT / "data.yaml" if data.data == "shapes" else data_checks.find_data_yaml(data.data)
        keys |= {"data": str(file), "split": "train"}
    keys = {key: value for key, value in keys.items() if value is not None}
    images = calibration_images(data, options.calibration_images) if ours and data is not None else None
    try:
        with undisturbed():
            model: Any = YOLO(stock, task="detect")
            if name in QUICKENED:
                quicken(model.model)
            made = Path(model.export(format=name, **keys))
            if images is not None:
                quantized = made.with_name("model_int8.onnx")
                quantize_onnx(made, quantized, images, options.batch)
                made = quantized
    except ImportError as error:
        package = (error.name or str(error)).partition(".")[0]
        raise ValueError(
            f"format {name} needs the Python module {package}, not installed here; "
            "docs.ultralytics.com/integrations says which package has it"
        ) from error
    except Exception as error:  # exporters of twenty makers raise what they like, AssertionError among it
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ValueError(f"format {name} cannot be exported here: {reason.removeprefix('ERROR ❌️ ')}") from error
    return made
