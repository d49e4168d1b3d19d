"""Layers that a fit does not train are left alone, by every penalty and by the prune at the end of the fit."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch.callbacks import BackboneFinetuning, Callback
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from tests.helpers.toy_module import ToyClassifier, toy_loader, toy_trainer
from yolo_slim.callbacks import ChannelPruning, GammaSparsity
from yolo_slim.pruning.sparsity.resting import Resting

PENALTIES = ("subgradient", "proximal", "growing")


class Deep(ToyClassifier):
    """Layers ``first``, ``second`` and ``third`` in a row, each with 16 channels; one of them can rest."""

    def __init__(self):
        super().__init__(lr=0.02)
        del self.stem, self.branch, self.tail

        def block(channels):
            return nn.Sequential(nn.Conv2d(channels, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())

        self.first, self.second, self.third, self.spare = block(3), block(16), block(16), block(16)

    def forward(self, images):
        return self.head(self.third(self.second(self.first(images))).mean((2, 3)))

    def configure_optimizers(self):
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=self.lr)


class FrozenStage(Deep):
    """As torchvision's detectors freeze their first stages: weights, gammas and betas, in train mode."""

    def __init__(self):
        super().__init__()
        self.first.requires_grad_(False)


class FrozenAndStill(FrozenStage):
    def on_train_epoch_start(self):
        self.first.eval()


class Still(Deep):
    """Its first BatchNorm stays in eval mode, as for small batches, although it could learn."""

    def on_train_epoch_start(self):
        self.first[1].eval()


class FrozenBeta(Deep):
    def __init__(self):
        super().__init__()
        self.first[1].bias.requires_grad_(False)


class Unused(Deep):
    """Its first layer takes part in the forward, but gets no gradient."""

    def forward(self, images):
        return self.head(self.third(self.second(self.first(images).detach())).mean((2, 3)))


@pytest.mark.parametrize("kind", [FrozenStage, FrozenAndStill, Still, FrozenBeta, Unused])
@pytest.mark.parametrize("penalty", PENALTIES)
def test_what_is_not_trained_is_left_alone(tmp_path, penalty, kind):
    torch.manual_seed(0)
    module = kind()
    before = {name: value.clone() for name, value in module.first.state_dict().items()}
    callbacks = [
        GammaSparsity(penalty, strength=0.5, min_channels=4),
        ChannelPruning(min_channels=4, compensation="fold", dirpath=str(tmp_path)),
    ]
    toy_trainer(tmp_path, max_epochs=5, callbacks=callbacks).fit(module, toy_loader())
    assert module.first[0].out_channels == 16
    assert module.second[0].out_channels + module.third[0].out_channels == 16
    if kind in (FrozenStage, FrozenAndStill):
        assert torch.equal(module.first[1].weight, before["1.weight"])
    if penalty == "growing":
        assert (module.first[1].weight != 0).all()


def test_a_layer_that_is_thawed_later_joins_in(tmp_path):
    class Thaw(BackboneFinetuning):
        """Freezes the first layer before the fit and trains it from the second epoch on."""

    torch.manual_seed(0)
    module = Deep()
    module.backbone = module.first
    sparsity = GammaSparsity("growing", ratio=0.5, min_channels=2)
    callbacks = [Thaw(unfreeze_backbone_at_epoch=1, verbose=False), sparsity, ChannelPruning(min_channels=2)]
    toy_trainer(tmp_path, max_epochs=8, callbacks=callbacks).fit(module, toy_loader())
    assert module.first[0].out_channels < 16


def test_a_coupled_layer_stays_with_the_frozen_one(tmp_path):
    torch.manual_seed(0)
    module = ToyClassifier()
    module.stem.requires_grad_(False)  # its channels are added to those of the branch
    callbacks = [GammaSparsity("growing", min_channels=2), ChannelPruning(min_channels=2)]
    toy_trainer(tmp_path, max_epochs=4, callbacks=callbacks).fit(module, toy_loader())
    assert (module.stem[0].out_channels, module.branch[0].out_channels) == (12, 12)
    assert module.tail[0].out_channels == 8


def test_all_in_eval_mode_is_a_way_to_train():
    module = Deep().eval()
    assert Resting(module).names() == ()
    module.first.train()
    assert Resting(module).names() == ("second.1", "spare.1", "third.1")


