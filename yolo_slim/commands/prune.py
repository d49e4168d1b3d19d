"""The verb prune: a checkpoint in, a slim checkpoint out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser
from rich.console import Console

from yolo_slim.commands.keys import add_measuring_data, add_prune_arguments, parsed, prune_arguments, verb_parser
from yolo_slim.commands.next_step import finetune
from yolo_slim.detection import YOLODataModule, choose_imgsz, expect_given, load_network
from yolo_slim.pruning import PruningReport
from yolo_slim.reporting import layers_table
from yolo_slim.wording import say
from yolo_slim.workflow import PruneSettings, discard_untrained, new_run_folder, prune_file, rises, size_of


def parser() -> ArgumentParser:
    """The keys of the verb ``prune``."""
    keys = verb_parser("prune", "Remove the channels that matter least and save the slim model.")
    keys.add_argument("--model.weights", type=str, required=True, help="Checkpoint or Ultralytics .pt file to prune.")
    keys.add_argument(
        "--imgsz",
        type=int | None,
        default=None,
        help="Image side in pixels that GFLOPs are counted for; by default the one of the weights.",
    )
    add_prune_arguments(keys)
    add_measuring_data(keys)
    return keys


def main(arguments: Sequence[str]) -> None:
    """Runs the verb ``prune``; ``arguments`` begin with the verb."""
    keys = parser()
    values = parsed(keys, arguments[1:])
    settings = PruneSettings(**prune_arguments(keys.instantiate(values)))
    weights, data = values.model.weights, None
    expect_given(project=values.project, **{"model.weights": weights, "data.data": values.data.data})
    imgsz = choose_imgsz(values.imgsz, weights)
    folder = new_run_folder(values.project, values.name)
    try:
        if values.data.data is not None:
            data = YOLODataModule(imgsz=imgsz, **vars(values.data))
        report = prune_file(weights, settings, folder, data, imgsz)
    except BaseException:
        discard_untrained(folder)
        raise
    slim = folder / "slim.ckpt"
    _show(report, weights, slim, imgsz, settings.selection.latency.runtime)
    say(f"saved {slim}")
    say(f"next: {finetune(slim, weights, values.data.data)}")


def _show(report: PruningReport, before: str | Path, after: Path, imgsz: int, runtime: str) -> None:
    """Prints the layer table and what was won."""
    Console().print(layers_table(report.layers))
    old, new = (size_of(load_network(path), imgsz) for path in (before, after))
    print(f"asked: {report.request}; removed {report.reached:.1%} of the prunable channels")
    print(f"threshold: {report.threshold:.4g}, and {report.kept_below} channels below it stay")
    if report.emptying is not None:
        highest, ratio = report.emptying
        print(f"highest threshold that empties no layer: {highest:.4g}, a ratio of {ratio:.1%}")
    if report.predicted_rise is not None:
        print(rises(report.predicted_rise, report.measured_rise))
    for rule, kept in (("min_channels", report.held), ("equal parts or round_to", report.bound)):
        if kept:
            some = ", ".join(f"{module} ({count})" for module, count in list(kept.items())[:5])
            print(f"  kept by {rule}: {some}" + (f" and {len(kept) - 5} more layers" if len(kept) > 5 else ""))
    if report.compensation is not None:
        done = report.compensation
        print(
            f"constants of removed channels: folded into {len(done.folded)} layers, merged in {len(done.merged)} "
            f"layers, where {done.kept_dead} dead channels stay; lost in {len(done.uncompensated)}"
        )
    if report.latency_ms is not None:
        print(f"latency as deployed: {report.latency_ms:.1f} ms in {runtime}")
    print(f"parameters {old.parameters / 1e6:.3f} M -> {new.parameters / 1e6:.3f} M")
    print(f"GFLOPs at {imgsz} px {old.gflops:.2f} -> {new.gflops:.2f}")
    print(f"largest relative error against the dense model with those channels at zero: {report.error:.1e}")
