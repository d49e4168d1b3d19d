"""What a sparse phase is refused for before it begins."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from tests.helpers.toy_module import ToyClassifier, toy_loader, toy_trainer
from yolo_slim.callbacks import GammaSparsity, Target
from yolo_slim.pruning import Selection


@pytest.mark.parametrize("penalty", ["subgradient", "proximal", "growing"])
def test_ratios_that_come_from_a_sensitivity(tmp_path, penalty):
    module = ToyClassifier()
    before = module.gammas()
    sparsity = GammaSparsity(penalty=penalty, selection=Selection(sensitivity="runs/sensitivity"))
    said = "sensitivity=runs/sensitivity: a sparse phase ranks channels by scores of its own; leave it out, or prune"
    with pytest.raises(MisconfigurationException, match=said):
        sparsity.check(Target(module))
    with pytest.raises(MisconfigurationException, match=said):
        toy_trainer(tmp_path, max_epochs=1, callbacks=[sparsity]).fit(module, toy_loader())
    assert torch.equal(module.gammas(), before)
