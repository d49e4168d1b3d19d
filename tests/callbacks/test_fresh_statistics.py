"""Statistics of BatchNorm are the mean of the last batches when weights are validated or saved."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn

from tests.helpers.toy_module import ToyClassifier, toy_loader, toy_trainer
from yolo_slim.callbacks import FreshStatistics, GammaSparsity

pytestmark = pytest.mark.filterwarnings("ignore:GammaSparsity")


class Inputs(Callback):
    """The means of what the first BatchNorm layer has read in training, and its own mean at each validation."""

    def __init__(self):
        self.means, self.seen, self.momenta = [], [], []

    def on_fit_start(self, trainer, pl_module):
        def note(norm, inputs):
            if norm.training:
                self.means.append(inputs[0].detach().mean((0, 2, 3)))
                self.momenta.append(norm.momentum)

        pl_module.stem[1].register_forward_pre_hook(note)

    def on_validation_epoch_start(self, trainer, pl_module):
        self.seen.append((len(self.means), pl_module.stem[1].running_mean.clone()))


def fit(tmp_path, *callbacks, batches=20, **settings):
    torch.manual_seed(0)
    sparse = any(isinstance(callback, GammaSparsity) for callback in callbacks)
    module, inputs = ToyClassifier(lr=1e-4 if sparse else 0.5), Inputs()  # fast gammas have a momentum of their own
    settings = {"max_epochs": 3, "num_sanity_val_steps": 0} | settings
    trainer = toy_trainer(tmp_path, callbacks=[inputs, *callbacks], **settings)
    trainer.fit(module, toy_loader(4 * batches), toy_loader())
    return module, inputs


@pytest.mark.parametrize("callback", [FreshStatistics(), GammaSparsity(strength=1e-9)])
@pytest.mark.parametrize(
    ("settings", "window"),
    [
        ({}, 10),
        ({"val_check_interval": 0.5}, 5),
        ({"val_check_interval": 10}, 5),
        ({"accumulate_grad_batches": 3}, 10),
        ({"val_check_interval": 40, "check_val_every_n_epoch": None}, 10),
    ],
)
def test_validated_statistics_are_the_mean_over_the_last_batches(tmp_path, callback, settings, window):
    _, inputs = fit(tmp_path, callback, **settings)
    assert inputs.seen
    for count, mean in inputs.seen:
        assert torch.allclose(mean, torch.stack(inputs.means[count - window : count]).mean(0), atol=1e-6)


def test_without_it_they_reach_further_back(tmp_path):
    _, inputs = fit(tmp_path)
    count, mean = inputs.seen[-1]
    assert not torch.allclose(mean, torch.stack(inputs.means[count - 10 : count]).mean(0), atol=1e-3)


def test_the_window_is_at_most_sixteen_batches(tmp_path):
    _, inputs = fit(tmp_path, FreshStatistics(), batches=50, max_epochs=1)
    assert inputs.momenta[:34] == [0.1] * 34
    assert inputs.momenta[34:] == [max(0.1, 1 / k) for k in range(1, 17)]


@pytest.mark.parametrize("batches", [1, 5, 7])
def test_short_epochs_are_left_alone(tmp_path, batches):
    _, inputs = fit(tmp_path, FreshStatistics(), batches=batches)
    assert set(inputs.momenta) == {0.1}


def test_epochs_of_unknown_length_are_left_alone(tmp_path):
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(toy_loader(80).dataset)

    module, inputs = ToyClassifier(), Inputs()
    loader = torch.utils.data.DataLoader(Stream(), batch_size=4)
    toy_trainer(tmp_path, max_epochs=1, callbacks=[inputs, FreshStatistics()]).fit(module, loader)
    assert set(inputs.momenta) == {0.1}


@pytest.mark.parametrize("breaks", [False, True])
def test_momenta_come_back(tmp_path, breaks):
    class Breaks(ToyClassifier):
        def validation_step(self, batch, batch_idx):
            if breaks:
                raise RuntimeError("boom")

    module, trainer = Breaks(), toy_trainer(tmp_path, callbacks=[FreshStatistics()], num_sanity_val_steps=0)
    if breaks:
        with pytest.raises(RuntimeError, match="boom"):
            trainer.fit(module, toy_loader(80), toy_loader())
    else:
        trainer.fit(module, toy_loader(80), toy_loader())
    assert [m.momentum for m in module.modules() if isinstance(m, nn.BatchNorm2d)] == [0.1] * 3


def test_statistics_that_are_no_running_average_are_left_alone(tmp_path):
    class Other(ToyClassifier):
        def __init__(self):
            super().__init__()
            self.stem[1] = nn.BatchNorm2d(12, momentum=None)
            self.tail[1] = nn.BatchNorm2d(16, track_running_stats=False)

    module = Other()
    toy_trainer(tmp_path, callbacks=[FreshStatistics()]).fit(module, toy_loader(80))
    assert (module.stem[1].momentum, module.tail[1].momentum) == (None, 0.1)
