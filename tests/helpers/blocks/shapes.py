"""Blocks that reshape, fold, pad and resample."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from tests.helpers.blocks.registry import block, conv_bn, fit, up_to
from tests.helpers.toy_nets import Net, bn, conv


@block()
def reshape_by_shape(c, w):
    return Net(lambda n, x: x.reshape(x.shape[0], x.shape[1], -1).view(*x.shape).abs())


@block(prunable=None)
def reshape_by_numel(c, w):
    return Net(lambda n, x: x.reshape(x.numel() // 64, 64).view(x.size(0), x.size(1), 8, 8))


@block(prunable=False)
def reshape_by_number(c, w):
    return Net(lambda n, x: n.layer(x.reshape(-1, c, 64).reshape(-1, c, 8, 8)), layer=conv_bn(c, w))


@block(prunable=None)
def heads_by_attribute(c, w):
    def run(n, x):
        y = x.reshape(x.shape[0], n.heads, -1, *x.shape[2:])
        return (y * torch.arange(1.0, 3.0, dtype=x.dtype).view(1, -1, 1, 1, 1)).flatten(1, 2)

    return nn.Sequential(fit(c, up_to(c, 2)), Net(run, heads=2))


@block()
def batch_folded_into_channels(c, w):
    def run(n, x):
        return x.reshape(1, x.shape[0], -1, 8, 8).transpose(1, 2).flatten(0, 1).transpose(0, 1).relu()

    return Net(run)


@block(prunable=False)
def channels_folded_into_batch(c, w):
    return Net(lambda n, x: n.layer(x.flatten(0, 1).unsqueeze(1)).view(x.shape), layer=conv(1, 1))


@block(prunable=None)
def length_of_channels(c, w):
    return Net(lambda n, x: x / len(x.transpose(0, 1)))


@block()
def windows(c, w):
    def run(n, x):
        b, ch, h, wd = x.shape
        y = x.permute(0, 2, 3, 1).view(b, h // 4, 4, wd // 4, 4, ch).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, ch)
        y = n.layer(y).view(b, h // 4, wd // 4, 4, 4, -1).permute(0, 1, 3, 2, 4, 5).contiguous().view(b, h, wd, -1)
        return y.permute(0, 3, 1, 2)

    return Net(run, layer=nn.Linear(c, w))


@block()
def permuted_and_back(c, w):
    return Net(lambda n, x: x.permute(0, 2, 3, 1).contiguous().relu().permute(0, 3, 1, 2))


@block()
def moved_axes(c, w):
    return Net(lambda n, x: x.movedim(1, -1).swapaxes(0, 1).tanh().swapaxes(0, 1).movedim(-1, 1))


@block()
def pixel_shuffle(c, w):
    return nn.Sequential(conv_bn(c, 4 * w), nn.PixelShuffle(2), nn.AvgPool2d(2))


@block(prunable=None)
def pixel_unshuffle(c, w):
    return nn.Sequential(nn.PixelUnshuffle(2), conv_bn(4 * c, w), nn.Upsample(scale_factor=2))


@block()
def space_to_depth(c, w):
    def run(n, x):
        x = torch.cat([x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]], 1)
        return F.interpolate(n.layer(x), scale_factor=2.0)

    return Net(run, layer=conv_bn(4 * c, w))


@block(prunable=False)
def focus_by_reshape(c, w):
    def run(n, x):
        b, ch, h, wd = x.shape
        x = x.reshape(b, ch, h // 2, 2, wd // 2, 2).permute(0, 3, 5, 1, 2, 4).reshape(b, 4 * ch, h // 2, wd // 2)
        return F.interpolate(n.layer(x), scale_factor=2)

    return Net(run, layer=conv_bn(4 * c, w))


@block(prunable=None)
def unfold_and_fold(c, w):
    return Net(lambda n, x: F.fold(F.unfold(x, 3, padding=1), (8, 8), 3, padding=1) / 9)


@block(prunable=None)
def unfold_to_matmul(c, w):
    def run(n, x):
        y = F.unfold(x, 3, padding=1)
        return (n.conv.weight.flatten(1) @ y).view(x.shape[0], -1, 8, 8)

    return Net(run, conv=conv(c, w))


@block()
def pad_pixels(c, w):
    return Net(lambda n, x: n.layer(F.pad(x, (1, 1, 1, 1))), layer=nn.Conv2d(c, w, 3))


@block(prunable=False)
def pad_pixels_with_ones(c, w):
    return Net(lambda n, x: n.layer(F.pad(x, (1, 1, 1, 1), value=1.0)), layer=nn.Conv2d(c, w, 3))


@block(prunable=False)
def pad_channels(c, w):
    return Net(lambda n, x: F.pad(x, [0, 0, 0, 0, 0, 2]))


@block()
def interpolated(c, w):
    return Net(lambda n, x: F.interpolate(F.avg_pool2d(x, 2), size=x.shape[2:], mode="nearest"))


@block(prunable=False)
def sampled_on_a_grid(c, w):
    def run(n, x):
        grid = F.affine_grid(x.new_tensor([[[1, 0.1, 0], [0, 1, 0.2]]]).expand(2, -1, -1), [2, 1, 8, 8], False)
        return F.grid_sample(x, grid, align_corners=False)

    return Net(run)


@block()
def clamped(c, w):
    return Net(lambda n, x: x.clamp(-1, 1) + x.clamp(min=0))


@block(prunable=False)
def clamped_away_from_zero(c, w):
    return Net(lambda n, x: x.clamp(min=0.1))


@block(prunable=None)
def masked(c, w):
    return Net(lambda n, x: x.masked_fill(x < -0.2, 0.0) + torch.where(x > 0, x, 0.1 * x))


@block(prunable=False)
def masked_to_one(c, w):
    return Net(lambda n, x: torch.where(x.abs() < 0.1, torch.ones_like(x), x))


@block()
def view_of_channels_last(c, w):
    """After a linear layer a convolution gives its map in the memory format that makes this view possible."""

    def run(n, x):
        x = n.conv(n.linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
        if n.by_memory_format and x.is_contiguous(memory_format=torch.channels_last):
            x = x.permute(0, 2, 3, 1).view(x.shape[0], 64, -1)
        else:
            x = x.flatten(2).mT
        return n.last(x).mT.reshape(x.shape[0], -1, 8, 8)

    layers = {"linear": nn.Linear(c, w), "conv": conv(w, 3), "last": nn.Linear(3, w)}
    return Net(run, **layers, by_memory_format=True)


@block(prunable=False)
def squeezed_where_single(c, w):
    return Net(lambda n, x: x.squeeze(1) if x.dim() == 5 else x.squeeze(1).reshape(x.shape))


@block(prunable=None)
def squeezed(c, w):
    layers = {"layer": nn.Linear(c, w), "norm": bn(w)}
    return Net(
        lambda n, x: n.norm(n.layer(F.adaptive_avg_pool2d(x, 1).squeeze()).view(2, -1, 1, 1)) + x.new_zeros(1, 1, 8, 8),
        **layers,
    )


@block(prunable=None)
def fourier(c, w):
    return Net(lambda n, x: torch.fft.ifft2(torch.fft.fft2(x) * 0.5).real)


@block(prunable=False)
def fourier_over_channels(c, w):
    return Net(lambda n, x: torch.fft.fft(x, dim=1).real)


@block()
def outer_product_of_vectors(c, w):
    def run(n, x):
        rows, columns = x.mean(3), x.mean(2)
        return rows.unsqueeze(-1) * columns.unsqueeze(-2)

    return Net(run)


@block(prunable=False)
def diagonal_of_channels(c, w):
    return Net(lambda n, x: x * torch.diag_embed(x.mean((2, 3))).sum(-1)[..., None, None] + x.triu())


@block(prunable=False)
def norm_of_a_vector(c, w):
    return Net(lambda n, x: x * torch.sigmoid(1 - torch.linalg.vector_norm(x, dim=1, keepdim=True)))
