from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from tests.helpers.places import ROOT
from yolo_slim.reporting.plots import gamma_histograms, training_curves

GAMMAS = np.random.default_rng(0).normal(0.9, 0.2, (8, 100))


def write_csv(path: Path, scores: dict[int, float]) -> Path:
    """A metrics.csv as Lightning writes it: rows of training steps leave val/map empty."""
    lines = ["epoch,step,train/loss,val/map"]
    for epoch, score in scores.items():
        lines += [f"{epoch},{10 * epoch},1.5,", f"{epoch},{10 * epoch + 9},,{score}"]
    path.write_text("\n".join(lines) + "\n")
    return path


def ink(path: Path) -> float:
    """Share of the picture that is not white."""
    return float((imread(path)[..., :3] < 0.99).any(-1).mean())


def test_histograms_are_drawn(tmp_path: Path) -> None:
    after = np.where(GAMMAS < 0.9, 0.0, -GAMMAS)
    gamma_histograms(GAMMAS, after, tmp_path / "gammas.png")
    assert imread(tmp_path / "gammas.png").shape == (480, 960, 4)
    assert ink(tmp_path / "gammas.png") > 0.05
    gamma_histograms(GAMMAS, GAMMAS, tmp_path / "same.png")
    assert (tmp_path / "same.png").read_bytes() != (tmp_path / "gammas.png").read_bytes()


@pytest.mark.parametrize("bad", [[], [np.nan, 1.0]])
def test_histograms_refuse_what_cannot_be_drawn(tmp_path: Path, bad: list[float]) -> None:
    with pytest.raises(ValueError, match="gammas after the phase"):
        gamma_histograms(GAMMAS, bad, tmp_path / "gammas.png")


def test_histograms_of_zeros_only(tmp_path: Path) -> None:
    gamma_histograms(np.ones(4), np.zeros(4), tmp_path / "gammas.png")
    assert ink(tmp_path / "gammas.png") > 0.01


def test_curves_are_drawn_one_after_the_other(tmp_path: Path) -> None:
    first = write_csv(tmp_path / "a.csv", {0: 0.1, 1: 0.4, 2: 0.6})
    second = write_csv(tmp_path / "b.csv", {0: 0.6, 1: 0.7})
    training_curves({"baseline": first, "sparse": second}, tmp_path / "both.png")
    training_curves({"baseline": first}, tmp_path / "one.png")
    assert ink(tmp_path / "both.png") > 0.01
    assert (tmp_path / "both.png").read_bytes() != (tmp_path / "one.png").read_bytes()


def test_a_resumed_epoch_counts_once(tmp_path: Path) -> None:
    straight = write_csv(tmp_path / "straight.csv", {0: 0.1, 1: 0.4, 2: 0.6})
    resumed = write_csv(tmp_path / "resumed.csv", {0: 0.1, 1: 0.2})
    with resumed.open("a") as file:
        file.write("1,19,,0.4\n2,29,,0.6\n")
    training_curves({"baseline": straight}, tmp_path / "straight.png")
    training_curves({"baseline": resumed}, tmp_path / "resumed.png")
    assert (tmp_path / "straight.png").read_bytes() == (tmp_path / "resumed.png").read_bytes()


def test_curves_name_the_file_without_scores(tmp_path: Path) -> None:
    (tmp_path / "empty.csv").write_text("epoch,step,train/loss\n0,1,2.0\n")
    with pytest.raises(ValueError, match=r"empty\.csv has no value of val/map"):
        training_curves({"baseline": tmp_path / "empty.csv"}, tmp_path / "curves.png")
    with pytest.raises(ValueError, match="no phases"):
        training_curves({}, tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()


def test_the_backend_of_the_user_stays() -> None:
    code = "import sys, yolo_slim.reporting.plots; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
