"""Blocks that write in place, through views and into other tensors."""

from __future__ import annotations

import torch
from torch import nn

from tests.helpers.blocks.registry import block, conv_bn
from tests.helpers.toy_nets import Net, bn, conv


@block()
def add_in_place(c, w):
    def run(n, x):
        y = n.step(x)
        y += x
        return y.add_(x, alpha=0.5)

    return Net(run, step=conv_bn(c, c))


@block()
def activations_in_place(c, w):
    return nn.Sequential(conv_bn(c, w), nn.ReLU(inplace=True), conv_bn(w, w), nn.Hardswish(inplace=True))


@block()
def scaled_in_place(c, w):
    return Net(lambda n, x: n.step(x).mul_(0.5).clamp_(-2, 2).sub_(0), step=conv_bn(c, w))


@block(prunable=None)
def shifted_through_a_view(c, w):
    """Only the view is written to, but the map changes with it."""

    def run(n, x):
        x = n.step(x).contiguous()
        x.view(x.shape[0], -1).add_(0.5)
        return n.last(x)

    return Net(run, step=conv_bn(c, w), last=conv(w, w))


@block(prunable=None)
def shifted_through_a_slice(c, w):
    def run(n, x):
        x = n.step(x).contiguous()
        x[:, : n.width].add_(x[:, n.width :].sigmoid())
        return n.last(x)

    return Net(run, step=conv_bn(c, 2 * w), last=conv_bn(2 * w, w), width=w)


@block(prunable=None)
def shifted_through_data(c, w):
    def run(n, x):
        x = n.step(x).contiguous()
        x.detach().sub_(0.25)
        return n.last(x)

    return Net(run, step=conv_bn(c, w), last=conv_bn(w, w))


@block(prunable=None)
def shifted_before_its_view_is_read(c, w):
    def run(n, x):
        x = n.step(x).contiguous()
        flat = x.flatten(2)
        x.add_(1.0)
        return n.last(flat.view(x.shape))

    return Net(run, step=conv_bn(c, w), last=conv_bn(w, w))


@block(prunable=False)
def item_assigned(c, w):
    def run(n, x):
        y = x.clone()
        y[:, 1:] = x[:, :-1]
        return y

    return Net(run)


@block(prunable=None)
def pixels_assigned(c, w):
    def run(n, x):
        y = x.clone()
        y[..., 0] = 0.5
        return n.last(y)

    return Net(run, last=conv_bn(c, w))


@block(prunable=None)
def filled_buffer(c, w):
    """Results are collected in a new tensor, as by detection heads."""

    def run(n, x):
        y = torch.zeros(x.shape[0], c + 2, 8, 8, dtype=x.dtype)
        y[:, :c] = x
        y[:, c:] = n.step(x)
        return y

    return Net(run, step=conv_bn(c, 2))


@block(prunable=None)
def copied_in_place(c, w):
    def run(n, x):
        y = torch.empty_like(x)
        y.copy_(x.relu())
        return n.last(y)

    return Net(run, last=conv_bn(c, w))


@block(prunable=None)
def written_to_out(c, w):
    def run(n, x):
        y = torch.empty_like(x)
        with torch.no_grad():
            torch.add(x, 0.5, out=y)
            torch.exp(x.detach(), out=y)
        return n.last(y)

    return Net(run, last=conv_bn(c, w))


@block(prunable=False)
def running_average(c, w):
    """Buffers that the train pass writes, of a size that shrinks with the channels."""

    class Average(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mean", torch.zeros(c))
            self.norm = bn(c)

        def forward(self, x):
            if self.training:
                self.mean.mul_(0.9).add_(x.detach().mean((0, 2, 3)), alpha=0.1)
            return self.norm(x)

    return Average()
