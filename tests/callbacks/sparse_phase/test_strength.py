"""What "auto" aims for is what comes out, with a loss that pulls the other way."""

from __future__ import annotations

import warnings

import pytest
import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.optim import SGD, AdamW

from tests.helpers.toy_module import ToyClassifier, toy_loader, toy_trainer
from yolo_slim.callbacks import GammaSparsity
from yolo_slim.pruning import Selection


class Wide(ToyClassifier):
    """Learns labels that its images show, so that some gammas resist."""

    def __init__(self, optimizer):
        super().__init__()
        self.make = optimizer
        for module in self.modules():
            if isinstance(module, torch.nn.BatchNorm2d):  # as wide as in a trained detector
                torch.nn.init.uniform_(module.weight, 0.3, 1.6)

    def training_step(self, batch, batch_idx):
        images, labels = batch
        shown = images + labels.view(-1, 1, 1, 1) * images.new_tensor([1.0, -1.0, 0.5]).view(1, 3, 1, 1)
        return torch.nn.functional.cross_entropy(self(shown), labels)

    def configure_optimizers(self):
        optimizer = self.make(self.parameters())
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.trainer.max_epochs, 1e-5)]


def fitted(tmp_path, module, sparsity, epochs, callbacks=(), resume=None, **settings):
    trainer = toy_trainer(tmp_path, max_epochs=epochs, callbacks=[sparsity, *callbacks], **settings)
    trainer.fit(module, toy_loader(40), ckpt_path=resume)
    return module


@pytest.mark.parametrize("share", [0.3, 0.6])
@pytest.mark.parametrize(
    ("penalty", "optimizer", "epochs"),
    [
        ("subgradient", lambda p: SGD(p, 0.01, momentum=0.9), 20),
        ("subgradient", lambda p: SGD(p, 0.05), 10),
        ("proximal", lambda p: SGD(p, 0.01, momentum=0.9), 20),
        ("proximal", lambda p: AdamW(p, 0.002), 10),
    ],
    ids=["subgradient-momentum", "subgradient-short", "proximal-momentum", "proximal-adamw"],
)
def test_auto_reaches_the_share_that_the_prune_will_take(tmp_path, penalty, optimizer, epochs, share):
    seed_everything(0, verbose=False)
    sparsity = GammaSparsity(penalty, "auto", selection=Selection(share, min_channels=1))
    module = fitted(tmp_path, Wide(optimizer), sparsity, epochs)
    small = (module.gammas().abs() < 0.02).float().mean().item()
    assert share - 0.03 <= small <= share + 0.25
    assert module.gammas().abs().max() > 0.1
    if penalty == "proximal":
        assert (module.gammas() == 0).any()


class StopAfter(Callback):
    def __init__(self, epochs):
        self.epochs = epochs

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.should_stop = trainer.current_epoch + 1 >= self.epochs


def test_a_share_that_is_not_reached_does_not_drive_the_strength_without_bound(tmp_path):
    class Resists(Wide):
        """Whatever the penalty does in an epoch is undone."""

        def on_train_epoch_end(self):
            for module in self.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    torch.nn.init.ones_(module.weight)

    class Strengths(Callback):
        def __init__(self):
            self.seen = []

        def on_train_epoch_end(self, trainer, pl_module):
            self.seen.append(sparsity._fit._phase._strength._chosen[1])

    sparsity, strengths = GammaSparsity(strength="auto", selection=Selection(0.5, min_channels=1)), Strengths()
    fitted(tmp_path, Resists(lambda p: SGD(p, 0.01)), sparsity, 40, [strengths])
    at_the_end_of_the_way, last = strengths.seen[31], strengths.seen[-1]
    assert at_the_end_of_the_way < last <= 3.001 * at_the_end_of_the_way


