"""Ten-line networks whose groups are known by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.helpers.toy_nets import Net, bn, conv, out


@dataclass
class Toy:
    name: str
    build: Callable[[], Net]
    groups: dict[str, str]
    shape: tuple[int, ...] = (2, 3, 8, 8)
    equal: list[tuple[str, ...]] = field(default_factory=list)
    attributes: dict[str, int] = field(default_factory=dict)

    def example(self) -> Tensor:
        return torch.rand(self.shape, dtype=torch.float64)


def _plain() -> Net:
    def run(n: Net, x: Tensor) -> Tensor:
        return n.head(F.silu(n.b2(n.c2(F.max_pool2d(n.b1(n.c1(x)), 2)))))

    return Net(run, c1=conv(3, 4), b1=bn(4), c2=conv(4, 5), b2=bn(5), head=out(5))


def _residual() -> Net:
    def run(n: Net, x: Tensor) -> Tensor:
        x = F.relu(n.b1(n.c1(x)))
        return n.head(x + n.b3(n.c3(F.relu(n.b2(n.c2(x))))))

    return Net(run, c1=conv(3, 4), b1=bn(4), c2=conv(4, 3), b2=bn(3), c3=conv(3, 4), b3=bn(4), head=out(4))


class Split(nn.Module):
    """The halves of a layer, joined again with what a second layer makes of the second half."""

    def __init__(self) -> None:
        super().__init__()
        self.c = 4
        self.c1, self.b1 = conv(3, 8), bn(8)
        self.c2, self.b2 = conv(4, 4), bn(4)
        self.head = out(12)

    def forward(self, x: Tensor) -> Tensor:
        return self.join(*self.b1(self.c1(x)).chunk(2, 1))

    def forward_split(self, x: Tensor) -> Tensor:
        return self.join(*self.b1(self.c1(x)).split((self.c, self.c), 1))

    def join(self, a: Tensor, b: Tensor) -> Tensor:
        return self.head(torch.cat([a, b, F.silu(self.b2(self.c2(F.silu(b))))], 1))


def _attribute_list() -> Net:
    def run(n: Net, x: Tensor) -> Tensor:
        a, b = n.b1(n.c1(x)).split(n.sizes, dim=1)
        return n.left(a) + n.right(b)

    return Net(run, c1=conv(3, 8), b1=bn(8), left=out(3), right=out(5), sizes=[3, 5])


def _depthwise() -> Net:
    def run(n: Net, x: Tensor) -> Tensor:
        return n.head(F.relu6(n.b2(n.dw(F.relu6(n.b1(n.c1(x)))))))

    return Net(run, c1=conv(3, 4), b1=bn(4), dw=conv(4, 8, groups=4), b2=bn(8), head=out(8))


def _grouped() -> Net:
    def run(n: Net, x: Tensor) -> Tensor:
        return n.head(F.relu(n.b2(n.c2(F.relu(n.b1(n.c1(x)))))))

    return Net(run, c1=conv(3, 4), b1=bn(4), c2=conv(4, 6, groups=2), b2=bn(6), head=out(6))


def _gate() -> Net:
    def run(n: Net, x: Tensor) -> Tensor:
        x = F.silu(n.b1(n.c1(x)))
        gate = n.up(F.relu(n.down(x.mean((2, 3), keepdim=True)))).sigmoid()
        return n.head(x * gate)

    return Net(run, c1=conv(3, 4), b1=bn(4), down=nn.Conv2d(4, 2, 1), up=nn.Conv2d(2, 4, 1), head=out(4))


def _classifier() -> Net:
    def run(n: Net, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(F.relu(n.b1(n.c1(x))), 2)
        return n.head(F.relu(n.b2(n.fc(torch.flatten(x, 1)))))

    return Net(run, c1=conv(3, 4), b1=bn(4), fc=nn.Linear(16, 6), b2=nn.BatchNorm1d(6), head=nn.Linear(6, 2))


def _up_and_cat() -> Net:
    def run(n: Net, x: Tensor) -> Tensor:
        skip = F.relu(n.b1(n.c1(x)))
        deep = F.relu(n.b2(n.c2(skip)))
        up = n.b3(n.up(F.interpolate(deep, scale_factor=0.5)))
        return n.head(torch.cat([up, x, skip], 1))

    up = nn.ConvTranspose2d(5, 3, 2, stride=2)
    return Net(run, c1=conv(3, 4), b1=bn(4), c2=conv(4, 5), b2=bn(5), up=up, b3=bn(3), head=out(10))


def _raw_transposed() -> Net:
    """The transposed convolution has no gamma: its channels stay, those it is joined with may go."""

    def run(n: Net, x: Tensor) -> Tensor:
        skip = F.relu(n.b1(n.c1(x)))
        return n.head(torch.cat([n.up(F.max_pool2d(skip, 2)), skip], 1))

    return Net(run, c1=conv(3, 4), b1=bn(4), up=nn.ConvTranspose2d(4, 3, 2, stride=2), head=out(7))


def _not_zero() -> Net:
    """A masked channel of b1 is 0.5 after the sigmoid, one of b2 is 1."""

    def run(n: Net, x: Tensor) -> Tensor:
        return n.head(F.relu(n.b3(n.c3(n.b2(n.c2(n.b1(n.c1(x)).sigmoid())) + 1))))

    layers = {"c1": conv(3, 3), "b1": bn(3), "c2": conv(3, 4), "b2": bn(4), "c3": conv(4, 5), "b3": bn(5)}
    return Net(run, **layers, head=out(5))


def _not_zero_linear() -> Net:
    def run(n: Net, x: Tensor) -> Tensor:
        return n.head(n.b1(n.c1(x)).sigmoid().mean((2, 3)))

    return Net(run, c1=conv(3, 4), b1=bn(4), head=nn.Linear(4, 2))


def _unknown() -> Net:
    def run(n: Net, x: Tensor) -> Tensor:
        return n.head(n.b2(n.c2(n.b1(n.c1(x)).cumsum(1))))

    return Net(run, c1=conv(3, 4), b1=bn(4), c2=conv(4, 5), b2=bn(5), head=out(5))


def _shuffle() -> Net:
    def run(n: Net, x: Tensor) -> Tensor:
        x = n.b1(n.c1(x))
        batch, channels, height, width = x.shape
        x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, channels, height, width)
        return n.head(n.b2(n.c2(x)))

    return Net(run, c1=conv(3, 4), b1=bn(4), c2=conv(4, 5), b2=bn(5), head=out(5))


def _shape_read() -> Net:
    """Sizes read from the tensor move with it; a size written as a number does not."""

    def run(n: Net, x: Tensor) -> Tensor:
        x = n.b1(n.c1(x))
        batch, channels, height, width = x.shape
        x = n.b2(n.c2(x.view(batch, channels, -1).reshape(batch, channels, height, width)))
        return n.head(n.b3(n.c3(x.view(batch, 5, -1).view(x.shape))))

    layers = {"c1": conv(3, 4), "b1": bn(4), "c2": conv(4, 5), "b2": bn(5), "c3": conv(5, 3), "b3": bn(3)}
    return Net(run, **layers, head=out(3))


def _attribute_in_arithmetic() -> Net:
    def run(n: Net, x: Tensor) -> Tensor:
        a, b = n.b1(n.c1(x)).split((n.size, n.size), 1)
        return n.head(a + b) / n.size**0.5

    return Net(run, c1=conv(3, 6), b1=bn(6), head=out(3), size=3)


def _shared() -> Net:
    def run(n: Net, x: Tensor) -> Tensor:
        a, b = F.relu(n.b1(n.c1(x))), F.relu(n.b2(n.c2(x)))
        return n.head(n.both(a)) + n.head(n.both(b))

    shared = nn.Sequential(conv(4, 3), bn(3))
    return Net(run, c1=conv(3, 4), b1=bn(4), c2=conv(3, 4), b2=bn(4), both=shared, head=out(3))


class Scale(nn.Module):
    """One factor per channel, in a module that is no stock layer."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.linspace(0.5, 2, channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor.view(1, -1, 1, 1)


