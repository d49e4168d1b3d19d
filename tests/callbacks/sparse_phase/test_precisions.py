"""Every penalty under every precision: the gammas move as in full precision, and the Trainer comes back as it was."""

from __future__ import annotations

import functools
import gc
import math
import signal
import tempfile
import weakref
from typing import get_args, get_type_hints

import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import nn

from tests.helpers.toy_module import ToyClassifier, toy_loader, toy_trainer
from yolo_slim.callbacks import ChannelPruning, GammaMonitor, GammaSparsity, WeightEMA
from yolo_slim.pruning import Importance

RATE, STRENGTH, EPOCHS, STEPS = 0.1, 0.01, 3, 5
PENALTIES = ("subgradient", "proximal", "growing")


def half_runs_here() -> bool:
    """Whether this CPU's kernels train the toy in float16."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).half()
    try:
        net(torch.rand(2, 3, 8, 8).half()).sum().backward()
    except RuntimeError:
        return False
    return True


PRECISIONS = [
    *("32-true", "16-mixed", "bf16-mixed", "bf16-true", "64-true"),
    pytest.param("16-true", marks=pytest.mark.skipif(not half_runs_here(), reason="no float16 kernels on this CPU")),
]


def settings(precision: str) -> dict:
    """Arguments of a Trainer; on a CPU Lightning would turn 16-mixed into bf16-mixed and use no scaler."""
    if precision == "16-mixed":
        return {"plugins": [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))]}
    return {"precision": precision}


class Still(ToyClassifier):
    """The data gradient is zero, so that gammas move by the penalty alone."""

    def __init__(self):
        super().__init__(lr=RATE)

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) * 0


class Manual(Still):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        optimizer.step()


class ClipsItself(Still):
    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
        self.clip_gradients(optimizer, gradient_clip_val=1e-4, gradient_clip_algorithm="norm")


def sparsity(penalty: str) -> GammaSparsity:
    return GammaSparsity(penalty=penalty, strength=STRENGTH, ratio=0.5, min_channels=2)


def fit(tmp_path, module, penalty: str, precision: str, callbacks=(), **others) -> torch.Tensor:
    """Trains, and returns the gammas in double precision."""
    trainer = toy_trainer(
        tmp_path, max_epochs=EPOCHS, callbacks=[sparsity(penalty), *callbacks], **settings(precision), **others
    )
    trainer.fit(module, toy_loader())
    return module.gammas().double()


@functools.cache
def gammas_after(penalty: str) -> torch.Tensor:
    """The gammas after the same fit in full precision, without anything else."""
    module = Still()
    with tempfile.TemporaryDirectory() as folder:
        toy_trainer(folder, max_epochs=EPOCHS, callbacks=[sparsity(penalty)]).fit(module, toy_loader())
    return module.gammas()


@pytest.mark.parametrize("kind", [Still, Manual, ClipsItself])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("penalty", ["subgradient", "proximal"])
def test_gammas_travel_by_the_penalty_alone(tmp_path, penalty, precision, kind):
    clip = {} if kind is Manual else {"gradient_clip_val": 1e-4}  # Lightning has no clipping with manual optimization
    moved = 1 - fit(tmp_path, kind(), penalty, precision, **clip)
    travelled = RATE * STRENGTH * STEPS * (1 + 0.7 + 0.4)  # what is left of the strength in epochs 0, 1 and 2 of 3
    assert torch.allclose(moved, torch.full_like(moved, travelled), rtol=0, atol=1e-6)
    if not (penalty == "proximal" and precision == "64-true"):  # the only one whose gammas have more digits
        assert torch.equal(1 - moved, gammas_after(penalty).double())


@pytest.mark.parametrize("kind", [Still, Manual, ClipsItself])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_growing_zeroes_the_chosen_and_leaves_the_others(tmp_path, precision, kind):
    clip = {} if kind is Manual else {"gradient_clip_val": 1e-4}
    gammas = fit(tmp_path, kind(), "growing", precision, **clip)
    assert (gammas == 0).sum() == 20
    assert (gammas == 1).sum() == 20


class Overflows(Still):
    """The scaler meets gradients that are no numbers at the first batch of every epoch and skips that step."""

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) * (math.inf if batch_idx == 0 else 1)


class Skipped(Callback):
    """Counts optimizer steps that are asked for and those that are made."""

    def __init__(self):
        self.asked = self.made = 0

    def on_train_start(self, trainer, pl_module):
        trainer.optimizers[0].register_step_post_hook(self.count)

    def count(self, optimizer, args, kwargs):
        self.made += 1

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.asked += 1


def test_growing_reads_no_importance_from_a_step_that_the_scaler_skips(tmp_path):
    module, steps = Overflows(), Skipped()
    gammas = fit(tmp_path, module, "growing", "16-mixed", [steps])
    assert (steps.asked, steps.made) == (EPOCHS * STEPS, EPOCHS * (STEPS - 1))
    assert (gammas == 0).sum() == 20
    assert (gammas == 1).sum() == 20


def test_proximal_does_not_move_gammas_at_a_step_that_the_scaler_skips(tmp_path):
    moved = 1 - fit(tmp_path, Overflows(), "proximal", "16-mixed")
    travelled = RATE * STRENGTH * (STEPS - 1) * (1 + 0.7 + 0.4)
    assert torch.allclose(moved, torch.full_like(moved, travelled), rtol=0, atol=1e-6)


@pytest.mark.parametrize("importance", ["gamma", "taylor"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_prunes_in_every_precision(tmp_path, precision, importance):
    module = ToyClassifier()
    pruning = ChannelPruning(min_channels=2, compensation="fold", importance=Importance(importance))
    toy_trainer(tmp_path, callbacks=[pruning, WeightEMA()], **settings(precision)).fit(module, toy_loader())
    assert module.gammas().numel() == 20
    expected = {"16-true": torch.float16, "bf16-true": torch.bfloat16, "64-true": torch.float64}
    floats = [t for t in module.state_dict().values() if t.is_floating_point()]
    assert {t.dtype for t in floats} == {expected.get(precision, torch.float32)}
    assert module.dtype == floats[0].dtype
    toy_trainer(tmp_path, **settings(precision)).fit(module, toy_loader())


def test_taylor_reads_nothing_from_a_step_that_the_scaler_skips(tmp_path):
    module = Overflows()
    pruning = ChannelPruning(min_channels=2, importance=Importance("taylor"))
    toy_trainer(tmp_path, max_epochs=1, callbacks=[pruning], **settings("16-mixed")).fit(module, toy_loader())
    assert module.gammas().numel() == 20


class Breaks(ToyClassifier):
    """Raises an error at one place of the fit."""

    def __init__(self, where, error):
        super().__init__()
        self.where, self.error = where, error

    def setup(self, stage):
        self.fail("setup")

    def training_step(self, batch, batch_idx):
        self.fail("training_step" if self.global_step == 2 else "")
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx):
        self.fail("validation_step" if not self.trainer.sanity_checking else "sanity check")

    def fail(self, here):
        if here == self.where:
            raise self.error("boom")


@pytest.fixture
def keep_interrupts():
    """Lightning ignores Ctrl-C from the first one on."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("keep_interrupts")
