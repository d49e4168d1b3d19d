from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.held import in_another_process
from tests.helpers.places import ROOT
from yolo_slim.workflow.run_folder import RUN_DIR, held, new_run_folder, sanitize

ASK = "import sys; from yolo_slim.workflow.run_folder import new_run_folder; print(new_run_folder(sys.argv[1], 'run'))"
LAUNCH_VARIABLES = ("RANK", "LOCAL_RANK", "TORCHELASTIC_USE_AGENT_STORE", RUN_DIR)


@pytest.fixture(autouse=True)
def _no_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in LAUNCH_VARIABLES:
        monkeypatch.setenv(variable, "")  # so that monkeypatch takes back what the test leaves there
        monkeypatch.delenv(variable)


def command(args: list[str], **environment: str) -> str:
    """Runs a Python command in the project and returns what it printed."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run([sys.executable, *args], env=env, text=True, capture_output=True, check=True).stdout


def test_later_runs_get_a_number(tmp_path: Path) -> None:
    folders = [new_run_folder(tmp_path / "runs", "my run") for _ in range(3)]
    assert [folder.name for folder in folders] == ["my-run", "my-run-2", "my-run-3"]
    assert all(folder.is_dir() for folder in folders)


def test_a_file_of_that_name_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("precious")
    assert new_run_folder(tmp_path, "run") == tmp_path / "run-2"
    assert (tmp_path / "run").read_text() == "precious"


def test_racing_processes_never_share_a_folder(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: new_run_folder(tmp_path, "run"), range(40)))
    assert len(set(folders)) == 40
    with ThreadPoolExecutor(4) as pool:
        printed = list(pool.map(lambda _: command(["-c", ASK, str(tmp_path)]).strip(), range(4)))
    assert len({*printed, *map(str, folders)}) == 44


@given(st.text())
def test_sanitize_gives_one_path_component(name: str) -> None:
    try:
        clean = sanitize(name)
    except ValueError:
        assert not name.strip(".")
    else:
        assert len(clean) == len(name)
        assert Path("project", clean).parts == ("project", clean)
        assert sanitize(clean) == clean


@pytest.mark.parametrize("name", ["", ".", "..", "...."])
def test_names_without_a_name_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"^run name .* give one"):
        sanitize(name)


def test_name_cannot_leave_the_project(tmp_path: Path) -> None:
    assert new_run_folder(tmp_path, "../../etc") == tmp_path / "..-..-etc"


@pytest.mark.parametrize("project", ["file", "file/below"])
def test_project_that_is_a_file(tmp_path: Path, project: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot make the run folder .*file") as error:
        new_run_folder(tmp_path / project, "run")
    assert "\n" not in str(error.value)


def test_project_that_is_not_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)  # root may write everywhere, so the refusal is played
    with pytest.raises(ValueError, match="Permission denied"):
        new_run_folder(tmp_path, "run")


def test_processes_started_by_lightning_share_the_folder(tmp_path: Path) -> None:
    folder = new_run_folder(tmp_path, "run")
    assert command(["-c", ASK, str(tmp_path)], LOCAL_RANK="1").strip() == str(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_launch_keeps_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = new_run_folder(tmp_path, "run")
    monkeypatch.setenv("LOCAL_RANK", "0")  # as Lightning does when it starts the others
    assert new_run_folder(tmp_path, "run") == folder


def test_one_process_started_by_another_makes_its_own(tmp_path: Path) -> None:
    folder = new_run_folder(tmp_path, "run")
    assert command(["-c", ASK, str(tmp_path)]).strip() == f"{folder}-2"


def test_rank_without_a_folder_says_what_to_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    with pytest.raises(ValueError, match=f"rank 3 .* export {RUN_DIR}"):
        new_run_folder(tmp_path, "run")
    assert list(tmp_path.iterdir()) == []


def test_torchrun_ranks_agree_and_ignore_an_inherited_folder(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os, pathlib, sys, time\n"
        "from yolo_slim.workflow.run_folder import new_run_folder\n"
        "time.sleep(0 if os.environ['RANK'] != '0' else 1)  # rank 0 comes last\n"
        "folders = {str(new_run_folder(sys.argv[1], 'run')) for _ in range(2)}\n"
        "pathlib.Path(sys.argv[1], 'rank' + os.environ['RANK']).write_text(','.join(folders))\n"
    )
    runs = tmp_path / "runs"
    earlier = new_run_folder(runs, "run")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script), str(runs)]
    command(launch, **{RUN_DIR: str(earlier)})
    assert {(runs / f"rank{rank}").read_text() for rank in range(2)} == {str(runs / "run-2")}


def test_a_folder_is_held_by_one_process(tmp_path):
    with in_another_process(tmp_path), pytest.raises(ValueError, match="another process is running in"), held(tmp_path):
        pass
    with held(tmp_path):
        pass


def test_the_lock_ends_with_its_process_and_not_with_what_that_has_started(tmp_path):
    with in_another_process(tmp_path, fork=True) as process:
        with pytest.raises(ValueError, match="give this one another --name"), held(tmp_path):
            pass
        process.kill()
        process.wait()
        with held(tmp_path):
            pass


def test_other_ranks_do_not_ask_for_the_lock(tmp_path, monkeypatch):
    with in_another_process(tmp_path):
        monkeypatch.setenv("RANK", "1")
        with held(tmp_path):
            pass
