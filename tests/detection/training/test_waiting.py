"""What a training step reads back from the device: on a GPU each such read waits for all that was asked for before."""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Callback
from torch.utils._python_dispatch import TorchDispatchMode

from tests.helpers.detectors import data_for, detector_for, trainer_for
from yolo_slim.callbacks import FreshStatistics, GammaMonitor, GammaSparsity, WeightEMA
from yolo_slim.detection import Hyperparameters

#: Operations whose result, or its size, Python needs.
READS = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "_unique2", "masked_select", "index")
#: Ultralytics' loss reads: sizes of the labels, anchors, which anchors are taken.
LOSS = ("ultralytics/utils/loss.py", "ultralytics/utils/tal.py")
#: What lives on the CPU whatever the device, counts of steps and the choice of channels; and what a CPU alone reads.
ON_CPU = ("torch/optim/", "training/divergence.py", "callbacks/weight_ema.py", "pruning/sparsity/growing.py")


class Reads(TorchDispatchMode):
    """Notes who reads, while it is told to."""

    def __init__(self):
        super().__init__()
        self.noting, self.found = False, []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.split("::")[1]
        masks = (
            [index for index in args[1] if index is not None and index.dtype == torch.bool] if name == "index" else 1
        )
        if self.noting and name in READS and masks:
            self.note(name)
        return function(*args, **(kwargs or {}))

    def note(self, name):
        lines = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_stack()[:-2]]
        self.found.append((name, lines))

    def strangers(self):
        """Reads that neither the loss does nor anything on the CPU; a line of the stack of each."""
        known = LOSS + ON_CPU
        return [
            (name, lines[-4:]) for name, lines in self.found if not any(k in line for k in known for line in lines[-8:])
        ]


class Window(Callback):
    """Has the third batch watched, from its arrival to the end of its step."""

    def __init__(self, reads):
        self.reads = reads

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.reads.noting = batch_idx == 2

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx == 2:
            self.reads.noting = False
            self.reads.watched = True


def watched(monkeypatch, folder, shapes_dir, callbacks, detector=None):
    reads = Reads()
    for method in ("cpu", "numpy", "tolist"):
        usual = getattr(torch.Tensor, method)

        def noted(tensor, *arguments, method=method, usual=usual, **keywords):
            if reads.noting:
                reads.note(method)
            return usual(tensor, *arguments, **keywords)

        monkeypatch.setattr(torch.Tensor, method, noted)
    data = data_for(shapes_dir, batch=2)
    detector = detector or detector_for(data, hyp=Hyperparameters(optimizer="AdamW", nbs=2))
    settings = {"max_epochs": 1, "limit_train_batches": 4, "limit_val_batches": 0, "gradient_clip_val": 10.0}
    trainer = trainer_for(folder, **settings, callbacks=[*callbacks, Window(reads)])
    with reads:
        trainer.fit(detector, data)
    assert reads.watched
    return reads


@pytest.mark.parametrize(
    "sparsity",
    [
        None,
        GammaSparsity("growing", ratio=0.5),
        *(GammaSparsity(p, 0.1, ratio=0.5) for p in ("proximal", "subgradient")),
    ],
    ids=lambda sparsity: "none" if sparsity is None else sparsity.penalty,
)
def test_a_step_waits_for_nothing_but_the_loss(monkeypatch, tmp_path, shapes_dir, sparsity):
    callbacks = [WeightEMA(), FreshStatistics(), GammaMonitor(), *([] if sparsity is None else [sparsity])]
    reads = watched(monkeypatch, tmp_path, shapes_dir, callbacks)
    assert reads.strangers() == []
    assert 0 < sum(any(part in line for part in LOSS for line in lines) for _, lines in reads.found) <= 10


class Reading(Callback):
    """What must not be: a look at the loss after each batch."""

    def on_before_zero_grad(self, trainer, pl_module: LightningModule, optimizer):
        float(trainer.lightning_module.net.model[0].conv.weight.sum())


def test_a_read_that_is_added_is_found(monkeypatch, tmp_path, shapes_dir):
    reads = watched(monkeypatch, tmp_path, shapes_dir, [Reading()])
    assert [name for name, _ in reads.strangers()] == ["_local_scalar_dense"]
    assert Path(__file__).name in str(reads.strangers())


def test_the_count_of_averaged_steps_stays_on_the_cpu(shapes_dir):
    """Meta stands for a device."""
    detector = detector_for(data_for(shapes_dir)).to("meta")
    average = WeightEMA()._start(detector)
    assert average.n_averaged.device.type == "cpu"
    assert {parameter.device.type for parameter in average.module.parameters()} == {"meta"}
