"""Signals that end a run, in one line and with a way to go on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(KeyboardInterrupt):
    """A signal has ended the run.

    Args:
        number: The signal.
        go_on: How the run goes on.
    """

    def __init__(self, number: int = signal.SIGINT, go_on: str = "") -> None:
        super().__init__(go_on)
        self.number = number
        self.go_on = go_on

    def __str__(self) -> str:
        how = "interrupted" if self.number == signal.SIGINT else f"ended by {signal.Signals(self.number).name}"
        return f"{how}; {self.go_on}" if self.go_on else how


@contextmanager
def heeded(*names: str) -> Iterator[None]:
    """Has signals end the run as Ctrl-C does, where they would have killed the process."""
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]  # Windows has few
    main = threading.current_thread() is threading.main_thread()
    taken = [number for number in numbers if main and signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, _stop)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def _stop(number: int, frame: FrameType | None) -> None:
    # A Trainer at work has put a handler of its own in place, which calls this one too: it ends after a whole batch,
    # and under Slurm the signal may be one to requeue.
    if signal.getsignal(number) is _stop:
        raise Stopped(number)
