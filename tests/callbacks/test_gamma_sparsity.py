from __future__ import annotations

import pytest
import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from tests.helpers.clocks import count_time, model_ms
from tests.helpers.toy_module import ToyClassifier, toy_loader, toy_trainer
from yolo_slim.callbacks import GammaSparsity, WeightEMA
from yolo_slim.callbacks.slim_checkpoint import prune_module
from yolo_slim.pruning import Selection


class StillLoss(ToyClassifier):
    """The data gradient is zero, so that gammas move by the penalty alone."""

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) * 0


class Spy(Callback):
    """Notes what a step is really done with."""

    def __init__(self):
        self.dtypes, self.norms, self.clip, self.precision = set(), [], set(), set()

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.precision.add(trainer.precision)
        self.clip.add(trainer.gradient_clip_val)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        def note(module, inputs, output):
            self.dtypes.add(output.dtype)

        self.handle = pl_module.stem[0].register_forward_hook(note)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.handle.remove()
        self.norms.append(pl_module.head.weight.grad.norm().item() if pl_module.head.weight.grad is not None else None)


@pytest.mark.parametrize(("accumulate", "steps"), [(1, 5), (2, 3), (4, 2)])
def test_subgradient_once_per_optimizer_step_and_on_schedule(tmp_path, accumulate, steps):
    module = StillLoss(lr=0.1)
    start = module.gammas().clone()
    trainer = toy_trainer(
        tmp_path, max_epochs=4, accumulate_grad_batches=accumulate, callbacks=[GammaSparsity(strength=0.01)]
    )
    trainer.fit(module, toy_loader())
    # Epochs 0 to 3 of 4 have 1, .775, .55 and .325 of the strength.
    travelled = 0.1 * 0.01 * steps * (1 + 0.775 + 0.55 + 0.325)
    assert torch.allclose(start - module.gammas(), torch.full_like(start, travelled), atol=1e-6)


def test_frozen_gammas_and_spared_shortcuts_stay(tmp_path):
    module = StillLoss(lr=0.1)
    module.tail[1].weight.requires_grad_(False)
    toy_trainer(tmp_path, callbacks=[GammaSparsity(strength=0.01)]).fit(module, toy_loader())
    assert (module.gammas()[:24] < 1).all()
    assert torch.equal(module.gammas()[24:], torch.ones(16))
    module = StillLoss(lr=0.1)
    toy_trainer(tmp_path, callbacks=[GammaSparsity(strength=0.01, shortcuts="spare")]).fit(module, toy_loader())
    assert torch.equal(module.gammas()[:24], torch.ones(24))
    assert (module.gammas()[24:] < 1).all()


def test_amp_and_clipping_are_off_in_the_fit_and_back_after_it(tmp_path):
    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
    module, spy = ToyClassifier(), Spy()
    trainer = toy_trainer(tmp_path, plugins=[plugin], gradient_clip_val=0.01, callbacks=[GammaSparsity(), spy])
    with pytest.warns(UserWarning, match="GammaSparsity: .* during this fit"):
        trainer.fit(module, toy_loader())
    assert spy.dtypes == {torch.float32}
    assert spy.clip == {None}
    assert spy.precision == {"32-true"}
    assert max(n for n in spy.norms if n is not None) > 0.02
    assert trainer.strategy.precision_plugin is plugin
    assert trainer.gradient_clip_val == 0.01


def test_amp_and_clipping_stay_on_without_it(tmp_path):
    """The control: the same Trainer does clip and does run in half precision."""
    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
    module, spy = ToyClassifier(), Spy()
    toy_trainer(tmp_path, plugins=[plugin], gradient_clip_val=0.01, callbacks=[spy]).fit(module, toy_loader())
    assert spy.dtypes == {torch.float16}
    assert max(n for n in spy.norms if n is not None) <= 0.0101


class ClipsItself(ToyClassifier):
    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
        self.clip_gradients(optimizer, gradient_clip_val=0.01, gradient_clip_algorithm="norm")


def test_clipping_in_the_modules_own_hook_is_off_too(tmp_path):
    spy = Spy()
    toy_trainer(tmp_path, callbacks=[GammaSparsity(), spy]).fit(ClipsItself(), toy_loader())
    assert max(n for n in spy.norms if n is not None) > 0.02


