"""Layers that are pruned together: the units that sensitivity is measured of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from yolo_slim.pruning.graph.coupling import connected
from yolo_slim.pruning.graph.graph import ChannelGraph
from yolo_slim.pruning.selection.selection import Selection


@dataclass(frozen=True)
class Unit:
    """Layers whose prunable channels are coupled or kept equal.

    Attributes:
        name: Its first layer, as the network runs.
        layers: All of them.
        groups: int64 (n,), their groups that may be dropped.
        channels: How many channels these are, as a ratio counts them.
    """

    name: str
    layers: tuple[str, ...]
    groups: np.ndarray
    channels: int


def prunable_members(graph: ChannelGraph, selection: Selection) -> np.ndarray:
    """How many prunable channels each group has, as a ratio counts them, int64 (num_groups,)."""
    members = np.zeros(graph.num_groups, np.int64)
    for layer in graph.prunable_layers(selection.shortcuts, selection.ignore):
        np.add.at(members, layer.groups[layer.prunable].cpu().numpy(), 1)
    return members


def units_of(graph: ChannelGraph, members: np.ndarray) -> list[Unit]:
    """The units of a graph in the order of its layers; every group that may be dropped is in exactly one.

    Args:
        graph: The channel graph.
        members: int64 (num_groups,), how many channels each group counts for; groups of none are in no unit.

    Example:
        >>> graph = trace(net, torch.rand(1, 3, 9, 9))
        >>> [(unit.name, unit.channels) for unit in units_of(graph, prunable_members(graph, Selection()))]
        [('1', 4)]
    """
    together = [*graph.arrays.layers.values(), *(np.concatenate(parts) for parts in graph.arrays.equal_counts)]
    _, unit_of = connected(graph.num_groups, [(groups[:-1], groups[1:]) for groups in together])
    layers: dict[int, list[str]] = {}
    for name, groups in graph.arrays.layers.items():
        if members[groups].any():
            layers.setdefault(int(unit_of[groups[0]]), []).append(name)
    units = []
    for unit, names in layers.items():
        groups = np.flatnonzero((unit_of == unit) & (members > 0))
        units.append(Unit(names[0], tuple(names), groups, int(members[groups].sum())))
    return units


def local_shares(graph: ChannelGraph, members: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The share of its layer that is gone once a group and all that score lower are, float64 (num_groups,).

    Parts that must stay equal count each for themselves, so that the same share of each goes.

    Args:
        graph: The channel graph.
        members: int64 (num_groups,), how many channels each group counts for.
        scores: float64 (num_groups,), lowest first.
    """
    order = np.flatnonzero(members)
    order = order[np.argsort(scores[order], kind="stable")]
    return shares(cells(graph, np.zeros(graph.num_groups, np.int64)), order, members)


def cells(graph: ChannelGraph, pool_of: np.ndarray) -> np.ndarray:
    """Int64 (num_groups,): equal for groups of layers that share groups, apart by pool and by parts kept equal."""
    edges = [(groups[:-1], groups[1:]) for groups in graph.arrays.layers.values()]
    _, cell = connected(graph.num_groups, edges)
    tags = [pool_of]
    for parts in graph.arrays.equal_counts:
        tags.append(np.zeros(graph.num_groups, np.int64))
        for i, part in enumerate(parts, start=1):
            tags[-1][part] = i
    for tag in tags:
        cell = np.unique(cell * (int(tag.max()) + 1) + tag, return_inverse=True)[1].reshape(-1)
    return cell


def shares(cell: np.ndarray, order: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Share of a cell's channels in each candidate and those before it in ``order``, float64 (num_groups,)."""
    total = np.bincount(cell, weights=members)
    by_cell = order[np.argsort(cell[order], kind="stable")]
    running = np.cumsum(members[by_cell])
    first = np.searchsorted(cell[by_cell], cell[by_cell])
    before = running[first] - members[by_cell[first]]
    share = np.ones(len(cell))
    share[by_cell] = (running - before) / total[cell[by_cell]]
    return share
