"""Files that are not what they should be: each is refused by name, in one line, and nothing in it is run."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch
from ultralytics.nn.tasks import SegmentationModel

from yolo_slim.callbacks.slim_checkpoint import module_checkpoint
from yolo_slim.detection.files.checkpoints import check_resumable
from yolo_slim.detection.files.stock import save_ultralytics
from yolo_slim.detection.files.weights import load_network
from yolo_slim.detection.training.detector import YOLODetector


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a sound good.ckpt and good.pt."""
    folder = tmp_path_factory.mktemp("good")
    detector = YOLODetector(names={0: "car", 1: "bus"}, imgsz=64)
    torch.save(module_checkpoint(detector), folder / "good.ckpt")
    save_ultralytics(detector.net, folder / "good.pt", imgsz=64)
    return folder


class Gadget:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def refused(file: Path) -> str:
    with pytest.raises((ValueError, FileNotFoundError), match=file.name) as error:
        load_network(file)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("kind", ["ckpt", "pt"])
def test_sound_files_are_read(good, kind):
    assert load_network(good / f"good.{kind}").names == {0: "car", 1: "bus"}


@pytest.mark.parametrize("kind", ["ckpt", "pt"])
def test_missing_folder_and_empty(tmp_path, kind):
    file = tmp_path / f"x.{kind}"
    assert "does not exist" in refused(file)
    file.write_bytes(b"")
    assert "is empty" in refused(file)
    file.unlink()
    file.mkdir()
    assert "is a folder" in refused(file)


@pytest.mark.parametrize("kind", ["ckpt", "pt"])
@pytest.mark.parametrize("how", ["half", "cut", "flipped", "text", "html"])
def test_damaged(good, tmp_path, kind, how):
    raw = (good / f"good.{kind}").read_bytes()
    middle = len(raw) // 2
    content = {
        "half": raw[:middle],
        "cut": raw[:-20],
        "flipped": raw[:middle] + bytes([raw[middle] ^ 1]) + raw[middle + 1 :],
        "text": b"hello world\n",
        "html": b"<!DOCTYPE html><title>404</title>",
    }
    file = tmp_path / f"x.{kind}"
    file.write_bytes(content[how])
    assert "is damaged, cut off or no checkpoint" in refused(file)


@pytest.mark.parametrize("kind", ["ckpt", "pt"])
@pytest.mark.parametrize("how", ["bare", "model", "stream"])
def test_nothing_in_a_file_is_run(tmp_path, kind, how):
    file, mark = tmp_path / f"x.{kind}", tmp_path / "ran"
    gadget = Gadget(mark)
    if how == "stream":
        file.write_bytes(pickle.dumps(gadget))
    else:
        torch.save(gadget if how == "bare" else {"model": gadget}, file)
    refused(file)
    assert not mark.exists()


@pytest.mark.parametrize("kind", ["ckpt", "pt"])
@pytest.mark.parametrize("content", [{}, [1], torch.zeros(2), {"a.weight": torch.zeros(2)}, {"model": None}])
def test_other_content(tmp_path, kind, content):
    torch.save(content, tmp_path / f"x.{kind}")
    assert "expected" in refused(tmp_path / f"x.{kind}")


def test_model_for_another_task(tmp_path):
    torch.save({"model": SegmentationModel("yolov8n-seg.yaml", verbose=False)}, tmp_path / "x.pt")
    assert "a model of the class SegmentationModel" in refused(tmp_path / "x.pt")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda c: c.update(hyper_parameters={"lr": 0.1}), "of another project"),
        (lambda c: c.update(hyper_parameters=4), "is not a Lightning checkpoint"),
        (lambda c: c["hyper_parameters"].pop("names"), "of another project"),
        (lambda c: c["hyper_parameters"].update(structure="x"), "of another project"),
        (lambda c: c["hyper_parameters"].update(structure={"nothing": {"c": 1}}), "no module 'nothing'"),
        (lambda c: c["hyper_parameters"].update(model={"nc": 2}), "not a model YAML"),
        (lambda c: c["state_dict"].pop("net.model.0.conv.weight"), "do not fit the network"),
        (lambda c: c["state_dict"].pop("net.model.0.bn.bias"), "Missing key"),
        (lambda c: c["state_dict"]["net.model.0.conv.weight"].fill_(float("nan")), "not finite"),
    ],
)
def test_checkpoint_with_something_wrong(good, tmp_path, change, expected):
    checkpoint = torch.load(good / "good.ckpt", weights_only=True)
    change(checkpoint)
    torch.save(checkpoint, tmp_path / "x.ckpt")
    assert expected in refused(tmp_path / "x.ckpt")


def test_weights_alone_cannot_be_resumed(good):
    with pytest.raises(ValueError, match="good.ckpt holds weights but no state of a training"):
        check_resumable(good / "good.ckpt")


def test_load_from_checkpoint_refuses_another_project(good, tmp_path):
    checkpoint = torch.load(good / "good.ckpt", weights_only=True)
    del checkpoint["hyper_parameters"]["names"]
    torch.save(checkpoint, tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match="of another project"):
        YOLODetector.load_from_checkpoint(tmp_path / "x.ckpt")


def test_load_from_checkpoint_opens_what_the_others_do(good, tmp_path):
    expected = YOLODetector(weights=str(good / "good.ckpt"))
    for file in ("good.ckpt", "good.pt"):
        found = YOLODetector.load_from_checkpoint(good / file)
        assert found.hparams["names"] == expected.hparams["names"]
        assert found.hparams["imgsz"] == 64


def test_load_from_checkpoint_reads_no_other_file(good, tmp_path):
    checkpoint = torch.load(good / "good.ckpt", weights_only=True)
    checkpoint["hyper_parameters"]["weights"] = "elsewhere.pt"
    torch.save(checkpoint, tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match="of another project, whose hyper_parameters have 'weights'"):
        YOLODetector.load_from_checkpoint(tmp_path / "x.ckpt")


def test_format(good, tmp_path):
    checkpoint = torch.load(good / "good.ckpt", weights_only=True)
    assert checkpoint["yolo_slim"]["format"] == 1
    del checkpoint["yolo_slim"]  # as early versions wrote it
    torch.save(checkpoint, tmp_path / "early.ckpt")
    assert load_network(tmp_path / "early.ckpt").names == {0: "car", 1: "bus"}
    for later in (2, "x", None):
        torch.save({**checkpoint, "yolo_slim": {"format": later}}, tmp_path / "x.ckpt")
        assert "this yolo_slim" in refused(tmp_path / "x.ckpt")


def test_negative_variance(good, tmp_path):
    checkpoint = torch.load(good / "good.ckpt", weights_only=True)
    checkpoint["state_dict"]["net.model.0.bn.running_var"][3] = -1
    torch.save(checkpoint, tmp_path / "x.ckpt")
    assert "running_var" in refused(tmp_path / "x.ckpt")


@pytest.mark.parametrize("imgsz", [2**200, 0, -32, 33, "64", True, [64], 100_000])
def test_an_image_size_that_cannot_be_is_damage(good, tmp_path, imgsz):
    content = torch.load(good / "good.ckpt", weights_only=True)
    content["hyper_parameters"]["imgsz"] = imgsz
    torch.save(content, tmp_path / "bad.ckpt")
    with pytest.raises(ValueError, match="bad.ckpt is damaged: its image size is .* expected a multiple of 32"):
        load_network(tmp_path / "bad.ckpt")
