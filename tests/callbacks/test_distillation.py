"""A teacher in a fit: it is left alone, kept out of files, and compared channel by channel."""

from __future__ import annotations

import copy

import pytest
import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from tests.helpers.taught import Student, student
from tests.helpers.toy_module import ToyClassifier, toy_loader, toy_trainer
from yolo_slim.callbacks import Distillation, GammaSparsity, WeightEMA, prune_module
from yolo_slim.pruning import PruningPlan, Selection


class Network(nn.Module):
    """Two layers by hand: the second one reads what the first one makes."""

    def __init__(self, width=4):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, width, 1), nn.ReLU())
        self.second = nn.Conv2d(width, 2, 1)

    def forward(self, images):
        return self.second(self.first(images))


class Features(ToyClassifier):
    """A network in a submodule."""

    pruning_target = "net"

    def __init__(self, net):
        super().__init__()
        self.net = net
        self.example_input_array = torch.rand(1, 3, 8, 8)

    def training_step(self, batch, batch_idx):
        return self.net(batch[0]).sum() * 0

    def configure_optimizers(self):
        return torch.optim.SGD(self.net.parameters(), lr=1e-3)


class Gradients(Callback):
    """The gradients of the first step, and what was logged."""

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if trainer.global_step == 0:
            self.first = {n: p.grad.clone() for n, p in pl_module.named_parameters() if p.grad is not None}

    def on_train_end(self, trainer, pl_module):
        self.logged = {name: float(value) for name, value in trainer.logged_metrics.items()}


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("as_dict", [False, True])
def test_a_student_learns_what_its_teacher_says(tmp_path, as_dict):
    teacher, module, images = student(1), student(0, labels=False, as_dict=as_dict), torch.rand(32, 3, 8, 8)
    before = state(teacher)

    def apart():
        return (module.eval()(images) - teacher.eval()(images)).abs().mean().item()

    start, seen = apart(), Gradients()
    callbacks = [Distillation(teacher, outputs=5.0), seen]
    toy_trainer(tmp_path, max_epochs=20, callbacks=callbacks).fit(module, toy_loader())
    assert apart() < 0.5 * start
    assert same(state(teacher), before)
    assert all(p.grad is None and p.requires_grad for p in teacher.parameters())
    assert seen.logged["distillation/outputs"] > 0
    assert "training_step" not in vars(module)
    assert not any(m._forward_hooks for m in module.modules())


@pytest.mark.parametrize("gain", [0.5, 2.0])
def test_the_gradient_is_the_gain_times_that_of_the_difference(tmp_path, gain):
    teacher, module = student(1).eval(), student(0, labels=False)
    expected = copy.deepcopy(module).train()
    images = next(iter(toy_loader()))[0]
    (gain * nn.functional.mse_loss(expected(images), teacher(images))).backward()
    seen = Gradients()
    toy_trainer(tmp_path, max_epochs=1, callbacks=[Distillation(teacher, gain), seen]).fit(module, toy_loader())
    for name, parameter in expected.named_parameters():
        assert torch.allclose(seen.first[name], parameter.grad, atol=1e-6)


def test_accumulation_divides_it_as_the_loss(tmp_path):
    """Two batches of four give the mean of their gradients, not the sum."""
    teacher, first = student(1).eval(), Gradients()
    module = student(0, labels=False).eval()  # BatchNorm as if the two batches were one
    expected = copy.deepcopy(module)
    batches = [batch[0] for batch, _ in zip(toy_loader(), range(2), strict=False)]
    sum(nn.functional.mse_loss(expected(images), teacher(images)) / 2 for images in batches).backward()
    trainer = toy_trainer(tmp_path, max_epochs=1, accumulate_grad_batches=2, callbacks=[Distillation(teacher), first])
    trainer.fit(module, toy_loader())
    assert torch.allclose(first.first["head.weight"], expected.head.weight.grad, atol=1e-6)


def test_no_gradient_where_the_student_says_what_the_teacher_says(tmp_path):
    """In eval mode, so that BatchNorm computes the same in both."""
    module = student(0, labels=False).eval()
    seen = Gradients()
    distillation = Distillation(copy.deepcopy(module), 1.0, 1.0, ["stem", "tail.1"])
    toy_trainer(tmp_path, max_epochs=1, callbacks=[distillation, seen]).fit(module, toy_loader())
    assert seen.first
    assert all(gradient.abs().max() < 1e-7 for gradient in seen.first.values())


def test_features_are_matched_channel_by_channel_through_the_plan(tmp_path):
    """By hand: channels 1 and 3 of four stay, so that a cut teacher is its own student."""
    torch.manual_seed(0)
    teacher = Network()
    plan = PruningPlan(
        {"first.0": {"out": [1, 3]}, "second": {"in": [1, 3]}}, {"first.0": {"out": 4}, "second": {"in": 4}}, {}
    )
    net = Network(2)
    net.first[0].weight.data = teacher.first[0].weight.data[[1, 3]].clone()
    net.first[0].bias.data = teacher.first[0].bias.data[[1, 3]].clone()
    for modules in (["first"], ["first.0"]):
        module, seen = Features(copy.deepcopy(net)), Gradients()
        distillation = Distillation(teacher, outputs=0, features=1.0, modules=modules, plan=plan)
        toy_trainer(tmp_path, max_epochs=1, callbacks=[distillation, seen]).fit(module, toy_loader())
        assert seen.logged["distillation/features"] < 1e-12
        assert seen.first["net.first.0.weight"].abs().max() < 1e-6
    module = Features(copy.deepcopy(net))
    module.net.first[0].weight.data[1] += 0.5
    distillation, seen = Distillation(teacher, outputs=0, features=1.0, modules=["first"], plan=plan), Gradients()
    toy_trainer(tmp_path, max_epochs=1, callbacks=[distillation, seen]).fit(module, toy_loader())
    assert seen.logged["distillation/features"] > 1e-3
    gradient = seen.first["net.first.0.weight"]
    assert gradient[0].abs().max() < 1e-6 < 1e-3 < gradient[1].abs().max()