@pytest.mark.parametrize("penalty", PENALTIES)
def test_nothing_to_act_on_is_said_with_its_true_reason(tmp_path, penalty):
    module = Deep()
    for norm in (m for m in module.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.requires_grad_(False)
    trainer = toy_trainer(tmp_path, max_epochs=2, callbacks=[GammaSparsity(penalty)])
    with pytest.raises(MisconfigurationException, match="none of its 4 BatchNorm layers is trained: they are frozen"):
        trainer.fit(module, toy_loader())
    trainer = toy_trainer(tmp_path, max_epochs=2, callbacks=[GammaSparsity(penalty, ignore=["*"])])
    with pytest.raises(MisconfigurationException, match=r"no prunable gamma in Deep: .*ignore=\['\*'\]"):
        trainer.fit(Deep(), toy_loader())


class StopAfter(Callback):
    """Ends the fit early: after an epoch, or within one."""

    def __init__(self, epoch, batch=4):
        self.epoch, self.batch = epoch, batch

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == (self.epoch, self.batch):
            trainer.should_stop = True


def outputs(module) -> torch.Tensor:
    with torch.no_grad():
        return module.eval()(torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(3)))


class Outputs(Callback):
    """What the module computes at the end of the fit, before the prune."""

    def on_train_end(self, trainer, pl_module):
        self.before = outputs(pl_module)
        pl_module.train()


@pytest.mark.parametrize("stop", [(0, 1), (2, 4), (3, 4), (3, 1)])
def test_growing_that_ends_early_prunes_what_has_faded_and_says_so(tmp_path, stop):
    torch.manual_seed(0)
    module, seen = Deep(), Outputs()
    sparsity, pruning = GammaSparsity("growing", ratio=0.6, min_channels=2), ChannelPruning(0.6, min_channels=2)
    trainer = toy_trainer(tmp_path, max_epochs=20, min_epochs=0, callbacks=[sparsity, pruning, seen, StopAfter(*stop)])
    with pytest.warns(UserWarning, match=f"the fit has ended in epoch {stop[0] + 1} of 20, at .* way to 60.0%"):
        trainer.fit(module, toy_loader())
    assert torch.allclose(outputs(module), seen.before, atol=1e-5)
    assert pruning.report.reached < 0.6
    assert (pruning.report.reached > 0) == (stop[0] > 0), "it grows at the end of an epoch, with five batches"


def test_max_steps_ends_early_too(tmp_path):
    torch.manual_seed(0)
    module, seen = Deep(), Outputs()
    callbacks = [GammaSparsity("growing", min_channels=2), ChannelPruning(min_channels=2), seen]
    toy_trainer(tmp_path, max_epochs=12, max_steps=17, callbacks=callbacks).fit(module, toy_loader())
    assert torch.allclose(outputs(module), seen.before, atol=1e-5)


def test_a_whole_fit_does_not_warn_of_an_early_end(tmp_path, recwarn):
    torch.manual_seed(0)
    callbacks = [GammaSparsity("growing", min_channels=2), ChannelPruning(min_channels=2)]
    toy_trainer(tmp_path, max_epochs=6, callbacks=callbacks).fit(Deep(), toy_loader())
    assert not [w for w in recwarn if "has ended in epoch" in str(w.message) or "took channels" in str(w.message)]


def test_a_prune_of_channels_that_are_not_small_is_said(tmp_path):
    callbacks = [GammaSparsity("proximal", strength=1e-4), ChannelPruning()]
    with pytest.warns(UserWarning, match="ChannelPruning took channels of .gamma. up to .* accuracy has been lost"):
        toy_trainer(tmp_path, max_epochs=2, callbacks=callbacks).fit(Deep(), toy_loader())


@pytest.mark.parametrize(
    ("there", "here", "said"),
    [
        ({"ratio": 0.3}, {"ratio": 0.8}, "ratio=0.3 there, 0.8 here"),
        ({"min_channels": 4}, {}, "min_channels=4 there, 8 here"),
        ({"shortcuts": "spare"}, {}, "shortcuts='spare' there, 'couple' here"),
        ({}, {"ignore": ["third"]}, r"ignore=\(\) there, \('third',\) here"),
    ],
)
def test_selections_that_differ_are_said(tmp_path, there, here, said):
    callbacks = [GammaSparsity("growing", **there), ChannelPruning(**here)]
    with pytest.warns(UserWarning, match=f"will not take the channels that GammaSparsity prepares .*{said}"):
        toy_trainer(tmp_path, max_epochs=2, callbacks=callbacks).fit(Deep(), toy_loader())
