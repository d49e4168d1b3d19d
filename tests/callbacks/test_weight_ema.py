from __future__ import annotations

import copy
import os
import subprocess
import sys

import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from tests.helpers.ema_reference import Reference
from tests.helpers.places import ROOT
from tests.helpers.toy_module import ToyClassifier, toy_loader, toy_trainer
from yolo_slim.callbacks import ChannelPruning, WeightEMA
from yolo_slim.pruning import Selection, restore_structure


@pytest.mark.parametrize("settings", [{}, {"accumulate_grad_batches": 2}, {"precision": "bf16-mixed"}])
def test_follows_the_ramp(tmp_path, settings):
    module, reference = ToyClassifier(), Reference(0.99, 5.0)
    trainer = toy_trainer(tmp_path, max_epochs=3, callbacks=[WeightEMA(0.99, 5.0), reference], **settings)
    trainer.fit(module, toy_loader())
    assert reference.n == (9 if "accumulate_grad_batches" in settings else 15)
    for key, value in module.state_dict().items():
        assert torch.allclose(value, reference.average[key], atol=1e-6), key


def test_the_average_of_sixteen_bits_moves(tmp_path):
    """Fifteen steps of a thousandth of the way to weights that are 0.25 away, each too small for bfloat16."""

    class Shift(Callback):
        def on_train_start(self, trainer, pl_module):
            self.start = pl_module.head.weight.detach().float()
            with torch.no_grad():
                pl_module.head.weight.add_(0.25)

    module, shift = ToyClassifier(lr=0.0), Shift()
    settings = {"precision": "bf16-true", "max_epochs": 3}
    toy_trainer(tmp_path, callbacks=[WeightEMA(0.999, 1e-3), shift], **settings).fit(module, toy_loader())
    assert module.head.weight.dtype == torch.bfloat16
    moved = (module.head.weight.float() - shift.start).mean().item()
    assert moved == pytest.approx(0.25 * (1 - 0.999**15), rel=0.05)


@pytest.mark.parametrize("first", ["average", "pruning"])
def test_survives_pruning_and_a_second_fit(tmp_path, first):
    """The second fit of the same callback gives what a new one gives."""
    torch.manual_seed(0)
    module, average = ToyClassifier(), WeightEMA(0.9, 5.0)
    pruning = ChannelPruning(selection=Selection(0.5, min_channels=2, round_to=1))
    callbacks = [average, pruning] if first == "average" else [pruning, average]
    toy_trainer(tmp_path, callbacks=callbacks).fit(module, toy_loader())
    smaller = module.tail[0].out_channels
    assert smaller < 16
    twin = copy.deepcopy(module)
    before = module.head.weight.detach().clone()
    toy_trainer(tmp_path, callbacks=[average]).fit(module, toy_loader())
    toy_trainer(tmp_path, callbacks=[WeightEMA(0.9, 5.0)]).fit(twin, toy_loader())
    assert module.tail[0].out_channels == smaller
    assert not torch.equal(module.head.weight, before)
    assert all(torch.equal(value, twin.state_dict()[key]) for key, value in module.state_dict().items())


def test_pruning_callback_left_in_place_on_every_fit(tmp_path):
    """The average is made of what the earlier surgery has left."""
    module, average = ToyClassifier(), WeightEMA(0.9, 5.0)
    pruning = ChannelPruning(ratio=0.3, min_channels=2, compensation="fold")  # no dead channels stay
    for _ in range(2):
        toy_trainer(tmp_path, callbacks=[average, pruning]).fit(module, toy_loader())
    assert module.gammas().numel() == 20  # 40 -> 28 -> 20


class Slimmable(ToyClassifier):
    def on_load_checkpoint(self, checkpoint):
        restore_structure(self, checkpoint)


def test_a_pruned_checkpoint_resumes_in_a_dense_module(tmp_path):
    """Two epochs and two more from the checkpoint equal four, bit by bit; the average is what is validated."""
    small = Slimmable()
    toy_trainer(tmp_path, callbacks=[ChannelPruning(selection=Selection(0.5, min_channels=2, round_to=1))]).fit(
        small, toy_loader()
    )

    def fit(module, epochs, folder, resume=None):
        saver = ModelCheckpoint(dirpath=folder, save_last=True)
        trainer = toy_trainer(
            tmp_path, max_epochs=epochs, enable_checkpointing=True, callbacks=[WeightEMA(0.9, 5.0), saver]
        )
        trainer.fit(module, toy_loader(), toy_loader(), ckpt_path=resume)
        return trainer.callback_metrics["val_loss"]

    straight, resumed = copy.deepcopy(small), Slimmable()
    score = fit(straight, 4, tmp_path / "a")
    fit(copy.deepcopy(small), 2, tmp_path / "b")
    assert fit(resumed, 4, tmp_path / "c", resume=tmp_path / "b" / "last.ckpt") == score
    assert all(torch.equal(value, resumed.state_dict()[key]) for key, value in straight.state_dict().items())
    trainer = toy_trainer(tmp_path, callbacks=[WeightEMA(0.9, 5.0)])
    last = tmp_path / "a" / "last.ckpt"
    assert trainer.validate(Slimmable(), toy_loader(), ckpt_path=last, verbose=False)[0]["val_loss"] == score


