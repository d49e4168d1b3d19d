"""What is looked at in data: each split is counted, what cannot be used is named at once, names are text."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image

from tests.helpers.detectors import trainer_for
from tests.helpers.hostile.refused import refused
from yolo_slim.commands.entry import main
from yolo_slim.detection.data import checks as data_checks
from yolo_slim.detection.data.datamodule import YOLODataModule
from yolo_slim.detection.data.images import ImageFolder
from yolo_slim.detection.training.detector import YOLODetector
from yolo_slim.detection.training.hyperparameters import Hyperparameters
from yolo_slim.documents import parse_yaml, read_yaml


def make(root: Path, train: int = 4, names: str = "[a, b]", ending: str = "png", size: int = 64, **keys: str) -> Path:
    """A data set, whose names stand in its YAML as they are written here."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("val", 2)):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            cv2.imwrite(str(root / "images" / split / f"{i}.{ending}"), rng.integers(0, 255, (size, size, 3), np.uint8))
            (root / "labels" / split / f"{i}.txt").write_text("0 0.5 0.5 0.25 0.25\n")
    lines = {"path": str(root), "train": "images/train", "val": "images/val", "names": names, **keys}
    (root / "data.yaml").write_text("".join(f"{key}: {value}\n" for key, value in lines.items()))
    return root / "data.yaml"


def set_up(data: Path, stage: str = "fit") -> YOLODataModule:
    module = YOLODataModule(str(data), imgsz=64, batch=2, workers=0)
    module.prepare_data()
    module.setup(stage)
    return module


def test_a_line_per_split_says_what_there_is(tmp_path, caplog):
    data = make(tmp_path, train=6)
    labels = tmp_path / "labels" / "train"
    (labels / "0.txt").unlink()
    (labels / "1.txt").rename(labels / "1.TXT")
    (labels / "2.txt").write_text("")
    (labels / "3.txt").write_text("0 0.5 0.5 0.25 0.25\n" * 3 + "1 0.5 0.5 0.25 0.25\n")
    with caplog.at_level("INFO"):
        set_up(data)
    lines = [record.getMessage() for record in caplog.records if "images," in record.getMessage()]
    assert lines == [
        "train: 6 images, 4 objects, 2 without a label file, 1 with an empty one, 2 duplicate labels dropped",
        "val: 2 images, 2 objects",
    ]


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def float_tiff(path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).random((64, 64)).astype(np.float32)).save(path)


@pytest.mark.parametrize(
    ("ending", "spoil"),
    [("bmp", cut), ("tif", cut), ("jp2", cut), ("tif", float_tiff), ("png", cut), ("webp", cut), ("png", os.remove)],
)
def test_an_image_that_training_cannot_read_is_named_before_it(tmp_path, ending, spoil):
    data = make(tmp_path, ending=ending)
    image = tmp_path / "images" / "train" / f"1.{ending}"
    spoil(image)
    if spoil is os.remove:
        image.symlink_to("nowhere")
    if ending == "tif" and spoil is float_tiff and cv2.imdecode(np.fromfile(image, np.uint8), 1) is not None:
        pytest.skip("this OpenCV decodes it")
    with pytest.raises((ValueError, FileNotFoundError), match=rf"train.*1\.{ending}"):
        set_up(data)


@pytest.mark.parametrize("place", ["images/train/1.png", "labels/train/1.txt"])
@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_a_pipe_or_folder_in_place_of_a_file_is_refused_at_once(tmp_path, place, kind):
    data = make(tmp_path)
    (tmp_path / place).unlink()
    (os.mkfifo if kind == "pipe" else os.mkdir)(tmp_path / place)
    with pytest.raises(ValueError, match="no ordinary file"):
        set_up(data)


@pytest.mark.parametrize("key", ["--data.data", "-c", "--ckpt_path", "--model.weights", "--model.model"])
def test_a_pipe_in_place_of_any_file_is_refused_at_once(tmp_path, monkeypatch, capsys, key):
    monkeypatch.chdir(tmp_path)
    ending = {"--data.data": ".yaml", "-c": ".yaml", "--ckpt_path": ".ckpt", "--model.weights": ".pt"}.get(key, ".pt")
    os.mkfifo(tmp_path / f"pipe{ending}")
    rest = [] if key == "--data.data" else ["--data.data=shapes"]
    line = refused(capsys, ["fit", *rest, key, f"pipe{ending}"])
    assert f"pipe{ending}" in line


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("[yes, no, on, off, null, ~, true]", ["yes", "no", "on", "off", "null", "~", "true"]),
        ("[007, 1e3, 2020-01-01, 0x1F, 1_000, .5]", ["007", "1e3", "2020-01-01", "0x1F", "1_000", ".5"]),
        ("{0: yes, 1: 'no'}", ["yes", "no"]),
        ("{'0': y, '1': n}", ["y", "n"]),
        ("[Car, car]", ["Car", "car"]),
    ],
)
def test_class_names_are_text_as_it_is_written(tmp_path, names, expected):
    module = set_up(make(tmp_path, names=names))
    assert list(module.names.values()) == expected
    assert list(module.datasets["train"].data["names"].values()) == expected


@pytest.mark.parametrize("names", ["['']", "[a, ]\nnc: 2", "{0: }", "[[a]]", "[{a: b}]", f"[{'x' * 300}]"])
def test_class_names_that_are_none(tmp_path, names):
    with pytest.raises(ValueError, match="data.yaml has"):
        set_up(make(tmp_path, names=names))


LAUGHS = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10)
)


