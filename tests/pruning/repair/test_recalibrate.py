from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.helpers.toy_nets import Net, bn, conv, out, randomised
from yolo_slim.pruning.repair.recalibrate import recalibrate


def net() -> nn.Module:
    layers = {"c1": conv(3, 4), "b1": bn(4), "c2": conv(4, 5), "b2": bn(5), "head": out(5)}
    return randomised(Net(lambda n, x: n.head(F.relu(n.b2(n.c2(F.relu(n.b1(n.c1(x))))))), **layers))


def batches(count: int = 3) -> list[torch.Tensor]:
    return list(torch.rand(count, 4, 3, 8, 8, dtype=torch.float64))


def statistics(model: nn.Module) -> list[torch.Tensor]:
    return [buffer.clone() for buffer in model.buffers()]


def settings(model: nn.Module) -> list[object]:
    return [(m.training, getattr(m, "momentum", None)) for m in model.modules()]


def test_the_statistics_are_the_average_over_the_batches():
    model, data = net(), batches()
    parameters = [p.clone() for p in model.parameters()]
    assert recalibrate(model, data) == 3
    first = torch.stack([model.c1(x).mean((0, 2, 3)) for x in data]).mean(0)
    spread = torch.stack([model.c1(x).var((0, 2, 3)) for x in data]).mean(0)
    torch.testing.assert_close(model.b1.running_mean, first)
    torch.testing.assert_close(model.b1.running_var, spread)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), parameters, strict=True))


@pytest.mark.parametrize("kind", ["tuples", "generator", "dictionaries"])
def test_batches_of_several_kinds_measure_the_same(kind):
    model, data = net(), batches()
    other = copy.deepcopy(model)
    recalibrate(model, data)
    if kind == "tuples":
        recalibrate(other, [(x, None) for x in data])
    elif kind == "generator":
        recalibrate(other, (x for x in data))
    else:
        recalibrate(other, [{"img": 4 * x} for x in data], lambda batch: batch["img"] / 4)
    assert all(torch.equal(a, b) for a, b in zip(statistics(model), statistics(other), strict=True))


def test_modes_and_momentum_come_back_and_held_layers_are_measured_too():
    model = net().train()
    model.b2.eval()
    model.b1.momentum, model.b2.momentum = 0.03, None
    model.b2.requires_grad_(False)
    before, mean = settings(model), model.b2.running_mean.clone()
    recalibrate(model, batches())
    assert settings(model) == before
    assert not torch.equal(model.b2.running_mean, mean)


def _broken():
    yield batches()[0]
    raise OSError("the disk is gone")


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ([], ValueError, "no batches"),
        (_broken(), OSError, "disk"),
        ([torch.rand(4, 3, 8, 8).double(), torch.rand(4, 2, 8, 8).double()], RuntimeError, "channels"),
        ([{"img": torch.rand(4, 3, 8, 8)}], ValueError, "a batch is a dict, .* give to_inputs"),
    ],
    ids=["empty", "broken", "misfit", "dictionary"],
)
def test_after_an_error_everything_is_as_it_was(data, error, message):
    model = net().train()
    model.b2.eval()
    before, modes = statistics(model), settings(model)
    with pytest.raises(error, match=message):
        recalibrate(model, data)
    assert all(torch.equal(a, b) for a, b in zip(statistics(model), before, strict=True))
    assert settings(model) == modes


@torch.no_grad()
def test_a_constant_that_is_missing_is_made_up_for():
    model, data = net(), batches(8)
    model.b1.bias[0] = 4
    recalibrate(model, data)
    expected = [model(x) for x in data]
    model.c2.weight[:, 0] = 0

    def error() -> float:
        return sum(float((model(x) - y).square().sum()) for x, y in zip(data, expected, strict=True))

    before = error()
    recalibrate(model, data)
    assert error() < before / 4
