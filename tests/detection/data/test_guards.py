"""Data sets from elsewhere: nothing that comes with them is run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from yolo_slim.detection.data import checks as data_checks
from yolo_slim.detection.data import guards as data_guards
from yolo_slim.detection.data.datamodule import YOLODataModule
from yolo_slim.detection.trust import trusted


class Gadget:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.mkdir, (self.mark,)


def write_cache(path: Path, content: object) -> None:
    with path.open("wb") as file:
        np.save(file, np.array(content, dtype=object), allow_pickle=True)


def data_yaml(folder: Path, **keys: object) -> Path:
    file = folder / "data.yaml"
    file.write_text(yaml.safe_dump({"train": "images/train", "val": "images/val", "names": ["a"], **keys}))
    return file


@pytest.mark.parametrize("script", ["open('ran', 'w').close()", "bash -c touch ran", "import os; os.mkdir('ran')"])
def test_download_that_is_a_program_is_not_run(tmp_path, monkeypatch, script):
    monkeypatch.chdir(tmp_path)
    file = data_yaml(tmp_path, download=script)
    with pytest.raises(ValueError, match="its download is a program .* --trust"):
        data_checks.resolve(file, download=True)
    assert not (tmp_path / "ran").exists()


def test_trusted_download_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    script = "import os; [os.makedirs(f'images/{split}') for split in ('train', 'val')]"
    file = data_yaml(tmp_path, path=str(tmp_path), download=script)
    with trusted():
        info = data_checks.resolve(file, download=True)
    assert Path(info["val"]).is_dir()


def test_images_that_are_there_need_no_download(tmp_path):
    (tmp_path / "images" / "val").mkdir(parents=True)
    file = data_yaml(tmp_path, download="import os; os.mkdir('ran')")
    assert Path(data_checks.resolve(file, download=True)["val"]) == tmp_path / "images" / "val"


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x01\x00", b"\x80\x02r\x00\x00\x00\x10.", "gadget"])
def test_a_cache_of_labels_is_neither_read_nor_replaced(tmp_path, monkeypatch, content):
    """Whoever made the data may have made it, and numpy follows what a pickle says of memory."""
    monkeypatch.chdir(tmp_path)
    YOLODataModule(data="shapes", imgsz=64).prepare_data()
    cache = Path("datasets/shapes/labels/val.cache")
    assert not cache.exists()
    if content == "gadget":
        write_cache(cache, {"version": Gadget(tmp_path / "ran"), "hash": ""})
    else:
        cache.write_bytes(content)
    before = cache.read_bytes()
    module = YOLODataModule(data="datasets/shapes/data.yaml", imgsz=64)
    module.setup("validate")
    assert len(module.datasets["val"].labels) == 100
    assert cache.read_bytes() == before
    assert not (tmp_path / "ran").exists()


def test_a_process_looks_through_the_labels_once_and_sees_changes(shapes_copy, monkeypatch):
    looked = []
    monkeypatch.setattr(data_guards, "_trouble", lambda image, label: looked.append(image) or "")
    for _ in range(3):
        module = YOLODataModule(data=str(shapes_copy / "data.yaml"), imgsz=64)
        module.setup("validate")
        assert len(module.datasets["val"].labels) == 6
    assert len(looked) == 6
    module.datasets["val"].labels[0]["cls"][:] = 99  # what one fit does to its labels is its own
    again = YOLODataModule(data=str(shapes_copy / "data.yaml"), imgsz=64)
    again.setup("validate")
    assert (again.datasets["val"].labels[0]["cls"] < 5).all()
    label = next((shapes_copy / "labels" / "val").glob("*.txt"))
    label.write_text(label.read_text() + "0 0.5 0.5 0.25 0.25\n")
    again.setup("validate")
    assert len(looked) == 12
