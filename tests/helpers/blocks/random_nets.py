"""Random nets of the registered blocks."""

from __future__ import annotations

import random

import torch
from torch import Tensor, nn

from tests.helpers.blocks import (  # noqa: F401 - each registers its blocks
    gates,
    index,
    layers,
    norms,
    paths,
    python,
    shapes,
    sizes,
    writes,
)
from tests.helpers.blocks.registry import BLOCKS, conv_bn, fit
from tests.helpers.toy_nets import conv

__all__ = ["BLOCKS", "Alone", "RandomNet"]

WIDEST = 20


class Step(nn.Module):
    """A block with what brings its second map to the shape of the first, and a wide one to fewer channels."""

    def __init__(self, kind: str, channels: int, other: int, width: int) -> None:
        super().__init__()
        self.pair = BLOCKS[kind].pair
        self.narrow = conv_bn(channels, width) if channels > WIDEST else nn.Identity()
        channels = width if channels > WIDEST else channels
        self.fit = fit(other, channels) if self.pair else nn.Identity()
        self.block = BLOCKS[kind].build(channels, width)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        first = self.narrow(first)
        return self.block((first, self.fit(second)) if self.pair else first)


class RandomNet(nn.Module):
    """A stem, random blocks, each on two of the last three maps, and a convolution on all that no block reads.

    Args:
        seed: of the choice of blocks, widths and wiring.
        kinds: names of the blocks to choose from.
    """

    def __init__(self, seed: int, kinds: tuple[str, ...] = tuple(BLOCKS)) -> None:
        super().__init__()
        draw = random.Random(seed)
        torch.manual_seed(seed)
        likely = [1 if BLOCKS[kind].prunable is False else 3 for kind in kinds]
        self.kinds = draw.choices(kinds, likely, k=draw.randint(2, 10))
        width = draw.randint(3, 9)
        self.stem = conv_bn(3, width, 3) if draw.random() < 0.8 else conv(3, width)
        self.sources = [(min(draw.choice((1, 1, 2, 3)), i + 1), min(draw.randint(1, 3), i + 1)) for i in range(10)]
        self.steps = nn.ModuleList()
        with torch.no_grad():
            found = [self.stem.double().eval()(torch.rand(2, 3, 8, 8, dtype=torch.double))]
            for kind, (first, second) in zip(self.kinds, self.sources, strict=False):
                a, b = found[-first], found[-second]
                step = Step(kind, a.shape[1], b.shape[1], draw.randint(2, 9)).double().eval()
                found.append(step(a.clone(), b.clone()))
                self.steps.append(step)
        self.random = any(BLOCKS[kind].random for kind in self.kinds)
        taken = [self.sources[i][: 1 + BLOCKS[kind].pair] for i, kind in enumerate(self.kinds)]
        read = {i + 1 - source for i, sources in enumerate(taken) for source in sources}
        self.ends = [i for i in range(len(found)) if i not in read]
        self.head = nn.Conv2d(sum(found[i].shape[1] for i in self.ends), 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        found = [self.stem(x)]
        for step, (first, second) in zip(self.steps, self.sources, strict=False):
            found.append(step(found[-first], found[-second]))
        return self.head(torch.cat([found[i] for i in self.ends], 1))


class Alone(nn.Module):
    """One block between two convolutions with BatchNorm, and a head."""

    def __init__(self, kind: str, channels: int = 8, width: int = 6) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.random = BLOCKS[kind].random
        self.before = conv_bn(3, channels, 3)
        self.step = Step(kind, channels, channels, width).double().eval()
        with torch.no_grad():
            made = self.step(*2 * [torch.rand(2, channels, 8, 8, dtype=torch.double)]).shape[1]
        self.after = conv_bn(made, 5, 3)
        self.head = nn.Conv2d(5, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        return self.head(self.after(self.step(x, x)))
