from __future__ import annotations

import sys

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.optim import SGD, lr_scheduler

from tests.helpers.toy_module import ToyClassifier, toy_loader, toy_trainer
from yolo_slim.callbacks import framework
from yolo_slim.callbacks.framework import check_strategy, find_package


@pytest.mark.parametrize(
    ("imported", "installed", "used"),
    [
        ([], ["lightning.pytorch", "pytorch_lightning"], "lightning.pytorch"),
        ([], ["pytorch_lightning"], "pytorch_lightning"),
        (["pytorch_lightning"], ["lightning.pytorch", "pytorch_lightning"], "pytorch_lightning"),
        (["lightning.pytorch"], ["lightning.pytorch", "pytorch_lightning"], "lightning.pytorch"),
        (["lightning.pytorch", "pytorch_lightning"], ["lightning.pytorch", "pytorch_lightning"], "lightning.pytorch"),
    ],
)
def test_what_is_imported_comes_before_what_is_installed(monkeypatch, imported, installed, used):
    asked = pretend(monkeypatch, imported, installed)
    assert find_package() == used
    assert asked[-1] == used


def test_says_what_to_install(monkeypatch):
    pretend(monkeypatch, [], [])
    with pytest.raises(ImportError, match="pip install 'lightning"):
        find_package()


def test_a_broken_installation_speaks_for_itself(monkeypatch):
    def import_module(name):
        raise ModuleNotFoundError("No module named 'torchmetrics'", name="torchmetrics")

    monkeypatch.setattr(framework, "import_module", import_module)
    with pytest.raises(ModuleNotFoundError, match="torchmetrics"):
        find_package()


def pretend(monkeypatch, imported, installed):
    """Makes packages look imported or installed; returns the list of those that are asked for."""
    asked = []

    def import_module(name):
        asked.append(name)
        if name not in installed:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name.split(".")[0])

    for name in framework.PACKAGES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    for name in imported:
        monkeypatch.setitem(sys.modules, name, object())
    monkeypatch.setattr(framework, "import_module", import_module)
    return asked


@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_fork", "ddp_notebook"])
def test_processes_that_end_with_the_fit_are_refused_for_surgery_only(strategy):
    trainer = Trainer(accelerator="cpu", devices=2, strategy=strategy, logger=False, enable_checkpointing=False)
    check_strategy(trainer, "ChannelPruning")
    with pytest.raises(
        MisconfigurationException, match=r"ChannelPruning does not work with DDPStrategy\(start_method="
    ):
        check_strategy(trainer, "ChannelPruning", spawned=False)


@pytest.mark.parametrize("devices", [1, 2])
def test_one_device_and_ddp_are_accepted(devices):
    strategy = "ddp" if devices > 1 else "auto"
    trainer = Trainer(accelerator="cpu", devices=devices, strategy=strategy, logger=False, enable_checkpointing=False)
    check_strategy(trainer, "ChannelPruning", spawned=False)


def test_sharding_is_refused():
    class FSDPStrategy:
        pass

    class Sharded:
        strategy = FSDPStrategy()

    with pytest.raises(MisconfigurationException, match="ChannelPruning does not work with FSDPStrategy, which shards"):
        check_strategy(Sharded(), "ChannelPruning")


# Contracts: names that Lightning and torch do not promise to keep


def test_ddp_says_how_it_starts_its_processes():
    assert DDPStrategy(start_method="popen")._start_method == "popen"
    assert DDPStrategy(start_method="spawn")._start_method == "spawn"


def test_the_name_of_the_argument_that_takes_all_hyper_parameters():
    class ByName(LightningModule):
        def __init__(self, settings):
            super().__init__()
            self.save_hyperparameters(settings)

    class OneByOne(LightningModule):
        def __init__(self, width=1):
            super().__init__()
            self.save_hyperparameters()

    assert framework.hparams_name(ByName({"width": 1})) == "settings"
    assert framework.hparams_name(OneByOne()) == "kwargs"


def test_a_module_that_leaves_checkpoints_alone_is_told_from_one_that_does_not():
    class Loads(LightningModule):
        def on_load_checkpoint(self, checkpoint):
            pass

    assert framework.loads_as_it_is(LightningModule())
    assert not framework.loads_as_it_is(Loads())


def test_averages_of_lightnings_own_callback_are_found(tmp_path):
    found = []

    class Look(framework.Callback):
        def on_train_batch_end(self, trainer, *_):
            found.extend(framework.averaged_modules(trainer))

    callbacks = [EMAWeightAveraging(), Look()]
    toy_trainer(tmp_path, max_epochs=1, limit_train_batches=1, callbacks=callbacks).fit(ToyClassifier(), toy_loader())
    assert [type(module) for module in found] == [ToyClassifier]


@pytest.mark.parametrize("switched_off", [False, True])
def test_a_modules_own_clipping_goes_through_the_method_that_is_switched_off(tmp_path, switched_off):
    class Clips(ToyClassifier):
        calls = 0

        def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
            self.calls += 1

    module, trainer = Clips(), toy_trainer(tmp_path, max_epochs=1, limit_train_batches=2)
    trainer.strategy.precision_plugin = framework.unclipped_precision() if switched_off else Precision()
    trainer.fit(module, toy_loader())
    assert module.calls == (0 if switched_off else 2)


@pytest.mark.parametrize(
    "make",
    [
        lambda o: lr_scheduler.StepLR(o, 2, 0.5),
        lambda o: lr_scheduler.CosineAnnealingLR(o, 5),
        lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=9),
        lambda o: lr_scheduler.SequentialLR(
            o, [lr_scheduler.LinearLR(o), lr_scheduler.ExponentialLR(o, 0.9)], milestones=[3]
        ),
    ],
)
def test_schedulers_are_rehearsed_on_other_groups(make):
    """A copy of a scheduler steps through the same rates without touching the optimizer."""
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)
    scheduler = make(optimizer)

    class Config:
        reduce_on_plateau, interval, frequency = False, "epoch", 1

    Config.scheduler = scheduler

    class Fit:
        lr_scheduler_configs, lightning_module = [Config], object()

    groups = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    before = [dict(group) for group in optimizer.param_groups]
    ((copied, _, _),) = framework.rehearsed(Fit(), optimizer, groups)
    foreseen = []
    for _ in range(6):
        copied.step()
        foreseen.append(groups[0]["lr"])
    assert [dict(group) for group in optimizer.param_groups] == before
    taken = []
    for _ in range(6):
        optimizer.step()
        scheduler.step()
        taken.append(optimizer.param_groups[0]["lr"])
    assert foreseen == pytest.approx(taken)