def test_a_pruned_student_knows_its_channels_from_the_plan_of_its_prune(tmp_path):
    teacher, module = student(0), student(0, labels=False)
    report = prune_module(module, Selection(0.5, min_channels=2))
    report.plan.save(tmp_path / "plan.yaml")
    seen = Gradients()
    distillation = Distillation(teacher, 1.0, 1.0, ["stem", "branch", "tail"], plan=tmp_path / "plan.yaml")
    toy_trainer(tmp_path, max_epochs=2, callbacks=[distillation, seen]).fit(module, toy_loader())
    assert seen.logged["distillation/features"] > 0
    with pytest.raises(MisconfigurationException, match="give the plan by which this network was cut"):
        toy_trainer(tmp_path, callbacks=[Distillation(teacher, 0, 1.0, ["stem"])]).fit(module, toy_loader())


def fit(tmp_path, folder, epochs=4, stop=None, resume=None):
    seed_everything(0, verbose=False)
    module = student(0, momentum=0.9)
    saver = ModelCheckpoint(dirpath=tmp_path / folder, save_last=True)

    class Stop(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            trainer.should_stop = trainer.current_epoch == stop

    trainer = toy_trainer(
        tmp_path,
        max_epochs=epochs,
        enable_checkpointing=True,
        callbacks=[WeightEMA(tau=5), Distillation(student(1), 1.0, 0.5, ["tail"]), saver, Stop()],
    )
    trainer.fit(module, toy_loader(), ckpt_path=resume)
    return module, tmp_path / folder / "last.ckpt"


def test_a_resumed_fit_equals_a_straight_one_and_files_know_no_teacher(tmp_path):
    straight, file = fit(tmp_path, "straight")
    _, broken = fit(tmp_path, "broken", stop=1)
    resumed, _ = fit(tmp_path, "resumed", resume=broken)
    assert same(state(straight), state(resumed))
    saved = torch.load(file, weights_only=True)
    assert saved["state_dict"].keys() == straight.state_dict().keys()
    assert not any("eacher" in str(key) for key in (*saved["callbacks"], *saved["state_dict"]))


def test_the_teacher_can_be_a_checkpoint(tmp_path):
    teacher = student(1)
    trainer = toy_trainer(tmp_path, max_epochs=1)
    trainer.fit(teacher, toy_loader())
    trainer.save_checkpoint(tmp_path / "teacher.ckpt")
    modules = [student(0), student(0)]
    for module, given in zip(modules, (tmp_path / "teacher.ckpt", teacher), strict=True):
        toy_trainer(tmp_path, max_epochs=1, callbacks=[Distillation(given)]).fit(module, toy_loader())
    assert same(state(modules[0]), state(modules[1]))


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_the_teacher_has_the_precision_of_the_fit(tmp_path, precision):
    module, seen = student(0), Gradients()
    teacher = student(1).to({"bf16-true": torch.bfloat16, "64-true": torch.float64}.get(precision))
    trainer = toy_trainer(tmp_path, precision=precision, callbacks=[Distillation(teacher), seen])
    trainer.fit(module, toy_loader())
    assert seen.logged["distillation/outputs"] > 0


def test_gradients_of_a_loss_scale_are_unscaled(tmp_path):
    """Mixed precision multiplies the whole loss, the teacher's part too, and the step sees none of it."""
    from lightning.pytorch.plugins.precision import MixedPrecision

    gradients = []
    for scale in (1.0, 1024.0):
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        plugin, seen = MixedPrecision("16-mixed", "cpu", scaler), Gradients()
        trainer = toy_trainer(tmp_path, max_epochs=1, plugins=[plugin], callbacks=[Distillation(student(1)), seen])
        trainer.fit(student(0, labels=False), toy_loader())
        gradients.append(seen.first["head.weight"])
    assert gradients[0].abs().max() > 0
    assert torch.allclose(gradients[0], gradients[1], rtol=1e-2, atol=1e-6)


def test_beside_a_sparse_phase(tmp_path):
    """A look at plain images is no training step: the teacher is not asked."""

    class Plain(Student):
        def plain_losses(self):
            return (nn.functional.cross_entropy(self(x), y) for x, y in toy_loader())

    torch.manual_seed(0)
    module, calls = Plain(), []
    teacher = copy.deepcopy(module)
    distillation = Distillation(teacher)
    sparsity = GammaSparsity("growing", ratio=0.5, min_channels=2)
    trainer = toy_trainer(tmp_path, max_epochs=4, callbacks=[distillation, sparsity])

    class Count(Callback):
        def on_train_start(self, trainer, pl_module):
            distillation._teacher.register_forward_hook(lambda *_: calls.append(1))

    trainer.callbacks.append(Count())
    trainer.fit(module, toy_loader())
    assert len(calls) == 4 * 5


def test_a_step_that_fails_leaves_the_module_alone(tmp_path):
    class Breaks(Student):
        def training_step(self, batch, batch_idx):
            if self.global_step == 2:
                raise RuntimeError("boom")
            return super().training_step(batch, batch_idx)

    module = Breaks()
    with pytest.raises(RuntimeError, match="boom"):
        toy_trainer(tmp_path, callbacks=[Distillation(student_like(module))]).fit(module, toy_loader())
    assert "training_step" not in vars(module)
    assert not any(m._forward_hooks for m in module.modules())


def student_like(module):
    torch.manual_seed(1)
    return type(module)()
