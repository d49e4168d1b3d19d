"""Thousands of changed files: each is refused in one line or read as a sound network, in bounded memory and time."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.hostile.pickles import write_tiny
from tests.helpers.places import ROOT
from tests.helpers.stock import original


def fuzz(folder: Path, kinds: str, first: int, count: int) -> None:
    files = len(list(folder.glob("tiny.*")))
    command = [sys.executable, "-m", "tests.helpers.hostile.job", str(folder), kinds, str(first), str(count)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60 + count * 6)
    last = (folder / "last").read_text() if (folder / "last").exists() else "none"
    assert done.returncode == 0, f"ended with {done.returncode} at {last}: {done.stderr[-2000:]}"
    assert not done.stderr, done.stderr[-2000:]
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == files * len(kinds.split(","))
    for found in lines:
        tried = {key: value for key, value in found.items() if key not in ("kind", "ending")}
        assert tried.keys() <= {"read", "refused", "not written"}, (found["kind"], found["ending"], tried)
        assert sum(tried.values()) == count
        assert tried["refused"] > count / 4  # the changes are not in vain


def write_original(folder: Path) -> None:
    net = original.Model(copy.deepcopy(original.YOLOV7), ["car", "bus"])
    original.write(original.lively(net), folder / "tiny.pt")


def test_changed_files(tmp_path):
    write_tiny(tmp_path)
    fuzz(tmp_path, "bytes,pickle,content", first=0, count=45)


def test_changed_files_of_an_original_repository(tmp_path):
    write_original(tmp_path)
    fuzz(tmp_path, "pickle,content", first=0, count=30)


@pytest.mark.slow
@pytest.mark.parametrize("write", [write_tiny, write_original])
@pytest.mark.parametrize("kind", ["bytes", "pickle", "content"])
def test_changed_files_by_the_thousand(tmp_path, kind, write):
    write(tmp_path)
    fuzz(tmp_path, kind, first=45, count=1000)
