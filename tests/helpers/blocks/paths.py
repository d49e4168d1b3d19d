"""Blocks of several paths: shortcuts, dense growth, partial paths, and maps that meet."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tests.helpers.blocks.registry import block, conv_bn, fit, up_to
from tests.helpers.toy_nets import Net, bn, conv


@block()
def residual(c, w):
    return Net(lambda n, x: (x + n.step(x)).relu(), step=nn.Sequential(conv_bn(c, w), nn.ReLU(), conv_bn(w, c, 3)))


@block()
def residual_projected(c, w):
    return Net(lambda n, x: F.relu(n.short(x) + n.step(x)), step=conv_bn(c, w, 3), short=conv_bn(c, w))


@block()
def residual_preactivation(c, w):
    return Net(lambda n, x: x + n.step(x), step=nn.Sequential(bn(c), nn.ReLU(), conv(c, c)))


@block()
def residual_of_raw_convs(c, w):
    step = nn.Sequential(conv(c, w), nn.ReLU(), nn.Conv2d(w, c, 1))
    return Net(lambda n, x: x + n.step(x), step=step)


@block(prunable=False)
def residual_with_padded_channels(c, w):
    def run(n, x):
        return F.pad(x, (0, 0, 0, 0, 1, n.more - 1)) + n.step(x)

    return Net(run, step=conv_bn(c, c + 3, 3), more=3)


@block()
def inverted_residual(c, w):
    d = 2 * w
    step = nn.Sequential(conv_bn(c, d), nn.ReLU6(), conv_bn(d, d, 3, groups=d), nn.ReLU6(), conv_bn(d, c))
    return Net(lambda n, x: x + n.step(x), step=step)


@block()
def dense_growth(c, w):
    def run(n, x):
        for step in n.steps:
            x = torch.cat([x, step(x)], 1)
        return x

    steps = [nn.Sequential(bn(c + 2 * i), nn.ReLU(), conv(c + 2 * i, 2)) for i in range(2)]
    return Net(run, steps=nn.ModuleList(steps))


@block()
def inception(c, w):
    layers = {"one": conv_bn(c, w), "three": conv_bn(c, 2, 3), "pooled": conv_bn(c, 1)}
    return Net(lambda n, x: torch.cat((n.one(x), n.three(x), n.pooled(F.avg_pool2d(x, 3, 1, 1))), dim=1), **layers)


@block()
def csp_by_chunk(c, w):
    def run(n, x):
        parts = list(n.first(x).relu().chunk(2, 1))
        parts.extend(step(parts[-1]) for step in n.steps)
        return n.last(torch.cat(parts, 1))

    steps = nn.ModuleList(conv_bn(w, w, 3) for _ in range(2))
    return Net(run, first=conv_bn(c, 2 * w), steps=steps, last=conv_bn(4 * w, w))


@block()
def csp_by_attribute(c, w):
    def run(n, x):
        first, second = n.first(x).split((n.c, n.d), 1)
        return torch.cat([first, second, n.step(second)], 1)

    return Net(run, first=conv_bn(c, w + 3), step=conv_bn(3, 2, 3), c=w, d=3)


@block()
def csp_by_attribute_slices(c, w):
    def run(n, x):
        x = n.first(x)
        return torch.cat([x[:, : n.c], n.step(x[:, n.c :])], 1)

    return Net(run, first=conv_bn(c, w + 3), step=conv_bn(3, 2, 3), c=w)


@block(prunable=False)
def partial_conv(c, w):
    """Of FasterNet: the first channels by number are convolved, the others pass."""
    k = up_to(c, 4) // 4
    return Net(lambda n, x: torch.cat([n.step(x[:, :k]), x[:, k:]], 1), step=conv(k, k))


@block()
def ghost(c, w):
    def run(n, x):
        x = n.primary(x).relu()
        return torch.cat([x, n.cheap(x)], 1)[:, : n.width]

    return Net(run, primary=conv_bn(c, w), cheap=conv_bn(w, w, 3, groups=w), width=2 * w)


@block(prunable=None)
def channel_shuffle(c, w):
    d = up_to(c, 2)

    def run(n, x):
        batch, channels, height, width = (x := n.fit(x)).size()
        x = x.reshape(batch, 2, channels // 2, height, width)
        return x.transpose(1, 2).contiguous().view(batch, -1, height, width)

    return Net(run, fit=fit(c, d))


@block(prunable=None)
def channel_shuffle_function(c, w):
    return nn.Sequential(fit(c, up_to(c, 2)), nn.ChannelShuffle(2))


@block()
def shuffle_unit(c, w):
    d = up_to(c, 2)

    def run(n, x):
        left, right = n.fit(x).chunk(2, dim=1)
        return torch.stack([left, n.step(right)], 2).flatten(1, 2)

    return Net(run, fit=fit(c, d), step=conv_bn(d // 2, d // 2))


@block()
def pyramid_of_pools(c, w):
    def run(n, x):
        x = n.first(x)
        pooled = F.max_pool2d(x, 3, 1, 1)
        return n.last(torch.cat([x, pooled, F.max_pool2d(pooled, 5, 1, 2)], 1))

    return Net(run, first=conv_bn(c, w), last=conv_bn(3 * w, w))


@block()
def hourglass(c, w):
    def run(n, x):
        small = n.step(F.max_pool2d(x, 2))
        return x + F.interpolate(small, scale_factor=2, mode="bilinear")

    return Net(run, step=conv_bn(c, c, 3))


@block()
def copied_modules(c, w):
    step = nn.Sequential(conv_bn(c, c), nn.ReLU())
    return nn.Sequential(step, copy.deepcopy(step), nn.Identity(), copy.deepcopy(step))


@block()
def checkpointed(c, w):
    step = nn.Sequential(conv_bn(c, w), nn.ReLU())
    return Net(lambda n, x: checkpoint(n.step, x, use_reentrant=False), step=step)


@block(random=True)
def dropout(c, w):
    return nn.Sequential(nn.Dropout2d(0.2), conv(c, w, 1), bn(w), nn.Dropout(0.1))


@block(random=True)
def drop_path(c, w):
    def run(n, x):
        y = n.step(x)
        if n.training:
            y = y * torch.empty(x.shape[0], 1, 1, 1, dtype=x.dtype).bernoulli_(0.5) / 0.5
        return x + y

    return Net(run, step=conv_bn(c, c))


@block(random=True)
def drop_path_like_its_input(c, w):
    def run(n, x):
        y = n.step(x)
        if n.training:
            mask = 0.8 + torch.rand((x.shape[0],) + (1,) * (x.ndim - 1), dtype=x.dtype, device=x.device)
            y = y.div(0.8) * mask.floor_()
        return x + y

    return Net(run, step=conv_bn(c, c))


@block(pair=True)
def add(c, w):
    return Net(lambda n, x: x[0] + x[1])


@block(pair=True)
def subtract(c, w):
    return Net(lambda n, x: torch.sub(x[0], x[1], alpha=0.5))


@block(pair=True)
def multiply(c, w):
    return Net(lambda n, x: x[0] * x[1].tanh())


@block(pair=True)
def maximum(c, w):
    return Net(lambda n, x: torch.max(x[0], x[1]))


@block(pair=True)
def concatenate(c, w):
    return Net(lambda n, x: torch.cat(x, 1))


@block(pair=True)
def weighted_fusion(c, w):
    def run(n, x):
        weight = n.weight.relu()
        weight = weight / (weight.sum() + 1e-4)
        return weight[0] * x[0] + weight[1] * x[1]

    return Net(run, weight=nn.Parameter(torch.tensor([0.7, 1.2])))


@block(pair=True)
def stack_and_sum(c, w):
    return Net(lambda n, x: torch.stack(x).sum(0))


@block(pair=True)
def stack_and_max(c, w):
    return Net(lambda n, x: torch.stack(x, -1).max(-1).values)


@block(pair=True)
def stack_and_unbind(c, w):
    def run(n, x):
        first, second = torch.stack(x, 1).unbind(1)
        return n.step(first) * second.sigmoid()

    return Net(run, step=conv_bn(c, c))


@block(pair=True, prunable=False)
def difference_over_sum(c, w):
    return Net(lambda n, x: (x[0] - x[1]) / (x[0].abs() + x[1].abs() + 1))


@block(pair=True, prunable=None)
def where_larger(c, w):
    return Net(lambda n, x: torch.where(x[0] > x[1], x[0], 0.5 * x[1]))


@block(pair=True, prunable=None)
def lerp(c, w):
    return Net(lambda n, x: torch.lerp(x[0], x[1], 0.3))


@block(pair=True, prunable=None)
def addcmul(c, w):
    return Net(lambda n, x: torch.addcmul(x[0], x[0], x[1].tanh(), value=0.5))
