"""Whole files, whatever happens while they are written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.places import ROOT
from yolo_slim.files import whole, write_csv, write_whole


def test_replaces_what_was_there(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    write_whole(file, "old")
    write_whole(file, "nëw")
    assert file.read_text(encoding="utf-8") == "nëw"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    write_whole(file, "old")

    def fill() -> None:
        with whole(file) as temporary:
            temporary.write_text("half")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fill()
    assert file.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_kill_leaves_the_old_file_and_the_next_write_clears_up(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    write_whole(file, "old")
    code = (
        "import os, sys; from yolo_slim.files import whole\n"
        "with whole(sys.argv[1]) as temporary: temporary.write_text('half'); os.kill(os.getpid(), 9)"
    )
    root = ROOT
    subprocess.run([sys.executable, "-c", code, str(file)], check=False, cwd=root)
    assert len(os.listdir(tmp_path)) == 2
    assert file.read_text() == "old"
    write_whole(file, "new")
    assert file.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_what_another_process_is_writing_stays(tmp_path: Path) -> None:
    with whole(tmp_path / "a.txt") as outer:
        outer.write_text("of this process, which runs")
        write_whole(tmp_path / "b.txt", "b")
        assert outer.exists()
    assert sorted(os.listdir(tmp_path)) == ["a.txt", "b.txt"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link.txt").symlink_to(tmp_path / "real" / "a.txt")
    write_whole(tmp_path / "link.txt", "new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real" / "a.txt").read_text() == "new"


def test_a_table_has_empty_cells_for_what_is_not_known(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", ["name", "score"], [["a, b", 0.1], ["é", float("nan")], ["c", None]])
    assert (tmp_path / "a.csv").read_bytes().decode().split() == ["name,score", '"a,', 'b",0.1', "é,", "c,"]