class Breaks(ToyClassifier):
    def training_step(self, batch, batch_idx):
        if self.global_step == 2:
            raise RuntimeError("boom")
        return super().training_step(batch, batch_idx)


def test_given_back_after_an_exception(tmp_path):
    trainer = toy_trainer(tmp_path, precision="bf16-mixed", gradient_clip_val=0.5, callbacks=[GammaSparsity()])
    with pytest.raises(RuntimeError, match="boom"):
        trainer.fit(Breaks(), toy_loader())
    assert trainer.precision == "bf16-mixed"
    assert trainer.gradient_clip_val == 0.5


def test_growing_ends_at_exactly_zero_at_the_asked_share_and_keeps_amp_on(tmp_path):
    seed_everything(0, verbose=False)
    module, spy = ToyClassifier(), Spy()
    sparsity = GammaSparsity(penalty="growing", ratio=0.5, min_channels=2)
    trainer = toy_trainer(tmp_path, max_epochs=6, precision="bf16-mixed", callbacks=[sparsity, WeightEMA(), spy])
    trainer.fit(module, toy_loader())
    zero = (module.gammas() == 0).float().mean().item()
    assert zero == pytest.approx(0.5, abs=0.06)
    assert spy.precision == {"bf16-mixed"}
    for norm in (module.stem[1], module.branch[1], module.tail[1]):
        assert torch.equal(norm.weight == 0, norm.bias == 0)
        assert (norm.weight != 0).sum() >= 2


@pytest.mark.parametrize(
    "asked",
    [{"max_params": 2000}, {"max_flops": 2.5e5}, {"ratio": 0.5, "per": "flops"}, {"max_latency": "80%"}],
    ids=str,
)
def test_growing_towards_a_budget_ends_where_the_prune_costs_nothing(tmp_path, monkeypatch, asked):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    count_time(monkeypatch)
    seed_everything(0, verbose=False)
    module, selection = ToyClassifier(), Selection(**asked, min_channels=2)
    sparsity = GammaSparsity(penalty="growing", selection=selection)
    toy_trainer(tmp_path, max_epochs=6, callbacks=[sparsity]).fit(module, toy_loader())
    images = torch.rand(4, 3, 8, 8)
    before = module.eval()(images)
    report = prune_module(module, selection)
    assert torch.allclose(module(images), before, atol=1e-5)
    assert report.threshold == 0.0
    if "max_params" in asked:
        assert 1700 < report.parameters_after <= 2000
    elif "max_flops" in asked:
        assert 2.2e5 < report.flops_after <= 2.5e5
    elif "max_latency" in asked:
        dense = model_ms(ToyClassifier().eval(), module.example_input_array)
        assert 0.7 * 0.8 * dense < report.latency_ms <= 0.8 * dense
    else:
        assert report.reached == pytest.approx(0.5, abs=0.06)


def test_growing_resumed_equals_a_straight_run(tmp_path):
    def fit(epochs, stop, folder, resume=None):
        seed_everything(0, verbose=False)
        module = ToyClassifier(momentum=0.9)
        saver = ModelCheckpoint(dirpath=folder, save_last=True)
        sparsity = GammaSparsity(penalty="growing", ratio=0.6, min_channels=2)
        trainer = toy_trainer(
            tmp_path,
            max_epochs=epochs,
            enable_checkpointing=True,
            callbacks=[WeightEMA(), sparsity, saver, StopAfter(stop)],
        )
        trainer.fit(module, toy_loader(), ckpt_path=resume)
        return module.state_dict()

    straight = fit(6, 6, tmp_path / "straight")
    fit(6, 3, tmp_path / "first")
    resumed = fit(6, 6, tmp_path / "second", resume=tmp_path / "first" / "last.ckpt")
    assert all(torch.equal(straight[k], resumed[k]) for k in straight)
    assert any((value == 0).any() for name, value in straight.items() if name.endswith(".1.weight"))


