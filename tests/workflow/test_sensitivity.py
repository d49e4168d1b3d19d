"""The verb sensitivity: files, interruption, parts, and a prune by what was measured."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from tests.helpers.held import in_another_process
from tests.helpers.hostile.pickles import write_small
from tests.helpers.hostile.refused import refused
from yolo_slim.commands.entry import main
from yolo_slim.detection.data.shapes import CLASSES
from yolo_slim.detection.files.checkpoints import save_weights
from yolo_slim.detection.network.build import build_network
from yolo_slim.detection.training.evaluation import Evaluation
from yolo_slim.pruning.surgery.silence import silence
from yolo_slim.workflow import sensitivity_files
from yolo_slim.workflow.sensitivity_files import read_rows

FILES = {"sensitivity.csv", "sensitivity.md", "sensitivity.png", "sensitivity.yaml"}


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    net = build_network(yaml.safe_load(write_small(folder).read_text()), nc=len(CLASSES))
    net.names = dict(enumerate(CLASSES))
    for module in net.modules():  # gammas of one size would all be cut alike
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    save_weights(net, folder / "small.ckpt", imgsz=64)
    return folder / "small.ckpt"


@pytest.fixture(scope="module")
def command(weights, shapes_dir) -> list[str]:
    data = ["--data.data", str(shapes_dir / "data.yaml"), "--data.batch", "4"]
    return ["sensitivity", "--model.weights", str(weights), *data, "--images", "6", "--ratios", "0.3", "0.6"]


@pytest.fixture(scope="module")
def straight(tmp_path_factory, command) -> Path:
    """Folder of an uninterrupted measurement."""
    folder = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        main([*command, "--metric", "both"])
    return folder / "runs" / "sensitivity"


def figures(folder: Path) -> list[tuple]:
    """All rows but for what a clock says."""
    rows = read_rows(folder / "sensitivity.csv")
    clocks = ("nms_ms", "inference_ms")
    return [
        (row.unit, row.ratio, row.status, row.rise, {k: v for k, v in row.figures.items() if k not in clocks})
        for row in rows
    ]


def test_it_leaves_a_table_a_picture_and_a_summary(straight):
    assert {file.name for file in straight.iterdir() if not file.name.startswith(".")} == FILES
    about = yaml.safe_load((straight / "sensitivity.yaml").read_text())
    rows = read_rows(straight / "sensitivity.csv")
    assert len(rows) == 2 * about["units"] > 10
    assert {"loss", "precision", "recall", "map50", "map", "nms_ms"} <= about["dense"].keys()
    classes = [value for name, value in about["dense"].items() if name.startswith("map of ")]
    assert sum(classes) / len(classes) == pytest.approx(about["dense"]["map"], abs=1e-12)
    assert len(about["weights"]["sha256"]) == 64
    assert about["noise"] > 0
    assert (straight / "sensitivity.png").read_bytes().startswith(b"\x89PNG")
    summary = (straight / "sensitivity.md").read_text()
    assert f"{about['units']} units of" in summary
    assert "## Most sensitive" in summary


def test_what_is_within_the_noise_is_said(straight):
    noise = yaml.safe_load((straight / "sensitivity.yaml").read_text())["noise"]
    lines = (straight / "sensitivity.csv").read_text().splitlines()
    head = lines[0].split(",")
    for line in lines[1:]:
        cells = dict(zip(head, line.split(","), strict=True))
        assert cells["within_noise"] == ("" if not cells["rise"] else str(float(cells["rise"]) <= noise).lower())


@pytest.mark.parametrize("after", [1, 7])
def test_an_interrupted_run_goes_on_without_measuring_twice(straight, command, tmp_path, monkeypatch, capsys, after):
    monkeypatch.chdir(tmp_path)
    command = [*command, "--metric", "both"]
    usual, evaluations = sensitivity_files.Table.add, []

    def power_cut(table, row, noise):
        if len(read_rows(table.path)) == after:
            raise OSError("power cut")
        usual(table, row, noise)

    with monkeypatch.context() as patch:
        patch.setattr(sensitivity_files.Table, "add", power_cut)
        line = refused(capsys, command)
    assert line == "error: power cut; the same command goes on"
    run = tmp_path / "runs" / "sensitivity"
    with (run / "sensitivity.csv").open("a") as stream:
        stream.write("model.0.bn,model.0")  # a row that a kill has cut off
    call = Evaluation.__call__
    monkeypatch.setattr(Evaluation, "__call__", lambda self, net: evaluations.append(1) or call(self, net))
    main(command)
    assert figures(run) == figures(straight)
    measured = sum(row[3] is not None for row in figures(straight)[after:])
    assert len(evaluations) == 1 + measured
    evaluations.clear()
    main(command)  # complete: the dense model alone is looked at
    assert len(evaluations) == 1


def test_a_killed_process_goes_on(straight, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = (
        "import os, sys; from yolo_slim.workflow import sensitivity_files as files; usual = files.Table.add\n"
        "def add(table, row, noise):\n"
        "    usual(table, row, noise)\n"
        "    if len(files.read_rows(table.path)) == 4: os.kill(os.getpid(), 9)\n"
        "files.Table.add = add\n"
        "from yolo_slim.commands.entry import main; main(sys.argv[1:])"
    )
    words = [*command, "--metric", "both"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, cwd=tmp_path, check=False)
    assert done.returncode == -9
    run = tmp_path / "runs" / "sensitivity"
    assert len(read_rows(run / "sensitivity.csv")) == 4
    main(words)
    assert figures(run) == figures(straight)


@pytest.mark.parametrize(
    ("keys", "difference"),
    [
        (["--ratios", "0.3"], "settings.ratios"),
        (["--images", "5"], "data.images: 6 there, 5 here"),
        (["--importance.kind", "l2"], "settings.importance.kind: 'gamma' there, 'l2' here"),
        (["--metric", "loss"], "settings.metric: 'both' there, 'loss' here"),
        (["--imgsz", "96"], "imgsz: 64 there, 96 here"),
        (["--part", "1/2"], "part: '1/1' there, '1/2' here"),
    ],
)
def test_other_settings_are_refused(straight, command, monkeypatch, capsys, keys, difference):
    monkeypatch.chdir(straight.parents[1])
    line = refused(capsys, [*command, "--metric", "both", *keys])
    assert difference in line
    assert "give this one another --name" in line


def test_other_weights_are_refused(straight, command, weights, tmp_path, monkeypatch, capsys):
    checkpoint = torch.load(weights, weights_only=True)
    next(iter(checkpoint["state_dict"].values())).mul_(1.01)
    torch.save(checkpoint, tmp_path / "other.ckpt")
    monkeypatch.chdir(straight.parents[1])
    line = refused(capsys, [*command, "--metric", "both", "--model.weights", str(tmp_path / "other.ckpt")])
    assert "weights.sha256" in line


def test_a_folder_of_something_else_stays(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    other = tmp_path / "runs" / "sensitivity" / "notes.txt"
    other.parent.mkdir(parents=True)
    other.write_text("mine")
    assert "is no measurement of 'sensitivity'" in refused(capsys, command)
    assert [file.name for file in other.parent.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["--ratios", "0.6", "0.3"], "expected ascending shares"),
        (["--stop_rise", "0"], "stop_rise=0.0: expected a share above 0"),
        (["--part", "3"], "part='3': expected the number of a part"),
        (["--ignore", "[model.99]"], "ignore pattern 'model.99' matches no layer"),
        (["--images", "0"], "images=0: expected at least 1"),
        (["--model.weights", "none.ckpt"], "none.ckpt"),
    ],
)
def test_what_cannot_be_measured_leaves_nothing(command, tmp_path, monkeypatch, capsys, keys, message):
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, [*command, *keys])
    assert not (tmp_path / "runs").exists()


def test_damage_is_one_line(straight, command, tmp_path, monkeypatch, capsys):
    run = tmp_path / "runs" / "sensitivity"
    shutil.copytree(straight, run)
    monkeypatch.chdir(tmp_path)
    table = (run / "sensitivity.csv").read_text()
    (run / "sensitivity.csv").write_text(table.replace("measured", "measured,1", 1))
    assert "sensitivity.csv is damaged" in refused(capsys, [*command, "--metric", "both"])
    (run / "sensitivity.yaml").write_text("3")
    assert "sensitivity.yaml is damaged" in refused(capsys, [*command, "--metric", "both"])


def test_one_process_at_a_time(straight, command, monkeypatch, capsys):
    monkeypatch.chdir(straight.parents[1])
    with in_another_process(straight):
        assert "another process is running in" in refused(capsys, [*command, "--metric", "both"])


def test_parts_make_the_whole(straight, command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = [*command, "--metric", "both"]
    for number in (1, 2):
        main([*command, "--part", f"{number}/2", "--name", f"p{number}"])
    assert "next: the other parts" in capsys.readouterr().out
    merge = ["sensitivity", "--name", "whole", "--merge"]
    assert "the parts are 1/2: expected each of 1/2 to 2/2 once" in refused(capsys, [*merge, "runs/p1"])
    assert "expected each of" in refused(capsys, [*merge, "runs/p1", "runs/p1"])
    main([*merge, "runs/p2", "runs/p1"])
    assert figures(tmp_path / "runs/whole") == figures(straight)
    assert "runs/whole exists" in refused(capsys, [*merge, "runs/p2", "runs/p1"])
    lines = (tmp_path / "runs/p2/sensitivity.csv").read_text().splitlines(keepends=True)
    (tmp_path / "runs/p2/sensitivity.csv").write_text("".join(lines[:-1]))
    assert "runs/p2 is not finished" in refused(capsys, ["sensitivity", "--name", "w", "--merge", "runs/p1", "runs/p2"])


def test_a_prune_by_it(straight, command, weights, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(straight, tmp_path / "runs" / "sensitivity")
    main([*command, "--metric", "both"])
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
    line = refused(capsys, ["prune", "--model.weights", str(weights), "--selection.sensitivity", "runs/none"])
    assert "runs/none holds no sensitivity.yaml: give a folder that the verb 'sensitivity' wrote" in line


def test_the_report_says_the_highest_threshold_that_empties_no_layer(weights, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["prune", "--model.weights", str(weights), "--selection.ratio", "0.2"])
    assert "highest threshold that empties no layer: " in capsys.readouterr().out
    found = yaml.safe_load((tmp_path / "runs/prune/pruning.yaml").read_text())["emptying"]
    state = torch.load(weights, weights_only=True)["state_dict"]
    gammas = [value for name, value in state.items() if name.endswith("bn.weight")]
    assert found["threshold"] <= max(float(gamma.abs().max()) for gamma in gammas)
    assert 0 < found["ratio"] < 1


def test_a_sparse_phase_ranks_by_itself(weights, command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    slim = ["slim", "--model.weights", str(weights), "--baseline.enabled", "false", *command[3:7]]
    for keys in (["--prune.selection.sensitivity", "runs/sensitivity"], ["--rounds.sensitivity", "true"]):
        line = refused(capsys, [*slim, *keys])
        assert "a sparse phase ranks channels by scores of its own" in line


def test_a_row_is_the_loss_with_the_channels_silent(straight, weights, shapes_dir):
    from yolo_slim.detection import YOLODataModule, YOLODetector
    from yolo_slim.pruning import gamma_importance
    from yolo_slim.pruning.sensitivity import Sensitivity
    from yolo_slim.workflow import SensitivitySettings

    detector = YOLODetector(weights=str(weights))
    data = YOLODataModule(str(shapes_dir / "data.yaml"), imgsz=64, batch=4)
    evaluate, graph = Evaluation(detector, data, images=6), detector.trace_channels()
    measurement = Sensitivity(
        *(detector.net, graph, evaluate, detector.pruning_example), selection=SensitivitySettings().rules
    )
    row = read_rows(straight / "sensitivity.csv")[-1]
    unit = next(unit for unit in measurement.units if unit.name == row.unit)
    dropped = measurement.dropped(unit, row.ratio)
    assert gamma_importance(detector.net, graph)[dropped].isfinite().all()
    silence(detector.net, graph, dropped)
    assert evaluate(detector.net)["loss"] == pytest.approx(row.figures["loss"], abs=1e-5)
