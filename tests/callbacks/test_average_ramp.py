"""How far the average of the weights reaches, in fits of any length."""

from __future__ import annotations

import math

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from tests.helpers.ema_reference import Reference
from tests.helpers.toy_module import ToyClassifier, toy_loader, toy_trainer
from yolo_slim.callbacks import WeightEMA


@pytest.mark.parametrize(("images", "tau"), [(400, 300 / math.log(15)), (20, 15.0)])
def test_the_ramp_knows_the_length_of_the_fit(tmp_path, images, tau):
    """At the end the average is over a twentieth of the steps, or over e of them where that is less."""
    module, reference = ToyClassifier(), Reference(0.9999, tau)
    trainer = toy_trainer(tmp_path, max_epochs=3, callbacks=[WeightEMA(), reference])
    trainer.fit(module, toy_loader(images))
    assert reference.n == 3 * images / 4
    for key, value in module.state_dict().items():
        assert torch.allclose(value, reference.average[key], atol=1e-6), key


def test_in_a_fit_of_unknown_length_the_ramp_is_the_longest(tmp_path):
    module, reference = ToyClassifier(), Reference(0.9999, 2000.0)

    class Ends(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            trainer.should_stop = batch_idx == 3

    trainer = toy_trainer(tmp_path, max_epochs=-1, callbacks=[WeightEMA(), reference, Ends()])
    trainer.fit(module, toy_loader())
    for key, value in module.state_dict().items():
        assert torch.allclose(value, reference.average[key], atol=1e-6), key


@pytest.mark.parametrize("tau", [0, -1.0, float("nan"), "long"])
def test_a_ramp_is_a_number_or_auto(tau):
    with pytest.raises(MisconfigurationException, match="tau=.* expected a number of steps above 0, or auto"):
        WeightEMA(tau=tau)
