"""Data sets from elsewhere: nothing that comes with them is run."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import yaml

from yolo_slim.detection import data_checks, data_guards
from yolo_slim.detection.data import YOLODataModule
from yolo_slim.detection.opening import trusted


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


def test_hostile_cache_is_replaced_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    YOLODataModule(data="shapes", imgsz=64).prepare_data()
    file = Path("datasets/shapes/data.yaml")
    module = YOLODataModule(data=str(file), imgsz=64)
    module.setup("validate")
    labels = len(module.datasets["val"].labels)
    cache = next(Path("datasets/shapes").rglob("val.cache"))
    write_cache(cache, {"version": Gadget(tmp_path / "ran"), "hash": ""})
    module.setup("validate")
    assert not (tmp_path / "ran").exists()
    assert len(module.datasets["val"].labels) == labels
    assert "hash" in data_guards.read_label_cache(cache)


def test_caches_of_ultralytics_are_used(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    YOLODataModule(data="shapes", imgsz=64).prepare_data()
    module = YOLODataModule(data="datasets/shapes/data.yaml", imgsz=64)
    module.setup("validate")
    cache = next(Path("datasets/shapes").rglob("val.cache"))
    written = cache.stat().st_mtime_ns
    expected = np.load(cache, allow_pickle=True).item()
    module.setup("validate")
    found = data_guards.read_label_cache(cache)
    assert found["hash"] == expected["hash"]
    assert len(found["labels"]) == len(expected["labels"])
    np.testing.assert_array_equal(found["labels"][0]["bboxes"], expected["labels"][0]["bboxes"])
    assert cache.stat().st_mtime_ns == written


def test_cache_with_anything_else_is_refused(tmp_path):
    write_cache(tmp_path / "x.cache", {"hash": Gadget(tmp_path / "ran")})
    with pytest.raises(pickle.UnpicklingError, match="mkdir|getattr|pathlib"):
        data_guards.read_label_cache(tmp_path / "x.cache")
    assert not (tmp_path / "ran").exists()
