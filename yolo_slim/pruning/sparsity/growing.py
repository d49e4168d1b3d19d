"""The growing penalty: more and more channels fade to exactly zero while the others take over."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from yolo_slim.pruning.graph.graph import ChannelGraph
from yolo_slim.pruning.modules.torch_private import foreach_lerp_, foreach_mul_
from yolo_slim.pruning.scores.taylor import gamma_terms
from yolo_slim.pruning.scores.values import reduce_to_groups
from yolo_slim.pruning.selection.cost import CostModel
from yolo_slim.pruning.selection.select import select
from yolo_slim.pruning.selection.selection import Selection
from yolo_slim.pruning.sparsity.penalty import norm_at
from yolo_slim.pruning.sparsity.resting import without


def growing_ratio(epoch: int, epochs: int, ratio: float) -> float:
    """Share of the channels that are under decay in one epoch: a cubic ramp from 0, complete after two thirds.

    The ramp is the one of Zhu & Gupta, "To prune, or not to prune" (2017), equation 1: fast while there is much to
    remove, slow at the end.

    >>> [round(growing_ratio(e, 9, 0.5), 3) for e in (0, 1, 3, 6, 8)]
    [0.0, 0.211, 0.438, 0.5, 0.5]
    """
    progress = min(1.0, epoch / max(1, 2 * epochs // 3))
    return ratio * (1 - (1 - progress) ** 3)


class Growing:
    """Lets a growing set of channels fade to exactly zero while the others adapt, so that the prune costs nothing.

    At the start of an epoch the groups with the lowest first-order Taylor importance (Molchanov et al., CVPR 2019,
    equation 8, on gamma and beta together: the squared change of the loss if the channel's output became zero) are
    chosen by :func:`select`, with its floors and equal halves, at a ratio, or towards a budget, that is reached after
    two thirds of the fit. The gammas and betas of newly chosen channels shrink geometrically to a thousandth in that
    epoch and are held at zero from the next one on.

    Args:
        model: The module that is made sparse.
        graph: Its channel graph.
        selection: What the prune will be asked for; all its ratios grow, and budgets shrink from what the dense model
            costs.
        cost: Counts parameters and operations; needed by budgets and by ``per``.

    Attributes:
        chosen: Bool (num_groups,), the groups that fade or are at zero.
        share: How far these are on the way to the selection, in [0, 1].
        dense: What the dense model costs, by the names of the budgets; empty without ``cost``.

    Raises:
        ValueError: If the selection asks for a latency, or ``cost`` is missing.
    """

    #: Newly chosen gammas of which no more is left than this count as faded.
    FADED = 1e-2
    #: What is left of a newly chosen gamma after one epoch of shrinking.
    EPOCH_FACTOR = 1e-3
    #: Weight of the newest step in the running mean of the importance.
    TAYLOR_UPDATE = 0.1

    def __init__(
        self, model: nn.Module, graph: ChannelGraph, selection: Selection, cost: CostModel | None = None
    ) -> None:
        self.check(selection)
        if cost is None and selection.needs_example:
            raise ValueError(f"growing towards {selection} needs the cost of the model: pass cost=CostModel(...)")
        self.graph = graph
        self.selection = selection
        self.chosen = torch.zeros(graph.num_groups, dtype=torch.bool)
        self.share = 0.0
        self._cost = cost
        self.dense = (
            {} if cost is None else {"max_params": cost.params(self.chosen), "max_flops": cost.flops(self.chosen)}
        )
        self._held = self.chosen  # what is at zero, and its share of the way
        self._held_share = self._left = 0.0
        self._shrink = 1.0
        self._gammas = [
            g for g in graph.prunable_gammas(selection.shortcuts, selection.ignore) if bool(g.prunable.any())
        ]
        self._norms = [norm_at(model, g.module) for g in self._gammas]
        self._taylor: list[Tensor] = []
        self._factors: dict[str, Tensor] = {}
        self._fading_of: dict[int, tuple[list[Tensor], list[Tensor]]] = {}

    @staticmethod
    def check(selection: Selection) -> None:
        """Refuses what cannot be worked towards.

        Raises:
            ValueError: If the selection asks for a latency.
        """
        if selection.max_latency_ms is not None:
            raise ValueError(
                f"growing cannot work towards max_latency_ms={selection.max_latency_ms:g}, which only a pruned model "
                "can show; give it a ratio, max_params or max_flops"
            )

    @torch.no_grad()
    def observe_gradients(self) -> None:
        """Updates the running importance from the complete gradients of one optimizer step, if they are finite."""
        squares = gamma_terms(self._norms)
        finite = torch.stack([square.isfinite().all() for square in squares]).all()
        if self._taylor:
            # Without asking whether it is so, which would have a GPU's queue run empty in every step.
            squares = [torch.where(finite, new, old) for new, old in zip(squares, self._taylor, strict=True)]
            foreach_lerp_(self._taylor, squares, self.TAYLOR_UPDATE)
        elif bool(finite):
            self._taylor = squares

    def start_epoch(self, epoch: int, epochs: int, steps: int, resting: Collection[str] = ()) -> float:
        """Chooses the channels of this epoch.

        Args:
            epoch: Index of the epoch.
            epochs: Number of epochs of the fit.
            steps: Optimizer steps that this epoch will have, at least 1.
            resting: Names of BatchNorm layers whose channels are left alone, unless they have been chosen before.

        Returns:
            The share of the prunable channels that is chosen, in [0, 1).
        """
        before = self._held = self.chosen
        self._held_share = self.share
        share = growing_ratio(epoch, epochs, 1.0)
        reached = 0.0
        if share > 0 and self._taylor:
            per_gamma = {g.module: t.double().cpu() for g, t in zip(self._gammas, self._taylor, strict=True)}
            scores = reduce_to_groups(self.graph, per_gamma, reduction="sum")
            # What is already zero stays chosen: its importance is zero, and floors are filled from the others first.
            scores[before] = -1.0
            left = [name for name in resting if not bool(before[self.graph.gammas[name].cpu()].any())]
            asked = without(self.selection, left).scaled(share, self.dense)
            if any(bool(g.prunable.any()) for g in self.graph.prunable_gammas(asked.shortcuts, asked.ignore)):
                selected = select(self.graph, scores, asked, self._cost)
                self.chosen, self.share, reached = selected.dropped.cpu(), share, selected.reached
        self._left, shrink = 1.0, self.EPOCH_FACTOR ** (1 / max(1, steps))
        self._shrink = shrink
        per_group = torch.ones(self.graph.num_groups)
        per_group[self.chosen] = shrink
        per_group[self.chosen & before] = 0.0
        self._set_factors(per_group)
        return reached

    @torch.no_grad()
    def shrink(self, *models: nn.Module) -> None:
        """After an optimizer step: shrinks the chosen gammas and betas of each of the given copies of the model."""
        self._left *= self._shrink
        for model in models:
            values, factors = self._fading(model)
            if values:
                foreach_mul_(values, factors)

    def finish(self, *models: nn.Module) -> None:
        """At the last step of the fit: everything that is chosen becomes exactly zero."""
        self._set_factors((~self.chosen).float())
        self.shrink(*models)
        self._left = 0.0

    def stop(self, *models: nn.Module) -> None:
        """At the end of a fit that ends early: what has faded becomes exactly zero, the rest is given up.

        Channels that began to fade in the epoch that was cut short keep what they have; ``chosen`` and ``share`` are
        those of the epoch before then.
        """
        if self._left > self.FADED:
            self.chosen, self.share = self._held, self._held_share
        self.finish(*models)

    def state_dict(self) -> dict[str, Any]:
        """Plain tensors from which a resumed fit goes on."""
        return {"chosen": self.chosen, "share": self.share, "taylor": list(self._taylor)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what :meth:`state_dict` gave.

        Raises:
            ValueError: If the state belongs to a model with other channels, or is not finite.
        """
        chosen, taylor = state["chosen"], list(state["taylor"])
        sizes = [tuple(t.shape) for t in taylor]
        expected = [tuple(n.weight.shape) for n in self._norms]
        if chosen.shape != self.chosen.shape or (taylor and sizes != expected):
            raise ValueError(
                f"it has {len(chosen)} channel groups, this model has {len(self.chosen)}; resume with the model and "
                "selection that the fit was started with"
            )
        if chosen.dtype != torch.bool or not all(bool((t >= 0).all() and t.isfinite().all()) for t in taylor):
            raise ValueError("its importance is not finite")
        self.chosen, self.share = chosen.cpu(), float(state.get("share", 1.0))
        self._taylor = [t.to(n.weight.device) for t, n in zip(taylor, self._norms, strict=True)] if taylor else []

    def _set_factors(self, per_group: Tensor) -> None:
        self._factors, self._fading_of = {}, {}
        for gamma, norm in zip(self._gammas, self._norms, strict=True):
            factor = per_group[gamma.groups.cpu()]
            factor[~gamma.prunable.cpu()] = 1.0
            if bool((factor != 1).any()):
                self._factors[gamma.module] = factor.to(norm.weight.device, norm.weight.dtype)

    def _fading(self, model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
        """Gammas and betas of one copy of the model that are under decay, and their factors; the same for an epoch."""
        if id(model) not in self._fading_of:
            values: list[Tensor] = []
            factors: list[Tensor] = []
            for name, factor in self._factors.items():
                norm = norm_at(model, name)
                for parameter in (norm.weight, norm.bias):
                    if parameter is not None:
                        values.append(parameter)
                        factors.append(factor.to(parameter.device))
            self._fading_of[id(model)] = values, factors
        return self._fading_of[id(model)]
