"""The verb sensitivity: what it leaves, how it goes on, and what is refused."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from tests.helpers.held import in_another_process
from tests.helpers.hostile.refused import refused
from tests.helpers.places import ROOT
from yolo_slim.commands.entry import main
from yolo_slim.detection.training.evaluation import Evaluation
from yolo_slim.workflow import sensitivity_files
from yolo_slim.workflow.run_folder import LOCK
from yolo_slim.workflow.sensitivity_files import read_rows
from yolo_slim.workflow.signals import Stopped

FILES = {"sensitivity.csv", "sensitivity.md", "sensitivity.png", "sensitivity.yaml"}


def figures(folder: Path) -> list[tuple]:
    """All rows but for what a clock says."""
    rows = read_rows(folder / "sensitivity.csv")
    clocks = ("nms_ms", "inference_ms")
    return [
        (row.unit, row.ratio, row.status, row.rise, {k: v for k, v in row.figures.items() if k not in clocks})
        for row in rows
    ]


def test_it_leaves_a_table_a_picture_and_a_summary(measured_run):
    assert {file.name for file in measured_run.iterdir() if not file.name.startswith(".")} == FILES
    about = yaml.safe_load((measured_run / "sensitivity.yaml").read_text())
    rows = read_rows(measured_run / "sensitivity.csv")
    assert len(rows) == 2 * about["units"] > 10
    assert {"loss", "precision", "recall", "map50", "map", "nms_ms"} <= about["dense"].keys()
    classes = [value for name, value in about["dense"].items() if name.startswith("map of ")]
    assert sum(classes) / len(classes) == pytest.approx(about["dense"]["map"], abs=1e-12)
    assert len(about["weights"]["sha256"]) == 64
    assert about["noise"] > 0
    assert (measured_run / "sensitivity.png").read_bytes().startswith(b"\x89PNG")
    summary = (measured_run / "sensitivity.md").read_text()
    assert f"{about['units']} units of" in summary
    assert "## Most sensitive" in summary


def test_what_is_within_the_noise_is_said(measured_run):
    noise = yaml.safe_load((measured_run / "sensitivity.yaml").read_text())["noise"]
    lines = (measured_run / "sensitivity.csv").read_text().splitlines()
    head = lines[0].split(",")
    for line in lines[1:]:
        cells = dict(zip(head, line.split(","), strict=True))
        assert cells["within_noise"] == ("" if not cells["rise"] else str(float(cells["rise"]) <= noise).lower())


STOPS = {
    "error: power cut; the same command goes on": (OSError("power cut"), 1),
    "error: interrupted; the same command goes on": (KeyboardInterrupt(), 130),
    "error: ended by SIGTERM; the same command goes on": (Stopped(signal.SIGTERM), 143),
}


@pytest.mark.parametrize(("after", "said"), list(zip((1, 7, 17), STOPS, strict=True)))
def test_an_interrupted_run_goes_on_without_measuring_twice(
    measured_run, measuring, tmp_path, monkeypatch, capsys, after, said
):
    monkeypatch.chdir(tmp_path)
    measuring = [*measuring, "--metric", "both"]
    usual, evaluations = sensitivity_files.Table.add, []

    def power_cut(table, row, noise):
        if len(read_rows(table.path)) == after:
            raise STOPS[said][0]
        usual(table, row, noise)

    with monkeypatch.context() as patch:
        patch.setattr(sensitivity_files.Table, "add", power_cut)
        assert refused(capsys, measuring, status=STOPS[said][1]) == said
    run = tmp_path / "runs" / "sensitivity"
    with (run / "sensitivity.csv").open("a") as stream:
        stream.write("model.0.bn,model.0")  # a row that a kill has cut off
    call = Evaluation.__call__
    monkeypatch.setattr(Evaluation, "__call__", lambda self, net: evaluations.append(1) or call(self, net))
    main(measuring)
    assert figures(run) == figures(measured_run)
    measured = sum(row[3] is not None for row in figures(measured_run)[after:])
    assert len(evaluations) == 1 + measured
    evaluations.clear()
    main(measuring)  # complete: the dense model alone is looked at
    assert len(evaluations) == 1


def test_a_killed_process_goes_on(measured_run, measuring, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = (
        "import os, sys; from yolo_slim.workflow import sensitivity_files as files; usual = files.Table.add\n"
        "def add(table, row, noise):\n"
        "    usual(table, row, noise)\n"
        "    if len(files.read_rows(table.path)) == 4: os.kill(os.getpid(), 9)\n"
        "files.Table.add = add\n"
        "from yolo_slim.commands.entry import main; main(sys.argv[1:])"
    )
    words = [*measuring, "--metric", "both"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code, *words], env=env, capture_output=True, check=False)
    assert done.returncode == -9
    run = tmp_path / "runs" / "sensitivity"
    assert len(read_rows(run / "sensitivity.csv")) == 4
    main(words)
    assert figures(run) == figures(measured_run)


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
def test_other_settings_are_refused(measured_run, measuring, monkeypatch, capsys, keys, difference):
    monkeypatch.chdir(measured_run.parents[1])
    line = refused(capsys, [*measuring, "--metric", "both", *keys])
    assert difference in line
    assert "give this one another --name" in line
    assert "goes on" not in line


def test_other_images_are_refused(measured_run, measuring, shapes_copy, monkeypatch, capsys):
    monkeypatch.chdir(measured_run.parents[1])
    words = [*measuring, "--metric", "both"]
    assert "data.file: " in refused(capsys, [*words, "--data.data", str(shapes_copy / "data.yaml")])
    assert "data.split: 'train' there, 'val' here" in refused(capsys, [*words, "--split", "val"])


def test_other_weights_are_refused(measured_run, measuring, measured_weights, tmp_path, monkeypatch, capsys):
    checkpoint = torch.load(measured_weights, weights_only=True)
    next(iter(checkpoint["state_dict"].values())).mul_(1.01)
    torch.save(checkpoint, tmp_path / "other.ckpt")
    monkeypatch.chdir(measured_run.parents[1])
    line = refused(capsys, [*measuring, "--metric", "both", "--model.weights", str(tmp_path / "other.ckpt")])
    assert "weights.sha256" in line


def test_a_folder_of_something_else_stays(measuring, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    other = tmp_path / "runs" / "sensitivity" / "notes.txt"
    other.parent.mkdir(parents=True)
    other.write_text("mine")
    assert "is no measurement of 'sensitivity'" in refused(capsys, measuring)
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
def test_what_cannot_be_measured_leaves_nothing(measuring, tmp_path, monkeypatch, capsys, keys, message):
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, [*measuring, *keys])
    assert not (tmp_path / "runs").exists()


def test_damage_is_one_line(measured_run, measuring, tmp_path, monkeypatch, capsys):
    run = tmp_path / "runs" / "sensitivity"
    shutil.copytree(measured_run, run)
    monkeypatch.chdir(tmp_path)
    table = (run / "sensitivity.csv").read_text()
    (run / "sensitivity.csv").write_text(table.replace("measured", "measured,1", 1))
    assert "sensitivity.csv is damaged" in refused(capsys, [*measuring, "--metric", "both"])
    (run / "sensitivity.yaml").write_text("3")
    line = refused(capsys, [*measuring, "--metric", "both"])
    assert "sensitivity.yaml is damaged" in line
    assert "goes on" not in line


def test_one_process_at_a_time(measured_run, measuring, monkeypatch, capsys):
    monkeypatch.chdir(measured_run.parents[1])
    with in_another_process(measured_run):
        assert "another process is running in" in refused(capsys, [*measuring, "--metric", "both"])


def test_a_kill_before_the_first_row_does_not_block_the_folder(measured_run, measuring, tmp_path, monkeypatch, capsys):
    run = tmp_path / "runs" / "sensitivity"
    run.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with in_another_process(run):  # which has only just begun
        assert "another process is running in" in refused(capsys, [*measuring, "--metric", "both"])
    assert [file.name for file in run.iterdir()] == [LOCK]
    main([*measuring, "--metric", "both"])
    assert figures(run) == figures(measured_run)


def test_parts_make_the_whole(measured_run, measuring, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    measuring = [*measuring, "--metric", "both"]
    for number in (1, 2):
        main([*measuring, "--part", f"{number}/2", "--name", f"p{number}"])
    assert "next: the other parts" in capsys.readouterr().out
    merge = ["sensitivity", "--name", "whole", "--merge"]
    assert "the parts are 1/2: expected each of 1/2 to 2/2 once" in refused(capsys, [*merge, "runs/p1"])
    assert "expected each of" in refused(capsys, [*merge, "runs/p1", "runs/p1"])
    main([*merge, "runs/p2", "runs/p1"])
    assert figures(tmp_path / "runs/whole") == figures(measured_run)
    assert "runs/whole exists" in refused(capsys, [*merge, "runs/p2", "runs/p1"])
    lines = (tmp_path / "runs/p2/sensitivity.csv").read_text().splitlines(keepends=True)
    (tmp_path / "runs/p2/sensitivity.csv").write_text("".join(lines[:-1]))
    assert "runs/p2 is not finished" in refused(capsys, ["sensitivity", "--name", "w", "--merge", "runs/p1", "runs/p2"])
