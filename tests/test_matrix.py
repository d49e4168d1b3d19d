"""Every state of a detector goes to every destination: the cells of the table in docs/checkpoints.md."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml

import yolo_slim
from tests.helpers.export_nets import in_single_precision
from tests.helpers.stock.compare import our_boxes, our_scores, same_boxes, ultralytics_scores, use_elsewhere
from tests.helpers.stock.nets import all_images, by_heart_data, narrow_yaml
from yolo_slim.commands.entry import main
from yolo_slim.detection.data.shapes import generate_shapes
from yolo_slim.detection.export.export import export_network
from yolo_slim.detection.export.formats import ExportOptions
from yolo_slim.detection.export.runtime import ExportedDetector
from yolo_slim.detection.training.detector import YOLODetector
from yolo_slim.pruning import structure_of

IMGSZ = 64
#: The checkpoint of each state in the run folder of ``slim``.
STATES = {
    "baseline": "baseline/best.ckpt",
    "sparse": "sparse/last.ckpt",
    "slim": "prune/slim.ckpt",
    "finetuned": "finetune/best.ckpt",
}
HYP = {"optimizer": "AdamW", "lr0": 0.01, "nbs": 8, "warmup_epochs": 3.0}
PLAIN_IMAGES = dict.fromkeys(("mosaic", "hsv_h", "hsv_s", "hsv_v", "translate", "scale", "fliplr", "close_mosaic"), 0)

states = pytest.mark.parametrize("state", STATES)


def needs(*packages: str) -> Any:
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


class Run:
    """A run of ``slim`` that learns eight images by heart."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "runs" / "slim"
        self.data = by_heart_data(generate_shapes(folder / "shapes", train=8, val=1, imgsz=IMGSZ))
        data = {"data": str(self.data), "imgsz": IMGSZ, "batch": 8, "workers": 0, "augment": PLAIN_IMAGES}
        (folder / "narrow-yolov8n.yaml").write_text(yaml.safe_dump(narrow_yaml()))
        self.fit = {"data": data, "model": {"hyp": HYP}, "trainer": {"accelerator": "cpu"}}
        recipe = {
            "model": {"model": str(folder / "narrow-yolov8n.yaml")},
            "data": data,
            "trainer": {"accelerator": "cpu"},
            "baseline": {"epochs": 40, "hyp": HYP},
            "sparse": {"epochs": 25, "hyp": HYP, "sparsity": {"penalty": "growing"}},
            "prune": {"selection": {"ratio": 0.4}},
            "finetune": {"epochs": 10, "hyp": HYP},
        }
        main(["slim", "-c", self.write(folder / "recipe.yaml", recipe)])
        self.config = self.write(folder / "fit.yaml", self.fit)
        self.batch = all_images(self.data, IMGSZ)

    @staticmethod
    def write(path: Path, content: dict[str, Any]) -> str:
        path.write_text(yaml.safe_dump(content))
        return str(path)

    def path(self, state: str) -> Path:
        return self.folder / STATES[state]

    def detector(self, state: str) -> YOLODetector:
        return yolo_slim.load(self.path(state))

    def result(self, state: str) -> dict[str, Any]:
        return yaml.safe_load((self.path(state).parent / "result.yaml").read_text())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("matrix")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return Run(folder)


@torch.no_grad()
def answers(detector: YOLODetector, run: Run) -> torch.Tensor:
    return detector.eval()(run.batch["img"])


@states
def test_load(run: Run, state: str) -> None:
    """Every way in gives the same detector, and the one that was judged."""
    path, detector = run.path(state), run.detector(state)
    expected = answers(detector, run)
    assert torch.equal(answers(YOLODetector.load_from_checkpoint(path), run), expected)
    assert torch.equal(answers(YOLODetector(weights=str(path)), run), expected)
    assert detector.hparams["imgsz"] == IMGSZ
    result = run.result(state)
    assert sum(p.numel() for p in detector.net.parameters()) == result["parameters"]
    assert our_scores(detector, run.batch)["map"] == pytest.approx(result["map"], abs=1e-4)
    assert result["map"] > 0.005
    small = state in ("slim", "finetuned")
    assert (result["parameters"] < 0.6 * run.result("baseline")["parameters"]) == small


