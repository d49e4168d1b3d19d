"""Blocks that compute with the sizes of their maps."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

from tests.helpers.blocks.registry import block, conv_bn
from tests.helpers.toy_nets import Net


@block(prunable=False)
def size_decides(c, w):
    return Net(lambda n, x: x.relu() if x.shape[1] > 3 else x.tanh())


OPERATIONS = (
    lambda s: s / 4, lambda s: s >> 1, lambda s: s << 1, lambda s: s & 3, lambda s: s | 1, lambda s: s ^ 5,
    lambda s: abs(s), lambda s: round(s), lambda s: int(s), lambda s: -s, lambda s: +s, lambda s: ~s,
    lambda s: s**0.5, lambda s: 2**s, lambda s: divmod(s, 2)[1], lambda s: s % 3, lambda s: s // 2, lambda s: 7 - s,
    lambda s: max(s, 4), lambda s: math.sqrt(s), lambda s: float(s), lambda s: math.floor(s), lambda s: math.ceil(s),
    lambda s: math.trunc(s), lambda s: s.bit_length(), lambda s: s.conjugate(), lambda s: 1 >> s, lambda s: 5 & s,
    lambda s: pow(s, 2, 5), lambda s: s.real, lambda s: s.numerator, lambda s: complex(s).real,
)  # fmt: skip


def _size_arithmetic(number):
    def build(c, w):
        operation = OPERATIONS[number]
        return Net(lambda n, x: x * float(operation(x.shape[1]) + 0.1) / 8)

    return build


@block(prunable=None)
def size_in_arithmetic(c, w):
    return _size_arithmetic((7 * c + w) % len(OPERATIONS))(c, w)


@block(prunable=None)
def size_as_a_tensor(c, w):
    return Net(lambda n, x: x * torch.tensor(x.shape).sum() / 100 + torch.full((), x.size(1)))


@block(prunable=None)
def mask_of_its_size(c, w):
    return Net(lambda n, x: x * torch.linspace(0.5, 1, x.shape[1], dtype=x.dtype).view(1, -1, 1, 1))


@block(prunable=None)
def noise_of_its_size(c, w):
    return Net(
        lambda n, x: n.last(x + torch.ones(x.shape, dtype=x.dtype) * x.new_full(x.shape, 0.1)), last=conv_bn(c, w)
    )


@block(prunable=False)
def size_as_exponent(c, w):
    return Net(lambda n, x: x.tanh() ** x.shape[1])


@block(prunable=False)
def size_as_bound(c, w):
    return Net(lambda n, x: (2 * x).clamp(max=x.shape[1] - 2))


@block(prunable=False)
def size_as_factor(c, w):
    return Net(lambda n, x: torch.add(x, x.tanh(), alpha=x.shape[1]) / 4)


@block(prunable=False)
def size_as_slope(c, w):
    return Net(lambda n, x: F.leaky_relu(x, x.shape[1]) / 4)


@block(prunable=False)
def size_as_filling(c, w):
    return Net(lambda n, x: x * torch.full_like(x, x.shape[1]) / 4)


@block(prunable=False)
def strides_read(c, w):
    return Net(lambda n, x: x * x.contiguous().stride(0) / 512)
