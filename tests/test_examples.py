"""The examples run as a user starts them, without Ultralytics, and their data set reads what it should."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch import nn

from tests.helpers.places import ROOT
from yolo_slim.pruning import PruningPlan, apply_plan

EXAMPLES = ROOT / "examples"
README = (EXAMPLES / "README.md").read_text()
CLASSES = {"ssdlite": "SSDLite", "retinanet": "Retina", "classifier": "Classifier"}

# Python runs a module of this name at its start.
BLOCK = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "ultralytics" or name in {banned}:
            raise ImportError(f"{{name}} is blocked")

sys.meta_path.insert(0, Refuse())
"""


def blocked(folder: Path, *banned: str) -> dict[str, str]:
    """The environment of a process that cannot import Ultralytics, nor the modules named."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(BLOCK.format(banned=banned))
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}


def example(monkeypatch: pytest.MonkeyPatch, name: str):
    """A module of the folder; its own neighbours are importable as they are for `python examples/NAME.py`."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module(name)


@pytest.mark.parametrize("name", CLASSES)
def test_example_runs_and_its_slim_checkpoint_reloads(name, tmp_path, shapes_dir, monkeypatch):
    environment = blocked(tmp_path / "site", "yolo_slim.detection")
    small = ["--data", str(shapes_dir / "data.yaml"), "--epochs", "1", "2", "1", "--size", "64", "--batch", "4"]
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), *small, "--ratio", "0.4"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    assert [p.name for p in (tmp_path / "runs" / "examples").iterdir()] == [name]
    folder = tmp_path / "runs" / "examples" / name

    table = (folder / "results.md").read_text()
    assert table in done.stdout
    sizes = {cells[0]: float(cells[1].split()[0]) for cells in rows(table)}
    assert list(sizes) == ["baseline", "sparse", "slim", "finetuned"]
    assert sizes["baseline"] == sizes["sparse"] > 1.2 * sizes["slim"] == 1.2 * sizes["finetuned"]

    made = getattr(example(monkeypatch, name), CLASSES[name])
    slim = made.load_from_checkpoint(folder / "slim.ckpt").eval()
    assert sum(p.numel() for p in slim.parameters()) == pytest.approx(1e6 * sizes["slim"], abs=1000)
    checkpoint = torch.load(folder / "slim.ckpt", weights_only=True)
    options = {k: v for k, v in checkpoint["hyper_parameters"].items() if k != "structure"}
    planned = made(**options).eval()
    apply_plan(planned, PruningPlan.load(folder / "plan.yaml"))
    planned.load_state_dict(checkpoint["state_dict"])
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(slim(images), planned(images), rtol=0, atol=0)


def rows(table: str) -> list[list[str]]:
    """The cells of a Markdown table below its header."""
    return [[cell.strip() for cell in line.strip("|\n").split("|")] for line in table.splitlines()[2:]]


def test_the_blocker_blocks(tmp_path):
    environment = blocked(tmp_path / "site", "yolo_slim.detection")
    for name in ("ultralytics", "yolo_slim.detection"):
        done = subprocess.run([sys.executable, "-c", f"import {name}"], env=environment, capture_output=True, text=True)
        assert f"{name} is blocked" in done.stderr


def test_drawn_shapes_need_no_ultralytics(tmp_path):
    """What the examples fall back on where no data is given."""
    code = "from yolo_slim.detection import generate_shapes; print(generate_shapes('set', train=1, val=1, imgsz=32))"
    environment = blocked(tmp_path / "site")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout == "set/data.yaml\n", done.stderr