@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("nowhere", None),
        ("setup", RuntimeError),
        ("sanity check", RuntimeError),
        ("training_step", RuntimeError),
        ("training_step", KeyboardInterrupt),
        ("validation_step", KeyboardInterrupt),
    ],
)
@pytest.mark.parametrize("penalty", PENALTIES)
def test_everything_is_given_back_and_the_callback_works_again(tmp_path, penalty, where, error):
    callback, plugin = sparsity(penalty), settings("16-mixed")["plugins"][0]
    others = {"gradient_clip_val": 0.5, "gradient_clip_algorithm": "value", "max_epochs": EPOCHS}
    trainer = toy_trainer(tmp_path, plugins=[plugin], callbacks=[callback], **others)
    module = Breaks(where, error)
    if where == "nowhere":
        trainer.fit(module, toy_loader(), toy_loader())
    else:
        with pytest.raises((error, SystemExit)):
            trainer.fit(module, toy_loader(), toy_loader())
    assert trainer.strategy.precision_plugin is plugin
    assert (trainer.precision, trainer.gradient_clip_val, trainer.gradient_clip_algorithm) == ("16-mixed", 0.5, "value")
    assert {p.dtype for p in module.parameters()} == {torch.float32}

    again = Still()
    toy_trainer(tmp_path, callbacks=[callback], max_epochs=EPOCHS).fit(again, toy_loader())
    assert torch.equal(again.gammas(), gammas_after(penalty))


