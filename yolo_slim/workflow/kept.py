"""The checkpoints that an earlier start of a phase has left."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from yolo_slim.wording import printable
from yolo_slim.workflow import launch


def beside(path: Path) -> list[Path]:
    """A checkpoint of a phase, and the other one that the phase keeps."""
    return [path, path.with_name("last.ckpt" if path.name == "best.ckpt" else "best.ckpt")]


def sound(paths: list[Path], check: Callable[[Path], Any]) -> str | None:
    """The first of the checkpoints, which an earlier start has left, that can be used; None if there is none at all.

    Raises:
        ValueError: If there are some, and none can be used.
    """
    first: Exception | None = None
    for path in paths:
        if not path.exists():
            continue
        try:
            check(path)
        except (ValueError, OSError) as error:
            first = first or error
            continue
        if first is not None and launch.rank() == 0:
            print(printable(f"{first}. {path} takes its place"), file=sys.stderr)
        return str(path)
    if first is not None:
        raise ValueError(f"{first}. Or delete {paths[0].parent} to have that phase run again") from first
    return None
