"""The scores of each class: beside a validation or a test, and in the result of a phase."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from rich.console import Console

from yolo_slim.detection import YOLODetector
from yolo_slim.files import write_csv
from yolo_slim.reporting import ClassRow, classes_table

FILE = "classes.csv"


class ClassTable(Callback):
    """Prints the scores of each class after a validation or a test, and writes them to ``classes.csv``.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves those of a validation."""
        self._leave(trainer, pl_module)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves those of a test."""
        self._leave(trainer, pl_module)

    def _leave(self, trainer: Trainer, module: Any) -> None:
        if not trainer.is_global_zero:
            return
        rows = class_rows(module)
        Console().print(classes_table(rows))
        header = ("index", "class", "map50", "map")
        write_csv(self.folder / FILE, header, ([i, row.name, row.map50, row.map] for i, row in enumerate(rows)))


def class_rows(detector: YOLODetector) -> list[ClassRow]:
    """What a detector's last validation or test has found of each of its classes."""
    scores, names = detector.class_scores, detector.hparams["names"]
    return [ClassRow(names[i], *scores.get(i, (math.nan, math.nan))) for i in range(len(names))]


def to_plain(rows: Sequence[ClassRow]) -> list[dict[str, Any]]:
    """The rows as plain data, for YAML; a score that is not known is None."""
    plain = [asdict(row) for row in rows]
    return [entry | {key: None for key in ("map50", "map") if math.isnan(entry[key])} for entry in plain]


def from_plain(plain: Any) -> list[ClassRow]:
    """The rows that :func:`to_plain` made into plain data.

    Raises:
        ValueError: If it is something else.
    """

    def score(value: Any) -> float:
        return math.nan if value is None else float(value)

    try:
        return [ClassRow(str(entry["name"]), score(entry["map50"]), score(entry["map"])) for entry in plain]
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError("the scores of its classes are none") from error
