"""Which channels a sparse phase works on: whatever is chosen stays chosen."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from yolo_slim.pruning.graph.graph import ChannelGraph
from yolo_slim.pruning.selection.cost import CostModel
from yolo_slim.pruning.selection.select import select
from yolo_slim.pruning.selection.selection import Selection
from yolo_slim.pruning.selection.units import prunable_members
from yolo_slim.pruning.sparsity.resting import without


class Choice:
    """The groups that a prune shall find dispensable, chosen by the scores of the model as it was before.

    What fades says nothing about its worth any more, and what is zero has no gradient that says more than that. So the
    groups are those that a prune of the model would take when it is ranked, the least important first, and chosen
    groups stay chosen when it is ranked anew.

    Args:
        graph: The channel graph.
        selection: What the prune will be asked for.
        cost: Counts parameters and operations; needed by budgets and by ``per``.

    Attributes:
        selection: What the prune will be asked for.
        chosen: Bool (num_groups,).
        share: How far the chosen groups are on the way to the selection, in [0, 1].
        reached: Share of the prunable channels that is chosen, in [0, 1).
        dense: What the model costs as it is, by the names of the budgets; empty without ``cost``.

    Raises:
        ValueError: If ``cost`` is missing.
    """

    def __init__(self, graph: ChannelGraph, selection: Selection, cost: CostModel | None = None) -> None:
        if cost is None and selection.needs_example:
            raise ValueError(f"choosing channels for {selection} needs the cost of the model: pass cost=CostModel(...)")
        self.selection = selection
        self.chosen = torch.zeros(graph.num_groups, dtype=torch.bool)
        self.share = self.reached = 0.0
        self._graph, self._cost = graph, cost
        self._scores: Tensor | None = None
        self._towards = self.chosen  # what a prune would take, and the layers that were at rest when it was asked
        self._rested: list[str] | None = None
        self.dense = {} if cost is None else cost.dense()

    @property
    def gone(self) -> float:
        """Share of the channels with a gamma that is chosen, in [0, 1), as a ratio counts them."""
        members = torch.from_numpy(prunable_members(self._graph, self.selection))
        members[~self._graph.gated.cpu()] = 0
        return float(members[self.chosen].sum() / members.sum().clamp(min=1))

    @property
    def ranked(self) -> bool:
        """Whether there are scores to choose by."""
        return self._scores is not None

    def rank(self, scores: Tensor) -> None:
        """Takes the scores (num_groups,) to choose by, higher = keep; groups that no gamma silences are left alone."""
        new = scores.detach().double().cpu().masked_fill(~self._graph.gated.cpu(), float("inf"))
        # A layer of which nothing has been seen this time, as optimizers take turns, keeps the scores that it had.
        self._scores = new if self._scores is None else torch.where(new.isfinite(), new, self._scores)
        self._rested = None

    def advance(self, share: float, resting: Collection[str] = ()) -> float:
        """Chooses as many groups as a part of the way needs; nothing before there are scores.

        Args:
            share: Part of the way to the selection, in [0, 1]; no less than before.
            resting: Names of BatchNorm layers whose channels are left alone, unless they have been chosen before.

        Returns:
            The share of the prunable channels that is chosen, in [0, 1). What it was where layers that have come to
            rest leave too few others.

        Raises:
            ValueError: If the selection cannot be reached although no layer rests.
        """
        if self._scores is None or share <= 0 or not bool(self._scores.isfinite().any()):
            return self.reached
        left = [name for name in resting if not bool(self.chosen[self._graph.gammas[name].cpu()].any())]
        asked = without(self.selection, left)
        layers = self._graph.prunable_layers(asked.shortcuts, asked.ignore)
        if not any(bool(layer.prunable.any()) for layer in layers):
            return self.reached
        finite = self._scores[self._scores.isfinite()]
        span = finite.max() - finite.min() + 1
        first = torch.where(self.chosen, self._scores - span, self._scores)
        try:
            if left != self._rested:
                self._towards, self._rested = select(self._graph, first, asked, self._cost).dropped.cpu(), left
            order = torch.where(self._towards | self.chosen, first, first + span)
            selected = select(self._graph, order, asked.scaled(share, self.dense), self._cost)
        except ValueError:
            unseen = not all(
                bool(self._scores[layer.groups[layer.prunable].cpu()].isfinite().all()) for layer in layers
            )
            if not resting and not unseen:
                raise
            return self.reached  # so many layers rest, or have not been seen, that it cannot be reached
        # A part of the way may be filled up with others, which are not to go in the end.
        dropped = selected.dropped.cpu()
        self.chosen, self.share = self.chosen | (dropped if share == 1 else dropped & self._towards), share
        self.reached = selected.reached
        return self.reached

    def state_dict(self) -> dict[str, Any]:
        """Plain tensors and numbers from which an interrupted fit goes on."""
        state = {"chosen": self.chosen, "share": self.share, "scores": self._scores}
        return state | {"towards": self._towards, "rested": self._rested, "reached": self.reached}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what :meth:`state_dict` gave.

        Raises:
            ValueError: If the state belongs to a model with other channels, or is damaged.
        """
        # Checkpoints of version 0.1.0 hold no scores: what is left to choose is ranked anew.
        chosen, share, scores = state["chosen"], float(state.get("share", 1.0)), state.get("scores")
        if chosen.shape != self.chosen.shape or (scores is not None and scores.shape != self.chosen.shape):
            raise ValueError(
                f"it has {len(chosen)} channel groups, this model has {len(self.chosen)}; resume with the model and "
                "selection that the fit was started with"
            )
        if chosen.dtype != torch.bool or not 0 <= share <= 1 or (scores is not None and bool(scores.isnan().any())):
            raise ValueError("its choice of channels is damaged")
        self.chosen, self.share = chosen.cpu(), share
        self.reached = float(state.get("reached", 0.0))
        self._scores = None if scores is None else scores.double().cpu()
        towards, rested = state.get("towards"), state.get("rested")
        if scores is not None and rested is not None and towards is not None and towards.shape == chosen.shape:
            self._towards, self._rested = towards.bool().cpu(), [str(name) for name in rested]
