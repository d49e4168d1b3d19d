"""train.py prune: a checkpoint in, a slim checkpoint out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ActionConfigFile, ArgumentParser
from rich.console import Console

from yolo_slim.callbacks.channel_pruning import prune_module, save_slim
from yolo_slim.detection.checkpoints import load_network
from yolo_slim.detection.detector import YOLODetector
from yolo_slim.detection.network import STRIDE
from yolo_slim.pruning import PruningReport, Selection
from yolo_slim.reporting.tables import layers_table
from yolo_slim.run_folder import discard_untrained, new_run_folder
from yolo_slim.states import size_of


def parser() -> ArgumentParser:
    """The keys of ``train.py prune``."""
    found = ArgumentParser(
        prog="train.py prune",
        description="Remove the channels that matter least and save the slim model.",
        allow_abbrev=False,
        exit_on_error=False,
    )
    found.add_argument("-c", "--config", action=ActionConfigFile, help="YAML file with any of these keys.")
    found.add_argument("--name", type=str, default="prune", help="Name of the run folder.")
    found.add_argument("--project", type=str, default="runs", help="Folder of the run folders.")
    found.add_argument("--model.weights", type=str, required=True, help="Checkpoint or Ultralytics .pt file to prune.")
    found.add_argument("--imgsz", type=int, default=640, help="Image side that GFLOPs are given for, in pixels.")
    found.add_class_arguments(Selection, "selection")
    return found


def main(arguments: Sequence[str]) -> None:
    """Runs ``train.py prune``; ``arguments`` begin with the verb."""
    keys = parser()
    given = keys.parse_args(list(arguments[1:]))
    selection = keys.instantiate_classes(given).selection
    if given.imgsz < STRIDE or given.imgsz % STRIDE:
        raise ValueError(f"imgsz={given.imgsz}: expected a positive multiple of {STRIDE}, such as 640")
    folder = new_run_folder(given.project, given.name)
    try:
        report = prune_file(given.model.weights, selection, folder)
    except BaseException:
        discard_untrained(folder)
        raise
    show(report, given.model.weights, folder / "slim.ckpt", given.imgsz)


def prune_file(weights: str | Path, selection: Selection, folder: Path) -> PruningReport:
    """Prunes the detector in a file and writes ``slim.ckpt``, ``plan.yaml`` and ``pruning.yaml`` to a folder."""
    detector = YOLODetector(weights=str(weights))
    report = prune_module(detector, selection)
    save_slim(detector, report, folder)
    return report


def show(report: PruningReport, before: str | Path, after: Path, imgsz: int) -> None:
    """Prints the layer table and what was won."""
    console = Console()
    console.print(layers_table(report.layers))
    old, new = (size_of(load_network(path), imgsz) for path in (before, after))
    print(f"asked to remove {report.asked:.1%} of the prunable channels, removed {report.reached:.1%}")
    if report.held:
        held = ", ".join(f"{module} ({count})" for module, count in list(report.held.items())[:5])
        more = f" and {len(report.held) - 5} more" if len(report.held) > 5 else ""
        print(f"min_channels kept channels in {held}{more}")
    print(f"parameters {old['parameters'] / 1e6:.3f} M -> {new['parameters'] / 1e6:.3f} M")
    print(f"GFLOPs at {imgsz} px {old['gflops']:.2f} -> {new['gflops']:.2f}")
    print(f"largest relative error against the dense model with those channels at zero: {report.error:.1e}")
    print(f"saved {after}")
    print(f"next: train.py fit -c configs/finetune.yaml --model.weights {after}")