def _scale() -> Net:
    def run(n: Net, x: Tensor) -> Tensor:
        return n.head(n.act(n.scale(n.b1(n.c1(x)))))

    return Net(run, c1=conv(3, 4), b1=bn(4), scale=Scale(4), act=nn.PReLU(4), head=out(4))


def _preactivation() -> Net:
    """The stream is raw, but it is only read through BatchNorm layers."""

    def run(n: Net, x: Tensor) -> Tensor:
        x = n.c1(x)
        x = x + n.c2(F.relu(n.b1(x)))
        return n.head(F.relu(n.b2(x)))

    return Net(run, c1=conv(3, 4), b1=bn(4), c2=conv(4, 4), b2=bn(4), head=out(4))


def _spatial_mask() -> Net:
    def run(n: Net, x: Tensor) -> Tensor:
        x = F.relu(n.b1(n.c1(x)))
        return n.head(x * n.b2(n.c2(x)).sigmoid())

    return Net(run, c1=conv(3, 4), b1=bn(4), c2=conv(4, 1), b2=bn(1), head=out(4))


def _mixed_norm() -> Net:
    """The stream is normalised over its channels, what lies between two linear layers is not."""

    def run(n: Net, x: Tensor) -> Tensor:
        x = n.b1(n.c1(x)).permute(0, 2, 3, 1)
        x = x + n.down(F.gelu(n.b2(n.up(n.norm(x)).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)))
        return n.head(n.groups(x.permute(0, 3, 1, 2)))

    layers = {"c1": conv(3, 4), "b1": bn(4), "norm": nn.LayerNorm(4), "up": nn.Linear(4, 5), "b2": bn(5)}
    return Net(run, **layers, down=nn.Linear(5, 4), groups=nn.GroupNorm(2, 4), head=out(4))


