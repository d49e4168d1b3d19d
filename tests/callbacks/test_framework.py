from __future__ import annotations

import sys

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException

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
