"""Exported files find what the network finds, dense and pruned, and what cannot work is refused in one line."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from ultralytics.utils.nms import non_max_suppression

from tests.helpers.export_nets import NAMES, in_single_precision, lively, shapes_data, shapes_images
from tests.helpers.signal_stack import signal_stack
from yolo_slim.detection.export.export import export_network
from yolo_slim.detection.export.formats import ExportOptions, check_formats, split_formats
from yolo_slim.detection.export.runtime import ExportedDetector

onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install .[export]")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install .[export]")
pytest.importorskip("onnxslim", reason="onnxslim is not installed: pip install .[export]")

needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="openvino is not installed: pip install .[openvino]"
)
OPENVINO = pytest.param("openvino", marks=needs_openvino)
OPTIONS = ExportOptions(imgsz=64)
FORMATS = ["onnx", "torchscript", OPENVINO]


@pytest.fixture(scope="module")
def images(shapes_dir: Path) -> Tensor:
    return shapes_images(shapes_dir)


@pytest.fixture(scope="module", params=[pytest.param(0.0, marks=pytest.mark.slow), 0.6], ids=["dense", "pruned"])
def net(request: pytest.FixtureRequest, images: Tensor):
    return lively(images, request.param).net


@pytest.fixture(scope="module")
def export(net, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Exports the network into a folder of its own, once for the same options."""
    files: dict[object, Path] = {}

    def run(name: str, data=None, **options) -> Path:
        key = (name, *options.items())
        if key not in files:
            folder = tmp_path_factory.mktemp(name)
            files[key] = export_network(net, name, replace(OPTIONS, **options), folder, "best", data)
            assert list(folder.iterdir()) == [files[key]]
        return files[key]

    return run


@torch.no_grad()
def expected(net, images: Tensor) -> Tensor:
    return net(images)[0]


