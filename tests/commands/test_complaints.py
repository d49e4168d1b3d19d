"""What goes wrong around the program: one line says what, where and how to go on."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader

from tests.helpers.hostile.pickles import write_tiny
from tests.helpers.hostile.refused import refused
from tests.helpers.places import ROOT
from yolo_slim.commands.complaints import say_unforeseen
from yolo_slim.commands.entry import VERBS, Verb, main
from yolo_slim.detection import YOLODetector
from yolo_slim.detection.data.shapes import CLASSES
from yolo_slim.detection.training.divergence import LossWatch
from yolo_slim.workflow import fit_parts
from yolo_slim.workflow.signals import Stopped, heeded


@pytest.fixture
def command(tmp_path, monkeypatch, shapes_dir) -> list[str]:
    """A fit of two quick epochs in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    write_tiny(tmp_path, CLASSES)
    data = ["--data.data", str(shapes_dir / "data.yaml"), "--data.batch", "4", "--data.workers", "0"]
    return ["fit", *data, "--model.weights", "tiny.ckpt", "--trainer.accelerator", "cpu", "--trainer.max_epochs", "2"]


class Trouble(Callback):
    """Something happens after the first epoch."""

    def __init__(self, what):
        self.what = what

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.current_epoch == 1 and batch_idx == 0:
            self.what(trainer)


@pytest.fixture
def trouble(monkeypatch):
    def happens(what):
        watchers = fit_parts.watchers
        monkeypatch.setattr("yolo_slim.commands.fit.watchers", lambda *a: [*watchers(*a), Trouble(what)])

    return happens


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 130)])
def test_a_signal_ends_a_fit_in_one_line_that_says_how_it_goes_on(
    command, trouble, capsys, monkeypatch, tmp_path, name, status
):
    usual = signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL
    before = signal.signal(getattr(signal, name), usual)  # nohup, and shells in the background, ignore some
    trouble(lambda trainer: os.kill(os.getpid(), getattr(signal, name)))
    line = refused(capsys, command, status=status)
    how = "interrupted" if name == "SIGINT" else f"ended by {name}"
    assert line == f"error: {how}; --ckpt_path runs/fit/last.ckpt goes on"
    assert torch.load("runs/fit/last.ckpt", weights_only=True)["epoch"] == 0
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    main([*command, *line.partition("; ")[2].removesuffix(" goes on").split()])
    assert torch.load("runs/fit-2/last.ckpt", weights_only=True)["epoch"] == 1
    assert signal.signal(getattr(signal, name), before) is usual


def test_a_diverged_training_ends_before_its_weights_are_saved(command, trouble, capsys):
    def diverge(trainer):
        with torch.no_grad():
            next(trainer.lightning_module.net.parameters()).fill_(torch.nan)

    trouble(diverge)
    line = refused(capsys, command)
    assert "the training has diverged in epoch 2, batch 1: net.model.0.conv.weight is not finite" in line
    assert "lower hyp.lr0" in line
    assert line.endswith("--ckpt_path runs/fit/last.ckpt goes on")
    for file in Path("runs/fit").glob("*.ckpt"):
        saved = torch.load(file, weights_only=True)
        assert all(value.isfinite().all() for value in saved["state_dict"].values())


def test_weights_that_the_last_step_of_an_epoch_has_lost_are_not_saved(command, capsys, monkeypatch):
    usual = YOLODetector.optimizer_step

    def lose(self, *arguments, **keywords):
        usual(self, *arguments, **keywords)
        if self.trainer.current_epoch == 1 and self.trainer.is_last_batch:
            self.net.model[0].conv.weight.data.fill_(torch.nan)

    monkeypatch.setattr(YOLODetector, "optimizer_step", lose)
    line = refused(capsys, command)
    assert "the training has diverged in epoch 2: net.model.0.conv.weight is not finite" in line
    assert torch.load("runs/fit/last.ckpt", weights_only=True)["epoch"] == 0


@pytest.mark.parametrize("late", [False, True])
def test_a_loss_that_is_not_finite_names_its_batch(command, trouble, capsys, monkeypatch, late):
    """On a CPU before the step; on a GPU, whose losses are looked at later, once the next one is there."""
    steps = []
    monkeypatch.setattr(LossWatch, "_at_once", staticmethod(lambda device: not late))
    usual = YOLODetector.optimizer_step

    def counted(self, *arguments, **keywords):
        usual(self, *arguments, **keywords)
        steps.append(self.trainer.current_epoch)

    monkeypatch.setattr(YOLODetector, "optimizer_step", counted)
    whole = YOLODetector.outputs
    files = []

    def spoilt(self, images):
        outputs = whole(self, images)
        if self.training and len(steps) == 4:  # the second batch of the second epoch
            outputs["scores"] = outputs["scores"] * torch.nan
        return outputs

    monkeypatch.setattr(YOLODetector, "outputs", spoilt)
    trouble(lambda trainer: files.append(trainer.train_dataloader.dataset.dataset.im_files))
    line = refused(capsys, [*command, "--model.hyp.nbs", "4"])
    assert "the training has diverged in epoch 2, batch 2: box_loss, cls_loss, dfl_loss of " in line
    named = line.partition("_loss of ")[2].partition(" not finite")[0]
    assert len(named.split(", ")) == 4
    assert set(named.split(", ")) < set(files[0])
    assert line.endswith("--ckpt_path runs/fit/last.ckpt goes on")
    assert steps == [0, 0, 0, 1, *([1] if late else [])]
    assert torch.load("runs/fit/last.ckpt", weights_only=True)["epoch"] == 0


