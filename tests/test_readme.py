"""What the README tells people to type works as it stands, on smaller images, with a smaller model, in fewer epochs."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from tests.helpers.hostile.pickles import write_small
from tests.helpers.places import ROOT
from tests.helpers.toy_module import ToyClassifier, toy_loader
from yolo_slim.commands.entry import main
from yolo_slim.detection import YOLODetector
from yolo_slim.detection.data import datamodule as data
from yolo_slim.detection.data import shapes
from yolo_slim.detection.files.checkpoints import save_weights
from yolo_slim.detection.files.stock import save_ultralytics
from yolo_slim.detection.network.build import build_network
from yolo_slim.pruning import PruningPlan, apply_plan

README = (ROOT / "README.md").read_text()
DATA = ["--data.imgsz", "64", "--data.batch", "4", "--data.workers", "0"]
MODEL = ["--model.model", "small.yaml"]
SMALLER = {
    "fit": [*DATA, *MODEL, "--trainer.max_epochs", "2", "--model.hyp.nbs", "4"],
    "slim": [
        *DATA,
        "--model.model",
        "small.yaml",
        "--baseline.epochs",
        "1",
        "--sparse.epochs",
        "2",
        "--finetune.epochs",
        "1",
    ],
    "prune": [],
    "export": [],
    "compare": [],
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_commands_run_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    write_small(tmp_path)
    # The same set as a user's, but a small one.
    monkeypatch.setattr(data.shapes, "generate_shapes", lambda root: shapes_of(root))
    longer = [block for block in blocks("bash") if "best.pt" not in block.partition("\n")[0]]
    commands = [line for block in longer for line in block.splitlines() if line.startswith("python train.py")]
    assert len(commands) == 14
    # Exports beside another model and in 8 bits have tests of their own.
    exported = [command for command in commands if "train.py export" in command]
    commands = [command for command in commands if command not in exported[1:]] + exported[-1:]
    for command in commands:
        verb, *arguments = shlex.split(command)[2:]
        main([verb, *arguments, *SMALLER.get(verb, DATA)])
    exports = ("export", "export-2")
    assert [(tmp_path / "runs" / run / "results.md").is_file() for run in exports] == [True] * 2
    made = {p.name for p in (tmp_path / "runs").iterdir()}
    phases = ("baseline", "sparse", "prune", "finetune", "validate", "test", "predict", "compare", "slim", "strong")
    assert made == {*phases, *exports}
    assert len(list((tmp_path / "runs" / "predict" / "images").iterdir())) == 6
    assert "finetuned" in (tmp_path / "runs" / "strong" / "results.md").read_text()


def test_the_way_in_runs_as_it_stands(tmp_path, monkeypatch, shapes_dir, capsys):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    net = build_network(yaml.safe_load(write_small(tmp_path).read_text()), nc=len(shapes.CLASSES))
    net.names = dict(enumerate(shapes.CLASSES))
    save_ultralytics(net, tmp_path / "best.pt", imgsz=64)
    about = {"path": str(shapes_dir), "train": "images/train", "val": "images/val", "names": list(shapes.CLASSES)}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(about))
    (block,) = [block for block in blocks("bash") if "best.pt" in block.partition("\n")[0]]
    quick = {"slim": ["--epochs", "2", "device=cpu", "workers=0", "batch=4"], "validate": ["device=cpu", "workers=0"]}
    for line in block.splitlines():
        verb, *arguments = shlex.split(line, comments=True)[2:]
        main([verb, *arguments, *quick.get(verb, [])])
    assert {"slim", "strong", "validate", "export", "compare"} == {folder.name for folder in Path("runs").iterdir()}
    assert "plan: no baseline, best.pt is trained" in capsys.readouterr().out


generate_shapes = shapes.generate_shapes


def shapes_of(root):
    return generate_shapes(root, train=12, val=6, imgsz=64)


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^make (\w+)", "\n".join(blocks("bash")), re.MULTILINE)
    assert targets == ["demo", "test"]
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)


def test_python_block_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, block, _ = blocks("python")
    quick = re.sub(r"max_epochs=\d+", "max_epochs=2, accelerator='cpu', logger=False", block)
    quick = quick.replace("ratio=0.5", "ratio=0.5, min_channels=2")
    names = {"MyDetector": ToyClassifier, "my_data": toy_loader}
    exec(quick, names)
    assert names["detector"].gammas().numel() == pytest.approx(20, abs=2)
    assert names["detector"](torch.rand(1, 3, 8, 8)).shape == (1, 4)


def test_the_engine_block_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    block, _, _ = blocks("python")
    small = block.replace("resnet50", "resnet18").replace('weights="DEFAULT"', "").replace("224, 224", "64, 64")
    names: dict = {}
    exec(small.replace("max_flops=4e9", "max_flops=1.5e8"), names)
    assert 0.99 * 1.5e8 < names["report"].flops_after <= 1.5e8
    other = names["resnet18"]()
    apply_plan(other, PruningPlan.load("plan.yaml"))
    assert [p.shape for p in other.parameters()] == [p.shape for p in names["model"].parameters()]


def test_the_block_of_the_verbs_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, _, block = blocks("python")
    save_weights(YOLODetector(imgsz=64).net, "best.ckpt", imgsz=64)
    quick = block.replace("runs/fit/best.ckpt", "best.ckpt").replace("max_flops=4e9", "max_flops=6e7")
    names: dict = {}
    exec(quick.replace("onnx", "ultralytics"), names)
    assert 0.9 * 6e7 < names["report"].flops_after <= 6e7
    assert [(row.format, row.model) for row in names["rows"]] == [
        (kind, model) for kind in ("PyTorch", "ultralytics") for model in ("before", "after")
    ]
    assert sorted(file.name for file in Path("exported").iterdir()) == ["results.md", "slim.pt"]


def test_every_path_in_the_map_exists():
    paths = re.findall(r"^\| `([^`]+)` \|", README, re.MULTILINE)
    assert len(paths) >= 10
    assert [p for p in paths if not (ROOT / p).exists()] == []


def test_pictures_exist():
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README)
    assert pictures
    assert [p for p in pictures if not (ROOT / p).is_file()] == []
