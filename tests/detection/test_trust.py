"""``--trust`` and ``load(trust=True)``: what opens with it, what does not without, and who may say it."""

from __future__ import annotations

import decimal
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import yolo_slim
from tests.helpers.hostile.pickles import write_tiny
from tests.helpers.hostile.refused import refused
from tests.helpers.places import ROOT
from yolo_slim.commands.entry import VERBS, main
from yolo_slim.detection.data.shapes import CLASSES
from yolo_slim.detection.trust import is_trusted


class Gadget:
    """Makes a folder when it is opened."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("ran",)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with tiny.pt, strange.pt (which wants a harmless class) and evil.pt."""
    monkeypatch.chdir(tmp_path)
    files = write_tiny(tmp_path, CLASSES)
    for name, extra in {"strange": decimal.Decimal("0.5"), "evil": Gadget()}.items():
        content = torch.load(files["pt"], weights_only=False)
        content["train_args"]["extra"] = extra
        torch.save(content, tmp_path / f"{name}.pt")
    return tmp_path


def validate(file: str, *more: str) -> list[str]:
    data = ["--data.data", "shapes", "--data.imgsz", "64", "--data.batch", "4", "--data.workers", "0"]
    quick = ["--trainer.limit_val_batches", "1", "--trainer.accelerator", "cpu"]
    return ["validate", *data, *quick, "--model.weights", file, *more]


def test_load_opens_more_only_when_told(folder):
    assert yolo_slim.load("tiny.pt").hparams["names"] == dict(enumerate(CLASSES))
    with pytest.raises(ValueError, match=r"strange.pt wants decimal.Decimal, .* open it with --trust"):
        yolo_slim.load("strange.pt")
    net = yolo_slim.load("strange.pt", trust=True).net
    expected = yolo_slim.load("tiny.pt").net
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(net(images)[0], expected(images)[0])
    assert not is_trusted()


def test_what_is_opened_with_trust_is_rebuilt_too(folder):
    """Trust is of the opening: the network is still one that its description gives."""
    content = torch.load("tiny.pt", weights_only=False)
    content["train_args"]["extra"] = decimal.Decimal(1)
    content["model"].model[0].conv.stride = (1, 1)
    torch.save(content, "other.pt")
    with pytest.raises(ValueError, match="other.pt: model.0.conv has stride"):
        yolo_slim.load("other.pt", trust=True)
    (folder / "cut.pt").write_bytes((folder / "strange.pt").read_bytes()[:-30])
    with pytest.raises(ValueError, match="damaged, cut off"):
        yolo_slim.load("cut.pt", trust=True)
    with pytest.raises(TypeError):
        yolo_slim.load("tiny.pt", True)  # type: ignore[misc]  # by name, so that it is read where it stands


def test_the_command_line_refuses_in_one_line(folder, capsys):
    assert "evil.pt wants " in refused(capsys, validate("evil.pt"))
    assert "mkdir" in refused(capsys, validate("evil.pt"))
    assert "open it with --trust" in refused(capsys, validate("strange.pt"))
    assert not (folder / "ran").exists()
    assert not (folder / "runs").exists()


@pytest.mark.slow
def test_the_process_ends_with_status_1_and_one_line(folder):
    command = [sys.executable, str(ROOT / "train.py"), *validate("evil.pt")]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert [line for line in done.stderr.splitlines() if line.startswith("error: evil.pt wants ")] == [
        done.stderr.strip().splitlines()[-1]
    ]
    assert "Traceback" not in done.stderr
    assert not (folder / "ran").exists()


def test_the_command_line_opens_with_trust(folder, capsys):
    main(validate("strange.pt", "--trust"))
    assert "val/map50" in capsys.readouterr().out
    assert not is_trusted()
    assert "open it with --trust" in refused(capsys, validate("strange.pt"))  # it was for one run


def test_a_configuration_cannot_say_it(folder, capsys):
    """A file from elsewhere must not be able to open other files from elsewhere."""
    for text in ("trust: true\n", "model:\n  trust: true\n", "--trust: true\n"):
        (folder / "mine.yaml").write_text(text)
        message = refused(capsys, validate("strange.pt", "-c", "mine.yaml"), status=2)
        assert "trust" in message
    for argument in ("--model.trust", "--trust=true"):
        assert "trust" in refused(capsys, validate("strange.pt", argument), status=2)
    (folder / "mine.yaml").write_text("model:\n  weights: strange.pt\n")
    assert "open it with --trust" in refused(capsys, ["validate", "--data.data", "shapes", "-c", "mine.yaml"])


def test_an_environment_variable_cannot_say_it(folder, capsys, monkeypatch):
    for name in ("TRUST", "YOLO_SLIM_TRUST", "PL_VALIDATE__TRUST", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"):
        monkeypatch.setenv(name, "1")
    assert "open it with --trust" in refused(capsys, validate("strange.pt"))
    assert "mkdir" in refused(capsys, validate("evil.pt"))
    assert not (folder / "ran").exists()


def test_help_mentions_it(capsys):
    main(["--help"])
    printed = capsys.readouterr().out
    assert "--trust" in printed
    assert "run code" in printed


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "slim"])
def test_every_verb_that_reads_weights_refuses(folder, capsys, verb):
    weights = ["--model.weights", "evil.pt"]
    given = {
        "prune": weights,
        "export": ["--format", "onnx", *weights],
        "sensitivity": [*weights, "--data.data", "shapes"],
        "compare": ["tiny.pt", "evil.pt", "--data.data", "shapes"],
    }
    assert "mkdir" in refused(capsys, [verb, *given.get(verb, [*validate("evil.pt")[1:5], *weights])])
    assert not (folder / "ran").exists()
