"""Blocks that leave the plain path of tensor functions: numpy, scripts, state, containers, hooks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.helpers.blocks.registry import block, conv_bn
from tests.helpers.toy_nets import Net, conv


@block(prunable=False)
def numpy_detour(c, w):
    return Net(lambda n, x: x * torch.from_numpy(1 / (1 + np.exp(-x.detach().numpy()))))


@block(prunable=False)
def numpy_statistics(c, w):
    return Net(lambda n, x: x / float(1 + np.abs(np.asarray(x.detach())).mean()))


@block(prunable=False)
def item_decides(c, w):
    return Net(lambda n, x: x.relu() if x.sum().item() > 0 else x.tanh())


@block(prunable=False)
def truth_decides(c, w):
    return Net(lambda n, x: x * 2 if (x > 1).any() else x.sin())


@block(prunable=False)
def list_of_numbers(c, w):
    return Net(lambda n, x: x * sum(x.mean((0, 2, 3)).tolist()))


@torch.jit.script
def _scripted(x: Tensor) -> Tensor:
    return x * x.sigmoid() + 0.5


@block(prunable=False)
def scripted_function(c, w):
    return Net(lambda n, x: _scripted(x))


@block(prunable=False)
def scripted_module(c, w):
    return torch.jit.script(conv_bn(c, w))


@block()
def symbolically_traced(c, w):
    return torch.fx.symbolic_trace(nn.Sequential(conv_bn(c, w), nn.ReLU()))


@block(prunable=False)
def operators_called_directly(c, w):
    return Net(lambda n, x: torch.ops.aten.relu(x) + torch.ops.aten.add.Tensor(x, 1))


class _Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x + 1

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient


@block(prunable=None)
def custom_function(c, w):
    return Net(lambda n, x: _Doubled.apply(x))


@block(prunable=None)
def mapped_over_the_batch(c, w):
    return Net(lambda n, x: torch.vmap(lambda image: image.relu() * 2)(x))


@block()
def functional_call(c, w):
    def run(n, x):
        return torch.func.functional_call(n.step, dict(n.step.named_parameters()), (x,))

    return Net(run, step=conv_bn(c, w))


@block(prunable=False)
def functional_call_with_other_weights(c, w):
    def run(n, x):
        weights = {name: 0.5 * value for name, value in n.step.named_parameters()}
        return torch.func.functional_call(n.step, weights, (x,))

    return Net(run, step=conv_bn(c, w))


@block()
def kept_in_a_list(c, w):
    """The features stay in a list attribute, as in many a visualisation."""

    def run(n, x):
        n.seen.append(x)
        y = n.step(n.seen[-1])
        n.seen.append(y.shape)
        n.seen.clear()
        return y

    return Net(run, step=conv_bn(c, w), seen=[])


class Counting(nn.Module):
    """Grows a list, counts its calls and remembers its last map: state that a trace must not leave behind."""

    def __init__(self, c, w):
        super().__init__()
        self.step, self.sizes, self.calls, self.last = conv_bn(c, w), [], 0, None
        self.register_buffer("total", torch.zeros(()))

    def forward(self, x):
        self.sizes.append(tuple(x.shape))
        self.calls += 1
        self.total += 1
        self.last = x
        return self.step(self.last)


@block()
def counting(c, w):
    return Counting(c, w)


@block()
def shape_cached(c, w):
    """Recomputes something when the shape changes, as detection heads do."""

    def run(n, x):
        if n.shape != x.shape[2:]:
            n.shape = x.shape[2:]
        return n.step(x)

    return Net(run, step=conv_bn(c, w), shape=None)


@block()
def buffer_made_on_the_way(c, w):
    def run(n, x):
        if n.grid is None:
            n.grid = torch.linspace(-1, 1, 8, dtype=x.dtype).expand(x.shape[0], 1, 8, 8)
        return torch.cat([x, n.grid], 1)

    return Net(run, grid=None)


@dataclass
class Pyramid:
    fine: Tensor
    coarse: Tensor


@block()
def dataclass_between(c, w):
    def run(n, x):
        levels = n.backbone(x)
        return levels.fine + F.interpolate(n.lateral(levels.coarse), scale_factor=2)

    backbone = Net(lambda n, x: Pyramid(x, F.max_pool2d(x, 2)))
    return Net(run, backbone=backbone, lateral=conv_bn(c, c))


@block()
def dictionary_between(c, w):
    backbone = Net(lambda n, x: {"a": n.a(x), "b": {"c": (x, [n.b(x)])}}, a=conv_bn(c, w), b=conv_bn(c, w))
    return Net(lambda n, x: (d := n.backbone(x))["a"].relu() * d["b"]["c"][1][0].sigmoid(), backbone=backbone)


class Lambda(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *args, **kwargs):
        return self.function(*args, **kwargs)


@block()
def lambda_modules(c, w):
    return nn.Sequential(Lambda(lambda x: x.mul(2)), conv_bn(c, w), Lambda(F.relu), Lambda(lambda x: x[:, :, :]))


@block()
def forward_hooks(c, w):
    step = conv_bn(c, w)
    step.register_forward_hook(lambda module, args, result: result.relu())
    step.register_forward_pre_hook(lambda module, args: (args[0] * 0.5,))
    return step


@block(prunable=False)
def hook_that_shifts(c, w):
    step = nn.Sequential(nn.Identity(), conv(c, w))
    step[0].register_forward_hook(lambda module, args, result: result + 0.5)
    return step


@block()
def generator_of_maps(c, w):
    def run(n, x):
        def levels():
            for step in n.steps:
                yield step(x)

        return sum(levels())

    return Net(run, steps=nn.ModuleList([conv_bn(c, w), conv_bn(c, w, 3)]))