def test_large_weights_are_no_divergence(command, trouble):
    def enlarge(trainer):
        trainer.lightning_module.net.model[0].bn.running_var.fill_(1e30)

    trouble(enlarge)
    main(command)


def test_what_nobody_foresaw_is_one_line(command, trouble, capsys, monkeypatch):
    def fail(trainer):
        raise KeyError("what\x1b[31m")

    trouble(fail)
    line = refused(capsys, command)
    assert line.startswith("error: KeyError in ")
    assert "\x1b" not in line
    assert "YOLO_SLIM_DEBUG=1" in line
    assert line.endswith("--ckpt_path runs/fit/last.ckpt goes on")
    monkeypatch.setenv("YOLO_SLIM_DEBUG", "1")
    with pytest.raises(KeyError):
        main(command)


def test_signals_are_heeded_where_they_would_kill():
    def handler(number, frame):
        raise AssertionError

    before = signal.signal(signal.SIGHUP, handler)
    try:
        with heeded("SIGHUP", "SIGTERM", "SIGNONE"):
            assert signal.getsignal(signal.SIGHUP) is handler
            with pytest.raises(Stopped, match="ended by SIGTERM"):
                signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_trainer_at_work_ends_in_its_own_way():
    """Lightning calls the handler that was there before, too."""
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    seen = []
    try:
        with heeded("SIGTERM"):
            ours = signal.getsignal(signal.SIGTERM)
            signal.signal(signal.SIGTERM, lambda number, frame: (seen.append(number), ours(number, frame)))
            signal.raise_signal(signal.SIGTERM)
            assert seen == [signal.SIGTERM]
            signal.signal(signal.SIGTERM, ours)
            with pytest.raises(Stopped, match="ended by SIGTERM"):
                signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
@pytest.mark.parametrize("verb", VERBS)
def test_signals_are_heeded_before_there_is_a_trainer(verb, name, monkeypatch, capsys):
    before = signal.signal(getattr(signal, name), signal.SIG_DFL)
    monkeypatch.setattr(Verb, "load", lambda verb: lambda arguments: signal.raise_signal(getattr(signal, name)))
    status = 128 + getattr(signal, name)
    assert refused(capsys, [verb], status=status) == f"error: ended by {name}"
    signal.signal(getattr(signal, name), before)


class Killed(torch.utils.data.Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        os.kill(os.getpid(), signal.SIGKILL)


class Failing(Killed):
    def __getitem__(self, index):
        raise LookupError("image 7 has gone")


def first_batch(data):
    next(iter(DataLoader(data, num_workers=1)))


@pytest.mark.parametrize(
    ("cause", "expected"),
    [
        (lambda: torch.empty(2**60), "out of memory: lower data.batch"),
        (lambda: first_batch(Killed()), "a process that loads images has been killed"),
        (lambda: first_batch(Failing()), "LookupError in test_troubles.py|LookupError.*image 7 has gone"),
    ],
)
def test_real_errors_are_known_by_what_they_say(cause, expected):
    with pytest.raises(Exception) as caught:  # noqa: PT011
        cause()
    line = say_unforeseen(caught.value)
    assert len(line) < 700
    assert "\n" not in line
    assert re.search(expected, line), line


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), "out of memory: lower data.batch"),
        (MemoryError(), "out of memory"),
        (RuntimeError("[pair.cc:545] Read error [127.0.0.1]:53924: Connection reset by peer"), "another process of"),
        (RuntimeError("NCCL communicator was aborted on rank 1"), "another process of this training has ended"),
        (RuntimeError("DataLoader worker. This might be caused by insufficient shared memory (shm)."), "--shm-size"),
    ],
)
def test_errors_of_other_machines(error, expected):
    assert expected in say_unforeseen(error)


@pytest.mark.slow
def test_nobody_reads_the_output(command):
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    errors = process.stderr.read()
    assert process.wait() == 1
    assert "error: what reads the output has ended (broken pipe)" in errors
    assert "Traceback" not in errors
    assert "Exception ignored" not in errors
