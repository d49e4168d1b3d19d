"""Curves: what a table says of each unit, monotone and from 0."""

from __future__ import annotations

import numpy as np
import pytest

from yolo_slim.pruning.selection.curves import TABLE, Curve, read_curves

HEADER = "unit,layers,channels,ratio,removed,parameters_saved,flops_saved,status,rise,within_noise,seconds,loss,map\n"


def row(unit: str, removed: int, rise: float | str, status: str = "measured", score: float | str = "") -> str:
    return f"{unit},{unit} {unit}.b,10,{removed / 10},{removed},1,1,{status},{rise},false,0.1,1.0,{score}\n"


def written(folder, *rows: str):
    (folder / TABLE).write_text(HEADER + "".join(rows))
    return folder


def test_a_curve_is_clipped_at_0_and_never_falls(tmp_path):
    rows = (row("a", 1, -0.2), row("a", 3, 0.5, score=0.3), row("a", 5, 0.2), row("a", 9, "", "skipped"))
    (curve,) = read_curves(written(tmp_path, *rows))
    assert (curve.unit, curve.layers, curve.channels) == ("a", ("a", "a.b"), 10)
    assert curve.removed.tolist() == [0, 1, 3, 5]
    assert curve.rise.tolist() == [0, 0, 0.5, 0.5]
    assert curve.maps[2] == 0.3
    assert np.isnan(curve.maps[[0, 1, 3]]).all()


def test_between_points_a_line_and_beyond_them_steeper():
    curve = Curve.of_points("a", ("a",), 10, [(2, 0.1, 0.0), (4, 0.5, 0.0)])
    assert curve.at(np.array([0, 1, 2, 3, 4])).tolist() == pytest.approx([0, 0.05, 0.1, 0.3, 0.5])
    assert curve.at(5) - curve.at(4) == pytest.approx(3 * 0.2)
    flat = Curve.of_points("a", ("a",), 10, [(4, 0.0, 0.0)])
    assert flat.at(5) == pytest.approx(0.1)  # what was not measured is never free


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ((), "holds no rows"),
        ((row("a", 1, 0.1), row("b", 1, 0.1), row("a", 2, 0.1)), "is not finished"),
        ((row("a", 1, "much"),), "is damaged"),
        ((row("a", 11, 0.1),), "is damaged"),
        ((row("a", 1, "nan"),), "is damaged"),
        (("a,b\n",), "is damaged"),
        ((row("a", 1, 0.1), row("b", 1, 0.1), row("a", 2, 0.1), row("b", 2, 0.1)[:-1]), "is not finished"),
        (('"' + 200_000 * "a" + "\n",), "is damaged"),
    ],
)
def test_what_is_no_measurement_is_refused(tmp_path, rows, message):
    with pytest.raises(ValueError, match=message):
        read_curves(written(tmp_path, *rows))


def test_a_missing_table(tmp_path):
    with pytest.raises(FileNotFoundError, match="must be a folder that 'sensitivity' wrote"):
        read_curves(tmp_path)