@states
def test_validate(run: Run, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    source = "--model.weights" if state == "finetuned" else "--ckpt_path"
    main(["validate", "-c", run.config, source, str(run.path(state))])
    table = capsys.readouterr().out
    shown = re.search(r"val/map\s+\S?\s*([0-9.]+)", table)
    assert shown is not None, table
    assert float(shown[1]) == pytest.approx(run.result(state)["map"], abs=1e-3)


@states
def test_resume(run: Run, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """A checkpoint of a training goes on where it was; that of a prune has no training to go on with, and says so."""
    monkeypatch.chdir(tmp_path)
    last = run.path(state) if state == "slim" else run.path(state).with_name("last.ckpt")
    before = torch.load(last, weights_only=True)
    command = ["fit", "-c", run.config, "--ckpt_path", str(last), "--name", "again"]
    if state == "slim":
        with pytest.raises(SystemExit):
            main(command)
        assert "start a new training from it with --model.weights" in capsys.readouterr().err
        return
    if state == "sparse":
        command += ["--trainer.callbacks+=yolo_slim.callbacks.GammaSparsity", "--trainer.callbacks.penalty=growing"]
    main([*command, "--trainer.max_epochs", str(before["epoch"] + 2)])
    after = torch.load(tmp_path / "runs" / "again" / "last.ckpt", weights_only=True)
    assert after["epoch"] == before["epoch"] + 1
    assert after["global_step"] == before["global_step"] + 1
    assert after["hyper_parameters"]["structure"] == before["hyper_parameters"]["structure"]
    shapes = {name: value.shape for name, value in before["state_dict"].items()}
    assert {name: value.shape for name, value in after["state_dict"].items()} == shapes


@states
def test_finetune(run: Run, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new training from any state starts with its weights and keeps its structure."""
    monkeypatch.chdir(tmp_path)
    slow = ["--model.hyp.lr0", "1e-9", "--model.hyp.warmup_epochs", "0", "--trainer.max_epochs", "1"]
    main(["fit", "-c", run.config, "--model.weights", str(run.path(state)), "--name", "new", *slow])
    before, after = run.detector(state), yolo_slim.load(tmp_path / "runs" / "new" / "last.ckpt")
    assert structure_of(after.net) == structure_of(before.net)
    for (name, old), new in zip(before.net.named_parameters(), after.net.parameters(), strict=True):
        assert torch.allclose(old, new, atol=1e-6), name


class Stock:
    """What stock Ultralytics makes of all states, without yolo_slim."""

    def __init__(self, run: Run, folder: Path) -> None:
        self.folder = folder
        frames = folder / "frames"
        frames.mkdir()
        for index, path in enumerate(sorted((run.data.parent / "images" / "train").iterdir())[:6]):
            cv2.imwrite(str(frames / f"{index}.png"), cv2.imread(str(path)))
        (folder / "data.yaml").write_text(run.data.read_text())
        (folder / "imgsz.txt").write_text(str(IMGSZ))
        for state in STATES:
            export_network(run.detector(state).net, "ultralytics", ExportOptions(imgsz=IMGSZ), folder, state)
        done = use_elsewhere(folder, "predict", "val")
        assert done.returncode == 0, done.stderr[-4000:]
        self.found = {state: json.loads((folder / f"{state}.json").read_text()) for state in STATES}


@pytest.fixture(scope="module")
def stock(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Stock:
    return Stock(run, tmp_path_factory.mktemp("stock"))


@states
def test_stock_val(run: Run, stock: Stock, state: str) -> None:
    expected = ultralytics_scores(run.detector(state), run.batch, IMGSZ)
    for name in ("map50", "map"):
        assert stock.found[state]["val"][name] == pytest.approx(expected[name], abs=1e-3)
    assert stock.found[state]["val"]["map"] > 0.005


@states
def test_stock_predict(run: Run, stock: Stock, state: str) -> None:
    mine = our_boxes(run.detector(state), stock.folder / "frames", IMGSZ)
    same_boxes(stock.found[state]["predict"], mine, pixels=1e-4 * IMGSZ, score=1e-4)


@states
@pytest.mark.parametrize(
    "name",
    [
        pytest.param("onnx", marks=needs("onnx", "onnxruntime")),
        pytest.param("openvino", marks=needs("openvino")),
        "torchscript",
    ],
)
def test_export(run: Run, state: str, name: str, tmp_path: Path) -> None:
    """Boxes within 1e-4 of the image's side, scores within 1e-4."""
    detector = run.detector(state)
    file = export_network(detector.net, name, ExportOptions(imgsz=IMGSZ, dynamic=name == "onnx"), tmp_path, state)
    exported = in_single_precision(file) if name == "openvino" else ExportedDetector(file)
    expected = answers(detector, run)
    for index in range(3):
        found = exported(run.batch["img"][index : index + 1])
        assert found.shape == expected[:1].shape
        assert (found[:, :4] - expected[index, :4]).abs().max() < 1e-4 * IMGSZ
        assert (found[:, 4:] - expected[index, 4:]).abs().max() < 1e-4


@states
def test_half_precision_weights(run: Run, state: str, tmp_path: Path) -> None:
    """A checkpoint of the weights alone, in half precision: half as large, nearly the same answers."""
    detector = run.detector(state)
    files = [
        export_network(detector.net, "ckpt", ExportOptions(imgsz=IMGSZ, half=half), tmp_path, f"half_{half}")
        for half in (False, True)
    ]
    full, half = (yolo_slim.load(file) for file in files)
    assert torch.equal(answers(full, run), answers(detector, run))
    assert np.abs((answers(half, run) - answers(detector, run)).numpy()[:, :4]).max() < 0.05 * IMGSZ
    sizes = [file.stat().st_size for file in files]
    assert sizes[1] < 0.7 * sizes[0]
