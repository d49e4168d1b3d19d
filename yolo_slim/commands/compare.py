"""The verb compare: several checkpoints in, one table of what they weigh, take and find out."""

from __future__ import annotations

from collections.abc import Sequence

from jsonargparse import ArgumentParser
from rich.console import Console

from yolo_slim.commands.keys import add_measuring_data, verb_parser
from yolo_slim.detection import YOLODataModule, expect_given
from yolo_slim.reporting import class_changes_table, comparison_table
from yolo_slim.wording import say
from yolo_slim.workflow import Split, compare, discard_untrained, new_run_folder


def parser() -> ArgumentParser:
    """The keys of the verb ``compare``."""
    keys = verb_parser("compare", "Measure detectors side by side: size, latency, and scores on the same images.")
    keys.add_argument("weights", type=str, nargs="+", help="Two or more checkpoints or Ultralytics .pt files.")
    keys.add_argument(
        "--imgsz",
        type=int | None,
        default=None,
        help="Image side in pixels, for all files; by default the one of the first file.",
    )
    keys.add_argument("--split", type=Split, default="val", help="Images that the scores are of.")
    keys.add_argument(
        "--per_class",
        type=bool,
        nargs="?",
        const=True,
        default=False,
        help="List the mAP50-95 of each class too, the largest fall from the first file to the last one first.",
    )
    add_measuring_data(keys)
    return keys


def main(arguments: Sequence[str]) -> None:
    """Runs the verb ``compare``; ``arguments`` begin with the verb."""
    values = parser().parse_args(list(arguments[1:]))
    expect_given(project=values.project, **{"data.data": values.data.data})
    for file in values.weights:
        expect_given(weights=file)
    data = YOLODataModule(**vars(values.data))
    folder = new_run_folder(values.project, values.name)
    try:
        result = compare(values.weights, data, folder, values.imgsz, values.split, values.per_class)
    except BaseException:
        if not any(folder.iterdir()):
            discard_untrained(folder)
        raise
    Console().print(comparison_table(result.rows))
    if values.per_class:
        by_class = {row.name: row.classes for row in result.rows}
        Console().print(class_changes_table(by_class, falling=True))
    say(result.note)
    say(f"Everything is in {folder}: " + ", ".join(sorted(file.name for file in folder.iterdir())))
