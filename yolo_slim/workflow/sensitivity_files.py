"""The files of a measurement of sensitivity: rows that survive a kill, and what they were measured with."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from io import StringIO
from pathlib import Path
from typing import Any

import yaml

from yolo_slim.documents import read_text, read_yaml, whole_lines
from yolo_slim.files import write_whole
from yolo_slim.pruning import SENSITIVITY_TABLE, Row
from yolo_slim.wording import brief

#: What a measurement was made with.
ABOUT = "sensitivity.yaml"
#: Columns before the figures.
COLUMNS = (
    "unit",
    "layers",
    "channels",
    "ratio",
    "removed",
    "parameters_saved",
    "flops_saved",
    "status",
    "rise",
    "within_noise",
    "seconds",
)
#: What may differ when a measurement goes on, or parts are merged.
MEASURED_BEFORE = ("versions", "dense", "noise", "part", "units")
#: What is read of what a measurement was made with: path -> its type.
_KINDS: dict[str, type] = {
    "weights": dict,
    "weights.file": str,
    "weights.sha256": str,
    "data": dict,
    "data.file": str,
    "data.split": str,
    "data.images": int,
    "imgsz": int,
    "settings": dict,
    "settings.ratios": list,
    "settings.metric": str,
    "settings.stop_rise": float,
    "units": int,
    "part": str,
    "dense": dict,
    "noise": float,
}


@dataclass(frozen=True)
class Table:
    """A table of rows in a folder, which grows row by row.

    Attributes:
        folder: Where it is.
        figures: Names of what is measured in each row.
    """

    folder: Path
    figures: tuple[str, ...]

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder / SENSITIVITY_TABLE

    def rows(self) -> list[Row]:
        """The rows that are there; a last one that a kill has cut off is removed from the file.

        Raises:
            ValueError: If the file is damaged.
        """
        if not self.path.is_file():
            write_whole(self.path, self._line((*COLUMNS, *self.figures)))
            return []
        text = read_text(self.path)
        if whole_lines(text) != text:
            write_whole(self.path, whole_lines(text))
        return read_rows(self.path)

    def add(self, row: Row, noise: float) -> None:
        """Adds a row, which is on the disk when this returns."""
        inside = "" if row.rise is None else str(row.rise <= noise).lower()
        values = (
            *(row.unit, " ".join(row.layers), row.channels, repr(float(row.ratio)), row.removed),
            *(row.parameters_saved, row.flops_saved, row.status),
            *("" if row.rise is None else repr(row.rise), inside, f"{row.seconds:.3f}"),
        )
        measured = ["" if (value := row.figures.get(name)) is None else repr(float(value)) for name in self.figures]
        with self.path.open("a", encoding="utf-8", newline="") as stream:
            stream.write(self._line((*values, *measured)))
            stream.flush()
            os.fsync(stream.fileno())

    @staticmethod
    def _line(values: Sequence[object]) -> str:
        stream = StringIO()
        csv.writer(stream, lineterminator="\n").writerow(values)
        return stream.getvalue()


def read_rows(path: Path) -> list[Row]:
    """The rows of a table, less a last one that a kill has cut off.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged.
    """
    text, rows = whole_lines(read_text(path)), []
    try:
        for values in csv.DictReader(StringIO(text), strict=True):
            own = {name: float(value) for name, value in values.items() if name not in COLUMNS and value}
            rows.append(
                Row(
                    unit=values["unit"],
                    layers=tuple(values["layers"].split()),
                    channels=int(values["channels"]),
                    ratio=float(values["ratio"]),
                    removed=int(values["removed"]),
                    parameters_saved=int(values["parameters_saved"]),
                    flops_saved=int(values["flops_saved"]),
                    status=values["status"],
                    rise=float(values["rise"]) if values["rise"] else None,
                    figures=own,
                    seconds=float(values["seconds"]),
                )
            )
    except (KeyError, TypeError, ValueError, AttributeError, csv.Error) as error:
        raise ValueError(f"{path} is damaged ({brief(str(error))}): measure it anew in another folder") from error
    return rows


def finished_rows(folder: Path, about: Mapping[str, Any]) -> list[Row]:
    """All rows of a measurement that has come to its end.

    Args:
        folder: Of the measurement.
        about: What it was made with, as :func:`read_about` gives it.

    Raises:
        ValueError: If some are missing, or the table is damaged.
    """
    path = folder / SENSITIVITY_TABLE
    rows = read_rows(path) if path.is_file() else []
    wanted = about["units"] * len(about["settings"]["ratios"])
    if len(rows) != wanted:
        raise ValueError(f"{folder} is not finished ({len(rows)} of {wanted} rows): the same command goes on there")
    return rows


def read_about(folder: Path) -> dict[str, Any]:
    """What a measurement was made with.

    Raises:
        FileNotFoundError: If the folder holds none.
        ValueError: If the file is damaged.
    """
    path = folder / ABOUT
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no {ABOUT}: give a folder that the verb 'sensitivity' wrote")
    try:
        about = read_yaml(path)
        _expect_kinds(about)
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({brief(str(error))}): measure it anew in another folder") from error
    return about  # type: ignore[no-any-return]


def digest_of(weights: Path) -> str:
    """What tells one file of weights from another; nothing of a published one that is not here yet."""
    return sha256(weights.read_bytes()).hexdigest() if weights.is_file() else ""


def write_about(folder: Path, about: Mapping[str, Any]) -> None:
    """Writes what a measurement is made with."""
    write_whole(folder / ABOUT, yaml.safe_dump(dict(about), sort_keys=False))


def expect_same(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any], but: Sequence[str]) -> None:
    """Refuses to put measurements together that were made with other settings.

    Args:
        folder: Where ``before`` comes from.
        before: What is there.
        now: What is asked for.
        but: Keys that may differ.

    Raises:
        ValueError: With the first difference.
    """
    differing = [
        f"{key}: {brief(old)} there, {brief(new)} here"
        for key, old, new in _differences("", {k: v for k, v in before.items() if k not in but}, now)
        if key.partition(".")[0] not in but
    ]
    if differing:
        raise ValueError(
            f"{folder} holds a measurement with other settings ({'; '.join(differing[:3])}); give this one another "
            "--name"
        )


def _expect_kinds(about: Any) -> None:
    """Refuses what lacks something that is read of a measurement."""
    for path, kind in _KINDS.items():
        value = about
        for key in path.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if not isinstance(value, (int, float) if kind is float else kind):
            raise ValueError(f"{path} is {value!r}")
    if not re.fullmatch(r"\d+/\d+", about["part"]):
        raise ValueError(f"part is {about['part']!r}")


def _differences(path: str, old: Any, new: Any) -> list[tuple[str, Any, Any]]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = dict.fromkeys([*old, *new])
        found = [_differences(f"{path}.{key}" if path else key, old.get(key), new.get(key)) for key in keys]
        return [difference for differences in found for difference in differences]
    return [] if old == new else [(path, old, new)]
