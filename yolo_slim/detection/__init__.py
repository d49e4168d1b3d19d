"""YOLO detectors and their data under Lightning: the only folder that imports Ultralytics."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from yolo_slim.lazy import face

# Ultralytics sends usage data, asks for newer versions and installs packages on its own; all of it stays off, unless
# its own variables say otherwise. It reads them when it is imported. Published weights are downloaded all the same.
os.environ.setdefault("YOLO_OFFLINE", "true")
os.environ.setdefault("YOLO_AUTOINSTALL", "false")

if TYPE_CHECKING:
    from yolo_slim.detection.data.augmentation import Augmentation as Augmentation
    from yolo_slim.detection.data.datamodule import YOLODataModule as YOLODataModule
    from yolo_slim.detection.data.plain import training_batches as training_batches
    from yolo_slim.detection.data.shapes import generate_shapes as generate_shapes
    from yolo_slim.detection.export.export import export_network as export_network
    from yolo_slim.detection.export.formats import OWN_FORMATS as OWN_FORMATS
    from yolo_slim.detection.export.formats import ExportOptions as ExportOptions
    from yolo_slim.detection.export.formats import check_formats as check_formats
    from yolo_slim.detection.export.formats import split_formats as split_formats
    from yolo_slim.detection.export.runtime import ExportedDetector as ExportedDetector
    from yolo_slim.detection.export.runtime import file_scores as file_scores
    from yolo_slim.detection.files.checkpoints import check_resumable as check_resumable
    from yolo_slim.detection.files.stock import save_ultralytics as save_ultralytics
    from yolo_slim.detection.files.weights import choose_imgsz as choose_imgsz
    from yolo_slim.detection.files.weights import expect_given as expect_given
    from yolo_slim.detection.files.weights import load_network as load_network
    from yolo_slim.detection.files.weights import read_weights as read_weights
    from yolo_slim.detection.network.build import head_of as head_of
    from yolo_slim.detection.network.build import is_end_to_end as is_end_to_end
    from yolo_slim.detection.network.classes import match_classes as match_classes
    from yolo_slim.detection.network.deployed import as_deployed as as_deployed
    from yolo_slim.detection.network.fresh_head import has_fresh_head as has_fresh_head
    from yolo_slim.detection.network.tracing import TRACE_SIZE as TRACE_SIZE
    from yolo_slim.detection.network.tracing import raw_outputs as raw_outputs
    from yolo_slim.detection.network.tracing import trace_network as trace_network
    from yolo_slim.detection.training.calibration import observe_gradients as observe_gradients
    from yolo_slim.detection.training.calibration import relabelled as relabelled
    from yolo_slim.detection.training.detector import YOLODetector as YOLODetector
    from yolo_slim.detection.training.divergence import DivergedError as DivergedError
    from yolo_slim.detection.training.evaluation import Evaluation as Evaluation
    from yolo_slim.detection.training.evaluation import Metric as Metric
    from yolo_slim.detection.training.hyperparameters import Hyperparameters as Hyperparameters
    from yolo_slim.detection.training.metrics import SCORE_NAMES as SCORE_NAMES
    from yolo_slim.detection.training.prediction_writer import PredictionWriter as PredictionWriter
    from yolo_slim.detection.training.stock_trainer import SlimTrainer as SlimTrainer
    from yolo_slim.detection.trust import trusted as trusted

__getattr__, __dir__, __all__ = face(
    __name__,
    {
        "data.augmentation": "Augmentation",
        "data.datamodule": "YOLODataModule",
        "data.plain": "training_batches",
        "data.shapes": "generate_shapes",
        "export.export": "export_network",
        "export.formats": "ExportOptions OWN_FORMATS check_formats split_formats",
        "export.runtime": "ExportedDetector file_scores",
        "files.checkpoints": "check_resumable",
        "files.stock": "save_ultralytics",
        "files.weights": "choose_imgsz expect_given load_network read_weights",
        "network.build": "head_of is_end_to_end",
        "network.classes": "match_classes",
        "network.deployed": "as_deployed",
        "network.fresh_head": "has_fresh_head",
        "network.tracing": "TRACE_SIZE raw_outputs trace_network",
        "training.calibration": "observe_gradients relabelled",
        "training.detector": "YOLODetector",
        "training.divergence": "DivergedError",
        "training.evaluation": "Evaluation Metric",
        "training.hyperparameters": "Hyperparameters",
        "training.metrics": "SCORE_NAMES",
        "training.prediction_writer": "PredictionWriter",
        "training.stock_trainer": "SlimTrainer",
        "trust": "trusted",
    },
)
