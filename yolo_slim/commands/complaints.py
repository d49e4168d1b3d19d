"""What goes wrong around the program while it works: memory, processes, signals. One line says it."""

from __future__ import annotations

import re
import traceback
from pathlib import Path

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


#: Lines of jsonargparse's messages that say how it searched, not what is wrong.
_NOISE = (
    "Does not validate against any of the Union",
    "Subtypes:",
    "Errors:",
    "- Not a valid subclass of",
    "Subclass types expect one of:",
    "- a class path (str)",
    "- a dict with",
    "- Expected a <class 'NoneType'>",
    "Given value type:",
)


def shorten(message: str) -> str:
    """A message without jsonargparse's account of its search, or torch's of the process that the error came from."""
    if "Original Traceback (most recent call last)" in message:
        message = message.strip().splitlines()[-1].partition(": ")[2]
    lines = [line.strip() for line in message.splitlines()]
    return " ".join(line.removeprefix("- ") for line in lines if line and not line.startswith(_NOISE))
