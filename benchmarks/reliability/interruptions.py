"""Kills and signals at random moments, and two starts at once."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.reliability.running import Running, run
from benchmarks.reliability.work import Work, completed, damage, fresh

#: One try: what was done, and what was wrong with the outcome.
Try = tuple[str, list[str]]


def kills(work: Work, straight: Path, seconds: float, count: int, place: Path, draw: random.Random) -> Iterator[Try]:
    """Kills a verb again and again, goes on with it, and compares with a straight run.

    Every other kill comes while a file is being written, the rest at any moment of the run.

    Args:
        work: The verb.
        straight: The run folder of a straight run.
        seconds: How long that took.
        count: How many kills.
        place: Where the runs go.
        draw: Draws the moments.
    """
    # Temporary files on another file system, where moving one is copying it.
    elsewhere = {"TMPDIR": "/dev/shm"} if Path("/dev/shm").is_dir() else {}
    number = killed = 0
    while killed < count:
        number += 1
        folder = fresh(place, f"kill-{work.verb}-{number}")
        before = _contents(work)
        running = Running(work.arguments, folder, elsewhere)
        if number % 2:
            which = draw.randint(1, 6 if work.verb in ("fit", "slim") else 2)
            ended = running.wait(until=_nth_partial(folder, which))
            when = f"while it wrote its file number {which}"
        else:
            moment = draw.uniform(0, seconds)
            ended = running.wait(seconds=moment)
            when = f"after {moment:.1f} s"
        if ended is None:
            running.kill()
            running.finish()
            killed += 1
        elif number > 4 * count:
            raise RuntimeError(f"{work.verb} ends before it can be killed")
        else:
            continue  # it was too quick
        wrong = damage(folder) + ["an input has changed"] * (_contents(work) != before)
        yield f"SIGKILL of {work.verb} {when}", wrong + completed(work, folder, straight)


def signals(work: Work, straight: Path, seconds: float, place: Path, draw: random.Random) -> Iterator[Try]:
    """Ends a verb by the signals that people and schedulers send; it must say one line and go on later."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        for turn in range(2):
            folder = fresh(place, f"signal-{work.verb}-{number.name}-{turn}")
            moment = draw.uniform(0.3, 0.9) * seconds
            running = Running(work.arguments, folder)
            ended = running.wait(seconds=moment)
            if ended is None:
                running.kill(number)
                ended = running.wait(seconds=60)
            wrong = []
            if ended is None:
                wrong.append("it has not ended within a minute")
                running.kill()
                running.finish()
            elif ended.status and not ended.one_line:
                wrong.append(f"not one line: {ended.output[-600:]}")
            wrong += damage(folder)
            yield f"{number.name} to {work.verb} after {moment:.1f} s", wrong + completed(work, folder, straight)


def two_starts(work: Work, straight: Path, place: Path) -> Iterator[Try]:
    """Starts the same command twice at the same time in one folder."""
    for turn in range(2):
        folder = fresh(place, f"twice-{work.verb}-{turn}")
        both = [Running(work.arguments, folder) for _ in range(2)]
        ended = [running.finish() for running in both]
        wrong = [f"not one line: {e.output[-600:]}" for e in ended if e.status and not e.one_line]
        if all(e.status for e in ended):
            wrong.append("neither has finished")
        expected = 1 if work.verb == "slim" else 2
        folders = [path for path in (folder / "runs").iterdir() if path.is_dir()]
        if len(folders) != expected:
            wrong.append(f"{len(folders)} run folders, expected {expected}")
        yield f"two starts of {work.verb}", wrong + damage(folder) + completed(work, folder, straight)


def straight_run(work: Work, place: Path) -> tuple[Path, float]:
    """Run folder and seconds of a run that nothing interrupts."""
    folder = fresh(place, f"straight-{work.verb}")
    ended = run(work.arguments, folder)
    if ended.status:
        raise RuntimeError(f"a straight run of {work.verb} fails:\n{ended.output}")
    return folder / "runs" / work.name, ended.seconds


def _nth_partial(folder: Path, which: int) -> Callable[[], bool]:
    there: set[Path] = set()
    count = 0

    def appeared() -> bool:
        nonlocal there, count
        before, there = there, set(folder.glob("runs/**/.*.partial"))
        count += len(there - before)
        return count >= which

    return appeared


def _contents(work: Work) -> list[bytes]:
    return [path.read_bytes() for path in work.inputs]
