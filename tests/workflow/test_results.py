"""What a recipe leaves, and keeps through interruptions."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from yolo_slim.workflow import results as recipe_results


@pytest.mark.parametrize("at", ["write", "unlink"])
def test_metrics_are_joined_whenever_a_kill_comes(tmp_path, monkeypatch, at):
    """Each epoch once, and none lost: the part that has an epoch last counts."""
    header = "epoch,step,val/map,lr"
    (tmp_path / "metrics-1.csv").write_text(f"{header}\n0,3,0.1,\n1,6,0.2,\n2,,,0.0")  # cut off in epoch 2
    (tmp_path / "metrics-2.csv").write_text(f"{header}\n1,6,0.25,\n2,9,0.3,\n")
    (tmp_path / "metrics.csv").write_text("epoch,step,val/map\n2,9,0.35\n3,12,0.4\n")

    class Killed(BaseException):
        pass

    def killed(*arguments, **keywords):
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(*((Path, "unlink") if at == "unlink" else (recipe_results.csv.DictWriter, "writerows")), killed)
        with pytest.raises(Killed):
            recipe_results.merge_metrics(tmp_path)
    recipe_results.set_metrics_aside(tmp_path)  # the next start
    (tmp_path / "metrics.csv").write_text("epoch,step,val/map\n3,12,0.4\n4,15,0.5\n")
    recipe_results.merge_metrics(tmp_path)
    with (tmp_path / "metrics.csv").open() as stream:
        rows = [(row["epoch"], row["val/map"]) for row in csv.DictReader(stream)]
    assert rows == [("0", "0.1"), ("1", "0.25"), ("2", "0.35"), ("3", "0.4"), ("4", "0.5")]
    assert [file.name for file in tmp_path.glob("*.csv")] == ["metrics.csv"]
