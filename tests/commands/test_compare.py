"""``train.py compare`` as a user meets it: one table of several files, or one line and nothing left behind."""

from __future__ import annotations

import csv
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from matplotlib.image import imread

from tests.helpers.export_nets import lively, shapes_images
from tests.helpers.hostile.pickles import write_tiny
from tests.helpers.hostile.refused import refused
from yolo_slim.commands.entry import main
from yolo_slim.detection import YOLODataModule, save_ultralytics
from yolo_slim.detection.data.shapes import CLASSES
from yolo_slim.detection.files.checkpoints import save_weights
from yolo_slim.detection.files.weights import load_network
from yolo_slim.detection.network.build import fit_classes
from yolo_slim.workflow import compare, comparing, size_of

SCORES = ("precision", "recall", "map50", "map")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, shapes_dir: Path) -> Path:
    """A working folder: dense.ckpt and a copy of it, the same with its classes in reverse, slim.pt, other classes."""
    folder = tmp_path_factory.mktemp("work")
    images = shapes_images(shapes_dir)
    dense = lively(images).net
    save_weights(dense, folder / "dense.ckpt", imgsz=64)
    save_ultralytics(lively(images, 0.6).net, folder / "slim.pt", imgsz=32)
    fit_classes(dense, dict(enumerate(reversed(CLASSES))))
    save_weights(dense, folder / "reversed.ckpt", imgsz=64)
    (folder / "copy").mkdir()
    shutil.copy(folder / "dense.ckpt", folder / "copy" / "dense.ckpt")
    write_tiny(folder, ["car", "bus"])
    return folder


