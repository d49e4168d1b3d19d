"""Which formats there are, and what each of them takes and needs; refused here is what cannot work."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from ultralytics.engine.exporter import FP16_FORMATS, FP32_UNSUPPORTED_FORMATS, INT8_FORMATS, export_formats

from yolo_slim.detection.network.limits import expect_imgsz

#: Formats that need no exporter: a .pt for stock Ultralytics, and a checkpoint of ours with weights alone.
OWN_FORMATS = ("ultralytics", "ckpt")
#: Packages without which a format cannot be written or run here; Ultralytics names those of the others.
PACKAGES = {
    "onnx": ("onnx", "onnxruntime"),
    "openvino": ("openvino",),
    "engine": ("onnx", "tensorrt"),
    "ncnn": ("ncnn", "pnnx"),
    "coreml": ("coremltools",),
}


@dataclass(frozen=True)
class ExportOptions:
    """What an exported file shall be like. An option that one of the formats does not take is refused."""

    imgsz: int | None = None
    """Side of the images in pixels, a multiple of 32; by default that of the model's training."""
    batch: int = 1
    """Images in a batch; with ``dynamic`` the file takes any number."""
    dynamic: bool = False
    """Take images of any size and number; with ``nms``, batches of up to ``batch`` images."""
    half: bool = False
    """Half precision: files of half the size."""
    fused: bool = False
    """BatchNorm folded into the convolutions, for ``ultralytics``: a little smaller, and no longer to be trained."""
    int8: bool = False
    """Weights and activations in 8 bits: a quarter of the size. Needs training images, ``data.data``, to calibrate."""
    calibration_images: int = 256
    """Training images that the ranges of the activations are taken from, for ``onnx`` with ``int8``."""
    nms: bool = False
    """Put non-maximum suppression into the file: it returns boxes, scores and classes."""
    conf: float | None = None
    """Lowest score of a box, in [0, 1], with ``nms``; 0.25 by default."""
    iou: float | None = None
    """Overlap in [0, 1] above which the lower box of a class goes, with ``nms``; 0.7 by default."""
    max_det: int | None = None
    """Boxes of an image at most, with ``nms``; 300 by default."""
    opset: int | None = None
    """Version of the ONNX operators; by default the newest that suits the installed packages."""
    simplify: bool = True
    """Simplify the ONNX graph."""
    device: str = "cpu"
    """Where the export and the measurements run: ``cpu``, or the number of a GPU."""

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if self.imgsz is not None:
            expect_imgsz(self.imgsz)
        for name in ("batch", "calibration_images", "max_det", "opset"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: expected at least 1")
        for name in ("conf", "iou"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name}={value}: expected a value from 0 to 1")
        if self.half and self.int8:
            raise ValueError("half and int8 are two precisions of the same file: give one of them")
        if not self.nms and (useless := [n for n in ("conf", "iou", "max_det") if getattr(self, n) is not None]):
            raise ValueError(
                f"{useless[0]} belongs to the suppression inside the file: give it together with --nms true"
            )
        if self.device != "cpu" and not torch.cuda.is_available():
            raise ValueError(f"device={self.device}: PyTorch sees no GPU here; expected cpu")


def split_formats(words: Sequence[str]) -> list[str]:
    """Formats from words, each of them one format or several with commas between.

    Raises:
        ValueError: If one is unknown.

    Example:
        >>> split_formats(["onnx,torchscript", "openvino"])
        ['onnx', 'torchscript', 'openvino']
    """
    formats = list(dict.fromkeys(part for word in words for part in word.strip("[]").replace(",", " ").split()))
    known = [*OWN_FORMATS, *export_formats()["Argument"][1:]]
    unknown = [name for name in formats if name not in known]
    if unknown or not formats:
        raise ValueError(f"unknown format {', '.join(unknown) or words!r}; expected one of {', '.join(known)}")
    return formats


def needs_data(name: str, options: ExportOptions) -> bool:
    """Whether a format takes ranges of activations from images, because it is asked for 8 bits or knows no others."""
    always = name in FP32_UNSUPPORTED_FORMATS - FP16_FORMATS
    return name not in OWN_FORMATS and "data" in _taken(name) and (options.int8 or always)


def check_formats(formats: Sequence[str], options: ExportOptions, has_data: bool) -> None:
    """Refuses what cannot be exported, before anything is.

    Raises:
        ValueError: If a format does not take one of the options, needs data that is not given, or a package or GPU that
            is not here.
    """
    for name in formats:
        asked = {key: getattr(options, key) != default for key, default in _DEFAULTS.items()}
        for key in (key for key, value in asked.items() if value and not _takes(name, key)):
            others = [k for k in _DEFAULTS if _takes(name, k)]
            takes = f"takes {', '.join(others)}" if others else "takes none of the options"
            raise ValueError(f"format {name} does not take {key}; it {takes} (export it in a command of its own)")
        if needs_data(name, options) and not has_data:
            why = "int8" if options.int8 else f"format {name}"
            raise ValueError(f"{why} needs training images for calibration: give --data.data with a data YAML")
        if name == "engine" and options.device == "cpu":
            raise ValueError("format engine (TensorRT) is built on the NVIDIA GPU that will run it: give --device 0")
        _check_packages(name, options)


_DEFAULTS = {
    **{"batch": 1, "dynamic": False, "half": False, "fused": False, "int8": False, "nms": False},
    **{"opset": None, "simplify": True},
}


def _taken(name: str) -> list[str]:
    table = export_formats()
    return table["Arguments"][table["Argument"].index(name)]


def _takes(name: str, key: str) -> bool:
    if name in OWN_FORMATS or key == "fused":
        return key == "half" or (key == "fused" and name == "ultralytics")
    if key in ("half", "int8"):
        return name in (FP16_FORMATS if key == "half" else INT8_FORMATS)
    return key in _taken(name)


def _check_packages(name: str, options: ExportOptions) -> None:
    wanted = list(PACKAGES.get(name, ()))
    if name not in OWN_FORMATS and options.simplify and "simplify" in _taken(name):
        wanted.append("onnxslim")
    if name == "openvino" and options.int8:
        wanted.append("nncf")
    missing = [package for package in wanted if importlib.util.find_spec(package) is None]
    if missing:
        lacks = f"the package {missing[0]}" if len(missing) == 1 else f"the packages {' and '.join(missing)}"
        raise ValueError(f"format {name} needs {lacks}, not installed here: pip install {' '.join(missing)}")