def test_runs_are_never_written_over(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    new_folder = example(monkeypatch, "parts").new_folder
    assert [new_folder("x").name for _ in range(3)] == ["x", "x-2", "x-3"]


def test_the_check_of_a_reloaded_module_can_fail(monkeypatch):
    check_equal = example(monkeypatch, "parts").check_equal
    one, other = nn.Linear(2, 2), nn.Linear(2, 2)
    with pytest.raises(AssertionError, match="not equal"):
        check_equal(one, other, (torch.ones(1, 2),))
    other.load_state_dict(one.state_dict())
    check_equal(one.eval(), other, (torch.ones(1, 2),))
    assert one.training


def test_table_shows_what_changed(monkeypatch):
    table = example(monkeypatch, "parts").Table((torch.rand(1, 4),), score="val/map")
    table.add("baseline", nn.Linear(4, 500, bias=False), SimpleNamespace(callback_metrics={"val/map": 0.5}))
    table.add("sparse", None, SimpleNamespace(callback_metrics={"val/map": 0.25}))
    table.add("slim", nn.Linear(4, 250, bias=False), SimpleNamespace(callback_metrics={"val/map": 0.125}))
    found = rows(table.markdown(rounds=1))
    assert [cells[1] for cells in found] == ["0.002 M", "0.002 M", "0.001 M (-50.0%)"]
    assert [cells[3] for cells in found] == ["0.500", "0.250", "0.125"]


# ---- data
@pytest.fixture
def boxes(monkeypatch):
    return example(monkeypatch, "boxes")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images of 80 x 40 pixels: with two objects, with an empty label file, and without one."""
    root = tmp_path / "set"
    for kind in ("images", "labels"):
        (root / kind / "train").mkdir(parents=True)
    for name in "abc":
        Image.new("RGB", (80, 40), (255, 0, 51)).save(root / "images" / "train" / f"{name}.png")
    (root / "labels" / "train" / "a.txt").write_text("1 0.5 0.5 0.25 0.5\n\n0 0.125 0.25 0.25 0.5\n")
    (root / "labels" / "train" / "b.txt").write_text("")
    (root / "data.yaml").write_text("train: images/train\nval: images/train\nnames: [dot, ring]\n")
    return root


def test_boxes_are_in_pixels_and_labels_start_at_one(boxes, folder):
    data = boxes.Boxes(folder / "data.yaml", "train", size=80)
    image, target = data[0]
    assert image.shape == (3, 40, 80)
    assert image[:, 0, 0].tolist() == pytest.approx([1, 0, 0.2])
    assert target["boxes"].tolist() == [[30, 10, 50, 30], [0, 0, 20, 20]]
    assert target["labels"].tolist() == [2, 1]
    assert data.names == ["dot", "ring"]
    image, target = boxes.Boxes(folder / "data.yaml", "train", size=40)[0]
    assert image.shape == (3, 20, 40)
    assert target["boxes"].tolist() == [[15, 5, 25, 15], [0, 0, 10, 10]]


def test_photographs_are_turned_upright(boxes, folder):
    """Cameras save the picture as the sensor saw it and a note how to turn it; Ultralytics heeds the note."""
    note = Image.Exif()
    note[0x0112] = 6  # turn by a quarter
    Image.new("RGB", (80, 40)).save(folder / "images" / "train" / "a.jpg", exif=note)
    (folder / "images" / "train" / "a.png").unlink()
    image, target = boxes.Boxes(folder / "data.yaml", "train", size=80)[0]
    assert image.shape == (3, 80, 40)
    assert target["boxes"].tolist() == [[15, 20, 25, 60], [0, 0, 10, 40]]


def test_mirrored_images_take_their_boxes_along(boxes, folder):
    data = boxes.Boxes(folder / "data.yaml", "train", size=80, flip=True)
    torch.manual_seed(0)
    found = {tuple(data[0][1]["boxes"][1].tolist()) for _ in range(20)}
    assert found == {(0, 0, 20, 20), (60, 0, 80, 20)}


def test_images_without_objects_are_background(boxes, folder):
    data = boxes.Boxes(folder / "data.yaml", "train", size=80)
    images, targets = boxes.collate([data[i] for i in range(3)])
    assert len(images) == 3
    assert [len(t["labels"]) for t in targets] == [2, 0, 0]
    assert targets[2]["boxes"].shape == (0, 4)
    assert targets[2]["labels"].dtype == torch.int64


def test_crops_show_what_is_in_the_boxes(boxes, folder):
    picture = Image.new("RGB", (80, 40))
    picture.paste((255, 255, 255), (30, 10, 50, 30))
    picture.save(folder / "images" / "train" / "a.png")
    data = boxes.Crops(folder / "data.yaml", "train", size=8)
    assert [int(label) for _, label in data] == [1, 0]
    assert data[0][0].shape == (3, 8, 8)
    assert data[0][0][:, 2:6, 2:6].min() == 1  # its edges are smoothed
    assert data[1][0].max() == 0


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("2 0.5 0.5 0.1 0.1", "no such class"),
        ("0.5 0.5 0.5 0.1 0.1", "no such class"),
        ("0 0.5 0.5 0.1", "4 numbers"),
        ("0 0.1 0.1 0.2 0.1 0.2 0.2", "7 numbers"),
        ("0 0.5 x 0.1 0.1", "not a number"),
        ("0 0.5 nan 0.1 0.1", r"outside \[0, 1\]"),
        ("0 1.5 0.5 0.1 0.1", r"outside \[0, 1\]"),
        ("0 0.5 0.5 0 0.1", "without a size"),
    ],
)
def test_a_bad_line_is_named(boxes, folder, line, problem):
    (folder / "labels" / "train" / "b.txt").write_text(f"0 0.5 0.5 0.1 0.1\n{line}\n")
    with pytest.raises(ValueError, match=rf"labels/train/b.txt, line 2: .*{problem}.*expected 'class") as found:
        boxes.Boxes(folder / "data.yaml", "train")
    assert "\n" not in str(found.value)


def test_entries_of_the_yaml(boxes, folder):
    (folder / "list.txt").write_text("images/train/c.png\nimages/train/a.png\n")
    yaml = folder.parent / "elsewhere.yaml"
    yaml.write_text("path: set\ntrain: [images/train, list.txt]\nval: list.txt\nnames: {0: dot, 1: ring}\n")
    assert [p.name for p in boxes.Boxes(yaml, "train").images] == ["a.png", "b.png", "c.png", "c.png", "a.png"]
    assert [len(rows) for rows in boxes.Boxes(yaml, "val").rows] == [0, 2]


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("train: images/train\n", ValueError, "lacks names"),
        ("names: [dot]\nval: images/train\n", ValueError, "lacks names or train"),
        ("names: [dot]\ntrain: images/none\n", FileNotFoundError, "images/none is neither"),
        ("names: [dot]\ntrain: labels/train\n", ValueError, "no images in train"),
    ],
)
def test_a_bad_yaml_is_named(boxes, folder, text, error, message):
    (folder / "data.yaml").write_text(text)
    with pytest.raises(error, match=message):
        boxes.Boxes(folder / "data.yaml", "train")


# ---- README
def test_commands_of_the_readme_are_understood(monkeypatch):
    commands = re.findall(r"^python (examples/\w+\.py .*)$", README, re.MULTILINE)
    assert {Path(shlex.split(c)[0]).stem for c in commands} == set(CLASSES)
    for command in commands:
        script, *options = shlex.split(command)
        assert (ROOT / script).is_file()
        monkeypatch.setattr(sys, "argv", [script, *options])
        given = example(monkeypatch, "parts").arguments("", (1, 1, 1), 32)
        assert len(given.epochs) == 3


@pytest.mark.parametrize("kind", ["YOLOV5", "TINY", "YOLOV7"])
def test_models_of_the_original_repositories_are_pruned_in_place(kind, tmp_path, monkeypatch, capsys):
    module, repository = (
        example(monkeypatch, "original_yolov5_yolov7"),
        importlib.import_module("tests.helpers.stock.original"),
    )
    torch.manual_seed(0)
    model = repository.lively(repository.Model(dict(getattr(repository, kind)), ["ring", "box"]))
    file = repository.write(model, tmp_path / "x.pt")
    monkeypatch.setattr(sys, "argv", ["original_yolov5_yolov7.py", str(file), "--size", "64", "--max-flops", "70%"])
    with repository.importable():
        module.main()
        slim = torch.load(tmp_path / "x-slim.pt", weights_only=False)["model"].float().eval()
        assert "train it before use" in capsys.readouterr().out
        images = torch.rand(1, 3, 64, 64)
        found, wanted = slim(images), model.eval()(images)
    assert [map_.shape for map_ in found] == [map_.shape for map_ in wanted]
    count = [sum(parameter.numel() for parameter in net.parameters()) for net in (slim, model)]
    assert count[0] < 0.85 * count[1]


def test_gradients_choose_where_there_are_losses(monkeypatch):
    module, repository = (
        example(monkeypatch, "original_yolov5_yolov7"),
        importlib.import_module("tests.helpers.stock.original"),
    )
    torch.manual_seed(0)
    model = repository.lively(repository.Model(dict(repository.YOLOV5), ["ring", "box"]))
    images = torch.rand(2, 3, 64, 64)
    losses = (sum(map_.square().mean() for map_ in model(images)) for _ in range(2))
    report = module.slim(model, images[:1], module.Selection(max_flops="60%", round_to=1), losses)
    assert report.error < 1e-4
    assert 0.55 * report.flops_before < report.flops_after <= 0.6 * report.flops_before
