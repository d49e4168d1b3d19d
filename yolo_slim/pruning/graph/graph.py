"""Which channels of a model live and die together, found by running it once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from yolo_slim.pruning.graph.axes import leaves
from yolo_slim.pruning.graph.coupling import components, fixed_by_equal_counts, reasons_of
from yolo_slim.pruning.graph.hidden_operations import HiddenOperations
from yolo_slim.pruning.graph.passes import Pass, default_passes, tagged_attributes
from yolo_slim.pruning.graph.tracer import Tracer
from yolo_slim.pruning.modules.layers import is_depthwise, output_channels, side, sides_of, tensors_of
from yolo_slim.pruning.modules.restored import Snapshot, usual_algorithms


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
        module: name of the layer.
        groups: int64 (C,), the group of each channel.
        prunable: bool (C,), whether it may be dropped.
    """

    module: str
    groups: Tensor
    prunable: Tensor


@dataclass(frozen=True)
class ChannelGraph:
    """The coupled channels of a model.

    A group is one set of coupled channels: they are dropped together or not at all. Every channel of every parameter
    and buffer that the passes reach is in exactly one group.

    Attributes:
        num_groups: number of groups.
        axes: tensor name (as in a state dict) -> axis -> int64 (C,), the group of each channel.
        sides: tensor name -> axis -> "in", "out" or "tensor.axis", the side of the layer that the axis belongs to.
        fixed: bool (num_groups,), groups that may never be dropped.
        reasons: why they may not.
        equal_counts: lists of int64 arrays of groups; all arrays of a list must keep the same number of channels.
        attributes: integer module attributes that follow a channel count.
        residual: bool (num_groups,), groups that pass through an addition of two feature maps.
        gated: bool (num_groups,), groups whose channels are exactly zero once their gammas and betas are. A channel of
            any other group is zero once all that makes it is: rows of weights, biases, gammas, betas.
        summed: (tensor name, axis) of the axes that an operation sums over; along the others, zeros make zeros.
        layers: layer -> int64 (C,), the group of each output channel, for every BatchNorm layer, and for every
            convolution and linear layer with an output channel that no gamma belongs to. Channels are counted here.
        gammas: BatchNorm layer -> int64 (C,), the group of each of its gammas.
        modules: names of all modules.
        passes: the passes that were traced.
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

    def prunable_layers(self, shortcuts: str = "couple", ignore: Sequence[str] = ()) -> list[PrunableLayer]:
        """Every layer of ``layers``, with the channels that may be dropped marked.

        Args:
            shortcuts: "couple" prunes channels that meet in a residual addition together; "spare" leaves them all.
            ignore: patterns (``fnmatch``) of module names whose output channels stay, with all modules inside.

        Raises:
            ValueError: if a pattern matches no layer, or ``shortcuts`` is neither of the two.
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
        equal = [[part.numpy() for part in parts] for parts in self.equal_counts]
        for parts in fixed_by_equal_counts(unprunable, equal):
            for part in parts:
                unprunable[part] = True
        return ~unprunable

    def made_in(self, pattern: str, what: str) -> Tensor:
        """Bool (num_groups,), the channels that the modules of a name, and all modules inside, make.

        Args:
            pattern: an ``fnmatch`` pattern of module names.
            what: what the pattern was given as, for the error.

        Raises:
            ValueError: if it matches no module with parameters or buffers.
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


def trace(model: nn.Module, example_inputs: Any = None, *, passes: Sequence[Pass] | None = None) -> ChannelGraph:
    """Finds the groups of coupled channels by running the model on a small input.

    Every operation of a pass carries one label per channel along. An operation without a rule fixes the channels that
    touch it. The model comes back exactly as it was.

    Args:
        model: the model.
        example_inputs: a tensor, or a tuple of positional arguments; small is enough, as only shapes matter. Used by
            the default passes: a forward in eval mode, and one in train mode with the BatchNorm layers in eval mode.
        passes: callables that run the model in their own way and return the tensors that count as outputs, in any
            nest. They must reach the model through their argument only. The channels of what they return are fixed.

    Raises:
        ValueError: if neither inputs nor passes are given, or a pass returns no tensor.
    """
    passes = tuple(default_passes(example_inputs) if passes is None else passes)
    if not passes:
        raise ValueError("trace needs at least one pass; got an empty list")
    named = list(model.named_modules(remove_duplicate=False))
    names = {module: name for name, module in reversed(named)}
    tracer = Tracer(names)
    before, tagged = Snapshot(model), tagged_attributes(names, tracer)
    for run in passes:
        tracer.start_pass()
        try:
            for attributes, name, value in tagged:
                attributes[name] = value.copy() if isinstance(value, list) else value
            unchanged = torch.random.fork_rng(devices=[])
            with usual_algorithms(), unchanged, torch.no_grad(), HiddenOperations(tracer), tracer:
                outputs = run(model)
        finally:
            before.restore()
        found = [value for value in leaves(outputs) if isinstance(value, Tensor)]
        if not found:
            raise ValueError(f"pass {run!r} returned {type(outputs).__name__} without tensors; return the outputs")
        tracer.module, tracer.operation = "", "output"
        tracer.fix_tensors(found, "is an output of the model")
        tracer.module = None
    return _build(named, tracer, passes)


def _build(named: Sequence[tuple[str, nn.Module]], tracer: Tracer, passes: tuple[Pass, ...]) -> ChannelGraph:
    owners = [
        (f"{name}.{key}" if name else key, module, key, tensor)
        for name, module in named
        for key, tensor in tensors_of(module).items()
    ]
    for name, module, key, tensor in owners:
        if id(tensor) not in tracer.owned_axes and tensor.dim() > 0:
            tracer.module, tracer.operation = name.rpartition(".")[0], key
            for axis in range(len((sides_of(module) or {}).get(key, ("",)))):
                tracer.fix(tracer.own(tensor, axis), "is not reached by any pass")
    for source in sorted(tracer.used_attributes & tracer.attributes.keys(), key=str):
        for labels in tracer.attributes.pop(source):
            tracer.module, tracer.operation = source.module, source.name
            tracer.fix(labels, "its size is an attribute that is also used in arithmetic or a comparison")

    both = tracer.summed & tracer.not_summed
    for name, _, key, tensor in owners:
        for axis, channels in tracer.owned_axes.get(id(tensor), {}).items():
            if (id(tensor), axis) in both:
                tracer.module, tracer.operation = name.rpartition(".")[0], key
                tracer.fix(channels, "is summed over in one place and not in another")

    num_groups, group_of = components(tracer.count, tracer.edges)
    fixed = np.zeros(num_groups, bool)
    for fix in tracer.fixes:
        fixed[group_of[fix.labels]] = True
    residual = np.zeros(num_groups, bool)
    for labels in tracer.residual:
        residual[group_of[labels]] = True
    bound = {source: [group_of[labels] for labels in found] for source, found in tracer.attributes.items()}
    equal = {_key(parts): (parts, at) for parts, at in [([group_of[p] for p in ps], at) for ps, at in tracer.equal]}
    equal |= {_key(parts): (parts, source.module) for source, parts in bound.items()}
    equal = {k: v for k, v in equal.items() if len(set(k)) > 1}
    reasons = reasons_of(tracer.fixes, group_of)
    for parts in fixed_by_equal_counts(fixed, [parts for parts, _ in equal.values()]):
        at = equal[_key(parts)][1]
        groups = np.unique(np.concatenate(parts))
        reasons.append((at, "equal counts", "must keep as many channels as a fixed part", int((~fixed[groups]).sum())))
        fixed[groups] = True

    axes: dict[str, dict[int, Tensor]] = {}
    sides: dict[str, dict[int, str]] = {}
    gammas: dict[str, Tensor] = {}
    gated = np.zeros(num_groups, bool)
    seen: set[int] = set()
    for name, module, key, tensor in owners:
        known = sorted(tracer.owned_axes.get(id(tensor), {}).items())
        axes[name] = {axis: torch.from_numpy(group_of[channels.labels]) for axis, channels in known}
        sides[name] = {axis: side(module, key, axis) for axis in axes[name]}
        if isinstance(module, _BatchNorm) and key == "weight" and id(module) not in seen:
            gammas[name.removesuffix(".weight")] = axes[name][0]
            gated[axes[name][0].numpy()] = True
            seen.add(id(module))
        _check_cover(name, module, key, tensor, axes[name])
    layers = {
        name: groups for name, groups in output_channels(named, axes) if name in gammas or not gated[groups].all()
    }
    for labels in tracer.ungated:
        gated[group_of[labels]] = False
    return ChannelGraph(
        num_groups=num_groups,
        axes=axes,
        sides=sides,
        fixed=torch.from_numpy(fixed),
        reasons=[Fixed(*reason) for reason in reasons],
        equal_counts=[[torch.from_numpy(p) for p in parts] for parts, _ in equal.values()],
        attributes=[
            Attribute(*source, torch.from_numpy(parts[0]))
            for source, parts in bound.items()
            if not fixed[parts[0]].all()
        ],
        residual=torch.from_numpy(residual),
        gated=torch.from_numpy(gated),
        summed=frozenset((name, a) for name, _, _, t in owners for a in axes[name] if (id(t), a) in tracer.summed),
        layers=layers,
        gammas=gammas,
        modules=tuple(name for name, _ in named if name),
        passes=passes,
    )


def _check_cover(name: str, module: nn.Module, key: str, tensor: Tensor, axes: dict[int, Tensor]) -> None:
    """Every channel of a stock layer is in exactly one group."""
    sides = (sides_of(module) or {}).get(key, ())
    for axis in range(1 if is_depthwise(module) else len(sides)):
        if axis not in axes and tensor.shape[axis] > 1:
            raise AssertionError(f"{name}: the channels along axis {axis} are in no group")
    for axis, groups in axes.items():
        if len(groups) != tensor.shape[axis]:
            raise AssertionError(f"{name}: {tensor.shape[axis]} channels along axis {axis}, {len(groups)} in groups")


def _key(parts: list[np.ndarray]) -> tuple[bytes, ...]:
    """Equal for parts that hold the same groups, whatever their order inside a part."""
    return tuple(np.sort(part).tobytes() for part in parts)


def _some(names: Sequence[str] | dict[str, Any]) -> str:
    return ", ".join(list(names)[:3]) or "(no layer)"
