"""A fit that ends before its time, with an average that has been swapped in by then."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from tests.helpers.toy_module import ToyClassifier, toy_loader, toy_trainer
from yolo_slim.callbacks import GammaSparsity, WeightEMA

GAMMAS = ("stem.1.weight", "branch.1.weight", "tail.1.weight")


class EndsEarly(Callback):
    """Stops after four epochs, and saves a checkpoint when all other callbacks have ended the fit."""

    def __init__(self, file):
        self.file = file

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.should_stop = trainer.current_epoch == 3

    def on_train_end(self, trainer, pl_module):
        trainer.save_checkpoint(self.file)


@pytest.mark.parametrize("averages_first", [True, False])
def test_what_fades_is_zero_in_the_average_and_in_the_weights_in_training(averages_first, tmp_path):
    torch.manual_seed(0)
    callbacks = [WeightEMA(tau=5), GammaSparsity("growing", ratio=0.5, min_channels=2)]
    ordered = callbacks if averages_first else callbacks[::-1]
    module, file = ToyClassifier(), tmp_path / "end.ckpt"
    trainer = toy_trainer(tmp_path, max_epochs=20, callbacks=[*ordered, EndsEarly(file)])
    trainer.fit(module, toy_loader())
    assert trainer.current_epoch == 4
    checkpoint = torch.load(file, weights_only=True)
    averaged, trained = (checkpoint[key] for key in ("state_dict", "current_model_state"))
    gone = {name: averaged[name] == 0 for name in GAMMAS}
    assert 0 < sum(int(zero.sum()) for zero in gone.values()) < 20, "the phase was cut short"
    assert all(torch.equal(trained[name] == 0, gone[name]) for name in GAMMAS)
    assert all(torch.equal(module.state_dict()[name], averaged[name]) for name in GAMMAS)
    assert checkpoint["callbacks"]["WeightEMA"] == {"latest_update_step": trainer.global_step}
