"""What is foreseen before the first step is what the fit then does, with a loss that opposes nothing."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch.callbacks import Callback, GradientAccumulationScheduler
from torch.optim import SGD, AdamW, RMSprop
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LambdaLR,
    LinearLR,
    MultiplicativeLR,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)

from tests.helpers.toy_module import ToyClassifier, toy_loader, toy_trainer
from yolo_slim.callbacks import GammaSparsity
from yolo_slim.callbacks.sparse_phase.travel import unit_travel


class Scheduled(ToyClassifier):
    """The data gradient is zero; optimizer and scheduler are given."""

    def __init__(self, optimizer, scheduler=None, interval="epoch", frequency=1):
        super().__init__()
        self.make = optimizer, scheduler, interval, frequency
        self.total_steps = 20

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) * 0

    def rate_factor(self, epoch):
        return 0.5**epoch

    def configure_optimizers(self):
        optimizer, scheduler, interval, frequency = self.make
        made = optimizer(self)
        if scheduler is None:
            return made
        config = {"scheduler": scheduler(made, self), "interval": interval, "frequency": frequency}
        return {"optimizer": made, "lr_scheduler": config}


class Foresee(Callback):
    def __init__(self, proximal=False):
        self.proximal = proximal

    def on_train_start(self, trainer, pl_module):
        gammas = {id(m.weight) for m in pl_module.modules() if isinstance(m, torch.nn.BatchNorm2d)}
        rates = [g["lr"] for g in trainer.optimizers[0].param_groups]
        self.travel = unit_travel(trainer, pl_module, gammas, 0.1, self.proximal)
        assert [g["lr"] for g in trainer.optimizers[0].param_groups] == rates


def travel_and_forecast(tmp_path, module, penalty="subgradient", callbacks=(), **settings):
    before = module.gammas().clone()
    foresee = Foresee(penalty == "proximal")
    sparsity = GammaSparsity(penalty=penalty, strength=0.01)
    settings = {"max_epochs": 4, **settings}
    toy_trainer(tmp_path, callbacks=[foresee, sparsity, *callbacks], **settings).fit(module, toy_loader())
    moved = before - module.gammas()
    assert moved.min() > 0.5 * moved.max() > 0
    return moved.max().item(), 0.01 * sum(foresee.travel.distances), foresee.travel


def sgd(**settings):
    return lambda module: SGD(module.parameters(), 0.05, **settings)


@pytest.mark.filterwarnings("ignore:GammaSparsity")
@pytest.mark.parametrize(
    "settings",
    [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}, {"momentum": 0.8, "dampening": 0.3}],
    ids=str,
)
def test_momentum(tmp_path, settings):
    moved, foreseen, travel = travel_and_forecast(tmp_path, Scheduled(sgd(**settings)))
    assert moved == pytest.approx(foreseen, rel=1e-4)
    assert travel.steps == [5, 5, 5, 5]


SCHEDULERS = {
    "step": (lambda o, m: StepLR(o, 1, 0.3), "epoch", 1),
    "every second epoch": (lambda o, m: StepLR(o, 1, 0.3), "epoch", 2),
    "method of the module": (lambda o, m: LambdaLR(o, m.rate_factor), "epoch", 1),
    "multiplicative": (lambda o, m: MultiplicativeLR(o, lambda e: 0.7), "epoch", 1),
    "cosine per step": (lambda o, m: CosineAnnealingLR(o, m.total_steps), "step", 1),
    "every third step": (lambda o, m: StepLR(o, 1, 0.5), "step", 3),
    "one cycle": (lambda o, m: OneCycleLR(o, 0.1, m.total_steps + 1), "step", 1),
    "sequence": (
        lambda o, m: SequentialLR(o, [LinearLR(o, 0.1, 1.0, 7), StepLR(o, 2, 0.8)], milestones=[7]),
        "step",
        1,
    ),
}


@pytest.mark.filterwarnings("ignore:GammaSparsity")
@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("penalty", ["subgradient", "proximal"])
def test_schedulers(tmp_path, name, penalty):
    scheduler, interval, frequency = SCHEDULERS[name]
    module = Scheduled(sgd(momentum=0.9), scheduler, interval, frequency)
    moved, foreseen, _ = travel_and_forecast(tmp_path, module, penalty)
    assert moved == pytest.approx(foreseen, rel=1e-4)
    constant, *_ = travel_and_forecast(tmp_path, Scheduled(sgd(momentum=0.9)), penalty)
    assert abs(constant - moved) > 0.02 * constant


@pytest.mark.filterwarnings("ignore:GammaSparsity")
def test_a_scheduler_that_waits_for_a_metric_counts_as_constant(tmp_path):
    class Plateau(Scheduled):
        def configure_optimizers(self):
            made = SGD(self.parameters(), 0.05)
            return {"optimizer": made, "lr_scheduler": {"scheduler": ReduceLROnPlateau(made), "monitor": "val_loss"}}

    module, foresee = Plateau(None), Foresee()
    toy_trainer(tmp_path, callbacks=[foresee]).fit(module, toy_loader(), toy_loader())
    assert sum(foresee.travel.distances) == pytest.approx(0.05 * 5 * (1 + 0.55))


@pytest.mark.filterwarnings("ignore:GammaSparsity")
@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulation(tmp_path, accumulate):
    module = Scheduled(sgd(), lambda o, m: StepLR(o, 2, 0.5), "step")
    moved, foreseen, travel = travel_and_forecast(tmp_path, module, accumulate_grad_batches=accumulate)
    assert moved == pytest.approx(foreseen, rel=1e-4)
    assert travel.steps == [-(-5 // accumulate)] * 4


@pytest.mark.filterwarnings("ignore:GammaSparsity")
def test_accumulation_that_changes(tmp_path):
    changing = GradientAccumulationScheduler({0: 1, 2: 5})
    moved, foreseen, travel = travel_and_forecast(tmp_path, Scheduled(sgd()), callbacks=[changing])
    assert moved == pytest.approx(foreseen, rel=1e-4)
    assert travel.steps == [5, 5, 1, 1]


@pytest.mark.filterwarnings("ignore:GammaSparsity")
def test_max_steps_end_the_fit(tmp_path):
    moved, foreseen, travel = travel_and_forecast(tmp_path, Scheduled(sgd()), max_steps=7)
    assert moved == pytest.approx(foreseen, rel=1e-4)
    assert travel.steps == [5, 2, 0, 0]


@pytest.mark.filterwarnings("ignore:GammaSparsity")
@pytest.mark.parametrize("optimizer", [AdamW, RMSprop])
def test_proximal_is_not_scaled_by_the_optimizer(tmp_path, optimizer):
    module = Scheduled(lambda m: optimizer(m.parameters(), 0.05, weight_decay=0))
    moved, foreseen, _ = travel_and_forecast(tmp_path, module, "proximal")
    assert moved == pytest.approx(foreseen, rel=1e-4)


@pytest.mark.filterwarnings("ignore:GammaSparsity")
def test_adam_moves_by_the_rates_alone(tmp_path):
    module = Scheduled(lambda m: AdamW(m.parameters(), 0.001, weight_decay=0))
    moved, _, travel = travel_and_forecast(tmp_path, module)
    assert sum(travel.distances) == pytest.approx(0.001 * 20)
    # A hundred times what strength 0.01 would give; the larger gradients of the start are remembered.
    assert 0.85 * sum(travel.distances) < moved < sum(travel.distances)


@pytest.mark.filterwarnings("ignore:GammaSparsity")
def test_the_group_that_holds_the_gammas_counts(tmp_path):
    def grouped(module):
        norms = [p for m in module.modules() if isinstance(m, torch.nn.BatchNorm2d) for p in m.parameters()]
        others = [p for p in module.parameters() if not any(p is n for n in norms)]
        return SGD([{"params": others, "lr": 1.0}, {"params": norms, "lr": 0.02, "momentum": 0.5}], 0.1)

    moved, foreseen, _ = travel_and_forecast(tmp_path, Scheduled(grouped))
    assert moved == pytest.approx(foreseen, rel=1e-4)


def test_manual_optimization_is_not_foreseen(tmp_path, capfd, caplog):
    class Manual(ToyClassifier):
        automatic_optimization = False

        def training_step(self, batch, batch_idx):
            self.optimizers().zero_grad()
            self.manual_backward(super().training_step(batch, batch_idx))
            self.optimizers().step()

    foresee = Foresee()
    toy_trainer(tmp_path, callbacks=[foresee, GammaSparsity()]).fit(Manual(), toy_loader())
    assert foresee.travel is None


@pytest.mark.filterwarnings("ignore:GammaSparsity")
def test_a_module_that_plans_its_steps_itself(tmp_path):
    class Planned(Scheduled):
        def planned_steps(self):
            for epoch in range(self.trainer.current_epoch, self.trainer.max_epochs):
                for batch in range(5):
                    yield epoch, [{"lr": 0.1 * (batch + 1)}]

        def on_train_batch_start(self, batch, batch_idx):
            self.trainer.optimizers[0].param_groups[0]["lr"] = 0.1 * (batch_idx + 1)

    moved, foreseen, _ = travel_and_forecast(tmp_path, Planned(sgd()))
    assert moved == pytest.approx(foreseen, rel=1e-4)
