"""Files that an earlier version has written: read, and gone on with.

``fixtures/runs_0.1.0.tar.gz`` holds what version 0.1.0 wrote on the built-in images: a recipe that was interrupted in
its sparse phase, and from another one the slim checkpoint, its plan, and its export for stock Ultralytics.
"""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
import torch
import yaml

import yolo_slim
from tests.helpers.places import FIXTURES
from yolo_slim.commands import main
from yolo_slim.detection.data.shapes import generate_shapes
from yolo_slim.pruning import PruningPlan


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("earlier")
    with tarfile.open(FIXTURES / "runs_0.1.0.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    generate_shapes(folder / "set", train=12, val=6, imgsz=64)
    return folder


@torch.no_grad()
def test_a_slim_checkpoint_its_plan_and_its_export_are_read(earlier):
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    checkpoint, exported = (yolo_slim.load(earlier / f"slim.{ending}") for ending in ("ckpt", "pt"))
    assert torch.allclose(checkpoint(images), exported(images), atol=0.5)  # pixels, one is in half precision
    assert checkpoint.hparams["imgsz"] == 64
    plan = PruningPlan.load(earlier / "plan.yaml")
    for module, sides in plan.entries.items():
        if (keep := sides.get("out")) and hasattr(checkpoint.net.get_submodule(module), "out_channels"):
            assert checkpoint.net.get_submodule(module).out_channels == len(keep)


def test_an_interrupted_recipe_goes_on(earlier, monkeypatch, capsys):
    monkeypatch.chdir(earlier)
    baseline = Path("runs/cut/baseline/best.ckpt")
    before = baseline.stat().st_mtime_ns
    # The default of round_to has changed since; what the sparse phase was started with is asked for, and said.
    with pytest.raises(SystemExit):
        main(["slim", "-c", "slim.yaml", "--name", "cut"])
    assert "prune.selection.round_to: 1 there, 'auto' here" in capsys.readouterr().err
    main(["slim", "-c", "slim.yaml", "--name", "cut", "--prune.selection.round_to", "1"])
    assert baseline.stat().st_mtime_ns == before
    epochs = [line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    assert epochs == ["2/3", "3/3", "1/1"], "the sparse phase goes on where it was, and only the finetune is new"
    states = [yaml.safe_load(Path(f"runs/cut/{p}/result.yaml").read_text()) for p in ("sparse", "prune", "finetune")]
    assert states[0]["small_gammas"] == pytest.approx(0.5, abs=0.05)
    assert states[1]["parameters"] == states[2]["parameters"] < states[0]["parameters"]
