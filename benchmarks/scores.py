"""What the benchmarks on a trained detector share: their arguments, and its scores on the validation images."""

from __future__ import annotations

import argparse
import logging
import warnings

from lightning.pytorch import Trainer

from yolo_slim.detection import YOLODataModule, YOLODetector


def arguments(text: str | None, weights: str) -> argparse.ArgumentParser:
    """A parser with ``--weights``, ``--data`` and ``--imgsz``.

    Args:
        text: The script's docstring.
        weights: What ``--weights`` is.
    """
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, help=weights)
    parser.add_argument("--data", required=True, help="data YAML")
    parser.add_argument("--imgsz", type=int, default=640, help="image side in pixels")
    return parser


def quiet() -> None:
    """Leaves the table alone on the screen."""
    for name in ("lightning.pytorch", "ultralytics"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")


def validated(detector: YOLODetector, data: YOLODataModule) -> tuple[float, float]:
    """MAP50 and mAP50-95 on the validation images."""
    trainer = Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    found = trainer.validate(detector, datamodule=data, verbose=False)[0]
    return float(found["val/map50"]), float(found["val/map"])
