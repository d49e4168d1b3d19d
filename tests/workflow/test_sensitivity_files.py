"""Files of a measurement: rows that survive a kill, parts that are joined, and what is not taken for either."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helpers.hostile.refused import refused
from yolo_slim.pruning import Row
from yolo_slim.workflow import merge_sensitivities
from yolo_slim.workflow import sensitivity as measuring
from yolo_slim.workflow.sensitivity_files import (
    Table,
    expect_same,
    finished_rows,
    read_about,
    read_rows,
    write_about,
)

RATIOS = [1 / 3, 0.5, 2 / 3]
FIGURES = ("loss", "map")


def rows_of(names: list[str]) -> list[Row]:
    """Rows ratio by ratio, one of them skipped."""
    rows = []
    for ratio in RATIOS:
        for number, name in enumerate(names):
            own = {"unit": name, "layers": (name, f"{name}.b"), "channels": 9, "ratio": ratio}
            saved = {"removed": int(9 * ratio), "parameters_saved": 10, "flops_saved": 20 + number}
            if ratio == RATIOS[-1] and number == 0:
                rows.append(Row(**own, **saved, status="skipped"))
                continue
            figures = {"loss": 1 + ratio / 7, "map": 0.3 - ratio / 11}
            rows.append(Row(**own, **saved, status="measured", rise=ratio / 7, figures=figures, seconds=0.25))
    return rows


def about(**changed: Any) -> dict[str, Any]:
    plain = {
        "weights": {"file": "a.ckpt", "sha256": "1f"},
        "data": {"file": "data.yaml", "split": "train", "images": 6, "sha256": "2e"},
        "imgsz": 64,
        "settings": {"ratios": RATIOS, "metric": "both", "stop_rise": 1, "importance": {"kind": "gamma"}},
        "units": 3,
        "part": "1/1",
        "dense": {"loss": 1.0, "map": 0.3},
        "noise": 0.05,
        "versions": {"torch": "2"},
    }
    return plain | changed


def write(folder: Path, names: list[str], **changed: Any) -> Path:
    """A finished measurement."""
    folder.mkdir(parents=True)
    table = Table(folder, FIGURES)
    assert table.rows() == []
    for row in rows_of(names):
        table.add(row, 0.05)
    write_about(folder, about(units=len(names), **changed))
    return folder


@pytest.fixture
def parts(tmp_path) -> list[Path]:
    """Two parts of five units, as two machines leave them."""
    return [
        write(tmp_path / "p1", ["a", "c", "e"], part="1/2", versions={"torch": "3"}, noise=0.05),
        write(tmp_path / "p2", ["b", "d"], part="2/2", noise=0.06, dense={"loss": 1.0000001, "map": 0.3}),
    ]


def test_rows_come_back_as_they_were(tmp_path):
    folder = write(tmp_path / "m", ["a", "b", "c"])
    assert read_rows(folder / "sensitivity.csv") == Table(folder, FIGURES).rows() == rows_of(["a", "b", "c"])
    assert finished_rows(folder, read_about(folder)) == rows_of(["a", "b", "c"])


@pytest.mark.parametrize("cut", [1, 2, 9, 30, 60])
def test_a_row_that_a_kill_has_cut_off_is_none(tmp_path, cut):
    """Half a number is a number, too: what has no end of line is not believed."""
    folder = write(tmp_path / "m", ["a", "b", "c"])
    table = folder / "sensitivity.csv"
    table.write_text(table.read_text()[:-cut])
    before = table.read_bytes()
    assert read_rows(table) == rows_of(["a", "b", "c"])[:-1]
    with pytest.raises(ValueError, match=r"m is not finished \(8 of 9 rows\): the same command goes on there"):
        finished_rows(folder, read_about(folder))
    assert table.read_bytes() == before  # another process may be writing
    again = Table(folder, FIGURES)
    again.add(again.rows() and rows_of(["a", "b", "c"])[-1], 0.05)
    assert finished_rows(folder, read_about(folder)) == rows_of(["a", "b", "c"])


@pytest.mark.parametrize("rows", range(9))
def test_every_place_to_stop_at_is_seen(tmp_path, rows):
    folder = write(tmp_path / "m", ["a", "b", "c"])
    table = folder / "sensitivity.csv"
    table.write_text("".join(table.read_text().splitlines(keepends=True)[: 1 + rows]))
    with pytest.raises(ValueError, match=rf"is not finished \({rows} of 9 rows\)"):
        finished_rows(folder, read_about(folder))
    table.unlink()
    with pytest.raises(ValueError, match=r"is not finished \(0 of 9 rows\)"):
        finished_rows(folder, read_about(folder))


@pytest.mark.parametrize(
    "path", ["weights", "weights.sha256", "data", "data.split", "data.images", "imgsz", "settings", "settings.ratios"]
)
@pytest.mark.parametrize("value", [None, [3], "gone"])
def test_a_description_that_is_damaged(tmp_path, path, value):
    folder = write(tmp_path / "m", ["a"])
    damaged: dict[str, Any] = about()
    place, _, key = path.rpartition(".")
    own = damaged[place] if place else damaged
    if value == "gone":
        del own[key]
    else:
        own[key] = 7 if path.endswith("ratios") else value
    (folder / "sensitivity.yaml").write_text(yaml.safe_dump(damaged))
    with pytest.raises(ValueError, match=rf"sensitivity.yaml is damaged \('{path} is .*\): measure it anew in another"):
        read_about(folder)


@pytest.mark.parametrize("text", ["3", "[1", "", "part: 1/1", "a: &a [*a, *a]", "\x00", "- 1\n- 2"])
def test_a_file_that_is_no_description(tmp_path, text):
    (tmp_path / "sensitivity.yaml").write_text(text)
    with pytest.raises(ValueError, match="sensitivity.yaml is damaged"):
        read_about(tmp_path)


@pytest.mark.parametrize("part", ["", "1", "1/", "a/b", "1/2/3"])
def test_a_part_that_is_none(tmp_path, part):
    write_about(tmp_path, about(part=part))
    with pytest.raises(ValueError, match="sensitivity.yaml is damaged"):
        read_about(tmp_path)


def test_no_more_than_three_differences_are_said():
    other = about(weights={"file": "b.ckpt", "sha256": "2f"}, imgsz=96, units=4)
    with pytest.raises(ValueError, match=r"weights.file: 'a.ckpt' there.*weights.sha256: .*imgsz: 64 there, 96 here\)"):
        expect_same(Path("runs/m"), about(), other, ())
    expect_same(Path("runs/m"), about(), other, ("weights", "imgsz", "units"))


def test_parts_are_joined_in_the_order_of_the_units(parts, tmp_path):
    joined = merge_sensitivities(parts[::-1], tmp_path / "whole")
    assert joined == read_rows(tmp_path / "whole" / "sensitivity.csv")
    assert [(row.unit, row.ratio) for row in joined] == [(name, ratio) for ratio in RATIOS for name in "abcde"]
    found = read_about(tmp_path / "whole")
    assert (found["part"], found["units"]) == ("1/1", 5)
    assert len(finished_rows(tmp_path / "whole", found)) == 15


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"weights": {"file": "a.ckpt", "sha256": "ff"}}, "weights.sha256: 'ff' there, '1f' here"),
        ({"imgsz": 96}, "imgsz: 96 there, 64 here"),
        ({"data": {"file": "data.yaml", "split": "val", "images": 6, "sha256": "2e"}}, "data.split: 'val' there"),
        ({"part": "1/2"}, "the parts are 1/2, 1/2: expected each of 1/2 to 2/2 once"),
        ({"part": "2/3"}, "the parts are 1/2, 2/3: expected each of 1/2 to 2/2 once"),
    ],
)
def test_parts_that_do_not_belong_together(parts, tmp_path, monkeypatch, capsys, changed, message):
    monkeypatch.chdir(tmp_path)
    write_about(parts[1], about(**{"units": 2, "part": "2/2", **changed}))
    line = refused(capsys, ["sensitivity", "--name", "whole", "--merge", "p1", "p2"])
    assert message in line
    assert "goes on" not in line
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("lines", [1, 3, 5, -1])
def test_an_unfinished_part_is_not_joined(parts, tmp_path, lines):
    table = parts[1] / "sensitivity.csv"
    text = table.read_text()
    table.write_text(text[:-5] if lines < 0 else "".join(text.splitlines(keepends=True)[:lines]))
    with pytest.raises(ValueError, match=r"p2 is not finished \(\d of 6 rows\): the same command goes on there"):
        merge_sensitivities(parts, tmp_path / "whole")
    assert not (tmp_path / "whole").exists()


def test_a_merge_that_fails_leaves_nothing(parts, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(measuring, "heat_map", full)
    with pytest.raises(OSError, match="no space"):
        merge_sensitivities(parts, tmp_path / "whole")
    assert not (tmp_path / "whole").exists()
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="whole exists: give the merged measurement another --name"):
        merge_sensitivities(parts, tmp_path / "whole")
    assert (tmp_path / "whole" / "mine.txt").read_text() == "mine"
    with pytest.raises(FileNotFoundError, match="p3 holds no sensitivity.yaml"):
        merge_sensitivities([*parts, tmp_path / "p3"], tmp_path / "other")
