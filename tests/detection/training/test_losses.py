"""Losses beside that of the labels: of a teacher, and of plain images."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from tests.helpers.detectors import data_for, detector_for, trainer_for
from yolo_slim.callbacks import Distillation, GammaSparsity
from yolo_slim.detection.data.plain import training_batches
from yolo_slim.detection.training.hyperparameters import Hyperparameters


def test_a_detector_learns_from_a_teacher(tmp_path, shapes_dir):
    """It comes nearer to what the teacher says, where that counts more than the labels."""
    data = data_for(shapes_dir)
    hyp = Hyperparameters(optimizer="AdamW", lr0=1e-3, warmup_epochs=0, nbs=4)
    teacher, student = detector_for(data), detector_for(data, hyp=hyp)
    torch.manual_seed(1)
    for parameter in teacher.net.model[-1].parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    losses = []

    class Losses(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            losses.append(float(trainer.callback_metrics["distillation/outputs"]))

    trainer_for(tmp_path, max_epochs=4, callbacks=[Distillation(teacher, outputs=1000.0), Losses()]).fit(student, data)
    assert losses[-1] < 0.9 * losses[0]


def test_plain_losses_are_those_of_images_as_they_are(tmp_path, shapes_dir):
    data = data_for(shapes_dir)
    detector, seen = detector_for(data), []

    class Look(Callback):
        def on_train_start(self, trainer, pl_module):
            seen.extend(float(loss) for loss in pl_module.plain_losses())

    trainer_for(tmp_path, max_epochs=1, limit_train_batches=1, callbacks=[Look()]).fit(detector, data)
    batches = training_batches(data.fresh(), 16)
    detector = detector_for(data)
    expected = [float(detector.train().loss(batch)) for batch in batches]
    assert len(seen) == len(batches) > 1
    assert seen == pytest.approx(expected, rel=0.2)


def test_other_data_has_no_plain_losses(tmp_path, shapes_dir):
    """Channels are then chosen by the gradients of the first epoch."""
    data = data_for(shapes_dir)
    data.prepare_data()
    data.setup("fit")
    batches = [data.on_after_batch_transfer(batch, 0) for batch in data.train_dataloader()]
    loader = torch.utils.data.DataLoader(batches, collate_fn=lambda batches: batches[0])
    detector = detector_for(data)

    class Look(Callback):
        def on_train_start(self, trainer, pl_module):
            assert pl_module.plain_losses() is None

    sparsity = GammaSparsity("proximal", 1.0, choose="taylor")
    trainer_for(tmp_path, max_epochs=2, limit_train_batches=2, callbacks=[Look(), sparsity]).fit(detector, loader)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_channels_are_chosen_in_any_precision(tmp_path, shapes_dir, precision):
    data = data_for(shapes_dir)
    detector, sparsity = detector_for(data), GammaSparsity("growing", ratio=0.5)
    trainer = trainer_for(
        tmp_path, max_epochs=3, limit_train_batches=2, limit_val_batches=0, precision=precision, callbacks=[sparsity]
    )
    trainer.fit(detector, data)
    assert (sparsity.gammas_after == 0).float().mean() == pytest.approx(0.5, abs=0.05)