@pytest.mark.parametrize(
    "text",
    [
        LAUGHS + "train: *a9\nval: x\nnames: [a]\n",
        LAUGHS + "train: x\nval: x\nnames: *a9\n",
        "train: " + "[" * 5000 + "]" * 5000,
        "train: &a [*a]\nval: x\nnames: [a]\n",
        "train: x\nval: x\nnc: 2000000000\n",
        f"train: x\nval: x\nnc: {2**200}\n",
        f"train: x\nval: x\nnc: {'9' * 5000}\n",
        "train: x\nval: x\nnames: {a: b, ? [x] : c}\n",
        "? {a: b}\n: c\n",
        "train: !!python/object/apply:os.system [x]\n",
        "\x00",
    ],
    ids=["laughs", "names", "deep", "itself", "classes", "many", "digits", "keys", "mapping", "object", "zero"],
)
def test_small_files_that_stand_for_more_than_can_be_held(tmp_path, monkeypatch, capsys, text):
    monkeypatch.chdir(tmp_path)
    Path("bad.yaml").write_text(text)
    for arguments in (["fit", "--data.data=bad.yaml"], ["fit", "-c", "bad.yaml"], ["prune", "-c", "bad.yaml"]):
        line = refused_any(capsys, arguments)
        assert len(line) < 1300
    line = refused_any(capsys, ["fit", "--data.data=shapes", "--model.model=bad.yaml"])
    assert len(line) < 1300
    assert not Path("runs").exists()


def refused_any(capsys, arguments: list[str]) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code in (1, 2)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    return line


def test_bounded_yaml_reads_what_is_ordinary(tmp_path):
    text = "a: &x {b: [1, 2.5, no]}\nc: *x\nnames: {0: no}\n"
    expected = yaml.safe_load(text)
    assert parse_yaml(text) == expected
    assert parse_yaml(text, texts=("names",))["names"] == {0: "no"}
    assert parse_yaml("") is None
    (tmp_path / "a.yaml").write_bytes(b"a: \xff")
    with pytest.raises(ValueError, match="no UTF-8 text"):
        read_yaml(tmp_path / "a.yaml")


def test_escape_sequences_do_not_reach_the_terminal(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for arguments in (
        ["prune", "--model.weights=\x1b]0;owned\x07\x1b[2J.ckpt"],
        ["fit", "--data.data=\x1b[31m.yaml"],
        ["\x1b[2J"],
        ["fit", "--data.data=shapes", "-c", "\x1b[2J.yaml"],
    ):
        with pytest.raises(SystemExit):
            main(arguments)
        said = capsys.readouterr().err
        assert "\x1b" not in said
        assert "\\x1b" in said


@pytest.mark.parametrize("source", ["folder", "list", "yaml list", "yaml list file"])
def test_predict_gives_every_image_results_of_its_own(tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    pictures = ["a/1.png", "b/1.png", "b/1.bmp", "b/deep/1.png"]
    for name in pictures:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / "in" / name), np.zeros((48, 64, 3), np.uint8))
    listed = tmp_path / "in" / "list.txt"
    listed.write_text("".join(f"./{name}\n" for name in [*pictures, "a/../a/1.png"]))  # one of them twice
    data = tmp_path / "data.yaml"
    val = "in/list.txt" if source == "yaml list file" else [f"in/{name}" for name in ("a", "b")]
    data.write_text(yaml.safe_dump({"path": str(tmp_path), "train": "in", "val": val, "names": ["a"]}))
    detector = YOLODetector(names={0: "a"}, imgsz=64)
    from yolo_slim.detection.files.checkpoints import save_weights

    save_weights(detector.net, tmp_path / "x.ckpt", imgsz=64)
    given = {"folder": "--data.source=in", "list": "--data.source=in/list.txt"}.get(source, f"--data.data={data}")
    main(["predict", "--ckpt_path=x.ckpt", given, "--data.workers=0", "--data.batch=2", "--trainer.accelerator=cpu"])
    run = tmp_path / "runs" / "predict"
    found = sorted(str(path.relative_to(run / "images")) for path in (run / "images").rglob("*.*"))
    assert found == sorted(pictures)
    labels = sorted(str(path.relative_to(run / "labels")) for path in (run / "labels").rglob("*.*"))
    assert labels == ["a/1.txt", "b/1.bmp.txt", "b/1.png.txt", "b/deep/1.txt"]


def test_a_pipe_among_the_images_of_predict_is_refused(tmp_path):
    os.mkfifo(tmp_path / "x.jpg")
    with pytest.raises(ValueError, match="x.jpg is no ordinary file"):
        ImageFolder(tmp_path, 64)


@pytest.mark.parametrize(("train", "batch", "steps"), [(5, 4, 1), (4, 4, 1), (6, 4, 2)])
def test_a_last_batch_of_one_image_of_a_single_cell_is_left_out(tmp_path, train, batch, steps):
    data = YOLODataModule(str(make(tmp_path, train=train)), imgsz=32, batch=batch, workers=0)
    hyp = Hyperparameters(optimizer="AdamW", nbs=batch)
    trainer = trainer_for(tmp_path, max_epochs=1, limit_val_batches=0)
    trainer.fit(YOLODetector(names=data.names, imgsz=32, hyp=hyp), datamodule=data)
    assert trainer.global_step == steps


def test_batches_of_one_image_of_a_single_cell_are_refused(tmp_path):
    data = YOLODataModule(str(make(tmp_path)), imgsz=32, batch=1, workers=0)
    with pytest.raises(ValueError, match=r"data.batch=1, 4 images of data.imgsz=32: BatchNorm needs more"):
        trainer_for(tmp_path, max_epochs=1).fit(YOLODetector(names=data.names, imgsz=32), datamodule=data)


def test_counted_is_of_what_is_used(shapes_dir):
    module = set_up(shapes_dir / "data.yaml", "validate")
    assert data_checks.counted(module.datasets["val"]).startswith("6 images, ")