def _regions(made: Callable[..., Tensor], shown: Callable[[Tensor], Tensor] = F.relu) -> Net:
    """Written into a tensor made to measure."""

    def run(n: Net, x: Tensor) -> Tensor:
        x = F.max_pool2d(shown(n.b1(n.c1(x))), 2)
        gathered = made((3, x.shape[1], 4, 4), dtype=x.dtype)
        gathered[torch.tensor([2, 0])] = x
        return n.head(gathered)

    return Net(run, c1=conv(3, 4), b1=bn(4), head=out(4))


TOYS = [
    Toy("plain", _plain, {"b1": "abcd", "b2": "efghi"}),
    Toy("residual", _residual, {"b1": "abcd", "b2": "efg", "b3": "abcd"}),
    Toy("split", Split, {"b1": "abcdefgh", "b2": "ijkl"}, equal=[("abcd", "efgh")], attributes={":c": 4}),
    Toy("attribute list", _attribute_list, {"b1": "abcdefgh"}, attributes={":sizes.0": 3, ":sizes.1": 5}),
    Toy("depthwise", _depthwise, {"b1": "abcd", "b2": "aabbccdd"}),
    Toy("grouped", _grouped, {"b1": "abab", "b2": "efgefg"}),
    Toy("gate", _gate, {"b1": "abcd"}),
    Toy("classifier", _classifier, {"b1": "abcd", "b2": "efghij"}),
    Toy("up and cat", _up_and_cat, {"b1": "abcd", "b2": "efghi", "b3": "jkl"}),
    Toy("raw transposed", _raw_transposed, {"b1": "abcd"}),
    Toy("not zero", _not_zero, {"b1": "ABC", "b2": "DEFG", "b3": "hijkl"}),
    Toy("not zero, linear", _not_zero_linear, {"b1": "ABCD"}),
    Toy("unknown", _unknown, {"b1": "ABCD", "b2": "efghi"}),
    Toy("shuffle", _shuffle, {"b1": "abab", "b2": "efghi"}),
    Toy("shape read", _shape_read, {"b1": "abcd", "b2": "EFGHI", "b3": "jkl"}),
    Toy("attribute in arithmetic", _attribute_in_arithmetic, {"b1": "ABCABC"}),
    Toy("shared", _shared, {"b1": "abcd", "b2": "abcd", "both.1": "efg"}),
    Toy("scale", _scale, {"b1": "abcd"}),
    Toy("preactivation", _preactivation, {"b1": "abcd", "b2": "abcd"}),
    Toy("spatial mask", _spatial_mask, {"b1": "abcd", "b2": "E"}),
    Toy("mixed norm", _mixed_norm, {"b1": "ABCD", "b2": "efghi"}),
    Toy("regions", lambda: _regions(torch.zeros), {"b1": "abcd"}),
    Toy("regions that are not zero", lambda: _regions(torch.zeros, torch.sigmoid), {"b1": "ABCD"}),
    Toy("regions among ones", lambda: _regions(torch.ones), {"b1": "ABCD"}),
]