def expect_same(found: Tensor, wanted: Tensor, tolerance: float = 1e-4) -> None:
    """Boxes relative to themselves or to the side of the image, whichever is larger; scores as they are."""
    assert found.shape == wanted.shape
    assert wanted[:, 4:].std() > 0.1  # it does find different things ...
    assert len(wanted) == 1 or wanted[:, :4].std(0).mean() > 0.05  # ... in different images
    torch.testing.assert_close(found[:, :4] / 64, wanted[:, :4] / 64, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(found[:, 4:], wanted[:, 4:], rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", FORMATS)
def test_same_boxes_and_scores_as_the_network(net, export, images, name):
    file = export(name)
    assert file.name == {"onnx": "best.onnx", "torchscript": "best.torchscript"}.get(name, "best_openvino_model")
    stack = signal_stack()
    detector = ExportedDetector(file)
    assert detector.names == NAMES
    assert signal_stack() == stack  # of a runtime that is gone, the next signal would end the process
    if name == "openvino":
        expect_same(in_single_precision(file)(images), expected(net, images))
    expect_same(detector(images), expected(net, images), 0.05 if name == "openvino" else 1e-4)


@pytest.mark.parametrize("name", FORMATS)
def test_dynamic_files_take_any_number_and_size(net, export, images, name):
    file = export(name, dynamic=True)
    run = in_single_precision(file) if name == "openvino" else ExportedDetector(file)
    for batch in (1, 3, 5):
        expect_same(run(images[:batch]), expected(net, images[:batch]))
    wide = torch.nn.functional.interpolate(images[:2], size=(96, 160), mode="bilinear")
    expect_same(run(wide), expected(net, wide))


def test_a_batch_larger_than_the_file_takes_is_split(net, export, images):
    detector = ExportedDetector(export("onnx", batch=4))
    for batch in (1, 4, 6):
        expect_same(detector(images[:batch]), expected(net, images[:batch]))


@pytest.mark.parametrize("name", ["onnx", "torchscript"])
def test_suppression_in_the_file_finds_the_same_boxes(net, export, images, name):
    found = ExportedDetector(export(name, nms=True, conf=0.6, iou=0.5, max_det=40))(images)
    wanted = non_max_suppression(expected(net, images), 0.6, 0.5, max_det=40)
    assert found.shape == (6, 40, 6)
    assert sum(map(len, wanted)) > 6
    for mine, theirs in zip(found, wanted, strict=True):
        kept = mine[mine[:, 4] > 0]
        assert len(kept) == len(theirs)
        order, other = (boxes[:, 4].argsort(descending=True) for boxes in (kept, theirs))
        torch.testing.assert_close(kept[order], theirs[other], rtol=1e-4, atol=1e-3)


def test_metadata_says_what_ultralytics_needs_to_know(export):
    entries = {entry.key: entry.value for entry in onnx.load(export("onnx")).metadata_props}
    assert ast.literal_eval(entries["names"]) == NAMES
    assert (entries["stride"], entries["task"], entries["imgsz"]) == ("32", "detect", "[64, 64]")


def test_int8_is_a_third_in_size_and_finds_nearly_the_same(net, export, images, shapes_dir):
    plain, small = export("onnx"), export("onnx", shapes_data(shapes_dir), int8=True)
    assert small.name == "best_int8.onnx"
    assert (
        small.stat().st_size < (0.3 if sum(p.numel() for p in net.parameters()) > 2e6 else 0.5) * plain.stat().st_size
    )
    graph = onnx.load(small)
    entries = {entry.key: entry.value for entry in graph.metadata_props}
    assert ast.literal_eval(entries["args"])["quantize"] == 8
    assert ast.literal_eval(entries["names"]) == NAMES
    inputs = {name for node in graph.graph.node if node.op_type == "Conv" for name in node.input[:1]}
    made = {output: node.op_type for node in graph.graph.node for output in node.output}
    assert {made[name] for name in inputs} == {"DequantizeLinear"}
    assert "Softmax" not in made.values()  # ONNX Runtime is slow at that of the decode
    found, wanted = ExportedDetector(small)(images), expected(net, images)
    assert torch.corrcoef(torch.stack((found[:, 4:].flatten(), wanted[:, 4:].flatten())))[0, 1] > 0.9
    assert (found[:, :4] - wanted[:, :4]).abs().mean() < 1.0  # of 64 pixels


def test_half_is_half_the_size(net, export, images):
    plain, half = export("onnx"), export("onnx", half=True)
    assert half.stat().st_size < 0.6 * plain.stat().st_size
    expect_same(ExportedDetector(half)(images), expected(net, images), 0.02)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("name", ["ultralytics", "ckpt"])
def test_files_for_ultralytics_and_for_yolo_slim(net, export, images, name, half):
    file = export(name, half=half)
    assert file.name == ("best.pt" if name == "ultralytics" else "best.ckpt")
    detector = ExportedDetector(file)
    assert detector.names == NAMES
    expect_same(detector(images), expected(net, images), 0.02 if half else 1e-4)


def test_the_network_stays_as_it_is(images, tmp_path):
    net = lively(images).net.train()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    export_network(net, "torchscript", OPTIONS, tmp_path, "best")
    assert net.training
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert not any("forward" in vars(module) or getattr(module, "export", False) for module in net.modules())


def test_nothing_is_written_over(images, tmp_path):
    (tmp_path / "best.torchscript").write_text("mine")
    with pytest.raises(FileExistsError, match=r"best\.torchscript exists already"):
        export_network(lively(images).net, "torchscript", OPTIONS, tmp_path, "best")
    assert [(f.name, f.read_text()) for f in tmp_path.iterdir()] == [("best.torchscript", "mine")]


def test_a_failure_leaves_nothing(images, tmp_path):
    with pytest.raises(ValueError, match="format onnx cannot be exported here: ONNX export requires opset>=9"):
        export_network(lively(images).net, "onnx", replace(OPTIONS, opset=5), tmp_path, "best")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_installed(images, tmp_path, monkeypatch):
    """A package that is missing stays missing, whatever Ultralytics' own switch was when it was imported."""
    from ultralytics.utils import checks

    installed: list[object] = []
    monkeypatch.delenv("YOLO_AUTOINSTALL", raising=False)
    monkeypatch.setattr(checks, "AUTOINSTALL", True)
    monkeypatch.setattr(checks, "ONLINE", True)
    monkeypatch.setattr(checks.subprocess, "check_output", lambda *command, **keys: installed.append(command) or "")
    if importlib.util.find_spec("MNN"):
        pytest.skip("MNN is installed")
    with pytest.raises(ValueError, match="format mnn needs the Python module MNN, not installed here"):
        export_network(lively(images).net, "mnn", OPTIONS, tmp_path, "best")
    assert installed == []
    assert checks.AUTOINSTALL is True


def test_formats_as_they_are_typed():
    assert split_formats(["onnx,torchscript", "[openvino,", "onnx]"]) == ["onnx", "torchscript", "openvino"]
    with pytest.raises(ValueError, match="unknown format 'onx'; expected one of ultralytics, ckpt, torchscript, onnx"):
        split_formats(["onnx", "onx"])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("torchscript", {"opset": 17}, "format torchscript does not take opset; it takes batch, dynamic, half, nms"),
        ("torchscript", {"int8": True}, "format torchscript does not take int8"),
        ("ncnn", {"dynamic": True}, "format ncnn does not take dynamic"),
        ("ultralytics", {"nms": True}, "format ultralytics does not take nms; it takes half"),
        ("paddle", {"half": True}, "format paddle does not take half"),
        ("onnx", {"int8": True}, "int8 needs training images for calibration: give --data.data"),
        ("imx", {}, "format imx needs training images for calibration: give --data.data"),
        ("engine", {}, r"format engine \(TensorRT\) is built on the NVIDIA GPU"),
    ],
)
def test_what_a_format_does_not_take_is_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        check_formats([name], ExportOptions(**options), has_data=False)


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in ("onnx", "onnxslim") else name)
    with pytest.raises(ValueError, match="format onnx needs the packages onnx and onnxslim, not installed here: pip"):
        check_formats(["onnx"], ExportOptions(), has_data=False)
    check_formats(["torchscript"], ExportOptions(), has_data=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"imgsz": 100}, "imgsz=100: expected a positive multiple of 32"),
        ({"batch": 0}, "batch=0: expected at least 1"),
        ({"nms": True, "conf": 1.5}, "conf=1.5: expected a value from 0 to 1"),
        ({"iou": 0.5}, "iou belongs to the suppression inside the file: give it together with --nms true"),
        ({"half": True, "int8": True}, "half and int8 are two precisions"),
    ],
)
def test_options_that_mean_nothing(options, message):
    with pytest.raises(ValueError, match=message):
        ExportOptions(**options)


@needs_openvino
def test_openvino_sends_nothing(tmp_path):
    """In a fresh process, because OpenVINO looks for its telemetry when it is imported."""
    import subprocess
    import sys

    script = (
        "import sys\nfrom pathlib import Path\nfrom yolo_slim.detection.network.build import build_network\n"
        "from yolo_slim.detection.export.export import export_network\n"
        "from yolo_slim.detection.export.formats import ExportOptions\n"
        "net = build_network('yolov8n', 2)\n"
        f"export_network(net, 'openvino', ExportOptions(imgsz=32), Path({str(tmp_path)!r}), 'best')\n"
        "from openvino.tools.ovc import telemetry_utils\n"
        "print(telemetry_utils.tm.__name__, 'openvino_telemetry' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["openvino.tools.ovc.telemetry_stub", "False"], done.stderr


def test_fused_is_for_stock_files(net, export):
    plain, fused = export("ultralytics"), export("ultralytics", fused=True)
    assert fused.stat().st_size < plain.stat().st_size
    with pytest.raises(ValueError, match="format onnx does not take fused"):
        check_formats(["onnx"], replace(OPTIONS, fused=True), has_data=False)
