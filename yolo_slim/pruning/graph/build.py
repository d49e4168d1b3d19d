"""From a ledger to the graph of coupled channels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from yolo_slim.pruning.graph.coupling import connected, fixed_by_equal_counts
from yolo_slim.pruning.graph.graph import Attribute, ChannelGraph, Fixed, Pass
from yolo_slim.pruning.graph.ledger import Fix, Ledger, Place
from yolo_slim.pruning.graph.tagged_int import AttributeSource
from yolo_slim.pruning.modules.layers import is_depthwise, output_channels, side, sides_of, tensors_of
from yolo_slim.pruning.modules.torch_private import BatchNorm


class _Owned(NamedTuple):
    """A parameter or buffer under one of its names: ``name`` in a state dict, ``key`` in its module."""

    name: str
    module: nn.Module
    key: str
    tensor: Tensor

    @property
    def place(self) -> Place:
        return Place(self.name.rpartition(".")[0], self.key)


class _Constraint(NamedTuple):
    """Parts, arrays of groups, that must keep equal counts, and the module that asks for it."""

    parts: list[np.ndarray]
    module: str

    @property
    def key(self) -> tuple[bytes, ...]:
        """Equal for parts that hold the same groups, whatever their order inside a part."""
        return tuple(np.sort(part).tobytes() for part in self.parts)


def build_graph(named: Sequence[tuple[str, nn.Module]], ledger: Ledger, passes: tuple[Pass, ...]) -> ChannelGraph:
    """Makes groups of the labels of a ledger, and says for each tensor which groups its channels are in.

    Args:
        named: Names and modules of the model, shared ones under each of their names.
        ledger: What the passes have written down; findings about the model as a whole are added to it.
        passes: The passes.
    """
    owned = [
        _Owned(f"{name}.{key}" if name else key, module, key, tensor)
        for name, module in named
        for key, tensor in tensors_of(module).items()
    ]
    _fix_unreached(ledger, owned)
    _fix_used_attributes(ledger)
    _fix_uncut_sums(ledger)
    _fix_summed_and_not(ledger, owned)

    num_groups, group_of = connected(ledger.count, ledger.edges)
    attributes = {source: [group_of[labels] for labels in parts] for source, parts in ledger.attributes.items()}
    constraints = _constraints(ledger, group_of, attributes)
    fixed = _marked(num_groups, group_of, [fix.labels for fix in ledger.fixes])
    reasons = _reasons(ledger.fixes, group_of) + _fix_by_constraints(fixed, constraints)

    axes: dict[str, dict[int, Tensor]] = {}
    sides: dict[str, dict[int, str]] = {}
    for name, module, key, tensor in owned:
        known = sorted(ledger.owned_axes.get(id(tensor), {}).items())
        axes[name] = {axis: torch.from_numpy(group_of[channels.labels]) for axis, channels in known}
        sides[name] = {axis: side(module, key, axis) for axis in axes[name]}
        _check_cover(name, module, key, tensor, axes[name])
    gammas = _gammas(owned, axes)
    gated = torch.zeros(num_groups, dtype=torch.bool)
    for groups in gammas.values():
        gated[groups] = True
    made = output_channels(named, axes)
    layers = {name: groups for name, groups in made if name in gammas or not bool(gated[groups].all())}
    gated &= ~torch.from_numpy(_marked(num_groups, group_of, ledger.ungated))
    return ChannelGraph(
        num_groups=num_groups,
        axes=axes,
        sides=sides,
        fixed=torch.from_numpy(fixed),
        reasons=reasons,
        equal_counts=[[torch.from_numpy(part) for part in constraint.parts] for constraint in constraints],
        attributes=[
            Attribute(source.module, source.name, source.place, torch.from_numpy(parts[0]))
            for source, parts in attributes.items()
            if not fixed[parts[0]].all()
        ],
        residual=torch.from_numpy(_marked(num_groups, group_of, ledger.residual)),
        gated=gated,
        summed=frozenset((o.name, a) for o in owned for a in axes[o.name] if (id(o.tensor), a) in ledger.summed),
        layers=layers,
        gammas=gammas,
        modules=tuple(name for name, _ in named if name),
        passes=passes,
    )


def _fix_unreached(ledger: Ledger, owned: Sequence[_Owned]) -> None:
    for entry in owned:
        if id(entry.tensor) not in ledger.owned_axes and entry.tensor.dim() > 0:
            for axis in range(len((sides_of(entry.module) or {}).get(entry.key, ("",)))):
                ledger.fix(ledger.own(entry.tensor, axis), "is not reached by any pass", entry.place)


def _fix_used_attributes(ledger: Ledger) -> None:
    why = "its size is an attribute that is also used in arithmetic or a comparison"
    for source in sorted(ledger.used_attributes & ledger.attributes.keys(), key=str):
        for labels in ledger.attributes.pop(source):
            ledger.fix(labels, why, Place(source.module, source.name))


def _fix_uncut_sums(ledger: Ledger) -> None:
    """Fixes channels whose number is a sum of attributes, unless these attributes count the parts it is cut into."""
    for labels, counted, at in ledger.sums:
        parts = {
            part.tobytes(): (source, part)
            for source in counted
            for part in ledger.attributes.get(source, ())
            if np.isin(part, labels).all()
        }
        whole = np.sort(np.concatenate([part for _, part in parts.values()])) if parts else labels[:0]
        cut = Counter(source for source, _ in parts.values()) == counted
        if not (cut and np.array_equal(whole, np.sort(labels))):
            ledger.fix(labels, "its size is a sum of attributes that do not cut it", at)
            for source in counted:
                for part in ledger.attributes.get(source, ()):
                    ledger.fix(part, "its size is an attribute that is also in a sum", at)


def _fix_summed_and_not(ledger: Ledger, owned: Sequence[_Owned]) -> None:
    both = ledger.summed & ledger.not_summed
    for entry in owned:
        for axis, channels in ledger.owned_axes.get(id(entry.tensor), {}).items():
            if (id(entry.tensor), axis) in both:
                ledger.fix(channels, "is summed over in one place and not in another", entry.place)


def _marked(num_groups: int, group_of: np.ndarray, labels: Sequence[np.ndarray]) -> np.ndarray:
    """Bool (num_groups,), the groups of these labels."""
    marked = np.zeros(num_groups, bool)
    for some in labels:
        marked[group_of[some]] = True
    return marked


def _constraints(
    ledger: Ledger, group_of: np.ndarray, attributes: dict[AttributeSource, list[np.ndarray]]
) -> list[_Constraint]:
    """Each set of parts that must keep equal counts, and each of its parts, once; a single part is none."""
    found = [([group_of[labels] for labels in parts], module) for parts, module in ledger.equal]
    found += [(parts, source.module) for source, parts in attributes.items()]
    constraints = [
        _Constraint(list({np.sort(part).tobytes(): part for part in parts}.values()), module) for parts, module in found
    ]
    distinct = {constraint.key: constraint for constraint in constraints}
    return [constraint for constraint in distinct.values() if len(constraint.parts) > 1]


def _reasons(fixes: Sequence[Fix], group_of: np.ndarray) -> list[Fixed]:
    """Every distinct finding with the number of groups that it is about, in the order they were found."""
    places: dict[tuple[str, str, str], list[np.ndarray]] = {}
    for fix in fixes:
        places.setdefault((*fix.at, fix.reason), []).append(group_of[fix.labels])
    return [Fixed(*where, len(np.unique(np.concatenate(groups)))) for where, groups in places.items()]


def _fix_by_constraints(fixed: np.ndarray, constraints: Sequence[_Constraint]) -> list[Fixed]:
    """Fixes, in ``fixed``, what must keep as many channels as a part that is wholly fixed; returns the reasons."""
    modules = {constraint.key: constraint.module for constraint in constraints}
    reasons = []
    for parts in fixed_by_equal_counts(fixed, [constraint.parts for constraint in constraints]):
        groups = np.unique(np.concatenate(parts))
        module, free = modules[_Constraint(parts, "").key], int((~fixed[groups]).sum())
        reasons.append(Fixed(module, "equal counts", "must keep as many channels as a fixed part", free))
        fixed[groups] = True
    return reasons


def _gammas(owned: Sequence[_Owned], axes: dict[str, dict[int, Tensor]]) -> dict[str, Tensor]:
    """BatchNorm layer, under the first of its names, -> the groups of its gammas."""
    norms: dict[nn.Module, str] = {}
    for name, module, key, _ in owned:
        if isinstance(module, BatchNorm) and key == "weight":
            norms.setdefault(module, name)
    return {name.removesuffix(".weight"): axes[name][0] for name in norms.values()}


def _check_cover(name: str, module: nn.Module, key: str, tensor: Tensor, axes: dict[int, Tensor]) -> None:
    """Every channel of a stock layer is in exactly one group."""
    sides = (sides_of(module) or {}).get(key, ())
    for axis in range(1 if is_depthwise(module) else len(sides)):
        if axis not in axes and tensor.shape[axis] > 1:
            raise AssertionError(f"{name}: the channels along axis {axis} are in no group")
    for axis, groups in axes.items():
        if len(groups) != tensor.shape[axis]:
            raise AssertionError(f"{name}: {tensor.shape[axis]} channels along axis {axis}, {len(groups)} in groups")
