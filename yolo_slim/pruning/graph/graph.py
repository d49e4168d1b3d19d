"""Which channels of a model live and die together, found by running it once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from yolo_slim.pruning.graph.coupling import fixed_by_equal_counts
from yolo_slim.pruning.modules.layers import tensors_of
from yolo_slim.wording import brief

#: Runs a model once, so that a tracer can watch it.
Pass = Callable[[nn.Module], Any]


@dataclass(frozen=True)
class Fixed:
    """Why channels may never be dropped: what ``operation`` in ``module`` does with them, and how many groups it is."""

    module: str
    operation: str
    reason: str
    channels: int


@dataclass(frozen=True)
class Attribute:
    """An integer attribute of a module that follows a channel count; ``index`` is its place in a list attribute."""

    module: str
    name: str
    index: int | None
    groups: Tensor


@dataclass(frozen=True)
class PrunableLayer:
    """The output channels of one layer.

    Attributes:
        module: Name of the layer.
        groups: int64 (C,), the group of each channel.
        prunable: Bool (C,), whether it may be dropped.
    """

    module: str
    groups: Tensor
    prunable: Tensor


@dataclass(frozen=True)
class GroupArrays:
    """Groups of a graph for those who sort and count them: int64 arrays in the place of tensors.

    Attributes:
        axes: As :attr:`ChannelGraph.axes`.
        layers: As :attr:`ChannelGraph.layers`.
        equal_counts: As :attr:`ChannelGraph.equal_counts`.
        counted: The groups of each of :attr:`ChannelGraph.attributes`.
    """

    axes: dict[str, dict[int, np.ndarray]]
    layers: dict[str, np.ndarray]
    equal_counts: list[list[np.ndarray]]
    counted: list[np.ndarray]


@dataclass(frozen=True)
class ChannelGraph:
    """The coupled channels of a model.

    A group is one set of coupled channels: they are dropped together or not at all. Every channel of every parameter
    and buffer that the passes reach is in exactly one group.

    Attributes:
        num_groups: Number of groups.
        axes: Tensor name (as in a state dict) -> axis -> int64 (C,), the group of each channel.
        sides: Tensor name -> axis -> "in", "out" or "tensor.axis", the side of the layer that the axis belongs to.
        fixed: Bool (num_groups,), groups that may never be dropped.
        reasons: Why they may not.
        equal_counts: Lists of int64 arrays of groups; all arrays of a list must keep the same number of channels.
        attributes: Integer module attributes that follow a channel count.
        residual: Bool (num_groups,), groups that pass through an addition of two feature maps.
        gated: Bool (num_groups,), groups whose channels are exactly zero once their gammas and betas are. A channel of
            any other group is zero once all that makes it is: rows of weights, biases, gammas, betas.
        summed: (tensor name, axis) of the axes that an operation sums over; along the others, zeros make zeros.
        layers: Layer -> int64 (C,), the group of each output channel, for every BatchNorm layer, and for every
            convolution and linear layer with an output channel that no gamma belongs to. Channels are counted here.
        gammas: BatchNorm layer -> int64 (C,), the group of each of its gammas.
        modules: Names of all modules.
        passes: The passes that were traced.
    """

    num_groups: int
    axes: dict[str, dict[int, Tensor]]
    sides: dict[str, dict[int, str]]
    fixed: Tensor
    reasons: list[Fixed]
    equal_counts: list[list[Tensor]]
    attributes: list[Attribute]
    residual: Tensor
    gated: Tensor
    summed: frozenset[tuple[str, int]]
    layers: dict[str, Tensor]
    gammas: dict[str, Tensor]
    modules: tuple[str, ...]
    passes: tuple[Pass, ...]

    @cached_property
    def arrays(self) -> GroupArrays:
        """The same groups as numpy arrays, which share the tensors' memory; made once: a graph is not changed."""
        return GroupArrays(
            axes={
                tensor: {axis: groups.numpy() for axis, groups in axes.items()} for tensor, axes in self.axes.items()
            },
            layers={name: groups.numpy() for name, groups in self.layers.items()},
            equal_counts=[[part.numpy() for part in parts] for parts in self.equal_counts],
            counted=[attribute.groups.numpy() for attribute in self.attributes],
        )

    def prunable_layers(self, shortcuts: str = "couple", ignore: Sequence[str] = ()) -> list[PrunableLayer]:
        """Every layer of ``layers``, with the channels that may be dropped marked.

        Args:
            shortcuts: "couple" prunes channels that meet in a residual addition together; "spare" leaves them all.
            ignore: Patterns (``fnmatch``) of module names whose output channels stay, with all modules inside.

        Raises:
            ValueError: If a pattern matches no layer, or ``shortcuts`` is neither of the two.
        """
        prunable = torch.from_numpy(self._prunable(shortcuts, ignore))
        return [PrunableLayer(module, groups, prunable[groups]) for module, groups in self.layers.items()]

    def prunable_gammas(self, shortcuts: str = "couple", ignore: Sequence[str] = ()) -> list[PrunableLayer]:
        """Every BatchNorm layer, with the gammas that may be penalised, and whose channels may then be dropped, marked.

        The arguments and errors are those of :meth:`prunable_layers`.
        """
        prunable = torch.from_numpy(self._prunable(shortcuts, ignore)) & self.gated
        return [PrunableLayer(module, groups, prunable[groups]) for module, groups in self.gammas.items()]

    def _prunable(self, shortcuts: str, ignore: Sequence[str]) -> np.ndarray:
        if shortcuts not in ("couple", "spare"):
            raise ValueError(f"shortcuts={shortcuts!r}: expected 'couple' or 'spare'")
        unprunable = self.fixed.numpy() | (self.residual.numpy() if shortcuts == "spare" else False)
        for pattern in ignore:
            unprunable |= self.made_in(pattern, "ignore").numpy()
        for parts in fixed_by_equal_counts(unprunable, self.arrays.equal_counts):
            for part in parts:
                unprunable[part] = True
        return ~unprunable

    def made_in(self, pattern: str, what: str) -> Tensor:
        """Bool (num_groups,), the channels that the modules of a name, and all modules inside, make.

        Args:
            pattern: An ``fnmatch`` pattern of module names.
            what: What the pattern was given as, for the error.

        Raises:
            ValueError: If it matches no module with parameters or buffers.
        """
        matched = tuple(f"{name}." for name in self.modules if fnmatchcase(name, pattern))
        inside = [tensor for tensor in self.axes if tensor.startswith(matched)]
        if not inside:
            raise ValueError(f"{what} pattern {pattern!r} matches no layer; names look like {_some(self.layers)}")
        made = torch.zeros(self.num_groups, dtype=torch.bool)
        for tensor in inside:
            for axis, groups in self.axes[tensor].items():
                if self.sides[tensor][axis] != "in":
                    made[groups] = True
        return made


def _some(names: Sequence[str] | dict[str, Any]) -> str:
    return ", ".join(list(names)[:3]) or "(no layer)"


def expect_fit(model: nn.Module, graph: ChannelGraph) -> None:
    """Refuses a graph that was traced on a model with other layers or channels.

    Raises:
        ValueError: With the first tensor that differs.
    """
    axes = getattr(graph, "axes", None)
    if axes is None:
        raise ValueError(f"graph={brief(graph)}: expected the ChannelGraph that trace(model, inputs) returns")
    if not isinstance(model, nn.Module):
        raise ValueError(f"model={brief(model)}: expected the nn.Module that the graph was traced on")
    shapes = {
        (f"{name}.{key}" if name else key): tuple(tensor.shape)
        for name, module in model.named_modules(remove_duplicate=False)
        for key, tensor in tensors_of(module).items()
    }
    for name, sides in axes.items():
        shape = shapes.get(name)
        if shape is None or any(axis >= len(shape) or len(groups) != shape[axis] for axis, groups in sides.items()):
            what = "is missing" if shape is None else f"has shape {shape}"
            raise ValueError(
                f"the graph belongs to another model, or this one was changed since: {name} {what}; trace it anew"
            )
