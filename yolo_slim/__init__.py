"""Structured channel pruning of YOLO detectors with PyTorch Lightning."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yolo_slim.version import __version__

if TYPE_CHECKING:
    from pathlib import Path

    from yolo_slim.detection import YOLODetector

__all__ = ["__version__", "load"]


def load(path: str | Path, *, trust: bool = False) -> YOLODetector:
    """Reads a detector, whatever its structure: the way in for those who want to use one.

    Args:
        path: A checkpoint (baseline, sparse, slim or finetuned), an Ultralytics ``.pt`` file, or the name of a
            published one such as ``yolov8n.pt``.
        trust: Open a ``.pt`` file that consists of more than a detector, which may run code.

    Returns:
        The detector in eval mode on the CPU. ``detector.detect(images)`` gives boxes, ``detector.hparams`` class names
        and image size.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, holds no detector, or wants anything that detectors do not consist of.
    """
    # Here, so that the engine and the callbacks can be imported without Lightning and Ultralytics.
    from yolo_slim.detection import YOLODetector, trusted

    with trusted(trust):
        return YOLODetector(weights=str(path)).eval()
