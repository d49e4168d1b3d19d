"""Verbs of the command line in processes of their own, which can be stopped at any moment.

A process is forked from this one, which has imported everything: a kill then hits the work and not the imports.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from yolo_slim.commands import main
from yolo_slim.files import write_whole

#: No verb of a try runs longer than this, in seconds.
LONGEST = 600.0


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        status: Exit status, or the negative number of a signal.
        output: All that it printed.
        seconds: How long it ran.
    """

    status: int
    output: str
    seconds: float

    @property
    def one_line(self) -> bool:
        """Whether it said what was wrong in one line of a bounded length, without a traceback."""
        lines = [line for line in self.output.splitlines() if line.startswith("error: ")]
        plain = all(c.isprintable() or c in "\n\r\t" for c in self.output)
        return len(lines) == 1 and len(lines[0]) < 1500 and "Traceback (most recent" not in self.output and plain


class Running:
    """A verb that runs in a process, and a process group, of its own.

    Args:
        arguments: What follows ``train.py``.
        folder: Where it runs.
        environment: Variables to set.
        before: What the process does first.
    """

    def __init__(
        self,
        arguments: list[str],
        folder: Path,
        environment: dict[str, str] | None = None,
        before: Callable[[], None] | None = None,
    ) -> None:
        self._output = folder.parent / f"{folder.name}.{time.monotonic_ns()}.log"
        self._began = time.monotonic()
        sys.stdout.flush()
        self.process = os.fork()
        if not self.process:
            os._exit(_run(arguments, folder, self._output, environment or {}, before))

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Sends a signal to it and, if it is a kill, to all processes that it started."""
        if number == signal.SIGKILL:
            with suppress(ProcessLookupError):  # it has not got as far as to have a group
                os.killpg(self.process, number)
        os.kill(self.process, number)  # an ended one is there until it is waited for

    def wait(self, until: Callable[[], bool] = lambda: False, seconds: float = LONGEST) -> Ended | None:
        """Waits for its end.

        Args:
            until: Asked again and again; when it says yes, the wait is over.
            seconds: When the wait is over in any case.

        Returns:
            How it ended; None if it still runs.
        """
        end = time.monotonic() + seconds
        while True:
            ended, status = os.waitpid(self.process, os.WNOHANG)
            if ended:
                text = self._output.read_text(errors="backslashreplace") if self._output.exists() else ""
                self._output.unlink(missing_ok=True)
                return Ended(os.waitstatus_to_exitcode(status), text, time.monotonic() - self._began)
            if until() or time.monotonic() > end:
                return None
            time.sleep(0.0005)

    def finish(self) -> Ended:
        """Waits for its end, which comes by a kill if it takes too long."""
        ended = self.wait()
        if ended is None:
            self.kill()
            ended = self.wait()
            assert ended is not None, "a process outlives SIGKILL"
        return ended


def run(arguments: list[str], folder: Path, **more: object) -> Ended:
    """Runs a verb to its end."""
    return Running(arguments, folder, **more).finish()  # type: ignore[arg-type]


def _run(
    arguments: list[str], folder: Path, output: Path, environment: dict[str, str], before: Callable[[], None] | None
) -> int:
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        stream = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for number in (1, 2):
            os.dup2(stream, number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
        os.environ |= environment
        sys.argv = ["train.py", *arguments]
        if before is not None:
            before()
        os.chdir(folder)
        main(arguments)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint."""
    return torch.load(path, map_location="cpu", weights_only=True)["state_dict"]


def equal(a: Path, b: Path) -> bool:
    """Whether two checkpoints hold bitwise the same weights."""
    first, second = weights_of(a), weights_of(b)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def keep(path: Path, text: str) -> None:
    """Writes what a try has shown, for whoever wants to look into a failure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text)
