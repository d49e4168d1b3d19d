"""Run folders that never overwrite an earlier run."""

from __future__ import annotations

import atexit
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import count
from pathlib import Path

from yolo_slim.workflow import launch

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

RUN_DIR = "YOLO_SLIM_RUN_DIR"
_WAIT = timedelta(seconds=60)
#: In the run folder while the run lasts: which ``srun`` it belongs to.
_MARK = ".launch"
#: What the process that runs in a folder holds locked; it stays.
LOCK = ".lock"
#: The folders that this process has made; no other is ever removed.
_made: set[Path] = set()


def sanitize(name: str) -> str:
    """Turns a run's name into a folder name: letters, digits, ``.``, ``_`` and ``-`` stay, all else becomes ``-``.

    Raises:
        ValueError: The name is empty or consists of dots.

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
    * Under ``srun`` rank 0 leaves a mark in it, which the other ranks look for.
    * With any other launcher, or where nodes have no common file system, export ``YOLO_SLIM_RUN_DIR`` for every rank.

    Args:
        project: Folder of the runs; created if missing.
        name: The run's name, see :func:`sanitize`.

    Raises:
        ValueError: A bad name, a project in which no folder can be made, or a rank that finds no run folder.
    """
    candidate = Path(project) / sanitize(name)
    rank, step = launch.rank(), launch.slurm_step()
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        return _agree(rank, lambda: _create(candidate))
    if launch.launched() and os.environ.get(RUN_DIR):
        return Path(os.environ[RUN_DIR])
    if rank == 0:
        folder = _create(candidate)
        if step is not None:
            _mark(folder, step)
    elif step is not None:
        folder = _find_marked(candidate, step, rank)
    else:
        raise ValueError(f"rank {rank} does not know the run folder: export {RUN_DIR}=<folder> for every rank")
    os.environ[RUN_DIR] = str(folder)  # Lightning copies the environment to the processes that it starts
    return folder


def discard_untrained(folder: Path) -> None:
    """Removes the folder of a run that failed before it had a checkpoint, and its project if that is empty then.

    Folders that this process has not made itself stay as they are.
    """
    if folder not in _made or any(folder.rglob("*.ckpt")):
        return
    shutil.rmtree(folder, ignore_errors=True)
    for parent in folder.parents:
        if parent in _made:
            with suppress(OSError):
                parent.rmdir()


def make(folder: Path) -> None:
    """Makes a folder, with those that it lies in, and remembers which of them are new.

    Raises:
        FileExistsError: If it exists.
    """
    for parent in reversed(folder.parents):
        with suppress(FileExistsError):
            parent.mkdir()
            _made.add(parent)
    folder.mkdir()
    _made.add(folder)


def expect_empty(folder: str | Path) -> Path:
    """Makes a folder unless it is there, and refuses one that holds something.

    Raises:
        ValueError: If there is something in it.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty; give an empty folder, so that no file takes the place of another")
    return folder


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keeps other processes from running in a folder at the same time; rank 0 holds it for its launch.

    The lock ends with the process, however that ends. It is of the process alone: loader workers that outlive a
    killed one do not keep it. There is none where the system or the file system has no record locks.

    Args:
        folder: An existing folder.

    Raises:
        ValueError: If another process holds it.
    """
    if fcntl is None or launch.rank() != 0:
        yield
        return
    with (folder / LOCK).open("a") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise ValueError(
                f"another process is running in {folder}: wait until it has ended, or give this one another --name"
            ) from error
        except OSError:  # no locks here
            pass
        yield


def _create(candidate: Path) -> Path:
    """Makes the first free one of ``candidate``, ``candidate-2``, ...; ``mkdir`` decides between racing processes."""
    try:
        for number in count(1):
            folder = candidate if number == 1 else candidate.with_name(f"{candidate.name}-{number}")
            try:
                make(folder)
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


def _mark(folder: Path, step: str) -> None:
    """Under srun: rank 0 says which launch the folder belongs to, until the process ends."""
    mark = folder / _MARK
    mark.write_text(step)
    atexit.register(mark.unlink, missing_ok=True)


def _find_marked(candidate: Path, step: str, rank: int) -> Path:
    """Under srun: the folder that rank 0 of the same launch has made."""
    end = time.monotonic() + _WAIT.total_seconds()
    while time.monotonic() < end:
        for mark in candidate.parent.glob(f"{candidate.name}*/{_MARK}"):
            with suppress(FileNotFoundError):
                if mark.read_text() == step:
                    return mark.parent
        time.sleep(0.1)
    raise ValueError(
        f"rank {rank} waited {_WAIT.total_seconds():.0f} s for rank 0's run folder in {candidate.parent}: see rank 0's "
        f"output, or, where the nodes have no common file system, export {RUN_DIR}=<folder> for every rank"
    )
