"""A prune by a measured sensitivity: the command that is printed, what is foreseen, and what is refused."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from tests.helpers.hostile.refused import refused
from yolo_slim.commands.entry import main
from yolo_slim.detection.training.evaluation import Evaluation
from yolo_slim.pruning.surgery.silence import silence
from yolo_slim.workflow.sensitivity_files import read_rows


def test_a_prune_by_it(measured_run, measuring, measured_weights, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(measured_run, tmp_path / "runs" / "sensitivity")
    main([*measuring, "--metric", "both"])
    following = capsys.readouterr().out.splitlines()[-1]
    assert following.startswith("next: ")
    words = shlex.split(following.removeprefix("next: "))
    main(words[words.index("prune") :])
    shown = capsys.readouterr().out
    assert "rise of the loss: " in shown
    assert " foreseen, " in shown
    report = yaml.safe_load((tmp_path / "runs/prune/pruning.yaml").read_text())
    assert report["predicted_rise"] >= 0
    assert report["measured_rise"] is not None
    assert report["flops_after"] <= 0.5 * report["flops_before"]
    for allocate in ("equal_loss", "knapsack", "fzi"):
        main([*words[words.index("prune") :], "--selection.allocate", allocate, "--importance.kind", "l2"])
        assert "was measured with importance" in capsys.readouterr().out
    line = refused(capsys, ["prune", "--model.weights", str(measured_weights), "--selection.sensitivity", "runs/none"])
    assert "runs/none holds no sensitivity.yaml: give a folder that the verb 'sensitivity' wrote" in line


@pytest.fixture
def copied(measured_run, tmp_path, monkeypatch) -> Path:
    """A copy of the measurement, that a test may spoil."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(measured_run, tmp_path / "measured"))


@pytest.mark.parametrize("rows", [0, 5, 17, 20, 33])
def test_no_prune_follows_what_is_not_finished(copied, measured_weights, capsys, rows):
    """Neither one that has ended in the middle of a ratio, nor between two of them (17 units)."""
    lines = (copied / "sensitivity.csv").read_text().splitlines(keepends=True)
    (copied / "sensitivity.csv").write_text("".join([*lines[: 1 + rows], lines[-1][:40]]))
    line = refused(capsys, ["prune", "--model.weights", str(measured_weights), "--selection.sensitivity", str(copied)])
    assert f"is not finished ({rows} of 34 rows): the same command goes on there" in line
    assert not Path("runs").exists()


def test_no_prune_follows_a_part_or_what_is_damaged(copied, measured_weights, capsys):
    words = ["prune", "--model.weights", str(measured_weights), "--selection.sensitivity", str(copied)]
    about = yaml.safe_load((copied / "sensitivity.yaml").read_text())
    for changed, message in (
        ({"part": "1/2"}, "is part 1/2 of a measurement: join them with 'sensitivity --merge'"),
        ({"weights": 3}, "sensitivity.yaml is damaged ('weights is 3'): measure it anew in another folder"),
        ({"data": None}, "sensitivity.yaml is damaged ('data is None')"),
    ):
        (copied / "sensitivity.yaml").write_text(yaml.safe_dump(about | changed))
        assert message in refused(capsys, words)
    assert not Path("runs").exists()


def test_a_rise_in_place_of_a_budget(copied, measured_weights, measuring, capsys):
    words = ["prune", "--model.weights", str(measured_weights), "--selection.sensitivity", str(copied), *measuring[3:7]]
    reached = []
    for rise in ("0", "0.05"):
        main([*words, "--selection.max_rise", rise, "--selection.round_to", "1", "--name", rise])
        report = yaml.safe_load(Path("runs", rise, "pruning.yaml").read_text())
        assert 0 <= report["predicted_rise"] <= float(rise)
        assert f"rise of the loss: {report['predicted_rise']:+.1%} foreseen, " in capsys.readouterr().out
        reached.append(report["reached"])
    assert reached[1] > reached[0]
    line = refused(capsys, [*words, "--selection.max_rise", "0.1", "--selection.max_flops", "50%"])
    assert "max_rise=0.1 beside max_flops: give one of them" in line


def test_other_weights_are_said(copied, measured_weights, tmp_path, capsys):
    checkpoint = torch.load(measured_weights, weights_only=True)
    next(iter(checkpoint["state_dict"].values())).mul_(1.01)
    torch.save(checkpoint, tmp_path / "other.ckpt")
    words = ["--selection.max_flops", "70%", "--selection.sensitivity", "measured"]
    main(["prune", "--model.weights", "other.ckpt", *words])
    shown = " ".join(capsys.readouterr().out.split())
    assert "measured was measured on other weights than other.ckpt: what it foresees is theirs" in shown
    assert "foreseen; give --data.data to have it measured" in shown
    main(["prune", "--model.weights", str(measured_weights), *words])
    assert "was measured" not in capsys.readouterr().out


def test_the_report_says_the_highest_threshold_that_empties_no_layer(measured_weights, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["prune", "--model.weights", str(measured_weights), "--selection.ratio", "0.2"])
    assert "highest threshold that empties no layer: " in capsys.readouterr().out
    found = yaml.safe_load((tmp_path / "runs/prune/pruning.yaml").read_text())["emptying"]
    state = torch.load(measured_weights, weights_only=True)["state_dict"]
    gammas = [value for name, value in state.items() if name.endswith("bn.weight")]
    assert found["threshold"] <= max(float(gamma.abs().max()) for gamma in gammas)
    assert 0 < found["ratio"] < 1


def test_a_sparse_phase_ranks_by_itself(measured_weights, measuring, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    slim = ["slim", "--model.weights", str(measured_weights), "--trainer.accelerator", "cpu", *measuring[3:7]]
    for keys in (["--prune.selection.sensitivity", "runs/sensitivity"], ["--rounds.sensitivity", "true"]):
        for baseline in ("true", "false"):  # before anything is trained, too
            line = refused(capsys, [*slim, *keys, "--baseline.enabled", baseline])
            assert "a sparse phase ranks channels by scores of its own" in line
    assert not list(tmp_path.rglob("*.ckpt"))


def test_a_row_is_the_loss_with_the_channels_silent(measured_run, measured_weights, shapes_dir):
    from yolo_slim.detection import YOLODataModule, YOLODetector
    from yolo_slim.pruning import gamma_importance
    from yolo_slim.pruning.sensitivity import Sensitivity
    from yolo_slim.workflow import SensitivitySettings

    detector = YOLODetector(weights=str(measured_weights))
    data = YOLODataModule(str(shapes_dir / "data.yaml"), imgsz=64, batch=4)
    evaluate, graph = Evaluation(detector, data, images=6), detector.trace_channels()
    measurement = Sensitivity(
        *(detector.net, graph, evaluate, detector.pruning_example), selection=SensitivitySettings().rules
    )
    row = read_rows(measured_run / "sensitivity.csv")[-1]
    unit = next(unit for unit in measurement.units if unit.name == row.unit)
    dropped = measurement.dropped(unit, row.ratio)
    assert gamma_importance(detector.net, graph)[dropped].isfinite().all()
    silence(detector.net, graph, dropped)
    assert evaluate(detector.net)["loss"] == pytest.approx(row.figures["loss"], abs=1e-5)
