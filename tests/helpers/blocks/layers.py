"""Blocks of layers with parameters: convolutions, linear layers, normalisations, parameters of one's own."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from tests.helpers.blocks.registry import block, conv_bn, fit, up_to
from tests.helpers.toy_nets import Net, bn, conv


@block()
def conv_and_bn(c, w):
    return nn.Sequential(conv(c, w), bn(w), nn.SiLU())


@block()
def conv_with_bias_and_bn(c, w):
    return nn.Sequential(nn.Conv2d(c, w, 1), bn(w), nn.ReLU())


@block()
def raw_conv(c, w):
    return conv(c, w)


@block()
def raw_conv_with_bias(c, w):
    return nn.Sequential(nn.Conv2d(c, w, 1), nn.ReLU(), nn.Conv2d(w, w, 3, padding=1), nn.Sigmoid())


@block()
def grouped_conv(c, w):
    d = up_to(c, 2)
    return nn.Sequential(fit(c, d), conv(d, up_to(w, 2), groups=2), bn(up_to(w, 2)))


@block()
def grouped_conv_with_bias(c, w):
    d = up_to(c, 3)
    return nn.Sequential(fit(c, d), nn.Conv2d(d, up_to(w, 3), 1, groups=3), nn.ReLU())


@block()
def depthwise(c, w):
    return nn.Sequential(conv(c, c, groups=c), bn(c), nn.ReLU6())


@block()
def depthwise_with_multiplier(c, w):
    return nn.Sequential(conv(c, 2 * c, groups=c), bn(2 * c), conv_bn(2 * c, w))


@block()
def depthwise_separable(c, w):
    return nn.Sequential(conv(c, c, groups=c), bn(c), nn.ReLU(), conv_bn(c, w), nn.ReLU())


@block()
def raw_depthwise(c, w):
    return nn.Sequential(conv(c, c, groups=c), nn.ReLU(), conv(c, w))


@block()
def raw_depthwise_with_bias(c, w):
    return nn.Sequential(nn.Conv2d(c, c, 3, padding=1, groups=c), nn.Conv2d(c, w, 1))


@block()
def padded_by_reflection(c, w):
    return nn.Conv2d(c, w, 3, padding=1, padding_mode="reflect")


@block()
def strided_and_transposed(c, w):
    down = nn.Sequential(nn.Conv2d(c, w, 3, 2, 1, bias=False), bn(w), nn.ReLU())
    return nn.Sequential(down, nn.ConvTranspose2d(w, w, 2, 2), bn(w))


@block()
def raw_transposed(c, w):
    return nn.Sequential(nn.ConvTranspose2d(c, w, 3, padding=1), nn.ReLU())


@block(prunable=None)
def grouped_transposed(c, w):
    d = up_to(c, 2)
    return nn.Sequential(fit(c, d), nn.ConvTranspose2d(d, up_to(w, 2), 3, padding=1, groups=2), bn(up_to(w, 2)))


@block()
def depthwise_transposed(c, w):
    return nn.Sequential(nn.ConvTranspose2d(c, c, 3, padding=1, groups=c, bias=False), bn(c))


@block()
def conv1d(c, w):
    layers = {"layer": nn.Conv1d(c, w, 3, padding=1, bias=False), "norm": nn.BatchNorm1d(w)}
    return Net(lambda n, x: n.norm(n.layer(x.flatten(2))).view(x.shape[0], -1, *x.shape[2:]), **layers)


@block()
def conv3d(c, w):
    layers = {"layer": nn.Conv3d(c, w, (1, 3, 3), padding=(0, 1, 1)), "norm": nn.BatchNorm3d(w)}
    return Net(lambda n, x: n.norm(n.layer(x.unsqueeze(2))).squeeze(2), **layers)


@block()
def pointwise_linear(c, w):
    layers = {"layer": nn.Linear(c, w), "norm": bn(w)}
    return Net(lambda n, x: n.norm(n.layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)), **layers)


@block()
def raw_linear_mlp(c, w):
    mlp = nn.Sequential(nn.Linear(c, 2 * w), nn.GELU(), nn.Linear(2 * w, w))
    return Net(lambda n, x: n.mlp(x.movedim(1, -1)).movedim(-1, 1), mlp=mlp)


@block()
def linear_over_space(c, w):
    return Net(lambda n, x: n.layer(x.flatten(2)).view(x.shape), layer=nn.Linear(64, 64, bias=False))


@block()
def flatten_to_linear(c, w):
    head = nn.Sequential(nn.Flatten(), nn.Linear(4 * c, w), nn.BatchNorm1d(w), nn.ReLU())
    return Net(lambda n, x: n.head(F.adaptive_avg_pool2d(x, 2))[:, :, None, None].expand(-1, -1, 8, 8), head=head)


@block()
def pool_view_linear(c, w):
    def run(n, x):
        x = n.head(F.adaptive_avg_pool2d(x, 1).view(x.size(0), -1))
        return F.interpolate(x.unsqueeze(-1).unsqueeze(-1), (8, 8))

    return Net(run, head=nn.Sequential(nn.Linear(c, w), nn.ReLU()))


@block(prunable=False)
def bilinear_fusion(c, w):
    layers = {"layer": nn.Bilinear(c, c, w)}
    return Net(lambda n, x: n.layer(x.permute(0, 2, 3, 1), x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), **layers)


@block()
def shared_conv(c, w):
    layers = {"before": conv_bn(c, c), "shared": nn.Sequential(conv(c, w), bn(w))}
    return Net(lambda n, x: n.shared(x) + n.shared(n.before(x).relu()), **layers)


@block()
def tied_linear(c, w):
    left, right = nn.Linear(c, w), nn.Linear(c, w)
    right.weight = left.weight
    layers = {"left": left, "right": right}

    def run(n, x):
        x = x.permute(0, 2, 3, 1)
        return torch.cat([n.left(x), n.right(x.tanh())], -1).permute(0, 3, 1, 2)

    return Net(run, **layers)


@block(prunable=False)
def recurrent(c, w):
    return Net(
        lambda n, x: n.rows(x.mean(2).mT)[0].mT.unsqueeze(2).expand(-1, -1, 8, -1), rows=nn.GRU(c, w, batch_first=True)
    )


@block(prunable=False)
def transformer_encoder(c, w):
    layer = nn.TransformerEncoderLayer(c, 1, 2 * w, dropout=0.0, batch_first=True)
    return Net(lambda n, x: n.layer(x.flatten(2).mT).mT.reshape(x.shape), layer=layer)


@block(prunable=None)
def tied_autoencoder(c, w):
    def run(n, x):
        code = F.conv2d(x, n.layer.weight).relu()
        return F.conv_transpose2d(code, n.layer.weight)

    return Net(run, layer=nn.Conv2d(c, w, 1, bias=False))


@block()
def shared_bn(c, w):
    layers = {"left": conv(c, w), "right": conv(c, w, 1), "norm": bn(w)}
    return Net(lambda n, x: torch.cat([n.norm(n.left(x)), n.norm(n.right(x)).relu()], 1), **layers)


@block()
def sequential_reused(c, w):
    layers = {"step": nn.Sequential(conv(c, c), bn(c), nn.ReLU(inplace=True))}
    return Net(lambda n, x: n.step(n.step(x)), **layers)


@block(prunable=False)
def weight_normalised_conv(c, w):
    return nn.Sequential(weight_norm(conv(c, w, 1)), bn(w))


@block(prunable=None)
def computed_weight(c, w):
    return Net(lambda n, x: n.norm(F.conv2d(x, n.conv.weight * 2, padding=1)), conv=conv(c, w), norm=bn(w))


@block(prunable=None)
def standardised_weight(c, w):
    def run(n, x):
        weight = n.conv.weight
        weight = (weight - weight.mean((1, 2, 3), keepdim=True)) / (weight.std((1, 2, 3), keepdim=True) + 1e-5)
        return n.norm(F.conv2d(x, weight, padding=1))

    return Net(run, conv=conv(c, w), norm=bn(w))


@block(prunable=False)
def dynamic_conv(c, w):
    """A kernel for each image, as in CondConv: the batch becomes groups."""

    def run(n, x):
        kernels = n.routing(x.mean((2, 3))).softmax(1) @ n.kernels.flatten(1)
        kernels = kernels.view(-1, *n.kernels.shape[2:])
        return F.conv2d(x.reshape(1, -1, 8, 8), kernels, groups=x.shape[0]).view(x.shape[0], -1, 8, 8)

    kernels = nn.Parameter(torch.randn(2, w, c, 1, 1) / c)
    return Net(run, routing=nn.Linear(c, 2), kernels=kernels)
