"""A run folder that another process holds."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.helpers.places import ROOT

_HOLD = """
import os, sys
from pathlib import Path
from yolo_slim.workflow.run_folder import held

with held(Path(sys.argv[1])):
    child = os.fork() if sys.argv[2] == "fork" else None
    if child != 0:
        print("holds", child, flush=True)
    sys.stdin.read()
"""


@contextmanager
def in_another_process(folder: Path, fork: bool = False) -> Iterator[subprocess.Popen[str]]:
    """Has a process hold a folder; with ``fork``, it has a child that outlives it, such as a loader's worker."""
    command = [sys.executable, "-c", _HOLD, str(folder), "fork" if fork else ""]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("holds")
        try:
            yield process
        finally:
            assert process.stdin is not None
            process.stdin.close()
