"""The scores of each class in what verbs leave: a validation and a test, a recipe without a fit, one of before."""

from __future__ import annotations

import csv
import math
import shutil
from pathlib import Path

import pytest
import yaml

from tests.helpers.export_nets import lively, shapes_images
from yolo_slim.commands.entry import main
from yolo_slim.detection.data.shapes import CLASSES
from yolo_slim.detection.files.checkpoints import save_weights
from yolo_slim.workflow.results import read_result

#: Of this class nothing is labelled.
ABSENT = "rectangle"


@pytest.fixture(scope="module")
def place(tmp_path_factory, shapes_dir) -> tuple[Path, list[str]]:
    """A working folder with a detector, and the keys of data in which one class does not occur."""
    folder = tmp_path_factory.mktemp("work")
    save_weights(lively(shapes_images(shapes_dir)).net, folder / "dense.ckpt", imgsz=64)
    shutil.copytree(shapes_dir, folder / "set", ignore=shutil.ignore_patterns("*.cache"))
    for file in (folder / "set" / "labels" / "val").iterdir():
        lines = file.read_text().splitlines(keepends=True)
        file.write_text("".join(line for line in lines if int(line.split()[0]) != CLASSES.index(ABSENT)))
    return folder, ["--data.data", "set/data.yaml", "--data.batch", "3", "--data.workers", "0"]


@pytest.fixture
def work(place, monkeypatch) -> list[str]:
    monkeypatch.chdir(place[0])
    return place[1]


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize("metric", ["coco", "ultralytics"])
@pytest.mark.parametrize("verb", ["validate", "test"])
def test_a_table_and_a_file(work, capsys, verb, metric):
    trainer = ["--trainer.accelerator", "cpu", "--model.metric", metric, "--name", f"{verb}-{metric}"]
    main([verb, *work, *trainer, "--ckpt_path", "dense.ckpt"])
    printed = capsys.readouterr().out
    rows = rows_of(Path(f"runs/{verb}-{metric}/classes.csv"))
    assert [(row["index"], row["class"]) for row in rows] == [(str(i), name) for i, name in enumerate(CLASSES)]
    known = [row for row in rows if row["map"]]
    assert ABSENT not in {row["class"] for row in known}
    assert 0 < len(known) < len(rows)
    lines = [line.split() for line in printed.splitlines() if line.split() and line.split()[0] in CLASSES]
    assert lines == [
        [row["class"], *(f"{float(row[name]):.3f}" if row[name] else "-" for name in ("map50", "map"))] for row in rows
    ]
    logged = next(line for line in printed.splitlines() if f"{verb.removesuffix('idate')}/map " in line)
    mean = sum(float(row["map"]) for row in known) / len(known)
    assert mean == pytest.approx(float(logged.split()[-2]), abs=1e-6)
    assert mean > 0


@pytest.fixture(scope="module")
def recipe(place) -> tuple[Path, list[str]]:
    """Run folder of a recipe that prunes and trains nothing, and its command."""
    folder, data = place
    off = [f"--{phase}.enabled=false" for phase in ("baseline", "sparse", "finetune")]
    command = ["slim", *data, *off, "--model.weights", "dense.ckpt", "--prune.selection.ratio", "0.3"]
    command += ["--prune.importance.kind", "l1", "--trainer.accelerator", "cpu"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        main(command)
    return folder / "runs" / "slim", command


def test_each_phase_keeps_them(recipe):
    run, _ = recipe
    table = (run / "results.md").read_text().split("\n\n")[-1].splitlines()
    assert table[0] == "| Class (mAP50-95) | baseline | slim | Change |"
    index = CLASSES.index(ABSENT)
    cells = {line.split(" | ")[0].removeprefix("| "): line.split(" | ") for line in table[2:]}
    assert list(cells) == list(CLASSES)
    assert cells[ABSENT][1:] == ["-", "-", "- |"]
    for column, phase in enumerate(("baseline", "prune"), 1):
        plain = yaml.safe_load((run / phase / "result.yaml").read_text())
        assert [entry["name"] for entry in plain["classes"]] == list(CLASSES)
        assert plain["classes"][index] == {"name": ABSENT, "map50": None, "map": None}
        known = {entry["name"]: entry["map"] for entry in plain["classes"] if entry["map"] is not None}
        assert sum(known.values()) / len(known) == pytest.approx(plain["map"], abs=1e-6)  # logged in single precision
        assert {name: f"{value:.3f}" for name, value in known.items()} == {name: cells[name][column] for name in known}
        assert math.isnan(read_result(run / phase / "result.yaml")["classes"][index].map)
    assert (run / "report.html").read_text().count("<details><summary>mAP50-95 of each class</summary>") == 1


def test_results_of_before_go_on_without_a_table(recipe, work):
    run, command = recipe
    files = [run / phase / "result.yaml" for phase in ("baseline", "prune")]
    raw = [file.read_text() for file in files]
    for file, text in zip(files, raw, strict=True):
        file.write_text(yaml.safe_dump({k: v for k, v in yaml.safe_load(text).items() if k != "classes"}))
    main(command)
    assert "Class" not in (run / "results.md").read_text()
    assert "<details>" not in (run / "report.html").read_text()
    files[1].write_text(raw[1])  # of a phase that was still to come
    main(command)
    assert "| Class (mAP50-95) | slim |\n" in (run / "results.md").read_text()
    files[0].write_text(raw[0])


@pytest.mark.parametrize("wrong", [3, [3], [{"name": "cat"}], {"cat": 0.5}, [{"name": "cat", "map50": "x", "map": 1}]])
def test_damaged_scores_are_named(recipe, tmp_path, wrong):
    plain = yaml.safe_load((recipe[0] / "prune" / "result.yaml").read_text())
    (tmp_path / "result.yaml").write_text(yaml.safe_dump(plain | {"classes": wrong}))
    with pytest.raises(ValueError, match=r"result.yaml is damaged \(the scores .*\); delete it"):
        read_result(tmp_path / "result.yaml")
