"""train.py prune: a checkpoint in, a slim checkpoint out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser
from rich.console import Console

from yolo_slim.callbacks import prune_module, save_slim
from yolo_slim.commands.keys import add_measuring_data, verb_parser
from yolo_slim.commands.next_step import finetune
from yolo_slim.detection import (
    YOLODataModule,
    YOLODetector,
    choose_imgsz,
    expect_given,
    load_network,
    match_classes,
    observe_gradients,
    relabelled,
    training_batches,
)
from yolo_slim.pruning import Importance, PruningReport, Selection, recalibrate
from yolo_slim.pruning.pipeline import COMPENSATIONS
from yolo_slim.reporting import layers_table
from yolo_slim.wording import say
from yolo_slim.workflow.measuring import size_of
from yolo_slim.workflow.run_folder import discard_untrained, new_run_folder


def parser() -> ArgumentParser:
    """The keys of ``train.py prune``."""
    found = verb_parser("prune", "Remove the channels that matter least and save the slim model.")
    found.add_argument("--model.weights", type=str, required=True, help="Checkpoint or Ultralytics .pt file to prune.")
    found.add_argument(
        "--imgsz",
        type=int | None,
        default=None,
        help="Image side in pixels that GFLOPs are counted for; by default the one of the weights.",
    )
    add_prune_arguments(found)
    add_measuring_data(found)
    return found


def add_prune_arguments(found: ArgumentParser, prefix: str = "") -> None:
    """The keys that say what is pruned and how, for this verb and for the recipe."""
    found.add_class_arguments(Selection, f"{prefix}selection")
    found.add_class_arguments(Importance, f"{prefix}importance")
    found.add_argument(
        f"--{prefix}compensation",
        type=Literal[COMPENSATIONS],
        default="auto",
        help="What becomes of the constants that channels with a small gamma pass on.",
    )
    found.add_argument(
        f"--{prefix}recalibrate", type=bool, default=False, help="Measure BatchNorm statistics anew after the prune."
    )
    found.add_argument(
        f"--{prefix}batches", type=int, default=16, help="Batches of training images for taylor and recalibrate."
    )


def main(arguments: Sequence[str]) -> None:
    """Runs ``train.py prune``; ``arguments`` begin with the verb."""
    keys = parser()
    given = keys.parse_args(list(arguments[1:]))
    settings = keys.instantiate_classes(given)
    expect_given(project=given.project, **{"model.weights": given.model.weights, "data.data": given.data.data})
    imgsz = choose_imgsz(given.imgsz, given.model.weights)
    folder = new_run_folder(given.project, given.name)
    try:
        data = None if given.data.data is None else YOLODataModule(imgsz=imgsz, **vars(given.data))
        report = prune_file(given.model.weights, settings, folder, data, imgsz)
    except BaseException:
        discard_untrained(folder)
        raise
    show(report, given.model.weights, folder / "slim.ckpt", imgsz, given.data.data)


def prune_file(
    weights: str | Path, settings: Any, folder: Path, data: YOLODataModule | None = None, imgsz: int | None = None
) -> PruningReport:
    """Prunes the detector in a file and writes ``slim.ckpt``, ``plan.yaml`` and ``pruning.yaml`` to a folder.

    Args:
        weights: Checkpoint or .pt file.
        settings: Has the keys of :func:`add_prune_arguments` as attributes.
        folder: Folder of the files.
        data: Training images, for Taylor importance and for recalibration.
        imgsz: Image side that budgets are meant for, in pixels; by default the one it was trained with.

    Raises:
        ValueError: If images are needed and missing, or a budget cannot be reached.
    """
    detector = YOLODetector(weights=str(weights), imgsz=imgsz)
    graph, taylor, batches = detector.trace_channels(), None, []
    if settings.importance.kind == "taylor" or settings.recalibrate:
        if data is None:
            what = "recalibrate" if settings.recalibrate else "importance.kind=taylor"
            raise ValueError(f"{what} needs training images: give --data.data with a data YAML")
        batches = training_batches(data, settings.batches)
    if settings.importance.kind == "taylor":
        assert data is not None
        indices = match_classes(detector.hparams["names"], data.names or {}).indices(str(weights))
        taylor = observe_gradients(detector, graph, relabelled(batches, indices))
    report = prune_module(
        detector,
        settings.selection,
        importance=settings.importance,
        taylor=taylor,
        compensation=settings.compensation,
        graph=graph,
    )
    if settings.recalibrate:
        recalibrate(detector.net, batches, lambda batch: batch["img"])
    save_slim(detector, report, folder)
    return report


def show(report: PruningReport, before: str | Path, after: Path, imgsz: int, data: str | None = None) -> None:
    """Prints the layer table and what was won."""
    console = Console()
    console.print(layers_table(report.layers))
    old, new = (size_of(load_network(path), imgsz) for path in (before, after))
    print(f"asked: {report.request}; removed {report.reached:.1%} of the prunable channels")
    print(f"threshold: {report.threshold:.4g}, and {report.kept_below} channels below it stay")
    for rule, kept in (("min_channels", report.held), ("equal parts or round_to", report.bound)):
        if kept:
            some = ", ".join(f"{module} ({count})" for module, count in list(kept.items())[:5])
            print(f"  kept by {rule}: {some}" + (f" and {len(kept) - 5} more layers" if len(kept) > 5 else ""))
    if report.compensation is not None:
        found = report.compensation
        print(
            f"constants of removed channels: folded into {len(found.folded)} layers, merged in {len(found.merged)} "
            f"layers, where {found.kept_dead} dead channels stay; lost in {len(found.uncompensated)}"
        )
    if report.latency_ms is not None:
        print(f"latency without fusing: {report.latency_ms:.1f} ms")
    print(f"parameters {old['parameters'] / 1e6:.3f} M -> {new['parameters'] / 1e6:.3f} M")
    print(f"GFLOPs at {imgsz} px {old['gflops']:.2f} -> {new['gflops']:.2f}")
    print(f"largest relative error against the dense model with those channels at zero: {report.error:.1e}")
    say(f"saved {after}")
    say(f"next: {finetune(after, before, data)}")
