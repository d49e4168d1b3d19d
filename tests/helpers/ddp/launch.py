"""Starts processes as a user does from a fresh shell: by themselves, with torchrun, on several `nodes`."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tests.helpers.places import ROOT

TRAIN = str(ROOT / "train.py")
_LAUNCHERS = (
    "PL_",
    "LOCAL_",
    "RANK",
    "NODE_RANK",
    "GROUP_",
    "MASTER_",
    "WORLD_",
    "SLURM_",
    "TORCHELASTIC_",
    "YOLO_SLIM",
)


class Process:
    """A command with a process group of its own, its output in a file."""

    def __init__(self, command: Sequence[str], folder: Path, log: Path, **environment: str) -> None:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(_LAUNCHERS)}
        self.log = log
        with log.open("w") as stream:
            self.process = subprocess.Popen(
                list(command),
                cwd=folder,
                env={**inherited, "PYTHONPATH": str(ROOT), **environment},
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def stop(self) -> None:
        """Ends the command and all that it has started, at once."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def run_together(processes: Sequence[Process], seconds: float = 240) -> list[str]:
    """Waits for all processes, which must succeed, and returns what each has printed."""
    try:
        for process in processes:
            process.process.wait(seconds)
    finally:
        for process in processes:
            process.stop()
    printed = [process.log.read_text() for process in processes]
    for process, text in zip(processes, printed, strict=True):
        assert process.process.returncode == 0, text[-4000:]
    return printed


def run(command: Sequence[str], folder: Path, log: Path, **environment: str) -> str:
    """Runs one command, which must succeed, and returns what it has printed."""
    return run_together([Process(command, folder, log, **environment)])[0]


#: Keys that every distributed run on a CPU needs.
DDP = ["--trainer.strategy", "ddp", "--trainer.accelerator", "cpu"]
ONE_NODE, TWO_NODES = ["--trainer.devices", "2", *DDP], ["--trainer.num_nodes", "2", "--trainer.devices", "1", *DDP]


def by_lightning(arguments: Sequence[str], folders: Sequence[Path], logs: Path) -> list[Process]:
    """One command, which starts the second process itself."""
    return [Process([sys.executable, TRAIN, *arguments, *ONE_NODE], folders[0], logs / "log")]


def by_torchrun(arguments: Sequence[str], folders: Sequence[Path], logs: Path) -> list[Process]:
    """torchrun with two processes on one node."""
    command = [*TORCHRUN, "--standalone", "--nproc_per_node", "2", TRAIN, *arguments, *ONE_NODE]
    return [Process(command, folders[0], logs / "log")]


def by_torchrun_on_two_nodes(arguments: Sequence[str], folders: Sequence[Path], logs: Path) -> list[Process]:
    """Two torchruns as on two machines, with a process each, in a working folder each."""
    together = ["--nnodes", "2", "--nproc_per_node", "1", "--master_addr", "127.0.0.1", "--master_port", free_port()]
    return [
        Process([*TORCHRUN, *together, "--node_rank", str(n), TRAIN, *arguments, *TWO_NODES], folders[n], logs / str(n))
        for n in range(2)
    ]


def by_srun(arguments: Sequence[str], folders: Sequence[Path], logs: Path) -> list[Process]:
    """The variables that srun sets on two nodes with a task each."""
    port = free_port()
    return [
        Process(
            [sys.executable, TRAIN, *arguments, *TWO_NODES],
            folders[n],
            logs / str(n),
            **srun_variables(n),
            MASTER_PORT=port,
        )
        for n in range(2)
    ]


def by_hand_on_two_nodes(arguments: Sequence[str], folders: Sequence[Path], logs: Path) -> list[Process]:
    """Lightning's variables, the run folder among them, set by hand on each node."""
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "YOLO_SLIM_RUN_DIR": "runs/sparse"}
    command = [sys.executable, TRAIN, *arguments, *TWO_NODES]
    return [Process(command, folders[n], logs / str(n), NODE_RANK=str(n), **where) for n in range(2)]


TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]


def srun_variables(rank: int) -> dict[str, str]:
    """What srun sets for one of two tasks on two nodes."""
    given = {"JOB_ID": "4711", "STEP_ID": "0", "JOB_NAME": "train", "NNODES": "2", "NTASKS": "2"}
    given |= {"NTASKS_PER_NODE": "1", "NODELIST": "127.0.0.1", "LOCALID": "0", "PROCID": str(rank), "NODEID": str(rank)}
    return {f"SLURM_{name}": value for name, value in given.items()}


def free_port() -> str:
    """A port on this machine that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])
