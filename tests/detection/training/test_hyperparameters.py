from __future__ import annotations

import pytest
import torch

from yolo_slim.detection.training.hyperparameters import Hyperparameters, WarmUp


def test_line_and_cosine_start_at_one_and_end_near_lrf():
    for cos in (False, True):
        hyp = Hyperparameters(lrf=0.1, cos_lr=cos)
        rates = [hyp.rate_factor(e, 10) for e in range(11)]
        assert rates[0] == 1
        assert rates[10] == pytest.approx(0.1)
        assert all(a > b for a, b in zip(rates, rates[1:], strict=False))
    assert Hyperparameters(lrf=0.1).rate_factor(5, 10) == pytest.approx(0.55)


def test_warm_up_leaves_the_last_epoch():
    assert Hyperparameters(warmup_epochs=3).warmup_batches(10, 100) == 30
    assert Hyperparameters(warmup_epochs=3).warmup_batches(10, 2) == 10
    assert Hyperparameters(warmup_epochs=0.5).warmup_batches(10, 100) == 5
    assert Hyperparameters(warmup_epochs=3).warmup_batches(10, 1) == 0


def test_ramp_of_rates_momentum_and_accumulation():
    groups = [
        {"params": [torch.nn.Parameter(torch.zeros(1))], "param_group": name, "initial_lr": 0.01}
        for name in ("weight", "bias")
    ]
    optimizer = torch.optim.SGD(groups, lr=0.01, momentum=0.9)
    warmup = WarmUp(batches=10, accumulate=4, momentum=(0.8, 0.9), bias_rate=0.1)

    assert warmup.apply(optimizer.param_groups, 0, 1.0) == 1
    assert [g["lr"] for g in optimizer.param_groups] == [0.0, 0.1]
    assert optimizer.param_groups[0]["momentum"] == pytest.approx(0.8)

    assert warmup.apply(optimizer.param_groups, 5, 1.0) == 2
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.005, 0.055])

    assert warmup.apply(optimizer.param_groups, 10, 0.5) == 4
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.005, 0.005])
    optimizer.param_groups[0]["lr"] = 0.123
    assert warmup.apply(optimizer.param_groups, 11, 0.5) == 4
    assert optimizer.param_groups[0]["lr"] == 0.123


@pytest.mark.parametrize(
    ("name", "value"),
    [("lr0", 0), ("lrf", 0), ("lrf", 2), ("momentum", 1.0), ("nbs", 0), ("box", -1), ("warmup_epochs", -1)],
)
def test_out_of_range(name, value):
    with pytest.raises(ValueError, match=f"hyp.{name}={value} is out of range"):
        Hyperparameters(**{name: value})
