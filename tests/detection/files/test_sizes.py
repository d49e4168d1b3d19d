"""Files that claim other sizes than their data has: refused before memory is taken for them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.hostile.gadgets import EVIL_YAML, MKDIR
from tests.helpers.hostile.pickles import write_tiny
from yolo_slim.detection.files.weights import read_weights


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    yield
    assert not list((tmp_path / "cwd").iterdir())


def refused(file: Path) -> str:
    with pytest.raises(ValueError, match=file.name) as error:
        read_weights(file)
    assert str(error.value).isprintable()
    return str(error.value)


def sizes_refused(tiny: Path, file: Path, change: Any) -> None:
    checkpoint = torch.load(tiny, weights_only=False)
    change(checkpoint)
    torch.save(checkpoint, file)
    refused(file)


def wide(tensor: torch.Tensor, size: int) -> torch.Tensor:
    return tensor.reshape(-1)[:1].expand(size, *tensor.shape[1:])


def quantized(tensor: torch.Tensor) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated
        return torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)


CONV, NORM = "model.1.conv", "model.1.bn"
CKPT_CHANGES = {
    "wide structure": lambda h, w: h["structure"][CONV].update(out_channels=10**10),
    "wide inputs": lambda h, w: h["structure"][CONV].update(in_channels=10**9),
    "wide inputs of the head": lambda h, w: h["structure"]["model.8.cv2.0.0.conv"].update(in_channels=10**8),
    "wide norm": lambda h, w: h["structure"][NORM].update(num_features=10**9),
    "wide norm without weight": lambda h, w: (
        h["structure"][NORM].update(num_features=10**9),
        w.pop(f"net.{NORM}.weight"),
    ),
    "structure of strings": lambda h, w: h["structure"][CONV].update(out_channels="8"),
    "structure of lists": lambda h, w: h["structure"].update({CONV: [1, 2]}),
    "structure of nothing": lambda h, w: h["structure"].update({CONV: None}),
    "expanded": lambda h, w: w.update({f"net.{CONV}.weight": torch.zeros(1).expand(8, 8, 3, 3)}),
    "expanded without end": lambda h, w: (
        h["structure"][NORM].update(num_features=10**9),
        w.update({f"net.{NORM}.{k}": torch.zeros(1).expand(10**9) for k in ("weight", "bias")}),
    ),
    "empty": lambda h, w: w.update({f"net.{NORM}.weight": torch.zeros(8, 0)}),
    "integers": lambda h, w: w.update({f"net.{CONV}.weight": w[f"net.{CONV}.weight"].int()}),
    "complex": lambda h, w: w.update({f"net.{CONV}.weight": w[f"net.{CONV}.weight"].to(torch.complex64)}),
    "NaN": lambda h, w: w[f"net.{CONV}.weight"].fill_(float("nan")),
    "infinite": lambda h, w: w[f"net.{NORM}.bias"].fill_(float("inf")),
    "sparse": lambda h, w: w.update({f"net.{CONV}.weight": w[f"net.{CONV}.weight"].to_sparse()}),
    "meta": lambda h, w: w.update({f"net.{CONV}.weight": w[f"net.{CONV}.weight"].to("meta")}),
    "quantized": lambda h, w: w.update({f"net.{CONV}.weight": quantized(w[f"net.{CONV}.weight"])}),
    "no tensor": lambda h, w: w.update({f"net.{CONV}.weight": [1.0]}),
    "many names": lambda h, w: h.update(names=dict.fromkeys(range(200000), "x")),
    "names from 1": lambda h, w: h.update(names={1: "a", 2: "b"}),
    "names by name": lambda h, w: h.update(names={"a": 0, "b": 1}),
    "unknown variant": lambda h, w: h.update(variants={"model.0.act": "Conv2d"}),
    "variants of numbers": lambda h, w: h.update(variants={1: {}}),
    "evil activation": lambda h, w: h["model"].update(activation=MKDIR),
    "evil layer": lambda h, w: h["model"]["backbone"][0].__setitem__(2, "torch_safe_load"),
    "evil network": lambda h, w: h["model"]["backbone"].__setitem__(0, [-1, 1, "DetectionModel", [EVIL_YAML]]),
}


@pytest.mark.parametrize("what", CKPT_CHANGES)
def test_checkpoints_that_claim_other_sizes(tiny, tmp_path, what):
    change = CKPT_CHANGES[what]
    sizes_refused(tiny["ckpt"], tmp_path / "x.ckpt", lambda c: change(c["hyper_parameters"], c["state_dict"]))


def test_sizes_that_fit_each_other_and_not_the_weights(tiny, tmp_path):
    """The weights are looked at before memory is taken for layers of these sizes."""
    checkpoint = torch.load(tiny["ckpt"], weights_only=True)
    structure, branch = checkpoint["hyper_parameters"]["structure"], "model.8.cv2.0"
    structure[f"{branch}.0.conv"]["out_channels"] = structure[f"{branch}.1.conv"]["in_channels"] = 10**6
    structure[f"{branch}.0.bn"]["num_features"] = 10**6
    torch.save(checkpoint, tmp_path / "x.ckpt")
    assert "described is (1000000," in refused(tmp_path / "x.ckpt")


def of_layer(**changes: Any) -> Any:
    """Changes layer 1's tensors: ``conv_weight=function``."""

    def change(content: Any) -> None:
        for key, function in changes.items():
            part, _, name = key.partition("_")
            module = getattr(content["model"].model[1], part)
            old = getattr(module, name).detach()
            (module._parameters if name in module._parameters else module._buffers)[name] = function(old)

    return change


