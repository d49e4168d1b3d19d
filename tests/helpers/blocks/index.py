"""Blocks that cut, pick, reorder and repeat channels or pixels."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from tests.helpers.blocks.registry import block, conv_bn, fit, up_to
from tests.helpers.toy_nets import Net, bn, conv


@block(prunable=False)
def literal_order(c, w):
    order = [0, *range(c - 1, 0, -1)]
    return Net(lambda n, x: x[:, order])


@block(prunable=False)
def index_select(c, w):
    net = Net(lambda n, x: x.index_select(1, n.order))
    net.register_buffer("order", torch.randperm(c))
    return net


@block(prunable=False)
def gather(c, w):
    index = torch.arange(c).flip(0).view(1, c, 1, 1)
    return Net(lambda n, x: x.gather(1, index.expand(x.shape[0], -1, 8, 8)))


@block(prunable=False)
def literal_channel(c, w):
    return Net(lambda n, x: x * x[:, 0:1].sigmoid() + x[:, -1, None])


@block(prunable=False)
def boolean_mask(c, w):
    mask = torch.tensor([i % 3 != 1 for i in range(c)])
    return Net(lambda n, x: x[:, mask])


@block(prunable=None)
def flip_channels(c, w):
    return Net(lambda n, x: x.flip(1))


@block()
def flip_pixels(c, w):
    return Net(lambda n, x: x + torch.flip(x, (-1, 2)))


@block(prunable=False)
def roll_channels(c, w):
    return Net(lambda n, x: x.roll(1, 1))


@block()
def roll_pixels(c, w):
    return Net(lambda n, x: torch.roll(x, (1, 2), (2, 3)))


@block(prunable=False)
def cumulative_sum(c, w):
    return Net(lambda n, x: x.cumsum(1))


@block(prunable=False)
def sorted_channels(c, w):
    return Net(lambda n, x: x.sort(1)[0])


@block(prunable=False)
def top_channels(c, w):
    k = max(1, c // 2)
    return Net(lambda n, x: x.topk(k, 1).values)


@block(prunable=None)
def repeated_channels(c, w):
    return Net(lambda n, x: n.layer(x.repeat(1, 2, 1, 1)), layer=conv_bn(2 * c, w))


@block(prunable=None)
def interleaved_channels(c, w):
    return Net(lambda n, x: n.layer(x.repeat_interleave(2, dim=1)), layer=conv_bn(2 * c, w))


@block(prunable=None)
def repeated_pixels(c, w):
    return Net(lambda n, x: F.max_pool2d(x.repeat(1, 1, 2, 2), 2))


@block()
def one_channel_broadcast(c, w):
    return Net(lambda n, x: n.map(x) + n.other(x), map=conv_bn(c, 1), other=conv_bn(c, w))


@block(prunable=None)
def one_channel_expanded(c, w):
    return Net(lambda n, x: n.map(x).expand(-1, x.shape[1], -1, -1) * x, map=conv_bn(c, 1))


@block()
def expanded_vector(c, w):
    return Net(lambda n, x: x + n.layer(x.mean((2, 3), keepdim=True)).expand(-1, -1, 8, 8), layer=conv_bn(c, c))


@block(prunable=False)
def split_by_one_number(c, w):
    return Net(lambda n, x: torch.cat(x.split(2, 1)[::-1], 1))


@block(prunable=None)
def split_by_half_of_its_size(c, w):
    def run(n, x):
        a, b = torch.split(x, x.shape[1] // 2, dim=1)
        return a + b

    return nn.Sequential(fit(c, up_to(c, 2)), Net(run))


@block()
def split_by_one_attribute(c, w):
    def run(n, x):
        a, b, d = n.first(x).split(n.width, dim=1)
        return torch.cat([a * b.sigmoid(), d], 1)

    return Net(run, first=conv_bn(c, 3 * w), width=w)


@block(prunable=None)
def tensor_split(c, w):
    return Net(lambda n, x: torch.cat([part.relu() for part in x.tensor_split(2, 1)][::-1], 1))


@block(prunable=False)
def narrowed(c, w):
    return Net(lambda n, x: x.narrow(1, 0, max(1, c - 1)))


@block(prunable=False)
def unbound_channels(c, w):
    return Net(lambda n, x: torch.stack([part * (i + 1) for i, part in enumerate(x.unbind(1))], 1))


@block(prunable=None)
def iterated_channels(c, w):
    return Net(lambda n, x: torch.stack([channel.sigmoid() for channel in x.transpose(0, 1)]).transpose(0, 1))


@block()
def places_of_maxima(c, w):
    def run(n, x):
        x = (x * 1e6).round() / 1e6  # else rounding decides between equal pixels
        pooled, places = F.max_pool2d(x, 3, 1, 1, return_indices=True)
        rows, medians = x.median(-1, keepdim=True)
        return n.step(pooled + rows) + n.other(n.norm((places + medians).to(x.dtype)))

    return Net(run, step=conv_bn(c, w), norm=bn(c), other=conv(c, w))


@block(prunable=False)
def places_of_maxima_raw(c, w):
    def run(n, x):
        x = (x * 1e6).round()
        _, places = F.max_pool2d(x, 3, 1, 1, return_indices=True)
        return n.other(places.to(x.dtype) / 64) + n.step(x.max(2, keepdim=True)[1].to(x.dtype))

    return Net(run, step=conv(c, w, 1), other=conv(c, w))