def test_a_checkpoint_without_an_average_starts_one(tmp_path):
    def fit(module, epochs, *callbacks, resume=None):
        saver = ModelCheckpoint(dirpath=tmp_path / "plain", save_last=True)
        trainer = toy_trainer(tmp_path, max_epochs=epochs, enable_checkpointing=True, callbacks=[*callbacks, saver])
        trainer.fit(module, toy_loader(), ckpt_path=resume)

    fit(ToyClassifier(), 2)
    resumed, reference = ToyClassifier(), Reference(0.9, 5.0)
    fit(resumed, 4, WeightEMA(0.9, 5.0), reference, resume=tmp_path / "plain" / "last.ckpt")
    assert reference.n == 10
    assert all(torch.allclose(v, reference.average[k], atol=1e-6) for k, v in resumed.state_dict().items())


def test_a_checkpoint_of_the_end_holds_average_and_trained_weights(tmp_path):
    """The only checkpoint is saved when the module has its average already; a resumed fit must not train on with it."""

    def fit(epochs, folder, resume=None):
        torch.manual_seed(0)
        module = ToyClassifier(momentum=0.9)
        saver = ModelCheckpoint(dirpath=folder, save_last=True, every_n_train_steps=1000)
        trainer = toy_trainer(
            tmp_path, max_epochs=epochs, enable_checkpointing=True, callbacks=[WeightEMA(0.9, 5.0), Keep(), saver]
        )
        trainer.fit(module, toy_loader(), ckpt_path=resume)
        return module.state_dict()

    straight = fit(4, tmp_path / "a")
    average = fit(2, tmp_path / "b")  # its last training step is what Keep has seen
    saved = torch.load(tmp_path / "b" / "last.ckpt", weights_only=True)
    assert torch.equal(saved["state_dict"]["head.weight"], average["head.weight"])
    assert torch.equal(saved["current_model_state"]["head.weight"], Keep.trained)
    assert not torch.equal(Keep.trained, average["head.weight"])
    resumed = fit(4, tmp_path / "c", resume=tmp_path / "b" / "last.ckpt")
    assert all(torch.equal(straight[k], resumed[k]) for k in straight)


def test_a_checkpoint_saved_while_validating(tmp_path):
    class Saves(ToyClassifier):
        def validation_step(self, batch, batch_idx):
            self.trainer.save_checkpoint(tmp_path / "inside.ckpt")

    module = Saves()
    callbacks = [WeightEMA(0.9, 5.0), Keep()]
    toy_trainer(tmp_path, num_sanity_val_steps=0, callbacks=callbacks).fit(module, toy_loader(), toy_loader())
    saved = torch.load(tmp_path / "inside.ckpt", weights_only=True)
    assert torch.equal(saved["state_dict"]["head.weight"], module.head.weight)  # nothing was trained since
    assert torch.equal(saved["current_model_state"]["head.weight"], Keep.trained)


def test_the_average_model_is_offered_while_the_module_is_trained(tmp_path):
    class Note(Callback):
        def __init__(self):
            self.found = {}

        def on_train_epoch_start(self, trainer, pl_module):
            self.found["train"] = ema.average_model

        def on_validation_batch_start(self, *args):
            self.found["validation"] = ema.average_model

        def on_fit_end(self, trainer, pl_module):
            self.found["end"] = ema.average_model

    ema, note = WeightEMA(), Note()
    assert ema.average_model is None
    toy_trainer(tmp_path, callbacks=[ema, note]).fit(ToyClassifier(), toy_loader(), toy_loader())
    assert isinstance(note.found["train"], ToyClassifier)
    assert note.found["validation"] is note.found["end"] is ema.average_model is None


def test_a_trainer_that_fits_on_counts_on(tmp_path):
    """Two batches make a step, so that the first batch of a second fit makes none."""

    class Count(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            updates.append(int(ema._average_model.n_averaged))

    module, ema, updates = ToyClassifier(), WeightEMA(0.9, 5.0), []
    trainer = toy_trainer(tmp_path, max_epochs=1, accumulate_grad_batches=2, callbacks=[ema, Count()])
    trainer.fit(module, toy_loader())
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module, toy_loader())
    assert updates == [1, 2, 2, 3, 4] * 2


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


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What two processes saw of the average, with and without a validation loader."""
    out = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-W", "ignore", "-m", "tests.helpers.ema_job", str(out)]
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PL_", "LOCAL_RANK", "MASTER_", "WORLD_"))}
    done = subprocess.run(command, cwd=ROOT, env=inherited, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(out / f"rank{rank}.pt") for rank in range(2)]


def equal(one, other):
    return all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize("loader", ["validated", "unvalidated"])
def test_ranks_agree_on_the_average(ranks, loader):
    one, other = (rank[loader] for rank in ranks)
    assert not equal(one["built"], other["built"])  # every rank has drawn its own weights
    assert equal(one["first"], other["first"])
    assert not equal(one["statistics"], other["statistics"])  # the control: BatchNorm does see other images
    if loader == "validated":
        assert equal(one["validation"], other["validation"])
        assert equal(one["saved"], one["validation"])
    assert equal(one["after"], other["after"])
    assert equal(one["saved"], one["after"])
    assert not equal(one["after"], one["trained"])


@pytest.mark.parametrize("arguments", [{"decay": 1.0}, {"tau": 0}])
def test_bad_arguments(arguments):
    with pytest.raises(MisconfigurationException, match="out of range"):
        WeightEMA(**arguments)
