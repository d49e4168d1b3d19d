"""Run folders that never overwrite an earlier run."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from itertools import count
from pathlib import Path

RUN_DIR = "YOLO_SLIM_RUN_DIR"
_WAIT = timedelta(seconds=60)


def sanitize(name: str) -> str:
    """Turns a run's name into a folder name: letters, digits, ``.``, ``_`` and ``-`` stay, all else becomes ``-``.

    Raises:
        ValueError: the name is empty or consists of dots.

    Example:
        >>> sanitize("yolov8n 50%/try")
        'yolov8n-50--try'
    """
    clean = re.sub(r"[^A-Za-z0-9._-]", "-", name)
    if not clean.strip("."):
        raise ValueError(f"run name {name!r} is empty or only dots: give one with a letter or a digit in it")
    return clean


def new_run_folder(project: str | Path, name: str) -> Path:
    """Creates the folder of a new run: ``project/name``, or ``name-2``, ``name-3``, ... where that exists already.

    An earlier run is never written over. All processes of a distributed launch get the folder that rank 0 made,
    however often they ask: a launch is one run.

    * A process that Lightning starts finds it in the environment variable ``YOLO_SLIM_RUN_DIR``.
    * Under ``torchrun`` rank 0 passes it on through the store that the launcher keeps.
    * With any other launcher, export ``YOLO_SLIM_RUN_DIR`` for every rank.

    Args:
        project: folder of the runs; created if missing.
        name: the run's name, see :func:`sanitize`.

    Raises:
        ValueError: a bad name, a project in which no folder can be made, or a rank that finds no run folder.
    """
    candidate = Path(project) / sanitize(name)
    rank = int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")))
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        return _agree(rank, lambda: _create(candidate))
    distributed = "RANK" in os.environ or "LOCAL_RANK" in os.environ
    if distributed and os.environ.get(RUN_DIR):
        return Path(os.environ[RUN_DIR])
    if rank != 0:
        raise ValueError(f"rank {rank} does not know the run folder: export {RUN_DIR}=<folder> for every rank")
    folder = _create(candidate)
    os.environ[RUN_DIR] = str(folder)  # Lightning copies the environment to the processes that it starts
    return folder


def discard_untrained(folder: Path) -> None:
    """Removes the folder of a run that failed before it had a checkpoint, and its project if that is empty then."""
    if any(folder.rglob("*.ckpt")):
        return
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        folder.parent.rmdir()


def _create(candidate: Path) -> Path:
    """Makes the first free one of ``candidate``, ``candidate-2``, ...; ``mkdir`` decides between racing processes."""
    try:
        candidate.parent.mkdir(parents=True, exist_ok=True)
        for number in count(1):
            folder = candidate if number == 1 else candidate.with_name(f"{candidate.name}-{number}")
            try:
                folder.mkdir()
            except FileExistsError:
                continue
            return folder
    except OSError as error:
        why = error.strerror or str(error)
        raise ValueError(f"cannot make the run folder {candidate} ({why}): give another --project or --name") from error
    raise AssertionError("count() ended")


def _agree(rank: int, create: Callable[[], Path]) -> Path:
    """Under torchrun: rank 0 creates the folder and leaves its path in the launcher's store, the others read it."""
    from torch.distributed import TCPStore  # a second or two, so only where it is needed

    store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), timeout=_WAIT, wait_for_workers=False)
    key = f"yolo_slim/run_folder/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    if rank == 0 and not store.check([key]):
        store.set(key, str(create()))
    try:
        return Path(store.get(key).decode())
    except RuntimeError as error:
        seconds = int(_WAIT.total_seconds())
        raise ValueError(f"rank {rank} waited {seconds} s for rank 0's run folder: see rank 0's output") from error
