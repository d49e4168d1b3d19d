"""The checkpoints that every fit keeps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer

from yolo_slim.commands import main
from yolo_slim.workflow.fit_parts import BEST_CHECKPOINT, RunCheckpoint, mixed_precision


def state_of(folder: Path) -> dict:
    saver = RunCheckpoint(folder, **BEST_CHECKPOINT)
    saver.best_model_score = saver.kth_value = torch.tensor(0.7)
    saver.best_model_path = saver.kth_best_model_path = str(folder / "best.ckpt")
    saver.best_k_models = {str(folder / "best.ckpt"): torch.tensor(0.7)}
    return saver.state_dict()


def test_a_run_folder_that_has_been_moved_keeps_its_best_score(tmp_path):
    for name in ("there", "here"):
        (tmp_path / name).mkdir()
    state = state_of(tmp_path / "there")
    (tmp_path / "here" / "best.ckpt").touch()
    saver = RunCheckpoint(tmp_path / "here", **BEST_CHECKPOINT)
    saver.load_state_dict(state)
    assert saver.best_model_score == saver.kth_value == 0.7
    assert saver.best_model_path == saver.kth_best_model_path == str(tmp_path / "here" / "best.ckpt")
    assert saver.best_k_models == {saver.best_model_path: 0.7}
    assert not saver.check_monitor_top_k(Trainer(accelerator="cpu", logger=False), torch.tensor(0.6))


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_a_new_run_folder_has_no_best_epoch_yet(tmp_path):
    saver = RunCheckpoint(tmp_path / "here", **BEST_CHECKPOINT)
    saver.load_state_dict(state_of(tmp_path / "there"))
    assert saver.best_model_score is None
    assert saver.best_k_models == {}


@pytest.mark.parametrize(
    ("asked", "gpu", "expected"),
    [
        ({}, True, "16-mixed"),
        ({"accelerator": "auto"}, True, "16-mixed"),
        ({"accelerator": "gpu", "devices": 2}, True, "16-mixed"),
        ({"accelerator": "cuda", "precision": None}, True, "16-mixed"),
        ({"accelerator": "auto"}, False, None),
        ({"accelerator": "gpu"}, False, None),  # Lightning says that there is none; or it is Apple's
        ({"accelerator": "cpu"}, True, None),
        ({"precision": "32-true"}, True, None),
        ({"precision": "bf16-mixed"}, True, None),
        ({"plugins": ["a precision plugin"]}, True, None),
    ],
)
def test_precision_is_mixed_on_a_cuda_gpu_where_none_is_asked_for(monkeypatch, asked, gpu, expected):
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    assert mixed_precision(asked).get("precision") == expected


def test_the_command_line_and_the_recipe_make_such_trainers(monkeypatch, tmp_path, shapes_dir):
    """Caught where they are made: there is no GPU to go on with."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    made = []

    def caught(*arguments, **keywords):
        made.append(keywords.get("precision"))
        raise ValueError("caught")

    monkeypatch.setattr("yolo_slim.workflow.recipe.Trainer", caught)
    monkeypatch.setattr("yolo_slim.commands.lightning_private.DeferredCLI.instantiate_trainer", caught)
    data = ["--data.data", str(shapes_dir / "data.yaml"), "--data.imgsz", "64", "--project", str(tmp_path)]
    for verb in ("fit", "slim"):
        with pytest.raises(SystemExit):
            main([verb, *data])
    assert made == ["16-mixed"] * 2
