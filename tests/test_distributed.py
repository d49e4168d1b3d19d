"""Two gloo processes against one: the same gradients, the same gammas, the same scores."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from tests.helpers.ddp.launch import ROOT, run


def job(out: Path, shapes_dir: Path, devices: int, **settings) -> list[dict]:
    """Runs the job in fresh processes and returns what each rank saved."""
    out.mkdir()
    command = [sys.executable, "-m", "tests.helpers.ddp.job", "--data", str(shapes_dir / "data.yaml")]
    command += ["--out", str(out), "--devices", str(devices)]
    for name, value in settings.items():
        command += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    run(command, ROOT, out / "log")
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


def test_a_teacher_on_two_processes_is_that_of_one(tmp_path, shapes_dir):
    """One that accumulates two halves of the batch; they are other halves, whose own targets the difference is of."""
    (halves,) = job(tmp_path / "halves", shapes_dir, 1, teach=True, accumulate=2)
    first, second = job(tmp_path / "two", shapes_dir, 2, teach=True)
    (without,) = job(tmp_path / "none", shapes_dir, 1, accumulate=2)
    assert equal(first["parameters"], second["parameters"])
    expected = halves["gradients"][0]
    assert (first["gradients"][0] - expected).norm() < 0.1 * expected.norm()
    assert (without["gradients"][0] - expected).norm() > 0.2 * expected.norm()


def test_chosen_channels_are_the_same_on_two_processes(tmp_path, shapes_dir):
    first, second = job(tmp_path / "two", shapes_dir, 2, penalty="proximal", choose="taylor", epochs=6)
    assert equal(first["parameters"], second["parameters"])
    shrunk = torch.cat([gamma < 1 - 5e-4 for gamma in first["gammas"].values()]).float().mean()  # others learn alone
    assert 0.3 < shrunk < 0.6


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
