"""The jobs of the verbs, called from Python with typed settings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from tests.helpers.export_nets import lively, shapes_images
from tests.helpers.hostile.pickles import write_small
from yolo_slim.callbacks import GammaSparsity
from yolo_slim.commands.entry import main
from yolo_slim.detection import ExportOptions, Hyperparameters, YOLODataModule, load_network
from yolo_slim.detection.files.checkpoints import save_weights
from yolo_slim.pruning import Importance, Selection
from yolo_slim.workflow import (
    FitPhase,
    PrunePhase,
    PruneSettings,
    RecipeSettings,
    SparsePhase,
    export,
    exporting,
    prune_file,
    run_recipe,
)

HALF = Selection(0.5)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory, shapes_dir: Path) -> Path:
    """A checkpoint that was trained with images of 64 pixels."""
    file = tmp_path_factory.mktemp("dense") / "dense.ckpt"
    save_weights(lively(shapes_images(shapes_dir), 0.0).net, file, imgsz=64)
    return file


def sizes_of_batches(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Sides of the images that are trained or measured on from here on."""
    sides: set[int] = set()
    transfer = YOLODataModule.on_after_batch_transfer

    def noted(self, batch, index):
        sides.add(batch["img"].shape[-1])
        return transfer(self, batch, index)

    monkeypatch.setattr(YOLODataModule, "on_after_batch_transfer", noted)
    return sides


def test_a_recipe_equals_the_verb(tmp_path, shapes_dir, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, data = str(write_small(tmp_path)), str(shapes_dir / "data.yaml")
    rates = {"optimizer": "AdamW", "lr0": 0.001, "nbs": 4}
    keys = {
        "model": {"model": model},
        "data": {"data": data, "imgsz": 64, "batch": 4, "workers": 0},
        "trainer": {"accelerator": "cpu"},
        "baseline": {"epochs": 1, "hyp": rates},
        "sparse": {"epochs": 2, "hyp": rates, "sparsity": {"penalty": "growing"}},
        "prune": {"selection": {"ratio": 0.5}},
        "finetune": {"enabled": False},
    }
    Path("slim.yaml").write_text(yaml.safe_dump(keys))
    main(["slim", "-c", "slim.yaml"])

    hyp = Hyperparameters(**rates)
    settings = RecipeSettings(
        YOLODataModule(data, imgsz=64, batch=4, workers=0),
        model=model,
        baseline=FitPhase(epochs=1, hyp=hyp),
        sparse=SparsePhase(epochs=2, hyp=hyp, sparsity=GammaSparsity("growing", selection=HALF)),
        prune=PrunePhase(HALF),
        finetune=FitPhase(enabled=False),
        trainer={"accelerator": "cpu"},
    )
    folder = tmp_path / "python"
    folder.mkdir()
    rows, checkpoints, _ = run_recipe(settings, folder)
    assert [row.state for row in rows] == ["baseline", "sparse", "slim"] == list(checkpoints)
    for phase in ("baseline", "sparse", "prune"):
        said, verb = (yaml.safe_load((run / phase / "result.yaml").read_text()) for run in (folder, Path("runs/slim")))
        assert Path(said.pop("checkpoint")).name == Path(verb.pop("checkpoint")).name
        mine, theirs = ({k: v for k, v in result.items() if "second" not in k} for result in (said, verb))
        assert mine == theirs
    slim, other = (load_network(run / "prune" / "slim.ckpt").state_dict() for run in (folder, Path("runs/slim")))
    assert all(torch.equal(slim[name], other[name]) for name in {*slim, *other})


def test_phases_that_work_towards_different_prunes_are_refused():
    data = YOLODataModule("shapes")
    with pytest.raises(ValueError, match=r"ratio=0\.5.*ratio=0\.8.*selection of the prune"):
        RecipeSettings(data, prune=PrunePhase(Selection(0.8)))
    RecipeSettings(data, prune=PrunePhase(Selection(0.8)), sparse=SparsePhase(enabled=False))
    RecipeSettings(
        data, prune=PrunePhase(Selection(0.8)), sparse=SparsePhase(sparsity=GammaSparsity("growing", ratio=0.8))
    )


def test_a_recipe_takes_the_image_size_of_the_weights(dense, tmp_path, shapes_dir, monkeypatch):
    sides = sizes_of_batches(monkeypatch)
    settings = RecipeSettings(
        YOLODataModule(str(shapes_dir / "data.yaml"), batch=4, workers=0),
        weights=str(dense),
        baseline=FitPhase(enabled=False),
        sparse=SparsePhase(enabled=False),
        finetune=FitPhase(enabled=False),
        trainer={"accelerator": "cpu"},
    )
    run_recipe(settings, tmp_path)
    assert sides == {64}


def test_a_file_is_pruned_with_images_of_its_size(dense, tmp_path, shapes_dir, monkeypatch):
    sides = sizes_of_batches(monkeypatch)
    settings = PruneSettings(HALF, Importance(kind="taylor"), batches=1)
    report = prune_file(dense, settings, tmp_path / "new", YOLODataModule(str(shapes_dir / "data.yaml"), batch=4))
    assert sides == {64}
    slim = load_network(tmp_path / "new" / "slim.ckpt")
    assert sum(p.numel() for p in slim.parameters()) == report.parameters_after < report.parameters_before


def test_exports_never_take_the_place_of_other_files(dense, tmp_path):
    (tmp_path / "dense.pt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty; give an empty folder"):
        export(dense, ["ultralytics"], ExportOptions(), tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["dense.pt"]
    assert (tmp_path / "dense.pt").read_text() == "mine"


def test_exports_stay_where_their_table_cannot_be_written(dense, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError("No space left on device")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(exporting, "write_whole", full)
    with pytest.raises(SystemExit):
        main(["export", "--model.weights", str(dense), "--format", "ultralytics"])
    assert [file.name for file in (tmp_path / "runs" / "export").iterdir()] == ["dense.pt"]


def test_settings_say_what_is_wrong_with_them():
    with pytest.raises(ValueError, match=r"sparse\.epochs=0: expected at least 1"):
        RecipeSettings(YOLODataModule("shapes"), sparse=replace(SparsePhase(), epochs=0))
    with pytest.raises(ValueError, match=r"trainer\.callbacks: the recipe sets it itself"):
        RecipeSettings(YOLODataModule("shapes"), trainer={"callbacks": []})
    with pytest.raises(ValueError, match="there are no trained weights"):
        RecipeSettings(YOLODataModule("shapes"), baseline=FitPhase(enabled=False))
