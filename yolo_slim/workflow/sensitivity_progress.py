"""How far a measurement is: a bar in a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from yolo_slim.pruning import Row
from yolo_slim.wording import say
from yolo_slim.workflow.epoch_lines import in_words

#: Seconds between two lines where there is no terminal.
EVERY = 20.0


class Progress:
    """Shows each row, and when it will be done, if no row is skipped, by what the measured ones have taken.

    Args:
        total: Number of rows.
        done: Those that are there already.
    """

    def __init__(self, total: int, done: Sequence[Row]) -> None:
        self._total, self._at = total, len(done)
        self._seconds: list[float] = []
        self._said = float("-inf")
        self._bar = None
        if done:
            say(f"{len(done)} of {total} rows are there: it goes on with the next")
        if sys.stdout.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
            self._bar = Bar(*columns, TextColumn("{task.fields[left]}"))
            self._task = self._bar.add_task("sensitivity", total=total, completed=len(done), left="")

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, row: Row) -> None:
        """Takes note of a row that has just been measured or skipped."""
        self._at += 1
        if row.rise is not None:
            self._seconds.append(row.seconds)
        left = self._left()
        if self._bar is not None:
            self._bar.update(self._task, completed=self._at, left=left, description=f"{row.unit} {row.ratio:.0%}")
            return
        now = time.monotonic()
        if now - self._said < EVERY and self._at < self._total:
            return
        self._said = now
        what = "skipped" if row.rise is None else f"rise {row.rise:+.1%}"
        say(f"{self._at}/{self._total} {row.unit} at {row.ratio:.0%}: {what}; {left}")

    def _left(self) -> str:
        if not self._seconds:
            return ""
        recent = self._seconds[-50:]
        seconds = (self._total - self._at) * sum(recent) / len(recent)
        if self._at == self._total:
            return "done"
        return f"at most {in_words(seconds)} left"