class StopAfter(Callback):
    def __init__(self, epochs):
        self.epochs = epochs

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.should_stop = trainer.current_epoch + 1 >= self.epochs


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"penalty": "l2"}, "penalty='l2' is unknown"),
        ({"strength": 0}, "strength=0 is out of range; expected a number above 0 or 'auto'"),
        ({"strength": "strong"}, "strength=strong is out of range"),
        ({"beta_strength": -1}, "beta_strength=-1 is out of range"),
        ({"final_fraction": 2}, "final_fraction=2 is out of range"),
        ({"penalty": "growing", "ratio": 1.0}, "ratio"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(MisconfigurationException, match=message):
        GammaSparsity(**arguments)


def test_a_pattern_that_matches_nothing(tmp_path):
    with pytest.raises(MisconfigurationException, match="nothing"):
        toy_trainer(tmp_path, callbacks=[GammaSparsity(ignore=["nothing.*"])]).fit(ToyClassifier(), toy_loader())


def test_a_module_without_example_input(tmp_path):
    module = ToyClassifier()
    module.example_input_array = None
    with pytest.raises(MisconfigurationException, match="example_input_array"):
        toy_trainer(tmp_path, callbacks=[GammaSparsity()]).fit(module, toy_loader())


def test_a_module_without_batchnorm(tmp_path):
    module = ToyClassifier()
    for part in (module.stem, module.branch, module.tail):
        part[1] = nn.Identity()
    with pytest.raises(MisconfigurationException, match="no prunable gamma"):
        toy_trainer(tmp_path, callbacks=[GammaSparsity()]).fit(module, toy_loader())


def test_says_when_the_penalty_cannot_work(tmp_path):
    """10 steps of rate 0.05 at strengths 0.01 and 0.0055: far from gammas of 1."""
    with pytest.warns(UserWarning, match=r"by 0\.00388 at most; .* up to 1\. .* try strength=2\.6 or more") as seen:
        toy_trainer(tmp_path, callbacks=[GammaSparsity(strength=0.01)]).fit(ToyClassifier(), toy_loader())
    assert any("only 0.0% of the gammas are below 0.01" in str(w.message) for w in seen)


def test_says_when_the_penalty_is_done_in_one_epoch(tmp_path):
    trainer = toy_trainer(tmp_path, max_epochs=4, callbacks=[GammaSparsity(strength=10.0)])
    with pytest.warns(UserWarning, match=r"within one epoch, .* try a strength below 4"):
        trainer.fit(ToyClassifier(lr=0.05), toy_loader())


def test_says_nothing_when_it_works(tmp_path, recwarn):
    module = StillLoss(lr=0.02)
    toy_trainer(tmp_path, max_epochs=40, callbacks=[GammaSparsity(strength=0.5)]).fit(module, toy_loader())
    assert module.gammas().abs().max() < 0.01
    assert not [w for w in recwarn if "GammaSparsity" in str(w.message)]


def test_two_optimizers_that_own_one_gamma(tmp_path):
    class Twice(ToyClassifier):
        automatic_optimization = False

        def configure_optimizers(self):
            return [torch.optim.SGD(self.parameters(), 0.1), torch.optim.SGD(self.stem.parameters(), 0.1)]

    with pytest.raises(MisconfigurationException, match="penalise 1 gammas once per optimizer"):
        toy_trainer(tmp_path, callbacks=[GammaSparsity()]).fit(Twice(), toy_loader())


@pytest.mark.parametrize("penalty", ["subgradient", "proximal", "growing"])
def test_lbfgs(tmp_path, penalty):
    class WithLBFGS(ToyClassifier):
        def configure_optimizers(self):
            return torch.optim.LBFGS(self.parameters())

    with pytest.raises(MisconfigurationException, match="LBFGS, whose line search does not see the penalty"):
        toy_trainer(tmp_path, callbacks=[GammaSparsity(penalty=penalty)]).fit(WithLBFGS(), toy_loader())


class WithAdam(ToyClassifier):
    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.01)


def test_says_that_adam_cancels_the_strength(tmp_path):
    with pytest.warns(UserWarning, match="AdamW divides the gradient by its size"):
        toy_trainer(tmp_path, callbacks=[GammaSparsity()]).fit(WithAdam(), toy_loader())
