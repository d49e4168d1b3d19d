"""The command line as a user meets it: in a folder of one's own, on the tiny built-in images."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
import yaml

from tests.helpers.hostile.refused import refused
from tests.helpers.places import CONFIGS
from yolo_slim.commands.entry import main
from yolo_slim.workflow import fit_parts

TINY = ["--data.imgsz", "64", "--data.batch", "4", "--data.workers", "0"]
GROWING = ["--sparse.sparsity.penalty", "growing"]
QUICK = [
    "--trainer.max_epochs",
    "1",
    "--trainer.accelerator",
    "cpu",
    "--model.hyp.optimizer",
    "AdamW",
    "--model.hyp.nbs",
    "4",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory, shapes_dir):
    """A working folder with one trained run, and the data YAML to use there."""
    folder = tmp_path_factory.mktemp("work")
    data = ["--data.data", str(shapes_dir / "data.yaml"), *TINY]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        main(["fit", *data, *QUICK, "--name", "base line/1"])
    return folder, data


@pytest.fixture
def work(place, monkeypatch):
    folder, data = place
    monkeypatch.chdir(folder)
    return folder, data


def test_fit_leaves_checkpoints_logs_and_config_in_a_sanitised_folder(work):
    folder, _ = work
    run = folder / "runs" / "base-line-1"
    assert {"best.ckpt", "last.ckpt", "metrics.csv", "config.yaml"} <= {f.name for f in run.iterdir()}
    assert list(run.glob("events.out.tfevents*"))
    with (run / "metrics.csv").open() as stream:
        columns = next(csv.reader(stream))
    assert {"train/box_loss", "val/map", "val/map50", "gamma/median", "gamma/small"} <= set(columns)
    assert torch.load(run / "best.ckpt", weights_only=True)["hyper_parameters"]["imgsz"] == 64
    assert torch.load(run / "last.ckpt", weights_only=True)["epoch"] == 0


def test_histograms_are_in_tensorboard(work):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, _ = work
    events = EventAccumulator(str(folder / "runs" / "base-line-1"))
    events.Reload()
    assert "gamma" in events.Tags()["histograms"]


def test_a_second_run_of_the_same_name_gets_its_own_folder(work):
    folder, data = work
    before = (folder / "runs" / "base-line-1" / "best.ckpt").stat().st_mtime_ns
    main(["fit", *data, *QUICK, "--name", "base line/1"])
    assert (folder / "runs" / "base-line-1-2" / "best.ckpt").is_file()
    assert (folder / "runs" / "base-line-1" / "best.ckpt").stat().st_mtime_ns == before


def test_prune_validate_test_predict_and_finetune(work, capsys):
    folder, data = work
    main(["prune", "--model.weights", "runs/base-line-1/best.ckpt", "--selection.ratio", "0.4", "--imgsz", "64"])
    printed = capsys.readouterr().out
    assert "model.2.cv1.bn" in printed
    assert "removed 40.0%" in printed
    assert {"slim.ckpt", "plan.yaml", "pruning.yaml"} == {f.name for f in (folder / "runs" / "prune").iterdir()}

    slim = "runs/prune/slim.ckpt"
    main(["validate", *data, "--ckpt_path", slim])
    main(["test", *data, "--ckpt_path", slim])
    assert "test/map50" in capsys.readouterr().out

    main(["predict", *TINY, "--data.source", str(data[1]).replace("data.yaml", "images/val"), "--ckpt_path", slim])
    assert len(list((folder / "runs" / "predict" / "images").iterdir())) == 6

    main(["fit", "-c", str(CONFIGS / "finetune.yaml"), *data, *QUICK, "--model.weights", slim])
    slim_size = sum(v.numel() for v in torch.load(slim, weights_only=True)["state_dict"].values())
    tuned = torch.load("runs/finetune/best.ckpt", weights_only=True)["state_dict"]
    assert sum(v.numel() for v in tuned.values()) == slim_size


def test_prune_to_a_budget_with_importance_and_statistics_from_images(work, capsys):
    _, data = work
    base = ["--model.weights", "runs/base-line-1/best.ckpt", "--imgsz", "64", "--name", "budget", *data[:2]]
    how = ["--data.batch", "4", "--batches", "2", "--importance.kind", "taylor", "--importance.reduction", "sum"]
    how += ["--selection.max_flops", "5e7", "--selection.round_to", "4", "--recalibrate", "true"]
    main(["prune", *base, *how, "--compensation", "fold"])
    printed = capsys.readouterr().out
    report = yaml.safe_load(Path("runs/budget/pruning.yaml").read_text())
    assert "asked: at most 50,000,000 FLOPs" in printed
    assert 0.9 * 5e7 < report["flops_after"] <= 5e7
    assert all(layer["after"] % 4 == 0 for layer in report["layers"])
    assert report["compensation"]["folded"]
    statistics = {}
    for file in ("runs/base-line-1/best.ckpt", "runs/budget/slim.ckpt"):
        weights = torch.load(file, weights_only=True)["state_dict"]
        statistics[file] = weights["net.model.0.bn.running_mean"]
    kept = yaml.safe_load(Path("runs/budget/plan.yaml").read_text())["modules"]["model.0.bn"]["out"]["keep"]
    before, after = statistics.values()
    assert not torch.equal(before[kept], after)  # measured anew


def test_sparse_config_composes_with_the_users_own(work, tmp_path, capsys):
    folder, data = work
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"name": "mine", "model": {"hyp": {"lr0": 0.002}}}))
    arguments = ["-c", str(CONFIGS / "sparse.yaml"), "-c", str(tmp_path / "mine.yaml"), *data, *QUICK]
    main(["fit", *arguments, "--model.hyp.optimizer", "SGD", "--model.weights", "runs/base-line-1/best.ckpt"])
    assert "sparsity/slim_gflops" in capsys.readouterr().out
    assert (folder / "runs" / "mine" / "gammas.png").read_bytes().startswith(b"\x89PNG")
    saved = yaml.safe_load((folder / "runs" / "mine" / "config.yaml").read_text())
    assert saved["model"]["hyp"]["lr0"] == 0.002
    (callback,) = saved["trainer"]["callbacks"]
    assert callback["init_args"]["penalty"] == "proximal"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["fit", "--trainer.max_epoch", "3"], "unrecognized arguments: --trainer.max_epoch"),
        (["fit", "--model.lrr", "3"], "unrecognized arguments: --model.lrr"),
        (["slim", "--baseline.epoch", "3"], "unrecognized arguments: --baseline.epoch"),
        (["prune", "--selection.rat", "0.3"], "unrecognized arguments: --selection.rat"),
    ],
)
def test_unknown_and_abbreviated_keys(capsys, work, arguments, expected):
    _, data = work
    given = [*arguments, *(["--model.weights", "x"] if arguments[0] == "prune" else data)]
    assert expected in refused(capsys, given, status=2)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["fit"], "there is no data"),
        (["fit", "--data.data", "nothing.yaml"], "'nothing.yaml' was not found"),
        (["fit", "DATA", "--model.weights", "nothing.ckpt"], "weights file nothing.ckpt does not exist"),
        (["fit", "DATA", "--model.model", "yolov8q"], "model 'yolov8q' not found"),
        (["fit", "DATA", "--model.hyp.lr0", "-1"], "hyp.lr0=-1.0 is out of range"),
        (["fit", "DATA", "--data.imgsz", "100"], "imgsz=100: expected a positive multiple of 32 up to 8192"),
        (["validate", "DATA", "--ckpt_path", "nothing.ckpt"], "nothing.ckpt"),
        (["prune", "--model.weights", "nothing.ckpt"], "weights file nothing.ckpt does not exist"),
        (["prune", "--model.weights", "BASE", "--selection.ratio", "1"], "ratio=1"),
        (["prune", "--model.weights", "BASE", "--selection.ignore", '["nothing.*"]'], "'nothing.*' matches no"),
        (["prune", "--model.weights", "BASE", "--selection.max_params", "1000"], "max_params"),
        (["prune", "--model.weights", "BASE", "--selection.max_params", "0.1%"], "max_params="),
        (["prune", "--model.weights", "BASE", "--selection.max_flops", "half"], "max_flops='half'"),
        (["prune", "--model.weights", "BASE", "--selection.max_latency", "60"], "max_latency='60'"),
        (
            ["prune", "--model.weights", "BASE", "--latency.imgsz", "100"],
            "imgsz=100: expected a positive multiple of 32",
        ),
        (["prune", "--model.weights", "BASE", "--importance.kind", "taylor"], "needs training images: give --data"),
        (["prune", "--model.weights", "BASE", "--recalibrate", "true"], "needs training images: give --data.data"),
        (["prune", "--model.weights", "BASE", "--importance.kind", "l3"], "kind='l3'"),
        (["slim", "DATA", "--prune.selection.ratio", "1.5"], "ratio=1.5"),
        (
            ["slim", "DATA", *GROWING, "--prune.selection.max_latency", "9ms", "--prune.latency.runtime", "tensorrt"],
            "latency.runtime=tensorrt",
        ),
        (["slim", "DATA", "--prune.selection.ratios", '{"nothing.*": 0.5}'], "'nothing.*' matches no"),
        (["slim", "DATA", "--prune.selection.ignore", '["nothing.*"]'], "'nothing.*' matches no"),
        (["slim", "DATA", "--finetune.epochs", "0"], "finetune.epochs=0"),
        (["slim", "DATA", "--baseline.enabled", "false"], "give them as --model.weights"),
        (["slim", "DATA", "--project", "runs/base-line-1/best.ckpt"], "cannot make the run folder"),
        (["prune", "--model.weights", "BASE", "--imgsz", "100"], "imgsz=100"),
        (["fit", "DATA", "--trainer.max_epochs", "1", "--ckpt_path", "BASE"], "has been trained for 1 epochs"),
        (["fit", "DATA", "--model.hyp.optimizer", "foo"], "hyp.optimizer='foo'"),
        (["fit", "DATA", "--trainer.strategy", "foo"], "strategy='foo'"),
        (["fit", "DATA", "-c", "nothing.yaml"], "configuration file nothing.yaml does not exist"),
        (["validate", "DATA"], "there are no weights to validate"),
        (["predict", "DATA"], "there are no weights to predict"),
        (["validate", "DATA", "--ckpt_path", "runs/base-line-1/config.yaml"], "config.yaml is damaged"),
        (["test", "DATA", "--ckpt_path", "model.pt"], "give a .pt as --model.weights"),
        (["fit", "DATA", "--ckpt_path", "last"], "weights file last does not exist"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(capsys, work, arguments, expected):
    folder, data = work
    before = sorted(folder.rglob("*"))
    filled = []
    for argument in arguments:
        filled += data if argument == "DATA" else ["runs/base-line-1/best.ckpt" if argument == "BASE" else argument]
    assert expected in refused(capsys, filled)
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("workers", ["0", "2"])
def test_bad_image_stops_a_prediction(capsys, work, shapes_copy, workers):
    folder, _ = work
    images = shapes_copy / "images" / "val"
    sorted(images.iterdir())[-1].write_bytes(b"")
    before = sorted(folder.rglob("*"))
    arguments = ["predict", *TINY, "--data.batch", "1", "--data.workers", workers, "--data.source", str(images)]
    line = refused(capsys, [*arguments, "--ckpt_path", "runs/base-line-1/best.ckpt"])
    assert line.startswith("error: image ")
    assert "Traceback" not in line
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("verb", ["fit", "prune", "slim"])
def test_a_refusal_leaves_no_project_folder(capsys, monkeypatch, tmp_path, shapes_dir, verb):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.ckpt").write_text("no checkpoint")
    data = [] if verb == "prune" else ["--data.data", str(shapes_dir / "data.yaml"), *TINY]
    assert "x.ckpt is damaged" in refused(capsys, [verb, *data, "--model.weights", "x.ckpt"])
    assert [f.name for f in tmp_path.iterdir()] == ["x.ckpt"]


def test_wrong_key_of_a_callback_is_named(capsys, work, tmp_path):
    _, data = work
    callback = {"class_path": "yolo_slim.callbacks.GammaSparsity", "init_args": {"strenght": 1}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [callback]}}))
    line = refused(capsys, ["fit", *data, "-c", str(tmp_path / "mine.yaml")], status=2)
    assert "GammaSparsity': Option 'strenght' is not accepted" in line
    assert "Subtypes" not in line


def test_interrupted_fit_says_how_it_goes_on(capsys, work, monkeypatch):
    folder, data = work

    def key(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(fit_parts.EpochLines, "on_train_epoch_start", key, raising=False)
    line = refused(capsys, ["fit", *data, *QUICK, "--trainer.max_epochs", "3", "--name", "cut"], status=130)
    assert line == "error: interrupted; --ckpt_path runs/cut/last.ckpt goes on"
    assert (folder / "runs" / "cut" / "last.ckpt").is_file()


def test_bad_labels_stop_a_fit_before_it_leaves_anything(capsys, work, shapes_copy):
    folder, _ = work
    next((shapes_copy / "labels" / "train").glob("*.txt")).write_text("0 0.5 0.5 nonsense 0.1\n")
    before = sorted(folder.rglob("*"))
    assert ".txt" in refused(capsys, ["fit", "--data.data", str(shapes_copy / "data.yaml"), *TINY, *QUICK])
    assert sorted(folder.rglob("*")) == before
