"""The whole recipe on the tiny built-in images: straight, interrupted, resumed, refused."""

from __future__ import annotations

import csv
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import Callback

from tests.helpers.held import in_another_process
from tests.helpers.hostile.pickles import write_small
from tests.helpers.hostile.refused import refused
from yolo_slim.commands.entry import main
from yolo_slim.detection.data.shapes import CLASSES
from yolo_slim.workflow import fit_parts, recipe

PHASES = ("baseline", "sparse", "prune", "finetune")


@pytest.fixture(scope="module")
def config(tmp_path_factory, shapes_dir) -> Path:
    hyp = {"optimizer": "AdamW", "lr0": 0.001, "nbs": 4, "warmup_epochs": 1.0}
    folder = tmp_path_factory.mktemp("config")
    settings = {
        "model": {"model": str(write_small(folder))},
        "data": {
            "data": str(shapes_dir / "data.yaml"),
            "imgsz": 64,
            "batch": 4,
            "workers": 0,
            "augment": {"close_mosaic": 1},
        },
        "trainer": {"accelerator": "cpu"},
        "baseline": {"epochs": 3, "hyp": hyp},
        "sparse": {"epochs": 3, "hyp": hyp, "sparsity": {"penalty": "growing"}},
        "prune": {"selection": {"ratio": 0.5}},
        "finetune": {"epochs": 1, "hyp": hyp},
    }
    file = folder / "slim.yaml"
    file.write_text(yaml.safe_dump(settings))
    return file


