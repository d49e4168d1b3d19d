"""The checkpoints that every fit keeps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer

from yolo_slim.workflow.fit_parts import BEST_CHECKPOINT, RunCheckpoint


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
