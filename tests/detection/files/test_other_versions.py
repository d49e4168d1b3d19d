"""Files that other versions of Ultralytics and pruning tools wrote: opened, they compute what they computed there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.helpers.stock.old_files import FOLDER, example, names, write_old_file
from yolo_slim.detection.files.checkpoints import save_weights
from yolo_slim.detection.files.weights import load_network, read_weights
from yolo_slim.detection.network.build import head_of
from yolo_slim.detection.training.detector import YOLODetector
from yolo_slim.detection.trust import trusted

BLOOD = {0: "RBC", 1: "WBC", 2: "Platelets"}
NUMBERED = {index: str(index) for index in range(5)}
REFUSED = {"tool_masks_left": "wants torch.nn.utils.prune.L1Unstructured"}
#: With two pairs of branches: what Ultralytics makes of it depends on what it is asked for.
END_TO_END = "8.4.190_yolov10n"
#: Files that do not say the image size as plain data.
WITHOUT_SIZE = {"8.0.0_bare_half", "8.0.0_unstripped_numpy1", "tool_family_n_cuda"}
#: Widths of the two parts of every C2f's first convolution.
PARTS = {
    "tool_c2f_v2_equal": [(9, 9), (19, 19), (38, 38), (76, 76), (38, 38), (19, 19), (38, 38), (76, 76)],
    "tool_c2f_v2_unequal": [(9, 11), (20, 25), (36, 50), (74, 89), (40, 42), (16, 20), (38, 39), (72, 75)],
    "tool_family_n_cuda": [(16, 16), (32, 32), (64, 64), (128, 128), (42, 42), (17, 19), (43, 45), (70, 68)],
}


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    """What the writing versions made of the example: (1, 4 + classes, anchors) by the file's name."""
    with np.load(FOLDER / "expected.npz") as file:
        return dict(file)


def outputs(net: nn.Module) -> np.ndarray:
    with torch.no_grad():
        return net.eval()(example())[0].numpy()


def expect_alike(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == expected.shape
    np.testing.assert_allclose(found[:, :4], expected[:, :4], rtol=1e-5, atol=2e-3)  # pixels
    np.testing.assert_allclose(found[:, 4:], expected[:, 4:], rtol=0, atol=1e-5)  # scores


def variants(name: str) -> dict[str, str]:
    """In what a file differs from what Ultralytics builds today."""
    if name == "8.3.0_yolov8n":
        return {"model.22": "depthwise"}
    no_activation = {"8.4.0_trained", "8.4.0_saved", "8.4.100_trained"}
    return {"model.9.cv1.act": "Identity"} if name in no_activation else {}


#: One file of each kind: settings of the first version, a loss inside, the averaged network alone, a fused one, a head
#: and an SPPF of their own, a saved one, other architectures, and other tools.
SOME = {
    *("8.0.0_trained", "8.0.59_unstripped", "8.0.134_unstripped", "8.1.47_unstripped", "8.0.100_fused_half"),
    *("8.3.0_yolov8n", "8.4.0_trained", "8.4.0_saved", "8.4.190_yolo11n", "8.4.190_yolov5nu"),
    *("tool_c2f_v2_unequal", "tool_c2f_infer", "tool_family_n_cuda", "tool_fork_cv0"),
}


def opened() -> list[Any]:
    """All files that can be opened; most of those that are like another one take their turn among the slow tests."""
    assert set(names()) >= SOME
    known = [name for name in names() if name not in {*REFUSED, END_TO_END}]
    return [name if name in SOME else pytest.param(name, marks=pytest.mark.slow) for name in known]


@pytest.mark.parametrize("name", opened())
def test_computes_what_it_did_and_survives_a_checkpoint(name, tmp_path, expected):
    net, imgsz = read_weights(write_old_file(name, tmp_path))
    found = outputs(net)
    expect_alike(found, expected[name])
    of_the_zoo = "_yolo" in name  # never trained, so its classes have no names
    assert net.names == (NUMBERED if of_the_zoo else BLOOD)
    assert imgsz == (640 if of_the_zoo or name in WITHOUT_SIZE else 96 if "unstripped" in name else 64)
    assert net.variants == variants(name) or "relu" in name
    assert head_of(net).nc == len(net.names)
    assert {parameter.dtype for parameter in net.parameters()} == {torch.float32}

    save_weights(net, tmp_path / "x.ckpt", imgsz)
    detector = YOLODetector(weights=str(tmp_path / "x.ckpt"))
    assert (outputs(detector.net) == found).all()
    assert detector.hparams["variants"] == net.variants


def test_an_end_to_end_head_answers_without_suppression(tmp_path):
    path = write_old_file(END_TO_END, tmp_path)
    stock = torch.load(path, weights_only=False)["model"].float()
    stock.end2end = True  # as `yolo predict nms=False` sets it
    found = outputs(load_network(path))
    assert found.shape == (1, 42, 6)
    assert (found == outputs(stock)).all()


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_rebuilt_is_refused_in_one_line(name, tmp_path):
    with pytest.raises(ValueError, match=REFUSED[name]) as error:
        load_network(write_old_file(name, tmp_path))
    assert "\n" not in str(error.value)


def test_activation_of_another_network_of_the_same_process(tmp_path):
    net = load_network(write_old_file("8.3.0_yolo11n_relu", tmp_path))
    assert set(net.variants.values()) == {"ReLU"}
    assert {type(module.act) for module in net.modules() if hasattr(module, "act")} == {nn.ReLU, nn.Identity}


@pytest.mark.parametrize("name", ["8.0.100_fused_half", "tool_family_deep"])
def test_detector_from_a_file(name, tmp_path, expected):
    detector = YOLODetector(weights=str(write_old_file(name, tmp_path)))
    expect_alike(outputs(detector.net), expected[name])
    assert detector.hparams["names"] == BLOOD
    assert detector.hparams["imgsz"] == 64


@pytest.mark.parametrize("name", PARTS)
def test_halves_are_as_wide_as_the_wider_part(name, tmp_path):
    net = load_network(write_old_file(name, tmp_path))
    blocks = [layer for layer in net.model if type(layer).__name__ == "C2f"]
    assert [block.c for block in blocks] == [max(parts) for parts in PARTS[name]]
    assert [block.cv1.conv.out_channels for block in blocks] == [2 * max(parts) for parts in PARTS[name]]
    added = [abs(left - right) for left, right in PARTS[name]]
    assert [int((block.cv1.bn.weight == 0).sum()) for block in blocks] == added


def test_trust_gives_the_same(tmp_path):
    path = write_old_file("8.4.0_trained", tmp_path)
    found = outputs(load_network(path))
    with trusted():
        assert (outputs(load_network(path)) == found).all()
