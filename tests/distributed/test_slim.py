"""The whole recipe on two processes: one folder, one table, the same slim network on both, and no rank left waiting."""

from __future__ import annotations

import csv
import os
import time
from pathlib import Path

import pytest
import torch

from tests.helpers.ddp.launch import (
    ROOT,
    Process,
    by_lightning,
    by_torchrun,
    by_torchrun_on_two_nodes,
    run_together,
)

STATES = ["baseline", "sparse", "slim", "finetuned"]
CHECKPOINTS = ("baseline/best.ckpt", "sparse/last.ckpt", "prune/slim.ckpt", "finetune/last.ckpt")


def start(launch, work: Path, shapes_dir: Path, *more: str) -> list[Process]:
    """Starts the recipe on two processes."""
    arguments = ["slim", "-c", str(ROOT / "configs" / "slim.yaml"), "--data.data", str(shapes_dir / "data.yaml")]
    arguments += ["--data.imgsz=64", "--data.batch=2", "--data.workers=0", "--prune.selection.ratio=0.5"]
    arguments += [f"--{phase}.hyp.nbs=4" for phase in ("baseline", "sparse", "finetune")]
    arguments += ["--baseline.epochs=1", "--sparse.epochs=4", "--finetune.epochs=1", *more]
    logs = work.parent / "logs"
    for folder in (work, logs):
        folder.mkdir(exist_ok=True)
    return launch(arguments, [work, work], logs)


def check_run(work: Path, printed: list[str]) -> None:
    """Every state was reached once, by a network that is the same in all later phases."""
    for state in STATES:
        assert sum(text.count(f"== {state}: ") for text in printed) >= 1
    assert sum(text.count("Everything is in runs/slim") for text in printed) == 1
    run = work / "runs" / "slim"
    assert [path.name for path in (work / "runs").iterdir()] == ["slim"]
    rows = (run / "results.md").read_text().split("\n\n")[0].splitlines()[2:]
    assert [row.split("|")[1].strip() for row in rows] == STATES
    assert [f.name for f in run.rglob(".*")] == [".lock"]  # no file is left half-written
    epochs = {}
    for phase in ("baseline", "sparse", "finetune"):
        with (run / phase / "metrics.csv").open() as stream:
            epochs[phase] = [row["epoch"] for row in csv.DictReader(stream) if row["val/map"]]
    assert epochs == {"baseline": ["0"], "sparse": ["0", "1", "2", "3"], "finetune": ["0"]}
    slim, tuned = (torch.load(run / f, weights_only=True)["state_dict"] for f in CHECKPOINTS[2:])
    assert {k: v.shape for k, v in tuned.items()} == {k: v.shape for k, v in slim.items()}
    sparse = torch.load(run / "sparse" / "last.ckpt", weights_only=True)["state_dict"]
    assert sum(v.numel() for v in slim.values()) < 0.5 * sum(v.numel() for v in sparse.values())
    gammas = torch.cat([v for k, v in sparse.items() if k.endswith("bn.weight")])
    assert (gammas == 0).float().mean() == pytest.approx(0.5, abs=0.01)


def weights(work: Path, file: str) -> dict[str, torch.Tensor]:
    return torch.load(work / "runs" / "slim" / file, weights_only=True)["state_dict"]


@pytest.fixture(scope="module")
def straight(tmp_path_factory, shapes_dir) -> tuple[Path, list[str]]:
    """Working folder and output of a run by Lightning's own launch."""
    work = tmp_path_factory.mktemp("straight") / "work"
    return work, run_together(start(by_lightning, work, shapes_dir))


def test_by_lightning(straight):
    check_run(*straight)


@pytest.mark.slow
@pytest.mark.parametrize("launch", [by_torchrun, by_torchrun_on_two_nodes])
def test_by_torchrun_and_interrupted(straight, tmp_path, shapes_dir, launch):
    """Killed in the sparse phase and started again, it ends where a straight run does."""
    work = tmp_path / "work"
    processes = start(launch, work, shapes_dir)
    run = work / "runs" / "slim"
    end = time.monotonic() + 200
    while not (run / "sparse" / "last.ckpt").is_file():
        assert time.monotonic() < end
        assert all(p.process.poll() is None for p in processes), processes[0].log.read_text()
        time.sleep(0.02)
    for process in processes:
        process.stop()
    assert not (run / "sparse" / "result.yaml").exists()
    before = (run / "baseline" / "result.yaml").stat().st_mtime_ns

    printed = run_together(start(launch, work, shapes_dir))
    assert sum(text.count("== baseline: 1 epochs") for text in printed) == 0
    assert (run / "baseline" / "result.yaml").stat().st_mtime_ns == before
    check_run(work, ["== baseline: ", *printed])
    for file in CHECKPOINTS:
        one, other = weights(straight[0], file), weights(work, file)
        assert all(torch.equal(one[k], other[k]) for k in one), file


@pytest.mark.slow
@pytest.mark.parametrize("launch", [by_lightning, by_torchrun])
def test_all_end_when_rank_0_cannot_prune(tmp_path, shapes_dir, launch):
    work = tmp_path / "work"
    (process,) = start(launch, work, shapes_dir, "--sparse.enabled=false", "--finetune.enabled=false")
    end = time.monotonic() + 200
    while not (work / "runs" / "slim" / "baseline").is_dir():
        assert time.monotonic() < end, process.log.read_text()
        time.sleep(0.02)
    (work / "runs" / "slim" / "prune").touch()  # where the folder of that phase should be
    try:
        assert process.process.wait(200) != 0
        while time.monotonic() < end and alive(process.process.pid):
            time.sleep(0.1)
        assert not alive(process.process.pid)
    finally:
        process.stop()
    assert "error: [Errno 17] File exists: 'runs/slim/prune'" in process.log.read_text()


def alive(group: int) -> bool:
    """Whether a process group has processes."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
