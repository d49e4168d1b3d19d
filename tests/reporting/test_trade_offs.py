from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from yolo_slim.reporting import trade_offs
from yolo_slim.reporting.comparison import ModelRow
from yolo_slim.reporting.trade_offs import draw_trade_offs


def drawn(path: Path) -> bool:
    """Whether the picture is not white."""
    return bool((imread(path)[..., :3] < 0.99).any(-1).mean() > 0.005)


def model(name: str, cost: float, score: float) -> ModelRow:
    times = {"torch": 9 * cost, "onnxruntime": 5 * cost}
    return ModelRow(name, 1000, cost, 1.0, times, 0.5, 0.5, 0.5, score)


def test_models_are_drawn_at_their_cost_and_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(trade_offs, "Figure", lambda **settings: figures.append(Figure(**settings)) or figures[-1])
    rows = [model("dense", 2.0, 0.70), model("slim $x$_1", 1.0, 0.65), model("again", 2.0, 0.70)]
    draw_trade_offs(rows, tmp_path / "compare.png")
    assert drawn(tmp_path / "compare.png")
    left, right = figures[0].axes
    assert left.collections[0].get_offsets().tolist() == [[2.0, 0.70], [1.0, 0.65], [2.0, 0.70]]
    assert [points.get_label() for points in right.collections] == ["torch", "onnxruntime"]
    assert right.collections[1].get_offsets().tolist() == [[10.0, 0.70], [5.0, 0.65], [10.0, 0.70]]
    for axes in (left, right):
        assert [text.get_text() for text in axes.texts] == ["dense, again", "slim $x$_1"]


def test_models_that_are_all_the_same_are_drawn(tmp_path: Path) -> None:
    draw_trade_offs([model("one", 1.0, 0.0)] * 2, tmp_path / "compare.png")
    assert drawn(tmp_path / "compare.png")
