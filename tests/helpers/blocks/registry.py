"""The registry of building blocks for random nets, and what the blocks share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from tests.helpers.toy_nets import bn, conv

Builder = Callable[[int, int], nn.Module]


@dataclass(frozen=True)
class Kind:
    """One kind of block.

    Attributes:
        build: (channels of the input, a width to use) -> a module that maps (2, channels, 8, 8) to (2, any, 8, 8).
        pair: whether the module takes two such maps of the same shape, as a tuple.
        prunable: whether channels that only this block reads stay prunable; None where it is not clear-cut.
        random: whether the train pass draws random numbers.
    """

    build: Builder
    pair: bool = False
    prunable: bool | None = True
    random: bool = False


BLOCKS: dict[str, Kind] = {}


def block(*, pair: bool = False, prunable: bool | None = True, random: bool = False) -> Callable[[Builder], Builder]:
    """Registers a builder under its name."""

    def register(build: Builder) -> Builder:
        name = build.__name__.replace("_", " ").strip()
        assert name not in BLOCKS, name
        BLOCKS[name] = Kind(build, pair, prunable, random)
        return build

    return register


def conv_bn(inputs: int, outputs: int, kernel: int = 1, **options: int) -> nn.Sequential:
    return nn.Sequential(conv(inputs, outputs, kernel, **options), bn(outputs))


def fit(inputs: int, outputs: int) -> nn.Module:
    """Brings a map to a number of channels, where it has another."""
    return nn.Identity() if inputs == outputs else conv_bn(inputs, outputs)


def up_to(channels: int, multiple: int) -> int:
    """The next multiple."""
    return -(-channels // multiple) * multiple
