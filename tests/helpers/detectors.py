"""Small detectors, their data and a Trainer for them."""

from __future__ import annotations

from lightning.pytorch import Trainer, seed_everything

from yolo_slim.detection.data.datamodule import YOLODataModule
from yolo_slim.detection.training.detector import YOLODetector


def trainer_for(folder, **settings):
    defaults = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "default_root_dir": str(folder),
    }
    return Trainer(**{**defaults, **settings})


def data_for(shapes_dir, **settings):
    return YOLODataModule(**{"data": str(shapes_dir / "data.yaml"), "imgsz": 64, "batch": 4, "workers": 0, **settings})


def detector_for(data, **settings):
    seed_everything(0, verbose=False)
    return YOLODetector(names=data.names, imgsz=64, **settings)
