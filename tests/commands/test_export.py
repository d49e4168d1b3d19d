"""``train.py export`` as a user meets it: files and a table, or one line and nothing left behind."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import pytest
import torch

from tests.helpers.export_nets import NAMES, lively, shapes_images
from yolo_slim.commands.entry import main
from yolo_slim.detection.export.runtime import ExportedDetector
from yolo_slim.detection.files.checkpoints import save_weights
from yolo_slim.detection.files.weights import load_network, read_weights
from yolo_slim.detection.training.detector import YOLODetector
from yolo_slim.pruning import latencies_ms
from yolo_slim.workflow import exporting

TINY = ["--data.batch", "4"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, shapes_dir: Path) -> Path:
    """A working folder with a dense and a pruned checkpoint."""
    folder = tmp_path_factory.mktemp("work")
    images = shapes_images(shapes_dir)
    for name, ratio in (("dense", 0.0), ("slim", 0.6)):
        save_weights(lively(images, ratio).net, folder / f"{name}.ckpt", imgsz=64)
    return folder


@pytest.fixture
def work(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    monkeypatch.setattr(exporting, "latencies_ms", partial(latencies_ms, rounds=1))
    return place


def refused(capsys, arguments, status=1):
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(["export", *arguments])
    assert stop.value.code == status
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    return line


def test_files_and_a_table_with_before_and_after(work, shapes_dir, capsys):
    arguments = ["--model.weights", "slim.ckpt", "--before", "dense.ckpt", "--name", "both"]
    formats = ["--format", "torchscript", "--format", "ckpt"]
    main(["export", *arguments, *formats, "--data.data", str(shapes_dir / "data.yaml"), *TINY])
    run = work / "runs" / "both"
    assert {f.name for f in run.iterdir()} == {"slim.torchscript", "slim.ckpt", "results.md"}
    lines = (run / "results.md").read_text().splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| ")][2:]
    assert [line[:2] for line in cells] == [
        [name, model] for name in ("PyTorch", "torchscript", "ckpt") for model in ("before", "after")
    ]
    for before, after in zip(cells[::2], cells[1::2], strict=True):
        sizes = [float(line[2].split()[0]) for line in (before, after)]
        change = float(after[2].split("(")[1].removesuffix("%)"))
        assert change == pytest.approx(100 * (sizes[1] / sizes[0] - 1), abs=1)
        assert change < -60
        assert re.fullmatch(r"[\d.]+ ms \([+-][\d.]+%\)", after[3])
        assert after[4] == cells[1][4]  # the same mAP in all formats, to three digits
    size = (run / "slim.torchscript").stat().st_size / 1e6
    assert cells[3][2].startswith(f"{size:.2f} MB")
    printed = capsys.readouterr().out
    assert "Everything is in runs/both: results.md, slim.ckpt, slim.torchscript" in printed
    assert "Images of 64 pixels." in printed
    net, imgsz = read_weights(run / "slim.ckpt")
    assert (imgsz, net.names) == (64, NAMES)


def test_one_word_and_a_second_run(work):
    for _ in range(2):
        main(["export", "--model.weights", "slim.ckpt", "--format", "torchscript", "--imgsz", "32", "--name", "again"])
    assert (work / "runs" / "again-2" / "slim.torchscript").is_file()
    images = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        wanted = load_network("slim.ckpt").eval()(images)[0]
    torch.testing.assert_close(ExportedDetector("runs/again/slim.torchscript")(images), wanted, rtol=1e-3, atol=1e-3)


def test_configuration_file(work):
    Path("mine.yaml").write_text("format: [ultralytics, ckpt]\nhalf: true\nname: mine\nmodel: {weights: slim.ckpt}\n")
    main(["export", "-c", "mine.yaml"])
    assert {f.name for f in (work / "runs" / "mine").iterdir()} == {"slim.pt", "slim.ckpt", "results.md"}
    assert "| ckpt half | slim |" in (work / "runs" / "mine" / "results.md").read_text()


def test_a_file_that_cannot_be_run_here_has_a_size_alone(work, capsys, monkeypatch):
    class Elsewhere(ExportedDetector):
        def __init__(self, path, device):
            if Path(path).suffix == ".torchscript":
                raise RuntimeError("no such chip\nsecond line")
            super().__init__(path, device)

    monkeypatch.setattr(exporting, "ExportedDetector", Elsewhere)
    main(["export", "--model.weights", "slim.ckpt", "--format", "torchscript", "--name", "elsewhere"])
    assert "slim.torchscript cannot be run here, so it is not timed: no such chip\n" in capsys.readouterr().out
    row = (work / "runs" / "elsewhere" / "results.md").read_text().splitlines()[3]
    assert re.fullmatch(
        r"\| torchscript \| slim \| [\d.]+ MB \([+-][\d.]+%\) \| - \| - \| - \| slim.torchscript \|", row
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--format", "onx"], "unknown format 'onx'; expected one of ultralytics, ckpt"),
        (["--format", "torchscript", "--opset", "17"], "format torchscript does not take opset"),
        (["--format", "torchscript", "--imgsz", "100"], "imgsz=100: expected a positive multiple of 32"),
        (["--format", "torchscript", "--half", "true"], "cannot be exported here: FP16 TorchScript export is only"),
        (["--format", "torchscript", "--model.weights", "no.ckpt"], "weights file no.ckpt does not exist"),
        (["--format", "torchscript", "--before", "no.ckpt"], "weights file no.ckpt does not exist"),
        (["--format", "ckpt,torchscript", "--half", "true"], "FP16 TorchScript export is only"),
        (["--format", "torchscript", "--project", "slim.ckpt"], "cannot make the run folder"),
        (["--format", "torchscript", "--data.data", "no.yaml"], "'no.yaml' was not found"),
        (["--format", "imx"], "format imx needs training images for calibration"),
        (["--format", "engine"], "format engine (TensorRT) is built on the NVIDIA GPU that will run it"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(work, capsys, arguments, expected):
    before = sorted(work.rglob("*"))
    weights = [] if "--model.weights" in arguments else ["--model.weights", "slim.ckpt"]
    assert expected in refused(capsys, [*weights, *arguments])
    assert sorted(work.rglob("*")) == before


def test_data_of_other_classes(work, capsys, shapes_dir, tmp_path):
    detector = YOLODetector(names={0: "car"}, imgsz=64)
    save_weights(detector.net, tmp_path / "car.ckpt", imgsz=64)
    data = ["--data.data", str(shapes_dir / "data.yaml")]
    line = refused(capsys, ["--model.weights", str(tmp_path / "car.ckpt"), "--format", "ckpt", *data])
    assert "car.ckpt does not know circle, triangle, rectangle, star, ... (5 in all)" in line


@pytest.mark.parametrize("arguments", [["--format", "ckpt", "--opsett", "3"], ["--form", "ckpt"], []])
def test_unknown_and_missing_keys(work, capsys, arguments):
    line = refused(capsys, ["--model.weights", "slim.ckpt", *arguments], status=2)
    assert "export --help" in line


def test_help_explains_every_key(capsys):
    main(["export", "--help", "all"])
    printed = " ".join(capsys.readouterr().out.split())
    for words in (
        "--format",
        "--before",
        "--int8",
        "a quarter of the size",
        "--opset",
        "Version of the ONNX operators",
    ):
        assert words in printed


@pytest.mark.slow
def test_a_finetuned_checkpoint_exports_what_it_finds(tmp_path, monkeypatch, shapes_dir):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install .[export]")
    monkeypatch.chdir(tmp_path)
    data = ["--data.data", str(shapes_dir / "data.yaml"), "--data.batch", "4"]
    fit = ["--data.imgsz", "64", "--data.workers", "0", "--trainer.max_epochs", "2", "--model.hyp.nbs", "4"]
    main(["fit", *data, *fit, "--trainer.accelerator", "cpu", "--name", "baseline"])
    main(["prune", "--model.weights", "runs/baseline/best.ckpt", "--selection.ratio", "0.5", "--imgsz", "64"])
    weights = ["--model.weights", "runs/prune/slim.ckpt"]
    main(["fit", *data, *fit, *weights, "--trainer.accelerator", "cpu", "--name", "finetune"])
    before = ["--before", "runs/baseline/best.ckpt"]
    formats = ["--format", "onnx", "torchscript"]
    main(["export", "--model.weights", "runs/finetune/best.ckpt", *before, *formats, *data])
    main(["export", "--model.weights", "runs/finetune/best.ckpt", "--format", "onnx", "--int8", "true", *data])
    images = shapes_images(shapes_dir)
    with torch.no_grad():
        wanted = load_network("runs/finetune/best.ckpt").eval()(images)[0]
    for file in ("best.onnx", "best.torchscript"):
        found = ExportedDetector(f"runs/export/{file}")(images)
        torch.testing.assert_close(found[:, :4] / 64, wanted[:, :4] / 64, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found[:, 4:], wanted[:, 4:], rtol=0, atol=1e-4)
    assert (tmp_path / "runs" / "export-2" / "best_int8.onnx").is_file()
