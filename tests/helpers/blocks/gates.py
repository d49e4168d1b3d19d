"""Blocks in which channels weigh each other: gates, attention, reductions over channels."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from tests.helpers.blocks.registry import block, conv_bn, fit, up_to
from tests.helpers.toy_nets import Net


@block()
def squeeze_excite(c, w):
    gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(c, w, 1), nn.ReLU(), nn.Conv2d(w, c, 1), nn.Sigmoid())
    return Net(lambda n, x: x * n.gate(x), gate=gate)


@block()
def squeeze_excite_linear(c, w):
    def run(n, x):
        b, ch, _, _ = x.size()
        gate = n.gate(F.adaptive_avg_pool2d(x, 1).reshape(b, ch)).view(b, ch, 1, 1)
        return x * gate.expand_as(x)

    return Net(run, gate=nn.Sequential(nn.Linear(c, w), nn.ReLU(inplace=True), nn.Linear(w, c), nn.Sigmoid()))


@block()
def squeeze_excite_with_bn(c, w):
    gate = nn.Sequential(conv_bn(c, w), nn.ReLU(), conv_bn(w, c), nn.Hardsigmoid())
    return Net(lambda n, x: n.gate(x.mean((2, 3), keepdim=True)).mul(x), gate=gate)


@block(prunable=None)
def efficient_channel_attention(c, w):
    def run(n, x):
        gate = n.layer(F.adaptive_avg_pool2d(x, 1).squeeze(-1).transpose(-1, -2)).transpose(-1, -2).unsqueeze(-1)
        return x * gate.sigmoid()

    return Net(run, layer=nn.Conv1d(1, 1, 3, padding=1, bias=False))


@block(prunable=False)
def spatial_gate(c, w):
    def run(n, x):
        gate = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return x * n.layer(gate).sigmoid()

    return Net(run, layer=nn.Conv2d(2, 1, 3, padding=1))


@block()
def spatial_gate_by_conv(c, w):
    return Net(lambda n, x: x * n.layer(x).sigmoid(), layer=nn.Conv2d(c, 1, 1))


@block()
def bn_spatial_gate(c, w):
    return Net(lambda n, x: x * n.layer(x).sigmoid(), layer=conv_bn(c, 1, 3))


@block()
def gate_by_chunk(c, w):
    def run(n, x):
        value, gate = n.first(x).chunk(2, 1)
        return value * gate.sigmoid()

    return Net(run, first=conv_bn(c, 2 * w))


@block()
def glu(c, w):
    return nn.Sequential(conv_bn(c, 2 * w), nn.GLU(1))


@block()
def simple_gate(c, w):
    d = up_to(c, 2)

    def run(n, x):
        a, b = n.fit(x).chunk(2, dim=1)
        return a * b.tanh()

    return Net(run, fit=fit(c, d))


@block()
def split_attention(c, w):
    """Two kernels chosen by a softmax over the branches, as in SKNet."""

    def run(n, x):
        maps = torch.stack([n.one(x), n.three(x)], 1)
        gate = n.up(n.down(maps.sum(1).mean((2, 3), keepdim=True)).relu())
        gate = gate.reshape(x.shape[0], 2, -1, 1, 1).softmax(1)
        return (maps * gate).sum(1)

    layers = {"one": conv_bn(c, w), "three": conv_bn(c, w, 3), "down": nn.Conv2d(w, 4, 1)}
    return Net(run, **layers, up=nn.Conv2d(4, 2 * w, 1))


@block()
def qkv_attention(c, w):
    heads, size = 2, up_to(w, 2)

    def run(n, x):
        b, _, height, width = x.shape
        q, k, v = n.qkv(x).reshape(b, n.heads, -1, height * width).split(n.size, 2)
        attention = (q.transpose(-2, -1) @ k * n.size**-0.5).softmax(-1)
        y = (v @ attention.transpose(-2, -1)).view(b, -1, height, width)
        return n.project(y)

    layers = {"qkv": conv_bn(c, 3 * heads * size), "project": conv_bn(heads * size, w)}
    return Net(run, **layers, heads=heads, size=size)


@block()
def attention_of_sized_parts(c, w):
    heads, key, value = 2, 2, 3

    def run(n, x):
        b, channels, height, width = x.shape
        parts = n.qkv(x).view(b, n.heads, n.key * 2 + n.value, height * width).split([n.key, n.key, n.value], dim=2)
        q, k, v = parts
        attention = ((q * n.scale).transpose(-2, -1) @ k).softmax(-1)
        y = (v @ attention.transpose(-2, -1)).view(b, -1, height, width)
        return n.project(y + n.place(v.reshape(b, -1, height, width)))

    place = nn.Sequential(
        nn.Conv2d(heads * value, heads * value, 3, padding=1, groups=heads * value, bias=False),
        nn.BatchNorm2d(heads * value),
    )
    layers = {"qkv": conv_bn(c, heads * (2 * key + value)), "place": place, "project": conv_bn(heads * value, w)}
    return Net(run, **layers, heads=heads, key=key, value=value, scale=key**-0.5)


@block()
def attention_that_keeps_channels(c, w):
    """The values are as many as the channels that come in, which the last view takes from there."""
    heads, key = 2, 2

    def run(n, x):
        x = n.enter(x)
        b, channels, height, width = x.shape
        qkv = n.qkv(x).view(b, n.heads, n.key * 2 + n.value, -1)
        q, k, v = qkv.split([n.key, n.key, n.value], dim=2)
        attention = (q.transpose(-2, -1) @ k).softmax(-1)
        return n.project(x + (v @ attention.transpose(-2, -1)).view(b, channels, height, width))

    size = 8
    layers = {"enter": conv_bn(c, size), "qkv": conv_bn(size, size + 2 * heads * key), "project": conv_bn(size, w)}
    return Net(run, **layers, heads=heads, key=key, value=size // heads)


@block(prunable=None)
def sum_of_sizes_that_is_not_cut(c, w):
    def run(n, x):
        b, _, height, width = x.shape
        return n.enter(x).view(b, n.heads, n.first + n.second, -1).flatten(1, 2).view(b, -1, height, width)

    return Net(run, enter=conv_bn(c, 2 * w), heads=2, first=1, second=w - 1)


@block()
def transformer_attention(c, w):
    heads, size = 2, 3

    def run(n, x):
        b, _, height, width = x.shape
        q, k, v = n.qkv(x.flatten(2).mT).reshape(b, height * width, 3, n.heads, n.size).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return n.project(y).mT.reshape(b, -1, height, width)

    layers = {"qkv": nn.Linear(c, 3 * heads * size), "project": nn.Linear(heads * size, w)}
    return Net(run, **layers, heads=heads, size=size)


@block(prunable=False)
def multihead_attention(c, w):
    def run(n, x):
        tokens = x.flatten(2).transpose(1, 2)
        return n.attention(tokens, tokens, tokens)[0].transpose(1, 2).unflatten(2, (8, 8))

    return Net(run, attention=nn.MultiheadAttention(c, 1, batch_first=True))


@block()
def cosine_attention(c, w):
    def run(n, x):
        q, k = F.normalize(n.q(x).flatten(2), dim=1), F.normalize(n.k(x).flatten(2), dim=1)
        attention = (q.transpose(1, 2) @ k / 0.1).softmax(-1)
        return (x.flatten(2) @ attention).view_as(x)

    return Net(run, q=conv_bn(c, w), k=conv_bn(c, w))


@block(prunable=None)
def channel_attention_by_gram(c, w):
    def run(n, x):
        flat = x.flatten(2)
        return (torch.bmm(flat, flat.transpose(1, 2)).softmax(-1) @ flat).view(x.shape)

    return Net(run)


@block(prunable=None)
def einsum_mix(c, w):
    return Net(lambda n, x: torch.einsum("bchw,oc->bohw", x, n.weight), weight=nn.Parameter(torch.randn(w, c)))


@block(prunable=None)
def matmul_mix(c, w):
    weight = nn.Parameter(torch.randn(w, c))
    return Net(lambda n, x: (n.weight @ x.flatten(2)).reshape(x.shape[0], -1, 8, 8), weight=weight)


@block(prunable=None)
def einsum_gate(c, w):
    return Net(lambda n, x: torch.einsum("bchw,bc->bchw", x, n.gate(x.mean((2, 3))).sigmoid()), gate=nn.Linear(c, c))


@block(prunable=False)
def softmax_over_channels(c, w):
    return nn.Softmax(1)


@block(prunable=None)
def softmax_over_space(c, w):
    return Net(lambda n, x: 64 * x.flatten(2).softmax(-1).reshape(x.shape) * x)


@block(prunable=False)
def mean_over_channels(c, w):
    return Net(lambda n, x: x - x.mean(1, keepdim=True))


@block(prunable=False)
def sum_over_channels(c, w):
    return Net(lambda n, x: n.layer(torch.sum(x, dim=(1,), keepdim=True)), layer=conv_bn(1, w))


@block(prunable=False)
def max_over_channels(c, w):
    return Net(lambda n, x: x * x.max(dim=1, keepdim=True)[0].sigmoid())


@block(prunable=False)
def argmax_over_channels(c, w):
    return Net(lambda n, x: x * (1 + (x * 1e6).round().argmax(1, keepdim=True)) / 4)


@block(prunable=False)
def mean_of_everything(c, w):
    return Net(lambda n, x: x / (1 + x.abs().mean()))


@block(prunable=False)
def normalised_over_channels(c, w):
    return Net(lambda n, x: F.normalize(x))


@block(prunable=None)
def global_response_norm(c, w):
    def run(n, x):
        size = x.norm(p=2, dim=(2, 3), keepdim=True)
        return x * n.weight * size / (size.mean(1, keepdim=True) + 1e-6) + x

    return Net(run, weight=nn.Parameter(torch.rand(1, c, 1, 1)))


@block()
def centred_over_space(c, w):
    return Net(lambda n, x: x - x.mean((-2, -1), keepdim=True))


@block(prunable=False)
def cross_map_cosine(c, w):
    return Net(lambda n, x: x * F.cosine_similarity(x, n.other(x), dim=1).unsqueeze(1), other=conv_bn(c, c))


@block(prunable=False)
def maxout(c, w):
    d = up_to(c, 2)
    return Net(lambda n, x: n.fit(x).reshape(x.shape[0], d // 2, 2, 8, 8).max(2)[0], fit=fit(c, d))
