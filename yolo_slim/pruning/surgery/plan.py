"""A pruning plan: which channels of which layer stay, as plain data that people can read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from torch import Tensor

from yolo_slim.documents import read_yaml
from yolo_slim.files import write_whole
from yolo_slim.pruning.graph.graph import ChannelGraph
from yolo_slim.wording import brief


@dataclass(frozen=True)
class PruningPlan:
    """The channels that stay, for every layer that loses some.

    Attributes:
        entries: Module -> side -> ascending indices of the channels that stay. A side is "in" or "out" of a stock
            layer (of one group, for the input of a grouped convolution), or "tensor.axis" of another module.
        sizes: Module -> side -> number of channels before.
        attributes: Module -> integer attribute ("name", or "name.index" in a list) -> its value afterwards.
    """

    entries: dict[str, dict[str, list[int]]]
    sizes: dict[str, dict[str, int]]
    attributes: dict[str, dict[str, int]]

    def __post_init__(self) -> None:
        """Checks the entries."""
        for module, sides in self.entries.items():
            for side, keep in sides.items():
                size = self.sizes.get(module, {}).get(side)
                if not isinstance(size, int) or not _is_count(size):
                    raise ValueError(
                        f"plan: {brief(module)}, side {brief(side)}: size is {brief(size)}, expected a positive integer"
                    )
                if not isinstance(keep, list) or set(map(type, keep)) != {int}:
                    raise ValueError(
                        f"plan: {brief(module)}, side {brief(side)}: keep must be a non-empty list of integers"
                    )
                if keep != sorted(set(keep)) or keep[0] < 0 or keep[-1] >= size:
                    raise ValueError(
                        f"plan: {brief(module)}, side {brief(side)}: keep must ascend within 0..{size - 1}"
                    )
        for module, values in self.attributes.items():
            for name, value in values.items():
                if not _is_count(value):
                    raise ValueError(f"plan: attribute {module}:{name} is {brief(value)}, expected a positive integer")

    def to_dict(self) -> dict[str, Any]:
        """Plain data: ``{"modules": {module: {side: {"size": 16, "keep": [...]}}}, "attributes": {...}}``."""
        modules = {
            module: {side: {"size": self.sizes[module][side], "keep": list(keep)} for side, keep in sides.items()}
            for module, sides in self.entries.items()
        }
        return {"modules": modules, "attributes": {module: dict(v) for module, v in self.attributes.items()}}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PruningPlan:
        """Builds a plan from :meth:`to_dict`'s data.

        Raises:
            ValueError: If the data is no plan.
        """
        try:
            modules = data["modules"].items()
            entries = {module: {side: entry["keep"] for side, entry in sides.items()} for module, sides in modules}
            sizes = {module: {side: entry["size"] for side, entry in sides.items()} for module, sides in modules}
            attributes = {module: dict(values) for module, values in data["attributes"].items()}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"not a pruning plan (expected the keys modules and attributes): {error!r:.200}"
            ) from error
        return cls(entries, sizes, attributes)

    def save(self, path: str | Path) -> None:
        """Writes the plan as YAML, one line per side."""
        text = yaml.safe_dump(self.to_dict(), default_flow_style=None, sort_keys=False, width=2**20)
        write_whole(path, text)

    @classmethod
    def load(cls, path: str | Path) -> PruningPlan:
        """Reads a plan written by :meth:`save`.

        Raises:
            ValueError: If the file holds no plan.
        """
        try:
            return cls.from_dict(read_yaml(path))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def make_plan(graph: ChannelGraph, dropped: Tensor) -> PruningPlan:
    """Translates dropped groups into the channels that stay.

    Args:
        graph: The channel graph.
        dropped: Bool (num_groups,).

    Raises:
        ValueError: If a fixed group is dropped, a layer would lose all its channels, or parts that must keep the same
            number of channels would not.

    Example:
        >>> graph = trace(net, torch.rand(1, 3, 9, 9))
        >>> dropped = torch.zeros(graph.num_groups, dtype=torch.bool)
        >>> dropped[[1, 3]] = True
        >>> make_plan(graph, dropped).entries
        {'0': {'out': [0, 2]}, '1': {'out': [0, 2]}, '3': {'in': [0, 2]}}
    """
    if dropped.shape != (graph.num_groups,) or bool((dropped & graph.fixed).any()):
        raise ValueError(
            f"expected bool ({graph.num_groups},) without fixed groups; got {tuple(dropped.shape)}"
            + (f" with {int((dropped & graph.fixed).sum())} fixed" if dropped.shape == graph.fixed.shape else "")
        )
    entries: dict[str, dict[str, list[int]]] = {}
    sizes: dict[str, dict[str, int]] = {}
    known: dict[bytes, list[int]] = {}  # a layer's tensors and its neighbours have the same groups
    kept = (~dropped).numpy()
    for tensor, axes in graph.arrays.axes.items():
        module = tensor.rpartition(".")[0]
        for axis, groups in axes.items():
            side, key = graph.sides[tensor][axis], groups.tobytes()
            if key not in known:
                known[key] = np.flatnonzero(kept[groups]).tolist()
            keep = known[key]
            if not keep:
                raise ValueError(f"{module}: side {side!r} would lose all its {len(groups)} channels")
            if len(keep) < len(groups):
                if entries.setdefault(module, {}).setdefault(side, keep) != keep:
                    raise AssertionError(f"{module}: the tensors of side {side!r} disagree about the channels to keep")
                sizes.setdefault(module, {})[side] = len(groups)
    for parts in graph.arrays.equal_counts:
        counts = [int(kept[part].sum()) for part in parts]
        if len(set(counts)) > 1:
            raise ValueError(f"parts that must keep the same number of channels would keep {counts}")
    attributes: dict[str, dict[str, int]] = {}
    for attribute, groups in zip(graph.attributes, graph.arrays.counted, strict=True):
        count = int(kept[groups].sum())
        if count < len(groups):
            name = attribute.name if attribute.index is None else f"{attribute.name}.{attribute.index}"
            attributes.setdefault(attribute.module, {})[name] = count
    return PruningPlan(entries, sizes, attributes)


def compose(first: PruningPlan, second: PruningPlan) -> PruningPlan:
    """The plan that does the work of two at once, on the model that the first one is for.

    The kinds of layers must stay: where the first plan leaves a grouped convolution one input channel per group, it is
    depthwise for the second one, which may then remove groups; at once that cannot be done.

    Args:
        first: A plan for the model.
        second: A plan for the model that the first one leaves.

    Raises:
        ValueError: If the second plan expects another number of channels than the first one leaves.
    """
    entries = {module: dict(sides) for module, sides in first.entries.items()}
    sizes = {module: dict(sides) for module, sides in first.sizes.items()}
    for module, sides in second.entries.items():
        for side, keep in sides.items():
            size, left = second.sizes[module][side], entries.setdefault(module, {}).get(side)
            if left is None:
                entries[module][side] = list(keep)
                sizes.setdefault(module, {})[side] = size
                continue
            if len(left) != size:
                raise ValueError(
                    f"plans do not follow each other: {module}, side {side!r}: the first leaves {len(left)} channels,"
                    f" the second expects {size}"
                )
            entries[module][side] = [left[index] for index in keep]
    modules = {*first.attributes, *second.attributes}
    attributes = {m: {**first.attributes.get(m, {}), **second.attributes.get(m, {})} for m in sorted(modules)}
    return PruningPlan(entries, sizes, attributes)


def _is_count(value: object) -> bool:
    return type(value) is int and value > 0
