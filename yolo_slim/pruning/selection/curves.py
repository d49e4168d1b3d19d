"""What was measured of each unit: how the loss rises over the share of its channels that is silenced."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import numpy as np

from yolo_slim.documents import read_text, whole_lines

#: The table in the folder of a measurement.
TABLE = "sensitivity.csv"
MEASURED, SKIPPED = "measured", "skipped"


@dataclass(frozen=True)
class Curve:
    """Of one unit the relative rise of the loss over its channels that are gone.

    Attributes:
        unit: Its name, that of its first layer.
        layers: Names of its layers.
        channels: How many channels it has, as a ratio counts them.
        removed: float64 (n,), how many of them are gone, ascending from 0.
        rise: float64 (n,), relative to the loss of the dense model, from 0; made monotone and clipped at 0.
        maps: float64 (n,), mAP50-95 then, NaN where it was not measured.
    """

    unit: str
    layers: tuple[str, ...]
    channels: int
    removed: np.ndarray
    rise: np.ndarray
    maps: np.ndarray

    def at(self, removed: np.ndarray | float) -> np.ndarray:
        """The rise once so many channels are gone, along straight lines; steeper beyond what was measured.

        Args:
            removed: Numbers of channels, any shape.
        """
        inside = np.interp(removed, self.removed, self.rise)
        most = float(self.removed[-1])
        return inside + self.steep * np.clip(np.asarray(removed, np.float64) - most, 0, None)

    @property
    def steep(self) -> float:
        """The rise per channel beyond what was measured: at least three times the steepest that was."""
        slopes = np.diff(self.rise) / np.diff(self.removed)
        return max(3 * float(slopes.max(initial=0)), 1 / self.channels)

    @classmethod
    def of_points(
        cls, unit: str, layers: tuple[str, ...], channels: int, points: Iterable[tuple[int, float, float]]
    ) -> Curve:
        """Of measured points: channels that are gone, rise of the loss, mAP; in any order."""
        best: dict[int, tuple[float, float]] = {0: (0.0, np.nan)}
        for removed, rise, score in points:
            best[removed] = (rise if removed else 0.0, score)
        counts = sorted(best)
        rises = np.array([best[count][0] for count in counts])
        maps = np.array([best[count][1] for count in counts])
        gone = np.array(counts, np.float64)
        return cls(unit, layers, channels, gone, np.maximum.accumulate(rises.clip(min=0)), maps)


def read_curves(folder: str | Path) -> list[Curve]:
    """The curves in the folder of a measurement.

    Args:
        folder: Of ``sensitivity.csv``, or that file.

    Raises:
        FileNotFoundError: If there is no such table.
        ValueError: If it is damaged, or not finished.
    """
    path = Path(folder)
    path = path / TABLE if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist: sensitivity={folder} must be a folder that 'sensitivity' wrote"
        )
    text, rows = whole_lines(read_text(path)), dict[str, list[Mapping[str, str]]]()
    try:
        for row in csv.DictReader(StringIO(text)):
            rows.setdefault(row.get("unit") or "", []).append(row)
        curves = [_curve(unit, own) for unit, own in rows.items()]
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise ValueError(f"{path} is damaged ({error}): measure it anew") from error
    if not curves:
        raise ValueError(f"{path} holds no rows: run the measurement to its end")
    lengths = {len(own) for own in rows.values()}
    if len(lengths) > 1:
        raise ValueError(f"{path} is not finished, some units have fewer rows than others: the same command goes on")
    return curves


def _curve(unit: str, rows: list[Mapping[str, str]]) -> Curve:
    points = [
        (int(row["removed"]), float(row["rise"]), float(row.get("map") or "nan"))
        for row in rows
        if row["status"] != SKIPPED
    ]
    if not all(np.isfinite(rise) and removed >= 0 for removed, rise, _ in points):
        raise ValueError(f"{unit} has figures that are no numbers")
    channels = int(rows[0]["channels"])
    if not unit or max((removed for removed, *_ in points), default=0) > channels:
        raise ValueError(f"{unit!r} has more channels removed than it has")
    return Curve.of_points(unit, tuple(rows[0]["layers"].split()), channels, points)
