"""Which channels a sparse phase works on: ranked once, and whatever is chosen stays chosen."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from yolo_slim.pruning.graph.graph import ChannelGraph
from yolo_slim.pruning.selection.cost import CostModel
from yolo_slim.pruning.selection.select import select
from yolo_slim.pruning.selection.selection import Selection
from yolo_slim.pruning.sparsity.resting import without


class Choice:
    """The groups that a prune shall find dispensable, chosen by the scores of the model as it was before.

    What fades says nothing about its worth any more: a branch that is half removed looks unimportant and would be
    removed altogether. So the scores are those of the first ranking until somebody ranks anew, and chosen groups stay
    chosen whatever their scores are.

    Args:
        graph: The channel graph.
        selection: What the prune will be asked for.
        cost: Counts parameters and operations; needed by budgets and by ``per``.

    Attributes:
        selection: What the prune will be asked for.
        chosen: Bool (num_groups,).
        share: How far the chosen groups are on the way to the selection, in [0, 1].
        dense: What the model costs as it is, by the names of the budgets; empty without ``cost``.

    Raises:
        ValueError: If the selection asks for a latency, or ``cost`` is missing.
    """

    def __init__(self, graph: ChannelGraph, selection: Selection, cost: CostModel | None = None) -> None:
        self.check(selection)
        if cost is None and selection.needs_example:
            raise ValueError(f"choosing channels for {selection} needs the cost of the model: pass cost=CostModel(...)")
        self.selection = selection
        self.chosen = torch.zeros(graph.num_groups, dtype=torch.bool)
        self.share = 0.0
        self._graph, self._cost = graph, cost
        self._scores: Tensor | None = None
        names = {} if cost is None else {"max_params": cost.params, "max_flops": cost.flops}
        self.dense = {name: count(self.chosen) for name, count in names.items()}

    @staticmethod
    def check(selection: Selection) -> None:
        """Refuses what channels cannot be chosen for.

        Raises:
            ValueError: If the selection asks for a latency.
        """
        if selection.max_latency_ms is not None:
            raise ValueError(
                f"no channels can be chosen for max_latency_ms={selection.max_latency_ms:g}, which only a pruned model "
                "can show; give a ratio, max_params or max_flops"
            )

    @property
    def ranked(self) -> bool:
        """Whether there are scores to choose by."""
        return self._scores is not None

    def rank(self, scores: Tensor) -> None:
        """Takes the scores (num_groups,) to choose by, higher = keep; groups that no gamma silences are left alone."""
        self._scores = scores.detach().double().cpu().masked_fill(~self._graph.gated.cpu(), float("inf"))

    def advance(self, share: float, resting: Collection[str] = ()) -> float:
        """Chooses as many groups as a part of the way needs; nothing before there are scores.

        Args:
            share: Part of the way to the selection, in [0, 1]; no less than before.
            resting: Names of BatchNorm layers whose channels are left alone, unless they have been chosen before.

        Returns:
            The share of the prunable channels that is chosen, in [0, 1).
        """
        if self._scores is None or share <= 0:
            return 0.0
        left = [name for name in resting if not bool(self.chosen[self._graph.gammas[name].cpu()].any())]
        asked = without(self.selection, left).scaled(share, self.dense)
        layers = self._graph.prunable_layers(asked.shortcuts, asked.ignore)
        if not any(bool(layer.prunable.any()) for layer in layers):
            return 0.0
        selected = select(self._graph, self._chosen_first(self._scores), asked, self._cost)
        self.chosen, self.share = self.chosen | selected.dropped.cpu(), share
        return selected.reached

    def _chosen_first(self, scores: Tensor) -> Tensor:
        finite = scores[scores.isfinite()]
        span = finite.max() - finite.min() + 1 if len(finite) else 0
        return torch.where(self.chosen, scores - span, scores)

    def state_dict(self) -> dict[str, Any]:
        """Plain tensors and numbers from which an interrupted fit goes on."""
        return {"chosen": self.chosen, "share": self.share, "scores": self._scores}

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
        self._scores = None if scores is None else scores.double().cpu()
