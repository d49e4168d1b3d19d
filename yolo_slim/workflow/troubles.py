"""What goes wrong around the program while it works: memory, processes, signals. One line says it."""

from __future__ import annotations

import re
import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

#: Part of an error's message -> what has happened, and what to do.
_KNOWN = (
    (
        r"out of memory|can't allocate memory|MemoryError|DefaultCPUAllocator",
        "out of memory: lower data.batch (data.workers too, where it is the computer's), or the image size",
    ),
    (
        r"insufficient shared memory|unable to (open|write|mmap) .*shm|No space left on device.*shm",
        "the loader's processes have no shared memory left: give the container more (docker run --shm-size 8g), or set "
        "data.workers 0",
    ),
    (
        r"DataLoader worker .*(is killed by signal|exited unexpectedly)",
        "a process that loads images has been killed, most often because the computer was out of memory: lower "
        "data.workers or data.batch",
    ),
    (
        r"\bNCCL\b|\bgloo\b|Connection (reset|closed) by peer|Broken pipe.*(store|rank)|ProcessGroup|TCPStore",
        "another process of this training has ended or cannot be reached: see what it has printed last",
    ),
)
_HERE = str(Path(__file__).parents[1])


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
    found = [getattr(signal, name) for name in names if hasattr(signal, name)]  # Windows has few
    main = threading.current_thread() is threading.main_thread()
    taken = [number for number in found if main and signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, _stop)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def say_unforeseen(error: BaseException) -> str:
    """One line for an error that is not of the user's input: what, where, and what to do."""
    message = " ".join(_of_worker(str(error)).split())
    for pattern, line in _KNOWN:
        if re.search(pattern, f"{type(error).__name__}: {message}", re.IGNORECASE):
            return f"{line} ({message[:160]})"
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if frame.filename.startswith(_HERE)] or frames
    where = f" in {Path(ours[-1].filename).name}, line {ours[-1].lineno}" if ours else ""
    return f"{type(error).__name__}{where}: {message[:400]}; YOLO_SLIM_DEBUG=1 in the environment shows more"


def _of_worker(message: str) -> str:
    """Of an error in a loader's process, torch gives the whole traceback: its last line is the error."""
    return message.strip().splitlines()[-1] if "Original Traceback (most recent call last)" in message else message


def _stop(number: int, frame: FrameType | None) -> None:
    # A Trainer at work has put a handler of its own in place, which calls this one too: it ends after a whole batch,
    # and under Slurm the signal may be one to requeue.
    if signal.getsignal(number) is _stop:
        raise Stopped(number)
