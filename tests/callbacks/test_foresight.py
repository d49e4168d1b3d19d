"""Troubles that a pruned module would have are said before the fit, and what is refused after it loses nothing."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn
from torch.optim.swa_utils import AveragedModel

from tests.helpers.toy_module import ToyClassifier, toy_loader, toy_trainer
from yolo_slim.callbacks import ChannelPruning, slim_checkpoint
from yolo_slim.pruning import restore_structure


class Loads(ToyClassifier):
    def on_load_checkpoint(self, checkpoint):
        restore_structure(self, checkpoint)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 12, 3, bias=False), nn.BatchNorm2d(12), nn.ReLU())
        self.head = nn.Linear(12, 4)

    def forward(self, images):
        return self.head(self.body(images).mean((2, 3)))


class Keeps(LightningModule):
    """Keeps copies of its network beside it, as trainers with an average or a teacher do."""

    def __init__(self, kind="ema"):
        super().__init__()
        self.example_input_array = torch.rand(1, 3, 8, 8)
        self.net = Network()
        if kind == "ema":
            self.ema = copy.deepcopy(self.net)
        elif kind == "averaged":
            self.ema = AveragedModel(self.net)
        elif kind == "teacher":
            self.teacher = nn.Sequential(nn.Conv2d(3, 40, 3), nn.BatchNorm2d(40))
        elif kind == "list":
            self.held = [copy.deepcopy(self.net)]  # not a part of the module

    def forward(self, images):
        return self.net(images)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.net.parameters(), 0.01)

    def on_load_checkpoint(self, checkpoint):
        restore_structure(self, checkpoint, self.net if getattr(self, "pruning_target", "") else None)


def warnings_of(recwarn) -> list[str]:
    return [str(w.message) for w in recwarn if str(w.message).startswith("ChannelPruning: ")]


@pytest.mark.parametrize("target", ["", "net"])
@pytest.mark.parametrize(
    ("kind", "said"),
    [("ema", "ema is a copy of net"), ("averaged", "ema.module is a copy of net"), ("list", ""), ("teacher", "")],
)
def test_a_copy_of_the_network_is_named_with_what_to_do(tmp_path, recwarn, kind, said, target):
    module = Keeps(kind)
    module.pruning_target = target
    pruning = ChannelPruning(min_channels=2, compensation="fold", dirpath=str(tmp_path))
    toy_trainer(tmp_path, max_epochs=1, callbacks=[pruning]).fit(module, toy_loader())
    found = warnings_of(recwarn)
    copies = [text for text in found if "is a copy of" in text]
    assert len(copies) == bool(said)
    assert all(said in text and "make it anew" in text for text in copies)
    if kind == "teacher" and not target:
        assert any("no pass reaches teacher" in text for text in found)
    assert module.net.body[0].out_channels == 6


def test_a_module_without_a_hook_is_told_before_the_fit(tmp_path, recwarn):
    pruning = ChannelPruning(min_channels=2, dirpath=str(tmp_path))
    toy_trainer(tmp_path, max_epochs=1, callbacks=[pruning]).fit(ToyClassifier(), toy_loader())
    assert any("will not load into a ToyClassifier of the full size: give" in text for text in warnings_of(recwarn))
    recwarn.clear()
    toy_trainer(tmp_path, max_epochs=1, callbacks=[pruning]).fit(Loads(), toy_loader())
    assert not warnings_of(recwarn)


class Adapter(Loads):
    """Somebody's class behind an __init__ that takes anything."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)


def test_a_module_that_takes_any_argument_is_loaded_and_finetuned(tmp_path):
    module = Adapter(lr=0.02)
    pruning = ChannelPruning(min_channels=2, compensation="fold", dirpath=str(tmp_path))
    toy_trainer(tmp_path, max_epochs=1, callbacks=[pruning]).fit(module, toy_loader())
    again = Adapter.load_from_checkpoint(tmp_path / "slim.ckpt")
    assert again.gammas().numel() == 20
    assert dict(again.hparams) == dict(module.hparams)
    trainer = toy_trainer(tmp_path, max_epochs=1, enable_checkpointing=True)
    trainer.fit(again, toy_loader())
    trainer.save_checkpoint(tmp_path / "finetuned.ckpt")
    finetuned = Adapter.load_from_checkpoint(tmp_path / "finetuned.ckpt")
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(finetuned.eval()(images), again.eval()(images))


@pytest.mark.parametrize("error", [RuntimeError, ValueError])
def test_a_prune_that_is_refused_leaves_the_weights_of_the_fit(tmp_path, monkeypatch, error):
    def refuses(*arguments, **keywords):
        raise error("the pruned model differs")

    module = Loads()
    monkeypatch.setattr(slim_checkpoint, "prune", refuses)
    pruning = ChannelPruning(min_channels=2, dirpath=str(tmp_path / "slim"))
    with pytest.raises(error, match=r"differs. The weights at the end of the fit are in .*unpruned.ckpt: load them"):
        toy_trainer(tmp_path, max_epochs=1, callbacks=[pruning]).fit(module, toy_loader())
    again = Loads.load_from_checkpoint(tmp_path / "slim" / "unpruned.ckpt")
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(again.eval()(images), module.eval()(images))
    monkeypatch.undo()
    toy_trainer(tmp_path, max_epochs=1, callbacks=[pruning]).fit(module, toy_loader())
    assert sorted(path.name for path in Path(tmp_path / "slim").iterdir()) == ["plan.yaml", "pruning.yaml", "slim.ckpt"]
