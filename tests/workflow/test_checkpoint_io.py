"""Checkpoints of a fit: whole on every file system, of the last epoch, and nobody else's files removed."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from tests.helpers.hostile.refused import refused
from yolo_slim.commands.entry import main
from yolo_slim.workflow.checkpoint_io import WholeCheckpointIO, keep_whole


def fit(shapes_dir: Path, *more: str) -> list[str]:
    return [
        *("fit", f"--data.data={shapes_dir / 'data.yaml'}", "--data.imgsz=64", "--data.workers=0", "--data.batch=4"),
        *("--trainer.accelerator=cpu", "--trainer.limit_train_batches=2", "--trainer.limit_val_batches=1"),
        *("--model.hyp.optimizer=AdamW", *more),
    ]


@pytest.fixture(scope="module")
def trained(shapes_dir, tmp_path_factory) -> Path:
    """A folder in which a fit of one epoch was run under the name ``mine``."""
    folder = tmp_path_factory.mktemp("trained")
    before = Path.cwd()
    os.chdir(folder)
    try:
        main(fit(shapes_dir, "--trainer.max_epochs=1", "--name=mine"))
    finally:
        os.chdir(before)
    return folder


def test_a_checkpoint_is_replaced_and_never_overwritten(tmp_path, monkeypatch):
    """Where temporary files are on another file system, moving one there would be copying it."""
    monkeypatch.setenv("TMPDIR", "/nonexistent")
    monkeypatch.setattr("tempfile.tempdir", "/nonexistent")
    saver, file = WholeCheckpointIO([tmp_path]), tmp_path / "new" / "last.ckpt"
    saver.save_checkpoint({"epoch": 0}, file)
    first = file.stat().st_ino
    with file.open("rb") as old:
        saver.save_checkpoint({"epoch": 1}, file)
        assert torch.load(old, weights_only=True) == {"epoch": 0}
    assert torch.load(file, weights_only=True) == {"epoch": 1}
    assert file.stat().st_ino != first
    assert os.listdir(file.parent) == ["last.ckpt"]


@pytest.mark.parametrize("where", ["write_bytes", "replace"])
def test_a_full_disk_leaves_the_old_checkpoint_and_names_it(tmp_path, monkeypatch, where):
    saver, file = WholeCheckpointIO([tmp_path]), tmp_path / "last.ckpt"
    saver.save_checkpoint({"epoch": 0}, file)

    def full(*arguments, **keywords):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(*((Path, where, full) if where == "write_bytes" else (os, where, full)))
        with pytest.raises(OSError, match=r"last.ckpt cannot be written \(No space left on device\); what was there"):
            saver.save_checkpoint({"epoch": 1}, file)
    assert torch.load(file, weights_only=True) == {"epoch": 0}
    assert os.listdir(tmp_path) == ["last.ckpt"]


@pytest.mark.parametrize(
    "path", ["victim", "run/../victim", "link", "memory://victim", "run", "run/folder", "other.ckpt"]
)
def test_only_files_of_the_run_are_removed(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    for folder in ("victim", "run", "run/folder"):
        Path(folder).mkdir()
        Path(folder, "thesis.txt").write_text("precious")
    Path("other.ckpt").write_text("precious")
    Path("link").symlink_to("victim")
    before = sorted(Path().rglob("*"))
    WholeCheckpointIO([Path("run")]).remove_checkpoint(path)
    assert sorted(Path().rglob("*")) == before
    Path("run/epoch=1.ckpt").write_text("of the run")
    WholeCheckpointIO([Path("run")]).remove_checkpoint("run/epoch=1.ckpt")
    assert not Path("run/epoch=1.ckpt").exists()


def test_a_way_of_the_users_own_is_kept(tmp_path):
    class Theirs(TorchCheckpointIO):
        pass

    plugin, saver = Theirs(), ModelCheckpoint(tmp_path / "elsewhere")
    own = Trainer(accelerator="cpu", plugins=[plugin], logger=False, default_root_dir=tmp_path)
    keep_whole(own, tmp_path)
    assert own.strategy.checkpoint_io is plugin
    trainer = Trainer(accelerator="cpu", logger=False, default_root_dir=tmp_path, callbacks=[saver])
    keep_whole(trainer, tmp_path)
    found = trainer.strategy.checkpoint_io
    assert isinstance(found, WholeCheckpointIO)
    assert found._folders == [tmp_path, tmp_path / "elsewhere"]


def test_a_checkpoint_of_somebody_else_removes_nothing(trained, shapes_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("victim").mkdir()
    Path("victim/thesis.txt").write_text("precious")
    checkpoint = torch.load(trained / "runs/mine/last.ckpt", weights_only=True)
    for name, state in checkpoint["callbacks"].items():
        if name.startswith("ModelCheckpoint"):
            state |= {"best_model_path": "runs/fit/../../victim", "dirpath": "runs/fit", "last_model_path": "victim"}
            state |= {
                "best_k_models": {"memory://victim": torch.tensor(-1.0)},
                "kth_best_model_path": "memory://victim",
            }
    torch.save(checkpoint, "from_a_friend.ckpt")
    main(fit(shapes_dir, "--trainer.max_epochs=2", "--ckpt_path=from_a_friend.ckpt"))
    assert Path("victim/thesis.txt").read_text() == "precious"
    assert Path("runs/fit/last.ckpt").is_file()


@pytest.mark.parametrize(
    ("settings", "epochs", "best"),
    [
        (["--trainer.check_val_every_n_epoch=2"], 3, True),
        (["--trainer.check_val_every_n_epoch=3"], 2, False),
        (["--trainer.limit_val_batches=0"], 2, False),
        (["--trainer.val_check_interval=1"], 2, True),
        (["--trainer.max_steps=3", "--model.hyp.nbs=4"], 2, True),
    ],
)
def test_the_last_epoch_is_kept_validated_or_not(shapes_dir, tmp_path, monkeypatch, settings, epochs, best):
    monkeypatch.chdir(tmp_path)
    main(fit(shapes_dir, f"--trainer.max_epochs={epochs}", "--name=run", *settings))
    assert torch.load("runs/run/last.ckpt", weights_only=True)["epoch"] == epochs - 1
    assert Path("runs/run/best.ckpt").exists() == best


@pytest.mark.parametrize("variable", ["RANK", "LOCAL_RANK"])
def test_a_folder_that_was_there_before_is_never_removed(trained, tmp_path, monkeypatch, capsys, variable):
    monkeypatch.chdir(tmp_path)
    home = tmp_path / "home"
    (home / "docs").mkdir(parents=True)
    (home / "docs" / "thesis.txt").write_text("precious")
    monkeypatch.setenv("YOLO_SLIM_RUN_DIR", str(home))
    monkeypatch.setenv(variable, "0")
    weights = f"--model.weights={trained / 'runs/mine/last.ckpt'}"
    refused(capsys, ["prune", weights, '--selection.ignore=["*"]', "--imgsz=64"])
    assert (home / "docs" / "thesis.txt").read_text() == "precious"


def test_an_empty_project_of_the_users_stays(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    weights = f"--model.weights={trained / 'runs/mine/last.ckpt'}"
    refused(capsys, ["prune", weights, '--selection.ignore=["*"]', "--imgsz=64", "--project=mine/below/runs"])
    assert os.listdir(tmp_path) == ["mine"]
    assert os.listdir(tmp_path / "mine") == []


def test_a_run_whose_checkpoints_are_elsewhere_stays_when_it_is_interrupted(shapes_dir, tmp_path, monkeypatch):
    from yolo_slim.workflow import fit_parts

    def key(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fit_parts.EpochLines, "on_train_epoch_end", key)
    with pytest.raises(SystemExit) as stop:
        main(fit(shapes_dir, "--trainer.max_epochs=3", "--name=run", "--checkpoint.dirpath=elsewhere"))
    assert stop.value.code == 130
    assert Path("elsewhere/last.ckpt").is_file()
    assert Path("runs/run/metrics.csv").is_file()