@pytest.fixture
def work(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    return place


@pytest.fixture(scope="session")
def data(shapes_dir: Path) -> list[str]:
    return ["--data.data", str(shapes_dir / "data.yaml"), "--data.batch", "3"]


@pytest.fixture
def untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits for runtimes; each file takes another time."""
    monkeypatch.setattr(
        comparing, "deployed_latencies", lambda paths, imgsz: {"torch": {key: 1.0 + i for i, key in enumerate(paths)}}
    )


def table(name: str, file: str = "compare.csv") -> list[dict[str, str]]:
    with Path("runs", name, file).open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_one_table_of_two_files(work, data, capsys):
    main(["compare", "dense.ckpt", "slim.pt", *data, "--name", "two", "--per_class"])
    printed = capsys.readouterr().out
    run = work / "runs" / "two"
    assert {file.name for file in run.iterdir()} == {"compare.csv", "compare.md", "compare.png", "classes.csv"}
    assert "Images of 64 pixels are used for all files, those of dense.ckpt; slim.pt is for 32.\n" in printed
    dense, slim = rows = table("two")
    for row, file in zip(rows, ("dense.ckpt", "slim.pt"), strict=True):
        size = size_of(load_network(file), 64)
        assert (row["name"], row["file"]) == (file, file)
        assert (int(row["parameters"]), float(row["gflops"])) == (size.parameters, size.gflops)
        assert float(row["megabytes"]) == Path(file).stat().st_size / 1e6
        assert float(row["torch_ms"]) > 0
        assert 0 < float(row["map"]) < float(row["map50"]) < 1
    assert float(slim["parameters"]) < 0.5 * float(dense["parameters"])
    runtimes = ["torch", *(name for name in ("onnxruntime", "openvino") if find_spec(name) and find_spec("onnx"))]
    assert [name for name in dense if name.endswith("_ms")] == [f"{name}_ms" for name in runtimes]

    text = (run / "compare.md").read_text()
    figures, note, classes, picture = text.split("\n\n")
    header, _, *lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in figures.splitlines()]
    assert header == ["File", "Params", "GFLOPs", "Size", *runtimes, "Precision", "Recall", "mAP50", "mAP50-95"]
    assert [line[0] for line in lines] == ["dense.ckpt", "slim.pt"]
    change = float(slim["map"]) - float(dense["map"])
    assert lines[1][-1] == f"{float(slim['map']):.3f} ({change:+.3f})"
    assert "a side of 64 pixels" in note
    assert "(compare.png)" in picture
    assert imread(run / "compare.png").shape[2] == 4

    by_class = table("two", "classes.csv")
    assert sorted(row["class"] for row in by_class) == sorted(CLASSES)
    assert [line.split("|")[1].strip() for line in classes.splitlines()[2:]] == [row["class"] for row in by_class]
    changes = [float(row["change"]) for row in by_class if row["change"]]
    assert changes == sorted(changes)
    assert changes[0] < 0
    for row in by_class[: len(changes)]:
        assert float(row["change"]) == float(row["slim.pt"]) - float(row["dense.ckpt"])
    for name, whole in (("dense.ckpt", dense), ("slim.pt", slim)):
        known = [float(row[name]) for row in by_class if row[name]]
        assert sum(known) / len(known) == pytest.approx(float(whole["map"]), abs=1e-6)  # logged in single precision
    for words in ("slim.pt", f"{float(slim['map']):.3f}", by_class[0]["class"], "Change", "Everything is in runs/two"):
        assert words in printed


def test_the_figures_are_those_of_validate(work, data, untimed, capsys):
    main(["compare", "slim.pt", "dense.ckpt", *data, "--name", "valid"])
    for row in table("valid"):
        weights = ["--model.weights", row["file"], "--data.imgsz", "32", "--trainer.accelerator", "cpu"]
        capsys.readouterr()
        main(["validate", *data, *weights, "--data.workers", "0"])
        printed = {
            line.split()[1]: line.split()[-2] for line in capsys.readouterr().out.splitlines() if " val/" in line
        }
        for name in SCORES:
            assert float(row[name]) == pytest.approx(float(printed[f"val/{name}"]), abs=1e-6)


def test_the_same_twice_differs_by_exactly_nothing(work, data, capsys):
    main(["compare", "dense.ckpt", "dense.ckpt", "copy/dense.ckpt", *data, "--name", "same", "--per_class", "true"])
    rows = table("same")
    assert [row.pop("name") for row in rows] == ["dense.ckpt", "dense.ckpt (2)", "copy/dense.ckpt"]
    assert [row.pop("file") for row in rows] == ["dense.ckpt", "dense.ckpt", "copy/dense.ckpt"]
    assert rows[0] == rows[1] == rows[2]
    assert {row["change"] for row in table("same", "classes.csv")} == {"0.0"}
    assert "%" not in (work / "runs" / "same" / "compare.md").read_text()
    assert capsys.readouterr().out.count(": mAP50-95 0.") == 1  # it was measured once


def test_the_order_of_the_classes_in_a_file_does_not_matter(work, data, untimed, capsys):
    main(["compare", "dense.ckpt", "reversed.ckpt", *data, "--name", "order", "--per_class"])
    assert "reversed.ckpt: the classes are those of the file in another order" in capsys.readouterr().out
    assert torch.load("dense.ckpt", weights_only=True)["hyper_parameters"]["names"][0] == CLASSES[0]
    assert torch.load("reversed.ckpt", weights_only=True)["hyper_parameters"]["names"][0] == CLASSES[-1]
    one, other = table("order")
    assert [one[name] for name in SCORES] == [other[name] for name in SCORES]
    assert {row["change"] for row in table("order", "classes.csv")} == {"0.0"}


def test_other_images_another_size_and_a_configuration(work, shapes_copy, untimed, capsys):
    shutil.move(shapes_copy / "images" / "train", shapes_copy / "images" / "test")
    shutil.move(shapes_copy / "labels" / "train", shapes_copy / "labels" / "test")
    described = shapes_copy / "data.yaml"
    described.write_text(described.read_text().replace("images/train", "images/val") + "test: images/test\n")
    Path("mine.yaml").write_text(
        f"weights: [dense.ckpt, slim.pt]\nimgsz: 96\nsplit: test\nname: test\nper_class: true\n"
        f"data: {{data: {described}, batch: 3}}\n"
    )
    main(["compare", "-c", "mine.yaml"])
    printed = capsys.readouterr().out
    assert (
        "Images of 96 pixels are used for all files, as asked for; dense.ckpt is for 64, slim.pt is for 32" in printed
    )
    assert "Scores on the test images of" in (work / "runs" / "test" / "compare.md").read_text()
    rows = table("test")
    main(["compare", "dense.ckpt", "slim.pt", "--imgsz", "96", "--name", "valid96", "--data.data", str(described)])
    assert [row["gflops"] for row in table("valid96")] == [row["gflops"] for row in rows]
    assert [row["map"] for row in table("valid96")] != [row["map"] for row in rows]
    assert not (work / "runs" / "valid96" / "classes.csv").exists()


def test_from_python(work, shapes_dir, untimed, tmp_path):
    data = YOLODataModule(str(shapes_dir / "data.yaml"), batch=3)
    rows, note = compare(["slim.pt", "dense.ckpt"], data, tmp_path / "out")
    assert [(row.name, len(row.classes)) for row in rows] == [("slim.pt", 5), ("dense.ckpt", 5)]
    assert "a side of 32 pixels" in note
    with pytest.raises(ValueError, match="out is not empty; give an empty folder"):
        compare(["slim.pt", "dense.ckpt"], data, tmp_path / "out")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["dense.ckpt", "DATA"], "compare takes two files or more, got dense.ckpt: give the checkpoints"),
        (["dense.ckpt", "slim.pt"], "there is no data: give --data.data"),
        (["dense.ckpt", "no.ckpt", "DATA"], "weights file no.ckpt does not exist"),
        (["no.pt", "dense.ckpt", "DATA"], "weights file no.pt does not exist"),
        (["dense.ckpt", "", "DATA"], "weights is empty: give a path"),
        (["dense.ckpt", "tiny.ckpt", "DATA"], "tiny.ckpt does not know circle, triangle, rectangle, star, ... (5 in"),
        (["dense.ckpt", "slim.pt", "DATA", "--imgsz", "100"], "imgsz=100: expected a positive multiple of 32"),
        (["dense.ckpt", "slim.pt", "--data.data", "no.yaml"], "'no.yaml' was not found"),
        (["dense.ckpt", "slim.pt", "DATA", "--project", "slim.pt"], "cannot make the run folder"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(work, data, capsys, arguments, expected):
    before = sorted(work.rglob("*"))
    given = [word for argument in arguments for word in (data if argument == "DATA" else [argument])]
    assert expected in refused(capsys, ["compare", *given])
    assert sorted(work.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "weights"),
        (["dense.ckpt", "slim.pt", "--split", "train"], "split"),
        (["dense.ckpt", "slim.pt", "--per_clas"], "unrecognized arguments: --per_clas"),
        (["--per_class", "dense.ckpt", "slim.pt"], "per_class"),
    ],
)
def test_unknown_keys_and_values(work, data, capsys, arguments, expected):
    line = refused(capsys, ["compare", *arguments, *data], status=2)
    assert expected in line
    assert "compare --help" in line


def test_a_bad_image_leaves_nothing(work, shapes_copy, capsys):
    sorted((shapes_copy / "images" / "val").iterdir())[0].write_bytes(b"no image")
    before = sorted(work.rglob("*"))
    assert "cannot be used" in refused(
        capsys, ["compare", "dense.ckpt", "slim.pt", "--data.data", str(shapes_copy / "data.yaml")]
    )
    assert sorted(work.rglob("*")) == before


def test_help_explains_every_key(capsys):
    main(["compare", "--help", "all"])
    printed = " ".join(capsys.readouterr().out.split())
    for words in (
        "--imgsz",
        "--split {val,test}",
        "--per_class",
        "--data.data",
        "Two or more checkpoints",
        "--project",
    ):
        assert words in printed
