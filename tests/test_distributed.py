"""Two gloo processes against one: the same gradients, the same gammas, the same scores."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]


def run(command: list[str], folder: Path) -> str:
    """Runs a command as from a fresh shell and returns what it printed."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PL_", "LOCAL_RANK", "MASTER_", "WORLD_"))}
    environment = {**inherited, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def job(out: Path, shapes_dir: Path, devices: int, **settings) -> list[dict]:
    """Runs the job in fresh processes and returns what each rank saved."""
    out.mkdir()
    command = [sys.executable, "-m", "tests.helpers.ddp_job", "--data", str(shapes_dir / "data.yaml")]
    command += ["--out", str(out), "--devices", str(devices)]
    for name, value in settings.items():
        command += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    run(command, ROOT)
    return [torch.load(out / f"rank{rank}.pt") for rank in range(devices)]


def equal(one: dict, other: dict) -> bool:
    return all(torch.equal(one[k], other[k]) for k in one)


def test_two_processes_are_bitwise_equal_and_follow_one(tmp_path, shapes_dir):
    """Subgradient over two ranks, or one process with the whole batch, or one that accumulates it."""
    (single,) = job(tmp_path / "one", shapes_dir, 1, penalty="subgradient")
    first, second = job(tmp_path / "two", shapes_dir, 2, penalty="subgradient")
    (without,) = job(tmp_path / "none", shapes_dir, 1)
    assert equal(first["parameters"], second["parameters"])
    # The step's gradients agree, the penalty included, which alone tells them from those without it.
    assert (first["gradients"][0] - single["gradients"][0]).norm() < 1e-4 * single["gradients"][0].norm()
    assert (without["gradients"][0] - single["gradients"][0]).norm() > 0.1 * single["gradients"][0].norm()
    for name, gamma in single["gammas"].items():
        assert torch.allclose(first["gammas"][name], gamma, atol=1e-6), name
        assert not torch.allclose(without["gammas"][name], gamma, atol=1e-4), name
    assert first["clip"] == second["clip"] == [None]
    assert first["clip_after"] == second["clip_after"] == 10.0
    assert without["clip"] == [10.0]
    assert first["score"] == second["score"]


def test_scores_are_equal_on_one_and_two_processes(tmp_path, shapes_dir):
    """6 validation images in batches of 12 and 6; the weights agree to rounding, and so does mAP."""
    (single,) = job(tmp_path / "one", shapes_dir, 1, epochs=1)
    first, second = job(tmp_path / "two", shapes_dir, 2, epochs=1)
    assert first["score"] == second["score"] == pytest.approx(single["score"], abs=1e-6)


def test_growing_prune_and_finetune_on_two_processes(tmp_path, shapes_dir):
    first, second = job(tmp_path / "two", shapes_dir, 2, penalty="growing", epochs=3, prune=True)
    assert equal(first["parameters"], second["parameters"])
    assert sum(p.numel() for p in first["parameters"].values()) < 0.6 * 3.0e6
    assert (tmp_path / "two" / "slim.ckpt").is_file()


def test_slim_through_the_command_line_on_two_processes(tmp_path, shapes_dir):
    quick = [f"--{phase}.hyp.nbs=4" for phase in ("baseline", "sparse", "finetune")]
    quick += ["--baseline.epochs=1", "--sparse.epochs=2", "--finetune.epochs=1", "--prune.selection.ratio=0.5"]
    data = [f"--data.data={shapes_dir / 'data.yaml'}", "--data.imgsz=64", "--data.batch=2", "--data.workers=0"]
    devices = ["--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.accelerator=cpu"]
    command = [sys.executable, str(ROOT / "train.py"), "slim", "-c", str(ROOT / "configs" / "slim.yaml")]
    printed = run([*command, *data, *devices, *quick], tmp_path)
    assert printed.count("== finetuned:") == 1
    folder = tmp_path / "runs" / "slim"
    assert [p.name for p in (tmp_path / "runs").iterdir()] == ["slim"]
    slim, finetuned = (torch.load(folder / f, weights_only=True) for f in ("prune/slim.ckpt", "finetune/best.ckpt"))
    shapes = {k: v.shape for k, v in slim["state_dict"].items()}
    assert {k: v.shape for k, v in finetuned["state_dict"].items()} == shapes
