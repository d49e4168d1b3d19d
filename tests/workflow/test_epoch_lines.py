"""The line of an epoch: its scores, a star at a new best, seconds and the time to go."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from yolo_slim.workflow import epoch_lines
from yolo_slim.workflow.epoch_lines import EpochLines


def test_lines_of_a_fit(monkeypatch, capsys):
    clock = iter([100.0, 110.0, 130.0, 150.0])
    monkeypatch.setattr(epoch_lines.time, "monotonic", lambda: next(clock))
    lines = EpochLines(later=2)
    trainer = SimpleNamespace(is_global_zero=True, max_epochs=3, current_epoch=0, callback_metrics={})
    lines.on_train_start(trainer, None)
    for epoch, score in enumerate([0.5, 0.4, 0.6]):
        trainer.current_epoch, trainer.callback_metrics = epoch, {"val/map": score, "val/recall": 0.25}
        lines.on_train_epoch_end(trainer, None)
    assert capsys.readouterr().out.splitlines() == [
        "epoch 1/3  val/recall 0.25  val/map 0.5*  10 s, 40 s to go",
        "epoch 2/3  val/recall 0.25  val/map 0.4  20 s, 45 s to go",
        "epoch 3/3  val/recall 0.25  val/map 0.6*  20 s, 33 s to go",
    ]


@pytest.mark.parametrize("metrics", [{}, {"val/map": float("nan")}])
def test_an_epoch_without_a_score_is_no_best(monkeypatch, capsys, metrics):
    trainer = SimpleNamespace(is_global_zero=True, max_epochs=1, current_epoch=0, callback_metrics=metrics)
    lines = EpochLines()
    lines.on_train_start(trainer, None)
    lines.on_train_epoch_end(trainer, None)
    shown = capsys.readouterr().out
    assert "*" not in shown
    assert "to go" not in shown