@pytest.mark.parametrize("stop", [2, 5])
@pytest.mark.parametrize("penalty", ["subgradient", "proximal"])
def test_auto_resumed_equals_a_straight_run(tmp_path, penalty, stop):
    def fit(folder, stop, resume=None):
        seed_everything(0, verbose=False)
        callbacks = [ModelCheckpoint(dirpath=folder, save_last=True), StopAfter(stop)]
        module = Wide(lambda p: SGD(p, 0.01, momentum=0.9))
        sparsity = GammaSparsity(penalty, "auto", selection=Selection(0.5, min_channels=1))
        return fitted(tmp_path, module, sparsity, 6, callbacks, resume, enable_checkpointing=True).state_dict()

    straight = fit(tmp_path / "straight", 6)
    fit(tmp_path / "first", stop)
    resumed = fit(tmp_path / "second", 6, tmp_path / "first" / "last.ckpt")
    assert all(torch.equal(straight[k], resumed[k]) for k in straight)


@pytest.mark.parametrize(("choose", "epochs", "short"), [("none", 2, True), ("none", 126, False), ("taylor", 2, False)])
def test_before_the_first_step_it_says_when_the_fit_is_too_short_for_all_gammas(tmp_path, choose, epochs, short):
    class StopsAtOnce(Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            trainer.should_stop = True
            trainer.limit_train_batches = 0

    sparsity = GammaSparsity("proximal", "auto", choose=choose, ratio=0.5)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        fitted(tmp_path, Wide(lambda p: SGD(p, 0.01)), sparsity, epochs, [StopsAtOnce()])
    said = [str(w.message) for w in found if "too few for a penalty on all gammas" in str(w.message)]
    assert len(said) == short
    assert not short or said[0].startswith("GammaSparsity: 16 steps to zero")


def test_auto_has_no_hold_on_adam(tmp_path):
    with pytest.raises(MisconfigurationException, match="'auto' has no hold on AdamW.*use SGD, or penalty='proximal'"):
        fitted(tmp_path, Wide(lambda p: AdamW(p, 0.01)), GammaSparsity(strength="auto"), 2)


def test_auto_must_foresee_the_steps(tmp_path):
    module = Wide(lambda p: SGD(p, 0.01))
    module.automatic_optimization = False
    with pytest.raises(MisconfigurationException, match="'auto' must foresee .* give the strength as a number"):
        fitted(tmp_path, module, GammaSparsity(strength="auto"), 2)


class StillLoss(ToyClassifier):
    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) * 0


@pytest.mark.filterwarnings("ignore:GammaSparsity")
@pytest.mark.parametrize(("accumulate", "steps"), [(1, 5), (2, 3), (4, 2)])
def test_proximal_once_per_optimizer_step_and_on_schedule(tmp_path, accumulate, steps):
    module = StillLoss(lr=0.1, momentum=0.9)
    trainer = toy_trainer(
        tmp_path, max_epochs=4, accumulate_grad_batches=accumulate, callbacks=[GammaSparsity("proximal", 0.01)]
    )
    trainer.fit(module, toy_loader())
    travelled = 0.1 * 0.01 * steps * (1 + 0.775 + 0.55 + 0.325)
    assert torch.allclose(1 - module.gammas(), torch.full((40,), travelled), atol=1e-6)


@pytest.mark.filterwarnings("ignore:GammaSparsity")
@pytest.mark.parametrize("penalty", ["subgradient", "proximal"])
def test_betas_are_penalised_without_decay(tmp_path, penalty):
    module = StillLoss(lr=0.1)
    norms = [m for m in module.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.bias.data.fill_(-0.5)
    sparsity = GammaSparsity(penalty, 0.01, beta_strength=0.02)
    toy_trainer(tmp_path, max_epochs=3, callbacks=[sparsity]).fit(module, toy_loader())
    for norm in norms:
        assert torch.allclose(norm.bias, torch.full_like(norm.bias, -0.5 + 0.1 * 0.02 * 15), atol=1e-6)


@pytest.mark.filterwarnings("ignore:GammaSparsity")
def test_proximal_stops_at_exactly_zero_and_stays(tmp_path):
    module = StillLoss(lr=0.1)
    toy_trainer(tmp_path, max_epochs=4, callbacks=[GammaSparsity("proximal", 3.0)]).fit(module, toy_loader())
    assert torch.equal(module.gammas(), torch.zeros(40))
