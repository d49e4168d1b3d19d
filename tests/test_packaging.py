"""yolo_slim as a package: what is in it, and that it works where the checkout is not."""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.helpers.hostile.pickles import write_tiny
from tests.helpers.places import CONFIGS, ROOT
from yolo_slim.commands import main
from yolo_slim.commands.config_files import files_first, shipped_config
from yolo_slim.detection.data.shapes import CLASSES


def settings() -> configparser.ConfigParser:
    found = configparser.ConfigParser()
    found.read(ROOT / "setup.cfg")
    return found


def test_every_folder_is_a_package_of_the_distribution():
    folders = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "yolo_slim").rglob("*.py")}
    assert set(settings()["options"]["packages"].split()) == folders | {"yolo_slim.configs"}


def test_the_two_ways_to_start_it_are_the_same(tmp_path):
    said = [
        subprocess.run([sys.executable, *start, "--help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for start in (["train.py"], ["-m", "yolo_slim"])
    ]
    assert said[0].startswith("usage: train.py VERB")
    assert said[1].startswith("usage: python -m yolo_slim VERB")
    assert said[0] == said[1].replace("python -m yolo_slim", "train.py")
    assert settings()["options.entry_points"]["console_scripts"].strip() == "yolo-slim = yolo_slim.commands:main"


def test_shipped_configurations_are_found_by_name_from_anywhere(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert shipped_config("slim.yaml") == CONFIGS / "slim.yaml"
    for name in ("nothing.yaml", "configs/slim.yaml", "../configs/slim.yaml", "", "."):
        assert shipped_config(name) is None
    path = str(CONFIGS / "prune.yaml")
    for words in (["-c", "prune.yaml"], ["--config", "prune.yaml"], ["--config=prune.yaml"], ["-cprune.yaml"]):
        assert files_first(["prune", "--name", "x", *words]) == ["prune", "-c", path, "--name", "x"]
    write_tiny(tmp_path, CLASSES)
    main(["prune", "-c", "prune.yaml", "--model.weights", "tiny.ckpt", "--selection.min_channels", "1"])
    assert "asked: 50.0% of the channels" in capsys.readouterr().out


def test_a_file_that_is_here_comes_before_a_shipped_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("slim.yaml").write_text("name: mine")
    assert files_first(["slim", "-c", "slim.yaml"]) == ["slim", "-c", "slim.yaml"]


def test_a_name_that_is_nowhere_is_told_what_there_is(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["slim", "-c", "slm.yaml"])
    assert "slm.yaml does not exist; give a YAML file, or the name of one that comes" in capsys.readouterr().err


@pytest.mark.slow
def test_wheel_and_sdist_hold_what_is_needed_and_nothing_else(tmp_path):
    copy = tmp_path / "checkout"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(copy)], check=True)
    (copy / "out").mkdir()
    build = "from setuptools import build_meta as b; b.build_sdist('out'); b.build_wheel('out')"
    subprocess.run([sys.executable, "-c", build], cwd=copy, check=True, capture_output=True)
    (wheel,), (sdist,) = (copy / "out").glob("*.whl"), (copy / "out").glob("*.tar.gz")
    modules = {str(p.relative_to(copy)) for p in (copy / "yolo_slim").rglob("*.py")}
    configs = {f"yolo_slim/configs/{p.name}" for p in (copy / "configs").glob("*.yaml")}
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == modules | configs | {"yolo_slim/py.typed"}
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert modules | {"setup.cfg", "pyproject.toml", "README.md", "LICENSE"} <= names
    assert {f"configs/{p.name}" for p in (copy / "configs").glob("*.yaml")} <= names

    place = tmp_path / "installed"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(place), str(wheel)]
    subprocess.run(install, check=True)
    environment = {**os.environ, "PYTHONPATH": str(place)}
    write_tiny(tmp_path, CLASSES)
    for start in ([sys.executable, "-m", "yolo_slim"], [str(place / "bin" / "yolo-slim")]):
        command = [*start, "prune", "-c", "prune.yaml", "--model.weights", "tiny.ckpt", "--selection.min_channels", "1"]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "next: yolo-slim fit -c finetune.yaml --model.weights" in done.stdout
    where = [sys.executable, "-c", "import yolo_slim; print(yolo_slim.__file__)"]
    done = subprocess.run(where, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.startswith(str(place)), "the checkout was used instead"
