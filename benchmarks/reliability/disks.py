"""Disks that run full: a small file system of its own for every try, in a namespace that needs no privileges."""

from __future__ import annotations

import ctypes
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

from benchmarks.reliability.interruptions import Try
from benchmarks.reliability.running import Running, run
from benchmarks.reliability.work import Work, completed, damage, fresh

_NEW_USER, _NEW_MOUNT, _REMOUNT = 0x10000000, 0x00020000, 32


def available() -> bool:
    """Whether this system lets a process have a file system of its own."""
    process = os.fork()
    if not process:
        try:
            _mount(Path("/tmp"), 2**20)
        except OSError:
            os._exit(1)
        os._exit(0)
    return os.waitpid(process, 0)[1] == 0


def full_disks(work: Work, straight: Path, count: int, place: Path, draw: random.Random) -> Iterator[Try]:
    """Runs a verb on disks that are too small, makes them larger, and goes on.

    Args:
        work: The verb.
        straight: The run folder of a straight run.
        count: How many disks.
        place: Where the runs go.
        draw: Draws their sizes.
    """
    needed = sum(file.stat().st_size for file in straight.rglob("*") if file.is_file())
    for number in range(count):
        folder = fresh(place, f"disk-{work.verb}-{number}")
        size = int(needed * draw.uniform(0.02, 0.9))
        yield f"{work.verb} on a disk of {size / 1e6:.1f} MB", _tried(work, straight, folder, size)


def full_temporary(work: Work, straight: Path, place: Path) -> Iterator[Try]:
    """Runs a verb where the folder for temporary files has no space at all."""
    folder = fresh(place, f"temporary-{work.verb}")
    small = fresh(place, f"temporary-{work.verb}-tmp")

    def before() -> None:
        _mount(small, 4096)

    ended = Running(work.arguments, folder, {"TMPDIR": str(small)}, before).finish()
    wrong = damage(folder)
    if ended.status and not ended.one_line:
        wrong.append(f"not one line: {ended.output[-600:]}")
    yield f"{work.verb} with a full temporary folder", wrong + completed(work, folder, straight)


def _tried(work: Work, straight: Path, folder: Path, size: int) -> list[str]:
    """The verb on one small disk; a process with that disk tries it, looks at it, and copies what is left."""
    left = fresh(folder.parent, f"{folder.name}-left")
    report = folder.parent / f"{folder.name}.txt"
    process = os.fork()
    if not process:
        wrong: list[str] = []
        try:
            _mount(folder, size)
            ended = run(work.arguments, folder)
            if ended.status and not ended.one_line:
                wrong.append(f"not one line: {ended.output[-600:]}")
            if not ended.status:
                wrong.append("it has succeeded, so the disk was not too small")
            _mount(folder, 2**31, _REMOUNT)
            shutil.copytree(folder, left, dirs_exist_ok=True)
        except BaseException as error:
            wrong.append(repr(error))
        report.write_text("\n".join(wrong))
        os._exit(0)
    os.waitpid(process, 0)
    wrong = report.read_text().splitlines()
    return wrong + damage(left) + completed(work, left, straight)


def _mount(folder: Path, size: int, flags: int = 0) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if not flags:
        user, group = os.getuid(), os.getgid()
        if libc.unshare(_NEW_USER | _NEW_MOUNT):
            raise OSError(ctypes.get_errno(), "unshare")
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    if libc.mount(b"tmpfs", str(folder).encode(), b"tmpfs", flags, f"size={size}".encode()):
        raise OSError(ctypes.get_errno(), "mount")
