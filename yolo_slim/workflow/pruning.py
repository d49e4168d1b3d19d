"""Pruning the detector in a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path

from yolo_slim.callbacks import Target, prune_module, save_slim
from yolo_slim.detection import (
    Evaluation,
    YOLODataModule,
    YOLODetector,
    match_classes,
    observe_gradients,
    relabelled,
    training_batches,
)
from yolo_slim.pruning import PruningReport, recalibrate, relative_rise
from yolo_slim.wording import say
from yolo_slim.workflow.sensitivity_files import digest_of, finished_rows, read_about
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
    measured = _by_the_same_images(detector, settings, data, weights)
    dense = None if measured is None else measured()
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
    if measured is not None and dense is not None:
        report = replace(report, measured_rise=relative_rise(measured(), dense))
    save_slim(detector, report, folder)
    return report


def rises(predicted: float, measured: float | None) -> str:
    """How the loss rose beside what was foreseen, in one line.

    Args:
        predicted: The rise that a sensitivity foresaw, relative to the loss of the dense model.
        measured: The rise that was measured, None where it was not.
    """
    told = f"rise of the loss: {predicted:+.1%} foreseen"
    if measured is None:
        return f"{told}; give --data.data to have it measured"
    told += f", {measured:+.1%} measured"
    apart = max(predicted, measured) > 2 * max(min(predicted, measured), 0.01)
    return f"{told}: more than a factor of two apart, units do not just add up here" if apart else told


def _by_the_same_images(
    detector: YOLODetector, settings: PruneSettings, data: YOLODataModule | None, weights: str | Path
) -> Callable[[], Mapping[str, float]] | None:
    """Measures the detector as its sensitivity was measured; None without one, or without data."""
    if settings.selection.sensitivity is None:
        return None
    folder = Path(settings.selection.sensitivity)
    about = read_about(folder)
    if about["part"] != "1/1":
        raise ValueError(f"{folder} is part {about['part']} of a measurement: join them with 'sensitivity --merge'")
    finished_rows(folder, about)
    if about["weights"].get("sha256") != digest_of(Path(weights)):
        say(f"{folder} was measured on other weights than {weights}: what it foresees is theirs")
    scored = about["settings"].get("importance")
    if scored != asdict(settings.importance):
        say(f"{folder} was measured with importance {scored}: give the same, so that the same channels go first")
    if data is None:
        return None
    sized = data.fresh(imgsz=detector.hparams["imgsz"])
    metric = about["settings"]["metric"]
    evaluate = Evaluation(detector, sized, about["data"]["split"], about["data"]["images"], metric)
    return lambda: evaluate(detector.net)
