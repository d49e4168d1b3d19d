"""Pruning the detector in a file."""

from __future__ import annotations

from pathlib import Path

from yolo_slim.callbacks import Target, prune_module, save_slim
from yolo_slim.detection import (
    YOLODataModule,
    YOLODetector,
    match_classes,
    observe_gradients,
    relabelled,
    training_batches,
)
from yolo_slim.pruning import PruningReport, recalibrate
from yolo_slim.workflow.settings import PruneSettings


def prune_file(
    weights: str | Path,
    settings: PruneSettings,
    folder: str | Path,
    data: YOLODataModule | None = None,
    imgsz: int | None = None,
) -> PruningReport:
    """Prunes the detector in a file and writes ``slim.ckpt``, ``plan.yaml`` and ``pruning.yaml`` to a folder.

    Args:
        weights: Checkpoint or .pt file.
        settings: What is pruned, and how.
        folder: Folder of the files.
        data: Training images, for Taylor importance and for recalibration.
        imgsz: Image side that budgets are meant for, in pixels; by default the one it was trained with.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds no detector, images are needed and missing, or a budget cannot be reached.
        RuntimeError: If the pruned network does not compute what it should.
    """
    detector = YOLODetector(weights=str(weights), imgsz=imgsz)
    target, taylor, batches = Target(detector), None, []
    if settings.needs_images:
        if data is None:
            what = "recalibrate" if settings.recalibrate else "importance.kind=taylor"
            raise ValueError(f"{what} needs training images: give --data.data with a data YAML")
        batches = training_batches(data.fresh(imgsz=detector.hparams["imgsz"]), settings.batches)
        if settings.importance.kind == "taylor":
            indices = match_classes(detector.hparams["names"], data.names or {}).indices(str(weights))
            taylor = observe_gradients(detector, target.graph, relabelled(batches, indices))
    report = prune_module(
        detector,
        settings.selection,
        importance=settings.importance,
        taylor=taylor,
        compensation=settings.compensation,
        target=target,
    )
    if settings.recalibrate:
        recalibrate(detector.net, batches, lambda batch: batch["img"])
    save_slim(detector, report, folder)
    return report
