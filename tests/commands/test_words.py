"""Words, short keys and Ultralytics' spelling: what they become."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from tests.helpers.hostile.pickles import write_tiny
from tests.helpers.hostile.refused import refused
from tests.helpers.places import ROOT
from yolo_slim.commands import words
from yolo_slim.commands.entry import main
from yolo_slim.commands.run_folders import data_of, last_model
from yolo_slim.commands.slim import usual_epochs
from yolo_slim.commands.words import spelled_out
from yolo_slim.detection import Augmentation, Hyperparameters
from yolo_slim.detection.data.shapes import CLASSES
from yolo_slim.detection.training.suppression import Suppression


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A folder with a data YAML, a model YAML and a run of the recipe."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d.yaml").write_text(yaml.safe_dump({"train": "a", "val": "b", "names": ["x"]}))
    (tmp_path / "m.yaml").write_text(yaml.safe_dump({"nc": 1, "backbone": [], "head": []}))
    (tmp_path / "rates.yaml").write_text(yaml.safe_dump({"batch": 2}))
    for place in ("slim/finetune/best", "slim/prune/slim", "slim/baseline/best", "fit/best"):
        file = tmp_path / f"runs/{place}.ckpt"
        file.parent.mkdir(parents=True)
        file.touch()
    (tmp_path / "runs/slim/baseline/result.yaml").write_text("checkpoint: gone/best.ckpt\n")
    for file in ("runs/slim/recipe.yaml", "runs/fit/config.yaml"):
        (tmp_path / file).write_text(yaml.safe_dump({"data": {"data": "d.yaml"}}))
    (tmp_path / "runs/empty").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("fit best.pt d.yaml", "fit --model.weights best.pt --data.data d.yaml"),
        ("fit yolov8n.yaml shapes", "fit --model.model yolov8n.yaml --data.data shapes"),
        (
            "fit m.yaml d.yaml --trainer.max_epochs 2",
            "fit --model.model m.yaml --data.data d.yaml --trainer.max_epochs 2",
        ),
        (
            "fit data=d.yaml model=yolov8n.pt epochs=3",
            "fit --data.data d.yaml --model.weights yolov8n.pt --trainer.max_epochs 3",
        ),
        ("fit --epochs=3 --batch 8 seed=1", "fit --trainer.max_epochs 3 --data.batch 8 --seed_everything 1"),
        ("fit --lr0 0.1 mosaic=0", "fit --model.hyp.lr0 0.1 --data.augment.mosaic 0"),
        ("fit device=0,1", "fit --trainer.accelerator gpu --trainer.devices [0,1]"),
        ("fit --device cpu imgsz=64", "fit --trainer.accelerator cpu --data.imgsz 64"),
        ("fit --data rates.yaml", "fit --data rates.yaml"),
        ("fit --model.hyp rates.yaml", "fit --model.hyp rates.yaml"),
        ("validate runs/slim", "validate --data.data d.yaml --ckpt_path runs/slim/finetune/best.ckpt"),
        ("validate best.pt d.yaml", "validate --model.weights best.pt --data.data d.yaml"),
        ("test runs/fit --data.data o.yaml", "test --ckpt_path runs/fit/best.ckpt --data.data o.yaml"),
        (
            "predict runs/slim a.jpg conf=0.4",
            "predict --model.nms.conf 0.4 --ckpt_path runs/slim/finetune/best.ckpt --data.source a.jpg",
        ),
        (
            "export runs/slim --format onnx torchscript",
            "export --data.data d.yaml --model.weights runs/slim/finetune/best.ckpt --format onnx torchscript",
        ),
        (
            "export runs/slim --batch 4",
            "export --data.data d.yaml --model.weights runs/slim/finetune/best.ckpt --batch 4",
        ),
        (
            "prune runs/fit --max-flops 50%",
            "prune --data.data d.yaml --model.weights runs/fit/best.ckpt --selection.max_flops 50%",
        ),
        (
            "slim best.pt d.yaml --ratio 0.3",
            "slim -c slim.yaml --baseline.enabled false --model.weights best.pt --data.data d.yaml --epochs auto "
            "--prune.selection.ratio 0.3",
        ),
        (
            "slim runs/slim --ratio 0.7",
            "slim -c slim.yaml --data.data d.yaml --baseline.enabled false --epochs auto --prune.selection.ratio 0.7 "
            "--model.weights runs/slim/baseline/best.ckpt",
        ),
        ("compare runs/slim runs/fit", "compare runs/slim/finetune/best.ckpt runs/fit/best.ckpt --data.data d.yaml"),
        ("compare a.pt b.pt --data d.yaml --batch=4", "compare a.pt b.pt --data.data d.yaml --data.batch=4"),
        ("slim -c own.yaml --lr0 1", "slim -c own.yaml --baseline.hyp.lr0 1 --sparse.hyp.lr0 1 --finetune.hyp.lr0 1"),
        (
            "slim yolov8n.yaml shapes --epochs 9",
            "slim -c slim.yaml --model.model yolov8n.yaml --data.data shapes --epochs 9",
        ),
        (
            "slim best.pt -c own.yaml --baseline.enabled true",
            "slim --model.weights best.pt -c own.yaml --baseline.enabled true",
        ),
    ],
)
def test_what_is_spelled_out(here, line, wanted):
    found = spelled_out(line.split())
    assert sorted(_options(found)) == sorted(_options(wanted.split()))
    assert found[0] == wanted.split()[0]


def _options(arguments: list[str]) -> list[str]:
    return [part.strip() for part in " ".join(arguments[1:]).replace(" -", "\n-").split("\n")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("fit best.pt other.pt", "fit got 'best.pt' and 'other.pt': expected one"),
        (
            "validate yolov8n.yaml",
            "'yolov8n.yaml' looks like a model YAML, and validate takes a checkpoint, a data YAML",
        ),
        ("prune runs/empty", "runs/empty is a folder without a checkpoint"),
        ("fit device=tpu9", "device='tpu9': expected cpu, mps, or numbers of GPUs"),
        ("fit epochs=", "fit got 'epochs=': expected KEY=VALUE"),
    ],
)
def test_what_means_nothing_is_refused(here, line, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        spelled_out(line.split())


def test_short_keys_are_those_of_the_settings():
    assert set(words._HYP) == {field.name for field in fields(Hyperparameters)}
    assert set(words._AUGMENT) == {field.name for field in fields(Augmentation)}
    assert set(words._NMS) == {field.name for field in fields(Suppression)}


def test_every_key_of_the_document_is_one_here():
    rows = [line.split("|") for line in (ROOT / "docs/from_ultralytics.md").read_text().splitlines()]
    known = [row for row in rows if len(row) > 3 and not row[2].strip().startswith("no")]
    documented = {word for row in known for word in re.findall(r"`(\w+)`", row[1])}
    native = {"time", "save", "save_period", "deterministic", "amp", "val", "plots", "project", "name", "pretrained"}
    native |= {"model", "data", "device", "epochs", "split", "KEY", "predict", "export", "distill_model"}
    native |= {"format", "half", "int8", "dynamic", "simplify", "opset", "nms"}
    assert documented - native <= set(words._keys("fit")) | set(words._keys("predict"))
    assert {"lr0", "mosaic", "rect", "batch"} <= documented


def test_the_last_model_of_a_run(here):
    assert last_model(here / "runs/slim") == here / "runs/slim/finetune/best.ckpt"
    assert last_model(here / "runs/slim/prune") == here / "runs/slim/prune/slim.ckpt"
    assert last_model(here / "runs/empty") is None
    other = here / "runs/slim/prune/slim.ckpt"
    (here / "runs/slim/results.md").write_text(f"| table |\n\nThe result is slim 1: `{other}`\n")
    assert last_model(here / "runs/slim") == other


def test_the_data_of_a_run(here):
    assert data_of(here / "runs/slim/finetune/best.ckpt") == "d.yaml"
    assert data_of(here / "runs/fit/best.ckpt") == "d.yaml"
    assert data_of(here / "runs/empty/x.ckpt") is None


def test_epochs_follow_the_images():
    assert [usual_epochs(images) for images in (1, 300, 5000, 118_000)] == [100, 100, 64, 30]


@pytest.mark.parametrize(
    ("line", "nearest"),
    [
        ("fit --lr 3", "--model.hyp.lr0"),
        ("fit --trainer.max_epoch 3", "--trainer.max_epochs"),
        ("slim --prune.ratio 0.3", "--prune.selection.ratio"),
        ("prune --raito 0.3", "--selection.ratio"),
        ("sensitivity --image 3", "--images"),
    ],
)
def test_an_unknown_key_names_the_nearest(capsys, line, nearest):
    with pytest.raises(SystemExit):
        main(line.split())
    assert f"the nearest key is {nearest} " in capsys.readouterr().err


def test_a_fit_and_its_use_without_a_single_long_key(tmp_path, monkeypatch, shapes_dir, capsys):
    monkeypatch.chdir(tmp_path)
    write_tiny(tmp_path, CLASSES)
    data = str(shapes_dir / "data.yaml")
    main(["fit", "tiny.ckpt", data, "epochs=1", "batch=4", "workers=0", "device=cpu"])
    main(["validate", "runs/fit", "workers=0", "device=cpu"])
    assert "map" in capsys.readouterr().out
    main(["predict", "runs/fit", str(shapes_dir / "images/val"), "workers=0", "device=cpu"])
    assert any((tmp_path / "runs/predict").iterdir())
    line = refused(capsys, ["export", "runs/fit"], status=2)
    assert "format" in line
