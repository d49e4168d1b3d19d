from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.helpers.toy_module import ToyClassifier, toy_loader, toy_trainer
from yolo_slim.callbacks import GammaSparsity
from yolo_slim.callbacks.bn_momentum import BatchNormMomentum


def deep_net(layers=20):
    torch.manual_seed(0)
    parts = []
    for _ in range(layers):
        parts += [nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8, momentum=0.03), nn.ReLU()]
    return nn.Sequential(*parts)


def norms_of(net):
    return [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]


def scale_in_eval(paced):
    """Shrinks all gammas by a hundredth per step, and compares the output in eval mode with that in train mode."""
    net, images = deep_net(), torch.rand(16, 8, 8, 8)
    pace = BatchNormMomentum(net)
    for epoch in range(6):
        if paced:
            pace.follow(25 if epoch else 0)
        for _ in range(25):
            net(images)
            for norm in norms_of(net):
                norm.weight.data.mul_(0.99)
                norm.bias.data.mul_(0.99)
    with torch.no_grad():
        fresh = net.train()(images)
        return (net.eval()(images).norm() / fresh.norm()).item()


def test_without_it_the_evaluated_network_fades_away_and_with_it_it_does_not():
    assert scale_in_eval(paced=False) < 0.3
    assert scale_in_eval(paced=True) > 0.6


def test_momentum_follows_the_pace_and_comes_back():
    net = deep_net(2)
    first, second = norms_of(net)
    pace = BatchNormMomentum(net)
    assert pace.follow(0) == 0.0
    assert first.momentum == 0.03
    first.weight.data.sub_(0.1)  # 0.05 of all, in 50 steps
    assert pace.follow(50) == pytest.approx(0.1 * 8 / (8 * 1.9) / 50)
    assert first.momentum == second.momentum == pytest.approx(100 * 0.1 / 1.9 / 50)
    assert pace.follow(50) == 0.0
    assert first.momentum == 0.03
    pace.follow(0, expected=0.01)
    assert first.momentum == 0.5
    pace.give_back()
    assert [norm.momentum for norm in norms_of(net)] == [0.03, 0.03]


def test_statistics_that_are_no_running_average_are_left_alone():
    net = nn.Sequential(nn.BatchNorm2d(4, momentum=None), nn.BatchNorm2d(4, track_running_stats=False))
    BatchNormMomentum(net).follow(0, expected=1.0)
    assert [norm.momentum for norm in net] == [None, 0.1]


@pytest.mark.filterwarnings("ignore:GammaSparsity")
@pytest.mark.parametrize("breaks", [False, True])
def test_given_back_after_a_fit(tmp_path, breaks):
    seen = []

    class Watched(ToyClassifier):
        def training_step(self, batch, batch_idx):
            seen.append(self.stem[1].momentum)
            if breaks and self.global_step == 4:
                raise RuntimeError("boom")
            return super().training_step(batch, batch_idx)

    module, trainer = Watched(), toy_trainer(tmp_path, callbacks=[GammaSparsity(strength=1.0)])
    if breaks:
        with pytest.raises(RuntimeError, match="boom"):
            trainer.fit(module, toy_loader())
    else:
        trainer.fit(module, toy_loader())
    assert max(seen) == 0.5
    assert [m.momentum for m in module.modules() if isinstance(m, nn.BatchNorm2d)] == [0.1] * 3