PT_CHANGES = {
    "wide": of_layer(conv_weight=lambda w: wide(w, 10**6)),
    "wide norm": of_layer(bn_weight=lambda w: w[:1].expand(10**9)),
    "empty norm": of_layer(bn_weight=lambda w: w.new_zeros(10**9, 0)),
    "flat": of_layer(conv_weight=lambda w: w.flatten()),
    "integers": of_layer(conv_weight=lambda w: w.int()),
    "complex": of_layer(conv_weight=lambda w: w.to(torch.complex64)),
    "meta": of_layer(conv_weight=lambda w: w.to("meta")),
    "NaN": of_layer(conv_weight=lambda w: w * float("nan")),
    "groups": lambda c: setattr(c["model"].model[1].conv, "groups", 10**10),
    "groups of a string": lambda c: setattr(c["model"].model[1].conv, "groups", "x"),
    "half the groups": lambda c: setattr(c["model"].model[1].conv, "groups", 0.5),
    "many classes": lambda c: (setattr(c["model"], "names", None), c["model"].yaml.update(nc=10**12)),
    "classes of a string": lambda c: c["model"].yaml.update(nc="__import__('os')"),
    "evil activation": lambda c: c["model"].yaml.update(activation=MKDIR),
    "evil network": lambda c: c["model"].yaml["backbone"].__setitem__(0, [-1, 1, "DetectionModel", [EVIL_YAML]]),
    "line breaks": lambda c: c["model"].model._modules.update({"a\nb\x1b[2J": torch.nn.SiLU()}),
    "settings without end": lambda c: setattr(c["model"].model[1].conv, "stride", ["x" * 1000] * 1000),
}


@pytest.mark.parametrize("what", PT_CHANGES)
def test_models_that_claim_other_sizes(tiny, tmp_path, what):
    sizes_refused(tiny["pt"], tmp_path / "x.pt", PT_CHANGES[what])


def test_double_precision_is_read_as_single(tiny, tmp_path):
    content = torch.load(tiny["pt"], weights_only=False)
    content["model"].double()
    torch.save(content, tmp_path / "x.pt")
    net, _ = read_weights(tmp_path / "x.pt")
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    assert torch.equal(net.model[1].conv.weight, read_weights(tiny["pt"])[0].model[1].conv.weight)
