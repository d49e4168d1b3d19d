"""Detectors in files side by side: what they weigh, how long they take, and what they find in the same images."""

from __future__ import annotations

import filecmp
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from lightning.pytorch import Trainer

from yolo_slim.detection import YOLODataModule, choose_imgsz, match_classes, read_weights
from yolo_slim.files import write_csv, write_whole
from yolo_slim.reporting import (
    ModelRow,
    class_changes,
    class_changes_markdown,
    comparison_markdown,
    draw_trade_offs,
)
from yolo_slim.wording import say
from yolo_slim.workflow.class_scores import FILE as CLASSES
from yolo_slim.workflow.exporting import megabytes
from yolo_slim.workflow.fit_parts import mixed_precision, quiet_bar
from yolo_slim.workflow.measuring import Judged, Size, Split, deployed_latencies, how_timed, judge, size_of
from yolo_slim.workflow.run_folder import expect_empty


class ComparisonResult(NamedTuple):
    """What was compared: a row for each file, and how its figures were taken."""

    rows: list[ModelRow]
    note: str


def compare(
    weights: Sequence[str | Path],
    data: YOLODataModule,
    folder: str | Path,
    imgsz: int | None = None,
    split: Split = "val",
    per_class: bool = False,
) -> ComparisonResult:
    """Measures detectors on the same images and writes ``compare.csv``, ``compare.md`` and ``compare.png``.

    Files of the same content are measured once, so that they differ by nothing. Classes belong together by name.

    Args:
        weights: Two or more checkpoints or ``.pt`` files.
        data: Images to judge them by.
        folder: Where the results go; an empty one, or none yet.
        imgsz: Side of the images in pixels, for all files; by default that of the first one.
        split: Which images.
        per_class: Write the mAP50-95 of each class too, to ``compare.md`` and ``classes.csv``; what falls most from the
            first file to the last one comes first.

    Returns:
        A row for each file, in their order, and how the figures were taken.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If there are fewer than two, one is no detector or does not know the classes of the data, or there
            is something in the folder.
    """
    if len(weights) < 2:
        given = ", ".join(map(str, weights)) or "none"
        raise ValueError(f"compare takes two files or more, got {given}: give the checkpoints or .pt files to compare")
    names = short_names(weights)
    side = _common_side(weights, names, imgsz, data)
    folder = expect_empty(folder)
    # The files that are measured, and which of them each file is.
    own = [next(j for j, other in enumerate(weights) if _same(path, other)) for path in weights]
    measured = {i: weights[i] for i in sorted(set(own))}
    judged: dict[int, Judged] = {}
    sizes: dict[int, Size] = {}
    for i, path in measured.items():
        fresh = data.fresh(imgsz=side)
        fresh.announces = not judged
        judged[i] = judge(_trainer(folder), path, fresh, side, split)
        sizes[i] = size_of(read_weights(path)[0], side)
        say(f"{names[i]}: mAP50-95 {judged[i].scores['map']:.3f}")
    times = deployed_latencies({str(i): path for i, path in measured.items()}, side)
    rows = [
        ModelRow(
            name,
            sizes[i].parameters,
            sizes[i].gflops,
            megabytes(Path(path)) if Path(path).exists() else math.nan,  # a published one that lies elsewhere
            {runtime: found[str(i)] for runtime, found in times.items()},
            **judged[i].scores,
            classes=judged[i].classes,
        )
        for name, path, i in zip(names, weights, own, strict=True)
    ]
    note = (
        f"Scores on the {split} images of {data.data}, with a side of {side} pixels. {how_timed()} Sizes are those of "
        "the files; the checkpoint of a fit also holds what the fit goes on with."
    )
    _write(folder, rows, weights, note, per_class)
    return ComparisonResult(rows, note)


def short_names(paths: Sequence[str | Path]) -> list[str]:
    """The last parts of each path that tell it from the others; a path that is there again gets a number.

    Example:
        >>> short_names(["runs/a/best.ckpt", "runs/b/best.ckpt", "yolov8n.pt", "yolov8n.pt"])
        ['a/best.ckpt', 'b/best.ckpt', 'yolov8n.pt', 'yolov8n.pt (2)']
    """
    distinct = {Path(path).parts for path in paths}
    seen: Counter[str] = Counter()
    names = []
    for path in paths:
        parts = Path(path).parts
        tails = [parts[-count:] for count in range(1, len(parts) + 1)]
        alone = (tail for tail in tails if sum(other[-len(tail) :] == tail for other in distinct) == 1)
        name = str(Path(*next(alone, parts)))
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return names


def _common_side(weights: Sequence[str | Path], names: Sequence[str], imgsz: int | None, data: YOLODataModule) -> int:
    """Side of the images for all files, which are looked at here first; what is not as in all of them is said."""
    trained_with, notes = [], []
    for path, name in zip(weights, names, strict=True):
        net, known = read_weights(path)
        match = match_classes(dict(net.names), data.names or {})
        match.indices(str(path))
        trained_with.append(known)
        if match.relation != "equal":
            notes.append(f"{name}: {match}.")
    side = trained_with[0] if imgsz is None else choose_imgsz(imgsz, None)
    others = [f"{name} is for {known}" for name, known in zip(names, trained_with, strict=True) if known != side]
    if others:
        why = f"those of {names[0]}" if imgsz is None else "as asked for"
        notes.append(f"Images of {side} pixels are used for all files, {why}; {', '.join(others)}.")
    for line in dict.fromkeys(notes):
        say(line)
    return side


def _same(path: str | Path, other: str | Path) -> bool:
    """Whether two files have the same content."""
    if str(path) == str(other):
        return True
    return Path(path).is_file() and Path(other).is_file() and filecmp.cmp(path, other, shallow=False)


def _trainer(folder: Path) -> Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False, **quiet_bar(None)}
    return Trainer(accelerator="auto", devices=1, default_root_dir=str(folder), **quiet, **mixed_precision({}))


def _write(folder: Path, rows: Sequence[ModelRow], weights: Sequence[str | Path], note: str, per_class: bool) -> None:
    runtimes = list(rows[0].latencies)
    figures = ("parameters", "gflops", "megabytes", "precision", "recall", "map50", "map")
    lines = [
        [row.name, str(path), *(getattr(row, key) for key in figures), *row.latencies.values()]
        for row, path in zip(rows, weights, strict=True)
    ]
    write_csv(folder / "compare.csv", ["name", "file", *figures, *(f"{runtime}_ms" for runtime in runtimes)], lines)
    by_class, parts = {row.name: row.classes for row in rows}, [comparison_markdown(rows), note + "\n"]
    if per_class:
        changes = [[name, *values, change] for name, values, change in class_changes(by_class, falling=True)]
        write_csv(folder / CLASSES, ["class", *by_class, "change"], changes)
        parts.append(class_changes_markdown(by_class, falling=True))
    draw_trade_offs(rows, folder / "compare.png")
    write_whole(folder / "compare.md", "\n".join([*parts, "![mAP50-95 against cost](compare.png)\n"]))
