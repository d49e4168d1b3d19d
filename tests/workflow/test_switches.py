"""Lightning's own switches do in ``train.py`` what they do in any LightningCLI project, or one line says why not."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from lightning.pytorch.plugins.precision import HalfPrecision

from tests.helpers.hostile.pickles import write_small, write_tiny
from tests.helpers.hostile.refused import refused
from yolo_slim.commands.entry import main
from yolo_slim.detection.data.images import collate_labelled, in_precision
from yolo_slim.detection.data.shapes import CLASSES

TRUE = ("16-true", "bf16-true", "64-true")


@pytest.fixture
def data(tmp_path, monkeypatch, shapes_dir) -> list[str]:
    """The keys of tiny images; in the working folder lies tiny.ckpt, which knows their classes."""
    monkeypatch.chdir(tmp_path)
    write_tiny(tmp_path, CLASSES)
    keys = ["--data.data", str(shapes_dir / "data.yaml"), "--data.imgsz", "64", "--data.batch", "4"]
    return [*keys, "--data.workers", "0", "--trainer.accelerator", "cpu"]


def fit(data: list[str], *more: str, epochs: int = 1) -> list[str]:
    return ["fit", *data, "--model.weights", "tiny.ckpt", "--trainer.max_epochs", str(epochs), *more]


def left() -> set[str]:
    """What a fit has left in its run folder."""
    return {str(f.relative_to("runs/fit")) for f in Path("runs/fit").rglob("*") if f.is_file()}


def last_metrics() -> dict[str, float]:
    with Path("runs/fit/metrics.csv").open() as stream:
        return {k: float(v) for row in csv.DictReader(stream) for k, v in row.items() if v}


@pytest.mark.parametrize("precision", TRUE)
def test_a_fit_in_true_precision_loses_what_one_in_single_precision_does(data, precision):
    losses = {}
    for name in ("32-true", precision):
        Path("runs/fit").rename("runs/single") if Path("runs/fit").exists() else None
        main(fit(data, "--trainer.precision", name, "--model.hyp.optimizer", "SGD", "--data.augment.mosaic", "0"))
        losses[name] = last_metrics()
    for name in ("train/box_loss", "train/cls_loss", "val/box_loss", "val/cls_loss"):
        assert losses[precision][name] == pytest.approx(losses["32-true"][name], rel=0.03)
    state = torch.load("runs/fit/last.ckpt", weights_only=True)["state_dict"]
    assert all(value.isfinite().all() for value in state.values())


@pytest.mark.parametrize("precision", TRUE)
@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_true_precisions_in_the_other_verbs(data, verb, precision):
    main([verb, *data, "--model.weights", "tiny.ckpt", "--trainer.precision", precision])


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
@pytest.mark.parametrize("penalty", ["growing", "subgradient", "proximal"])
def test_sparse_phases_in_true_precision(data, penalty, precision):
    callback = ["--trainer.callbacks", "yolo_slim.callbacks.GammaSparsity", "--trainer.callbacks.penalty", penalty]
    keys = ["--trainer.callbacks.min_channels", "2", "--trainer.precision", precision]
    main(fit(data, *callback, *keys, epochs=2))


@pytest.mark.parametrize("precision", ["16-true", "bf16-true"])
def test_true_half_precision_does_not_round_labels(precision):
    boxes = torch.rand(3, 4)
    samples = [
        {"img": torch.zeros(3, 8, 8, dtype=torch.uint8), "cls": torch.full((3, 1), 301.0), "bboxes": boxes}
        | {"batch_idx": torch.zeros(3)}
        for _ in range(260)
    ]
    batch = HalfPrecision(precision).convert_input(collate_labelled(samples))
    batch = in_precision(batch, torch.bfloat16)
    assert torch.equal(batch["bboxes"], boxes.repeat(260, 1))
    assert set(batch["cls"].flatten().tolist()) == {301.0}
    assert batch["batch_idx"].max() == 259
    assert batch["img"].dtype is torch.bfloat16
    assert set(batch) == {"img", "cls", "bboxes", "batch_idx"}


def test_without_a_logger(data):
    main(fit(data, "--trainer.logger", "false"))
    assert left() == {"best.ckpt", "last.ckpt", "config.yaml"}


def test_without_checkpoints(data):
    main(fit(data, "--trainer.enable_checkpointing", "false"))
    assert not [name for name in left() if name.endswith(".ckpt")]
    assert "metrics.csv" in left()


@pytest.mark.parametrize(
    "keys",
    [
        ["save_top_k", "-1"],
        [
            "monitor",
            "val/map",
            "--trainer.callbacks.mode",
            "max",
            "--trainer.callbacks.save_top_k",
            "3",
        ],  # like best.ckpt
    ],
)
def test_an_own_checkpoint_that_is_like_one_of_ours(data, keys):
    own = ["--trainer.callbacks+=ModelCheckpoint", f"--trainer.callbacks.{keys[0]}", *keys[1:]]
    main(fit(data, *own, epochs=2))
    assert {"best.ckpt", "last.ckpt"} < left()
    assert len([name for name in left() if name.startswith("checkpoints/")]) == 2


def test_fast_dev_run_leaves_nothing(data):
    growing = ["--trainer.callbacks", "yolo_slim.callbacks.GammaSparsity", "--trainer.callbacks.penalty", "growing"]
    main(fit(data, "--trainer.fast_dev_run", "true", *growing, "--trainer.callbacks.min_channels", "2", epochs=5))
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    "keys",
    [
        ["--trainer.callbacks+=RichProgressBar"],
        ["--trainer.callbacks+=LearningRateMonitor"],
        ["--trainer.overfit_batches", "1"],
        ["--trainer.max_steps", "1"],
        ["--trainer.val_check_interval", "1"],
        ["--trainer.num_sanity_val_steps", "1"],
        ["--trainer.gradient_clip_val", "1", "--trainer.accumulate_grad_batches", "2"],
        ["--trainer.reload_dataloaders_every_n_epochs", "1"],
        ["--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", "own"],
        ["--trainer.plugins", "AsyncCheckpointIO"],
    ],
)
def test_other_switches_work(data, keys):
    main(fit(data, *keys))
    assert "last.ckpt" in left()


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (["--trainer.barebones", "true"], "trainer.barebones: nothing is logged or saved"),
        (["--trainer.default_root_dir", "x"], "--project and --name say where a run is"),
        (["--trainer.callbacks+=yolo_slim.callbacks.WeightEMA"], "more than one stateful callback of type `WeightEMA`"),
        (["--trainer.precision", "transformer-engine"], "transformer_engine"),
        (["--trainer.limit_train_batches", "0"], "no batches to train on"),
        (["--trainer.enable_checkpointing", "false", "--trainer.callbacks+=ModelCheckpoint"], "ModelCheckpoint"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(data, capsys, keys, expected):
    line = refused(capsys, fit(data, *keys))
    assert expected in line
    assert " object at 0x" not in line
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (["--trainer.fast_dev_run", "true"], "trainer.fast_dev_run: nothing is saved with it"),
        (["--trainer.barebones", "true"], "trainer.barebones: nothing is saved with it"),
        (["--trainer.limit_val_batches", "0"], "every phase is measured on validation images"),
    ],
)
def test_switches_that_a_recipe_cannot_do_with(data, capsys, keys, expected):
    assert expected in refused(capsys, ["slim", *data, *keys])
    assert not Path("runs").exists()


def test_a_recipe_in_true_precision_with_phases_that_are_not_validated(data, tmp_path):
    write_small(tmp_path)
    epochs = [word for phase in ("baseline", "sparse", "finetune") for word in (f"--{phase}.epochs", "2")]
    precision = ["--trainer.precision", "bf16-true", "--trainer.check_val_every_n_epoch", "3"]
    main(["slim", *data, "--model.model", "small.yaml", *epochs, *precision])
    assert Path("runs/slim/finetune/last.ckpt").is_file()
    assert Path("runs/slim/report.html").is_file()
