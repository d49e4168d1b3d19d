"""Thousands of changed files: each is refused in one line or read as a sound network, in bounded memory and time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.hostile.pickles import write_tiny
from tests.helpers.places import ROOT


def fuzz(folder: Path, kinds: str, first: int, count: int) -> None:
    write_tiny(folder)
    command = [sys.executable, "-m", "tests.helpers.hostile.job", str(folder), kinds, str(first), str(count)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60 + count * 6)
    last = (folder / "last").read_text() if (folder / "last").exists() else "none"
    assert done.returncode == 0, f"ended with {done.returncode} at {last}: {done.stderr[-2000:]}"
    assert not done.stderr, done.stderr[-2000:]
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 2 * len(kinds.split(","))
    for found in lines:
        tried = {key: value for key, value in found.items() if key not in ("kind", "ending")}
        assert tried.keys() <= {"read", "refused", "not written"}, (found["kind"], found["ending"], tried)
        assert sum(tried.values()) == count
        assert tried["refused"] > count / 4  # the changes are not in vain


def test_changed_files(tmp_path):
    fuzz(tmp_path, "bytes,pickle,content", first=0, count=45)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bytes", "pickle", "content"])
def test_changed_files_by_the_thousand(tmp_path, kind):
    fuzz(tmp_path, kind, first=45, count=1000)
