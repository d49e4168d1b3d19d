"""Ranks as launchers tell them, without starting one."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest

from tests.helpers.ddp.launch import Process, run, run_together, srun_variables
from yolo_slim.workflow import launch
from yolo_slim.workflow.run_folder import RUN_DIR, new_run_folder

VARIABLES = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "TORCHELASTIC_USE_AGENT_STORE", RUN_DIR)
TASK = """
import os, pathlib, time
from yolo_slim.workflow.run_folder import new_run_folder
found = [str(new_run_folder("runs", "run")) for _ in range(2)]
pathlib.Path(os.environ["SLURM_PROCID"]).touch()
while not (pathlib.Path("0").exists() and pathlib.Path("1").exists()):  # a training ends for all at once
    time.sleep(0.05)
print(*found)
"""


@pytest.fixture(autouse=True)
def _no_launch(monkeypatch):
    for variable in (*VARIABLES, *srun_variables(0)):
        monkeypatch.setenv(variable, "")  # so that monkeypatch takes back what the test leaves there
        monkeypatch.delenv(variable)


@pytest.mark.parametrize(
    ("given", "rank", "launched"),
    [
        ({}, 0, False),
        ({"RANK": "3", "LOCAL_RANK": "1"}, 3, True),
        ({"LOCAL_RANK": "1"}, 1, True),
        ({"NODE_RANK": "0"}, 0, True),
        ({"NODE_RANK": "2"}, 2, True),
        ({"NODE_RANK": "2", "LOCAL_RANK": "0"}, 2, True),
        ({"NODE_RANK": "0", "LOCAL_RANK": "1"}, 1, True),
        (srun_variables(0), 0, True),
        (srun_variables(1), 1, True),
        ({**srun_variables(1), "SLURM_JOB_NAME": "bash"}, 0, False),
        ({**srun_variables(1), "SLURM_NTASKS": "1"}, 0, False),
    ],
)
def test_rank(monkeypatch, given, rank, launched):
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert (launch.rank(), launch.launched()) == (rank, launched)


def test_a_batch_script_without_srun_is_one_process(monkeypatch, tmp_path):
    for name, value in srun_variables(0).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SLURM_STEP_ID")
    assert [new_run_folder(tmp_path, "run").name for _ in range(2)] == ["run", "run-2"]


def test_tasks_of_an_srun_share_the_folder_and_the_next_srun_gets_its_own(tmp_path):
    for name in ("run", "run-2"):
        tasks = [
            Process([sys.executable, "-c", TASK], tmp_path, tmp_path / f"{rank}.log", **srun_variables(rank))
            for rank in (1, 0)
        ]
        assert run_together(tasks) == [f"runs/{name} runs/{name}\n"] * 2
        (tmp_path / "0").unlink()
        (tmp_path / "1").unlink()
    assert sorted(path.name for path in tmp_path.glob("runs/**/*")) == ["run", "run-2"]  # no mark is left


def test_a_task_that_does_not_see_the_folder_says_what_to_export(tmp_path, monkeypatch):
    monkeypatch.setattr("yolo_slim.workflow.run_folder._WAIT", timedelta(seconds=0.3))
    for name, value in srun_variables(1).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"rank 1 waited .* export {RUN_DIR}=<folder> for every rank"):
        new_run_folder(tmp_path, "run")
    monkeypatch.setenv(RUN_DIR, "elsewhere/run")
    assert new_run_folder(tmp_path, "run") == Path("elsewhere/run")


def test_another_node_without_a_folder_says_what_to_export(tmp_path, monkeypatch):
    monkeypatch.setenv("NODE_RANK", "1")
    with pytest.raises(ValueError, match=f"rank 1 .* export {RUN_DIR}"):
        new_run_folder(tmp_path, "run")
    assert list(tmp_path.iterdir()) == []


def test_waiting_has_an_end(tmp_path):
    with pytest.raises(TimeoutError, match="rank 0 waited 0 s for .*slim.ckpt: see the output of rank 0"):
        launch.wait_for(tmp_path / "slim.ckpt", seconds=0.3)
    (tmp_path / "slim.ckpt").touch()
    launch.wait_for(tmp_path / "slim.ckpt", seconds=0)


def test_nobody_waits_for_a_process_that_has_ended(tmp_path):
    """What Lightning starts is left alone when the first process ends with an error."""
    child = (
        "import pathlib, time; from yolo_slim.workflow import launch\n"
        "try: launch.wait_for(pathlib.Path('never'), 60)\n"
        "except TimeoutError as error: pathlib.Path('said').write_text(str(error))"
    )
    start = f"subprocess.Popen([sys.executable, '-c', {child!r}], start_new_session=True)"
    parent = f"import subprocess, sys, time; {start}; time.sleep(2)"
    run([sys.executable, "-c", parent], tmp_path, tmp_path / "log")
    for _ in range(200):
        if (tmp_path / "said").is_file():
            break
        time.sleep(0.1)
    assert "the process that started it has ended" in (tmp_path / "said").read_text()
