from __future__ import annotations

import hashlib
import os
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from yolo_slim.detection.data import shapes


def contents(root: Path) -> dict[str, str]:
    """Hash of every file below a folder, by its path."""
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_same_seed_gives_same_bytes_and_another_seed_does_not(tmp_path: Path) -> None:
    first, again = (shapes.generate_shapes(tmp_path / name, train=3, val=2, imgsz=64, seed=5).parent for name in "ab")
    other = shapes.generate_shapes(tmp_path / "c", train=3, val=2, imgsz=64, seed=6).parent
    assert contents(first) == contents(again)
    assert contents(first)["images/train/00000.jpg"] != contents(other)["images/train/00000.jpg"]


def test_more_images_keep_the_first_ones_and_splits_differ(tmp_path: Path) -> None:
    few, many = (contents(shapes.generate_shapes(tmp_path / str(n), train=n, val=n, imgsz=64).parent) for n in (2, 4))
    assert few["images/train/00001.jpg"] == many["images/train/00001.jpg"]
    assert len({many[f"images/{split}/0000{i}.jpg"] for split in ("train", "val") for i in range(4)}) == 8


def test_layout_and_labels(tmp_path: Path) -> None:
    file = shapes.generate_shapes(tmp_path / "set", train=60, val=1, imgsz=96)
    info = yaml.safe_load(file.read_text())
    assert (info["train"], info["val"]) == ("images/train", "images/val")
    assert list(info["names"].values()) == list(shapes.CLASSES)
    texts = [path.read_text().splitlines() for path in sorted((file.parent / "labels/train").glob("*.txt"))]
    assert cv2.imread(str(file.parent / "images/train/00059.jpg")).shape == (96, 96, 3)
    assert len(texts) == 60
    assert any(not lines for lines in texts), "some images should show no object"
    rows = np.array([line.split() for lines in texts for line in lines], float)
    assert set(rows[:, 0]) == set(range(len(shapes.CLASSES)))
    corners = np.concatenate([rows[:, 1:3] - rows[:, 3:] / 2, rows[:, 1:3] + rows[:, 3:] / 2], 1)
    assert corners.min() >= -1e-6
    assert corners.max() <= 1 + 1e-6
    np.testing.assert_allclose(corners * 96, np.round(corners * 96), atol=1e-3)  # boxes end at edges of pixels


def test_box_is_the_outline_in_pixel_edges() -> None:
    outline = np.array([[10, 20], [30, 20], [30, 50], [10, 50]])
    x, y, w, h = shapes._box(shapes._fill(outline, 64) > 0.5)
    assert np.array([x - w / 2, y - h / 2, x + w / 2, y + h / 2]) * 64 == pytest.approx([10, 20, 30, 50])


def test_box_holds_the_visible_part_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def square(x: int, y: int) -> np.ndarray:
        return np.array([[x, y], [x + 20, y], [x + 20, y + 20], [x, y + 20]])

    # The second hides the right fifth of the first, the third would hide too much of the second, and the last one is
    # cut off by the image at its top.
    places = iter([square(10, 30), square(26, 30), square(28, 32), square(40, -4)])
    monkeypatch.setattr(shapes, "_place", lambda kind, rng, imgsz: next(places))
    monkeypatch.setattr(shapes, "_kinds", lambda rng: ["rectangle"] * 4)
    _, labels = shapes.draw(np.random.default_rng(0), 64)
    boxes = [np.array([x - w / 2, y - h / 2, x + w / 2, y + h / 2]) * 64 for _, x, y, w, h in labels]
    np.testing.assert_allclose(boxes, [[10, 30, 26, 50], [26, 30, 46, 50], [40, 0, 60, 16]])


def test_complete_set_is_reused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = shapes.generate_shapes(tmp_path / "set", train=2, val=1, imgsz=64)
    monkeypatch.setattr(shapes, "draw", lambda *_: pytest.fail("drawn again"))
    assert shapes.generate_shapes(tmp_path / "set", train=2, val=1, imgsz=64) == file


@pytest.mark.parametrize("damage", ["settings", "missing image", "foreign file"])
def test_anything_else_is_refused_and_kept(tmp_path: Path, damage: str) -> None:
    root = tmp_path / "set"
    if damage == "foreign file":
        root.mkdir()
        (root / "thesis.txt").write_text("years of work")
    else:
        shapes.generate_shapes(root, train=2, val=1, imgsz=64, seed=1 if damage == "settings" else 0)
    if damage == "missing image":
        (root / "images/train/00001.jpg").unlink()
    before = contents(root)
    with pytest.raises(ValueError, match="expected the complete shapes set .* delete this one") as error:
        shapes.generate_shapes(root, train=2, val=1, imgsz=64)
    assert "\n" not in str(error.value)
    assert contents(root) == before


def test_a_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "imwrite", lambda path, *_: "00002" not in path)
    with pytest.raises(OSError, match="00002.jpg could not be written"):
        shapes.generate_shapes(tmp_path / "set", train=4, val=1, imgsz=64)
    assert list(tmp_path.iterdir()) == []


def test_a_faster_process_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def overtaken(source: Path, target: Path) -> None:
        shutil.copytree(source, target)
        raise OSError("not empty")

    monkeypatch.setattr(os, "rename", overtaken)
    file = shapes.generate_shapes(tmp_path / "set", train=2, val=1, imgsz=64)
    assert file.is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize("wrong", [{"train": 0}, {"val": 0}, {"imgsz": 16}, {"seed": -1}])
def test_range_of_settings(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}=.* out of range"):
        shapes.generate_shapes(tmp_path / "set", **wrong)


def test_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["shapes", str(tmp_path / "set"), "--train=2", "--val=1", "--imgsz=64"])
    shapes.main()
    assert capsys.readouterr().out.strip() == str(tmp_path / "set" / "data.yaml")
