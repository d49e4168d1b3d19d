"""Every optimizer of Ultralytics, fused as on a GPU, with a loss scale and clipping; and states that do not fit."""

from __future__ import annotations

import copy

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import optim

from tests.helpers.detectors import data_for, detector_for, trainer_for
from yolo_slim.callbacks import GammaSparsity, WeightEMA
from yolo_slim.detection.training.hyperparameters import OPTIMIZERS, Hyperparameters
from yolo_slim.detection.training.optimizers import expect_state, kind_of, make_optimizer

NAMES = [name for name in OPTIMIZERS if name != "auto"]


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Adam and AdamW are fused, which Ultralytics asks for on CUDA devices alone."""
    for name in ("Adam", "AdamW"):

        class Fused(getattr(optim, name)):
            def __init__(self, params, **settings):
                super().__init__(params, **settings, fused=True)

        Fused.__name__ = name
        monkeypatch.setattr(optim, name, Fused)


class Steps(Callback):
    """Spoils the gradient of some batches, and counts the steps that are asked for and taken."""

    def __init__(self, bad=()):
        self.bad, self.asked, self.taken, self.norms = bad, 0, 0, []

    def on_train_start(self, trainer, pl_module):
        trainer.optimizers[0].register_step_post_hook(self.count)

    def count(self, optimizer, args, kwargs):
        self.taken += 1
        norms = [p.grad.norm() for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        self.norms.append(torch.stack(norms).norm().item())

    def on_after_backward(self, trainer, pl_module):
        if trainer.fit_loop.batch_idx in self.bad:
            next(pl_module.parameters()).grad.fill_(torch.inf)

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.asked += 1


@pytest.mark.parametrize(
    "name",
    ["AdamW", "SGD", *(pytest.param(n, marks=pytest.mark.slow) for n in OPTIMIZERS if n not in ("AdamW", "SGD"))],
)
@pytest.mark.usefixtures("as_on_a_gpu")
def test_every_optimizer_works_with_a_loss_scale_and_clipping(tmp_path, shapes_dir, name):
    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**10))
    data, steps = data_for(shapes_dir), Steps(bad=(1,))
    hyp = Hyperparameters(optimizer=name, lr0=1e-3, warmup_epochs=0, nbs=4)
    detector = detector_for(data, hyp=hyp)
    trainer = trainer_for(
        tmp_path,
        plugins=[plugin],
        max_epochs=2,
        limit_val_batches=0,
        gradient_clip_val=10.0,
        callbacks=[WeightEMA(), GammaSparsity("growing"), steps],
    )
    trainer.fit(detector, datamodule=data)
    assert (steps.asked, steps.taken) == (6, 4)
    assert 0 < max(steps.norms) <= 10.01
    assert all(value.isfinite().all() for value in detector.state_dict().values())
    assert (detector._steps._sums == 0).all()


def state_of(name: str, detector) -> tuple[optim.Optimizer, dict]:
    """An optimizer that has taken a step, and its state."""
    optimizer, _ = make_optimizer(detector.net, Hyperparameters(optimizer=name), 5e-4, 10, scaled=False)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
        for parameter in group["params"]:
            parameter.grad = torch.full_like(parameter, 1e-3) if parameter.requires_grad else None
    optimizer.step()
    return optimizer, optimizer.state_dict()


@pytest.fixture(scope="module")
def detector(shapes_dir):
    return detector_for(data_for(shapes_dir))


@pytest.mark.parametrize("name", NAMES)
def test_a_state_says_of_which_optimizer_it_is_and_fits_that_one(detector, name):
    optimizer, state = state_of(name, detector)
    assert kind_of(state) == name
    expect_state(state, optimizer)
    again, _ = make_optimizer(detector.net, Hyperparameters(optimizer="auto"), 5e-4, 10, scaled=False, resumed=state)
    assert type(again).__name__ == name
    other = "SGD" if name != "SGD" else "AdamW"
    with pytest.raises(ValueError, match=f"trained with {name}, and hyp.optimizer is {other}"):
        make_optimizer(detector.net, Hyperparameters(optimizer=other), 5e-4, 10, scaled=False, resumed=state)


def spoilt(state: dict) -> dict[str, dict]:
    """The same state, damaged in every way that has a name of its own."""
    found = {}

    def change(name):
        found[name] = copy.deepcopy(state)
        return found[name]

    found["no mapping"] = "text"
    found["empty"] = {}
    change("no groups")["param_groups"] = 3
    change("one group less")["param_groups"].pop()
    change("a group of text")["param_groups"][0] = "x"
    change("a parameter less")["param_groups"][0]["params"].pop()
    change("a parameter twice")["param_groups"][0]["params"][0] = state["param_groups"][0]["params"][1]
    change("a rate of text")["param_groups"][0]["lr"] = "x"
    change("a rate that is no number")["param_groups"][0]["lr"] = float("nan")
    change("betas of another length")["param_groups"][0]["betas"] = (0.9,)
    del change("a setting less")["param_groups"][0]["weight_decay"]
    first = next(iter(state["state"]))
    change("no values")["state"] = [1]
    change("an unknown parameter")["state"][99999] = {}
    change("values of text")["state"][first] = "x"
    change("another shape")["state"][first]["exp_avg"] = torch.zeros(3, 1)
    change("not finite")["state"][first]["exp_avg"][0] = torch.nan
    change("a negative square")["state"][first]["exp_avg_sq"][0] = -1.0
    change("a step of text")["state"][first]["step"] = "x"
    return found


def test_a_damaged_state_is_refused_in_one_line(detector):
    optimizer, state = state_of("AdamW", detector)
    for name, damaged in spoilt(state).items():
        with pytest.raises(
            ValueError, match="the optimizer's state in the checkpoint is damaged.*take another"
        ) as stop:
            expect_state(damaged, optimizer)
        assert "\n" not in str(stop.value), name
        assert len(str(stop.value)) < 400, name


def test_the_machine_and_not_the_checkpoint_picks_the_kernel(detector):
    _, state = state_of("AdamW", detector)
    for group in state["param_groups"]:
        group["fused"] = True
    optimizer, _ = make_optimizer(detector.net, Hyperparameters(optimizer="AdamW"), 5e-4, 10, scaled=False)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    optimizer.load_state_dict(state)
    assert {group["fused"] for group in optimizer.param_groups} == {None}
