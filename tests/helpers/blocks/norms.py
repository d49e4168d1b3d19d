"""Blocks that normalise, and blocks with parameters of their own."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from tests.helpers.blocks.registry import block, conv_bn
from tests.helpers.toy_nets import Net, conv


@block(prunable=None)
def embedding_of_columns(c, w):
    def run(n, x):
        return x + n.table(torch.arange(8)).t()[None, :, None]

    return Net(run, table=nn.Embedding(8, c))


@block()
def functional_batch_norm(c, w):
    def run(n, x):
        return F.batch_norm(n.layer(x), n.mean, n.var, n.weight, n.bias, False, 0.1, 1e-5).relu()

    vectors = {"weight": nn.Parameter(torch.rand(w) + 0.5), "bias": nn.Parameter(torch.randn(w))}
    net = Net(run, layer=conv(c, w), **vectors)
    net.register_buffer("mean", torch.randn(w))
    net.register_buffer("var", torch.rand(w) + 0.5)
    return net


@block()
def frozen_batch_norm(c, w):
    def run(n, x):
        scale = n.weight * (n.var + 1e-5).rsqrt()
        return n.layer(x) * scale.reshape(1, -1, 1, 1) + (n.bias - n.mean * scale).reshape(1, -1, 1, 1)

    net = Net(run, layer=conv(c, w))
    for name in ("weight", "bias", "mean", "var"):
        net.register_buffer(name, torch.rand(w) + 0.5)
    return net


@block(prunable=None)
def batch_norm_without_affine(c, w):
    return nn.Sequential(nn.BatchNorm2d(c, affine=False), nn.ReLU(), conv(c, w))


@block()
def batch_norm_1d(c, w):
    return Net(lambda n, x: n.norm(x.flatten(2)).reshape(x.shape).relu(), norm=nn.BatchNorm1d(c))


@block(prunable=False)
def layer_norm(c, w):
    layers = {"norm": nn.LayerNorm(c)}
    return Net(lambda n, x: n.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), **layers)


@block(prunable=False)
def layer_norm_by_hand(c, w):
    def run(n, x):
        x = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True) + 1e-6).sqrt()
        return n.weight[:, None, None] * x + n.bias[:, None, None]

    return Net(run, weight=nn.Parameter(torch.rand(c) + 0.5), bias=nn.Parameter(torch.randn(c)))


@block(prunable=False)
def group_norm(c, w):
    return nn.Sequential(nn.GroupNorm(1, c), nn.SiLU())


@block(prunable=None)
def instance_norm(c, w):
    return nn.Sequential(nn.InstanceNorm2d(c, affine=True), nn.ReLU())


@block(prunable=False)
def local_response_norm(c, w):
    return nn.LocalResponseNorm(3)


@block()
def prelu(c, w):
    return nn.PReLU(c)


@block()
def learned_scale(c, w):
    factor = nn.Parameter(torch.linspace(0.5, 1.5, c).view(1, c, 1, 1))
    return Net(lambda n, x: x * n.factor, factor=factor)


@block()
def learned_bias(c, w):
    return Net(lambda n, x: x + n.bias.view(1, -1, 1, 1), bias=nn.Parameter(torch.linspace(-1, 1, c)))


@block()
def layer_scale(c, w):
    layers = {"step": conv_bn(c, c), "gamma": nn.Parameter(torch.linspace(0.1, 1, c))}
    return Net(lambda n, x: x + n.gamma[None, :, None, None] * n.step(x), **layers)


@block()
def positional_embedding(c, w):
    return Net(lambda n, x: x + n.position, position=nn.Parameter(torch.randn(1, c, 8, 8)))