@pytest.fixture(scope="module")
def straight(tmp_path_factory, config) -> Path:
    """Run folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        main(["slim", "-c", str(config)])
    return folder / "runs" / "slim"


def results(run: Path) -> dict[str, dict]:
    return {phase: yaml.safe_load((run / phase / "result.yaml").read_text()) for phase in PHASES}


def weights(file: Path) -> dict[str, torch.Tensor]:
    return torch.load(file, weights_only=True)["state_dict"]


def test_four_states_in_order(straight):
    found = results(straight)
    assert [found[p]["state"] for p in PHASES] == ["baseline", "sparse", "slim", "finetuned"]
    assert found["baseline"]["small_gammas"] == 0
    assert found["sparse"]["small_gammas"] == pytest.approx(0.5, abs=0.01)
    assert found["prune"]["parameters"] == found["finetune"]["parameters"] < 0.4 * found["baseline"]["parameters"]
    assert found["prune"]["gflops"] < 0.8 * found["baseline"]["gflops"]
    # What the sparse phase prepared, the prune removes without a loss.
    for score in ("map", "map50", "precision", "recall"):
        assert found["prune"][score] == pytest.approx(found["sparse"][score], abs=1e-6)


def test_results_are_written(straight):
    *tables, classes = (straight / "results.md").read_text().split("\n\n")
    for table in tables:
        states = [line.split("|")[1].strip() for line in table.splitlines()[2:]]
        assert states == ["baseline", "sparse", "slim", "finetuned"]
    installed = [name for name in ("onnxruntime", "openvino") if find_spec(name)]
    if installed and find_spec("onnx"):
        assert [cell.strip() for cell in tables[1].splitlines()[0].split("|")[1:-1]] == ["State", "torch", *installed]
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in classes.splitlines()]
    assert lines[0] == ["Class (mAP50-95)", "baseline", "sparse", "slim", "finetuned", "Change"]
    assert [line[0] for line in lines[2:]] == list(CLASSES)
    page = (straight / "report.html").read_text()
    assert page.count("<details><summary>mAP50-95 of each class</summary>") == 1
    assert page.count("data:image/png;base64") == 2
    assert "model.2.cv1.bn" in page
    assert {"gammas.png", "curves.png", "recipe.yaml"} <= {f.name for f in straight.iterdir()}


def test_complete_runs_are_not_trained_again(straight, config, monkeypatch, capsys):
    before = {p: (straight / p / "result.yaml").stat().st_mtime_ns for p in PHASES}
    monkeypatch.chdir(straight.parents[1])
    main(["slim", "-c", str(config)])
    assert {p: (straight / p / "result.yaml").stat().st_mtime_ns for p in PHASES} == before
    assert "finetuned" in capsys.readouterr().out


def power_cut(*args):
    raise OSError("power cut")


class Break(Callback):
    """The machine goes down at the start of the third epoch."""

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 2:
            power_cut()


def test_interrupted_in_a_phase_and_between_phases_equals_straight(straight, config, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "slim"

    with monkeypatch.context() as patch:
        watchers = fit_parts.watchers
        patch.setattr(fit_parts, "watchers", lambda *a: [*watchers(*a), Break()])
        with pytest.raises(SystemExit):
            main(["slim", "-c", str(config)])
    assert "error: power cut" in capsys.readouterr().err
    assert (run / "baseline" / "last.ckpt").is_file()
    assert not (run / "baseline" / "result.yaml").exists()

    with monkeypatch.context() as patch:
        patch.setattr(recipe, "prune_file", power_cut)
        with pytest.raises(SystemExit):
            main(["slim", "-c", str(config), "--finetune.epochs", "2", "--prune.compensation", "none"])
    assert (run / "sparse" / "result.yaml").is_file()
    # What has been given for phases that have not begun may be corrected.
    sparse = (run / "sparse" / "last.ckpt").stat().st_mtime_ns

    main(["slim", "-c", str(config)])
    assert (run / "sparse" / "last.ckpt").stat().st_mtime_ns == sparse
    for phase, file in (("baseline", "last.ckpt"), ("sparse", "last.ckpt"), ("finetune", "last.ckpt")):
        one, other = weights(straight / phase / file), weights(run / phase / file)
        assert all(torch.equal(one[k], other[k]) for k in one), phase
    assert results(run)["finetune"]["map"] == results(straight)["finetune"]["map"]
    # The curve has all epochs, those before the interruption included.
    with (run / "baseline" / "metrics.csv").open() as stream:
        assert [row["epoch"] for row in csv.DictReader(stream) if row["val/map"]] == ["0", "1", "2"]


def test_phases_can_be_switched_off(straight, config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["--baseline.enabled", "false", "--model.weights", str(straight / "baseline" / "best.ckpt")]
    main(["slim", "-c", str(config), *arguments, "--sparse.enabled", "false", "--prune.selection.ratio", "0.3"])
    run = tmp_path / "runs" / "slim"
    assert sorted(p.parent.name for p in run.glob("*/result.yaml")) == ["baseline", "finetune", "prune"]
    assert not (run / "baseline" / "best.ckpt").exists()
    asked = yaml.safe_load((run / "prune" / "pruning.yaml").read_text())
    assert (asked["asked"], asked["reached"]) == (0.3, pytest.approx(0.3, abs=0.01))


def test_other_settings_under_the_same_name_are_refused(straight, config, monkeypatch, capsys):
    monkeypatch.chdir(straight.parents[1])
    assert "holds a finetune phase with other settings (finetune.epochs: 1 there, 7 here)" in refused(
        capsys, ["slim", "-c", str(config), "--finetune.epochs", "7"]
    )
    message = refused(capsys, ["slim", "-c", str(config), "--prune.selection.ratio", "0.4"])
    assert "holds a sparse phase with other settings (prune.selection.ratio: 0.5 there, 0.4 here)" in message
    settings = (straight / "recipe.yaml").read_text()
    main(["slim", "-c", str(config), "--data.workers", "1"])  # a matter of the machine
    assert "workers: 1" in (straight / "recipe.yaml").read_text()
    main(["slim", "-c", str(config)])
    assert (straight / "recipe.yaml").read_text() == settings


def test_a_run_that_is_going_on_is_not_started_twice(straight, config, monkeypatch, capsys):
    monkeypatch.chdir(straight.parents[1])
    with in_another_process(straight):
        assert "another process is running in runs/slim" in refused(capsys, ["slim", "-c", str(config)])
    main(["slim", "-c", str(config)])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--sparse.epochs", "0"], "sparse.epochs=0: expected at least 1"),
        (
            ["--prune.latency.runtime", "tensorrt", "--prune.selection.max_latency", "60%"],
            "latency.runtime=tensorrt",
        ),
        (["--prune.selection.ignore", "[model.*]"], "no prunable gamma"),
        (["--prune.selection.max_params", "0.1%"], "max_params"),
        (["--finetune.hyp.lr0", "0"], "hyp.lr0=0"),
    ],
)
def test_later_phases_are_asked_before_the_first_step(config, tmp_path, monkeypatch, capsys, arguments, expected):
    monkeypatch.chdir(tmp_path)
    assert expected in refused(capsys, ["slim", "-c", str(config), *arguments])
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("recipe.yaml", "give this run another --name"),
        ("baseline/result.yaml", "delete it and start again"),
        ("finetune/result.yaml", "delete it and start again"),
        ("prune/pruning.yaml", "delete it, and the page comes without"),
    ],
)
@pytest.mark.parametrize("how", ["empty", "cut"])
def test_a_damaged_file_of_an_earlier_start(straight, config, monkeypatch, capsys, file, expected, how):
    monkeypatch.chdir(straight.parents[1])
    raw = (straight / file).read_bytes()
    before = sorted(straight.rglob("*"))
    (straight / file).write_bytes(b"" if how == "empty" else raw[:20])
    try:
        with pytest.raises(SystemExit) as stop:
            main(["slim", "-c", str(config)])
    finally:
        (straight / file).write_bytes(raw)
    assert stop.value.code == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert file in line
    assert expected in line
    assert sorted(straight.rglob("*")) == before


def test_the_other_checkpoint_of_a_phase_takes_the_place_of_a_damaged_one(straight, config, monkeypatch, capsys):
    monkeypatch.chdir(straight.parents[1])
    names = ("baseline/best.ckpt", "sparse/last.ckpt", "prune/slim.ckpt", "finetune/best.ckpt")
    raw = {name: (straight / name).read_bytes() for name in names}
    slim = torch.load(straight / "prune/slim.ckpt", weights_only=True)["state_dict"]
    for name, content in raw.items():
        (straight / name).write_bytes(content[: len(content) // 2])
    try:
        main(["slim", "-c", str(config)])
        again = torch.load(straight / "prune/slim.ckpt", weights_only=True)["state_dict"]
    finally:
        for name, content in raw.items():
            (straight / name).write_bytes(content)
    said = "".join(capsys.readouterr())
    for name, other in (("baseline/best", "last"), ("sparse/last", "best"), ("finetune/best", "last")):
        assert f"{name}.ckpt" in said
        assert f"{name.split('/')[0]}/{other}.ckpt takes its place" in said
    assert "slim.ckpt" in said
    assert "pruned again" in said
    assert {name: value.shape for name, value in again.items()} == {name: value.shape for name, value in slim.items()}


def test_a_phase_without_a_sound_checkpoint_says_what_to_delete(straight, config, monkeypatch, capsys):
    monkeypatch.chdir(straight.parents[1])
    files = [straight / "baseline" / name for name in ("best.ckpt", "last.ckpt")]
    raw = [file.read_bytes() for file in files]
    for file in files:
        file.write_bytes(b"")
    try:
        with pytest.raises(SystemExit):
            main(["slim", "-c", str(config)])
    finally:
        for file, content in zip(files, raw, strict=True):
            file.write_bytes(content)
    assert "delete runs/slim/baseline to have that phase run again" in capsys.readouterr().err


def test_interrupted_by_the_user_goes_on(config, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def key(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fit_parts.EpochLines, "on_train_epoch_start", key, raising=False)
        with pytest.raises(SystemExit) as stop:
            main(["slim", "-c", str(config)])
    assert stop.value.code == 130
    assert "error: interrupted; the same command goes on" in capsys.readouterr().err
    main(["slim", "-c", str(config)])
    printed = capsys.readouterr().out
    assert "epoch 1/3" not in printed.partition("== sparse")[0]
    assert sorted(results(tmp_path / "runs" / "slim")) == sorted(PHASES)


def test_a_folder_of_something_else_is_refused(config, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "slim").mkdir(parents=True)
    (tmp_path / "runs" / "slim" / "thesis.txt").write_text("precious")
    with pytest.raises(SystemExit):
        main(["slim", "-c", str(config)])
    assert "exists and is no run of 'slim'" in capsys.readouterr().err
    assert [f.name for f in (tmp_path / "runs" / "slim").iterdir()] == ["thesis.txt"]
