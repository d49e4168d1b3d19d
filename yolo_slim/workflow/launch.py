"""Which process of a distributed launch this is, before there is a Trainer that knows."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

_PARENT = os.getppid()


def rank() -> int:
    """Rank of this process among all of the launch, 0 for the one that writes files.

    The rank that ``torchrun`` or ``srun`` gives is global. Where Lightning starts the processes itself, the Trainer
    alone knows how many a node has: until there is one, this is 0 for the first process of the first node and some
    other number for all others.
    """
    environment = os.environ
    if "RANK" in environment:
        return int(environment["RANK"])
    if slurm_step() is not None:
        return int(environment["SLURM_PROCID"])
    known = int(environment.get("NODE_RANK", "0")) or int(environment.get("LOCAL_RANK", "0"))
    if not known and "lightning" in sys.modules:  # what a Trainer has found out by other means
        from lightning.pytorch.utilities.rank_zero import rank_zero_only

        known = int(rank_zero_only.rank)  # type: ignore[attr-defined]
    return known


def launched() -> bool:
    """Whether a launcher has started this process, or somebody has set its variables."""
    return slurm_step() is not None or not {"RANK", "LOCAL_RANK", "NODE_RANK"}.isdisjoint(os.environ)


def slurm_step() -> str | None:
    """Job, step and restart of the ``srun`` with several tasks that this process is one of; None outside of one.

    Like Lightning, it takes a job named ``bash`` or ``interactive`` for a shell.
    """
    environment = os.environ
    if "SLURM_STEP_ID" not in environment or environment.get("SLURM_JOB_NAME") in ("bash", "interactive"):
        return None
    if int(environment.get("SLURM_NTASKS", "1")) < 2:
        return None
    return ".".join(environment.get(f"SLURM_{part}", "0") for part in ("JOB_ID", "STEP_ID", "RESTART_COUNT"))


def wait_for(path: Path, seconds: float) -> None:
    """Lets a rank that does not write wait for a file of the one that does.

    Raises:
        TimeoutError: If the file does not appear in time, or the process that has started this one is gone.
    """
    end = time.monotonic() + seconds
    while not path.is_file():
        if os.getppid() != _PARENT:
            raise TimeoutError(f"rank {rank()} waited for {path}, but the process that started it has ended")
        if time.monotonic() > end:
            raise TimeoutError(
                f"rank {rank()} waited {seconds:.0f} s for {path}: see the output of rank 0; all nodes need to share "
                "the folder of the run"
            )
        time.sleep(0.1)
