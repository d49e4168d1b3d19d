"""Mixed precision with a loss scale, in a project whose optimizer is fused, as torch makes them on a GPU."""

from __future__ import annotations

import math

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.precision import MixedPrecision
from torch.optim import SGD, Adam, AdamW

from tests.helpers.toy_module import ToyClassifier, toy_loader, toy_trainer
from yolo_slim.callbacks import ChannelPruning, GammaMonitor, GammaSparsity, WeightEMA
from yolo_slim.pruning import Importance
from yolo_slim.pruning.modules.torch_private import unscale_before_step

EPOCHS, BATCHES = 4, 5
FUSED = {"SGD": SGD, "Adam": Adam, "AdamW": AdamW}


class Theirs(ToyClassifier):
    """Its optimizer is fused, and the loss of some batches overflows."""

    def __init__(self, kind: str = "AdamW", fused: bool = True, bad: tuple[int, ...] = ()):
        super().__init__(lr=0.01)
        self.kind, self.fused, self.bad = kind, fused, bad
        self.weights: list[torch.Tensor] = []
        self.averages: list[torch.Tensor] = []

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) * (math.inf if batch_idx in self.bad else 1)

    def configure_optimizers(self):
        return FUSED[self.kind](self.parameters(), lr=self.lr, fused=self.fused)


class Record(Callback):
    """Gradients as callbacks see them, weights and average after each batch, and the steps that were taken."""

    def __init__(self):
        self.gradients, self.weights, self.averages, self.taken = [], [], [], 0

    def on_train_start(self, trainer, pl_module):
        trainer.optimizers[0].register_step_post_hook(self.count)

    def count(self, optimizer, args, kwargs):
        self.taken += 1

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.gradients.append(torch.cat([p.grad.flatten() for p in pl_module.parameters()]).norm().item())

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.weights.append(flat(pl_module))
        averages = [c.average_model for c in trainer.callbacks if isinstance(c, WeightEMA)]
        self.averages += [flat(average) for average in averages if average is not None]


def flat(module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def fit(tmp_path, module, callbacks, scaled=True, **settings) -> Record:
    torch.manual_seed(0)
    record = Record()
    if scaled:
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=10**6)
        settings["plugins"] = [MixedPrecision("16-mixed", "cpu", scaler)]
    trainer = toy_trainer(tmp_path, max_epochs=EPOCHS, callbacks=[*callbacks, record], **settings)
    trainer.fit(module, toy_loader())
    return record


def fresh(**settings) -> Theirs:
    torch.manual_seed(1)
    return Theirs(**settings)


def sparsity(penalty: str) -> GammaSparsity:
    return GammaSparsity(penalty=penalty, strength=0.05, min_channels=2)


@pytest.mark.parametrize(("clip", "accumulate"), [(None, 1), (0.5, 2)])
@pytest.mark.parametrize("kind", FUSED)
@pytest.mark.parametrize("penalty", ["proximal", "growing", None])
def test_fused_optimizers_are_unscaled_clipped_and_stepped(tmp_path, penalty, kind, clip, accumulate):
    """The same fit in full precision, without a scaler and not fused, is what it must be."""
    settings = {"gradient_clip_val": clip, "accumulate_grad_batches": accumulate}
    callbacks = [sparsity(penalty)] if penalty else []
    mixed, full = fresh(kind=kind), fresh(kind=kind, fused=False)
    found = fit(tmp_path, mixed, [WeightEMA(), GammaMonitor(), *callbacks], **settings)
    callbacks = [sparsity(penalty)] if penalty else []
    expected = fit(tmp_path, full, [WeightEMA(), *callbacks], scaled=False, **settings)
    assert found.taken == expected.taken
    assert found.gradients[0] == pytest.approx(expected.gradients[0], rel=2e-2)  # half precision, not 1024 times
    tolerance = 2e-3 if kind == "SGD" else 2e-2  # Adam turns the rounding of tiny gradients into steps
    if penalty == "growing":  # rounding decides between channels that matter alike
        zeros, same = mixed.gammas() == 0, full.gammas() == 0
        assert zeros.sum() == same.sum() == 20
        assert (zeros & same).sum() >= 14
    else:
        assert (flat(mixed) - flat(full)).abs().mean() < tolerance


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("penalty", ["proximal", "growing"])
def test_a_skipped_step_counts_for_nothing(tmp_path, penalty, fused):
    """No penalty, no fading, no average: bitwise what it was before."""
    module = fresh(fused=fused, bad=(1, 3))
    record = fit(tmp_path, module, [WeightEMA(), sparsity(penalty)])
    assert record.taken == EPOCHS * (BATCHES - 2)
    for step in range(1, EPOCHS * BATCHES):
        skipped = step % BATCHES in module.bad
        assert torch.equal(record.weights[step], record.weights[step - 1]) == skipped
        assert torch.equal(record.averages[step], record.averages[step - 1]) == skipped
    assert flat(module).isfinite().all()


def test_an_infinite_gradient_poisons_no_importance(tmp_path):
    for bad in ((), (0,), (4,)):
        module = fresh(bad=bad)
        pruning = ChannelPruning(min_channels=2, compensation="fold", importance=Importance("taylor"))
        fit(tmp_path, module, [pruning])
        assert module.gammas().numel() == 20
        assert math.isfinite(pruning.report.threshold)


def test_infinite_gradients_without_a_scaler_are_not_read(tmp_path):
    """A module that leaves such a gradient out itself, after the callbacks have seen it."""

    class Careful(Theirs):
        def on_before_optimizer_step(self, optimizer):
            for parameter in self.parameters():
                parameter.grad.nan_to_num_(0.0, 0.0, 0.0)

    torch.manual_seed(1)
    module = Careful(bad=(0, 2))
    fit(tmp_path, module, [sparsity("growing"), ChannelPruning(min_channels=2)], scaled=False)
    assert flat(module).isfinite().all()
    assert module.gammas().numel() == 20


def test_the_subgradient_phase_works_and_the_next_fit_is_scaled_again(tmp_path):
    module = fresh()
    fit(tmp_path, module, [sparsity("subgradient")], gradient_clip_val=0.5)
    with pytest.raises(RuntimeError, match="does not allow for gradient clipping"):  # it is the Trainer's own again
        fit(tmp_path, module, [], gradient_clip_val=0.5)
    fit(tmp_path, module, [WeightEMA()], gradient_clip_val=0.5)


@pytest.mark.parametrize("kind", FUSED)
def test_how_torch_and_lightning_know_a_fused_optimizer(kind):
    """Fails where torch renames what tells a scaler that an optimizer divides by the loss scale itself."""
    weight = torch.nn.Parameter(torch.ones(4))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaled = []
    for unscaled in (False, True):
        optimizer = FUSED[kind]([weight], lr=0.0, fused=True)
        if unscaled:
            unscale_before_step(optimizer)
        optimizer.register_step_pre_hook(lambda o, args, kwargs: scaled.append(weight.grad.mean().item()))
        optimizer.zero_grad()
        scaler.scale(weight.sum()).backward()
        scaler.step(optimizer)
        scaler.update()
    assert scaled == [1024.0, 1.0]
