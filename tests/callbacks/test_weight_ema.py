from __future__ import annotations

import copy
import math

import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from tests.helpers.toy_module import ToyClassifier, toy_loader, toy_trainer
from yolo_slim.callbacks import ChannelPruning, WeightEMA


class Reference(Callback):
    """The textbook formula with Ultralytics' ramp, computed beside the callback."""

    def __init__(self, decay, tau):
        self.decay, self.tau, self.n = decay, tau, 0

    def on_train_start(self, trainer, pl_module):
        self.average = copy.deepcopy(pl_module.state_dict())

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.n += 1
        d = self.decay * (1 - math.exp(-self.n / self.tau))
        for key, value in pl_module.state_dict().items():
            self.average[key] = d * self.average[key] + (1 - d) * value if value.is_floating_point() else value.clone()


def test_follows_the_ramp(tmp_path):
    module, reference = ToyClassifier(), Reference(0.99, 5.0)
    toy_trainer(tmp_path, max_epochs=3, callbacks=[WeightEMA(0.99, 5.0), reference]).fit(module, toy_loader())
    for key, value in module.state_dict().items():
        assert torch.allclose(value, reference.average[key], atol=1e-6), key


def test_survives_pruning_and_a_second_fit(tmp_path):
    module, average = ToyClassifier(), WeightEMA(0.9, 5.0)
    pruning = ChannelPruning(ratio=0.5, min_channels=2)
    toy_trainer(tmp_path, callbacks=[average, pruning]).fit(module, toy_loader())
    smaller = module.tail[0].out_channels
    assert smaller < 16
    before = {k: v.clone() for k, v in module.state_dict().items()}
    toy_trainer(tmp_path, callbacks=[average]).fit(module, toy_loader())
    assert module.tail[0].out_channels == smaller
    assert not torch.equal(module.head.weight, before["head.weight"])


def test_resumed_equals_straight(tmp_path):
    def fit(epochs, folder, resume=None):
        torch.manual_seed(0)
        module = ToyClassifier(momentum=0.9)
        saver = ModelCheckpoint(dirpath=folder, save_last=True)
        trainer = toy_trainer(
            tmp_path, max_epochs=epochs, enable_checkpointing=True, callbacks=[WeightEMA(0.9, 5.0), saver]
        )
        trainer.fit(module, toy_loader(), ckpt_path=resume)
        return module.state_dict()

    straight = fit(4, tmp_path / "a")
    fit(2, tmp_path / "b")
    resumed = fit(4, tmp_path / "c", resume=tmp_path / "b" / "last.ckpt")
    assert all(torch.equal(straight[k], resumed[k]) for k in straight)


def test_validation_sees_the_average_and_a_later_one_the_module(tmp_path):
    module = ToyClassifier(lr=0.5)
    trainer = toy_trainer(tmp_path, callbacks=[WeightEMA(0.999, 1.0)])
    trainer.fit(module, toy_loader(), toy_loader())
    other = ToyClassifier()
    loss = trainer.validate(other, toy_loader(), verbose=False)[0]["val_loss"]
    alone = toy_trainer(tmp_path).validate(other, toy_loader(), verbose=False)[0]["val_loss"]
    assert loss == alone


class BreaksInValidation(ToyClassifier):
    def validation_step(self, batch, batch_idx):
        raise RuntimeError("boom")


def test_an_interrupted_validation_leaves_the_trained_weights(tmp_path):
    module, reference = BreaksInValidation(), Reference(0.5, 1.0)
    trainer = toy_trainer(tmp_path, num_sanity_val_steps=0, callbacks=[WeightEMA(0.999, 1.0), reference, Keep()])
    with pytest.raises(RuntimeError, match="boom"):
        trainer.fit(module, toy_loader(), toy_loader())
    assert torch.equal(module.head.weight, Keep.trained)


class Keep(Callback):
    trained: torch.Tensor

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        Keep.trained = pl_module.head.weight.detach().clone()


@pytest.mark.parametrize("arguments", [{"decay": 1.0}, {"tau": 0}])
def test_bad_arguments(arguments):
    with pytest.raises(MisconfigurationException, match="out of range"):
        WeightEMA(**arguments)
