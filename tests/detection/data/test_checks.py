from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ultralytics.data import utils as ultralytics_utils

from yolo_slim.detection.data.datamodule import YOLODataModule


def module(root: Path) -> YOLODataModule:
    return YOLODataModule(str(root / "data.yaml"), imgsz=64, batch=4, workers=0)


def fitted(root: Path) -> YOLODataModule:
    data = module(root)
    data.prepare_data()
    data.setup("fit")
    return data


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty, expected the keys train, val and names"),
        ("train: [", "is not valid YAML"),
        ("- train", "holds a list, expected a mapping"),
        ("{val: a, names: [x]}", "has train: None"),
        ("{train: a, names: [x]}", "has val: None"),
        ("{train: 3, val: a, names: [x]}", "has train: 3"),
        ("{train: [], val: a, names: [x]}", r"has train: \[\]"),
        ("{train: a, val: a}", "has neither names nor nc"),
        ("{train: a, val: a, names: []}", r"has names: \[\]"),
        ("{train: a, val: a, names: car}", "has names: 'car'"),
        ("{train: a, val: a, names: {1: x, 2: y}}", r"names for the classes \['1', '2'\], expected 0 to 1"),
        ("{train: a, val: a, names: [x, y], nc: 3}", "has nc: 3 and 2 names"),
        ("{train: a, val: a, nc: many}", "has nc: 'many'"),
    ],
)
def test_data_yaml_that_cannot_be_used(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "data.yaml").write_text(text)
    data = module(tmp_path)
    for step in (lambda: data.names, data.prepare_data, lambda: data.setup("fit")):
        with pytest.raises(ValueError, match=message) as error:
            step()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [("nowhere.yaml", "'nowhere.yaml' was not found in"), ("images", "'images' is not a data YAML")],
)
def test_data_that_does_not_exist(name: str, message: str) -> None:
    with pytest.raises((FileNotFoundError, ValueError), match=message) as error:
        _ = YOLODataModule(name).names
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("how", ["missing", "empty"])
def test_image_folder_missing_or_empty(shapes_copy: Path, split: str, how: str) -> None:
    shutil.rmtree(shapes_copy / "images" / split)
    if how == "empty":
        (shapes_copy / "images" / split).mkdir()
    with pytest.raises(FileNotFoundError, match=f"{split}.*Correct path") as error:
        fitted(shapes_copy)
    assert "\n" not in str(error.value)


def write(path: str, content: str | bytes) -> Callable[[Path], Any]:
    data = content if isinstance(content, bytes) else content.encode()
    return lambda root: (root / path).write_bytes(data)


def truncate(root: Path) -> None:
    image = root / "images/train/00003.jpg"
    image.write_bytes(image.read_bytes()[:700])


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (write("labels/train/00003.txt", "0 0.5 0.5 0.1\n"), "5 columns"),
        (write("labels/train/00003.txt", "0 0.5 0.5 0.1 0.1 0.9\n"), "5 columns"),
        (write("labels/train/00003.txt", "0 0.5 0.5 0.1 0.1\n0 0.5\n"), "inhomogeneous"),
        (write("labels/train/00003.txt", "cat 0.5 0.5 0.1 0.1\n"), "could not convert"),
        (write("labels/train/00003.txt", "5 0.5 0.5 0.1 0.1\n"), "class 5 exceeds"),
        (write("labels/train/00003.txt", "0 0.5 0.5 nan 0.1\n"), "out of bounds"),
        (write("labels/train/00003.txt", "0 32 32 10 10\n"), "out of bounds"),
        (write("labels/train/00003.txt", "0 -0.5 0.5 0.1 0.1\n"), "negative"),
        (write("images/train/00003.jpg", b""), "cannot identify"),
        (write("images/train/00003.jpg", "not an image"), "cannot identify"),
        (truncate, "truncated"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(shapes_copy: Path, spoil: Callable[[Path], Any], reason: str) -> None:
    spoil(shapes_copy)
    before = {path for path in shapes_copy.rglob("*") if path.suffix != ".cache"}
    for _ in range(2):  # the second time with Ultralytics' cache of the rest
        with pytest.raises(
            ValueError, match=f"1 of 12 train images cannot be used.*00003.*{reason}.*correct or"
        ) as error:
            fitted(shapes_copy)
        assert "\n" not in str(error.value)
    assert {path for path in shapes_copy.rglob("*") if path.suffix != ".cache"} == before


def test_all_images_bad(shapes_copy: Path) -> None:
    for image in (shapes_copy / "images/val").iterdir():
        image.write_bytes(b"")
    with pytest.raises(ValueError, match="none of the val images can be used") as error:
        module(shapes_copy).setup("validate")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("how", ["no files", "empty files"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_nothing_labelled(shapes_copy: Path, split: str, how: str) -> None:
    for label in (shapes_copy / "labels" / split).iterdir():
        label.unlink() if how == "no files" else label.write_text("")
    with pytest.raises(ValueError, match=f"no object is labelled in the {split} images"):
        fitted(shapes_copy)


def test_images_without_objects_are_fine(shapes_copy: Path) -> None:
    (shapes_copy / "labels/train/00000.txt").unlink()
    (shapes_copy / "labels/train/00001.txt").write_text("")
    assert len(fitted(shapes_copy).datasets["train"]) == 12


@pytest.mark.parametrize("cache", [b"", b"not a cache"])
def test_corrupt_cache_does_not_matter(shapes_copy: Path, cache: bytes) -> None:
    (shapes_copy / "labels/train.cache").write_bytes(cache)
    assert len(fitted(shapes_copy).datasets["train"]) == 12


def test_folder_that_cannot_be_written(shapes_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ultralytics_utils, "is_dir_writeable", lambda path: False)
    assert len(list(fitted(shapes_copy).train_dataloader())) == 3
    assert not list(shapes_copy.rglob("*.cache"))