def test_a_checkpoint_saved_because_of_an_exception_holds_the_state(tmp_path):
    saver = ModelCheckpoint(dirpath=tmp_path, filename="broken", save_on_exception=True, every_n_epochs=EPOCHS)
    trainer = toy_trainer(
        tmp_path, max_epochs=EPOCHS, enable_checkpointing=True, callbacks=[WeightEMA(), sparsity("growing"), saver]
    )
    with pytest.raises(RuntimeError, match="boom"):
        trainer.fit(Breaks("training_step", RuntimeError), toy_loader())
    saved = torch.load(tmp_path / "broken.ckpt", weights_only=False)  # the class of the error is in its hparams
    assert len(saved["callbacks"]["GammaSparsity"]["growing"]["chosen"])
    assert not torch.equal(saved["state_dict"]["head.weight"], saved["current_model_state"]["head.weight"])


@pytest.mark.usefixtures("keep_interrupts")
@pytest.mark.parametrize("where", ["nowhere", "setup", "training_step", "validation_step"])
@pytest.mark.parametrize("penalty", PENALTIES)
def test_nothing_is_held_or_hooked_after_the_fit(tmp_path, penalty, where):
    """The callbacks outlive module, optimizer and Trainer, which go when their owner lets them go."""
    pruning = ChannelPruning(min_channels=2, importance=Importance("taylor"))
    callbacks = [WeightEMA(), sparsity(penalty), GammaMonitor(), pruning]
    module = Breaks(where, RuntimeError)
    trainer = toy_trainer(tmp_path, max_epochs=EPOCHS, num_sanity_val_steps=0, callbacks=callbacks)
    if where == "nowhere":
        trainer.fit(module, toy_loader(), toy_loader())
    else:
        with pytest.raises(RuntimeError, match="boom"):
            trainer.fit(module, toy_loader(), toy_loader())
    hooks = [getattr(o, name) for o in trainer.optimizers for name in vars(o) if name.endswith("_hooks")]
    hooks += [getattr(m, name) for m in module.modules() for name in vars(m) if name.endswith("_hooks")]
    assert not any(hooks)
    for callback in callbacks:  # the Trainer gives every callback the module's log()
        vars(callback).pop("log", None)
        vars(callback).pop("log_dict", None)
    held = [weakref.ref(x) for x in (module, module.tail[1].weight, trainer, *trainer.optimizers)]
    del trainer, module
    gc.collect()
    assert [ref() for ref in held] == [None] * len(held)


@pytest.mark.parametrize("before", ["bf16-true", "64-true"])
@pytest.mark.parametrize("penalty", PENALTIES)
def test_a_module_that_an_earlier_fit_left_in_another_precision(tmp_path, penalty, before):
    module = Still()
    toy_trainer(tmp_path, max_epochs=1, precision=before).fit(module, toy_loader())
    assert next(module.parameters()).dtype != torch.float32
    fit(tmp_path, module, penalty, before)
    assert module.gammas().double().median() < 1


def test_every_penalty_is_in_the_matrix():
    assert get_args(get_type_hints(GammaSparsity.__init__)["penalty"]) == PENALTIES
