from __future__ import annotations

import pytest
import torch
from torch import nn

from yolo_slim.pruning import Selection, trace
from yolo_slim.pruning.sparsity.penalty import Proximal, Subgradient, gamma_magnitudes, small_share, strength_at


class Residual(nn.Module):
    """Two gammas on a shortcut, one inside the branch."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.inner = nn.Sequential(nn.Conv2d(8, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.outer = nn.Sequential(nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x):
        x = self.stem(x)
        return self.head(x + self.outer(self.inner(x)))


@pytest.fixture
def model():
    torch.manual_seed(0)
    net = Residual()
    for norm in (net.stem[1], net.inner[1], net.outer[1]):
        nn.init.uniform_(norm.weight, -1, 1)
        nn.init.uniform_(norm.bias, -1, 1)
    return net


def penalty_of(kind, model, **selection):
    return kind(model, trace(model, torch.rand(1, 3, 8, 8)), Selection(0.5, **selection))


def ids(model):
    return {id(p) for p in model.parameters()}


def backward(model):
    model(torch.rand(2, 3, 8, 8)).square().mean().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def test_strength_decays_along_a_line():
    assert [strength_at(e, 5, 2.0, 0.5) for e in (0, 5)] == [2.0, 1.0]
    assert strength_at(3, 10, 1.0) == pytest.approx(1 - 0.9 * 3 / 10)


def test_subgradient_adds_the_sign_to_gammas_alone(model):
    before = backward(model)
    assert penalty_of(Subgradient, model).add_to_gradients(0.3, ids(model)) == 3
    for name, parameter in model.named_parameters():
        gamma = name in ("stem.1.weight", "inner.1.weight", "outer.1.weight")
        expected = before[name] + 0.3 * parameter.sign() if gamma else before[name]
        assert torch.equal(parameter.grad, expected), name


def test_beta_strength_adds_the_sign_to_betas(model):
    before = backward(model)
    penalty_of(Subgradient, model).add_to_gradients(0.3, ids(model), beta_strength=0.2)
    beta = model.inner[1].bias
    assert torch.equal(beta.grad, before["inner.1.bias"] + 0.2 * beta.sign())
    assert torch.equal(model.head.bias.grad, before["head.bias"])


@pytest.mark.parametrize("kind", [Subgradient, Proximal])
def test_spared_frozen_foreign_and_unused_gammas_are_left_alone(model, kind):
    backward(model)

    def layers(penalty, optimizer):
        if kind is Subgradient:
            return penalty.add_to_gradients(0.1, {id(p) for p in optimizer.param_groups[0]["params"]})
        return penalty.shrink(optimizer, 0.1)

    everything = torch.optim.SGD(model.parameters(), 0.1)
    assert layers(penalty_of(kind, model, shortcuts="spare"), everything) == 1
    assert layers(penalty_of(kind, model, ignore=("inner.*",)), everything) == 2
    penalty = penalty_of(kind, model)
    assert layers(penalty, torch.optim.SGD(model.inner.parameters(), 0.1)) == 1
    model.inner[1].weight.requires_grad_(False)
    assert layers(penalty, everything) == 2
    model.stem[1].weight.grad = None
    assert layers(penalty, everything) == 1


def test_proximal_is_the_soft_threshold(model):
    backward(model)
    optimizer = torch.optim.SGD(
        [{"params": model.inner.parameters(), "lr": 2.0}, {"params": model.stem.parameters()}], 1.0
    )
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    assert penalty_of(Proximal, model).shrink(optimizer, 0.15, beta_strength=0.05) == 2
    for name, threshold in (
        ("inner.1.weight", 0.3),
        ("stem.1.weight", 0.15),
        ("inner.1.bias", 0.1),
        ("stem.1.bias", 0.05),
    ):
        expected = nn.functional.softshrink(before[name], threshold)
        found = dict(model.named_parameters())[name]
        assert torch.allclose(found, expected, atol=1e-7), name
        assert torch.equal(found == 0, before[name].abs() <= threshold), name
    assert (model.inner[1].weight == 0).any()
    for name in ("outer.1.weight", "head.weight", "inner.0.weight"):
        assert torch.equal(dict(model.named_parameters())[name], before[name]), name


def test_magnitudes_are_those_of_the_penalised_channels(model):
    penalty = penalty_of(Subgradient, model, shortcuts="spare")
    assert torch.equal(penalty.magnitudes(), model.inner[1].weight.detach().abs())
    assert len(gamma_magnitudes(model)) == 22


def test_partly_fixed_gammas_are_penalised_in_part():
    class Half(nn.Module):
        """The second half of the normalised channels leaves the model before it is normalised."""

        def __init__(self):
            super().__init__()
            self.inner, self.outer = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
            self.norm, self.head = nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1)

        def forward(self, x):
            out = self.outer(x)
            return self.head(self.norm(torch.cat((self.inner(x), out), 1)).relu()), out

    net = Half()
    sum(out.sum() for out in net(torch.rand(2, 3, 4, 4))).backward()
    graph = trace(net, torch.rand(1, 3, 4, 4))
    (gamma,) = graph.prunable_gammas()
    assert 0 < int(gamma.prunable.sum()) < 8
    optimizer = torch.optim.SGD(net.parameters(), 1.0)
    Proximal(net, graph, Selection(0.5)).shrink(optimizer, 0.25)
    assert torch.equal(net.norm.weight.detach(), torch.where(gamma.prunable, 0.75, 1.0))


def test_small_share():
    assert small_share(torch.tensor([0.0, 0.009, 0.01, 1.0])) == 0.5
    assert small_share(torch.zeros(0)) == 0.0
